"""Source and export side by side: do they say the same, and how fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
import torch._inductor

from tagger.bundle import Bundle
from tagger.errors import ExportError, NotExportableError
from tagger.exported import (
    MODALITY_WEIGHTS,
    Agreement,
    Limits,
    probabilities_name,
)
from tagger.golden import Arrays
from tagger.preprocess import Batch

Answer = Callable[[Arrays], Arrays]
"""Inputs of the graph to its outputs, both by name."""

TIMED_RUNS = 3


def source_answer(bundle: Bundle) -> Answer:
    """What the source model says: the network itself, not the wrapper that was exported."""

    @torch.inference_mode()
    def answer(inputs: Arrays) -> Arrays:
        pixels, present, ids, mask = (torch.from_numpy(array) for array in inputs.values())
        output = bundle.model(pixels.permute(0, 3, 1, 2), present, ids, mask)
        named: Arrays = {}
        for task, logits in output.logits.items():
            calibrated = (logits / bundle.temperature(task)).softmax(-1)
            named[probabilities_name(task)] = calibrated.numpy()
        return {**named, MODALITY_WEIGHTS: output.modality_weights.numpy()}

    return answer


def onnx_answer(path: Path) -> Answer:
    """An ONNX graph in ONNX Runtime on the CPU, with as many threads as torch has.

    Raises:
        NotExportableError: ONNX Runtime cannot run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    # onnxruntime has no public base class for its errors.
    except Exception as error:
        raise NotExportableError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the graph: {str(error)[:300]}",
            "upgrade it: pip install --upgrade onnxruntime; or choose another --precision",
        ) from error
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def pt2_answer(path: Path) -> Answer:
    """A graph of torch.export, read back from its file."""
    return _of_tensors(torch.export.load(path).module())


def aoti_answer(path: Path) -> Answer:
    """A compiled package, loaded from its file; its library runs in this process."""
    return _of_tensors(torch._inductor.aoti_load_package(str(path)))


def _of_tensors(graph: Callable[..., dict[str, torch.Tensor]]) -> Answer:
    """A graph of tensors as one of arrays."""

    @torch.inference_mode()
    def answer(inputs: Arrays) -> Arrays:
        outputs = graph(*(torch.from_numpy(array) for array in inputs.values()))
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return answer


def graph_inputs(batch: Batch) -> Arrays:
    """A batch as the graph takes it."""
    return {
        "pixels": np.ascontiguousarray(batch.pixels.permute(0, 2, 3, 1).numpy()),
        "image_present": batch.image_present.numpy(),
        "token_ids": batch.ids.numpy(),
        "token_mask": batch.text_mask.numpy(),
    }


def one_by_one(inputs: Arrays, fixed_length: int | None) -> Iterable[Arrays]:
    """Each product as a batch of its own, its title filled up no further than it must be."""
    for row in range(len(inputs["pixels"])):
        one = {name: array[row : row + 1] for name, array in inputs.items()}
        length = fixed_length or max(1, int(one["token_mask"].sum()))
        for name in ("token_ids", "token_mask"):
            one[name] = np.ascontiguousarray(one[name][:, :length])
        yield one


def compare(
    source: Answer, export: Answer, batches: Iterable[Arrays], compared_on: str
) -> Agreement:
    """Run both on all `batches`, at least one.

    Raises:
        ExportError: the export gives other outputs, or of another shape, or cannot take a batch.
    """
    num_products = equal = compared = 0
    differences = {"confidence": np.float64(0), "weight": np.float64(0)}
    for inputs in batches:
        wanted = source(inputs)
        given = _run(export, inputs, compared_on)
        num_products += len(inputs["pixels"])
        answerable = inputs["image_present"].astype(bool) | inputs["token_mask"].any(1)
        _check_shapes(wanted, given)
        for name, want in wanted.items():
            kind = "weight" if name == MODALITY_WEIGHTS else "confidence"
            # A value that is not a number stays one through every maximum.
            difference = np.abs(np.subtract(want, given[name], dtype=np.float64))
            if kind == "weight":  # neither can tell what a modality weighs
                difference[np.isnan(want) & np.isnan(given[name])] = 0.0
            difference = difference.max()
            differences[kind] = np.maximum(differences[kind], difference)
            if kind == "confidence":
                same = want.argmax(-1) == given[name].argmax(-1)
                equal += int(same[answerable].sum())
                compared += int(answerable.sum())
    return Agreement(
        compared_on=compared_on,
        num_products=num_products,
        labels_agree=equal / max(1, compared),
        confidence_difference=float(differences["confidence"]),
        weight_difference=float(differences["weight"]),
    )


def check_agreement(agreement: Agreement, limits: Limits) -> None:
    """Raises:
    ExportError: the export differs from its source by more than `limits` allow.
    """
    labels = 1.0 if agreement.labels_agree is None else agreement.labels_agree
    largest = np.maximum(agreement.confidence_difference, agreement.weight_difference or 0.0)
    # Written so that a difference that is not a number fails.
    if labels >= limits.labels_agree and largest <= limits.difference:
        return
    raise ExportError(
        f"the export does not answer as the model does: on {agreement.compared_on} "
        f"{100 * labels:.2f}% of the labels agree ({100 * limits.labels_agree:g}% must), and "
        f"numbers differ by up to {largest:.1e} ({limits.difference:.0e} may)",
        "nothing was written; try another --precision or --format",
    )


def products_per_second(answer: Answer, inputs: Arrays) -> float:
    """The best of TIMED_RUNS runs, after one to warm up."""
    answer(inputs)
    seconds = []
    for _ in range(TIMED_RUNS):
        started = time.perf_counter()
        answer(inputs)
        seconds.append(time.perf_counter() - started)
    return len(inputs["pixels"]) / min(seconds)


def _run(export: Answer, inputs: Arrays, compared_on: str) -> Arrays:
    try:
        return export(inputs)
    # Each runtime has its own errors for a batch that its graph does not fit.
    except Exception as error:
        batch, length = inputs["token_ids"].shape
        raise ExportError(
            f"the export cannot answer a batch of {batch} with titles of {length} ids from "
            f"{compared_on}: {str(error)[:300]}",
            "nothing was written; try another --precision or --format",
        ) from error


def _check_shapes(wanted: Arrays, given: Arrays) -> None:
    """Raises:
    ExportError: other names or shapes.
    """
    want = {name: array.shape for name, array in wanted.items()}
    have = {name: array.shape for name, array in given.items()}
    if want != have:
        raise ExportError(
            f"the export gives other outputs than the model: {have} instead of {want}",
            "nothing was written; this is a bug of the exporter: try another --format",
        )
