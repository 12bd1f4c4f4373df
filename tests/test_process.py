"""The command as a process: killed, stopped, out of room, without a reader, without a network."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tagger.config import Training, write_config

from .conftest import mixed_rows, random_titles, tiny_config

NUM_ROWS = 20_000
"""Five parts, which the tiny model labels in a few seconds."""


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of NUM_ROWS products; a few of them have pictures."""
    folder = tmp_path_factory.mktemp("feed")
    rows = mixed_rows(folder, 40) * (NUM_ROWS // 40)
    titles = random_titles(NUM_ROWS, seed=7)
    images = [row["image"] if n % 50 == 0 else None for n, row in enumerate(rows)]
    path = folder / "feed.parquet"
    pq.write_table(pa.table({"id": range(NUM_ROWS), "image": images, "title": titles}), path)
    return path


def command(feed: Path, model_dir: Path, out: Path, *more: str) -> list[str]:
    options = ["--tasks", "color,pattern", "--model", str(model_dir), "--out", str(out), *more]
    return [sys.executable, "-m", "tagger.cli", "predict", str(feed), *options]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def finish(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, capture_output=True, text=True, env=environment(), timeout=300, check=False
    )


@pytest.fixture(scope="module")
def uninterrupted(
    feed: Path, model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bytes, float]:
    """The output of a run that nobody disturbed, and its seconds."""
    out = tmp_path_factory.mktemp("whole") / "out.parquet"
    started = time.monotonic()
    done = finish(command(feed, model_dir, out))
    assert done.returncode == 0, done.stderr
    return out.read_bytes(), time.monotonic() - started


def kill_until_done(
    feed: Path, model_dir: Path, out: Path, seconds: float, kills: int, seed: int
) -> int:
    """Kill the run at random moments, then let it end; returns how many kills found it running."""
    rng = random.Random(seed)
    hits = 0
    for _ in range(kills):
        process = start(command(feed, model_dir, out))
        try:
            process.wait(rng.uniform(0, 1.1 * seconds))
        except subprocess.TimeoutExpired:
            process.kill()
            hits += 1
        process.communicate()
        if out.exists():
            # Under its name the file is whole, whenever one looks.
            assert pq.read_table(out).num_rows == NUM_ROWS
        for part in out.parent.glob(".out.parquet.tagger/part-*.parquet"):
            assert pq.read_metadata(part).num_rows in (4096, NUM_ROWS % 4096)
    done = finish(command(feed, model_dir, out))
    assert done.returncode == 0, done.stderr
    return hits


def test_killed_at_random_moments_the_same_command_ends_in_the_same_bytes(
    feed: Path, model_dir: Path, tmp_path: Path, uninterrupted: tuple[bytes, float]
) -> None:
    out = tmp_path / "out.parquet"
    kill_until_done(feed, model_dir, out, uninterrupted[1], kills=3, seed=0)
    assert out.read_bytes() == uninterrupted[0]
    assert [p.name for p in tmp_path.iterdir()] == ["out.parquet"]


@pytest.mark.slow
def test_killed_sixty_times_the_same_command_ends_in_the_same_bytes(
    feed: Path, model_dir: Path, tmp_path: Path, uninterrupted: tuple[bytes, float]
) -> None:
    hits = outputs = 0
    while hits < 60:
        outputs += 1
        out = tmp_path / str(outputs) / "out.parquet"
        out.parent.mkdir()
        hits += kill_until_done(feed, model_dir, out, uninterrupted[1], kills=4, seed=outputs)
        assert out.read_bytes() == uninterrupted[0]
        assert [p.name for p in out.parent.iterdir()] == ["out.parquet"]
    print(f"{hits} kills, {outputs} identical outputs of {NUM_ROWS} rows")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_run_with_its_code_and_keeps_what_is_done(
    feed: Path,
    model_dir: Path,
    tmp_path: Path,
    uninterrupted: tuple[bytes, float],
    number: signal.Signals,
) -> None:
    out = tmp_path / "out.parquet"
    process = start(command(feed, model_dir, out))
    first = out.parent / ".out.parquet.tagger" / "part-00000.parquet"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    error, hint = stderr.splitlines()
    assert error == f"error: stopped by {number.name}"
    assert "same command" in hint
    assert not out.exists()
    assert not list(tmp_path.rglob(".*.partial"))
    assert finish(command(feed, model_dir, out)).returncode == 0
    assert out.read_bytes() == uninterrupted[0]


def checkpoints(out: Path) -> list[str]:
    return sorted(path.name for path in out.glob("checkpoint-*"))


def stop_when(process: subprocess.Popen[str], ready: Callable[[], bool], number: int) -> str:
    """Send the signal once `ready`; returns the hint that the command ends with."""
    while not ready() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    return stderr.splitlines()[-1]


def test_stopped_training_goes_on_as_its_hint_says_with_or_without_a_checkpoint(
    tmp_path: Path,
) -> None:
    rows = mixed_rows(tmp_path, 60)
    labelled = [{**row, "color": ("Red", "Blue")[n % 2]} for n, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(labelled), tmp_path / "feed.parquet")
    endless = msgspec.structs.replace(tiny_config(), tasks=(), training=Training(epochs=100_000))
    write_config(endless, tmp_path / "config.json")
    out = tmp_path / "out"
    arguments = ["train", str(tmp_path / "feed.parquet"), "--tasks", "color", "--out", str(out)]
    train = [sys.executable, "-m", "tagger.cli", *arguments, "--model", str(tmp_path)]
    hint = stop_when(start(train), out.exists, signal.SIGTERM)
    assert not checkpoints(out)
    assert hint.endswith("again with --resume")
    hint = stop_when(start([*train, "--resume"]), lambda: bool(checkpoints(out)), signal.SIGINT)
    assert hint.endswith("again with --resume")
    before = checkpoints(out)[-1]
    stop_when(start([*train, "--resume"]), lambda: checkpoints(out)[-1:] > [before], signal.SIGTERM)
    assert checkpoints(out)[-1] > before


def test_full_disk_ends_with_its_code_and_the_same_command_goes_on(
    feed: Path, model_dir: Path, tmp_path: Path, uninterrupted: tuple[bytes, float]
) -> None:
    out = tmp_path / "out.parquet"
    room = 400_000  # bytes: room for a part, not for the file

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    arguments = command(feed, model_dir, out)
    done = subprocess.run(
        arguments,
        capture_output=True,
        text=True,
        env=environment(),
        preexec_fn=limit,
        timeout=120,
        check=False,
    )
    assert done.returncode == 8, done.stderr
    assert "too large" in done.stderr or "No space" in done.stderr
    assert not out.exists()
    assert len(list(tmp_path.rglob("part-*.parquet"))) == 5
    assert finish(arguments).returncode == 0
    assert out.read_bytes() == uninterrupted[0]


def test_reader_that_goes_away_ends_the_command_with_the_code_of_a_closed_pipe(
    feed: Path, model_dir: Path, tmp_path: Path
) -> None:
    arguments = command(feed, model_dir, tmp_path / "out.parquet", "--limit", "100")
    process = start(arguments)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=60) == 141
    process.stdout.close() if process.stdout else None
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 100


