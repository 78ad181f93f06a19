"""`fluctua reproduce`: run a study's sweep, print and write its table, and draw its figure."""

import math
from collections.abc import Sequence
from dataclasses import asdict
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


def reproduce(
    name: str,
    study: Study,
    *,
    seeds: int,
    data: Path | None,
    out: Path,
    backend: Backend,
    console: Console,
    wanted: Sequence[str] = (),
) -> list[Path]:
    """Run what the store at `out / name` lacks of a study's sweep; print its table, and write table and figure.

    Args:
        name: of the store.
        study: the study.
        seeds: number of runs of each setting.
        data: folder of its data files.
        out: folder of the stores.
        backend: performs the runs.
        console: to print to.
        wanted: the part of the grid to run, see `sweep.only`; the results cover everything finished.

    Returns:
        The files written: `table.csv`, `table.md`, `figure.png`, `figure.pdf`.

    Raises:
        ValueError: no seed, a data file that is missing, an unknown part of the grid; StoreError for a damaged store.
        OSError: `out` cannot be written.
        SweepFailed: all runs failed.
        SweepInterrupted: Ctrl-C; a KeyboardInterrupt.
    """
    runs = runs_of(study, seeds, data)
    store = Store(out / name)
    printed = [asdict(measure) for measure in study.measures]  # for the results page
    facts = {"title": study.title, "about": study.about, "seeds": seeds, "settings": repr(study), "measures": printed}
    if aside := store.open({"name": name, **facts}):
        console.print(
            f"{len(aside)} damaged files of runs were moved to {store.root / 'damaged'}; their runs are repeated",
            markup=False,
        )
    first, rest = choosing(study, only(runs, wanted))
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
