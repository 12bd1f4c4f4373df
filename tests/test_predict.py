"""Prediction: N rows in, N rows out, in order; absent means absent; nothing hangs on the batch."""

from __future__ import annotations

import copy
import dataclasses
import datetime as dt
import decimal
import os
import shlex
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import tagger
from tagger.bundle import Bundle
from tagger.catalog import Catalog
from tagger.columns import Labelling
from tagger.config import BATCH_SIZE
from tagger.encoder import Encoder
from tagger.errors import CatalogError, ModelError, UsageError
from tagger.evaluate import evaluate_catalog
from tagger.images import NUM_THREADS, ImageStatus, Pixels
from tagger.job import Job, JobOptions
from tagger.network import Features
from tagger.predict import Product, label, label_batches
from tagger.products import ProductSource
from tagger.run import run
from tagger.runtime import BatchAnswers, Inputs
from tagger.tasks import Task
from tagger.version import __version__

from .conftest import TASKS, Cell, MakeCatalog, mixed_rows, random_titles, save_picture

NAMES = [task.name for task in TASKS]


def predict(
    tiny: Bundle, path: Path, top_k: int | None = None, limit: int | None = None
) -> pa.Table:
    out = path.parent / "out.parquet"
    run(Job(tiny, JobOptions(path, NAMES, out, top_k=top_k, limit=limit, overwrite=True)))
    return pq.read_table(out)


def new_columns(
    tiny: Bundle, path: Path, batch_rows: int = 64, batch_size: int = BATCH_SIZE
) -> pa.Table:
    """What is added to the rows, read `batch_rows` and computed `batch_size` at a time."""
    batches = Catalog(path).batches(batch_rows)
    how = Labelling(TASKS, path.parent, top_k=3, batch_size=batch_size)
    return pa.Table.from_batches([new for _, new in label_batches(Encoder(tiny), batches, how)])


def product(encoder: Encoder, title: str | None, pixels: Pixels | None) -> Product:
    key = None if pixels is None else pixels.tobytes()
    inputs = Inputs(image_key=key, pixels=pixels, ids=encoder.read(title))
    return Product(inputs, "ok" if key else "missing", "ok" if title else "missing", b"")


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.parquet"])
@pytest.mark.parametrize("count", [1, 64, 150])
def test_every_row_comes_out_in_order_with_its_columns_unchanged(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, name: str, count: int
) -> None:
    path = make_catalog(mixed_rows(tmp_path, count), name)
    given = Catalog(path).read(["id", "image", "title", "price"])
    table = predict(tiny, path)
    assert table.num_rows == count
    assert table.column_names[:4] == given.column_names
    assert table.select(range(4)).cast(given.schema).equals(given)


def test_new_columns_are_those_of_the_design(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    table = predict(tiny, make_catalog([{"title": "red shirt"}]), top_k=2)
    ends = ("label", "confidence", "image_weight", "text_weight", "status", "top_k")
    assert table.column_names == ["title", "image_status", "title_status"] + [
        f"{task}_{end}" for task in NAMES for end in ends
    ] + ["input_hash"]
    for task in NAMES:
        assert table.schema.field(f"{task}_label").type == pa.string()
        for end in ends[1:4]:
            assert table.schema.field(f"{task}_{end}").type == pa.float32()


def rich_table() -> pa.Table:
    """Three products with a column of every type that feeds come with."""
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 678901, dt.UTC)
    point = pa.struct([("x", pa.int8()), ("tags", pa.list_(pa.string()))])
    return pa.table(
        {
            "title": pa.array(["red shirt", None, "blue bag"], pa.large_string()),
            "image": pa.array(["a.jpg", None, "b.jpg"]).dictionary_encode(),
            "nested": pa.array([{"x": 1, "tags": ["a", None]}, None, {"x": 2, "tags": []}], point),
            "price": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("-2.05")]),
            "when": pa.array([when, None, when], pa.timestamp("us", "Asia/Kolkata")),
            "nanos": pa.array([1, None, 3], pa.timestamp("ns")),
            "day": pa.array([dt.date(2026, 1, 2)] * 3),
            "blob": pa.array([b"\0\xff", None, b""], pa.large_binary()),
            "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
            "nothing": pa.nulls(3),
            "vector": pa.array([[1.0, 2.0]] * 3, pa.list_(pa.float32(), 2)),
            "flag": [True, None, False],
            "small": pa.array([1, 2, 3], pa.uint8()),
        },
        metadata={"made_by": "the feed"},
    )


