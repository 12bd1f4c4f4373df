"""The program: four commands, and what becomes of their errors."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from contextlib import suppress
from types import FrameType
from typing import Annotated

import typer

from tagger.errors import StoppedError, TaggerError, UsageError
from tagger.eval_command import evaluate
from tagger.export_command import export
from tagger.predict_command import predict
from tagger.train_command import train
from tagger.version import __version__

app = typer.Typer(
    help="Label product catalogs from pictures and titles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tagger {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Label product catalogs from pictures and titles."""
    try:
        os.getcwd()
    except FileNotFoundError as error:  # torch would end the process with a message of its own
        raise UsageError(
            f"the folder that tagger runs in is gone: {os.environ.get('PWD', 'it was deleted')}",
            "go to one that is there: cd",
        ) from error


app.command()(train)
app.command()(predict)
app.command("eval")(evaluate)
app.command()(export)


LEFT_OUT = ("torch", "open_clip", "matplotlib", "jinja2")
"""What is not installed beside ONNX Runtime (requirements-onnx.txt)."""


def _not_installed(package: str) -> UsageError:
    what, hint = "only predict and eval run, and only ONNX exports", "name one with --model, or "
    if package in ("matplotlib", "jinja2"):
        what, hint = "eval draws no plots and writes no pages", ""
    return UsageError(
        f"{package} is not installed here; without it, {what}",
        f"{hint}install all of tagger: pip install . in its source folder",
    )


def _stop(number: int, frame: FrameType | None) -> None:
    raise StoppedError(number)


def main() -> None:
    """Entry point: a TaggerError is two lines on stderr and its exit code."""
    # Pillow warns of pictures that the image status tells about already.
    warnings.filterwarnings("ignore", module="PIL")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        app()
    except TaggerError as error:
        from tagger.console import show_error

        show_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        if error.name not in LEFT_OUT:
            raise
        from tagger.console import show_error

        missing = _not_installed(error.name)
        show_error(missing)
        sys.exit(missing.exit_code)
    except StoppedError as stopped:
        from tagger.console import show_stopped

        show_stopped(stopped)
        sys.exit(stopped.exit_code)


def _take_closed_numbers() -> None:
    """An output file that got the number of a stream that the caller closed (`2>&-`) would hold
    what libraries print there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def program() -> None:
    """`main`, and an end that nothing spoils: pyarrow reads a CSV file ahead in a thread, and where
    that is still at it when the interpreter shuts down, the process aborts."""
    code = 0
    _take_closed_numbers()
    try:
        main()
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        code = end.code or 0
    # A stream that the caller closed is None.
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    program()
