"""Rows of a bench on disk: settings are kept as they finish, and become one tidy file at the end."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...rerank import console
from ...rerank.data.atomic import atomic_write
from ...rerank.errors import InputError, MissingResourceError
from ...rerank.plugins import import_modules, imported
from .play_setting import Columns, Job, Setting, join, play

_JOB: list[Job] = []


@dataclass(frozen=True, slots=True)
class Parts:
    """Finished settings of an unfinished bench: one small file each, in a folder beside the output.

    ``fingerprint`` names everything that the outcome of a setting depends on, so that a part is never taken for
    that of another bench.
    """

    folder: Path
    fingerprint: str

    @staticmethod
    def beside(output: Path, fingerprint: str) -> Parts:
        """The folder of unfinished work that belongs to ``output``."""
        return Parts(output.with_name(f".{output.name}.parts"), fingerprint)

    def path(self, setting: Setting) -> Path:
        """Where the rows of a setting are kept."""
        key = json.dumps([self.fingerprint, setting.schedule, str(setting.budget or ""), setting.seed])
        return self.folder / f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}.parquet"

    def discard(self) -> None:
        """Removes the folder, once the output is in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def play_all(settings: Sequence[Setting], job: Job, parts: Parts, jobs: int) -> Columns:
    """Plays what is not finished yet, with ``jobs`` processes; returns the rows of all settings in order."""
    parts.folder.mkdir(parents=True, exist_ok=True)
    todo = [setting for setting in settings if not parts.path(setting).is_file()]
    if len(todo) < len(settings):
        console.log.info("%d of %d settings were finished before", len(settings) - len(todo), len(settings))
    with console.progress(total=len(settings), unit="setting", label="bench") as bar:
        bar.update(len(settings) - len(todo))
        for setting, columns in _played(todo, job, min(jobs, len(todo))):
            write_rows(parts.path(setting), columns, {})
            bar.update(1)
    return join([read_rows(parts.path(setting))[0] for setting in settings])


def _played(todo: Sequence[Setting], job: Job, jobs: int) -> Iterator[tuple[Setting, Columns]]:
    if jobs <= 1:
        for setting in todo:
            yield setting, play(setting, job)
        return
    limited = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(limited, "1"))  # the processes share the cores, not each all of them
    try:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, spawn, initializer=_receive, initargs=(imported(), job)) as pool:
            try:
                running = {pool.submit(_play, setting): setting for setting in todo}
                for done in as_completed(running):
                    yield running.pop(done), done.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    finally:
        for name, value in limited.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _receive(modules: tuple[str, ...], job: Job) -> None:
    import_modules(modules)
    _JOB[:] = [job]


def _play(setting: Setting) -> Columns:
    return play(setting, _JOB[0])


def write_rows(path: Path, columns: Columns, details: dict[str, Any]) -> None:
    """Writes rows as Parquet, or as TSV where the name ends so; ``details`` go into the Parquet file's header."""
    import pyarrow as pa
    import pyarrow.csv as pc
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    with atomic_write(path, "wb") as stream:
        if path.suffix == ".tsv":
            pc.write_csv(table, stream, pc.WriteOptions(delimiter="\t", quoting_style="needed"))
        else:
            noted = table.replace_schema_metadata({"sparring bench": json.dumps(details, default=str)})
            pq.write_table(noted, stream, compression="zstd")


def read_rows(path: Path) -> tuple[Columns, dict[str, Any]]:
    """The rows of a bench and the details in their header."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise MissingResourceError(f"{path}: no such file of bench rows")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: cannot be read as the Parquet file of a bench: {error}") from None
    if not {"qid", "schedule", "aggregator", "budget", "seed"} <= set(table.column_names):
        raise InputError(f"{path}: not the rows of a bench; its columns are {', '.join(table.column_names)}")
    details = json.loads((table.schema.metadata or {}).get(b"sparring bench", b"{}"))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}, details
