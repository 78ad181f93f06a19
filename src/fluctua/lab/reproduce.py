"""`fluctua reproduce`: do a study's sweep, and write its table and figure."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fluctua.lab.results.aggregate import chosen_settings, summarise
from fluctua.lab.results.figures import save
from fluctua.lab.results.table import as_csv, as_markdown
from fluctua.lab.studies import STUDIES
from fluctua.lab.sweeps.runner import Backend, duration, sweep
from fluctua.lab.sweeps.runner_local import cores
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record, Study
from fluctua.lab.sweeps.sweep import Run, only, runs_of
from fluctua.lab.training.folder import replacing


class SweepFailed(RuntimeError):
    """No run of a sweep ended well, so there is nothing to show."""


def study_named(name: str, *, small: bool) -> Study:
    """The study of that name in `STUDIES`.

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
    """Do what the store at `out / name` has not of a study's sweep; then write its table and its figure there.

    Args:
        name: of the store.
        study: what to do.
        seeds: how many runs of each setting.
        data: folder of its data files.
        out: folder of the stores.
        backend: what does the runs.
        console: to print to.
        wanted: the part of the grid to do, see `sweep.only`; the results are of all that is finished.

    Returns:
        The files written: `table.csv`, `table.md`, `figure.png`, `figure.pdf`.

    Raises:
        ValueError: no seed, a data file that is missing, an unknown part of the grid; StoreError for a damaged store.
        OSError: `out` cannot be written.
        SweepFailed: no run ended well.
        SweepInterrupted: Ctrl-C; a KeyboardInterrupt.
    """
    runs = runs_of(study, seeds, data)
    store = Store(out / name)
    store.open({"name": name, "title": study.title, "about": study.about, "seeds": seeds, "settings": repr(study)})
    first, rest = choosing(study, only(runs, wanted))
    sweep(first, store, backend, console)
    if rest:
        chosen = chosen_settings(study, store.finished(runs))
        sweep([run for run in rest if run.setting in chosen], store, backend, console)
    finished, failed = store.finished(runs), store.failed(runs)
    if failed:
        console.print(f"{len(failed)} of {len(runs)} runs failed; their errors are in {store.root / 'failed'}")
    if not finished:
        raise SweepFailed(f"no run of {name} ended well; the first error: {failed[0].error}")
    files = write_results(study, store, finished, failed)
    console.print("Written: " + ", ".join(map(str, files)), soft_wrap=True)
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
        with replacing(store.root / file) as partial:
            partial.write_text(text, encoding="utf-8")
    settings = chosen_settings(study, finished)
    figure = study.figure([record for record in finished if record.setting in settings])
    pictures = [save(figure, store.root / f"figure.{kind}") for kind in ("png", "pdf")]
    return [*(store.root / file for file in texts), *pictures]


def catalogue(seeds: int) -> Table:
    """All studies with the number of their runs, the expected time on this machine, and the files that they need."""
    table = Table(box=box.SIMPLE_HEAD, caption=f"with {seeds} seeds on {cores()} cores; --small is in brackets")
    for head in ("name", "experiment", "runs", "time", "files of --data"):
        table.add_column(head)
    for name, pair in STUDIES.items():
        counts, times, files = zip(*(_expected(study, seeds) for study in (pair.full, pair.small)), strict=True)
        table.add_row(
            name,
            pair.full.title.partition(":")[0],
            *("{} ({})".format(*both) for both in (counts, times)),
            _both(*files),
        )
    return table


def _expected(study: Study, seeds: int) -> tuple[int, str, str]:
    settings = study.grid()
    kept = list({tuple((k, v) for k, v in s.items() if k not in study.chosen): s for s in settings}.values())
    choose = seeds if study.choose_by is None else min(seeds, study.choose_by)
    count = choose * len(settings) + (seeds - choose) * len(kept)
    seconds = (choose * sum(map(study.seconds, settings)) + (seeds - choose) * sum(map(study.seconds, kept))) / cores()
    return count, duration(seconds), ", ".join(study.files)


def _both(full: str, small: str) -> str:
    return full if full == small else f"{full} ({small or 'none'})"
