"""What a run would take, from a sample of its rows; nothing is written."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from tagger.job import Job
from tagger.output import check_writable
from tagger.part_reader import RowReader
from tagger.predict import READ_ROWS, label_batches
from tagger.report import Summary
from tagger.run import is_done, join, refuse_failures
from tagger.run_directory import RunDirectory


@dataclass(frozen=True)
class Estimate:
    """What a dry run found: a sample's statuses, and what the whole run would take."""

    sample: Summary
    num_rows: int
    seconds: float
    num_bytes: float


def dry_run(job: Job) -> Estimate:
    """Label samples from four places of the catalog, in memory; check that `out` can be written.

    `num_rows`, `seconds` and `num_bytes` are those of this run's share.

    Raises:
        OtherRunError, OutputError: what `run` would raise at once.
        TooManyFailuresError: what it would raise in the end, if the sample alone has too many.
    """
    is_done(job)
    RunDirectory(job.directory, job.options.shard).check(job.fingerprint, job.options.overwrite)
    check_writable(job.options.out)
    if job.options.cache is not None:
        from tagger.feature_cache import FILE_NAME  # with torch, which is not beside an export

        check_writable(job.options.cache / FILE_NAME)
    summary = Summary(job.options.tasks, job.options.columns.id)
    sink = pa.BufferOutputStream()
    started = time.monotonic()
    with (
        job.bundle.answerer() as answerer,
        pq.ParquetWriter(sink, job.schema, compression="zstd") as writer,
    ):
        for quarter in range(4):
            start, behind = (job.num_rows * (quarter + k) // 4 for k in (0, 1))
            reader = RowReader(job.catalog.batches(READ_ROWS, start), start)
            batches = reader.rows(start, min(start + READ_ROWS, behind))
            for given, new in label_batches(answerer, batches, job.how):
                rows = join(job, given, new)
                writer.write_batch(rows)
                summary.add(rows, start)
                start += rows.num_rows
    refuse_failures(job.options.max_failures, summary, job.num_rows, published=False)
    num_rows = sum(job.part_sizes.values())
    share = num_rows / summary.num_rows
    seconds = (time.monotonic() - started) * share
    return Estimate(summary, num_rows, seconds, len(sink.getvalue()) * share)
