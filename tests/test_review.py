"""Review lists: who is on them, in which order, in both formats."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagger import bundle
from tagger.calibration import Calibration, TaskCalibration, Threshold, write_calibration
from tagger.catalog import Catalog
from tagger.columns import Labelling
from tagger.errors import UsageError
from tagger.hashes import file_digest
from tagger.job import Job, JobOptions
from tagger.review import DOUBTFUL, check_review, write_review
from tagger.run import run

from .conftest import TASKS, MakeCatalog, mixed_rows

NUM_ROWS = 60
COLOR = Labelling([TASKS[0]], Path())


@pytest.fixture
def careful(model_dir: Path, tmp_path: Path) -> bundle.Bundle:
    """The tiny model with a threshold of 0.7 for color."""
    copy = Path(shutil.copytree(model_dir, tmp_path / "careful"))
    threshold = Threshold(
        precision=0.9,
        threshold=0.7,
        num_products=1,
        reported_products=1,
        published=0,
        reported_precision=None,
    )
    task = TaskCalibration(
        temperature=1.0, thresholds=(threshold,), delta=0.1, catalog="c", catalog_sha256="0"
    )
    calibration = Calibration(
        precision=0.9,
        weights_sha256=file_digest(copy / bundle.WEIGHTS),
        tasks={"color": task},
    )
    write_calibration(calibration, copy)
    return bundle.load(copy)


@pytest.fixture(params=["out.parquet", "out.csv", "out"])
def output(
    careful: bundle.Bundle,
    make_catalog: MakeCatalog,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> Path:
    """An output with abstentions, in each kind of file."""
    rows = mixed_rows(tmp_path, NUM_ROWS)
    rows += rows[:5]  # the same products once more
    out = tmp_path / str(request.param)
    run(Job(careful, JobOptions(make_catalog(rows), ["color"], out, min_precision=0.9)))
    return out


def in_doubt(output: Path) -> dict[int, float]:
    """Row number and confidence of the products that the list should hold."""
    seen: set[str] = set()
    found = {}
    for row, product in enumerate(Catalog(output).read(Catalog(output).schema.names).to_pylist()):
        confidence = product["color_confidence"]
        if product["color_status"] == "abstain" and product["input_hash"] not in seen:
            seen.add(product["input_hash"])
            found[row + 1] = float(confidence)
    return found


def test_csv_lists_every_doubtful_product_once_the_least_sure_first(
    output: Path, tmp_path: Path
) -> None:
    expected = in_doubt(output)
    path = tmp_path / "review.csv"
    assert write_review(output, COLOR, path, "m") == len(expected) > 5
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["row"]) for row in rows} == set(expected)
    values = [float(row["value"]) for row in rows]
    assert values == sorted(values, reverse=True)
    for row in rows:
        assert float(row["color_confidence"]) == pytest.approx(expected[int(row["row"])], abs=1e-3)
        assert row["color_candidate"] in ("Red", "Green", "Blue")


def test_json_is_what_label_studio_imports(output: Path, tmp_path: Path) -> None:
    path = tmp_path / "review.json"
    write_review(output, COLOR, path, "fashion 1234")
    tasks = json.loads(path.read_text())
    assert len(tasks) == len(in_doubt(output))
    for task in tasks:
        assert set(task) == {"data", "predictions"}
        (prediction,) = task["predictions"]
        assert prediction["model_version"] == "fashion 1234"
        (result,) = prediction["result"]
        assert result["type"] == "choices"
        assert result["from_name"] == "color"
        assert result["to_name"] == "image"
        assert len(result["value"]["choices"]) == 1
        assert 0 <= prediction["score"] == result["score"] <= 0.7


@pytest.mark.parametrize("kind", ["binary", "struct"])
def test_pictures_in_the_output_are_listed_as_none(
    tiny: bundle.Bundle, make_catalog: MakeCatalog, tmp_path: Path, kind: str
) -> None:
    table = pq.read_table(make_catalog(mixed_rows(tmp_path, 60)))
    paths = [tmp_path / (name or "none") for name in table["image"].to_pylist()]
    data = [path.read_bytes() if path.exists() else None for path in paths]
    pairs = [{"bytes": d, "path": "a.jpg"} for d in data]
    feed = tmp_path / "feed.parquet"
    pq.write_table(
        table.set_column(1, "image", pa.array(pairs if kind == "struct" else data)), feed
    )
    out, path = tmp_path / "out.parquet", tmp_path / "review.csv"
    run(Job(tiny, JobOptions(feed, ["color"], out)))
    assert write_review(out, COLOR, path, "m") > 5
    answers = pq.read_table(out).to_pylist()
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            answer = answers[int(row["row"]) - 1]
            assert (row["id"], row["title"]) == (answer["id"], answer["title"] or "")
            assert row["image"] == ""


def test_without_a_threshold_only_the_doubtful_are_listed(
    tiny: bundle.Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    out, path = tmp_path / "out.parquet", tmp_path / "review.csv"
    run(Job(tiny, JobOptions(make_catalog(mixed_rows(tmp_path, 60)), ["color"], out)))
    write_review(out, COLOR, path, "m")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert all(float(row["color_confidence"]) < DOUBTFUL for row in rows)


def test_column_of_the_catalog_is_not_taken_for_an_answer(
    careful: bundle.Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    rows = [{**row, "color_path": "the shop's own"} for row in mixed_rows(tmp_path, 20)]
    out, path = tmp_path / "out.parquet", tmp_path / "review.csv"
    run(Job(careful, JobOptions(make_catalog(rows), ["color"], out)))
    assert write_review(out, COLOR, path, "m") > 0
    with open(path, newline="") as file:
        labels = {row["color_candidate"] for row in csv.DictReader(file)}
    assert labels <= set(TASKS[0].labels)


def test_text_that_is_not_utf8_and_ids_that_are_no_text_are_listed(
    careful: bundle.Bundle, tmp_path: Path
) -> None:
    titles = pa.array([b"Caf\xe9 Shirt", b"red shirt", b"dress"]).view(pa.string())
    feed = tmp_path / "feed.parquet"
    pq.write_table(pa.table({"id": [1001.0, None, 3.5], "title": titles}), feed)
    out, path = tmp_path / "out.parquet", tmp_path / "review.json"
    run(Job(careful, JobOptions(feed, ["color"], out, min_precision=0.9)))
    write_review(out, COLOR, path, "m")
    listed = {task["data"]["row"]: task["data"] for task in json.loads(path.read_text())}
    assert set(listed) <= {2, 3}  # the first has neither picture nor title that can be read
    assert listed
    assert all(data["id"] == {2: None, 3: "3.5"}[row] for row, data in listed.items())


def test_products_that_come_again_leave_room_for_all_others(
    careful: bundle.Bundle,
    make_catalog: MakeCatalog,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, path = tmp_path / "out.parquet", tmp_path / "review.json"
    rows = mixed_rows(tmp_path, 30)
    feed = make_catalog([*rows[:20], *rows, *rows[::-1], *rows])
    run(Job(careful, JobOptions(feed, ["color"], out, min_precision=0.9)))
    surest = sorted(in_doubt(out).values())
    for most in (1, 2, 5):
        monkeypatch.setattr("tagger.review.MOST_ROWS", most)
        assert write_review(out, COLOR, path, "m") == most
        scores = [task["predictions"][0]["score"] for task in json.loads(path.read_text())]
        assert scores == pytest.approx(surest[:most], abs=1e-5)


def test_candidate_of_an_abstention_is_what_the_mapping_makes_of_it(
    careful: bundle.Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    mapping = {"color": tuple(f"Shop > {label}" for label in TASKS[0].labels)}
    job = Job(
        careful,
        JobOptions(
            make_catalog(mixed_rows(tmp_path, 20)),
            ["color"],
            tmp_path / "out.parquet",
            min_precision=0.9,
        ),
    )
    job.how = replace(job.how, mapping=mapping)
    run(job)
    write_review(tmp_path / "out.parquet", job.how, tmp_path / "review.json", "m")
    for task in json.loads((tmp_path / "review.json").read_text()):
        (choice,) = task["predictions"][0]["result"][0]["value"]["choices"]
        assert choice in mapping["color"]


def test_other_endings_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"review\.xlsx"):
        check_review(Path("review.xlsx"))


def test_no_cell_of_the_csv_begins_like_a_formula(
    careful: bundle.Bundle, make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    titles = ["=cmd|' /C calc'!A0", "+1", "-2 for 1 socks", "@SUM(A1)", "red = blue"]
    out = tmp_path / "out.parquet"
    rows = [{"id": title, "title": title} for title in titles]
    run(Job(careful, JobOptions(make_catalog(rows), ["color"], out, min_precision=0.9)))
    write_review(out, COLOR, tmp_path / "review.csv", "tiny")
    with (tmp_path / "review.csv").open(newline="") as file:
        cells = [cell for row in csv.DictReader(file) for cell in row.values()]
    assert not [cell for cell in cells if cell[:1] in "=+-@" and cell]
    assert {cell.lstrip("'") for cell in cells} & set(titles)
