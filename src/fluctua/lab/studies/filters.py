"""Recurrent convolutions before training: why the paper's formula works at its filters and fails in a narrow study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import fluctua
from fluctua.lab.networks import network
from fluctua.lab.studies.image_task import SpokenTask
from fluctua.lab.studies.methods import start
from fluctua.lab.studies.plotting import curves_per_method, panels
from fluctua.lab.studies.task import FSDD
from fluctua.lab.studies.training import POSITIVE
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Setting, Study
from fluctua.lab.sweeps.sweep import grid
from fluctua.theory import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WHOLE: Mapping[str, Any] = {"duration": 0.7, "pool": 1}
CASES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "narrow and short": {"width": 4},
        "the paper's filters": {},
        "and 0.7 s of all channels": {**_WHOLE},
        "and 2 ms": {**_WHOLE, "dt": 2e-3},
        "and nu = 15.8 Hz (the paper)": {**_WHOLE, "dt": 2e-3, "nu": 15.8},
    }
)
"""From the small study `conv-shd` to the setting of the paper, one change after the other."""


@dataclass(frozen=True, kw_only=True)
class Filters(Study):
    """The paper's recurrent convolutions, initialised and inspected, not trained.

    Attributes:
        networks: by name.
        methods: by name.
        cases: of `CASES`.
        samples: recordings in a batch.
        xi: target.
    """

    title: ClassVar[str] = "Recurrent convolutions before training: from a narrow study to the paper's setting"
    about: ClassVar[str] = (
        "The formula takes the mean rate of the input for that of every layer. Here one thing after the other is "
        "changed from a narrow network on short, pooled recordings to the setting of the paper, and the state of the "
        "last layer is measured on the batch that the network was initialised on."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("sigma_u", "sigma_U of the last layer", spec=".3f", within=POSITIVE),
        Measure("first", "sigma_U of the first layer", spec=".3f", within=POSITIVE),
        Measure("rate", "firing rate of the last layer (Hz)", spec=".2f", within=POSITIVE),
        Measure("silent", "silent neurons of the last layer (%)", factor=100, spec=".1f", within=(0, 1)),
        Measure("input_rate", "rate of the input (Hz)", spec=".1f", within=POSITIVE),
    )
    compared_to: ClassVar[str] = "measured"
    lists: ClassVar[frozenset[str]] = frozenset({"networks", "methods", "cases"})

    networks: tuple[str, ...] = ("shd-conv", "shd-conv-deep")
    methods: tuple[str, ...] = ("kaiming", "poisson", "measured")
    cases: tuple[str, ...] = tuple(CASES)
    samples: int = 16
    xi: float = 1.0

    @property
    def files(self) -> tuple[str, ...]:
        return FSDD.files

    def grid(self) -> list[Setting]:
        return grid(network=self.networks, case=self.cases, method=self.methods)

    def seconds(self, setting: Setting) -> float:
        return 8.0 if "dt" in CASES[str(setting["case"])] else 2.0

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        case = CASES[str(setting["case"])]
        sizes = {"dt": 5e-3, "duration": 0.3, "pool": 2} | {k: v for k, v in case.items() if k not in ("width", "nu")}
        task = SpokenTask(path=FSDD.train, test_path=FSDD.test, batch_size=self.samples, **sizes)
        samples = task.load(seed, data)
        full = network(str(setting["network"]))
        scaled = full.with_width(case["width"]) if "width" in case else full
        model = scaled.build(samples.shape, samples.n_classes, dt=task.dt, duration=task.duration)
        x, _ = samples.batch(self.samples)
        method = str(setting["method"])
        start(model, x, method, target=Target(xi=self.xi), seed=seed, bounds="shd_conv", nu=case.get("nu"))
        layers = [p for p in fluctua.inspect(model, x) if p.threshold is not None]
        last = layers[-1]
        values = {
            "sigma_u": last.sigma_u,
            "first": layers[0].sigma_u,
            "rate": last.rate or 0.0,
            "silent": last.silent_units or 0.0,
            "input_rate": float(x.mean()) / task.dt,
        }
        return Outcome(values, {"rates": [p.rate or 0.0 for p in layers], "sigmas": [p.sigma_u for p in layers]})

    def figure(self, records: Sequence[Record]) -> "Figure":
        """See `Study.figure`: the layers of the deepest network run, in up to three cases."""
        name = [n for n in self.networks if any(r.axis("network") == n for r in records)][-1]
        found = [c for c in self.cases if any((r.axis("case"), r.axis("network")) == (c, name) for r in records)]
        shown = list(dict.fromkeys((found[0], found[len(found) // 2], found[-1])))

        def layers(case: str) -> "Callable[[Axes], None]":
            def draw(axis: "Axes") -> None:
                here = [r for r in records if r.axis("case") == case and r.axis("network") == name]
                curves_per_method(axis, here, self.methods, "sigmas")
                axis.axhline(1 / self.xi, color="0.5", lw=1, ls=":")
                axis.set_ylim(0, 3.2)
                axis.set(xlabel="hidden layer", ylabel="$\\sigma_U$ before training", title=case)

            return draw

        return panels(f"{name}: {self.title.partition(':')[0]}", [layers(c) for c in shown])
