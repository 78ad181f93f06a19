"""The store of a sweep: a folder with one small file per run, each written at one go.

::

    <root>/study.json        what the sweep is, for readers
    <root>/runs/<key>.json   a finished run: setting, seed, values, curves, seconds
    <root>/failed/<key>.json a run that failed: setting, seed and the error

The files of the runs are the truth; every table can be made from them again.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run
from fluctua.lab.training.folder import RunFolder, replacing


class StoreError(ValueError):
    """A file of a store is damaged, or a folder is no store."""


@dataclass(frozen=True)
class Store:
    """The folder of one sweep."""

    root: Path

    @property
    def description(self) -> Path:
        """What the sweep is, for readers."""
        return self.root / "study.json"

    def open(self, description: Mapping[str, Any]) -> None:
        """Make the folder, and say in it what it holds.

        Raises:
            OSError: the folder cannot be made or written.
        """
        RunFolder(self.root).claim(resume=True)
        for folder in ("runs", "failed"):
            (self.root / folder).mkdir(exist_ok=True)
        _write(self.description, dict(description))

    def describe(self) -> dict[str, Any]:
        """What `open` was told.

        Raises:
            StoreError: the folder is no store.
        """
        if not self.description.is_file():
            raise StoreError(f"{self.root} is no store of runs, it has no study.json: give what `reproduce` wrote to")
        return _read(self.description)

    def save(self, record: Record) -> None:
        """Keep a run. A finished one takes the place of its earlier failures, and no failure that of a finished one."""
        finished, failed = self._path(record.key), self._path(record.key, failed=True)
        _write(finished if record.error is None else failed, asdict(record))
        if finished.exists():
            failed.unlink(missing_ok=True)

    def has(self, run: Run) -> bool:
        """Whether the run is finished."""
        return self._path(run.key).exists()

    def finished(self, runs: Sequence[Run]) -> list[Record]:
        """Those of the runs that are finished, in their order.

        Raises:
            StoreError: a file of a run is damaged; names it.
        """
        return self._load(runs, failed=False)

    def failed(self, runs: Sequence[Run]) -> list[Record]:
        """Those of the runs that failed, in their order.

        Raises:
            StoreError: a file of a run is damaged; names it.
        """
        return self._load(runs, failed=True)

    def all_failed(self) -> list[Record]:
        """Every run that failed, by name, also those of other settings.

        Raises:
            StoreError: a file of a run is damaged; names it.
        """
        return [_record(path) for path in sorted((self.root / "failed").glob("*.json"))]

    def _load(self, runs: Sequence[Run], *, failed: bool) -> list[Record]:
        paths = [self._path(run.key, failed=failed) for run in runs]
        return [_record(path) for path in paths if path.exists()]

    def _path(self, key: str, *, failed: bool = False) -> Path:
        return self.root / ("failed" if failed else "runs") / f"{key}.json"


def _record(path: Path) -> Record:
    facts = _read(path)
    try:
        return Record(**facts)
    except TypeError as error:
        raise StoreError(f"{path} is not the file of a run: delete it to do the run again") from error


def _write(path: Path, facts: dict[str, Any]) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(facts, indent=1) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise StoreError(f"{path} is damaged: delete it to do the run again") from error
