"""An export says what its source says, describes itself, and is whole or not there."""

from __future__ import annotations

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tagger import bundle, graph, shelf
from tagger import export as exporting
from tagger.agreement import (
    Answer,
    aoti_answer,
    check_agreement,
    compare,
    onnx_answer,
    source_answer,
)
from tagger.bundle import Bundle
from tagger.cli import app
from tagger.config import read_config, write_config
from tagger.errors import (
    DiskFullError,
    ExportError,
    ModelError,
    NotExportableError,
    OutputError,
    StoppedError,
    UsageError,
)
from tagger.export import Comparison, ExportOptions, export
from tagger.export_card import write_export_card
from tagger.exported import Format, Limits, Manifest, limits, output_specs, probabilities_name
from tagger.golden import Arrays
from tagger.hashes import file_digest
from tagger.systems import build_network
from tagger.tasks import Task
from tagger.tokenizer import learn_pieces

from .conftest import (
    TASKS,
    TEMPERATURE,
    MakeCatalog,
    largest_file,
    mixed_rows,
    random_titles,
    tiny_config,
)

ROOT = Path(__file__).parent.parent
FILES = {
    "README.md",
    "calibration.json",
    "config.json",
    "export.json",
    "golden.safetensors",
    "model.onnx",
    "profile.json",
    "tokenizer.json",
    "trained_on.safetensors",
}


def ignore(comparison: Comparison) -> None:
    """Nobody looks."""


def export_to(out: Path, model: Path, kind: Format = "pt2") -> Path:
    export(ExportOptions(str(model), kind, out), ignore)
    return out


@pytest.fixture(scope="module")
def model_dir(calibrated_dir: Path) -> Path:
    """The tiny model, calibrated for one of its tasks."""
    return calibrated_dir


@pytest.fixture(scope="module")
def tiny(model_dir: Path) -> Bundle:
    """The calibrated model."""
    return bundle.load(model_dir)


@pytest.fixture(scope="module")
def exported(onnx_dir: Path) -> Path:
    """The tiny model as ONNX."""
    return onnx_dir


@pytest.fixture(scope="module")
def answer(exported: Path) -> Answer:
    """ONNX Runtime on the exported graph."""
    return onnx_answer(exported / "model.onnx")


@pytest.fixture(scope="module")
def manifest(exported: Path) -> Manifest:
    """export.json of the exported directory."""
    return msgspec.json.decode((exported / "export.json").read_bytes(), type=Manifest)


@pytest.fixture(scope="module")
def program(tiny: Bundle) -> torch.export.ExportedProgram:
    """The tiny model, traced."""
    return graph.trace(tiny, "fp32")


