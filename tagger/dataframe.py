"""The image and the title column of a DataFrame, as a catalog file would hold them."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from tagger.errors import CatalogError


def arrow_column(column: pd.Series, name: str) -> pa.ChunkedArray:
    """`column`, called `name`, in Arrow; text that is not UTF-8 keeps its bytes, as in a file.

    Raises:
        CatalogError: it holds values of several kinds.
    """
    # Arrow would take one for the other, by what comes first.
    if all(any(isinstance(value, kind) for value in column) for kind in (str, _BYTES)):
        raise CatalogError(
            f"the DataFrame's column {name!r} is neither all text nor all bytes: it holds both",
            "make all one kind: value.decode() makes text of bytes, and Path(value).read_bytes() "
            "bytes of a picture's path",
        )
    try:
        try:
            return pa.Table.from_pandas(column.to_frame(), preserve_index=False).column(0)
        except UnicodeEncodeError:
            raw = [_raw(value) if isinstance(value, str) else value for value in column]
            as_bytes = pa.array(raw, pa.large_binary(), from_pandas=True)
            return pa.chunked_array([as_bytes.view(pa.large_string())])
    except pa.ArrowException as error:
        raise CatalogError(
            f"the DataFrame's column {name!r} is neither all text nor all bytes: {error.args[0]}",
            f'convert it: dataframe[{name!r}] = dataframe[{name!r}].astype("string")',
        ) from error


_BYTES = (bytes, bytearray, memoryview)


def _raw(text: str) -> bytes:
    """The bytes that a file has for `text`; what is no text in any encoding is not UTF-8 either."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return text.encode(errors="surrogatepass")
