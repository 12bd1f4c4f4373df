"""A model as one graph of pixels and ids: traced by torch.export, stored or compiled."""

from __future__ import annotations

import copy
import io
import shutil
from pathlib import Path

import torch
import torch._inductor
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tagger.bundle import Bundle
from tagger.errors import NotExportableError
from tagger.exported import MODALITY_WEIGHTS, Precision, output_specs, probabilities_name
from tagger.network import Head, Network
from tagger.quiet import quietly

MAX_INLINE_BYTES = 1 << 30
"""Weights beyond this go into a file beside the graph: protobuf ends at 2 GB."""


class Graph(nn.Module):
    """Network behind the inputs and outputs of `tagger.exported`; temperatures are built in."""

    def __init__(self, bundle: Bundle, model: Network) -> None:
        super().__init__()
        self.model = model
        self.temperatures = {
            task.name: bundle.temperature(task.name) for task in bundle.config.tasks
        }

    def forward(
        self, pixels: Tensor, image_present: Tensor, token_ids: Tensor, token_mask: Tensor
    ) -> dict[str, Tensor]:
        """pixels uint8 (batch, height, width, 3); the others as `Network.forward` takes them."""
        output = self.model(pixels.permute(0, 3, 1, 2), image_present, token_ids, token_mask)
        named = {}
        for task, temperature in self.temperatures.items():
            calibrated = output.logits[task] / temperature
            named[probabilities_name(task)] = calibrated.softmax(-1)
        return {**named, MODALITY_WEIGHTS: output.modality_weights}


def trace(bundle: Bundle, precision: Precision) -> ExportedProgram:
    """The graph of a model, for batches and titles of any size; `bundle` stays as it is.

    Raises:
        NotExportableError: torch.export cannot follow the architecture.
    """
    graph = Graph(bundle, _in_precision(bundle.model, precision)).eval()
    preprocess, length = bundle.config.preprocess, bundle.fixed_length or 2
    batch = Dim("batch", min=1)
    tokens = {0: batch}
    if bundle.fixed_length is None:
        tokens[1] = Dim("length", min=1, max=bundle.tokenizer.context_length)
    example = (
        torch.zeros(2, preprocess.height, preprocess.width, 3, dtype=torch.uint8),
        torch.ones(2, dtype=torch.bool),
        torch.zeros(2, length, dtype=torch.long),
        torch.ones(2, length, dtype=torch.bool),
    )
    shapes = ({0: batch}, {0: batch}, tokens, tokens)
    try:
        with quietly(), torch.no_grad():
            return torch.export.export(graph, example, dynamic_shapes=shapes)
    # torch.export has no base class for what it cannot follow.
    except Exception as error:
        raise _not_exportable(bundle, "torch.export", error) from error


def save_onnx(program: ExportedProgram, bundle: Bundle, path: Path) -> None:
    """Raises:
    NotExportableError: an operator has no counterpart in ONNX.
    OSError: `path` cannot be written.
    """
    names = ["pixels", "image_present", "token_ids", "token_mask"]
    batch, length = Dim("batch"), Dim("length")
    tokens = {0: batch} if bundle.fixed_length else {0: batch, 1: length}
    try:
        with quietly():
            converted = torch.onnx.export(
                program,
                input_names=names,
                output_names=[spec.name for spec in output_specs(bundle.config, bundle.calibrated)],
                dynamic_shapes=({0: batch}, {0: batch}, tokens, tokens),
                dynamo=True,
                verbose=False,
            )
    # The translations of single operators raise what they like.
    except Exception as error:
        raise _not_exportable(bundle, "torch.onnx.export", error) from error
    assert converted is not None
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    converted.save(str(path), external_data=size > MAX_INLINE_BYTES)


def save_pt2(program: ExportedProgram, path: Path) -> None:
    """Raises:
    OSError: `path` cannot be written.
    """
    # Into memory first: torch's own writer turns a full disk into a RuntimeError.
    content = io.BytesIO()
    torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def save_aoti(program: ExportedProgram, bundle: Bundle, path: Path) -> None:
    """Compile the graph to a library for this kind of machine: AOTInductor's package.

    Raises:
        NotExportableError: there is no C++ compiler, or the graph cannot be compiled.
        OSError: `path` cannot be written.
    """
    try:
        with quietly():
            package = torch._inductor.aoti_compile_and_package(program)
    # The compiler's errors have no base class either.
    except Exception as error:
        raise _not_exportable(bundle, "AOTInductor (it needs a C++ compiler)", error) from error
    shutil.move(package, path)


def _in_precision(model: Network, precision: Precision) -> Network:
    """A copy of `model` in that precision, the paths of trees folded into its heads;
    modality-wise attention and heads stay in float32.

    fp16 computes in it. bf16 and int8 are only stored so and compute in float32: ONNX Runtime
    multiplies bf16 on no CPU, and scales for int8 activations would hang on the whole batch.
    """
    model = copy.deepcopy(model)
    for head in model.heads:
        if isinstance(head, Head):
            head.fold()
    if precision == "fp32":
        return model
    parts: list[nn.Module] = [
        *(model.image_tower, model.image_projection),
        *(model.text_tower, model.text_projection),
        *model.trunk,
    ]
    if precision == "fp16":
        if model.modality_embedding is not None:
            model.modality_embedding.data = model.modality_embedding.data.half()
        for part in parts:
            part.half()
        return model
    for module in [module for part in parts for module in part.modules()]:
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.ndim >= 2:
                _store(module, name, weight.detach(), precision)
    return model


def _store(module: nn.Module, name: str, weight: Tensor, precision: Precision) -> None:
    """Replace parameter `name` by a stored form that is turned into float32 when it is used."""
    if precision == "bf16":
        stored, scale = weight.bfloat16(), torch.ones(())
    else:
        rows = (len(weight), *[1] * (weight.ndim - 1))
        scale = weight.abs().flatten(1).amax(1).clamp(min=1e-12).view(rows) / 127
        stored = (weight / scale).round().to(torch.int8)
    delattr(module, name)
    setattr(module, name, nn.Parameter(stored, requires_grad=False))
    nn.utils.parametrize.register_parametrization(module, name, _Float32(scale), unsafe=True)


class _Float32(nn.Module):
    """A stored weight in float32: times a scale per row."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale)

    def forward(self, stored: Tensor) -> Tensor:
        return stored.float() * self.scale


def _not_exportable(bundle: Bundle, what: str, error: Exception) -> NotExportableError:
    reason = (str(error).strip() or repr(error)).splitlines()[0]
    return NotExportableError(
        f"{bundle.path.name}: {what} cannot take this model: {reason[:300]}",
        "try the other --format, or other towers; the architecture is in config.json",
    )
