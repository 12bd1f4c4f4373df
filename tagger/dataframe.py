"""The image and the title column of a DataFrame, as a catalog file would hold them."""

from __future__ import annotations

import os

import pandas as pd
import pyarrow as pa

from tagger.errors import CatalogError

_BYTES = (bytes, bytearray, memoryview)


def titles_in_arrow(titles: pd.Series, name: str) -> pa.ChunkedArray:
    """The column `name` in Arrow; text that is not UTF-8 keeps its bytes, as in a file.

    Raises:
        CatalogError: it holds values of several kinds.
    """
    if _is_mixed(titles):
        raise _no_one_kind(name, "it holds both", "make text of the bytes: value.decode()")
    try:
        return _in_arrow(titles)
    except (pa.ArrowException, OverflowError) as error:
        convert = f'convert it: dataframe[{name!r}] = dataframe[{name!r}].astype("string")'
        raise _no_one_kind(name, str(error.args[0]), convert) from error


def images_in_arrow(images: pd.Series, name: str) -> pa.ChunkedArray:
    """The column `name` in Arrow: paths, of which some may be path objects, or bytes of picture
    files.

    Raises:
        CatalogError: it holds both, or lists, or what Arrow has no column for, such as pictures
            that are decoded.
    """
    if images.dtype == object:
        paths = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in images]
        images = pd.Series(paths, dtype=object)
    how = (
        "give all as paths, or all as the bytes of picture files: Path(path).read_bytes(); of a "
        'decoded picture those that image.save(io.BytesIO(), "PNG") writes'
    )
    if _is_mixed(images):
        raise _no_one_kind(name, "it holds both", how)
    try:
        array = _in_arrow(images)
    except (pa.ArrowException, OverflowError) as error:
        raise _no_one_kind(name, str(error.args[0]), how) from error
    if pa.types.is_list(array.type):
        raise _no_one_kind(name, "it holds lists of numbers", how)
    return array


def _in_arrow(column: pd.Series) -> pa.ChunkedArray:
    try:
        return pa.Table.from_pandas(column.to_frame(), preserve_index=False).column(0)
    except UnicodeEncodeError:
        raw = [_raw(value) if isinstance(value, str) else value for value in column]
        as_bytes = pa.array(raw, pa.large_binary(), from_pandas=True)
        return pa.chunked_array([as_bytes.view(pa.large_string())])


def _raw(text: str) -> bytes:
    """The bytes that a file has for `text`; what is no text in any encoding is not UTF-8 either."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")


def _is_mixed(column: pd.Series) -> bool:
    """Whether it holds text and bytes: Arrow would take one for the other, by what comes first."""
    return column.dtype == object and all(
        any(isinstance(value, kind) for value in column) for kind in (str, _BYTES)
    )


def _no_one_kind(name: str, why: str, hint: str) -> CatalogError:
    return CatalogError(
        f"the DataFrame's column {name!r} is neither all text nor all bytes: {why}", hint
    )
