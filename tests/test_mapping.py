"""Mapping files: each node gets the target of its own line, else of its nearest ancestor's."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tagger.errors import TaxonomyError
from tagger.mapping import read_mapping

NODES = ("Shoes > Boots > Rain", "Shoes", "Bags", "Shoes > Boots", "Shoes > Sandals")


def write(folder: Path, rows: str | bytes) -> Path:
    path = folder / "mapping.csv"
    path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    return path


def refused(path: Path, nodes: tuple[str, ...], *parts: str) -> TaxonomyError:
    """The error that reading `path` raises; its message has the file and all `parts`."""
    with pytest.raises(TaxonomyError) as caught:
        read_mapping(path, nodes, " > ")
    for part in (str(path), *parts):
        assert part in caught.value.message
    assert caught.value.hint
    return caught.value


def test_own_line_comes_first_and_then_that_of_the_nearest_ancestor(tmp_path: Path) -> None:
    rows = "from,to\nShoes,A > Shoes\nBags,B\nShoes > Boots,A > Boots\n"
    assert read_mapping(write(tmp_path, rows), NODES, " > ") == (
        "A > Boots",
        "A > Shoes",
        "B",
        "A > Boots",
        "A > Shoes",
    )


@pytest.mark.parametrize("seed", range(5))
def test_order_of_nodes_and_lines_does_not_matter(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = [f"{node},T{number}\n" for number, node in enumerate(NODES)]
    nodes = rng.sample(NODES, len(NODES))
    path = write(tmp_path, "from,to\n" + "".join(rng.sample(lines, 5)))
    expected = tuple(f"T{NODES.index(node)}" for node in nodes)
    assert read_mapping(path, nodes, " > ") == expected


def test_a_line_for_an_ancestor_that_is_no_node_itself_counts(tmp_path: Path) -> None:
    path = write(tmp_path, "from,to\nShoes,S\n")
    assert read_mapping(path, ["Shoes > Boots > Rain", "Shoes > Sandals"], " > ") == ("S", "S")


def test_inner_node_without_a_line_becomes_what_all_below_it_have_in_common(tmp_path: Path) -> None:
    rows = "from,to\nShoes > Sandals,A > F > S\nShoes > Boots > Rain,A > F > B > R\nBags,B\n"
    nodes = ("Shoes", "Shoes > Boots", *NODES[:1], "Shoes > Sandals", "Bags")
    assert read_mapping(write(tmp_path, rows), nodes, " > ") == (
        "A > F",
        "A > F > B > R",
        "A > F > B > R",
        "A > F > S",
        "B",
    )


def test_inner_node_whose_children_go_to_different_trees_becomes_nothing(tmp_path: Path) -> None:
    rows = "from,to\nShoes > Sandals,A > S\nShoes > Boots,B > S\n"
    nodes = ("Shoes", "Shoes > Sandals", "Shoes > Boots")
    assert read_mapping(write(tmp_path, rows), nodes, " > ") == (None, "A > S", "B > S")


def test_inner_node_with_a_child_that_becomes_nothing_becomes_nothing(tmp_path: Path) -> None:
    rows = "from,to\nS > X > a,A\nS > X > b,B\nS > Y,A > q\n"
    nodes = ("S > X > a", "S > X > b", "S > Y", "S", "S > X")
    assert read_mapping(write(tmp_path, rows), nodes, " > ") == ("A", "B", "A > q", None, None)


def test_a_sibling_whose_name_starts_alike_is_no_ancestor(tmp_path: Path) -> None:
    path = write(tmp_path, "from,to\nShoes,S\n")
    refused(path, ("Shoes", "Shoes & Care"), "'Shoes & Care'")


@pytest.mark.parametrize("separator", [" > ", ">", "/", " / "])
def test_space_around_the_separator_is_as_in_the_nodes(tmp_path: Path, separator: str) -> None:
    mark = separator.strip()
    rows = f"from,to\n Shoes{mark}Boots ,A  {mark}B{mark} C\nShoes,S\n"
    nodes = [f"Shoes{separator}Boots", "Shoes"]
    assert read_mapping(write(tmp_path, rows), nodes, separator) == (
        f"A{separator}B{separator}C",
        "S",
    )


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_newline_byte_order_mark_column_order_and_quotes(
    tmp_path: Path, newline: str, prefix: bytes
) -> None:
    text = newline.join(["note,to,from", ',"Food, Dry",Bags', ",,", "x,Food,Elsewhere", ""])
    assert read_mapping(write(tmp_path, prefix + text.encode()), ["Bags"], " > ") == ("Food, Dry",)


def test_lines_for_other_nodes_and_a_line_said_again_are_fine(tmp_path: Path) -> None:
    rows = "from,to\nToys,T\nBags,B > C\nBags,B>C\nToys > Cars,T\n"
    assert read_mapping(write(tmp_path, rows), ["Bags"], " > ") == ("B > C",)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("from,target\nBags,B\n", ["line 1", "'to'", "'from', 'target'"]),
        ("from,to,to\nBags,B,C\n", ["line 1", "'to' twice"]),
        ("from,to\nShoes,S\nBags,\n", ["line 3", "column 'to'", "empty"]),
        ("from,to\nShoes,S\n ,B\n", ["line 3", "column 'from'", "empty"]),
        ("from,to\nShoes > ,S\n", ["line 2", "column 'from'", "empty"]),
        ("from,to\nBags,B\nShoes,S\nBags,C\n", ["line 4", "'Bags'", "'C'", "line 2", "'B'"]),
        ("from,to\nBags,B\x07\n", ["line 2", "column 'to'", "control characters"]),
        ("from,to\nBags,B,C\n", ["line 2", "3 and not 2 fields"]),
        ('from,to\nBags,"B"x\n', ["line 2", "not CSV"]),
        ("from,to\n", ["no lines"]),
        ("", ["no lines"]),
        (b"from,to\nBags,gr\xf6\xdfe\n", ["line 2", "not UTF-8"]),
    ],
)
def test_file_that_is_no_mapping_is_refused_with_its_line(
    tmp_path: Path, text: str | bytes, parts: list[str]
) -> None:
    refused(write(tmp_path, text), NODES, *parts)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.csv", NODES, "No such file")


def test_mapping_of_another_taxonomy_is_refused_with_the_closest_node(tmp_path: Path) -> None:
    path = write(tmp_path, "from,to\nShoes > Sandal,S\nToys,T\n")
    error = refused(path, ("Shoes > Sandals", "Bags"), "line 2", "'Shoes > Sandal'")
    assert "Did you mean 'Shoes > Sandals'?" in error.hint


def test_nodes_without_a_target_are_named_from_the_top(tmp_path: Path) -> None:
    error = refused(write(tmp_path, "from,to\nBags,B\n"), NODES, "no line for 'Shoes', nor")
    assert '"Shoes",' in error.hint
    many = tuple(f"Top {n}" for n in range(9))
    error = refused(
        write(tmp_path, "from,to\nBags,B\n"), ("Bags", *many), "'Top 0', 'Top 1', 'Top 2' and 6"
    )
    below = refused(
        write(tmp_path, "from,to\nBags,B\nShoes > Boots,S\n"),
        ("Bags", "Shoes > Boots > Rain", "Shoes > Sandals"),
        "no line for 'Shoes > Sandals', nor",
    )
    assert "Boots" not in below.message
    # A node has what those below it have in common: only the leaf without a line is missing.
    deep = ("Shoes > Boots > Rain", "Shoes > Boots > Snow", "Shoes > Sandals", "Shoes")
    lines = "from,to\nShoes > Boots > Rain,R\nShoes > Sandals,S\n"
    refused(write(tmp_path, lines), deep, "no line for 'Shoes > Boots > Snow', nor")
