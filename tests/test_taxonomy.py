"""Taxonomy files read as they were published, and refused with the line that is wrong."""

from __future__ import annotations

import csv
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tagger.errors import TaxonomyError
from tagger.taxonomy import SHOPIFY_ID, Taxonomy, read_taxonomy
from tagger.tree import Names

GOOGLE_HEADER = "# Google_Product_Taxonomy_Version: 2021-09-21\n"
SHOPIFY_HEADER = (
    "# Shopify Product Taxonomy - Categories: 2024-07\n"
    "# Format: {GID} : {Ancestor name} > ... > {Category name}\n\n"
)
GOOGLE = {
    "1": "Animals & Pet Supplies",
    "3237": "Animals & Pet Supplies > Live Animals",
    "412": "Food, Beverages & Tobacco",
    "422": "Food, Beverages & Tobacco > Food Items",
    "1755": "Food, Beverages & Tobacco > Food Items > Ready-Made Meals",
    "5182": "Food, Beverages & Tobacco > Food - Other",
}
SHOPIFY = {
    "aa": "Apparel & Accessories",
    "aa-1": "Apparel & Accessories > Clothing",
    "aa-1-10": "Apparel & Accessories > Clothing > Outerwear",
    "aa-1-2": "Apparel & Accessories > Clothing > Boys' Clothing",
    "aa-8": "Apparel & Accessories > Shoes",
    "lb": "Luggage & Bags",
    "lb-2": "Luggage & Bags > Briefcases",
}
ATTRIBUTES: dict[str, list[tuple[str, str]]] = {
    "aa": [("Color", "color"), ("Pattern", "pattern")],
    "aa-1": [("Age group", "age-group"), ("Color", "color")],
    "aa-8": [],
    "lb": [("Bag/Case material", "bag-case-material")],
}
"""Name and handle; those that are not named have no list."""


