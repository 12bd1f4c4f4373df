"""A model directory to a graph that runs elsewhere, published only if it answers as its source."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from tagger import bundle as bundles
from tagger import calibration, drift, tokenizer, trained_on
from tagger.agreement import (
    Answer,
    aoti_answer,
    check_agreement,
    compare,
    graph_inputs,
    one_by_one,
    onnx_answer,
    products_per_second,
    pt2_answer,
    source_answer,
)
from tagger.bundle import Bundle
from tagger.config import BATCH_SIZE
from tagger.errors import OutputError, UsageError
from tagger.export_card import write_export_card, write_towers_card
from tagger.exported import (
    GOLDEN,
    GRAPHS,
    MANIFEST,
    Agreement,
    Format,
    Manifest,
    Precision,
    Source,
    TitleSpec,
    input_specs,
    limits,
    output_specs,
)
from tagger.golden import Arrays, GoldenProducts, golden_file, golden_products
from tagger.graph import save_aoti, save_onnx, save_pt2, trace
from tagger.hashes import file_digest
from tagger.images import NUM_THREADS, decode
from tagger.open_clip_checkpoint import WEIGHTS as TOWERS
from tagger.open_clip_checkpoint import compare_embeddings, write_checkpoint
from tagger.output import check_writable, new_directory, write_json
from tagger.pixel_cache import PixelCache
from tagger.preprocess import collate
from tagger.products import ProductSource
from tagger.shelf import CARD, CONFIG, WEIGHTS
from tagger.version import __version__

TIMED_PRODUCTS = 16
"""In the batch that speed is measured with."""
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class ExportOptions:
    """What to export, how and where to; `check` are products to compare the answers on, beside the
    golden vectors."""

    model: str
    format: Format
    out: Path
    precision: Precision = "fp32"
    check: ProductSource | None = None


@dataclass(frozen=True)
class Side:
    """Size in bytes and speed of the source or of the export; no speed where none was measured."""

    num_bytes: int
    products_per_second: float | None = None


@dataclass(frozen=True)
class Comparison:
    """An export beside its source, before it is decided whether it may be published."""

    agreements: Sequence[Agreement]
    source: Side
    export: Side


Show = Callable[[Comparison], None]


def export(
    options: ExportOptions,
    show: Show,
    progress: Callable[[int, int], None] = lambda rows, total: None,
) -> None:
    """Write `options.out`, whole or not at all; `show` is told how it compares, good or bad.

    `progress` is called with the number of checked products done and of all.

    Raises:
        UsageError: options that do not go together, or packages that are not installed.
        ModelError, CatalogError: the model or the products to check on cannot be read.
        NotExportableError: the format or its runtime cannot take the model.
        ExportError: the export does not answer as the model does.
        OutputError, DiskFullError: it cannot be written, or is there already.
    """
    _check_options(options)
    bundle = bundles.load(options.model)
    golden = _Golden.of(bundle)
    checked = None if options.check is None else _Checked(options.check, bundle, progress)
    with new_directory(options.out) as folder:
        if options.format == "open_clip":
            _export_towers(bundle, folder, golden, show)
        else:
            _export_graph(bundle, folder, options, golden, checked, show)


def _check_options(options: ExportOptions) -> None:
    """All that can be known before the model is loaded."""
    if options.format == "open_clip" and (options.precision != "fp32" or options.check):
        raise UsageError(
            "--format open_clip writes the towers as they are: there are no labels to check",
            "leave out --precision and --check",
        )
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if options.format == "onnx" and missing:
        raise UsageError(
            f"--format onnx needs packages that are not installed: {', '.join(missing)}",
            "in tagger's source folder: pip install '.[onnx]'",
        )
    if os.path.lexists(options.out):
        raise OutputError(f"{options.out} is there already", "remove it, or name another --out")
    check_writable(options.out)


@dataclass(frozen=True)
class _Golden:
    """The golden products, as the graph takes them, and what the source says of them."""

    products: GoldenProducts
    inputs: Arrays
    outputs: Arrays

    @classmethod
    def of(cls, bundle: Bundle) -> _Golden:
        """Those of one model."""
        products, preprocess = golden_products(bundle.config), bundle.config.preprocess
        pixels = [None if data is None else decode(data, preprocess)[0] for data in products.images]
        batch = collate(pixels, products.titles, preprocess, bundle.tokenizer, bundle.fixed_length)
        inputs = graph_inputs(batch)
        return cls(products, inputs, source_answer(bundle)(inputs))


class _Checked:
    """The products of --check, read before the work, decoded batch by batch."""

    def __init__(
        self, source: ProductSource, bundle: Bundle, progress: Callable[[int, int], None]
    ) -> None:
        self.name = source.path.name
        self._products, self._root = source.read(), source.root
        self._bundle, self._progress = bundle, progress

    def batches(self) -> Iterator[Arrays]:
        """All products, as the graph takes them."""
        bundle, count = self._bundle, len(self._products)
        preprocess = bundle.config.preprocess
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            pixels = PixelCache(self._products.images, self._root, preprocess, pool, max_bytes=0)
            for start in range(0, count, BATCH_SIZE):
                rows = range(start, min(start + BATCH_SIZE, count))
                titles = [self._products.titles[row] for row in rows]
                yield graph_inputs(
                    collate(
                        pixels.get(rows), titles, preprocess, bundle.tokenizer, bundle.fixed_length
                    )
                )
                self._progress(rows.stop, count)


def _export_towers(bundle: Bundle, folder: Path, golden: _Golden, show: Show) -> None:
    write_checkpoint(bundle, folder)
    agreements = compare_embeddings(bundle, folder, golden.inputs)
    sides = Side(_size(bundle.path / WEIGHTS)), Side(_size(folder / TOWERS))
    _judge(Comparison(agreements, *sides), "fp32", show)
    (folder / CARD).write_text(write_towers_card(bundle), encoding="utf-8")


def _export_graph(
    bundle: Bundle,
    folder: Path,
    options: ExportOptions,
    golden: _Golden,
    checked: _Checked | None,
    show: Show,
) -> None:
    graph = folder / GRAPHS[options.format]
    program = trace(bundle, options.precision)
    if options.format == "onnx":
        save_onnx(program, bundle, graph)
    elif options.format == "aoti":
        save_aoti(program, bundle, graph)
    else:
        save_pt2(program, graph)
    answers = source_answer(bundle), _answer_of(graph)
    agreements = _compare(bundle, answers, golden.inputs, checked)
    sides = _sides(bundle, graph, answers, golden.inputs)
    _judge(Comparison(agreements, *sides), options.precision, show)
    _describe(bundle, folder, options, golden, agreements)


def _judge(comparison: Comparison, precision: Precision, show: Show) -> None:
    """Show it, then raise ExportError if it must not be published."""
    show(comparison)
    for agreement in comparison.agreements:
        check_agreement(agreement, limits(precision))


def _answer_of(graph: Path) -> Answer:
    """The written graph, in the runtime that its consumers have."""
    readers = {"onnx": onnx_answer, "aoti": aoti_answer, "pt2": pt2_answer}
    return next(read(graph) for kind, read in readers.items() if graph.name == GRAPHS[kind])


def _compare(
    bundle: Bundle, answers: tuple[Answer, Answer], golden: Arrays, checked: _Checked | None
) -> list[Agreement]:
    """On the golden vectors, together and one by one, and on what was to be checked."""
    alone = one_by_one(golden, bundle.fixed_length)
    agreements = [
        compare(*answers, [golden], "golden vectors"),
        compare(*answers, alone, "golden vectors, one by one"),
    ]
    if checked is not None:
        agreements.append(compare(*answers, checked.batches(), checked.name))
    return agreements


def _sides(
    bundle: Bundle, graph: Path, answers: tuple[Answer, Answer], golden: Arrays
) -> tuple[Side, Side]:
    """Size and speed of the source and of the export."""
    rows = np.arange(TIMED_PRODUCTS) % len(golden["pixels"])
    batch = {name: array[rows] for name, array in golden.items()}
    source, export = (products_per_second(answer, batch) for answer in answers)
    weights = bundle.path / WEIGHTS
    return Side(_size(weights), source), Side(_size(graph), export)


def _size(path: Path) -> int:
    """Bytes of a file, with those beside it that large weights of an ONNX graph go into."""
    files = (path, path.with_name(f"{path.name}.data"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _describe(
    bundle: Bundle,
    folder: Path,
    options: ExportOptions,
    golden: _Golden,
    agreements: Sequence[Agreement],
) -> None:
    """All files beside the graph; the manifest with the hashes of the others comes last."""
    for name in (CONFIG, calibration.FILE_NAME, drift.FILE_NAME, trained_on.FILE_NAME):
        if (bundle.path / name).is_file():
            shutil.copyfile(bundle.path / name, folder / name)
    tokens = bundle.tokenizer.to_fast().to_str(pretty=True)
    (folder / tokenizer.FILE_NAME).write_text(tokens, encoding="utf-8")
    (folder / GOLDEN).write_bytes(golden_file(golden.products, golden.inputs, golden.outputs))
    title = TitleSpec(
        context_length=bundle.tokenizer.context_length,
        fixed_length=bundle.fixed_length,
        pad_id=bundle.tokenizer.pad_id,
        cleaning=bundle.tokenizer.cleaning,
    )
    manifest = Manifest(
        tagger_version=__version__,
        format=options.format,
        precision=options.precision,
        graph=GRAPHS[options.format],
        source=Source(
            name=bundle.path.resolve().name,
            sha256=bundle.sha256,
            files=_hashes(bundle.path, bundles.FILES),
        ),
        title=title,
        inputs=input_specs(bundle.config, title),
        outputs=output_specs(bundle.config, bundle.calibrated),
        limits=limits(options.precision),
        agreement=tuple(agreements),
        files={},
    )
    (folder / CARD).write_text(write_export_card(bundle, manifest), encoding="utf-8")
    names = sorted(path.name for path in folder.iterdir())
    write_json(folder / MANIFEST, msgspec.structs.replace(manifest, files=_hashes(folder, names)))


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """sha256 of those of the files that are there."""
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}
