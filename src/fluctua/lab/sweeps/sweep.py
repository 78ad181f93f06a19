"""A sweep: a study's grid of settings times seeds, as independent, named runs."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from fluctua.lab.sweeps.study import Outcome, Setting, Study, Value


@dataclass(frozen=True)
class Run:
    """One point of a sweep.

    Attributes:
        study: with all its settings.
        setting: the point of its grid.
        seed: for everything random, 0 or more.
        data: folder of the data files; it does not take part in the name.
    """

    study: Study
    setting: Setting
    seed: int
    data: Path | None = field(default=None, compare=False)

    @cached_property
    def key(self) -> str:
        """Its name, also that of its file: readable, and different for different runs."""
        facts = {
            "study": type(self.study).__name__,
            "settings": {k: v for k, v in dataclasses.asdict(self.study).items() if k not in self.study.lists},
            "setting": dict(self.setting),
            "seed": self.seed,
        }
        text = json.dumps(facts, sort_keys=True, default=str)
        words = "_".join(f"{name}={value}" for name, value in self.setting.items())
        readable = re.sub(r"[^\w.=+-]", "-", words)[:80]
        return f"{readable}_seed={self.seed}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def seconds(self) -> float:
        """Rough time on one core."""
        return self.study.seconds(self.setting)

    def __call__(self) -> Outcome:
        """Perform the run."""
        return self.study.run(self.setting, self.seed, self.data)


def grid(**axes: Sequence[Value]) -> list[Setting]:
    """All combinations of the values on each axis, the last axis varying fastest."""
    return [dict(zip(axes, point, strict=True)) for point in product(*axes.values())]


def runs_of(study: Study, seeds: int, data: Path | None = None) -> list[Run]:
    """Every setting with seeds 0 to `seeds - 1`; all settings of a seed come before the next seed.

    So a sweep that is stopped early has all settings, with fewer seeds.

    Raises:
        ValueError: no seed, or a data file that is not in the folder.
    """
    if seeds < 1:
        raise ValueError(f"a sweep needs at least one seed, got {seeds}")
    if missing := missing_files(study, data):
        where = f"is not in {data}" if data else "is needed: give its folder with --data"
        raise ValueError(f"the file {missing[0]} {where} (docs/data.md says where to get it)")
    folder = None if data is None else data.absolute()  # workers may have another working directory
    return [Run(study, setting, seed, folder) for seed in range(seeds) for setting in study.grid()]


def only(runs: Sequence[Run], wanted: Sequence[str]) -> list[Run]:
    """The runs whose settings have one of the wanted values on each axis: `["method=poisson,measured", "depth=3"]`.

    Raises:
        ValueError: a wish that is not of this form, an axis that no setting has, values that no run has, or wishes that
            no run meets together.
    """
    chosen = list(runs)
    for wish in wanted:
        axis, equals, values = wish.partition("=")
        if not equals or not values:
            raise ValueError(f"{wish!r} chooses nothing: write AXIS=VALUE or AXIS=VALUE,VALUE")
        if axis not in (axes := list(dict.fromkeys(name for run in runs for name in run.setting))):
            raise ValueError(f"no setting has the axis {axis!r}: choose one of {', '.join(axes)}")
        known = list(dict.fromkeys(_printed(run.setting.get(axis)) for run in runs))
        if unknown := set(values.split(",")) - set(known):
            raise ValueError(f"no run has {axis}={sorted(unknown)[0]}: choose among {', '.join(known)}")
        chosen = [run for run in chosen if _printed(run.setting.get(axis)) in values.split(",")]
    if wanted and not chosen:
        raise ValueError(f"no run has all of {', '.join(wanted)}: leave one of them out")
    return chosen


def wishes_for(study: Study, wanted: Sequence[str]) -> list[str]:
    """The wishes that this study can meet: those with its axes, restricted to its values."""
    grid = study.grid()
    met = []
    for wish in wanted:
        axis, _, values = wish.partition("=")
        known = {_printed(setting[axis]) for setting in grid if axis in setting}
        if here := [value for value in values.split(",") if value in known]:
            met.append(f"{axis}={','.join(here)}")
    return met


def _printed(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def missing_files(study: Study, data: Path | None) -> list[str]:
    """The files of a study that are not in the folder of the data; all of them without a folder."""
    return [name for name in study.files if data is None or not (data / name).exists()]


def in_words(setting: Mapping[str, Any]) -> str:
    """A setting for people: `method=poisson, depth=3`."""
    return ", ".join(f"{name}={_printed(value)}" for name, value in setting.items())
