"""A model knows which products it learned from, and nobody takes them for new ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import tagger
from tagger import bundle
from tagger.bundle import Bundle
from tagger.calibrate import calibrate
from tagger.errors import CatalogError, ModelError
from tagger.evaluate import evaluate_catalog
from tagger.evaluation_tables import show_evaluation
from tagger.label_issues import find_label_issues
from tagger.products import Products, ProductSource
from tagger.split import LEARNED
from tagger.trained_on import FILE_NAME, keys_of, past_of, write_trained_on

from .conftest import MakeCatalog, Row, random_titles


def products(*pairs: tuple[str | bytes | None, str | None]) -> Products:
    return Products([image for image, _ in pairs], [title for _, title in pairs])


def learned(model: Path, some: Products) -> NDArray[np.bool_]:
    return past_of(some, [model]) == LEARNED


OLD = products(("images/1.jpg", "red shirt"), (None, "blue bag"), (b"picture", None))


@pytest.fixture
def trained(model_dir: Path, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(model_dir, tmp_path / "trained"))
    write_trained_on(copy, OLD)
    return copy


def test_product_is_known_by_title_and_picture_wherever_it_lies(trained: Path) -> None:
    assert learned(trained, OLD).all()
    moved = products(("/mnt/feed/1.jpg", "red shirt"), ("2.jpg", "red shirt"), (None, "red shirt"))
    assert learned(trained, moved).tolist() == [True, False, False]
    assert not learned(trained, products((b"picture", "blue bag"), (None, "blue"))).any()


def test_fine_tuned_model_knows_the_products_of_both_runs(trained: Path, tmp_path: Path) -> None:
    tuned = Path(shutil.copytree(trained, tmp_path / "tuned"))
    new = products((None, "green shoe"))
    write_trained_on(tuned, new, earlier=[trained])
    assert learned(tuned, OLD).all()
    assert learned(tuned, new).all()
    assert not learned(trained, new).any()


def test_keys_of_many_products_hardly_collide() -> None:
    many = products(*((f"{n}.jpg", None) for n in range(20_000)))
    assert len(np.unique(keys_of(many))) > 19_990


def test_model_that_does_not_say_was_trained_on_none(model_dir: Path) -> None:
    assert not learned(model_dir, OLD).any()


def test_damaged_file_is_a_model_error(trained: Path) -> None:
    (trained / FILE_NAME).write_bytes(b"x")
    with pytest.raises(ModelError, match=FILE_NAME):
        learned(trained, OLD)


@pytest.fixture
def half_seen(model_dir: Path, make_catalog: MakeCatalog, tmp_path: Path) -> tuple[Bundle, Path]:
    """A model, and a catalog of whose 400 products it has seen the first half; one in ten labels is
    not what the model says."""
    titles = [f"{title} {n}" for n, title in enumerate(random_titles(400))]
    frame = pd.DataFrame({"title": titles})
    said = tagger.load(model_dir, fp32=True).predict(frame, ["color"])["color_label"]
    wrong = {"Red": "Blue", "Blue": "Green", "Green": "Red"}
    rows: list[Row] = [
        {"title": title, "color": wrong[label] if n % 10 == 0 else label}
        for n, (title, label) in enumerate(zip(titles, said, strict=True))
    ]
    path = make_catalog(rows)
    copy = Path(shutil.copytree(model_dir, tmp_path / "half"))
    write_trained_on(copy, products(*((None, title) for title in titles[:200])))
    return bundle.load(copy), path


def test_eval_counts_them_and_suspects_none_of_their_labels(
    half_seen: tuple[Bundle, Path], tiny: Bundle
) -> None:
    model, path = half_seen
    done = evaluate_catalog(model, ProductSource(path), ["color"], with_logits=True)
    assert done.figures.trained_on == 200
    assert evaluate_catalog(tiny, ProductSource(path), ["color"]).figures.trained_on == 0
    found = find_label_issues(model, done.products, done.answers, ["color"], done.trained_on)
    assert len(found["color"].rows) >= 10
    assert (found["color"].rows >= 200).all()


def test_eval_counts_the_products_that_chose_the_epoch_and_says_so(
    half_seen: tuple[Bundle, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = half_seen
    source = ProductSource(path)
    seen = source.read(["color"])
    write_trained_on(model.path, seen.take(range(200)), seen.take(range(150, 250)))
    done = evaluate_catalog(model, source, ["color"])
    assert (done.figures.trained_on, done.figures.held_back) == (200, 50)
    show_evaluation(done.figures, False, done.image_statuses, source)
    assert "50 of these 400 products chose the epoch" in " ".join(capsys.readouterr().err.split())


def test_calibration_leaves_them_out(half_seen: tuple[Bundle, Path]) -> None:
    model, path = half_seen
    calibration = calibrate(model, ProductSource(path), ["color"]).calibration
    assert calibration.tasks["color"].left_out == 200
    fitted = calibration.threshold("color", 0.9)
    assert fitted.num_products + fitted.reported_products == 200


def test_calibration_on_nothing_else_is_refused(half_seen: tuple[Bundle, Path]) -> None:
    model, path = half_seen
    with pytest.raises(CatalogError, match="was trained on all products"):
        calibrate(model, ProductSource(path, limit=100), ["color"])


def test_pictures_of_one_name_in_other_folders_are_other_products_where_no_title_tells() -> None:
    one, two = keys_of(products(("sku-1/main.jpg", None), ("sku-2/main.jpg", None)))
    assert one != two
    here, there = keys_of(products(("a/main.jpg", "Red Shirt"), ("b/main.jpg", "Red Shirt")))
    assert here == there
