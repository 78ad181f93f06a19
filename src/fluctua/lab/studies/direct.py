"""SpikeInit's regime: four steps, synapses without delay, direct coding, no normalisation; deep chains and a VGG."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch

import fluctua
from fluctua.lab.networks import Architecture
from fluctua.lab.networks.direct import DirectVGG, direct_chain
from fluctua.lab.studies.conv import Conv
from fluctua.lab.studies.methods import BASELINES, COMPARED, UNBALANCED, start
from fluctua.lab.studies.plotting import curves_per_method, line_per_method, mark_places, panels
from fluctua.lab.studies.training import POSITIVE
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Setting, Study
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = 0.1
"""SpikeInit's target probability of a spike per step, which its benchmark also gives the paper's formula as a rate."""


@dataclass(frozen=True, kw_only=True)
class DirectVGGs(Conv):
    """A VGG in SpikeInit's regime on images.

    A step counts as a second, so that rates are spikes per step; the formula gets P = 0.1 as the rate of every layer,
    as in SpikeInit's benchmark. SpikeInit runs without its surrogate, like every other method.
    """

    title: ClassVar[str] = "A VGG in four steps: accuracy by initialiser in SpikeInit's regime"

    task_name: str = "cifar10-subset"
    networks: tuple[str, ...] = ("vgg",)
    methods: tuple[str, ...] = COMPARED
    rate: float | None = P

    def network(self, setting: Setting) -> Architecture:
        return DirectVGG() if self.width is None else DirectVGG().with_width(self.width)

    def _rates(self, name: str, records: Sequence[Record]) -> "Callable[[Axes], None]":
        def draw(axis: "Axes") -> None:
            curves_per_method(axis, records, self.methods, "rates")
            axis.set_ylim(bottom=0)
            axis.set(xlabel="hidden layer", ylabel="spikes per step before training")

        return draw


@dataclass(frozen=True, kw_only=True)
class DirectStates(Study):
    """Chains of fully connected layers in SpikeInit's regime, initialised and inspected, not trained.

    Attributes:
        width: neurons of a layer, and input units.
        samples: in a batch; the input is constant, standard normal.
        steps: of time.
        depths: numbers of layers.
        methods: by name.
        xi: target of the methods that have one.
    """

    title: ClassVar[str] = "Four steps, synapses without delay: the last of many layers by initialiser"
    about: ClassVar[str] = (
        "Deep chains in the regime of SpikeInit, on constant random input, are initialised on a batch and shown "
        "another one. The numbers are those of the last layer. The gradient is that of the mean square of the readout, "
        "at the weights of the first layer over those of the last; the surrogate is the same for all (SuperSpike, "
        "beta = 20)."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sigma_u", "sigma_U of the last layer", spec=".3g", within=POSITIVE),
        Measure("rate", "spikes per step of a neuron of the last layer", spec=".3f", within=POSITIVE),
        Measure("silent", "silent neurons of the last layer (%)", factor=100, spec=".1f", within=(0, 1)),
        Measure("gradient", "gradient of the first layer over that of the last", spec=".2e", within=POSITIVE),
        Measure("seconds", "CPU seconds of initialisation", spec=".1f", within=POSITIVE),
    )
    compared_to: ClassVar[str] = "measured"
    lists: ClassVar[frozenset[str]] = frozenset({"depths", "methods"})

    width: int = 64
    samples: int = 64
    steps: int = 4
    depths: tuple[int, ...] = (1, 10, 100, 1000)
    methods: tuple[str, ...] = (*BASELINES, "poisson", UNBALANCED, "measured")
    xi: float = 1.0

    def grid(self) -> list[Setting]:
        return grid(method=self.methods, depth=self.depths)

    def seconds(self, setting: Setting) -> float:
        depth = float(setting["depth"] or 1)
        return 1 + 0.05 * depth + 6e-4 * depth**2

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        generator = torch.Generator().manual_seed(seed)
        both = torch.randn(2, self.samples, self.width, generator=generator)
        x, other = (one.expand(self.steps, *one.shape).contiguous() for one in both)
        torch.manual_seed(seed)
        model = direct_chain(self.width, self.width, int(setting["depth"] or 1))
        begun = time.process_time()
        start(model, x, str(setting["method"]), target=Target(xi=self.xi), seed=seed, bounds="shd", nu=P)
        seconds = time.process_time() - begun
        layers = [p for p in fluctua.inspect(model, other, loss=lambda y: y.square().mean()) if p.threshold is not None]
        first, last = (layers[k].gradient_norm or 0.0 for k in (0, -1))
        values = {
            "sigma_u": layers[-1].sigma_u,
            "rate": layers[-1].rate or 0.0,
            "silent": layers[-1].silent_units or 0.0,
            "gradient": first / last if last else 0.0,
            "seconds": seconds,
        }
        return Outcome(values, {"sigmas": [p.sigma_u for p in layers]})

    def figure(self, records: Sequence[Record]) -> "Figure":

        def panel(measure: str, label: str, factor: float = 1.0) -> "Callable[[Axes], None]":
            def draw(axis: "Axes") -> None:
                axis.set_xscale("log")
                line_per_method(axis, records, self.methods, "depth", measure, factor=factor)
                mark_places(axis, records, "depth")
                axis.set_ylim(bottom=0)
                axis.set(xlabel="layers", ylabel=label)

            return draw

        return panels(
            self.title,
            [
                panel("sigma_u", "$\\sigma_U$ of the last layer"),
                panel("rate", "spikes per step, last layer"),
                panel("silent", "silent neurons, last layer (%)", 100),
            ],
        )
