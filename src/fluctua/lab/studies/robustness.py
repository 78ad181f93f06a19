"""How robust the state is: to training, other data, another time step, noise and lost spikes."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

import fluctua
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.learning import LearningStudy
from fluctua.lab.studies.methods import BASELINES, UNBALANCED, start
from fluctua.lab.studies.plotting import cases_across, panels
from fluctua.lab.studies.speakers import UNHEARD
from fluctua.lab.studies.task import FSDD, FileTask
from fluctua.lab.studies.training import POSITIVE, Recipe
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Setting
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]

Input = Callable[[Tensor, torch.Generator], Tensor]


def _noisy(x: Tensor, generator: torch.Generator, rate: float = 1.0, dt: float = 4e-3) -> Tensor:
    return torch.maximum(x, (torch.rand(x.shape, generator=generator) < rate * dt).float())


def _thinned(x: Tensor, generator: torch.Generator, share: float = 0.1) -> Tensor:
    return x * (torch.rand(x.shape, generator=generator) >= share)


AS_SET, OTHER, SPEAKER, COARSE = "the batch itself", "another batch", "another speaker", "twice the time step"
INPUTS: Mapping[str, Input] = MappingProxyType({"1 Hz of noise": _noisy, "a tenth of the spikes lost": _thinned})
AFTER: Mapping[str, int] = MappingProxyType({"1 epoch": 1, "3 epochs": 3, "10 epochs": 10})
CASES = (AS_SET, OTHER, SPEAKER, COARSE, *INPUTS, *AFTER)


@dataclass(frozen=True, kw_only=True)
class Robustness(LearningStudy):
    """The state of a network under conditions other than those of its initialisation.

    Attributes:
        width: neurons of a hidden layer.
        depth: hidden layers.
        methods: by name.
        cases: of `CASES`.
        xi: target.
    """

    title: ClassVar[str] = "Robustness: the state after training, on other data, under noise"
    about: ClassVar[str] = (
        "A fully connected network is initialised on a batch of spoken digits. Its state is then measured on that "
        "batch, on another one, on an unheard speaker, with twice the time step (same weights, neurons "
        "and data at the other step), with 1 Hz of noise in every channel, with a tenth of the spikes lost, and on "
        "another batch after 1, 3 and 10 epochs of training (weights of the best epoch so far). sigma_U is the mean "
        "over the hidden layers, silent neurons are those of the hidden layers together."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sigma_u", "sigma_U, mean over the hidden layers", spec=".3f", within=POSITIVE),
        Measure("last", "sigma_U of the last hidden layer", spec=".3f", within=POSITIVE),
        Measure("rate", "firing rate of the last hidden layer (Hz)", spec=".2f", within=POSITIVE),
        Measure("silent", "silent neurons of the hidden layers (%)", factor=100, spec=".1f", within=(0, 1)),
    )
    chosen: ClassVar[tuple[str, ...]] = ()
    criterion: ClassVar[str] = ""
    lists: ClassVar[frozenset[str]] = LearningStudy.lists - {"lrs"} | {"cases"}  # a run uses `lrs`
    choose_by: ClassVar[int | None] = None

    task: FileTask = replace(FSDD, dt=4e-3, pool=7, batch_size=64)  # noqa: RUF009 - frozen
    recipe: Recipe = Recipe(bounds="shd", measured_on=200)  # noqa: RUF009 - frozen
    lrs: tuple[float, ...] = (5e-3,)
    width: int = 128
    depth: int = 3
    methods: tuple[str, ...] = (*BASELINES, "poisson", UNBALANCED, "measured")
    cases: tuple[str, ...] = CASES
    xi: float = 1.0
    seconds_per_epoch: float = 1.5

    @property
    def files(self) -> tuple[str, ...]:
        return self.task.files

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, case=self.cases)

    def network(self, setting: Setting) -> FullyConnected:
        return FullyConnected(width=self.width, depth=self.depth)

    def seconds(self, setting: Setting) -> float:
        return 3 + self.seconds_per_epoch * AFTER.get(str(setting["case"]), 0)

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        from fluctua.lab.training.fit import fit  # not needed to list experiments

        case, method, n = str(setting["case"]), str(setting["method"]), self.recipe.measured_on
        samples = self.task.load(seed, data)
        model = self._built(samples.shape, self.task.dt)
        x = samples.batch(2 * n)[0]
        x, other = x[:, :n], x[:, n:]
        start(model, x, method, target=Target(xi=self.xi), seed=seed, bounds=self.recipe.bounds)
        if case in AFTER:
            settings = replace(self.recipe, epochs=AFTER[case]).settings(self.lrs[0], seed)
            with tempfile.TemporaryDirectory() as folder:
                fit(model, samples, out_dir=folder, settings=settings)
        elif case == SPEAKER:
            other = samples.batch(min(n, len(samples.splits[UNHEARD])), UNHEARD)[0]
        elif case == COARSE:
            coarse = replace(self.task, dt=2 * self.task.dt).load(seed, data)
            other = coarse.batch(2 * n)[0][:, n:]
            fine, model = model, self._built(samples.shape, 2 * self.task.dt)
            model.load_state_dict({k: v for k, v in fine.state_dict().items() if "tau" not in k}, strict=False)
        elif case in INPUTS:
            other = INPUTS[case](other, torch.Generator().manual_seed(seed))
        layers = [p for p in fluctua.inspect(model, x if case == AS_SET else other) if p.threshold is not None]
        values = {
            "sigma_u": float(np.mean([p.sigma_u for p in layers])),
            "last": layers[-1].sigma_u,
            "rate": layers[-1].rate or 0.0,
            "silent": float(np.mean([p.silent_units or 0.0 for p in layers])),
        }
        return Outcome(values, {"sigmas": [p.sigma_u for p in layers]})

    def _built(self, shape: tuple[int, ...], dt: float) -> nn.Sequential:
        return self.network({}).build(shape, 10, dt=dt, duration=self.task.duration)

    def figure(self, records: Sequence[Record]) -> "Figure":

        def panel(measure: str, label: str, factor: float = 1.0) -> "Draw":
            def draw(axis: "Axes") -> None:
                cases_across(axis, records, self.methods, self.cases, measure, factor=factor)
                axis.set(xlabel=label)

            return draw

        return panels(
            self.title,
            [panel("sigma_u", "$\\sigma_U$ of the hidden layers"), panel("silent", "silent neurons (%)", 100)],
        )