def write(folder: Path, text: str | bytes, name: str = "taxonomy.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def google(nodes: dict[str, str], with_ids: bool = True) -> str:
    lines = (f"{id} - {path}" if with_ids else path for id, path in nodes.items())
    return GOOGLE_HEADER + "".join(f"{line}\n" for line in lines)


def shopify(nodes: dict[str, str]) -> str:
    lines = (f"{SHOPIFY_ID}{id:<17} : {path}\n" for id, path in nodes.items())
    return SHOPIFY_HEADER + "".join(lines)


def category(id: str, path: str, parent: str | None) -> dict[str, object]:
    """As in dist/en/categories.json; without a list of attributes where ATTRIBUTES has none."""
    names = path.split(" > ")
    found: dict[str, object] = {
        "id": SHOPIFY_ID + id,
        "level": len(names) - 1,
        "name": names[-1],
        "full_name": path,
        "parent_id": None if parent is None else SHOPIFY_ID + parent,
        "return_reasons": [{"id": "gid://shopify/ReturnReasonDefinition/1", "name": "Other"}],
        "children": [],
        "ancestors": [],
    }
    if id in ATTRIBUTES:
        found["attributes"] = [
            {"id": "gid://shopify/TaxonomyAttribute/1", "name": n, "handle": h, "extended": False}
            for n, h in ATTRIBUTES[id]
        ]
    return found


def shopify_json(nodes: dict[str, str]) -> str:
    categories = [category(i, path, i.rpartition("-")[0] or None) for i, path in nodes.items()]
    return vertical_json(categories)


def vertical_json(categories: Sequence[object]) -> str:
    vertical = {"name": "All", "prefix": "aa", "categories": categories}
    return json.dumps({"version": "2024-07", "verticals": [vertical], "attributes": []})


def names_of(nodes: dict[str, str]) -> list[Names]:
    return [tuple(path.split(" > ")) for path in nodes.values()]


def refused(path: Path, *parts: str) -> TaxonomyError:
    """The error that reading `path` raises; its message has the file and all `parts`."""
    with pytest.raises(TaxonomyError) as caught:
        read_taxonomy(path)
    for part in (str(path), *parts):
        assert part in caught.value.message
    assert caught.value.hint
    return caught.value


def random_nodes(count: int, seed: int) -> dict[str, str]:
    """Paths of one to seven names, each below one that comes before it."""
    rng = random.Random(seed)
    paths = ["Top 0"]
    for number in range(1, count):
        parent = rng.choice(paths)
        name = f"{rng.choice(['Cat', 'Food, Dry', 'T-Shirts', 'A & B', 'É - x'])} {number}"
        deep = parent.count(" > ") > 5 or rng.random() < 0.01
        paths.append(name if deep else f"{parent} > {name}")
    return {str(rng.randrange(10**6) * count + i): path for i, path in enumerate(paths)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("with_ids", [True, False])
def test_every_line_of_a_google_file_joined_again_is_the_line(
    tmp_path: Path, with_ids: bool, seed: int
) -> None:
    nodes = GOOGLE if seed == 0 else random_nodes(300, seed)
    taxonomy = read_taxonomy(write(tmp_path, google(nodes, with_ids)))
    assert [" > ".join(names) for names in taxonomy.nodes] == list(nodes.values())
    assert taxonomy.ids == (dict(zip(nodes, names_of(nodes), strict=True)) if with_ids else {})
    assert taxonomy.attributes == {}
    assert taxonomy.source == "taxonomy.txt"


def test_google_file_without_its_first_line_is_known_by_its_ids(tmp_path: Path) -> None:
    text = google(GOOGLE).removeprefix(GOOGLE_HEADER)
    assert list(read_taxonomy(write(tmp_path, text)).nodes) == names_of(GOOGLE)


def test_shopify_text_and_json_have_the_same_nodes_and_ids(tmp_path: Path) -> None:
    text = read_taxonomy(write(tmp_path, shopify(SHOPIFY), "categories.txt"))
    dist = read_taxonomy(write(tmp_path, shopify_json(SHOPIFY), "categories.json"))
    assert list(text.nodes) == names_of(SHOPIFY)
    assert (text.nodes, text.ids) == (dist.nodes, dist.ids)
    assert not text.attributes
    assert dist.attributes


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("name", "text", "nodes"),
    [
        ("g.txt", google(GOOGLE), GOOGLE),
        ("s.txt", shopify(SHOPIFY), SHOPIFY),
        ("s.json", shopify_json(SHOPIFY), SHOPIFY),
        ("c.csv", 'parent,child\n,Food\nFood,"Rice, Dry & Wet"\n', {"": "Food > Rice, Dry & Wet"}),
    ],
)
def test_any_newline_and_byte_order_mark(
    tmp_path: Path, name: str, text: str, nodes: dict[str, str], newline: str, prefix: bytes
) -> None:
    taxonomy = read_taxonomy(write(tmp_path, prefix + text.replace("\n", newline).encode(), name))
    assert set(names_of(nodes)) <= set(taxonomy.nodes)


def test_csv_of_names_in_any_order_has_parents_first(tmp_path: Path) -> None:
    rows = "parent,child\nShirts,Polos\nClothing,Shirts\n,Clothing\n,Bags\nClothing,Shoes\n"
    taxonomy = read_taxonomy(write(tmp_path, rows, "a.csv"))
    assert taxonomy.nodes == (
        ("Clothing",),
        ("Clothing", "Shirts"),
        ("Clothing", "Shirts", "Polos"),
        ("Bags",),
        ("Clothing", "Shoes"),
    )
    assert taxonomy.ids == {}
    assert taxonomy.leaves == (("Clothing", "Shirts", "Polos"), ("Bags",), ("Clothing", "Shoes"))


def test_csv_of_ids_takes_names_and_ignores_other_columns(tmp_path: Path) -> None:
    rows = "note,child,name,parent\nx,1,Men,\n,2,Women,\n,3,Shoes,1\n,4,Shoes,2\n,,,\n"
    rows = "".join(f"{row},,\n" for row in rows.splitlines())
    taxonomy = read_taxonomy(write(tmp_path, rows, "a.csv"))
    assert taxonomy.ids == {
        "1": ("Men",),
        "2": ("Women",),
        "3": ("Men", "Shoes"),
        "4": ("Women", "Shoes"),
    }


@pytest.mark.parametrize("seed", range(3))
def test_csv_in_any_order_has_the_nodes_of_the_text(tmp_path: Path, seed: int) -> None:
    nodes = random_nodes(200, seed)
    by_path = {path: id for id, path in nodes.items()}
    rows = []
    for id, path in nodes.items():
        above, _, name = path.rpartition(" > ")
        rows.append((by_path.get(above, ""), id, name))
    random.Random(seed).shuffle(rows)
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([("parent", "child", "name"), *rows])
    text = read_taxonomy(write(tmp_path, google(nodes)))
    table = read_taxonomy(tmp_path / "a.csv")
    assert table.ids == text.ids
    assert set(table.nodes) == set(text.nodes)
    seen: set[Names] = {()}
    for names in table.nodes:
        assert names[:-1] in seen
        seen.add(names)


def test_leaves_are_the_nodes_that_are_above_no_other(tmp_path: Path) -> None:
    taxonomy = read_taxonomy(write(tmp_path, google(random_nodes(300, 5))))
    above = {names[:end] for names in taxonomy.nodes for end in range(1, len(names))}
    assert set(taxonomy.leaves) | above == set(taxonomy.nodes)
    assert not set(taxonomy.leaves) & above


@pytest.fixture
def apparel(tmp_path: Path) -> Taxonomy:
    return read_taxonomy(write(tmp_path, shopify_json(SHOPIFY), "taxonomy.json"))


def test_every_id_long_or_short_and_every_path_finds_its_node(apparel: Taxonomy) -> None:
    for id, path in SHOPIFY.items():
        names = tuple(path.split(" > "))
        for label in (id, SHOPIFY_ID + id, f" {id} ", path, path.replace(" > ", ">")):
            assert apparel.find(label, " > ") == names


@pytest.mark.parametrize("separator", [" > ", ">", " / ", "/", "|", "::"])
def test_space_around_names_and_separator_does_not_count(apparel: Taxonomy, separator: str) -> None:
    mark = separator.strip()
    for label in (f"Luggage & Bags{mark}Briefcases", f" Luggage & Bags  {mark} Briefcases "):
        assert apparel.find(label, separator) == ("Luggage & Bags", "Briefcases")
        assert apparel.resolve([label], separator, "x") == [f"Luggage & Bags{separator}Briefcases"]


def test_a_bare_name_finds_a_node_only_where_it_is_unique(tmp_path: Path) -> None:
    nodes = {"1": "Men", "2": "Men > Shoes", "3": "Men > Hats", "4": "Women", "5": "Women > Shoes"}
    taxonomy = read_taxonomy(write(tmp_path, google(nodes)))
    assert taxonomy.find("Hats", " > ") == ("Men", "Hats")
    assert taxonomy.find("Shoes", " > ") is None
    with pytest.raises(TaxonomyError) as caught:
        taxonomy.resolve([None, "Shoes"], " > ", "feed.csv")
    assert "feed.csv, row 2: 'Shoes' is the name of 2 nodes of taxonomy.txt" in str(caught.value)
    assert "'Men > Shoes', 'Women > Shoes'" in caught.value.message
    assert "path" in caught.value.hint


def test_labels_are_resolved_to_paths_and_none_stays(apparel: Taxonomy) -> None:
    labels = ["lb-2", None, "Shoes", "Apparel & Accessories>Clothing", "lb-2"]
    assert apparel.resolve(labels, " > ", "x") == [
        "Luggage & Bags > Briefcases",
        None,
        "Apparel & Accessories > Shoes",
        "Apparel & Accessories > Clothing",
        "Luggage & Bags > Briefcases",
    ]


@pytest.mark.parametrize(
    ("label", "meant"),
    [
        ("Luggage & Bags > Briefcase", "'Luggage & Bags > Briefcases'"),
        ("luggage & bags > briefcases", "'Luggage & Bags > Briefcases'"),
        ("Brief cases", "'Luggage & Bags > Briefcases'"),
        ("Apparel & Accessories > Outerwear", "'Apparel & Accessories > Clothing > Outerwear'"),
        ("Luggage & Bags > Xylophones", "'Luggage & Bags'"),
        ("Luggage & Bags > ", ""),
        ("zz-9", ""),
        ("", ""),
    ],
)
def test_unknown_label_is_named_with_its_row_and_the_closest_node(
    apparel: Taxonomy, label: str, meant: str
) -> None:
    with pytest.raises(TaxonomyError) as caught:
        apparel.resolve(["Shoes", None, label], " > ", "feed.csv, column 'category'")
    assert caught.value.message == (
        f"feed.csv, column 'category', row 3: {label!r} is no node of taxonomy.json"
    )
    assert f"Did you mean {meant}?" in caught.value.hint or not meant
    assert "write the path" in caught.value.hint


@pytest.mark.parametrize("label", ["1", "2", None])
def test_separator_that_is_in_the_name_of_any_node_is_refused(
    tmp_path: Path, label: str | None
) -> None:
    taxonomy = read_taxonomy(write(tmp_path, google({"1": "Tops", "2": "Tops > T-Shirts"})))
    with pytest.raises(TaxonomyError, match=r"'Tops > T-Shirts'.*'-'") as caught:
        taxonomy.resolve([label], "-", "feed")
    assert "--separator ' > '" in caught.value.hint


def test_attributes_are_a_node_s_own_list_else_that_of_the_nearest_ancestor(
    apparel: Taxonomy,
) -> None:
    def allows(id: str, attribute: str) -> bool | None:
        return apparel.allows(apparel.ids[SHOPIFY_ID + id], attribute)

    assert allows("aa", "pattern") is True
    assert allows("aa-1", "pattern") is False
    assert allows("aa-1-10", "pattern") is False
    assert allows("aa-1-10", "color") is True
    assert allows("aa-8", "color") is False
    assert allows("lb-2", "color") is False
    assert allows("lb-2", "Bag/Case material") is allows("lb-2", "bag_case_material") is True
    assert [allows("aa-1", name) for name in ("age_group", "Age-Group", "AGE  GROUP")] == [True] * 3
    assert allows("aa", "age group") is False
    assert [allows(id, "season") for id in SHOPIFY] == [None] * len(SHOPIFY)


def test_attributes_of_a_csv_are_parted_by_semicolons_and_an_empty_cell_inherits(
    tmp_path: Path,
) -> None:
    rows = "parent,child,attributes\n,Clothing,Color; sleeve_length;\nClothing,Shirts,\n,Food,\n"
    taxonomy = read_taxonomy(write(tmp_path, rows, "a.csv"))
    assert taxonomy.attributes == {("Clothing",): frozenset({"color", "sleeve length"})}
    assert taxonomy.allows(("Clothing", "Shirts"), "Sleeve-length") is True
    assert taxonomy.allows(("Food",), "color") is None
    assert taxonomy.allows(("Food",), "flavor") is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1 - A\n2 - A > B\n3 - A > B\n", ["line 4", "'A > B'", "twice", "line 3"]),
        ("1 - A\n1 - A > B\n", ["line 3", "'1'", "twice", "line 2"]),
        ("1 - A\n\n2 - C > D > E\n", ["line 4", "'C > D'", "nowhere", "'E'"]),
        ("1 - A\n2 - A >  > C\n", ["line 3", "empty name"]),
        ("1 - A\n2 - A > \n", ["line 3", "empty name"]),
        ("1 - A\n2 - A >\n", ["line 3", "empty name"]),
        ("1 - > A\n", ["line 2", "empty name"]),
        ("1 - \n", ["line 2", "empty name"]),
        ("1 - A\nA > B\n", ["line 3", "no id", "'A > B'"]),
        ("1 - A\n2 - A > B\tC\n", ["line 3", "control characters", r"'B\tC'"]),
        ("\n# nothing\n", ["no nodes"]),
    ],
)
def test_google_file_that_is_no_tree_is_refused_with_its_line(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    refused(write(tmp_path, GOOGLE_HEADER + text), *parts)


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        (",A\nA,B\n,B\n", ["line 4", "'B'", "twice", "line 3"]),
        (",A\nX,B\n", ["line 3", "'X'", "nowhere"]),
        (",A\nC,B\nB,C\n", ["line 3", "a cycle: 'B' below 'C' below 'B'"]),
        (",A\nD,X\nC,B\nB,C\nB,D\n", ["line 4", "a cycle: 'B' below 'C' below 'B'"]),
        ("A,A\n", ["line 2", "a cycle: 'A' below 'A'"]),
        (",A\nA, \n", ["line 3", "empty name"]),
        (",A\nA,A > B\n", ["line 3", "'A > B'", "' > '"]),
        (",A\nA,> B\n", ["line 3", "'> B'", "' > '"]),
        (',A\nA,"B\nC"\n', ["line 4", "control characters"]),
        (",A\nA,B, C\n", ["line 3", "3 and not 2 fields"]),
        (",A\nA\n", ["line 3", "1 and not 2 fields"]),
        (',A\nA,"B"C\n', ["line 3", "not CSV"]),
        (',A\nA,"B\n,C\n', ["line 4", "not CSV"]),
        ("", ["no nodes"]),
    ],
)
def test_csv_that_is_no_tree_is_refused_with_its_line(
    tmp_path: Path, rows: str, parts: list[str]
) -> None:
    refused(write(tmp_path, "parent,child\n" + rows, "a.csv"), *parts)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("child,name\n1,A\n", ["line 1", "'parent'", "'child', 'name'"]),
        ("parent;child\n;A\n", ["line 1", "'parent'", "'parent;child'"]),
        ("parent,child,child\n,A,B\n", ["line 1", "'child' twice"]),
        ("parent,child,name\n,1,\n", ["line 2", "empty name"]),
        ("parent,child,name\n,,A\n", ["line 2", "empty name"]),
        ("parent,child,name\n,1,A\n1,2,B\n1,3,B\n", ["line 4", "'A > B'", "twice", "line 3"]),
    ],
)
def test_csv_of_other_columns_or_like_paths_is_refused(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    refused(write(tmp_path, text, "a.csv"), *parts)


def test_like_names_in_a_csv_of_names_are_told_to_take_ids(tmp_path: Path) -> None:
    rows = "parent,child\n,Men\n,Women\nMen,Shoes\nWomen,Shoes\n"
    assert "parent,child,name" in refused(write(tmp_path, rows, "a.csv"), "line 5", "'Shoes'").hint


@pytest.mark.parametrize(
    ("categories", "parts"),
    [
        ([category("aa", "A", None)] * 2, [f"id '{SHOPIFY_ID}aa'", "twice"]),
        ([category("aa", "A", None), category("bb", "A", None)], ["bb'", "'A'", "twice", "aa'"]),
        ([category("aa-1", "A > B", "aa")], ["aa-1'", f"'{SHOPIFY_ID}aa'", "nowhere"]),
        ([category("aa", "A", "bb"), category("bb", "B", "aa")], ["aa'", "a cycle"]),
        ([category("aa", " ", None)], ["aa'", "empty name"]),
        ([category("aa", "A\u0007", None)], ["aa'", "control characters"]),
        ([category("aa", "A\ufffd", None)], ["aa'", "not UTF-8"]),
        ([category("aa", "A", None) | {"name": "A > B"}], ["aa'", "'A > B'", "' > '"]),
        ([category("aa", "A", None) | {"name": 1}], ["$.verticals[0].categories[0].name"]),
        ([{"id": "aa", "name": "A"}], ["parent_id"]),
        ([], ["no nodes"]),
    ],
)
def test_json_that_is_no_tree_is_refused_with_its_id(
    tmp_path: Path, categories: list[object], parts: list[str]
) -> None:
    refused(write(tmp_path, vertical_json(categories), "taxonomy.json"), *parts)


@pytest.mark.parametrize(
    ("text", "name", "parts"),
    [
        ("", "a.txt", ["empty"]),
        (" \n\n", "a.csv", ["empty"]),
        ("Shoes\nBags\n", "a.txt", ["line 1", "'Shoes'"]),
        ("# Shopify Product Taxonomy - Attributes: 2024-07\n", "a.txt", ["line 1", "Attributes"]),
        ("parent,child\n,A\n", "a.xlsx", ["line 1", "'parent,child'"]),
        ('{"verticals": [', "a.json", ["not Shopify's JSON"]),
        ('{"version": "1", "attributes": []}', "a.json", ["not Shopify's JSON", "verticals"]),
        ("parent,child", "a.json", ["not Shopify's JSON"]),
    ],
)
def test_file_of_an_unknown_format_is_refused_with_those_that_are_read(
    tmp_path: Path, text: str, name: str, parts: list[str]
) -> None:
    hint = refused(write(tmp_path, text, name), *parts).hint
    for known in ("taxonomy-with-ids.en-US.txt", "categories.json", "parent,child"):
        assert known in hint


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json"])
def test_file_that_is_not_utf8_is_refused_with_the_repairing_command(
    tmp_path: Path, name: str
) -> None:
    error = refused(write(tmp_path, "a\nb\ngröße\n".encode("latin-1"), name), "line 3", "UTF-8")
    assert "iconv" in error.hint


def test_letters_that_are_composed_otherwise_are_the_same(tmp_path: Path) -> None:
    text = "parent,child\n,Gru\u0308n\nGru\u0308n,Moos\n"  # decomposed; a catalog is composed
    read = read_taxonomy(write(tmp_path, text, "a.csv"))
    assert read.resolve(["Gr\u00fcn > Moos"], " > ", "x") == ["Gr\u00fcn > Moos"]


def test_blank_lines_before_the_header_do_not_count(tmp_path: Path) -> None:
    text = "\n\r\n# Google_Product_Taxonomy_Version: 2021-09-21\n1 - A\n2 - A > B\n"
    assert read_taxonomy(write(tmp_path, text, "a.txt")).nodes == (("A",), ("A", "B"))


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.txt", "No such file")
    refused(tmp_path, "directory")


def test_twelve_thousand_nodes_read_and_a_wrong_label_is_answered_in_a_second(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, google(random_nodes(12_000, 0)))
    start = time.perf_counter()
    taxonomy = read_taxonomy(path)
    with pytest.raises(TaxonomyError, match="no node"):
        taxonomy.resolve(["Top 0 > T-Shirt 11 999"], " > ", "x")
    assert len(taxonomy.nodes) == 12_000
    assert time.perf_counter() - start < 2  # a tenth of it here; room for a busy machine
