"""Predictions in the nodes of another tree, and catalogs whose levels are columns."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from tagger.catalog import Columns
from tagger.errors import CatalogError
from tagger.products import read_products
from tagger.tasks import Task

from .conftest import MakeCatalog, save_tiny, tiny_config
from .test_tree_model import LEAVES, call

MAPPING = "from,to\nShoes,Footwear\nBags,Luggage > Bags\nClothing,Wear\n"


def test_answers_of_another_mapping_are_not_carried_over(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    tasks = (Task("kind", LEAVES, " > "),)
    model = save_tiny(
        tmp_path / "model", msgspec.structs.replace(tiny_config(), tasks=tasks), seed=1
    )
    feed = make_catalog([{"title": f"red shirt {number}"} for number in range(20)])
    mappings = [tmp_path / "one.csv", tmp_path / "two.csv"]
    mappings[0].write_text(MAPPING)
    mappings[1].write_text(MAPPING.replace(",", ",Other > ").replace("from,Other > to", "from,to"))
    given = ("predict", feed, "--model", model, "--tasks", "kind", "--out")
    outs = [tmp_path / f"{name}.parquet" for name in ("plain", "one", "two", "again")]
    assert call(*given, outs[0]) == 0
    for before, after, mapping in ((0, 1, 0), (1, 2, 1), (2, 3, None)):
        options = () if mapping is None else ("--map", mappings[mapping])
        assert call(*given, outs[after], "--incremental", outs[before], *options) == 0
    paths = [set(pq.read_table(out)["kind_path"].to_pylist()) for out in outs]
    assert paths[0] == paths[3]
    assert paths[1] <= {"Footwear", "Luggage > Bags", "Wear"}
    assert paths[2] == {f"Other > {path}" for path in paths[1]}


def test_level_that_holds_the_separator_is_refused_with_its_row(make_catalog: MakeCatalog) -> None:
    rows = [{"title": "a", "top": "Shoes", "kind": "Boots"}] * 2
    path = make_catalog([*rows, {"title": "b", "top": "Size > 40", "kind": "Boots"}])
    columns = Columns(labels={"kind": ("top", "kind")})
    with pytest.raises(CatalogError, match=r"row 3, column 'top': 'Size > 40'"):
        read_products(path, columns, ["kind"])
