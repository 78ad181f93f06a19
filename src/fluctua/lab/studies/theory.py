"""Theory: do free membrane potential and firing rate match the formulas?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

import fluctua
from fluctua.lab.looks import COLOURS
from fluctua.lab.networks import FullyConnected
from fluctua.lab.studies.plotting import line, panels
from fluctua.lab.sweeps.study import Measure, Outcome, Record, Setting, Study
from fluctua.lab.sweeps.sweep import grid
from fluctua.methods import Poisson
from fluctua.state.style import BLUE, GREEN, RED
from fluctua.theory import PspKernel, Target, crossing_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FREE = "free membrane potential U"


@dataclass(frozen=True, kw_only=True)
class Theory(Study):
    """One layer of LIF neurons under Poisson spikes, its weights by the paper's formula; times in seconds.

    Attributes:
        n_in: input units.
        nu: their rate in Hz.
        width: neurons.
        samples: trials of a run.
        duration: of a trial.
        tau_mem: membrane time constant.
        tau_syn: synaptic time constant.
        means: targets for mu_U, each with `xis`.
        xis: targets for xi.
        further_xis: more targets for xi at mu_U = 0, where the rate is compared.
        dt: time step of these runs.
        further_dts: more time steps, for mu_U = 0 and xi = 1.
    """

    title: ClassVar[str] = "Theory: free membrane potential and firing rate against the formulas"
    about: ClassVar[str] = (
        "A layer of LIF neurons gets independent Poisson spikes through weights drawn by the formula of the paper. "
        "Measured: mean and standard deviation of the free potential in time and between neurons, and the firing rate, "
        "against theory for several mu_U and xi; and sigma_U if the kernel sums are those of the discrete kernel or of "
        "its continuous limit, for several time steps."
    )
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("mu_u", "mean of U over a trial from rest"),
        Measure("mu_u_theory", "the same by theory"),
        Measure("sigma_ratio", "standard deviation of U in time, over theory"),
        Measure("sigma_ratio_continuous", "the same with the kernel sums of the continuous limit"),
        Measure("across_ratio", "standard deviation of the mean U between neurons, over theory"),
        Measure("rate", "firing rate (Hz)", spec=".2f"),
        Measure("rate_theory", "rate of threshold crossings by theory, all neurons alike (Hz)", spec=".2f"),
        Measure("rate_theory_spread", "the same, each neuron with its own mean (Hz)", spec=".2f"),
    )

    n_in: int = 500
    nu: float = 10.0
    width: int = 500
    samples: int = 32
    duration: float = 2.0
    tau_mem: float = 20e-3
    tau_syn: float = 10e-3
    means: tuple[float, ...] = (-1.0, 0.0, 0.5)
    xis: tuple[float, ...] = (1.0, 2.0, 3.0)
    further_xis: tuple[float, ...] = (0.5, 0.75, 1.25, 1.5, 1.75, 2.25, 2.5, 2.75)
    dt: float = 2e-3
    further_dts: tuple[float, ...] = (0.5e-3, 1e-3, 4e-3, 10e-3)

    def grid(self) -> list[Setting]:
        return [
            *grid(mu_u=self.means, xi=self.xis, dt=(self.dt,)),
            *grid(mu_u=(0.0,), xi=self.further_xis, dt=(self.dt,)),
            *grid(mu_u=(0.0,), xi=(1.0,), dt=self.further_dts),
        ]

    def seconds(self, setting: Setting) -> float:
        steps = self.samples * self.duration / float(setting["dt"] or self.dt)
        return 0.5 + 6e-8 * steps * self.width * (1 + self.n_in / 500)

    def run(self, setting: Setting, seed: int, data: Path | None) -> Outcome:
        mu_u, xi, dt = (float(setting[name] or 0.0) for name in ("mu_u", "xi", "dt"))
        network = FullyConnected(
            shape=(self.n_in,), width=self.width, depth=1, tau_mem=self.tau_mem, tau_syn=self.tau_syn
        )
        model = network.build((self.n_in,), 1, dt=dt, duration=self.duration)
        rate = torch.full((round(self.duration / dt), self.samples, self.n_in), self.nu * dt)
        x = torch.poisson(rate, torch.Generator().manual_seed(seed))
        kernel = PspKernel.exponential(self.tau_mem, self.tau_syn, dt)
        continuous = PspKernel.continuous(self.tau_mem, self.tau_syn)
        target = Target(mean=mu_u, xi=xi)
        layer = fluctua.initialize(model, x, target, method=Poisson(nu=self.nu), readout=Target(sigma=1.0), seed=seed)[
            0
        ]
        theory = _from_rest(kernel, len(x), mu_u, (1 - mu_u) / xi, np.sqrt(self.n_in) * layer.pathways[0].std * self.nu)
        ratio = layer.sigma_temporal / theory.temporal
        values = {
            "mu_u": layer.mu_u,
            "mu_u_theory": theory.mean,
            "sigma_ratio": ratio,
            # U is linear in the weights, so one simulation serves for all weights.
            "sigma_ratio_continuous": ratio * float(np.sqrt(kernel.eps_hat / continuous.eps_hat)),
            "across_ratio": layer.sigma_across / theory.across,
            "rate": layer.rate,
            "rate_theory": float(crossing_rate(xi, kernel)),
            "rate_theory_spread": _rate_of_many(xi, theory.across / (1 - mu_u), kernel),
        }
        return Outcome(values, {"edges": layer.plot_data.edges, "density": layer.plot_data.density})

    def figure(self, records: Sequence[Record]) -> "Figure":
        return panels(
            self.title,
            [
                lambda axis: self._distributions(axis, records),
                lambda axis: self._rates(axis, records),
                lambda axis: self._time_steps(axis, records),
            ],
        )

    def _at(self, records: Sequence[Record], **where: float) -> list[Record]:
        return [r for r in records if all(r.axis(name) == value for name, value in where.items())]

    def _distributions(self, axis: "Axes", records: Sequence[Record]) -> None:
        kernel = PspKernel.exponential(self.tau_mem, self.tau_syn, self.dt)
        spread = float(np.sqrt(1 + self.nu * kernel.eps_bar**2 / kernel.eps_hat))
        for xi, colour in zip(self.xis, COLOURS, strict=False):
            u = np.linspace(-3, 3, 241)
            sigma = spread / xi
            axis.plot(u, np.exp(-0.5 * (u / sigma) ** 2) / sigma / np.sqrt(2 * np.pi), "--", color="0.25", lw=1)
            for r in self._at(records, mu_u=0.0, xi=xi, dt=self.dt)[:1]:
                axis.stairs(r.curves["density"], r.curves["edges"], color=colour, label=f"$\\xi$ = {xi:g}")
        axis.axvline(1.0, color="0.5", lw=1, ls=":")
        axis.set_xlim(-3, 3)
        axis.set(xlabel=_FREE, ylabel="density", title="$\\mu_U$ = 0; dashed: theory")

    def _rates(self, axis: "Axes", records: Sequence[Record]) -> None:
        kernel = PspKernel.exponential(self.tau_mem, self.tau_syn, self.dt)
        xi = np.linspace(min(*self.xis, *self.further_xis), max(*self.xis, *self.further_xis), 100)
        spread = float(np.sqrt(self.nu * kernel.eps_bar**2 / kernel.eps_hat))  # of the means, over sigma_U
        each = [_rate_of_many(float(value), spread / float(value), kernel) for value in xi]
        axis.plot(xi, crossing_rate(xi, kernel), "--", color="0.25", lw=1, label="theory, neurons alike")
        axis.plot(xi, each, "-", color="0.25", lw=1, label="each with its own mean")
        here = self._at(records, mu_u=0.0, dt=self.dt)
        line(axis, here, "xi", "rate", color=BLUE, marker="o", ls="", label="simulated")
        axis.set_yscale("log")
        axis.set(xlabel="target $\\xi$", ylabel="firing rate (Hz)", title="rate of spikes and of crossings")

    def _time_steps(self, axis: "Axes", records: Sequence[Record]) -> None:
        here = self._at(records, mu_u=0.0, xi=1.0)
        line(axis, here, "dt", "sigma_ratio", color=GREEN, marker="s", label="discrete kernel sums")
        line(axis, here, "dt", "sigma_ratio_continuous", color=RED, marker="D", label="continuous ones")
        axis.axhline(1.0, color="0.5", lw=1, ls=":")
        axis.set_xscale("log")
        places = sorted({float(r.setting["dt"] or 0.0) for r in here})
        axis.set_xticks(places, [f"{1e3 * place:g}" for place in places])
        axis.set(xlabel="time step (ms)", ylabel="$\\sigma_U$ / target", title="effect of the time step")


@dataclass(frozen=True)
class _Moments:
    """Moments of the free potential in a trial from rest: mean, spread in time, and spread of the neurons' means."""

    mean: float
    temporal: float
    across: float


def _from_rest(kernel: PspKernel, steps: int, mu_u: float, sigma_u: float, drive_std: float) -> _Moments:
    """Theory for a trial of `steps` steps; `drive_std` is the spread over neurons of the sum of weight times rate.

    The mean rises from zero during the trial, a spread in time that the stationary process does not have.
    """
    rise = np.cumsum(kernel.response(steps)) * kernel.dt  # in units of a drive of 1 per second
    settled = float(rise[-1])
    drive_square = (mu_u / settled) ** 2 + drive_std**2
    fluctuations = sigma_u**2 * float(kernel.over_trial(steps).eps_hat / kernel.eps_hat)
    return _Moments(
        mean=mu_u * float(rise.mean()) / settled,
        temporal=float(np.sqrt(fluctuations + drive_square * rise.var())),
        across=drive_std * float(rise.mean()),
    )


def _rate_of_many(xi: float, spread: float, kernel: PspKernel) -> float:
    """Mean crossing rate of neurons whose means are normal, `spread` distances from threshold around the common one."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    return float(weights @ crossing_rate(xi * (1 - spread * nodes), kernel) / weights.sum())
