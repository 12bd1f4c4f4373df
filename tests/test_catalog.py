"""Catalogs come in exactly as they were written."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as parquet_encryption
import pytest

from tagger.catalog import CSV_BLOCK_BYTES, Catalog, Columns, strings
from tagger.errors import CatalogChangedError, CatalogError, UsageError
from tagger.products import ProductSource, input_columns, read_products
from tagger.tasks import learn_task

from .conftest import MakeCatalog

ALPHABET = [
    *"aA0 ,;\"'\n\r\t|é漢😀",
    "NA",
    "null",
    "NaN",
    "007",
    "1e5",
    "true",
    "None",
    "#N/A",
]


def write(folder: Path, content: bytes | str, name: str = "catalog.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(path: Path, batch_rows: int = 1000) -> list[dict[str, object]]:
    return [row for batch in Catalog(path).batches(batch_rows) for row in batch.to_pylist()]


@pytest.mark.parametrize("field", ["NA", "007", "null", "NaN", "1e5", "2024-01-02", "true", " x "])
def test_csv_field_stays_the_string_that_was_written(tmp_path: Path, field: str) -> None:
    path = write(tmp_path, f"title,image\n{field},a.jpg\n")
    assert rows_of(path) == [{"title": field, "image": "a.jpg"}]


def test_csv_empty_field_is_null_and_quoted_empty_field_is_the_empty_string(tmp_path: Path) -> None:
    path = write(tmp_path, 'title,image\n,a.jpg\n"",b.jpg\n')
    assert [row["title"] for row in rows_of(path)] == [None, ""]


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("title\nred\n\nblue\n", ["red", None, "blue"]),
        ("title,id\nred,1\n\nblue,2\n", ["red", "blue"]),
    ],
)
def test_blank_line_is_a_product_only_where_a_row_is_a_single_field(
    tmp_path: Path, text: str, titles: list[str | None]
) -> None:
    assert [row["title"] for row in rows_of(write(tmp_path, text))] == titles


@pytest.mark.parametrize("seed", range(5))
def test_csv_of_any_strings_reads_back_unchanged(make_catalog: MakeCatalog, seed: int) -> None:
    rng = np.random.default_rng(seed)

    def text() -> str | None:
        return "".join(rng.choice(ALPHABET, rng.integers(0, 6))) if rng.random() < 0.9 else None

    rows = [{"image": f"{n}.jpg", "title": text(), "a b": text()} for n in range(200)]
    assert rows_of(make_catalog(rows, "catalog.csv"), 7) == rows


def test_csv_field_with_newlines_survives_the_boundary_of_a_block(
    make_catalog: MakeCatalog,
) -> None:
    long = "line\n" * (CSV_BLOCK_BYTES // 60)
    rows = [{"id": str(number), "title": f"{number}\n{long}"} for number in range(20)]
    assert rows_of(make_catalog(rows, "catalog.csv")) == rows


@pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_reads_with_any_newline_and_byte_order_mark(
    tmp_path: Path, prefix: bytes, newline: str
) -> None:
    text = newline.join(["image,title", 'a.jpg,"red, ""big"""', "b.jpg,blue"])
    assert rows_of(write(tmp_path, prefix + text.encode())) == [
        {"image": "a.jpg", "title": 'red, "big"'},
        {"image": "b.jpg", "title": "blue"},
    ]


def test_csv_row_that_is_too_long_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, "title,n\n" + "x" * (3 * CSV_BLOCK_BYTES) + ",1\n")
    with pytest.raises(CatalogError, match="a row of more than") as caught:
        rows_of(path)
    assert "Parquet" in caught.value.hint


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", ["", "\n", "\n4,black\n", '""\n4,black\n', '\n4,5"" pipe'])
def test_csv_whose_quotes_are_never_closed_is_refused_by_their_row(
    tmp_path: Path, ending: str, newline: str
) -> None:
    text = f'id,title\n1,red\n2,"green"\n3,"blue{ending}'.replace("\n", newline)
    with pytest.raises(CatalogError, match="open in row 3, before 'blue") as caught:
        _ = Catalog(write(tmp_path, text)).num_rows
    assert "close them" in caught.value.hint


