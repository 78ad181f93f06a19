"""A study: an experiment as a grid of settings, the outcome of a run, and its record."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Value = str | int | float | bool | None
Setting = Mapping[str, Value]
"""One point of a grid, by the names of its axes."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one run.

    Attributes:
        values: its numbers by name, which the table averages over the seeds.
        curves: other data for the figure: lists of numbers by name, such as one number per epoch or layer.
    """

    values: Mapping[str, float]
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measure:
    """One of a study's numbers, and how the table prints it.

    Attributes:
        name: in `Outcome.values`.
        label: in words, with the unit.
        factor: from the value to the printed number, such as 100 for per cent.
        spec: format of the printed number, as in `format`.
        within: smallest and largest possible value; no interval goes beyond.
    """

    name: str
    label: str
    factor: float = 1.0
    spec: str = ".3f"
    within: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Reference:
    """A published number.

    Attributes:
        where: axes of its setting and their values; other axes do not matter.
        measure: its name in `Outcome.values`.
        value: the number, in the unit of the values.
        source: its source, and what was done differently there.
    """

    where: Setting
    measure: str
    value: float
    source: str

    def applies_to(self, setting: Setting) -> bool:
        """Whether it is the number for a setting."""
        return all(setting.get(name) == value for name, value in self.where.items())


@dataclass(frozen=True)
class Record:
    """The record of a run.

    Attributes:
        key: name of the run.
        setting: its point of the grid.
        seed: its seed.
        values: its numbers by name; none if it failed.
        curves: lists of numbers by name.
        seconds: time it took.
        error: why it failed, in one line; None if it finished.
        traceback: where it failed.
    """

    key: str
    setting: Setting
    seed: int
    values: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[float]] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    traceback: str | None = None

    def axis(self, name: str) -> Value:
        """The run's value on an axis of the grid; None if its setting has no such axis."""
        return self.setting.get(name)


@dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """An experiment: its settings as fields, its grid, one run, and its figure.

    Subclasses are frozen dataclasses of plain values, which can be sent to another machine. Every field except those in
    `lists` takes part in the names of the runs, so that a store never mixes runs of different settings.

    Attributes:
        title: one line.
        about: the question and how it is answered, in a few sentences.
        measures: the numbers of its table, in order.
        references: published numbers.
        chosen: axes whose value is chosen for each of the other settings, by the best mean of `criterion`.
        criterion: a number on validation data; larger is better.
        compared_to: the value on the axis `method` that all others are compared with, seed by seed.
        lists: fields that only say which settings there are, or how long a run takes: a list can grow, and finished
            runs stay.
        choose_by: number of seeds that choose; further seeds run with the chosen values. None for all.
        files: names of the files that it reads from the folder of `--data`.
    """

    title: ClassVar[str]
    about: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    references: ClassVar[tuple[Reference, ...]] = ()
    chosen: ClassVar[tuple[str, ...]] = ()
    criterion: ClassVar[str] = ""
    compared_to: ClassVar[str] = ""
    lists: ClassVar[frozenset[str]] = frozenset()
    choose_by: ClassVar[int | None] = None

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the data files that it reads; none for synthetic data."""
        return ()

    @abstractmethod
    def grid(self) -> list[Setting]:
        """All settings, in the order of the table."""

    @abstractmethod
    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        """One run, which depends only on its arguments; `data` is the folder of the files."""

    @abstractmethod
    def seconds(self, setting: Setting) -> float:
        """Rough time of a run on one core, for estimating the time left."""

    @abstractmethod
    def figure(self, records: Sequence[Record]) -> "Figure":
        """The figure of all finished runs, of which there is at least one."""
