"""`fluctua reproduce --list`: all experiments, with their runs, times and files."""

from typing import Any

from rich import box
from rich.table import Table

from fluctua.lab.studies import STUDIES
from fluctua.lab.sweeps.runner import duration
from fluctua.lab.sweeps.runner_local import cores
from fluctua.lab.sweeps.study import Study


def listed(seeds: int) -> list[dict[str, Any]]:
    """Each experiment in full and small: title, runs, expected seconds on this machine, names of its data files."""
    return [
        {"name": name, "title": pair.full.title, "full": _facts(pair.full, seeds), "small": _facts(pair.small, seeds)}
        for name, pair in STUDIES.items()
    ]


def _facts(study: Study, seeds: int) -> dict[str, Any]:
    settings = study.grid()
    kept = list({tuple((k, v) for k, v in s.items() if k not in study.chosen): s for s in settings}.values())
    choose = seeds if study.choose_by is None else min(seeds, study.choose_by)  # seeds that try all values
    count = choose * len(settings) + (seeds - choose) * len(kept)
    seconds = choose * sum(map(study.seconds, settings)) + (seeds - choose) * sum(map(study.seconds, kept))
    return {"runs": count, "seconds": seconds / cores(), "files": list(study.files)}


def catalogue(seeds: int) -> Table:
    """The list for a terminal of 80 columns; the caption says which files the numbers stand for."""
    rows = listed(seeds)
    kinds = [tuple(row[size]["files"]) for row in rows for size in ("full", "small")]
    numbers = {files: str(i) for i, files in enumerate(dict.fromkeys(filter(None, kinds)), 1)}
    legend = [f"{number}: {', '.join(files)}" for files, number in numbers.items()]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        caption="\n".join(
            [f"runs and time with {seeds} seeds on {cores()} cores; files in the folder of --data:", *legend]
        ),
        caption_justify="left",
    )
    table.add_column("name", no_wrap=True)
    table.add_column("experiment", overflow="fold")
    for head in ("runs", "time", "files", "--small:\nruns", "\ntime", "\nfiles"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        numbers_of = [
            cell
            for size in (row["full"], row["small"])
            for cell in (str(size["runs"]), duration(size["seconds"]), numbers.get(tuple(size["files"]), "-"))
        ]
        table.add_row(row["name"], row["title"].partition(":")[0], *numbers_of)
    return table
