"""An earlier output to carry answers over from, found by the hash of what the model saw."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from tagger.catalog import Catalog
from tagger.output import cannot_write

HASH_COLUMN = "input_hash"
DIGEST_BYTES = 16
BATCH_ROWS = 16384


class Previous:
    """The answers of an earlier output by `input_hash`.

    The hashes are in memory, 24 bytes a product; the answers lie in a file that is mapped and not
    read, so that they cost disk instead.
    """

    def __init__(self, catalog: Catalog, schema: pa.Schema, scratch: Path) -> None:
        """Copy the columns of `schema` from `catalog` to the file `scratch`, deleted by `close`.

        Raises:
            CatalogError: the output is damaged.
            DiskFullError, OutputError: `scratch` cannot be written.
        """
        digests: list[NDArray[np.bytes_]] = []
        sizes: list[int] = []
        self._scratch = scratch
        try:
            with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
                for batch in catalog.batches(BATCH_ROWS, columns=schema.names):
                    writer.write_batch(batch.cast(schema))
                    texts = batch.column(HASH_COLUMN).to_pylist()
                    digests.append(np.array([*map(digest_of, texts)], f"S{DIGEST_BYTES}"))
                    sizes.append(batch.num_rows)
        except OSError as error:
            raise cannot_write(scratch, error) from error
        self._file = pa.ipc.open_file(pa.memory_map(str(scratch)))
        self._starts = np.cumsum([0, *sizes])
        unsorted = np.concatenate(digests)
        self._rows = np.argsort(unsorted)
        self._digests = unsorted[self._rows]

    def find(self, digest: bytes) -> int | None:
        """Row of a product of this digest, or None."""
        # numpy strips the zeros at the end of both sides; of equal length, they still tell apart.
        wanted = np.array([digest], self._digests.dtype)
        place = int(np.searchsorted(self._digests, wanted)[0])
        if place < len(self._digests) and self._digests[place] == wanted[0]:
            return int(self._rows[place])
        return None

    def take(self, rows: Sequence[int]) -> pa.Table:
        """The answers of `rows`, in that order."""
        wanted = np.array(rows, dtype=np.int64)
        numbers = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        pieces = [
            self._file.get_batch(int(number)).take(
                pa.array(wanted[order][numbers[order] == number] - self._starts[number])
            )
            for number in np.unique(numbers)
        ]
        return pa.Table.from_batches(pieces).take(pa.array(np.argsort(order)))

    def close(self) -> None:
        """Delete the copy."""
        self._scratch.unlink(missing_ok=True)


def picture_hash(data: bytes) -> bytes:
    """Digest of a picture file."""
    return hashlib.blake2b(data).digest()


def input_hash(picture: bytes | None, image_status: str, title: str | None) -> bytes:
    """Digest of what the model sees of a product: the `picture_hash`, or the reason why there is
    no picture, and the title."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    picture = image_status.encode() if picture is None else picture
    words = b"" if title is None else b"t" + title.encode(errors="surrogatepass")
    digest.update(len(picture).to_bytes(8, "big") + picture + words)
    return digest.digest()


def digest_of(text: str | None) -> bytes:
    """The digest that `input_hash` holds as hexadecimal text; b"" if it is none."""
    try:
        return bytes.fromhex(text or "")
    except ValueError:
        return b""
