"""What the towers said on one day serves on another; nothing wrong ever comes out of the cache."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import msgspec
import PIL
import pytest
import torch

from tagger import bundle, feature_cache
from tagger.bundle import Bundle
from tagger.config import read_config
from tagger.encoder import Encoder, image_context, text_context
from tagger.errors import OutputError
from tagger.feature_cache import FILE_NAME, FORMAT, FeatureCache, opened
from tagger.job import Job, JobOptions
from tagger.network import Features
from tagger.run import Result, run

from .conftest import MakeCatalog, mixed_rows, save_tiny, tiny_config


def some(seed: int, size: int = 100) -> Features:
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(8, generator=generator), torch.randn(size, 8, generator=generator))


def same(one: Features | None, other: Features) -> bool:
    return one is not None and one.pooled.equal(other.pooled) and one.tokens.equal(other.tokens)


def key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def rows_in(folder: Path) -> list[tuple[bytes, bytes]]:
    with sqlite3.connect(folder / FILE_NAME) as connection:
        return connection.execute("SELECT key, value FROM features ORDER BY key").fetchall()


def label(model: Bundle, catalog: Path, cache: Path | None, name: str) -> tuple[Result, bytes]:
    out = catalog.parent / f"{name}.parquet"
    result = run(Job(model, JobOptions(catalog, ["color"], out, overwrite=True, cache=cache)))
    return result, out.read_bytes()


def test_second_run_passes_no_tower_and_writes_the_same_bytes(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    catalog = make_catalog(mixed_rows(tmp_path, 60))
    _, without = label(tiny, catalog, None, "without")
    first, one = label(tiny, catalog, tmp_path / "cache", "first")
    second, other = label(tiny, catalog, tmp_path / "cache", "second")
    assert one == other == without
    assert first.encoded_images > 20
    assert first.found_in_cache == 0
    assert (second.encoded_images, second.encoded_titles) == (0, 0)
    assert second.found_in_cache == first.encoded_images + first.encoded_titles


@pytest.mark.parametrize("damage", ["bit", "short", "swapped"])
def test_damaged_values_are_absent_and_are_written_again(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, damage: str
) -> None:
    catalog, cache = make_catalog(mixed_rows(tmp_path, 30)), tmp_path / "cache"
    first, one = label(tiny, catalog, cache, "first")
    values = rows_in(cache)
    with sqlite3.connect(cache / FILE_NAME) as connection:
        for place, (name, value) in enumerate(values):
            broken = {
                "bit": value[:-1] + bytes([value[-1] ^ 1]),
                "short": value[:-4],
                "swapped": values[place - 1][1],
            }[damage]
            connection.execute("UPDATE features SET value = ? WHERE key = ?", (broken, name))
    second, other = label(tiny, catalog, cache, "second")
    third, last = label(tiny, catalog, cache, "third")
    assert one == other == last
    assert second.found_in_cache == 0
    assert second.damaged_in_cache == len(values)
    assert second.encoded_images == first.encoded_images
    assert third.encoded_images == 0


def test_file_that_is_damaged_is_left_aside_and_said_so(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    catalog, cache = make_catalog(mixed_rows(tmp_path, 30)), tmp_path / "cache"
    _, one = label(tiny, catalog, cache, "first")
    file = cache / FILE_NAME
    content = bytearray(file.read_bytes())
    content[16384:] = os.urandom(len(content) - 16384)
    file.write_bytes(content)
    second, other = label(tiny, catalog, cache, "second")
    assert one == other
    assert f"the cache {file} was left aside" in second.remark
    assert "malformed" in second.remark


@pytest.mark.parametrize("first", [0, 100], ids=["no database", "no tables"])
def test_file_that_is_damaged_from_its_beginning_ends_no_run_and_stays_as_it_is(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, first: int
) -> None:
    catalog, cache = make_catalog(mixed_rows(tmp_path, 30)), tmp_path / "cache"
    _, one = label(tiny, catalog, cache, "first")
    file = cache / FILE_NAME
    content = bytearray(file.read_bytes())
    content[first:] = b"?" * (len(content) - first)
    file.write_bytes(content)
    second, other = label(tiny, catalog, cache, "second")
    assert one == other
    assert f"the cache {file} was left aside" in second.remark
    assert "delete it" in second.remark
    assert file.read_bytes() == content


def test_file_of_someone_else_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("CREATE TABLE mine (x)")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(OutputError, match="not a cache of tagger"):
        FeatureCache(tmp_path)
    assert (tmp_path / FILE_NAME).read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        FeatureCache(tmp_path / "file")


def test_cache_stays_below_its_size_and_forgets_what_no_later_run_used(tmp_path: Path) -> None:
    limit = 2_000_000
    with opened(tmp_path) as old:
        assert old is not None
        for number in range(0, 200, 10):
            old.put({key(n): some(n) for n in range(number, number + 10)})
    new = FeatureCache(tmp_path, limit)
    assert all(same(new.get(key(n)), some(n)) for n in range(50))
    for number in range(1000, 1300, 10):
        new.put({key(n): some(n, 200) for n in range(number, number + 10)})
    new.close()
    assert sum(len(value) for _, value in rows_in(tmp_path)) < limit
    there = FeatureCache(tmp_path, limit)
    assert all(same(there.get(key(n)), some(n)) for n in range(50))  # used in the second run
    assert all(there.get(key(n)) is None for n in range(50, 200))  # not used
    kept = [n for n in range(1000, 1300) if same(there.get(key(n)), some(n, 200))]
    assert len(kept) > 50
    assert kept == list(range(1000, 1000 + len(kept)))  # no later one pushed an earlier one out


def test_room_that_was_made_is_used(tmp_path: Path) -> None:
    first = FeatureCache(tmp_path)
    first.put({key(n): some(n, 1000) for n in range(400)})
    first.close()
    size = (tmp_path / FILE_NAME).stat().st_size
    with closing(FeatureCache(tmp_path, max_bytes=size)) as second:
        second.put({key(400): some(400, 1000)})
        assert same(second.get(key(400)), some(400, 1000))
        assert same(second.get(key(399)), some(399, 1000)), "no more is given up than is needed"


def test_what_a_later_run_used_is_not_given_up_for_an_earlier_one_that_used_it_last(
    tmp_path: Path,
) -> None:
    limit = 1_000_000
    with opened(tmp_path) as first:
        assert first is not None
        first.put({key(n): some(n) for n in range(10)})
    earlier, later = FeatureCache(tmp_path, limit), FeatureCache(tmp_path, limit)
    for one in (later, earlier):  # the last mark is that of the run that began first
        assert all(same(one.get(key(n)), some(n)) for n in range(10))
        one.put({key(100 + id(one)): some(100)})
    for number in range(1000, 1300, 10):
        later.put({key(n): some(n, 200) for n in range(number, number + 10)})
    assert all(same(later.get(key(n)), some(n)) for n in range(10))
    earlier.close()
    later.close()


def test_uses_are_noted_many_at_a_time_and_no_value_is_written_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "MARKS", 100)
    with opened(tmp_path) as cache:
        assert cache is not None
        cache.put({key(n): some(n) for n in range(250)})
    statements: list[str] = []
    with opened(tmp_path) as cache:
        assert cache is not None
        cache._connection.set_trace_callback(statements.append)
        for number in range(250):
            assert cache.get(key(number)) is not None
            assert len(cache._used) < 100
    changes = [line for line in statements if not line.startswith(("SELECT", "PRAGMA"))]
    assert sum(line.startswith("UPDATE uses") for line in changes) == 250
    assert len(changes) == 250 + 2 * 3  # three transactions
    assert changes[0].startswith("BEGIN")
    assert changes[-1] == "COMMIT"


def test_file_of_another_format_is_refused(tmp_path: Path) -> None:
    FeatureCache(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT - 1}")
    with pytest.raises(OutputError, match="another version of tagger") as refused:
        FeatureCache(tmp_path)
    assert "delete" in refused.value.hint


def test_features_of_titles_that_were_filled_up_otherwise_are_not_found(
    tiny: Bundle, tmp_path: Path
) -> None:
    titles = [(1, 2, 3)]
    for step, encoded in ((8, 1), (2, 1), (8, 0)):
        with opened(tmp_path) as cache:
            encoder = Encoder(tiny, cache, title_step=step)
            encoder.text_features(titles)
            assert encoder.num_titles == encoded


def _fill(folder: Path, first: int) -> None:
    with opened(folder) as cache:
        assert cache is not None
        for number in range(first, first + 300, 5):
            cache.put({key(n): some(n) for n in range(number, number + 5)})
            assert same(cache.get(key(number)), some(number))
        assert cache.trouble is None


def test_two_runs_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_fill, args=(tmp_path, first)) for first in (0, 200)]
    for process in others:
        process.start()
    for process in others:
        process.join()
    assert [process.exitcode for process in others] == [0, 0]
    cache = FeatureCache(tmp_path)
    assert all(same(cache.get(key(n)), some(n)) for n in range(500))


def test_full_disk_ends_the_writing_and_not_the_run(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path)
    cache.put({key(1): some(1)})
    cache._connection.execute("PRAGMA max_page_count = 8")
    cache.put({key(n): some(n) for n in range(2, 100)})
    assert cache.trouble is not None
    assert "full" in cache.trouble
    assert cache.get(key(1)) is None
    with opened(tmp_path) as other:  # which must not wait for the one that gave up
        assert other is not None
        assert same(other.get(key(1)), some(1))
        other.put({key(2): some(2)})
        assert same(other.get(key(2)), some(2))
    cache.close()


def test_new_heads_share_tower_outputs_and_new_towers_or_pictures_do_not(tmp_path: Path) -> None:
    one = bundle.load(save_tiny(tmp_path / "one", tiny_config()))
    heads = bundle.load(save_tiny(tmp_path / "heads", tiny_config()))
    torch.nn.init.normal_(heads.model.heads[0].get_parameter("0.weight"))
    assert image_context(one) == image_context(heads)
    assert text_context(one) == text_context(heads)
    other = bundle.load(save_tiny(tmp_path / "other", tiny_config(), seed=2))
    assert image_context(one) != image_context(other)
    assert text_context(one) != text_context(other)
    half = bundle.load(tmp_path / "one")
    half.model.image_tower.to(torch.bfloat16)
    assert image_context(one) != image_context(half)
    text = (tmp_path / "one" / "config.json").read_text()
    (tmp_path / "one" / "config.json").write_text(text.replace('"bicubic"', '"bilinear"'))
    assert read_config(tmp_path / "one" / "config.json") != one.config
    assert image_context(one) != image_context(bundle.load(tmp_path / "one"))


@pytest.mark.parametrize("changed", ["tagger", "torch", "kernels", "open_clip_torch", "timm"])
def test_features_of_another_version_are_not_found(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    before = image_context(tiny), text_context(tiny)
    if changed == "tagger":
        monkeypatch.setattr("tagger.encoder.__version__", "0")
    elif changed == "torch":
        monkeypatch.setattr(torch, "__version__", "0")
    elif changed == "kernels":
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "another")
    else:
        monkeypatch.setattr(
            "tagger.encoder.version", lambda name: "0" if name == changed else version(name)
        )
    assert image_context(tiny) != before[0]
    assert text_context(tiny) != before[1]


def test_features_of_pictures_that_another_pillow_decoded_are_not_found(
    tiny: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = image_context(tiny), text_context(tiny)
    monkeypatch.setattr(PIL, "__version__", "0")
    assert image_context(tiny) != before[0]
    assert text_context(tiny) == before[1]


def test_towers_that_use_equal_weights_otherwise_share_nothing(tmp_path: Path) -> None:
    one, other = tiny_config(), tiny_config()
    assert one.architecture.text is not None
    text = msgspec.structs.replace(one.architecture.text, heads=one.architecture.text.heads // 2)
    architecture = msgspec.structs.replace(other.architecture, text=text)
    other = msgspec.structs.replace(other, architecture=architecture)
    first = bundle.load(save_tiny(tmp_path / "one", one))
    second = bundle.load(save_tiny(tmp_path / "other", other))
    states = (model.model.text_tower.state_dict() for model in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert text_context(first) != text_context(second)


def test_encoder_without_a_cache_hashes_no_weights(tiny: Bundle) -> None:
    assert Encoder(tiny).cache is None
