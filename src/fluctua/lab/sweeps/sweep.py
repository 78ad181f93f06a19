"""A sweep: a study's grid of settings times seeds, as independent runs that know their own names."""

import dataclasses
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fluctua.lab.sweeps.store import Record

Value = str | int | float | bool | None
Setting = Mapping[str, Value]
"""One point of a grid, by the names of its axes."""


@dataclass(frozen=True)
class Outcome:
    """What one run found.

    Attributes:
        values: its numbers by name, which the table averages over the seeds.
        curves: what else the figure needs: lists of numbers by name, such as one number per epoch or layer.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One of a study's numbers, as the table prints it.

    Attributes:
        name: in `Outcome.values`.
        label: in words, with the unit.
        factor: from the value to what is printed, such as 100 for per cent.
        spec: how that is printed, as in `format`.
    """

    name: str
    label: str
    factor: float = 1.0
    spec: str = ".3f"


@dataclass(frozen=True)
class Reference:
    """A number that others have published.

    Attributes:
        where: the axes of the setting that it belongs to, and their values; other axes do not matter.
        measure: its name in `Outcome.values`.
        value: the number, in the unit of the values.
        source: where it is from, and what was done differently there.
    """

    where: Setting
    measure: str
    value: float
    source: str

    def applies_to(self, setting: Setting) -> bool:
        """Whether it is the number for that setting."""
        return all(setting.get(name) == value for name, value in self.where.items())


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """An experiment: its settings as fields, its grid, one run, and its figure.

    Subclasses are frozen dataclasses of plain values, which can be sent to another machine; every field takes part in
    the names of the runs, so that a store never mixes runs of different settings.

    Attributes:
        title: one line.
        about: what it asks and how, a few sentences.
        measures: the numbers of its table, in order.
        references: what others found.
        chosen: axes whose value is chosen for each of the other settings, by the best mean of `criterion`.
        criterion: a number on validation data, larger is better.
        files: that it reads from the folder of `--data`.
    """

    title: ClassVar[str]
    about: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    references: ClassVar[tuple[Reference, ...]] = ()
    chosen: ClassVar[tuple[str, ...]] = ()
    criterion: ClassVar[str] = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the data files that it reads; none for data that are made up."""
        return ()

    @abstractmethod
    def grid(self) -> list[Setting]:
        """All settings, in the order of the table."""

    @abstractmethod
    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        """One run: a function of its arguments alone; `data` is the folder of the files."""

    @abstractmethod
    def seconds(self, setting: Setting) -> float:
        """Roughly what a run takes on one core; runs are weighed by it where time is estimated."""

    @abstractmethod
    def figure(self, records: Sequence["Record"]) -> "Figure":
        """The figure of all finished runs, of which there is at least one."""


@dataclass(frozen=True)
class Run:
    """One point of a sweep.

    Attributes:
        study: with all its settings.
        setting: the point of its grid.
        seed: of all that is random, 0 or more.
        data: folder of the data files; it does not take part in the name.
    """

    study: Study
    setting: Setting
    seed: int
    data: Path | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """Its name, also that of its file: readable, and different for whatever is different about the run."""
        facts = {
            "study": type(self.study).__name__,
            "settings": dataclasses.asdict(self.study),
            "setting": dict(self.setting),
            "seed": self.seed,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        words = "_".join(f"{name}={value}" for name, value in self.setting.items())
        readable = re.sub(r"[^\w.=+-]", "-", words)[:80]
        return f"{readable}_seed={self.seed}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def seconds(self) -> float:
        """Roughly what it takes on one core."""
        return self.study.seconds(self.setting)

    def __call__(self) -> Outcome:
        """Do it."""
        return self.study.run(self.setting, self.seed, self.data)


def grid(**axes: Sequence[Value]) -> list[Setting]:
    """All combinations of the values on each axis, the last axis running fastest."""
    return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]


def runs_of(study: Study, seeds: int, data: Path | None = None) -> list[Run]:
    """Every setting with seeds 0 to `seeds - 1`; all settings of a seed come before the next seed.

    Whoever stops early then has all settings, with fewer seeds.

    Raises:
        ValueError: no seed, or a data file that is not in the folder.
    """
    if seeds < 1:
        raise ValueError(f"a sweep needs one seed or more, got {seeds}")
    if missing := list(_missing(study, data)):
        where = f"is not in {data}" if data else "is needed: give its folder with --data"
        raise ValueError(f"the file {missing[0]} {where} (docs/data.md says where to get it)")
    folder = None if data is None else data.absolute()  # a worker may have another working directory
    return [Run(study, setting, seed, folder) for seed in range(seeds) for setting in study.grid()]


def only(runs: Sequence[Run], wanted: Sequence[str]) -> list[Run]:
    """The runs whose settings have one of the wanted values on each axis: `["method=poisson,measured", "depth=3"]`.

    Raises:
        ValueError: a wish that is not of this form, an axis that no setting has, or values that no run has.
    """
    for wish in wanted:
        axis, equals, values = wish.partition("=")
        if not equals or not values:
            raise ValueError(f"{wish!r} chooses nothing: write AXIS=VALUE or AXIS=VALUE,VALUE")
        if axis not in (axes := list(dict.fromkeys(name for run in runs for name in run.setting))):
            raise ValueError(f"no setting has the axis {axis!r}: choose one of {', '.join(axes)}")
        known = list(dict.fromkeys(_printed(run.setting.get(axis)) for run in runs))
        if unknown := set(values.split(",")) - set(known):
            raise ValueError(f"no run has {axis}={sorted(unknown)[0]}: choose among {', '.join(known)}")
        runs = [run for run in runs if _printed(run.setting.get(axis)) in values.split(",")]
    return list(runs)


def _printed(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _missing(study: Study, data: Path | None) -> Iterator[str]:
    return (name for name in study.files if data is None or not (data / name).exists())


def in_words(setting: Mapping[str, Any]) -> str:
    """A setting for people: `method=poisson, depth=3`."""
    return ", ".join(f"{name}={_printed(value)}" for name, value in setting.items())
