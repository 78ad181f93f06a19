"""Deep networks before training: potential and activity up to a hundred layers deep, by initialiser."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

import fluctua
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.methods import BASELINES, UNBALANCED, start
from fluctua.lab.studies.plotting import line_per_method, mark_places, panels
from fluctua.lab.studies.task import FSDD, FileTask
from fluctua.lab.studies.training import POSITIVE
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Setting, Study
from fluctua.lab.sweeps.sweep import grid
from fluctua.state.facts import PopulationState
from fluctua.theory import Target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[[Axes], None]


@dataclass(frozen=True, kw_only=True)
class States(Study):
    """Networks of several depths on recordings, initialised and inspected, not trained.

    Attributes:
        task: source of the recordings.
        recordings: shown one after the other; together they must leave activity about 20 ms per layer to arrive.
        samples: such streams in a batch.
        width: neurons of a layer.
        depths: numbers of layers.
        methods: by name.
        xi: target of the methods that have one.
    """

    title: ClassVar[str] = "Up to a hundred layers before training: the last layer by initialiser"
    about: ClassVar[str] = (
        "Fully connected networks are initialised by several methods on a stream of recordings, one after the other "
        "without a pause, and shown another stream. The numbers are those of the last layer, from the arrival of "
        "activity on; where none arrives the rate is 0 and all neurons are silent."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sigma_u", "sigma_U of the last layer", spec=".3g", within=POSITIVE),
        Measure("rate", "firing rate of the last layer (Hz)", spec=".2f", within=POSITIVE),
        Measure("silent", "silent neurons of the last layer (%)", factor=100, spec=".1f", within=(0, 1)),
        Measure("on_batch", "sigma_U of the last layer on the batch that it was set on", spec=".3g", within=POSITIVE),
    )
    compared_to: ClassVar[str] = "measured"
    lists: ClassVar[frozenset[str]] = frozenset({"depths", "methods"})

    task: FileTask = FileTask(train=FSDD.train, test=FSDD.test, duration=0.4)  # noqa: RUF009 - frozen
    recordings: int = 6
    samples: int = 8
    width: int = 64
    depths: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    methods: tuple[str, ...] = (*BASELINES, "poisson", UNBALANCED, "measured")
    xi: float = 1.0

    @property
    def files(self) -> tuple[str, ...]:
        return self.task.files

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, depth=self.depths)

    def seconds(self, setting: Setting) -> float:
        steps = self.recordings * self.samples * self.task.duration / self.task.dt
        return 2 + 2e-7 * steps * self.width * float(setting["depth"] or 1)

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        x, other = self._streams(seed, data)
        network = FullyConnected(width=self.width, depth=int(setting["depth"] or 1))
        model = network.build((x.shape[2],), 10, dt=self.task.dt, duration=len(x) * self.task.dt)
        method, target = str(setting["method"]), Target(xi=self.xi)
        start(model, x, method, target=target, seed=seed, bounds="shd", window="arrival")
        *_, there = (p for p in fluctua.inspect(model, x, window="arrival") if p.threshold is not None)
        layers = [p for p in fluctua.inspect(model, other, window="arrival") if p.threshold is not None]
        values = _state(layers[-1]) | {"on_batch": there.sigma_u}
        return Outcome(values, {"rates": [p.rate or 0.0 for p in layers], "sigmas": [p.sigma_u for p in layers]})

    def _streams(self, seed: int, data: Path | None) -> tuple[Tensor, Tensor]:
        """Two batches `[T, B, N]` of different recordings."""
        one = self.recordings * self.samples
        x = self.task.load(seed, data).batch(2 * one)[0].transpose(0, 1)
        first, second = (half.reshape(self.samples, -1, x.shape[2]).transpose(0, 1) for half in (x[:one], x[one:]))
        return first.contiguous(), second.contiguous()

    def figure(self, records: Sequence[Record]) -> "Figure":

        def against_depth(measure: str, label: str, factor: float = 1.0, scale: str = "linear") -> "Draw":
            def draw(axis: "Axes") -> None:
                axis.set_xscale("log")
                line_per_method(axis, records, self.methods, "depth", measure, factor=factor)
                mark_places(axis, records, "depth")
                axis.set_yscale(scale, **({"linthresh": 1.0} if scale == "symlog" else {}))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.set_ylim(bottom=0)
                axis.set(xlabel="layers", ylabel=label)

            return draw

        return panels(
            self.title,
            [
                against_depth("sigma_u", "$\\sigma_U$ of the last layer", scale="symlog"),
                against_depth("rate", "firing rate of the last layer (Hz)", scale="symlog"),
                against_depth("silent", "silent neurons of the last layer (%)", 100),
            ],
        )


def _state(layer: PopulationState) -> dict[str, float]:
    return {"sigma_u": layer.sigma_u, "rate": layer.rate or 0.0, "silent": layer.silent_units or 0.0}