@pytest.mark.parametrize("parts", [1, 3])
def test_parquet_columns_of_every_type_survive(tiny: Bundle, tmp_path: Path, parts: int) -> None:
    table = rich_table()
    (tmp_path / "feed").mkdir()
    for part in range(parts):
        pq.write_table(table, tmp_path / "feed" / f"{part}.parquet")
    labelled = predict(tiny, tmp_path / "feed")
    kept = labelled.select(table.column_names)
    assert kept.schema.equals(table.schema)
    assert kept.equals(pa.concat_tables([table] * parts).unify_dictionaries())
    assert labelled.schema.metadata[b"made_by"] == b"the feed"


def test_metadata_names_version_and_model(tiny: Bundle, make_catalog: MakeCatalog) -> None:
    metadata = predict(tiny, make_catalog([{"title": "red"}])).schema.metadata
    assert metadata[b"tagger_version"].decode() == __version__
    assert metadata[b"tagger_model_sha256"].decode() == tiny.sha256
    assert len(tiny.sha256) == 64


@pytest.mark.parametrize("seed", range(2))
def test_weights_statuses_and_labels_fit_what_each_product_has(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, seed: int
) -> None:
    frame = predict(tiny, make_catalog(mixed_rows(tmp_path, 90, seed))).to_pandas()
    image, title = frame["image_status"] == "ok", frame["title_status"] == "ok"
    assert {(i, t) for i, t in zip(image, title, strict=True)} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    assert set(frame["image_status"]) == {"ok", "missing", "not_found", "unreadable"}
    neither = ~image & ~title
    for task in TASKS:
        weights = frame[[f"{task.name}_image_weight", f"{task.name}_text_weight"]].to_numpy()
        assert np.allclose(weights[~neither].sum(axis=1), 1, atol=1e-6)
        assert (weights[~image & title] == [0, 1]).all()
        assert (weights[image & ~title] == [1, 0]).all()
        assert (weights[image & title] > 0).all()
        assert np.isnan(weights[neither]).all()
        assert frame.loc[neither, f"{task.name}_label"].isna().all()
        assert frame.loc[neither, f"{task.name}_confidence"].isna().all()
        assert (frame[f"{task.name}_status"] == np.where(neither, "error", "ok")).all()
        assert frame.loc[~neither, f"{task.name}_label"].isin(task.labels).all()
        assert frame.loc[~neither, f"{task.name}_label"].nunique() > 1
        assert frame.loc[~neither, f"{task.name}_confidence"].between(1 / len(task.labels), 1).all()


def close(left: pa.Table, right: pa.Table) -> None:
    """Equal strings, floats within 1e-5."""
    for name in left.column_names:
        if pa.types.is_floating(left.schema.field(name).type):
            one, other = left[name].to_numpy(), right[name].to_numpy()
            np.testing.assert_allclose(one, other, atol=1e-5, err_msg=name)
        elif not name.endswith("_top_k"):
            assert left[name].to_pylist() == right[name].to_pylist(), name


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64, 200])
def test_size_of_the_batches_that_the_model_sees_changes_no_answer(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, batch_size: int
) -> None:
    path = make_catalog(mixed_rows(tmp_path, 70))
    close(new_columns(tiny, path, batch_size=33), new_columns(tiny, path, batch_size=batch_size))


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 64, 200])
def test_number_of_rows_that_are_read_at_a_time_changes_no_answer(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, batch_rows: int
) -> None:
    path = make_catalog(mixed_rows(tmp_path, 70))
    assert new_columns(tiny, path, 33).equals(new_columns(tiny, path, batch_rows))


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_rows_changes_no_answer(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, seed: int
) -> None:
    rows = mixed_rows(tmp_path, 40)
    order = np.random.default_rng(seed).permutation(40)
    first = new_columns(tiny, make_catalog(rows), 16)
    shuffled = new_columns(tiny, make_catalog([rows[k] for k in order]), 16)
    close(first.take(pa.array(order)), shuffled)