@pytest.mark.parametrize("newline", ["", "\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("field", ['5" pipe', '"a\nb"', '"a"""', '""', '""""', '"\n"', '"a"b"'])
def test_csv_whose_last_field_has_closed_quotes_or_none_is_read(
    tmp_path: Path, field: str, newline: str
) -> None:
    assert Catalog(write(tmp_path, f"id,title\n1,a\n2,{field}{newline}")).num_rows == 2


@pytest.mark.parametrize("text", ["image,title\na.jpg,größe\n", "image,größe\na.jpg,b\n"])
def test_csv_that_is_not_utf8_is_refused_with_the_repairing_command(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(CatalogError, match=r"catalog\.csv") as caught:
        Catalog(write(tmp_path, text.encode("latin-1")))
    assert "UTF-8" in caught.value.hint


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.parquet"])
def test_a_column_that_is_there_twice_is_a_catalog_error(tmp_path: Path, name: str) -> None:
    if name.endswith("csv"):
        path = write(tmp_path, "image,title,title\na.jpg,b,c\n")
    else:
        path = tmp_path / name
        pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["image", "title", "title"]), path)
    with pytest.raises(CatalogError, match="title"):
        read_products(path, Columns(), [])


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 64, 1000])
@pytest.mark.parametrize("name", ["catalog.csv", "catalog.parquet"])
def test_batches_hold_all_rows_in_order_at_any_size(
    make_catalog: MakeCatalog, name: str, batch_rows: int
) -> None:
    path = make_catalog([{"title": str(n)} for n in range(130)], name)
    batches = list(Catalog(path).batches(batch_rows))
    assert all(0 < batch.num_rows <= batch_rows for batch in batches)
    assert [title for b in batches for title in b.column("title").to_pylist()] == [
        str(n) for n in range(130)
    ]


@pytest.mark.parametrize("name", ["catalog.csv", "catalog.parquet"])
def test_named_columns_come_alone_and_in_their_order(make_catalog: MakeCatalog, name: str) -> None:
    path = make_catalog([{"title": "a", "price": "1", "price.eur": "2", "note": "b"}] * 3, name)
    for columns in (["price.eur", "title"], ["price"], ["note", "price", "title", "price.eur"]):
        for batch in Catalog(path).batches(2, 1, columns):
            assert batch.schema.names == columns
    assert Catalog(path).read(["price", "title"]).to_pylist() == [{"price": "1", "title": "a"}] * 3


def test_columns_that_are_not_named_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"title": ["red"] * 9, "image": [os.urandom(1000)] * 9}), path)
    catalog = Catalog(path)
    chunk = pq.read_metadata(path).row_group(0).column(1)
    with open(path, "rb+") as file:
        file.seek(chunk.dictionary_page_offset)
        file.write(bytes(chunk.total_compressed_size))
    assert catalog.read(["title"])["title"].to_pylist() == ["red"] * 9
    with pytest.raises(CatalogError):
        catalog.read(["title", "image"])


def test_directory_of_parts_is_read_in_the_order_of_names(make_catalog: MakeCatalog) -> None:
    for part in (10, 2, 1):
        make_catalog([{"title": f"{part}-{n}"} for n in range(3)], f"feed/part-{part:02d}.parquet")
    make_catalog([{"title": "hidden"}], "feed/.tmp.parquet")
    catalog = Catalog(make_catalog([{"title": "a note"}], "feed/notes.csv").parent)
    assert catalog.num_rows == 9
    assert catalog.read(["title"])["title"].to_pylist() == [
        f"{part}-{n}" for part in (1, 2, 10) for n in range(3)
    ]


def test_parts_of_different_schemas_are_refused_by_name(make_catalog: MakeCatalog) -> None:
    make_catalog([{"title": "a"}], "feed/1.parquet")
    folder = make_catalog([{"title": "a", "price": 1}], "feed/2.parquet").parent
    with pytest.raises(CatalogError, match=r"2\.parquet has other columns or types than 1\.parq"):
        Catalog(folder)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "a.csv", "a.csv"),
        ("image,title\n", "a.csv", "no rows"),
        ("image,title", "a.csv", "a.csv"),
        ("image,title\na.jpg\n", "a.csv", "Expected 2 columns, got 1"),
        ("PAR1 it is not", "a.parquet", "a.parquet"),
        ("", "a.parquet", "a.parquet"),
        ("x", "a.xlsx", "ends in .parquet or .csv, not '.xlsx'"),
        ("x", "catalog", "ends in .parquet or .csv, not ''"),
    ],
)
def test_file_that_is_no_catalog_is_refused_with_a_hint(
    tmp_path: Path, content: str, name: str, message: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        Catalog(write(tmp_path, content, name))
    assert message in caught.value.message
    assert str(tmp_path / name) in caught.value.message
    assert caught.value.hint


def test_missing_catalog_names_the_catalogs_beside_it(make_catalog: MakeCatalog) -> None:
    there = make_catalog([{"title": "a"}], "products.csv")
    with pytest.raises(CatalogError, match="no such catalog") as caught:
        Catalog(there.with_name("product.csv"))
    assert "'products.csv'" in caught.value.hint
    with pytest.raises(CatalogError) as caught:
        Catalog(there.parent / "nowhere" / "a.csv")
    assert "no folder" in caught.value.hint


def test_empty_parquet_and_a_folder_without_parts_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"title": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(CatalogError, match="has no rows"):
        Catalog(tmp_path / "a.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CatalogError, match=r"without \.parquet files"):
        Catalog(tmp_path / "empty")


def test_wrong_column_names_those_that_are_there(make_catalog: MakeCatalog) -> None:
    catalog = Catalog(make_catalog([{"picture": "a", "name": "b"}]))
    with pytest.raises(CatalogError, match="it has: 'picture', 'name'") as caught:
        input_columns(catalog, Columns())
    assert "--image-column" in caught.value.hint
    capital = Catalog(make_catalog([{"image": "a", "Title": "b"}], "capital.csv"))
    with pytest.raises(CatalogError, match="no column 'title', but 'Title'") as caught:
        input_columns(capital, Columns())
    assert "--title-column Title" in caught.value.hint
    with pytest.raises(CatalogError, match="no column 'pictures'") as caught:
        input_columns(catalog, Columns(image="pictures"))
    assert "Did you mean 'picture'?" in caught.value.hint
    with pytest.raises(CatalogError, match="no label column 'color'; it has: 'picture'"):
        read_products(catalog.path, Columns("picture", "name"), ["color"])


def test_damaged_second_half_is_a_catalog_error_while_streaming(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2000, 40)).astype(np.uint8)
    titles = [row.tobytes().hex() for row in noise]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"title": titles}), path, row_group_size=1000, compression="zstd")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 + 2000
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(CatalogError, match=r"a\.parquet"):
        list(Catalog(path).batches(64))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_columns_of_every_string_type_are_text(kind: pa.DataType) -> None:
    batch = pa.record_batch({"title": pa.array(["a", "", "  ", None, "é"]).cast(kind)})
    expected = ["a", None, None, None, "é"]
    assert strings(batch, "title", Path("x")) == expected
    pieces = pa.Table.from_batches([batch, batch])
    assert strings(pieces, "title", Path("x")) == expected * 2


def test_column_without_a_text_form_is_a_catalog_error() -> None:
    batch = pa.record_batch({"title": pa.array([["a"], ["b"]])})
    with pytest.raises(CatalogError, match=r"'title' holds list.*not text"):
        strings(batch, "title", Path("x"))


def test_batches_carry_no_categories_but_those_of_their_rows(tmp_path: Path) -> None:
    names = [f"brand {k}" for k in range(3000)]
    path = tmp_path / "catalog.parquet"
    table = pa.table({"title": names, "brand": pa.array(names).dictionary_encode()})
    pq.write_table(table, path)
    batches = list(Catalog(path).batches(64))
    assert [row["brand"] for batch in batches for row in batch.to_pylist()] == names
    assert all(batch.schema == Catalog(path).schema for batch in batches)
    assert max(len(batch["brand"].dictionary) for batch in batches) == 64


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([b"\x00\xff", b"b"], pa.binary()),
        pa.array([b"\x00\xff", b"bb"], pa.binary(2)),
        pa.array([[1], [2]]),
        pa.array([b"\x00" * 16, b"\xff" * 16], pa.uuid()),
    ],
)
def test_ids_without_a_text_form_are_no_ids(tmp_path: Path, ids: pa.Array) -> None:
    path = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"id": ids, "title": ["red", "blue"]}), path)
    assert read_products(path, Columns(), []).ids == [None, None]


@pytest.mark.parametrize("limit", [1, 63, 64, 100, 5000])
def test_no_more_rows_are_read_than_asked_for(tmp_path: Path, limit: int) -> None:
    """What stands behind them may be damaged."""
    path = tmp_path / "catalog.parquet"
    titles = [f"title {k} " + "x" * 50 for k in range(6000)]
    pq.write_table(pa.table({"title": titles}), path, row_group_size=100, compression="none")
    assert read_products(path, Columns(), [], limit).titles == titles[:limit]
    if limit <= 100:
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 2000] = b"\0" * 2000
        path.write_bytes(content)
        assert read_products(path, Columns(), [], limit).titles == titles[:limit]


def test_column_in_the_names_of_folders_is_not_lost_in_silence(tmp_path: Path) -> None:
    for country in ("DE", "FR"):
        (tmp_path / "feed" / f"country={country}").mkdir(parents=True)
        pq.write_table(
            pa.table({"title": [country]}), tmp_path / "feed" / f"country={country}" / "p.parquet"
        )
    with pytest.raises(CatalogError, match="country=DE"):
        Catalog(tmp_path / "feed")


def test_parts_may_end_in_pq(tmp_path: Path) -> None:
    (tmp_path / "feed").mkdir()
    for name in ("a.parquet", "b.pq"):
        pq.write_table(pa.table({"title": [name]}), tmp_path / "feed" / name)
    assert rows_of(tmp_path / "feed") == [{"title": "a.parquet"}, {"title": "b.pq"}]


def test_parts_that_begin_with_an_underscore_or_a_dot_are_no_data(
    make_catalog: MakeCatalog, tmp_path: Path
) -> None:
    for name in ("a.parquet", "_b.parquet", ".c.parquet", "_d/e.parquet"):
        make_catalog([{"title": name}], f"feed/{name}")
    assert rows_of(tmp_path / "feed") == [{"title": "a.parquet"}]


def test_parts_of_any_spelling_and_in_linked_folders_are_read(tmp_path: Path) -> None:
    feed, real = tmp_path / "feed", tmp_path / "real"
    feed.mkdir()
    real.mkdir()
    for path in (feed / "a.parquet", feed / "B.PARQUET", real / "c.Pq"):
        pq.write_table(pa.table({"title": [path.name]}), path)
    (feed / "linked").symlink_to(real)
    (feed / "again").symlink_to(real)  # of two ways to one folder, one is taken
    (feed / "up").symlink_to(feed)  # a link that leads back up adds nothing, and has an end
    (real / "up").symlink_to(tmp_path / "feed")
    titles = [row["title"] for row in rows_of(feed)]
    assert titles == ["B.PARQUET", "a.parquet", "c.Pq"]


def test_catalog_that_goes_away_is_a_catalog_error(make_catalog: MakeCatalog) -> None:
    path = make_catalog([{"title": "a"}], "gone.csv")
    catalog = Catalog(path)
    path.unlink()
    with pytest.raises(CatalogError, match="cannot be read"):
        _ = catalog.sha256
    (path.parent / "feed").mkdir()
    (path.parent / "feed" / "a.parquet").symlink_to(path)
    with pytest.raises(CatalogError, match="cannot be read"):
        Catalog(path.parent / "feed")


@pytest.mark.parametrize("change", ["time", "size", "replaced", "added"])
def test_catalog_has_changed_by_each_trace_that_a_writer_leaves(
    make_catalog: MakeCatalog, tmp_path: Path, change: str
) -> None:
    path = make_catalog([{"title": "red"}], "feed/a.parquet")
    other = make_catalog([{"title": "tan"}], "b.parquet")
    for file in (path, other):
        os.utime(file, (1, 1))
    catalog = Catalog(path.parent)
    catalog.check_unchanged()
    if change == "time":
        os.utime(path, (2, 2))
    elif change == "size":
        with open(path, "ab") as content:
            content.write(b"more")
        os.utime(path, (1, 1))
    else:
        assert other.stat().st_size == path.stat().st_size
        os.replace(other, path if change == "replaced" else path.with_name("b.parquet"))
    with pytest.raises(CatalogChangedError):
        catalog.check_unchanged()


def test_folder_that_cannot_be_listed_is_a_catalog_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("os.scandir", refused)
    with pytest.raises(CatalogError, match="Permission denied"):
        Catalog(tmp_path)


def test_image_root_that_is_no_folder_is_refused(make_catalog: MakeCatalog) -> None:
    path = make_catalog([{"title": "a"}])
    for root in (path, path.parent / "nowhere"):
        with pytest.raises(UsageError, match="--image-root"):
            ProductSource(path, image_root=root)


def test_utf16_is_told_how_to_become_utf8(tmp_path: Path) -> None:
    path = tmp_path / "catalog.csv"
    path.write_text("title,image\nred,\n", encoding="utf-16")
    with pytest.raises(CatalogError) as caught:
        Catalog(path)
    assert "iconv -f UTF-16 " in caught.value.hint


def test_file_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    name = tmp_path / "caf\udce9.csv"
    name.write_text("title\nred\n")
    with pytest.raises(CatalogError, match="not UTF-8"):
        Catalog(name)


def test_labels_that_are_not_utf8_are_not_learned(tmp_path: Path) -> None:
    raw = pa.array([b"R\xf6d", b"Gr\xf6n", b"Blue"] * 9, pa.binary())
    labels = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    path = tmp_path / "catalog.parquet"
    pq.write_table(pa.table({"title": ["a"] * len(raw), "color": labels}), path)
    read = read_products(path, Columns(), ["color"]).labels["color"]
    assert read[:3] == ["R\ufffdd", "Gr\ufffdn", "Blue"]
    task, left_out = learn_task("color", read, 8)
    assert task.labels == ("Blue",)
    assert len(left_out) == 2


def test_numbers_that_are_none_are_missing() -> None:
    batch = pa.record_batch({"size": pa.array([42.0, float("nan"), None, -0.5])})
    assert strings(batch, "size", Path("x")) == ["42", None, None, "-0.5"]


def test_space_around_a_label_and_the_form_of_its_letters_make_no_other_label(
    tmp_path: Path,
) -> None:
    path = tmp_path / "catalog.parquet"
    spellings = ["Gr\u00fcn", "Gru\u0308n", " Gr\u00fcn\t", "Blue", "Blue "]
    pq.write_table(pa.table({"title": ["a"] * 5, "color": spellings}), path)
    read = read_products(path, Columns(), ["color"]).labels["color"]
    assert read == ["Gr\u00fcn"] * 3 + ["Blue"] * 2


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_without_commas_says_what_parts_its_fields(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "catalog.csv"
    path.write_text(f"id{mark}image{mark}title\n1{mark}a.jpg{mark}red\n")
    with pytest.raises(CatalogError, match="has one column") as caught:
        input_columns(Catalog(path), Columns())
    run_hint(caught.value.hint.removeprefix("write it with commas: "))
    assert Catalog(tmp_path / "catalog.new.csv").schema.names == ["id", "image", "title"]


def run_hint(command: str) -> None:
    """Run what a hint says, by the Python of the tests."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True)


def test_tsv_is_written_with_commas_as_the_hint_says(tmp_path: Path) -> None:
    path = tmp_path / 'my "feed".tsv'
    path.write_text("id\timage\ttitle\n007\t\tNA, red\n")
    with pytest.raises(CatalogError, match=r"ends in .parquet or .csv, not '.tsv'") as caught:
        Catalog(path)
    run_hint(caught.value.hint.removeprefix("write it with commas: "))
    table = Catalog(path.with_suffix(".csv")).read(["id", "image", "title"])
    assert table.to_pylist() == [{"id": "007", "image": None, "title": "NA, red"}]


@pytest.mark.parametrize("first", ["sep=,\n", '"sep=,"\r\n', "\ufeffsep=;\n"])
def test_note_to_excel_in_the_first_line_is_deleted_as_the_hint_says(
    tmp_path: Path, first: str
) -> None:
    path = write(tmp_path, f"{first}id,title\n1,red\n", "my feed.csv")
    with pytest.raises(CatalogError, match="its first line, 'sep=") as caught:
        Catalog(path)
    command = caught.value.hint.removeprefix("delete it: ")
    subprocess.run(["sh", "-c", command], check=True)
    assert Catalog(tmp_path / "my feed.new.csv").schema.names == ["id", "title"]


def test_booleans_are_one_label_from_parquet_and_from_the_csv_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"title": list("abc"), "organic": [True, None, False]})
    frame.astype({"organic": "boolean"}).to_parquet(tmp_path / "catalog.parquet")
    frame.to_csv(tmp_path / "catalog.csv", index=False)
    for name in ("catalog.parquet", "catalog.csv"):
        products = ProductSource(tmp_path / name).read(["organic"])
        assert products.labels["organic"] == ["True", None, "False"]


