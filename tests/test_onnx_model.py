"""An export labels and scores as its source does, without torch, and is what was exported."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

import tagger
from tagger import onnx_model
from tagger.cli import app
from tagger.drift import find_drift
from tagger.errors import ModelError, OtherRunError, UsageError
from tagger.evaluate import evaluate_catalog
from tagger.hashes import file_digest
from tagger.job import Job, JobOptions
from tagger.loading import load_model
from tagger.onnx_model import CPU, CUDA, CUDA_OPTIONS, OnnxModel
from tagger.products import ProductSource
from tagger.run import run
from tagger.runtime import Model

from .conftest import TASKS, THRESHOLD, MakeCatalog, mixed_rows, random_titles

ROOT = Path(__file__).parent.parent
NAMES = [task.name for task in TASKS]
CLOSE = 1e-4


@pytest.fixture(scope="module")
def source(calibrated_dir: Path) -> Model:
    """The model itself, in the precision of the export."""
    return load_model(calibrated_dir, "cpu", fp32=True)


@pytest.fixture(scope="module")
def exported(onnx_dir: Path) -> OnnxModel:
    """Its export."""
    model = load_model(onnx_dir, "cpu", fp32=True)
    assert isinstance(model, OnnxModel)
    return model


@pytest.fixture
def copied(onnx_dir: Path, tmp_path: Path) -> Path:
    """A copy of the export, to do harm to."""
    return Path(shutil.copytree(onnx_dir, tmp_path / "copied"))


@pytest.fixture
def catalog(make_catalog: MakeCatalog, tmp_path: Path) -> Path:
    """70 products of every kind, with labels of both tasks."""
    rows = mixed_rows(tmp_path, 70)
    for number, row in enumerate(rows):
        row["color"] = TASKS[0].labels[number % 3] if number % 6 else None
        row["pattern"] = TASKS[1].labels[number % 4] if number % 5 else "Unheard of"
    return make_catalog(rows)


def labelled(model: Model, catalog: Path, out: Path, **options: Any) -> pa.Table:
    """What `tagger predict` writes."""
    job = Job(model, JobOptions(catalog, out=out, **({"tasks": NAMES} | options)))
    assert run(job).finished
    return pq.read_table(out)


def assert_close(one: Any, other: Any) -> None:
    """Equal but for numbers, which may differ by CLOSE; nested ones too."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_close(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=CLOSE, nan_ok=True)
    else:
        assert one == other


