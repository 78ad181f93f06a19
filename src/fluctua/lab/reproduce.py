"""`fluctua reproduce`: run a study's sweep, print and write its table, and draw its figure."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from fluctua.lab.durable import replacing
from fluctua.lab.results.aggregate import chosen_settings, summarise
from fluctua.lab.results.figures import save
from fluctua.lab.results.table import as_csv, as_markdown, as_printed
from fluctua.lab.studies import STUDIES
from fluctua.lab.sweeps.runner import Backend, sweep
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record, Study
from fluctua.lab.sweeps.sweep import Run, only, runs_of


@dataclass(frozen=True)
class SweepOptions:
    """How sweeps are done, whatever the study.

    Attributes:
        seeds: how many runs of each setting.
        out: folder of the stores.
        backend: what does the runs.
        console: to print to.
        data: folder of the data files.
        wanted: the part of the grid to do, see `sweep.only`; results are of all that is finished.
    """

    seeds: int
    out: Path
    backend: Backend
    console: Console
    data: Path | None = None
    wanted: Sequence[str] = ()


class SweepFailed(RuntimeError):
    """All runs of a sweep failed, so there is nothing to show."""


def study_named(name: str, *, small: bool) -> Study:
    """The study of this name in `STUDIES`.

    Raises:
        ValueError: an unknown name; lists the known ones.
    """
    if name not in STUDIES:
        raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(STUDIES)}")
    return STUDIES[name].small if small else STUDIES[name].full


def reproduce(name: str, study: Study, options: SweepOptions) -> list[Path]:
    """Do what the store `name` has not of a study's sweep; then print its table, and write it and its figure.

    Args:
        name: of the store.
        study: what to do.
        options: how, and where the stores are.

    Returns:
        The files written: `table.csv`, `table.md`, `figure.png`, `figure.pdf`.

    Raises:
        ValueError: no seed, a data file that is missing, an unknown part of the grid; StoreError for a damaged store.
        OSError: `out` cannot be written.
        SweepFailed: all runs failed.
        SweepInterrupted: Ctrl-C; a KeyboardInterrupt.
    """
    seeds, backend, console = options.seeds, options.backend, options.console
    runs, store = runs_of(study, seeds, options.data), Store(options.out / name)
    printed = [asdict(measure) for measure in study.measures]  # how a page of the results prints them
    facts = {"title": study.title, "about": study.about, "seeds": seeds, "settings": repr(study), "measures": printed}
    if aside := store.open({"name": name, **facts}):
        console.print(
            f"{len(aside)} damaged files of runs were moved to {store.root / 'damaged'}; their runs are repeated",
            markup=False,
        )
    first, rest = choosing(study, only(runs, options.wanted))
    sweep(first, store, backend, console)
    if rest:
        chosen = chosen_settings(study, store.finished(runs))
        sweep([run for run in rest if run.setting in chosen], store, backend, console)
    finished, failed = store.finished(runs), store.failed(runs)
    if failed:
        console.print(
            f"{len(failed)} of {len(runs)} runs failed; their errors are in {store.root / 'failed'}", markup=False
        )
    if not finished:
        raise SweepFailed(f"all runs of {name} failed; the first error: {failed[0].error}")
    files = write_results(study, store, finished, failed)
    console.print(as_printed(study, summarise(study, finished, failed)))
    console.print("Written: " + ", ".join(map(str, files)), soft_wrap=True, markup=False)
    return files


def choosing(study: Study, runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the seeds that choose among the values of `Study.chosen`, and those of the others."""
    limit = math.inf if study.choose_by is None else study.choose_by
    return [run for run in runs if run.seed < limit], [run for run in runs if run.seed >= limit]


def write_results(study: Study, store: Store, finished: Sequence[Record], failed: Sequence[Record]) -> list[Path]:
    """Write the table as CSV and Markdown, and the figure as PNG and PDF; returns where."""
    summaries = summarise(study, finished, failed)
    texts = {"table.csv": as_csv(summaries), "table.md": as_markdown(study, summaries)}
    for file, text in texts.items():
        with replacing(store.root / file) as opened:
            opened.write(text.encode())
    settings = chosen_settings(study, finished)
    figure = study.figure([record for record in finished if record.setting in settings])
    pictures = [save(figure, store.root / f"figure.{kind}") for kind in ("png", "pdf")]
    return [*(store.root / file for file in texts), *pictures]