def test_files_of_eval_are_there_even_where_nobody_reads_what_it_prints(
    model_dir: Path, tmp_path: Path
) -> None:
    labelled = pa.table({"title": ["red shirt", "blue bag"] * 20, "color": ["Red", "Blue"] * 20})
    pq.write_table(labelled, tmp_path / "feed.parquet")
    files = {name: tmp_path / name[2:] for name in ("--json", "--label-issues", "--report")}
    more = [str(part) for pair in files.items() for part in pair]
    given = ["eval", str(tmp_path / "feed.parquet"), "--tasks", "color", "--model", str(model_dir)]
    process = start([sys.executable, "-m", "tagger.cli", *given, *more])
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    process.stderr.close() if process.stderr else None
    assert all(file.stat().st_size for file in files.values())


def test_report_of_a_stopped_run_says_what_stopped_it(
    feed: Path, model_dir: Path, tmp_path: Path
) -> None:
    report = tmp_path / "run.json"
    process = start(command(feed, model_dir, tmp_path / "out.parquet", "--report", str(report)))
    first = tmp_path / ".out.parquet.tagger" / "part-00000.parquet"
    stop_when(process, first.exists, signal.SIGTERM)
    said = msgspec.json.decode(report.read_bytes())
    assert said["error"] == "stopped by SIGTERM"
    assert said["exit_code"] == process.returncode == 143


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_change_neither_output_nor_exit_code(
    feed: Path, model_dir: Path, tmp_path: Path, closed: str
) -> None:
    out, usual = tmp_path / "out.parquet", tmp_path / "usual.parquet"
    arguments = command(feed, model_dir, out, "--limit", "100")
    done = finish(["sh", "-c", f'"$@" {closed}', "sh", *arguments])
    assert done.returncode == 0, done.stderr
    assert finish(command(feed, model_dir, usual, "--limit", "100")).returncode == 0
    assert out.read_bytes() == usual.read_bytes()


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
def test_read_only_folder_ends_with_the_code_of_the_output(
    feed: Path, model_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    done = finish(command(feed, model_dir, folder / "out.parquet"))
    assert done.returncode == 6
    assert "Permission denied" in done.stderr


def test_no_socket_no_worker_process_and_no_shared_memory_is_used(
    feed: Path, model_dir: Path, tmp_path: Path
) -> None:
    code = (
        "import socket, multiprocessing.process as p, multiprocessing.shared_memory as m\n"
        "def no(*a, **k): raise SystemError('forbidden')\n"
        "socket.socket.connect = socket.socket.bind = socket.getaddrinfo = no\n"
        "p.BaseProcess.start = m.SharedMemory.__init__ = no\n"
        "from tagger.cli import main\n"
        "main()\n"
    )
    arguments = command(feed, model_dir, tmp_path / "out.parquet", "--limit", "300")
    done = finish([sys.executable, "-c", code, *arguments[3:]])
    assert done.returncode == 0, done.stderr
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 300