@pytest.mark.parametrize("seed", range(4))
def test_no_pixel_of_an_absent_picture_and_no_word_of_an_absent_title_counts(
    tiny: Bundle, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (8, 3, 32, 24), generator=generator, dtype=torch.uint8)
    ids = torch.randint(3, 20, (8, 9), generator=generator)
    image, text = torch.tensor([0, 0, 1, 1] * 2).bool(), torch.tensor([0, 1, 0, 1] * 2).bool()
    other_pixels = torch.where(image[:, None, None, None], pixels, 255 - pixels)
    other_ids = torch.where(text[:, None], ids, ids.flip(1) + 20)
    mask = text[:, None].expand(-1, 9)
    with torch.inference_mode():
        first = tiny.model(pixels, image, ids, mask)
        second = tiny.model(other_pixels, image, other_ids, mask)
        all_given = tiny.model(pixels, image | True, ids, mask | True)
    assert torch.equal(first.modality_weights, second.modality_weights)
    for task in NAMES:
        assert torch.equal(first.logits[task], second.logits[task])
        changed = (first.logits[task] - all_given.logits[task]).abs().amax(1) > 1e-4
        assert changed.tolist() == (~(image & text)).tolist()


def test_absent_modalities_are_left_out_of_the_columns_too(tiny: Bundle) -> None:
    rng = np.random.default_rng(0)
    pictures: list[Pixels] = [rng.integers(0, 256, (32, 24, 3), dtype=np.uint8) for _ in range(6)]
    titles: list[str | None] = list(random_titles(6))
    how = Labelling(TASKS, Path())
    encoder = Encoder(tiny)
    title_only = label(encoder, [product(encoder, title, None) for title in titles], how)
    image_only = label(encoder, [product(encoder, None, picture) for picture in pictures], how)
    for task in NAMES:
        assert title_only.column(f"{task}_image_weight").to_pylist() == [0.0] * 6
        assert image_only.column(f"{task}_text_weight").to_pylist() == [0.0] * 6
        assert len(set(image_only.column(f"{task}_confidence").to_pylist())) == 6


@pytest.mark.parametrize("top_k", [1, 2, 99])
def test_top_k_is_sorted_and_starts_with_the_label(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path, top_k: int
) -> None:
    table = predict(tiny, make_catalog(mixed_rows(tmp_path, 30)), top_k=top_k)
    for task in TASKS:
        for row in table.to_pylist():
            ranked = row[f"{task.name}_top_k"]
            if row[f"{task.name}_status"] == "error":
                assert ranked is None
                continue
            assert ranked[0] == {
                "label": row[f"{task.name}_label"],
                "confidence": row[f"{task.name}_confidence"],
            }
            confidences = [entry["confidence"] for entry in ranked]
            assert confidences == sorted(confidences, reverse=True)
            assert len({e["label"] for e in ranked}) == len(ranked) == min(top_k, len(task.labels))
            assert sum(confidences) == pytest.approx(1) or top_k < len(task.labels)


def test_order_of_the_tasks_changes_no_answer(tiny: Bundle) -> None:
    titles: list[str | None] = list(random_titles(4))
    picture = np.random.default_rng(0).integers(0, 256, (32, 24, 3), dtype=np.uint8)
    encoder = Encoder(tiny)
    products = [product(encoder, title, picture) for title in titles]
    forwards = label(encoder, products, Labelling(TASKS, Path()))
    backwards = label(encoder, products, Labelling(TASKS[::-1], Path()))
    for name in forwards.schema.names:
        assert forwards.column(name).equals(backwards.column(name))
    assert forwards.column("color_image_weight") != forwards.column("pattern_image_weight")


