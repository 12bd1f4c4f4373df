"""Which products a model learned from, so that nobody takes them for new ones."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from tagger.errors import ModelError
from tagger.images import ImageSource
from tagger.output import RESUME, cannot_write
from tagger.products import Products
from tagger.shelf import CONFIG
from tagger.split import HELD_BACK, LEARNED, NEW

FILE_NAME = "trained_on.safetensors"
TENSORS = {HELD_BACK: "held_back", LEARNED: "keys"}
"""What it holds: keys of products that were validated on, and of those that were learned from."""


def keys_of(products: Products) -> NDArray[np.uint32]:
    """(n,) hashes of title and picture: the name of a picture file, without a title also that of
    its folder, or its bytes.

    Another place, other labels and other columns leave a product the same. Of 32 bits, so that
    neither can be read back; a product that is new is taken for one of a million old ones in 1 of
    4,000 cases.
    """
    keys = map(_key, products.images, products.titles)
    return np.fromiter(keys, dtype=np.uint32, count=len(products))


def past_of(products: Products, earlier: Sequence[Path]) -> NDArray[np.int64]:
    """(n,) what the models `earlier` did with each of `products`, as `validation_rows` takes it;
    NEW where they do not say.

    Raises:
        ModelError: a file of theirs is damaged.
    """
    past = np.full(len(products), NEW)
    files = [path / FILE_NAME for path in earlier if (path / FILE_NAME).is_file()]
    if files:
        keys = keys_of(products)
        for stage in TENSORS:  # what one model learned from, no other one held back
            for file in files:
                past[np.isin(keys, _read(file, stage))] = stage
    return past


def write_trained_on(
    directory: Path,
    products: Products,
    held_back: Products | None = None,
    earlier: Sequence[Path] = (),
) -> None:
    """Store the keys of `products` and of those that were `held_back` to validate on, and those of
    the models `earlier` that training started from.

    Raises:
        DiskFullError, OutputError: it cannot be written.
        ModelError: the file of `earlier` is damaged.
    """
    files = [path / FILE_NAME for path in earlier if (path / FILE_NAME).is_file()]
    own = {LEARNED: products, HELD_BACK: products.take([]) if held_back is None else held_back}
    keys = {
        name: np.unique(np.concatenate([keys_of(own[s]), *(_read(path, s) for path in files)]))
        for s, name in TENSORS.items()
    }
    try:
        save_file(keys, directory / FILE_NAME)
        # safetensors makes it readable by its owner alone; a cron user must read it too.
        shutil.copymode(directory / CONFIG, directory / FILE_NAME)
    except (OSError, SafetensorError) as error:
        raise cannot_write(directory / FILE_NAME, error, RESUME) from error


def _key(image: ImageSource, title: str | None) -> int:
    digest = hashlib.blake2b(digest_size=4)
    digest.update((title or "").encode("utf-8", "surrogatepass"))
    digest.update(b"\0")
    if isinstance(image, str):
        # Without a title the folder counts as well: sku-1/main.jpg is not sku-2/main.jpg.
        parts = PurePosixPath(image).parts[-1 if title else -2 :]
        image = "/".join(parts).encode("utf-8", "surrogatepass")
    digest.update(image or b"")
    return int.from_bytes(digest.digest(), "big")


def _read(path: Path, stage: int) -> NDArray[np.uint32]:
    try:
        tensors = load_file(path)
        # Files of earlier versions do not say what was held back.
        name = TENSORS[stage]
        found = tensors.get(name) if stage == HELD_BACK else tensors[name]
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"{path}: {error}", "delete it, or copy the model again") from error
    return np.zeros(0, dtype=np.uint32) if found is None else found
