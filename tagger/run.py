"""Do a job: label the parts that are missing, redo what failed, publish when all is there."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tagger.arrow_types import as_file
from tagger.errors import OtherRunError, TooManyFailuresError
from tagger.job import ANSWERS_HANG_ON, Job, MaxFailures, fingerprint_of, read_fingerprint
from tagger.output import ParquetOutput, open_output
from tagger.part_reader import RowReader, part_rows
from tagger.predict import READ_ROWS, label_batches
from tagger.previous import Previous
from tagger.report import Report, Stages, Summary, failed
from tagger.run_directory import RunDirectory, Shard, other_run
from tagger.runtime import Answerer
from tagger.version import __version__

Progress = Callable[[int], None]
"""Called with the number of rows that are done since the last call."""


@dataclass
class Result:
    """What a run did. `missing` parts are those of other shares that are not there yet."""

    summary: Summary
    finished: bool = False
    was_done: bool = False
    missing: int = 0
    remark: str = ""
    encoded_images: int = 0
    encoded_titles: int = 0
    found_in_cache: int = 0
    damaged_in_cache: int = 0
    seconds: float = 0.0
    stages: Stages = field(default_factory=Stages)

    def report(self, job: Job) -> Report:
        """The same for programs."""
        summary = self.summary
        return Report(
            out=str(job.options.out),
            finished=self.finished,
            missing_parts=self.missing,
            rows=summary.num_rows,
            computed_rows=self.stages.computed_rows,
            failed_rows=summary.num_failed,
            image_status=dict(summary.image_status),
            title_status=dict(summary.title_status),
            task_status={name: dict(counts) for name, counts in summary.task_status.items()},
            encoded_images=self.encoded_images,
            encoded_titles=self.encoded_titles,
            found_in_cache=self.found_in_cache,
            damaged_in_cache=self.damaged_in_cache,
            seconds=round(self.seconds, 3),
            seconds_by_stage={name: round(s, 3) for name, s in self.stages.seconds.items()},
            rows_per_second=round(self.stages.computed_rows / max(self.seconds, 1e-9), 1),
            bottleneck=self.stages.bottleneck,
            fingerprint=dict(job.fingerprint),
            versions={
                "tagger": __version__,
                **job.bundle.versions,
                **{name: metadata.version(name) for name in ("pyarrow", "pillow")},
            },
        )


def run(job: Job, progress: Progress = lambda rows: None) -> Result:
    """Label what is not labelled yet, and publish the output once all of it is.

    Killed at any moment, the same run goes on after the last finished part, and ends in the same
    output as one that was never killed.

    Raises:
        LockedError, OtherRunError, OutputError, DiskFullError: see `RunDirectory`.
        CatalogError, CatalogChangedError: the catalog is damaged, or was written to.
        TooManyFailuresError: more than `max_failures`; nothing is published that was not before.
    """
    started = time.monotonic()
    options = job.options
    _ = job.num_rows  # finds a CSV row that cannot be read before anything is written
    result = Result(Summary(options.tasks, options.columns.id))
    directory = RunDirectory(job.directory, options.shard)
    if job.is_file:
        directory.sweep()
    if is_done(job) and not options.retry_failed:
        parts = [options.out] if job.is_file else list(map(directory.part, job.part_sizes))
        for batch in (batch for part in parts for batch in part_rows(part, result.summary.columns)):
            result.summary.add(batch, result.summary.num_rows)
            progress(batch.num_rows)
        result.finished = result.was_done = True
        rows = sum(job.part_sizes.values())
        refuse_failures(options.max_failures, result.summary, rows, published=True)
    else:
        with (
            job.bundle.answerer(options.cache) as answerer,
            closing(directory.open(job.fingerprint, options.overwrite)),
        ):
            is_done(job)  # again: until it was locked, another run could publish
            _Run(job, directory, result, progress, answerer).go()
    result.seconds = time.monotonic() - started
    return result


def join(job: Job, given: pa.RecordBatch, new: pa.RecordBatch) -> pa.RecordBatch:
    """Rows of the output: the columns of the catalog that are kept, and the new ones."""
    columns = [given.column(name) for name in job.kept]
    return pa.RecordBatch.from_arrays([*columns, *new.columns], schema=job.schema)


def is_done(job: Job) -> bool:
    """Whether the output is that of this very run, and finished; nothing is written.

    Raises:
        OtherRunError: it is another file, and nobody said to overwrite it; or a share would
            overwrite parts of its own run.
    """
    options, out = job.options, job.options.out
    directory = RunDirectory(job.directory, options.shard)
    if (options.overwrite and options.shard.count == 1) or not out.exists():
        return False
    is_ours, is_whole = directory.is_of(job.fingerprint), not directory.missing(job.num_parts)
    if not job.is_file:
        finished = is_ours and is_whole and directory.finished
        if finished and options.overwrite and job.part_sizes:
            raise _share_of_a_finished_run(out, options.shard)
        return finished
    theirs = read_fingerprint(out)
    # A CSV file does not say whose it is; killed at the very end, a run left its parts beside it.
    if theirs != job.fingerprint and not (out.suffix == ".csv" and is_ours and is_whole):
        raise other_run(f"{out} is there already", theirs, job.fingerprint)
    # Parts of another run, which was to replace this one, do not take back that it is finished.
    return not is_ours


def _share_of_a_finished_run(out: Path, shard: Shard) -> OtherRunError:
    """Nothing says whether the other shares are to be labelled anew as well, or just have been."""
    return OtherRunError(
        f"{out} holds this very run, finished, and share {shard.number}/{shard.count} does not "
        "overwrite parts of it",
        "leave --overwrite out to keep them, or label all anew: "
        f"rm -r {shlex.quote(str(out))}, then every share again",
    )


def refuse_failures(limit: MaxFailures, summary: Summary, rows: int, published: bool) -> None:
    """Raises:
    TooManyFailuresError: those of `summary` are too many for a run of `rows`, whether it is
        `published` already or not.
    """
    if limit.exceeded(summary.num_failed, rows):
        state = "it was published before" if published else "nothing is published"
        raise TooManyFailuresError(
            f"{summary.num_failed:,} of {summary.num_rows:,} products failed, more than "
            f"--max-failures allows: {summary.reasons}; {state}",
            "put the files right, then run the same command with --retry-failed; what is done "
            "is kept. Where the catalog has to change, begin anew with --overwrite",
        )


class _Run:
    """One run at work in its locked directory."""

    def __init__(
        self,
        job: Job,
        directory: RunDirectory,
        result: Result,
        progress: Progress,
        answerer: Answerer,
    ) -> None:
        self.job, self.directory, self.result, self.progress = job, directory, result, progress
        self.retrying = job.options.retry_failed
        self.answerer = answerer
        self.published = directory.finished and not directory.missing(job.num_parts)

    def go(self) -> None:
        """The parts that are there, then those that are not, then the output."""
        try:
            self._go()
        finally:
            self._account()

    def _account(self) -> None:
        """What was computed, and what the cache could not."""
        result, work = self.result, self.answerer.work
        result.encoded_images, result.encoded_titles = work.encoded_images, work.encoded_titles
        result.found_in_cache = work.found_in_cache
        result.damaged_in_cache = work.damaged_in_cache
        result.remark = "\n".join(filter(None, (result.remark, work.trouble)))

    def _go(self) -> None:
        job, directory = self.job, self.directory
        directory.unfinish()
        if self.retrying:
            self._split_finished_file()
        there = [k for k in job.part_sizes if directory.part(k).exists()]
        for number in there:
            self._take_part(number)
        if self.published:  # with too many failures, too, as it was before
            self._finish()
        self._check_failures()
        self._label_parts([k for k in job.part_sizes if k not in set(there)])
        self.result.missing = len(directory.missing(job.num_parts))
        if not self.result.missing:
            self._publish()
            self.result.finished = True

    def _label_parts(self, numbers: Sequence[int]) -> None:
        if not numbers:
            return
        job, size = self.job, self.job.options.part_rows
        reader = RowReader(job.catalog.batches(READ_ROWS, numbers[0] * size), numbers[0] * size)
        previous = self._open_previous()
        try:
            for number in numbers:
                batches = reader.rows(number * size, number * size + job.part_sizes[number])
                self._label_part(number, batches, previous)
                self._check_failures()
        finally:
            if previous is not None:
                previous.close()

    def _label_part(
        self, number: int, batches: Iterable[pa.RecordBatch], previous: Previous | None
    ) -> None:
        stages, row = self.result.stages, number * self.job.options.part_rows
        with self._open_part(number) as output:
            for given, new in label_batches(self.answerer, batches, self.job.how, previous, stages):
                with stages.time("write"):
                    self._write(output, join(self.job, given, new), row)
                row += given.num_rows
            # Before the part gets its name: rows of a catalog that moved are not rows.
            self.job.catalog.check_unchanged()

    def _take_part(self, number: int) -> None:
        """Count a part that is there; with `retry_failed`, label its failed rows again."""
        tasks, part = self.job.options.tasks, self.directory.part(number)
        row = number * self.job.options.part_rows
        statuses = list(part_rows(part, self.result.summary.columns))
        if not (self.retrying and any(any(failed(batch, tasks)) for batch in statuses)):
            for batch in statuses:
                self.result.summary.add(batch, row)
                self.progress(batch.num_rows)
                row += batch.num_rows
            return
        with self._open_part(number) as output:
            for batch in part_rows(part):
                self._write(output, self._retry(batch), row)
                row += batch.num_rows

    def _retry(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """`batch` with its failed rows labelled again."""
        again = np.array(failed(batch, self.job.options.tasks))
        if not again.any():
            return batch
        # In slices: `filter` and `take` do not know all types of columns.
        bounds = [0, *(np.flatnonzero(np.diff(again)) + 1).tolist(), len(again)]
        old = pa.RecordBatch.from_arrays(batch.columns, schema=self.job.schema)
        slices = [old.slice(first, end - first) for first, end in pairwise(bounds)]
        retried = slices[0 if again[0] else 1 :: 2]
        inputs = pa.Table.from_batches(retried).select(self.job.kept).combine_chunks()
        new = pa.Table.from_batches(
            join(self.job, given, new)
            for given, new in label_batches(
                self.answerer,
                inputs.to_batches(max_chunksize=READ_ROWS),
                self.job.how,
                stages=self.result.stages,
            )
        )
        pieces: list[pa.Table] = []
        done = 0
        for piece in slices:
            if again[bounds[len(pieces)]]:
                pieces.append(new.slice(done, piece.num_rows))
                done += piece.num_rows
            else:
                pieces.append(pa.Table.from_batches([piece]))
        return pa.concat_tables(pieces).combine_chunks().to_batches()[0]

    def _open_part(self, number: int) -> ParquetOutput:
        part = self.directory.part(number)
        return ParquetOutput(part, self.job.schema, self.directory.temporary(part.name))

    def _write(self, output: ParquetOutput, rows: pa.RecordBatch, first_row: int) -> None:
        output.write(rows)
        self.result.summary.add(rows, first_row)
        self.progress(rows.num_rows)

    def _check_failures(self) -> None:
        rows = sum(self.job.part_sizes.values())
        limit = self.job.options.max_failures
        refuse_failures(limit, self.result.summary, rows, self.published)

    def _check_failures_of_all_shares(self) -> None:
        """Parts of a share that had too many are there as well, and must not be published."""
        job, limit = self.job, self.job.options.max_failures
        if job.options.shard.count == 1 or limit == MaxFailures():
            return
        summary = Summary(job.options.tasks, job.options.columns.id)
        for number in range(job.num_parts):
            for batch in part_rows(self.directory.part(number), summary.columns):
                summary.add(batch, summary.num_rows)
        refuse_failures(limit, summary, job.num_rows, self.published)

    def _publish(self) -> None:
        """Say in the directory that all parts are there, or make one file of them."""
        job, directory = self.job, self.directory
        job.catalog.check_unchanged()
        if not job.is_file:
            self._check_failures_of_all_shares()
            if not directory.finished:
                self._finish()
            return
        out = job.options.out
        with (
            self.result.stages.time("write"),
            open_output(out, job.schema, directory.temporary(out.name)) as output,
        ):
            for number in range(job.num_parts):
                for batch in part_rows(directory.part(number)):
                    output.write(batch)
        directory.remove()

    def _finish(self) -> None:
        """Say in the directory that all parts are there."""
        self.directory.finish(
            lambda part: int(pq.read_metadata(as_file(part)).num_rows), self.job.num_parts
        )

    def _split_finished_file(self) -> None:
        """Make parts of a finished output file again, so that its failed rows can be redone."""
        job, out = self.job, self.job.options.out
        if not job.is_file or not out.exists() or read_fingerprint(out) != job.fingerprint:
            return
        reader, size = RowReader(part_rows(out), 0), job.options.part_rows
        for number, count in job.part_sizes.items():
            if not self.directory.part(number).exists():
                with self._open_part(number) as output:
                    for batch in reader.rows(number * size, number * size + count):
                        output.write(batch)

    def _open_previous(self) -> Previous | None:
        """The earlier output to carry answers over from; None where none of them would hold."""
        job, earlier = self.job, self.job.previous
        if earlier is None:
            return None
        theirs = fingerprint_of(earlier.schema)
        if not theirs:
            self.result.remark = (
                f"nothing was carried over from {earlier.path}, which does not say what made it; a "
                "Parquet output of tagger does"
            )
            return None
        same = [*ANSWERS_HANG_ON, *job.bundle.versions]
        differs = [name for name in same if theirs.get(name) != job.fingerprint[name]]
        differs += [name for name in job.how.schema.names if name not in earlier.schema.names]
        if differs:
            self.result.remark = (
                f"nothing was carried over from {earlier.path}, which differs in: {differs[0]}"
            )
            return None
        return Previous(earlier, job.how.schema, self.directory.temporary("previous"))