def test_nested_column_that_arrow_cannot_read_is_named(tmp_path: Path) -> None:
    sizes = pa.array([str(n) for n in range(500)]).dictionary_encode()
    lists = pa.ListArray.from_arrays(pa.array(range(501), pa.int32()), sizes)
    table = pa.table({"title": ["a"] * 500, "tags": [["b"]] * 500, "sizes": lists})
    pq.write_table(table, tmp_path / "feed.parquet", row_group_size=100)
    with pytest.raises(CatalogError, match="does not read the nested 'sizes'") as caught:
        rows_of(tmp_path / "feed.parquet")
    assert "without categories" in caught.value.hint


class PlainKeys(parquet_encryption.KmsClient):
    """Keys that are what they are called."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return wrapped_key


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_encrypted_catalog_is_called_that(tmp_path: Path, plaintext_footer: bool) -> None:
    factory = parquet_encryption.CryptoFactory(lambda _: PlainKeys())
    properties = factory.file_encryption_properties(
        parquet_encryption.KmsConnectionConfig(),
        parquet_encryption.EncryptionConfiguration(
            footer_key="f", column_keys={"k": ["title"]}, plaintext_footer=plaintext_footer
        ),
    )
    table, path = pa.table({"title": ["red"]}), tmp_path / "feed.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(CatalogError, match="it is encrypted") as caught:
        rows_of(path)
    assert "decrypt it first" in caught.value.hint