@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"tasks": ["color"], "min_precision": 0.9}], ids=str
)
def test_labels_statuses_and_confidences_are_those_of_the_source(
    source: Model, exported: OnnxModel, catalog: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    want = labelled(source, catalog, tmp_path / "source.parquet", **options)
    have = labelled(exported, catalog, tmp_path / "export.parquet", **options)
    assert have.schema.equals(want.schema)
    assert_close(have.to_pylist(), want.to_pylist())
    if "min_precision" in options:
        assert set(have["color_status"].to_pylist()) == {"ok", "abstain", "error"}
        kept = [row for row in have.to_pylist() if row["color_status"] == "ok"]
        assert min(row["color_confidence"] for row in kept) >= THRESHOLD


def test_every_figure_of_every_view_is_that_of_the_source(
    source: Model, exported: OnnxModel, catalog: Path
) -> None:
    want, have = (
        evaluate_catalog(model, ProductSource(catalog), NAMES).figures
        for model in (source, exported)
    )
    assert set(have.scores) == {"both", "scrubbed", "image", "title"}
    assert have.scores["both"]["color"].published is not None
    assert have.trained_on == want.trained_on
    assert_close(msgspec.to_builtins(have), msgspec.to_builtins(want))


def test_drift_is_found_as_by_the_source(source: Model, exported: OnnxModel, catalog: Path) -> None:
    want, have = (find_drift(model, ProductSource(catalog), NAMES) for model in (source, exported))
    assert any(finding.drifted for finding in have.findings)
    assert_close(
        [msgspec.to_builtins(finding) for finding in have.findings],
        [msgspec.to_builtins(finding) for finding in want.findings],
    )


def test_trained_on_products_are_known_to_the_export(exported: OnnxModel, tmp_path: Path) -> None:
    titles = random_titles(30, seed=3)
    frame = pd.DataFrame({"title": titles[:10], "color": ["Red"] * 10, "pattern": ["X"] * 10})
    frame.to_parquet(tmp_path / "seen.parquet")
    done = evaluate_catalog(exported, ProductSource(tmp_path / "seen.parquet"), NAMES)
    assert done.figures.trained_on == 5


def test_no_bit_of_an_answer_hangs_on_the_batch(
    exported: OnnxModel, catalog: Path, tmp_path: Path
) -> None:
    tables = [
        labelled(exported, catalog, tmp_path / f"{size}.parquet", batch_size=size)
        for size in (1, 7, 64)
    ]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


def test_python_labels_a_dataframe_with_an_export(onnx_dir: Path, source: Model) -> None:
    frame = pd.DataFrame({"title": [*random_titles(9), None]}, index=range(5, 15))
    have = tagger.load(onnx_dir).predict(frame, min_precision=0.9, tasks=["color"])
    want = tagger.predict.Tagger(source).predict(frame, min_precision=0.9, tasks=["color"])
    assert_close(*(pa.Table.from_pandas(table).to_pylist() for table in (have, want)))
    assert have.index.equals(frame.index)


def test_outputs_of_source_and_export_are_not_mixed(
    source: Model, exported: OnnxModel, catalog: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.parquet"
    first = labelled(source, catalog, out)
    with pytest.raises(OtherRunError, match="model"):
        labelled(exported, catalog, out)
    other = JobOptions(catalog, NAMES, tmp_path / "other.parquet", incremental=out)
    assert run(Job(exported, other)).stages.computed_rows == first.num_rows
    again = JobOptions(catalog, NAMES, tmp_path / "again.parquet", incremental=other.out)
    job = Job(exported, again)
    assert run(job).stages.computed_rows == 0
    assert pq.read_schema(again.out).metadata[b"tagger_model_sha256"] == exported.sha256.encode()
    assert "onnxruntime" in job.fingerprint
    assert "torch" not in job.fingerprint


def change(name: str) -> Callable[[Path], None]:
    """Harm: the file `name` is another one."""

    def harm(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return harm


def link_out(folder: Path) -> None:
    shutil.move(folder / "model.onnx", folder.parent / "elsewhere.onnx")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere.onnx")


def forget(folder: Path) -> None:
    """Harm: the manifest does not know the graph."""
    manifest = json.loads((folder / "export.json").read_text())
    del manifest["files"]["model.onnx"]
    (folder / "export.json").write_text(json.dumps(manifest))


def rewrite(**fields: Any) -> Callable[[Path], None]:
    """Harm: other fields in the manifest."""

    def harm(folder: Path) -> None:
        manifest = json.loads((folder / "export.json").read_text())
        (folder / "export.json").write_text(json.dumps(manifest | fields))

    return harm


def no_graph(folder: Path) -> None:
    """Harm: a graph with the right hash that is none."""
    (folder / "model.onnx").write_bytes(b"nothing")
    manifest = json.loads((folder / "export.json").read_text())
    manifest["files"]["model.onnx"] = file_digest(folder / "model.onnx")
    (folder / "export.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (change("model.onnx"), r"model\.onnx is not the file that was exported"),
        (change("tokenizer.json"), r"tokenizer\.json is not the file"),
        (change("config.json"), r"config\.json is not the file"),
        (change("calibration.json"), r"calibration\.json is not the file"),
        (change("profile.json"), r"profile\.json is not the file"),
        (lambda folder: (folder / "model.onnx").unlink(), r"model\.onnx: No such file"),
        (lambda folder: (folder / "model.onnx.data").write_text("x"), "not among the files"),
        (link_out, "link out of the model directory"),
        (forget, "not among the files"),
        (no_graph, "ONNX Runtime .* cannot run it"),
        (rewrite(graph="../copied/model.onnx"), "is not a file of its own directory"),
        (rewrite(format_version=2), "format_version 2"),
        (rewrite(unheard_of=1), r"export\.json: .*unheard_of"),
        (rewrite(format="pt2"), "export to pt2, which tagger itself cannot run"),
    ],
)
def test_a_damaged_or_exchanged_export_is_a_model_error(
    copied: Path, harm: Callable[[Path], None], said: str
) -> None:
    harm(copied)
    with pytest.raises(ModelError, match=said) as refused:
        tagger.load(copied)
    assert refused.value.hint


def test_a_calibration_that_was_added_later_is_refused(copied: Path) -> None:
    manifest = json.loads((copied / "export.json").read_text())
    del manifest["files"]["calibration.json"]
    (copied / "export.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"calibration\.json is not among the files"):
        tagger.load(copied)


def test_card_and_golden_vectors_may_be_edited_or_left_behind(copied: Path) -> None:
    (copied / "README.md").write_text("mine")
    (copied / "golden.safetensors").unlink()
    assert tagger.load(copied).tasks == NAMES


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["predict", "--cache", "cache"], "--cache keeps what towers say"),
        (["eval", "--report", "page.html"], "--report needs the network itself"),
        (["eval", "--calibrate"], "--calibrate needs the network itself"),
        (["predict", "--device", "tpu"], "'tpu': ONNX Runtime does not offer it"),
        (["predict", "--device", "cpu:x"], "'cpu:x': ONNX Runtime does not offer it"),
    ],
)
def test_what_an_export_cannot_do_is_refused_before_the_work(
    onnx_dir: Path, catalog: Path, words: list[str], said: str
) -> None:
    name, *options = words
    model = ["--tasks", "color", "--model", str(onnx_dir)]
    done = CliRunner().invoke(app, [name, str(catalog), *model, *options])
    assert isinstance(done.exception, UsageError)
    assert said in done.exception.message
    assert done.exception.hint
    assert not list(catalog.parent.glob("*labeled*"))


