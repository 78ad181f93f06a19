"""Go on with the studies of docs/results.md: do runs that are not finished, and keep them beside the page as they end.

    python docs/scripts/evidence.py --data DIR                         # all that is planned, on one core: many hours
    python docs/scripts/evidence.py --data DIR --minutes 60 depth      # one study, for an hour
    python docs/scripts/evidence.py depth --seeds 3 --only depth=6     # a part of it

What is finished is read from docs/results/NAME.jsonl.gz and written there every few minutes and at the end, so that a
sweep of many hours can be stopped at any moment, committed, and go on elsewhere. `docs/scripts/results.py` then fills
the page.
"""

import argparse
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from rich.console import Console

from fluctua.lab.reproduce import choosing, study_named
from fluctua.lab.results.aggregate import chosen_settings
from fluctua.lab.sweeps.archive import Archive
from fluctua.lab.sweeps.runner import Backend, sweep
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run, only, runs_of

DOCS = Path(__file__).parents[1]
PLAN = (
    "filters",
    "direct-states",
    "depth",
    "ablation",
    "robustness",
    "states",
    "digits",
    "obstacles",
    "conv-shd-wide",
    "conv-shd",
    "conv-cifar10",
    "conv-dvs",
    "conv-dvs-wide",
    "conv-cifar10-wide",
    "direct",
)
"""The studies of the page, those first that say most for their time; each in its small version."""
_KEPT_EVERY = 180.0  # seconds


def archive_of(name: str) -> Archive:
    """Where the runs of a small study are kept."""
    return Archive(DOCS / "results" / f"{name}-small.jsonl.gz")


def until(end: float) -> Backend:
    """A backend of this process alone, which begins no run after that moment."""

    def runs(todo: Sequence[Run], root: Path) -> Generator[Record, None, None]:
        for run in todo:
            if time.monotonic() >= end:
                return
            yield perform(run, root)

    return runs


def keeping(name: str, backend: Backend) -> Backend:
    """A backend that puts what has ended into the archive every few minutes."""
    study, archive = study_named(name, small=True), archive_of(name)

    def runs(todo: Sequence[Run], root: Path) -> Generator[Record, None, None]:
        ended, kept = list[Record](), time.monotonic()
        try:
            for record in backend(todo, root):
                ended.append(record)
                if time.monotonic() - kept > _KEPT_EVERY:
                    archive.add(study, ended)
                    ended, kept = [], time.monotonic()
                yield record
        finally:
            if ended:
                archive.add(study, ended)

    return runs


def go_on(name: str, out: Path, data: Path | None, seeds: int, wanted: Sequence[str], end: float) -> None:
    """Do what is left of one study, as far as the time goes."""
    study, console = study_named(name, small=True), Console()
    runs = only(runs_of(study, seeds, data), wanted)
    store = Store(out / f"{name}-small")
    store.open({"name": name, "title": study.title, "about": study.about, "seeds": seeds, "settings": repr(study)})
    archive = archive_of(name)
    archive.fill(store, runs)
    if left := store.finished(runs):  # by a sweep that was killed
        archive.add(study, left)
    backend = keeping(name, until(end))
    first, rest = choosing(study, runs)
    console.print(f"{name}: {len(runs)} runs at most")
    sweep(first, store, backend, console)
    chosen = chosen_settings(study, store.finished(first))
    sweep([run for run in rest if run.setting in chosen], store, backend, console)


def main() -> None:
    """Go on with the studies that are named, or with all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", default=PLAN, help="names in fluctua reproduce --list")
    parser.add_argument("--data", type=Path, help="folder of the data files")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the stores")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after them")
    parser.add_argument("--only", action="append", default=[], help="AXIS=VALUE,VALUE: a part of the grid")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    for name in given.studies:
        if time.monotonic() < end:
            go_on(name, given.out, given.data, given.seeds, given.only, end)


if __name__ == "__main__":
    main()