@pytest.mark.parametrize("limit", [1, 64, 65, 500])
def test_limit_reads_the_first_rows(tiny: Bundle, make_catalog: MakeCatalog, limit: int) -> None:
    path = make_catalog([{"title": title, "n": n} for n, title in enumerate(random_titles(100))])
    assert predict(tiny, path, limit=limit)["n"].to_pylist() == list(range(min(limit, 100)))


def test_python_gives_what_the_command_gives(
    tiny: Bundle, model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = mixed_rows(tmp_path, 70)
    written = predict(tiny, make_catalog(rows), top_k=2).to_pandas()
    index = pd.Index([f"sku {n % 50}" for n in range(70)], name="sku")
    frame = pd.DataFrame(rows, index=index)
    before = frame.copy()
    labelled = tagger.load(model_dir, fp32=True).predict(frame, image_root=tmp_path, top_k=2)
    pd.testing.assert_index_equal(labelled.index, index)
    pd.testing.assert_frame_equal(frame, before)
    pd.testing.assert_frame_equal(labelled[list(frame)], frame)
    new = list(written)[4:]
    pd.testing.assert_frame_equal(labelled[new].reset_index(drop=True), written[new])


def test_from_python_no_picture_outside_of_the_image_root_is_read(
    model_dir: Path, tmp_path: Path
) -> None:
    save_picture(tmp_path / "a.jpg", 1)
    save_picture(tmp_path / "root" / "b.jpg", 2)
    frame = pd.DataFrame({"image": ["../a.jpg", str(tmp_path / "a.jpg"), "b.jpg"]})
    said = tagger.load(model_dir).predict(frame, image_root=tmp_path / "root")
    assert said["image_status"].tolist() == ["outside_root", "outside_root", "ok"]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_product_whose_numbers_overflow_has_no_answer_and_spoils_no_other(
    tiny: Bundle, make_catalog: MakeCatalog, bad: float
) -> None:
    overflowing = dataclasses.replace(tiny, model=copy.deepcopy(tiny.model))
    (token,) = set(tiny.tokenizer.encode(["red"])[0]) - set(tiny.tokenizer.encode(["blue"])[0])
    with torch.no_grad():
        overflowing.model.text_tower.embedding.weight[token] = bad
    titles = ["blue shirt", "red shirt", "green shoe"] * 5
    path = make_catalog([{"title": t, "color": "Red", "pattern": "Solid"} for t in titles])
    found = predict(overflowing, path).to_pandas()
    expected = predict(tiny, path).to_pandas()
    lost = np.array(["red" in title for title in titles])
    for name in NAMES:
        assert (found[f"{name}_status"] == np.where(lost, "error", "ok")).all()
        assert found[f"{name}_label"][lost].isna().all()
        assert found[f"{name}_confidence"][lost].isna().all()
        assert found[f"{name}_label"][~lost].equals(expected[f"{name}_label"][~lost])
    color = evaluate_catalog(overflowing, ProductSource(path), ["color"]).figures.scores["both"]
    right = (expected["color_label"] == "Red") & ~lost
    assert color["color"].accuracy == pytest.approx(right.mean())


def test_labels_of_no_probability_are_no_overflow() -> None:
    """An export has the logarithms of probabilities, of which some are 0."""
    none = -np.inf
    logits = np.array([[0.0, none], [none, none], [np.inf, 0.0], [1.0, 2.0]], np.float32)
    weights = np.full((4, 1, 2), 0.5, np.float32)
    answers = BatchAnswers({"color": logits}, weights).without_overflows()
    assert (answers.modality_weights != 0).all((1, 2)).tolist() == [True, False, False, True]
    np.testing.assert_array_equal(answers.logits["color"][[0, 3]], logits[[0, 3]])


def test_pictures_that_wait_are_not_decoded_once_something_stops_the_run(
    tiny: Bundle, tmp_path: Path
) -> None:
    looked: list[bytes] = []

    class Stopped(Encoder):
        """The first picture stops it; the others take their time."""

        def look(
            self, key: bytes, data: bytes
        ) -> tuple[Pixels | None, Features | None, ImageStatus]:
            looked.append(data)
            if data == b"0":
                raise KeyboardInterrupt
            time.sleep(0.05)
            return super().look(key, data)

    rows = pa.record_batch({"image": [str(n).encode() for n in range(4 * NUM_THREADS)]})
    with pytest.raises(KeyboardInterrupt):
        list(label_batches(Stopped(tiny), [rows], Labelling(TASKS, tmp_path)))
    assert len(looked) <= 2 * NUM_THREADS


def test_empty_frame_comes_back_empty_with_the_new_columns(model_dir: Path) -> None:
    frame = pd.DataFrame({"title": pd.Series([], dtype=str)})
    labelled = tagger.load(model_dir, fp32=True).predict(frame, ["color"])
    assert len(labelled) == 0
    assert "color_label" in labelled


@pytest.mark.parametrize("values", [["red", 5], [Path("a.jpg"), None], [b"\xff", "x"]])
def test_frame_column_that_is_not_text_is_a_catalog_error(
    model_dir: Path, values: list[object]
) -> None:
    with pytest.raises(CatalogError, match="title"):
        tagger.load(model_dir, fp32=True).predict(
            pd.DataFrame({"title": pd.Series(values, dtype=object)})
        )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["color", "color"]}, r"^tasks=.*'color' twice"),
        ({"tasks": []}, r"^tasks=\[\].* no task"),
        ({"top_k": 0}, "top_k=0"),
        ({"top_k": 1.5}, "top_k=1.5"),
        ({"min_precision": 95}, "min_precision=95"),
        ({"min_precision": 0.0}, "min_precision=0"),
        ({"min_precision": "0.95"}, "min_precision='0.95' is neither a number"),
        ({"min_precision": [0.9]}, r"min_precision=\[0.9\]"),
        ({"top_k": True}, "top_k=True"),
        ({"tasks": [1]}, r"tasks=\[1\]"),
        ({"tasks": 1}, "tasks=1"),
        ({"tasks": ""}, "tasks=''"),
        ({"image_root": None}, "image_root=None"),
        ({"image_root": b"/tmp"}, "image_root=b'/tmp'"),
        ({"columns": {"title": "name"}}, "columns="),
    ],
)
def test_from_python_tasks_and_numbers_are_checked_as_those_of_the_command_are(
    calibrated_dir: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        tagger.load(calibrated_dir, fp32=True).predict(pd.DataFrame({"title": ["red"]}), **options)
    assert "--" not in caught.value.message + caught.value.hint, "there are no options in Python"


@pytest.mark.parametrize("products", [None, {"title": ["red"]}, ["red"]])
def test_products_that_are_no_frame_are_refused_with_an_example(
    model_dir: Path, products: object
) -> None:
    predict: Any = tagger.load(model_dir, fp32=True).predict
    with pytest.raises(UsageError, match="products is a") as caught:
        predict(products)
    assert "pandas.DataFrame(" in caught.value.hint


@pytest.mark.parametrize("kind", [pd.Series, pa.Table])
def test_products_that_can_be_made_a_frame_are_refused_with_how(
    model_dir: Path, kind: type[pd.Series] | type[pa.Table]
) -> None:
    predict: Any = tagger.load(model_dir, fp32=True).predict
    frame = pd.DataFrame({"title": ["red"]})
    products = frame["title"] if kind is pd.Series else pa.Table.from_pandas(frame)
    with pytest.raises(UsageError, match=f"products is a {kind.__name__}") as caught:
        predict(products)
    made = eval(caught.value.hint.removeprefix("make it one: "), {"products": products})
    assert predict(made)["color_status"].tolist() == ["ok"]


def test_precision_from_python_may_be_any_kind_of_number(calibrated_dir: Path) -> None:
    model = tagger.load(calibrated_dir, fp32=True)
    frame = pd.DataFrame({"title": random_titles(20)})
    asked = [model.predict(frame, "color", min_precision=p) for p in (0.9, np.float32(0.9))]
    pd.testing.assert_frame_equal(*asked)


def test_default_precision_from_python_is_that_of_the_calibration(calibrated_dir: Path) -> None:
    model = tagger.load(calibrated_dir, fp32=True)
    frame = pd.DataFrame({"title": random_titles(20)})
    asked = [model.predict(frame, "color", min_precision=value) for value in ("default", 0.9)]
    pd.testing.assert_frame_equal(*asked)
    assert "abstain" in set(asked[0]["color_status"])


def test_frame_that_has_the_title_twice_is_refused_and_another_column_twice_is_not(
    model_dir: Path,
) -> None:
    model = tagger.load(model_dir, fp32=True)
    with pytest.raises(CatalogError, match="'title' twice"):
        model.predict(pd.DataFrame([["red", "blue"]], columns=["title", "title"]))
    labelled = model.predict(pd.DataFrame([["red", 1, 2]], columns=["title", "n", "n"]), ["color"])
    assert list(labelled)[:3] == ["title", "n", "n"]


def test_frame_column_is_converted_as_the_hint_says_and_missing_values_stay_missing(
    model_dir: Path,
) -> None:
    model = tagger.load(model_dir, fp32=True)
    dataframe = pd.DataFrame({"image": [None, "a.jpg", None], "title": ["red", 5, None]})
    with pytest.raises(CatalogError, match="column 'title' is neither") as caught:
        model.predict(dataframe)
    hint = caught.value.hint.removeprefix("convert it: ")
    assert "image" not in hint
    exec(hint, {"dataframe": dataframe})
    assert model.predict(dataframe)["title_status"].tolist() == ["ok", "ok", "missing"]


def test_title_of_a_frame_that_is_not_utf8_is_unreadable_and_spoils_no_other(
    model_dir: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"gr\xf6n.jpg")  # as os.listdir gives it
    save_picture(tmp_path / name, 1)
    titles = ["red shirt", "a\ud800b", None, "gr\udcf6n \ud800"]
    frame = pd.DataFrame({"title": titles, "image": [name, None, name, None]}, dtype=object)
    labelled = tagger.load(model_dir, fp32=True).predict(frame, image_root=tmp_path)
    assert labelled["title_status"].tolist() == ["ok", "unreadable", "missing", "unreadable"]
    assert labelled["image_status"].tolist() == ["ok", "missing", "ok", "missing"]
    assert labelled["color_status"].tolist() == ["ok", "error", "ok", "error"]
    assert labelled["title"].tolist() == titles


@pytest.mark.parametrize("bytes_first", [True, False])
@pytest.mark.parametrize("column", ["image", "title"])
def test_frame_column_of_text_and_of_bytes_is_refused_whichever_comes_first(
    model_dir: Path, column: str, bytes_first: bool
) -> None:
    values = [b"\xff\xd8", None, "a.jpg"][:: 1 if bytes_first else -1]
    frame = pd.DataFrame({"title": ["red"] * 3, column: values})
    with pytest.raises(CatalogError, match=f"'{column}' is neither all text nor all bytes") as e:
        tagger.load(model_dir, fp32=True).predict(frame)
    assert "astype" not in e.value.hint, "that makes text of the bytes, which is none"


def test_image_paths_of_a_frame_may_be_path_objects(model_dir: Path, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg", 1)
    images = pd.Series([Path("a.jpg"), None, "a.jpg"], dtype=object)
    labelled = tagger.load(model_dir, fp32=True).predict(
        pd.DataFrame({"image": images}), image_root=tmp_path
    )
    assert labelled["image_status"].tolist() == ["ok", "missing", "ok"]


@pytest.mark.parametrize("size", [(4, 3, 3), (4,)])
def test_frame_of_decoded_pictures_is_told_how_to_give_them(
    model_dir: Path, size: tuple[int, ...]
) -> None:
    pixels = np.zeros(size, np.uint8)
    pictures: list[object] = [pixels] if len(size) == 1 else [pixels, Image.fromarray(pixels)]
    for picture in pictures:
        frame = pd.DataFrame({"image": pd.Series([None, picture], dtype=object)})
        with pytest.raises(CatalogError, match="'image'") as caught:
            tagger.load(model_dir, fp32=True).predict(frame)
        assert "astype" not in caught.value.hint, "the pictures would become text such as <PIL...>"
        assert "image.save(" in caught.value.hint


def test_frame_without_picture_and_title_is_refused(model_dir: Path) -> None:
    with pytest.raises(CatalogError, match="neither column 'image' nor 'title'"):
        tagger.load(model_dir, fp32=True).predict(pd.DataFrame({"name": ["a"]}))


@pytest.mark.parametrize("name", ["color_label", "image_status", "pattern_text_weight"])
def test_column_that_is_there_already_is_refused(
    tiny: Bundle, model_dir: Path, make_catalog: MakeCatalog, name: str
) -> None:
    row: dict[str, Cell] = {"title": "red", name: "mine"}
    path = make_catalog([row])
    with pytest.raises(CatalogError, match=f"column '{name}' already"):
        predict(tiny, path)
    with pytest.raises(CatalogError, match=f"column '{name}' already") as caught:
        tagger.load(model_dir, fp32=True).predict(pd.DataFrame([row]))
    assert "--" not in caught.value.hint, "an option of the command helps nobody here"
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("out", ["catalog.parquet", "sub/../catalog.parquet", "."])
def test_output_over_the_catalog_is_refused(
    tiny: Bundle, make_catalog: MakeCatalog, out: str
) -> None:
    path = make_catalog([{"title": "red"}])
    (path.parent / "sub").mkdir()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="--out"):
        Job(tiny, JobOptions(path, NAMES, path.parent / out))
    assert path.read_bytes() == before


def test_unknown_task_names_the_known_ones(tiny: Bundle) -> None:
    with pytest.raises(ModelError, match=r"it knows: 'color', 'pattern'\. Did you mean 'color'\?"):
        tiny.task("colour")


def test_task_that_is_known_in_letters_that_look_alike_is_told_to_be_copied(tiny: Bundle) -> None:
    task = Task("gro\u0308\u00dfe", ("S", "M"))
    model = dataclasses.replace(tiny, config=msgspec.structs.replace(tiny.config, tasks=(task,)))
    assert model.task(task.name) == task
    with pytest.raises(ModelError, match="look alike") as caught:
        model.task("gr\u00f6\u00dfe")
    assert caught.value.hint.endswith(shlex.quote(task.name))


def test_damaged_catalog_leaves_no_output(tiny: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "catalog.csv"
    long = "red " * 25_000
    path.write_bytes(b"title\n" + f"{long}\n".encode() * 60 + b"gr\xf6n\n")
    with pytest.raises(CatalogError, match="UTF8"):
        predict(tiny, path)
    assert [p.name for p in tmp_path.iterdir()] == ["catalog.csv"]


def test_no_socket_is_opened(
    model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_catalog(mixed_rows(tmp_path, 10))

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert predict(tagger.load(model_dir, fp32=True).bundle, path).num_rows == 10


def test_directory_among_the_pictures_does_not_stop_the_run(
    tiny: Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    path = make_catalog([{"image": "folder", "title": "red"}, {"image": None, "title": "blue"}])
    assert predict(tiny, path)["image_status"].to_pylist() == ["not_a_file", "missing"]