@pytest.fixture
def traced(program: torch.export.ExportedProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model need not be traced again, which is most of the seconds of an export."""
    monkeypatch.setattr(exporting, "trace", lambda source, precision: program)


def inputs_of(batch: int, length: int, seed: int = 0) -> Arrays:
    """Noise in every input; one product in four lacks its picture, one in four its title."""
    rng = np.random.default_rng(seed)
    words = rng.integers(1, length + 1, batch) * (rng.random(batch) > 0.25)
    return {
        "pixels": rng.integers(0, 256, (batch, 32, 24, 3), dtype=np.uint8),
        "image_present": rng.random(batch) > 0.25,
        "token_ids": rng.integers(3, 60, (batch, length)),
        "token_mask": np.arange(length) < words[:, None],
    }


def largest_difference(first: Arrays, second: Arrays) -> float:
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


@pytest.mark.parametrize("length", [1, 2, 7, 16])
@pytest.mark.parametrize("batch", [1, 2, 9])
def test_any_batch_size_and_title_length_is_answered_as_by_the_source(
    answer: Answer, tiny: Bundle, batch: int, length: int
) -> None:
    inputs = inputs_of(batch, length, seed=100 * batch + length)
    assert largest_difference(answer(inputs), source_answer(tiny)(inputs)) < 1e-5


def test_no_pixel_of_an_absent_picture_and_no_word_of_an_absent_title_matters(
    answer: Answer,
) -> None:
    first, noise = inputs_of(6, 5, seed=1), inputs_of(6, 5, seed=2)
    present = np.array([True, False, True, False, True, False])
    mask = np.ones((6, 5), dtype=bool) & np.array([1, 1, 0, 0, 1, 0], dtype=bool)[:, None]
    first |= {"image_present": present, "token_mask": mask}
    second = first | {
        "pixels": np.where(present[:, None, None, None], first["pixels"], noise["pixels"]),
        "token_ids": np.where(mask, first["token_ids"], noise["token_ids"]),
    }
    assert not np.array_equal(first["pixels"], second["pixels"])
    assert not np.array_equal(first["token_ids"], second["token_ids"])
    answers = answer(first), answer(second)
    assert all(np.array_equal(answers[0][name], answers[1][name]) for name in answers[0])
    weights = answers[0]["modality_weights"]
    assert (weights[1] == [0, 1]).all()
    assert (weights[2] == [1, 0]).all()
    assert (weights[3] == [0, 0]).all()
    np.testing.assert_allclose(weights[[0, 4]].sum(-1), 1, rtol=1e-6)


def test_inputs_and_outputs_are_those_that_are_described(
    exported: Path, manifest: Manifest
) -> None:
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    given = (session.get_inputs(), session.get_outputs())
    onnx_names = {"float32": "float"}
    for specs, tensors in zip((manifest.inputs, manifest.outputs), given, strict=True):
        assert [spec.name for spec in specs] == [tensor.name for tensor in tensors]
        for spec, tensor in zip(specs, tensors, strict=True):
            assert tensor.type == f"tensor({onnx_names.get(spec.dtype, spec.dtype)})"
            assert list(spec.shape) == tensor.shape
    assert [spec.name for spec in manifest.outputs] == [
        "color_probabilities",
        "pattern_probabilities",
        "modality_weights",
    ]


def test_the_directory_is_complete_and_its_hashes_hold(
    exported: Path, manifest: Manifest, tiny: Bundle
) -> None:
    assert {path.name for path in exported.iterdir()} == FILES
    assert manifest.files == {
        name: file_digest(exported / name) for name in FILES - {"export.json"}
    }
    assert manifest.source.sha256 == tiny.sha256
    assert manifest.source.files["model.safetensors"] == file_digest(
        tiny.path / "model.safetensors"
    )
    card = (exported / "README.md").read_text(encoding="utf-8")
    for spec in (*manifest.inputs, *manifest.outputs):
        assert f"| `{spec.name}` | {spec.dtype} |" in card
    modes = {path.stat().st_mode & 0o777 for path in exported.iterdir()}
    assert modes == {0o666 & ~_umask()}


@pytest.mark.parametrize("calibrated", [(), ("color",)])
def test_the_card_says_calibrated_of_what_is_calibrated_alone(
    tiny: Bundle, manifest: Manifest, calibrated: tuple[str, ...]
) -> None:
    model = tiny if calibrated else replace(tiny, calibration=None)
    outputs = output_specs(model.config, model.calibrated)
    assert [spec.name for spec in outputs if spec.meaning.startswith("calibrated")] == [
        probabilities_name(task) for task in calibrated
    ]
    card = write_export_card(model, msgspec.structs.replace(manifest, outputs=outputs))
    assert ("calibration.json" in card) == ("calibrated, 0..1" in card) == bool(calibrated)
    assert ("The model is not calibrated" in card) == (not calibrated)


def test_names_of_tasks_stand_in_the_card_as_text(tiny: Bundle, manifest: Manifest) -> None:
    task = Task("a|b <i>", ("x > y", "x > z"), " > ")
    config = msgspec.structs.replace(tiny.config, tasks=(task,))
    outputs = output_specs(config, ())
    card = write_export_card(
        replace(tiny, config=config), msgspec.structs.replace(manifest, outputs=outputs)
    )
    assert r"# Product tagger as onnx: a\|b \<i>" in card
    assert r"| `a\|b <i>_probabilities` | float32 |" in card
    assert r"The labels of a\|b \<i> (` > `)" in card


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_golden_vectors_hold_every_missing_modality_and_are_met(
    exported: Path, answer: Answer, manifest: Manifest
) -> None:
    golden = load_file(exported / "golden.safetensors")
    inputs = {spec.name: golden[spec.name] for spec in manifest.inputs}
    has_image, has_title = inputs["image_present"], inputs["token_mask"].any(1)
    kinds = set(zip(has_image.tolist(), has_title.tolist(), strict=True))
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}
    for row, present in enumerate(has_image):
        assert present == (f"image_file.{row}" in golden)
    expected = {spec.name: golden[spec.name] for spec in manifest.outputs}
    assert largest_difference(answer(inputs), expected) < 1e-5


def consume(folder: Path) -> subprocess.CompletedProcess[str]:
    """The example, where neither tagger nor torch can be imported."""
    code = (
        "import runpy, sys\n"
        "sys.modules.update(dict.fromkeys(('tagger', 'torch', 'open_clip', 'safetensors')))\n"
        f"sys.argv = ['consume_onnx.py', {str(folder)!r}]\n"
        f"runpy.run_path({str(ROOT / 'examples/consume_onnx.py')!r}, run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


def test_a_consumer_without_tagger_makes_the_golden_inputs_and_outputs(exported: Path) -> None:
    done = consume(exported)
    assert done.returncode == 0, done.stderr
    for name in ("pixels", "image_present", "token_ids", "token_mask"):
        assert f"{name}: " in done.stdout
    assert done.stdout.count("largest difference 0\n") == 4


def test_the_card_has_the_metadata_of_the_hub(exported: Path) -> None:
    for path in (exported / "README.md", shelf.shelf() / "fashion" / "README.md"):
        data = ModelCard(path.read_text(encoding="utf-8")).data
        assert data.library_name == "tagger"
        assert data.pipeline_tag == "image-classification"
        assert data.license in ("unknown", "apache-2.0")
        assert {"product-tagging", "cma-clip"} <= set(data.tags)


@pytest.mark.usefixtures("traced")
def test_a_torch_export_file_answers_sizes_that_it_was_not_made_with(
    model_dir: Path, tiny: Bundle, tmp_path: Path
) -> None:
    out = export_to(tmp_path / "pt2", model_dir)
    loaded = torch.export.load(out / "model.pt2").module()
    for batch, length in ((1, 1), (5, 16)):
        inputs = inputs_of(batch, length)
        with torch.inference_mode():
            given = loaded(*map(torch.from_numpy, inputs.values()))
        arrays = {name: tensor.numpy() for name, tensor in given.items()}
        assert largest_difference(arrays, source_answer(tiny)(inputs)) < 1e-5


def test_temperatures_are_built_in_and_the_calibration_goes_along(
    exported: Path, answer: Answer, tiny: Bundle
) -> None:
    inputs = inputs_of(6, 5)
    plain = source_answer(replace(tiny, calibration=None))(inputs)
    softer = plain["color_probabilities"] ** (1 / TEMPERATURE)
    softer /= softer.sum(-1, keepdims=True)
    given = answer(inputs)
    assert largest_difference(given, plain | {"color_probabilities": softer}) < 1e-5
    assert (exported / "calibration.json").read_bytes() == (
        tiny.path / "calibration.json"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(path.parent.name for path in shelf.shelf().glob("*/config.json"))
)
def test_every_model_on_the_shelf_exports(name: str, tmp_path: Path) -> None:
    source = shelf.resolve(name)
    if not (source / bundle.WEIGHTS).is_file():  # a definition: random weights will do
        config = msgspec.structs.replace(read_config(source / shelf.CONFIG), tasks=TASKS)
        text = config.architecture.text
        tokenizer = (
            bundle.open_clip_tokenizer(config.architecture.open_clip or "")
            if text is None
            else learn_pieces(random_titles(60), 200, text.context_length)
        )
        torch.manual_seed(0)
        source = tmp_path / "model"
        bundle.save(source, config, build_network(config).eval(), tokenizer, "# x\n")
    done = consume(export_to(tmp_path / "out", source, "onnx"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_weights_too_large_for_one_file_go_beside_the_graph(
    model_dir: Path, tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "MAX_INLINE_BYTES", 0)
    out = export_to(tmp_path / "out", model_dir, "onnx")
    manifest = msgspec.json.decode((out / "export.json").read_bytes(), type=Manifest)
    assert manifest.files["model.onnx.data"] == file_digest(out / "model.onnx.data")
    inputs = inputs_of(3, 5)
    given = onnx_answer(out / "model.onnx")(inputs)
    assert largest_difference(given, source_answer(tiny)(inputs)) < 1e-5


@pytest.mark.parametrize(
    "precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow), "int8"]
)
def test_lower_precisions_stay_near_and_leave_the_source_alone(
    precision: str, tiny: Bundle, program: torch.export.ExportedProgram
) -> None:
    inputs = inputs_of(6, 8)
    before = source_answer(tiny)(inputs)
    lower = graph.trace(tiny, precision)
    with torch.inference_mode():
        given = lower.module()(*map(torch.from_numpy, inputs.values()))
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    assert 0 < largest_difference(arrays, before) < 0.1
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    assert largest_difference(source_answer(tiny)(inputs), before) == 0
    assert num_bytes(lower) < {"int8": 0.5}.get(precision, 0.7) * num_bytes(program)


def num_bytes(program: torch.export.ExportedProgram) -> int:
    """Of all weights."""
    return sum(tensor.nbytes for tensor in program.state_dict.values())


def changed(answer: Answer, name: str, value: float) -> Answer:
    """`answer` with one number of output `name` replaced."""

    def other(inputs: Arrays) -> Arrays:
        outputs = {key: array.copy() for key, array in answer(inputs).items()}
        outputs[name].flat[1] += value
        return outputs

    return other


@pytest.mark.parametrize("value", [2e-4, float("nan"), 1.0])
@pytest.mark.parametrize("name", ["pattern_probabilities", "modality_weights"])
def test_the_gate_sees_one_changed_number(tiny: Bundle, name: str, value: float) -> None:
    source = source_answer(tiny)
    same = compare(source, source, [inputs_of(4, 3)], "noise")
    check_agreement(same, limits("fp32"))
    other = compare(source, changed(source, name, value), [inputs_of(4, 3)], "noise")
    with pytest.raises(ExportError, match="numbers differ by up to"):
        check_agreement(other, limits("fp32"))


def test_the_gate_counts_labels_of_products_that_have_one(tiny: Bundle) -> None:
    inputs = inputs_of(4, 3) | {
        "image_present": np.array([True, True, True, False]),
        "token_mask": np.zeros((4, 3), dtype=bool),
    }
    source = source_answer(tiny)

    def flipped(given: Arrays) -> Arrays:
        outputs = {key: array.copy() for key, array in source(given).items()}
        outputs["color_probabilities"] = -outputs["color_probabilities"]
        return outputs

    agreement = compare(source, flipped, [inputs], "noise")
    assert agreement.num_products == 4
    assert agreement.labels_agree == 0.5


def test_the_gate_sees_another_shape_and_a_batch_that_is_not_taken(tiny: Bundle) -> None:
    source = source_answer(tiny)

    def shorter(inputs: Arrays) -> Arrays:
        return {name: array[:1] for name, array in source(inputs).items()}

    def of_two(inputs: Arrays) -> Arrays:
        assert len(inputs["pixels"]) == 2, "expected a batch of 2"
        return source(inputs)

    with pytest.raises(ExportError, match="other outputs"):
        compare(source, shorter, [inputs_of(4, 3)], "noise")
    with pytest.raises(
        ExportError, match=r"batch of 3 with titles of 5 ids.*expected a batch of 2"
    ):
        compare(source, of_two, [inputs_of(3, 5)], "noise")


def test_a_tampered_graph_is_refused_and_nothing_is_left(
    model_dir: Path,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tampered = copy.deepcopy(program)
    tampered.state_dict["model.modality_embedding"].data *= 1.01
    monkeypatch.setattr(exporting, "trace", lambda source, precision: tampered)
    shown: list[Comparison] = []
    with pytest.raises(ExportError, match="does not answer as the model does") as refused:
        export(ExportOptions(str(model_dir), "pt2", tmp_path / "out"), shown.append)
    assert refused.value.exit_code == 14
    assert shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_a_graph_with_its_batch_size_baked_in_is_refused(
    model_dir: Path, tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def baked(inputs: Arrays) -> Arrays:
        if len(inputs["pixels"]) != 8:
            raise RuntimeError("expected 8")
        return source_answer(tiny)(inputs)

    monkeypatch.setattr(exporting, "pt2_answer", lambda path: baked)
    with pytest.raises(ExportError, match=r"cannot answer a batch of 1 .* expected 8"):
        export_to(tmp_path / "out", model_dir)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
def test_nothing_is_left_behind_when_it_is_stopped_at_the_last_step(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        (folder,) = tmp_path.iterdir()
        assert len(list(folder.iterdir())) == len(FILES) - 1
        raise StoppedError(signal.SIGTERM)

    monkeypatch.setattr(exporting, "write_json", stop)
    with pytest.raises(StoppedError):
        export_to(tmp_path / "deep" / "out", model_dir)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("traced")
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="it needs a C++ compiler")
def test_a_compiled_package_answers_sizes_that_it_was_not_made_with(
    model_dir: Path, tiny: Bundle, tmp_path: Path
) -> None:
    out = export_to(tmp_path / "aoti", model_dir, "aoti")
    answer = aoti_answer(out / "model.aoti.pt2")
    for batch, length in ((1, 1), (5, 16)):
        inputs = inputs_of(batch, length)
        assert largest_difference(answer(inputs), source_answer(tiny)(inputs)) < 1e-5


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_a_full_disk_is_its_own_error(model_dir: Path, tmp_path: Path, kind: Format) -> None:
    with largest_file(10_000), pytest.raises(DiskFullError, match="cannot write"):
        export_to(tmp_path / "out", model_dir, kind)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_there_is_refused_and_kept(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (tmp_path, tmp_path / "mine", tmp_path / "link"):
        with pytest.raises(OutputError, match="there already"):
            export_to(out, model_dir)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_definition_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "definition").mkdir()
    write_config(tiny_config(), tmp_path / "definition" / "config.json")
    with pytest.raises(ModelError, match="definition without weights"):
        export_to(tmp_path / "out", tmp_path / "definition")


def test_a_missing_extra_is_named_with_its_cure(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        exporting.importlib.util, "find_spec", lambda name: name != "onnxscript" or None
    )
    with pytest.raises(UsageError, match="not installed: onnxscript") as refused:
        export_to(tmp_path / "out", model_dir, "onnx")
    assert "pip install '.[onnx]'" in refused.value.hint


def test_what_torch_or_onnx_cannot_take_is_not_exportable(
    tiny: Bundle,
    program: torch.export.ExportedProgram,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("No ONNX function found for aten.strange\nand much more")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(torch.export, "export", fail)
    for attempt in (
        lambda: graph.save_onnx(program, tiny, tmp_path / "model.onnx"),
        lambda: graph.trace(tiny, "fp32"),
    ):
        with pytest.raises(NotExportableError, match=r"aten\.strange$") as refused:
            attempt()
        assert refused.value.exit_code == 15


def test_a_graph_that_onnx_runtime_cannot_run_is_not_exportable(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"nothing")
    with pytest.raises(NotExportableError, match="ONNX Runtime"):
        onnx_answer(tmp_path / "model.onnx")


@pytest.mark.usefixtures("traced")
def test_the_command_shows_both_sides_on_golden_vectors_and_on_a_catalog(
    model_dir: Path, tmp_path: Path, make_catalog: MakeCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tagger.console.results.width", 160)
    catalog = make_catalog(mixed_rows(tmp_path, 70))
    words = ["export", str(model_dir), "--format", "pt2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*words, "--check", str(catalog)])
    assert done.exit_code == 0, done.output
    for text in ("golden vectors, one by one", "100.00", "products a second", "is ready"):
        assert text in done.output
    compared = json.loads((tmp_path / "out" / "export.json").read_text())["agreement"]
    assert [row["num_products"] for row in compared] == [8, 8, 70]
    assert compared[2]["compared_on"] == catalog.name
    again = CliRunner().invoke(app, words)
    assert isinstance(again.exception, OutputError)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("agree", [True, False])
def test_the_command_shows_how_an_export_compares_when_its_bar_is_gone(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agree: bool
) -> None:
    events: list[str] = []
    monkeypatch.setattr("tagger.console.Bar.__exit__", lambda *_: events.append("bar closed"))
    shown = "tagger.comparison_tables.show_comparison"
    monkeypatch.setattr(shown, lambda comparison: events.append("shown"))
    if not agree:
        monkeypatch.setattr(exporting, "limits", lambda _: Limits(labels_agree=1, difference=-1))
    words = ["export", str(model_dir), "--format", "pt2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code == 0) == agree
    assert events == ["bar closed", "shown"]


@pytest.mark.slow
def test_a_stopped_export_leaves_nothing_behind(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["export", str(model_dir), "--format", "pt2", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tagger.cli", *words],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert [path.name for path in tmp_path.iterdir()] == [f".out.{process.pid}.partial"]
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "nothing was written" in said
    assert list(tmp_path.iterdir()) == []
