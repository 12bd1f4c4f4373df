"""Kinds of columns, and what else must be known of what files hold: dictionaries, broken text."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

FEW_CATEGORIES = 64
"""That stay whole in each batch, which has about as many rows: they do not make it large."""

RANKING = pa.list_(pa.struct([("label", pa.string()), ("confidence", pa.float32())]))
"""The likeliest labels of a product, best first."""


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of that type holds bytes, such as those of picture files."""
    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    )


def has_text_form(kind: pa.DataType) -> bool:
    """Whether `catalog.strings` reads it: no bytes, lists, structs or extensions (UUIDs)."""
    return not (
        is_bytes(kind) or pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)
    )


def with_own_dictionaries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch`, whose categories are those of its own rows alone where they are many.

    A slice carries those of the whole file along, and whoever writes it writes them all. Ordered
    ones stay: their order is a property of the whole column. So do a few: S, M, L is an order, too,
    even where nobody says so, and a size that no product has is still one.
    """
    if not any(map(_can_be_coded_anew, batch.schema.types)):
        return batch
    columns = [
        column.cast(column.type.value_type).dictionary_encode().cast(column.type)
        if _can_be_coded_anew(column.type) and len(column.dictionary) > FEW_CATEGORIES
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)


def _can_be_coded_anew(kind: pa.DataType) -> bool:
    if not pa.types.is_dictionary(kind) or kind.ordered:
        return False
    # Arrow cannot gather views.
    return not (
        pa.types.is_string_view(kind.value_type) or pa.types.is_binary_view(kind.value_type)
    )


def as_file(path: Path) -> Path:
    """`path` as Arrow takes it for one: a relative "out:v2" would be an address."""
    return path.absolute() if ":" in str(path) else path


def valid_text(text: str) -> str:
    """`text` as any file and terminal can hold it: bytes that were not UTF-8 become U+FFFD."""
    return _SURROGATES.sub("\ufffd", text)


_SURROGATES = re.compile("[\ud800-\udfff]")
