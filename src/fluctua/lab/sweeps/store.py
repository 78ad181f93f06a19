"""The store of a sweep: a folder with one small file per run, each written in one step and with a checksum.

::

    <root>/study.json        description of the sweep, for readers
    <root>/runs/<key>.json   a finished run: setting, seed, values, curves, seconds
    <root>/failed/<key>.json a run that failed: setting, seed and the error
    <root>/damaged/          files that were damaged, moved out of the way

The files of the runs are the truth; every table can be rebuilt from them.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fluctua.lab.durable import DamagedFile, make_folder, read_json, sweep, write_json
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run

_ABANDONED = 60.0  # seconds after which an unfinished small file counts as abandoned


class StoreError(ValueError):
    """A file of a store is damaged, or a folder is not a store."""


@dataclass(frozen=True)
class Store:
    """The folder of one sweep."""

    root: Path

    @property
    def description(self) -> Path:
        """The file with the description of the sweep, for readers."""
        return self.root / "study.json"

    def open(self, description: Mapping[str, Any]) -> list[Path]:
        """Create the folder, describe it in a file, and move damaged files away, so that their runs are repeated.

        Returns:
            The new paths of the damaged files.

        Raises:
            OSError: the folder cannot be created or written.
        """
        for folder in (self.root, self.root / "runs", self.root / "failed"):
            make_folder(folder)
            sweep(folder, idle=_ABANDONED)
        write_json(self.description, description)
        records = [path for folder in ("runs", "failed") for path in sorted((self.root / folder).glob("*.json"))]
        return [self._put_aside(path) for path in records if not _is_record(path)]

    def _put_aside(self, path: Path) -> Path:
        aside = self.root / "damaged" / path.parent.name / path.name
        make_folder(aside.parent)
        with suppress(FileNotFoundError):  # another sweep has moved it
            path.replace(aside)
        return aside

    def describe(self) -> dict[str, Any]:
        """The description given to `open`.

        Raises:
            StoreError: the folder is not a store.
        """
        if not self.description.is_file():
            raise StoreError(f"{self.root} has no study.json, so it is no store: give a folder that `reproduce` wrote")
        try:
            return read_json(self.description, unsealed=True)
        except DamagedFile as error:
            raise StoreError(f"{error}: `fluctua reproduce` writes it again") from error

    def save(self, record: Record) -> None:
        """Store a run. A finished run replaces its earlier failures, never the other way round."""
        finished, failed = self._path(record.key), self._path(record.key, failed=True)
        write_json(finished if record.error is None else failed, asdict(record))
        if finished.exists():
            failed.unlink(missing_ok=True)

    def has(self, run: Run) -> bool:
        """Whether the run is finished."""
        return self._path(run.key).exists()

    def finished(self, runs: Sequence[Run]) -> list[Record]:
        """The finished runs, in order.

        Raises:
            StoreError: a file of a run is damaged; names it.
        """
        return self._load(runs, failed=False)

    def failed(self, runs: Sequence[Run]) -> list[Record]:
        """The failed runs, in order.

        Raises:
            StoreError: a file of a run is damaged; names it.
        """
        return self._load(runs, failed=True)

    def all_failed(self) -> list[Record]:
        """Every failed run by name, including those of other settings and those whose file is damaged."""
        paths = sorted((self.root / "failed").glob("*.json"))
        return [_record(path) if _is_record(path) else Record(path.stem, {}, 0, error=_DAMAGED) for path in paths]

    def _load(self, runs: Sequence[Run], *, failed: bool) -> list[Record]:
        paths = [self._path(run.key, failed=failed) for run in runs]
        return [_record(path) for path in paths if path.exists()]

    def _path(self, key: str, *, failed: bool = False) -> Path:
        return self.root / ("failed" if failed else "runs") / f"{key}.json"


_DAMAGED = "its file is damaged: repeat the command to repeat the run"


def _record(path: Path) -> Record:
    try:
        record = Record(**read_json(path, unsealed=True))  # stores of fluctua 0.1 have no checksums
        if record.key == path.stem:
            return record
    except (DamagedFile, TypeError) as error:
        raise StoreError(f"{path}: {_DAMAGED}") from error
    raise StoreError(f"{path} is the file of another run, {record.key}: delete it to run this one")


def _is_record(path: Path) -> bool:
    try:
        _record(path)
    except StoreError:
        return False
    except FileNotFoundError:  # another process has since finished the run
        return True
    return True