def test_float32_is_refused_of_an_export_that_computes_in_float16(copied: Path) -> None:
    rewrite(precision="fp16")(copied)
    with pytest.raises(UsageError, match="computes in float16"):
        tagger.load(copied, fp32=True)
    model = tagger.load(copied).bundle
    assert model.computed_in == "float16"


def test_an_export_is_no_model_to_train_from_or_to_export(onnx_dir: Path, tmp_path: Path) -> None:
    feed, out = tmp_path / "feed.parquet", str(tmp_path / "again")
    pd.DataFrame({"title": ["red"] * 40, "color": ["Red"] * 40}).to_parquet(feed)
    for words in (
        ["export", str(onnx_dir), "--format", "pt2", "--out", out],
        ["train", str(feed), "--tasks", "color", "--model", str(onnx_dir), "--out", out],
    ):
        done = CliRunner().invoke(app, words)
        assert isinstance(done.exception, ModelError)
        assert "is an export" in done.exception.message


@pytest.mark.parametrize(
    ("device", "offered", "want"),
    [
        (None, [CPU], [(CPU, {})]),
        (None, [CUDA, CPU], [(CUDA, {"device_id": 0, **CUDA_OPTIONS}), (CPU, {})]),
        ("cpu", [CUDA, CPU], [(CPU, {})]),
        ("cuda", [CUDA, CPU], [(CUDA, {"device_id": 0, **CUDA_OPTIONS}), (CPU, {})]),
        ("cuda:1", [CUDA, CPU], [(CUDA, {"device_id": 1, **CUDA_OPTIONS}), (CPU, {})]),
    ],
)
def test_a_gpu_computes_where_onnx_runtime_has_one_and_nobody_says_otherwise(
    device: str | None, offered: list[str], want: list[tuple[str, dict[str, int]]]
) -> None:
    assert onnx_model.providers(device, offered) == want


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "cpux"])
def test_a_device_that_onnx_runtime_does_not_offer_is_a_usage_error(device: str) -> None:
    with pytest.raises(UsageError, match=device) as refused:
        onnx_model.providers(device, [CPU])
    assert refused.value.hint == "it offers: cpu"


def test_a_session_is_on_the_device_that_it_says(exported: OnnxModel) -> None:
    assert exported.session.get_providers() == [CPU]
    assert exported.device_type == "cpu"


def test_a_missing_runtime_is_named_with_its_cure(
    onnx_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="onnxruntime is not installed") as refused:
        tagger.load(onnx_dir)
    assert "pip install" in refused.value.hint


