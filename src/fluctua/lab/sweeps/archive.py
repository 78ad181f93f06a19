"""All runs of a study in one small compressed file, to keep beside a page and to continue elsewhere."""

import gzip
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fluctua.lab.durable import replacing
from fluctua.lab.sweeps.store import Store, StoreError
from fluctua.lab.sweeps.study import Record, Study
from fluctua.lab.sweeps.sweep import Run

_DIGITS = 5  # of the curves, which are only drawn


@dataclass(frozen=True)
class Archive:
    """A gzip file of one JSON line per run, finished or failed, in the order of their names.

    The same runs give the same bytes. Numbers of the table keep every digit; curves are rounded, and tracebacks of
    failed runs are left out.

    Attributes:
        path: of the file; it need not exist yet.
    """

    path: Path

    def read(self) -> list[Record]:
        """All runs in it; none if there is no file.

        Raises:
            StoreError: the file is damaged.
        """
        if not self.path.is_file():
            return []
        try:
            with gzip.open(self.path, "rt", encoding="utf-8") as file:
                return [Record(**json.loads(line)) for line in file]
        except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
            raise StoreError(f"{self.path} is damaged ({error}): take it from the repository again") from error

    def of(self, study: Study) -> list[Record]:
        """The runs of the study with its present settings; the file may hold runs of earlier ones."""
        grid = study.grid()
        return [r for r in self.read() if r.setting in grid and Run(study, r.setting, r.seed).key == r.key]

    def add(self, study: Study, records: Iterable[Record]) -> None:
        """Add runs of the study, and drop those of its earlier settings.

        A finished run replaces its failure, never the other way round.

        Raises:
            OSError: the file cannot be written.
        """
        kept = {r.key: r for r in self.of(study)}
        for r in records:
            if r.error is None or r.key not in kept or kept[r.key].error is not None:
                kept[r.key] = r
        lines = [json.dumps(asdict(_shortened(kept[key]))) for key in sorted(kept)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as file:
            file.write(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))

    def fill(self, store: Store, runs: Sequence[Run]) -> None:
        """Add to a store the runs that it lacks."""
        lacking = {run.key for run in runs if not store.has(run)}
        for record in self.read():
            if record.key in lacking:
                store.save(record)


def _shortened(record: Record) -> Record:
    curves = {name: [float(f"{value:.{_DIGITS}g}") for value in curve] for name, curve in record.curves.items()}
    return replace(record, curves=curves, traceback=None)
