"""`fluctua reproduce paper`: all experiments of the paper, with its numbers beside the reproduced ones."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from rich import box
from rich.table import Table

from fluctua.lab.reproduce import SweepOptions, reproduce, study_named
from fluctua.lab.results.aggregate import Summary, summarise
from fluctua.lab.results.table import with_interval
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Measure, Reference, Study, Value
from fluctua.lab.sweeps.sweep import in_words, missing_files, only, runs_of, wishes_for

EXPERIMENTS = (
    "theory",
    "shallow",
    "shallow-shd",
    "depth",
    "recurrence",
    "dale",
    "conv-shd",
    "conv-cifar10",
    "conv-dvs",
    "conv-dvs-deep",
)
"""The experiments of the paper, quick ones first; docs/paper.md maps its figures and tables to them."""


@dataclass(frozen=True)
class Comparison:
    """A published number beside the reproduced one.

    Attributes:
        experiment: its name.
        setting: network, method and so on, in words.
        measure: what the number is.
        data: the published number's data.
        published: the number, in the unit of the measure.
        source: its source.
        found_on: our data; a small study has smaller ones.
        mean: over our runs; None without any.
        half: half the 95 % interval; None for fewer than two runs.
        runs: number of runs.
        printed: mean and interval as printed.
    """

    experiment: str
    setting: str
    measure: str
    data: Value
    published: float
    source: str
    found_on: Value
    mean: float | None
    half: float | None
    runs: int
    printed: str


def reproduce_paper(options: SweepOptions, *, small: bool) -> list[Comparison]:
    """Run all experiments of the paper whose files are there, and print published beside found numbers.

    Args:
        options: how; an experiment whose data files are not there is left out, and named, and each ignores axes and
            values of `wanted` that it has not.
        small: the versions that take minutes.

    Raises:
        As `fluctua.lab.reproduce.reproduce`.
    """
    studies = {name: study_named(name, small=small) for name in EXPERIMENTS}
    seeds, data, console = options.seeds, options.data, options.console
    for wish in options.wanted:
        if not any(wishes_for(study, [wish]) for study in studies.values()):
            raise ValueError(f"no experiment of the paper has {wish}: write AXIS=VALUE, with an axis of its tables")
    for study in studies.values():
        if not missing_files(study, data):
            only(runs_of(study, seeds, data), wishes_for(study, options.wanted))  # refused before anything is run
    left_out: dict[str, list[str]] = {}
    found: list[Comparison] = []
    for name, study in studies.items():
        folder = f"{name}-small" if small else name
        if missing := missing_files(study, data):
            left_out[name] = missing
            found += comparisons(name, study, ())
            continue
        console.rule(name, align="left")
        reproduce(folder, study, replace(options, wanted=wishes_for(study, options.wanted)))
        store, runs = Store(options.out / folder), runs_of(study, seeds, data)
        found += comparisons(name, study, summarise(study, store.finished(runs), store.failed(runs)))
    # A small study may leave a network to another experiment.
    there = {(c.setting, c.published) for c in found if c.runs}
    found = [c for c in found if c.runs or c.experiment in left_out or (c.setting, c.published) not in there]
    console.print(as_printed(found))
    for name, missing in left_out.items():
        console.print(f"{name} was left out: {', '.join(missing)} is not in the folder of --data", soft_wrap=True)
    if small:
        console.print(
            "--small has fewer samples, epochs and filters than the paper: compare methods, not accuracies.",
            soft_wrap=True,
        )
    return found


def comparisons(name: str, study: Study, summaries: Sequence[Summary]) -> Iterator[Comparison]:
    """Every published number for the full study, beside the reproduced one.

    A small study has other data: there a number is compared with that of the same network and method.
    """
    settings = study_named(name, small=False).grid()
    for reference in study.references:
        if any(reference.applies_to(setting) for setting in settings):
            yield _comparison(name, study, reference, summaries)


def _comparison(name: str, study: Study, reference: Reference, summaries: Sequence[Summary]) -> Comparison:
    where = {axis: value for axis, value in reference.where.items() if axis != "task"}
    alike = [s for s in summaries if s.measure == reference.measure and where.items() <= s.setting.items() and s.n]
    best: Summary | None = alike[0] if alike else None
    measure = _measure(study, reference.measure)
    return Comparison(
        experiment=name,
        setting=in_words(where),
        measure=measure.label,
        data=reference.where.get("task"),
        published=reference.value,
        source=reference.source,
        found_on=best.setting.get("task") if best else None,
        mean=best.mean if best else None,
        half=best.half if best and best.n > 1 else None,
        runs=best.n if best else 0,
        printed=with_interval(measure, best) if best else "not run",
    )


def _measure(study: Study, name: str) -> Measure:
    return next(measure for measure in study.measures if measure.name == name)


def as_printed(found: Sequence[Comparison]) -> Table:
    """The comparison for a terminal of 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title="Published and reproduced: test accuracy (%)",
        caption="± half the 95 % interval; sources of the published numbers: table.md of each experiment",
    )
    table.add_column("experiment", no_wrap=True)
    table.add_column("setting", overflow="fold")
    for head in ("published", "reproduced"):
        table.add_column(head, justify="right", no_wrap=True)
        table.add_column("on", overflow="fold")
    for c in found:
        table.add_row(
            c.experiment, c.setting, f"{100 * c.published:.1f}", str(c.data), c.printed, str(c.found_on or "-")
        )
    return table


def as_json(found: Sequence[Comparison]) -> str:
    """The comparison as a JSON list of objects."""
    return json.dumps([asdict(one) for one in found], indent=2)