BLOCKED = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "open_clip", "torchvision", "timm") or (
            name == "safetensors.torch"
        ):
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Blocked())
"""
WITHOUT_TORCH = f"""{BLOCKED}
before = set(sys.modules)
from typer.testing import CliRunner
import tagger
from tagger.cli import app

for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, words)
    if done.exit_code:
        raise SystemExit(f"{{words}}: {{done.output}} {{done.exception!r}}")
frame = __import__("pandas").DataFrame({{"title": ["red shirt"]}})
tagger.load(sys.argv[2]).predict(frame)
print(json.dumps(sorted({{name.split(".")[0] for name in set(sys.modules) - before}})))
"""


@pytest.fixture(scope="module")
def imported(onnx_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The top-level modules of a process that labels and scores with an export, and in which torch,
    open_clip, torchvision and safetensors.torch cannot be imported."""
    folder = tmp_path_factory.mktemp("light")
    rows = mixed_rows(folder, 30)
    for number, row in enumerate(rows):
        row["color"] = TASKS[0].labels[number % 3]
    catalog, out = folder / "catalog.parquet", folder / "out.parquet"
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), catalog)
    feed = folder / "feed.parquet"  # like the one that the profile is of
    pq.write_table(pa.table({"title": random_titles(30, seed=3)}), feed)
    common = ["--tasks", "color", "--model", str(onnx_dir)]
    predict = ["predict", str(catalog), *common]
    score = ["eval", str(catalog), *common]
    commands = [
        [*predict, "--out", str(out), "--min-precision", "0.9", "--report", str(folder / "r.json")],
        [*predict, "--out", str(out), "--min-precision", "0.9", "--review", str(folder / "r.csv")],
        [*predict, "--out", str(folder / "parts"), "--shard", "1/1", "--top-k", "2"],
        [*predict, "--dry-run"],
        [*score, "--json", str(folder / "eval.json")],
        [*score, "--label-issues", str(folder / "issues.parquet")],
        ["eval", str(feed), *common, "--drift"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands), str(onnx_dir)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert {"out.parquet", "r.json", "r.csv", "eval.json", "issues.parquet"} <= set(
        os.listdir(folder)
    )
    assert json.loads((folder / "r.json").read_text())["versions"]["onnxruntime"]
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_predict_and_eval_of_an_export_run_to_the_end_where_torch_cannot_be_imported(
    imported: set[str],
) -> None:
    assert {"tagger", "onnxruntime"} <= imported
    assert not imported & {"torch", "open_clip", "torchvision", "timm"}


def test_what_needs_torch_says_so_where_there_is_none(tmp_path: Path) -> None:
    pd.DataFrame({"title": ["red"], "color": ["Red"]}).to_parquet(tmp_path / "catalog.parquet")
    code = f"{BLOCKED}\nfrom tagger.cli import main\nmain()"
    words = ["predict", str(tmp_path / "catalog.parquet"), "--tasks", "color"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == UsageError.exit_code
    assert "torch is not installed" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_the_light_requirements_are_what_is_imported(imported: set[str]) -> None:
    lines = (ROOT / "requirements-onnx.txt").read_text(encoding="utf-8").splitlines()
    assert "pip install -r requirements-onnx.txt && " in (ROOT / "README.md").read_text("utf-8")
    listed = {line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]["onnx"]
    # ftfy is no dependency of the project itself: it comes with open_clip_torch.
    assert {line for line in listed if not line.startswith("ftfy")} <= {
        *project["dependencies"],
        *extras,
    }
    named = {Requirement(line).name for line in listed}
    owners = metadata.packages_distributions()
    used = {plain(owner) for module in imported for owner in owners.get(module, ())}
    assert named - used <= {"ftfy"}, "nothing is listed that is not imported"
    assert used - {"tagger"} <= closure(named), "nothing is imported that is not listed"


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(names: set[str]) -> set[str]:
    """The distributions `names` with all that they bring along."""
    found: set[str] = set()
    waiting = {plain(name) for name in names}
    while waiting:
        name = waiting.pop()
        found.add(name)
        for line in metadata.requires(name) or ():
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                waiting |= {plain(needed.name)} - found
    return found
