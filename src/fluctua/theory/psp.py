"""PSP kernels: what the free membrane potential does after one presynaptic spike, and the sums the theory needs.

`eps[k]` is the response of the never spiking potential, k steps after a spike through a weight of 1. Every number
comes from the *discrete* kernel of the neuron model at its time step; the continuous limits of the paper are here
for comparison only (they are 22 % off in `eps_hat` at dt = 2 ms with 20/10 ms time constants).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class PspKernel(ABC):
    """Free impulse response of a linear neuron. Build one with the constructors `exponential`, `delta`, ...

    If every neuron of a population has its own time constants, one kernel describes them all: its sums then have the
    population's shape `[*N]`; for a homogeneous population they are arrays of shape `[]`.

    Attributes:
        dt: time step in seconds (0 for the continuous limit).
        steps: None for the stationary process. A number of steps T asks for moments averaged over a trial of that
            length from rest: a perfect integrator, which never settles, needs it, and a readout as slow as the trial.

    Example:
        >>> kernel = PspKernel.exponential(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
        >>> kernel.response(5).round(3)
        array([0.   , 0.   , 0.095, 0.164, 0.212])
        >>> print(f"{kernel.eps_bar:.4f} s, {kernel.eps_hat:.4f} s")
        0.0110 s, 0.0020 s
    """

    dt: float
    steps: int | None = None

    @abstractmethod
    def response(self, steps: int) -> Array:
        """`eps[0], ..., eps[steps-1]`, shape `[steps, *N]`."""

    def system(self) -> tuple[Array, int] | None:
        """The response as that of a linear system, and its delay in steps; None for a kernel known only by samples.

        The matrix `[*N, 1 + S, S + 1]` has one row for the response and one for each part of the state after a step. It
        has one column for each part of the state before the step and one for the input.
        """
        return None

    @cached_property
    def eps_bar(self) -> Array:
        """`sum_k eps[k] dt` in seconds: mean potential per unit of weight and input rate (Hz)."""
        return self._sums[0] * self.dt

    @cached_property
    def eps_hat(self) -> Array:
        """`sum_k eps[k]^2 dt` in seconds: variance per unit of mean square weight and input rate (Hz)."""
        return self._sums[1] * self.dt

    @cached_property
    def lag_one(self) -> Array:
        """Correlation of the potential with itself one step later, `sum eps[k] eps[k+1] / sum eps[k]^2`."""
        return self._sums[2] / self._sums[1]

    def over_trial(self, steps: int) -> Self:
        """The same kernel with moments averaged over a trial of that many steps from rest."""
        return replace(self, steps=steps)

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """The kernel times a factor: -1 for an inhibitory current, whose `eps_bar` is negative."""

    @cached_property
    def _sums(self) -> tuple[Array, Array, Array]:
        """`sum eps`, `sum eps^2` and `sum eps[k] eps[k+1]`."""
        if self.steps is None:
            return self._stationary_sums()
        eps = self.response(max(self.steps, 0))
        if not eps.any():
            raise ValueError(f"a trial of {self.steps} steps ends before a spike has moved the potential")
        # A spike of step s has T - s steps left to act in: averaged over the trial, lag k counts (T - k) / T times.
        weight = (1 - np.arange(self.steps) / self.steps).reshape(-1, *[1] * (eps.ndim - 1))
        return (weight * eps).sum(0), (weight * eps**2).sum(0), (weight[1:] * eps[:-1] * eps[1:]).sum(0)

    @abstractmethod
    def _stationary_sums(self) -> tuple[Array, Array, Array]: ...

    # -- constructors ------------------------------------------------------------------------------------------

    @staticmethod
    def exponential(tau_mem: ArrayLike, tau_syn: ArrayLike, dt: float) -> "PspKernel":
        """The paper's LIF: synaptic current and membrane decay exponentially (tau in seconds, scalar or `[*N]`).

        `eps_bar` is `tau_syn`, `eps_hat` is `tau_syn^2 / (2 (tau_syn + tau_mem))`, both up to their first order in dt.
        """
        a, b = decay(tau_mem, dt, "tau_mem"), decay(tau_syn, dt, "tau_syn")
        return PspKernel.two_poles(1 - a, a, b, dt, delay=2)

    @staticmethod
    def delta(tau_mem: ArrayLike, dt: float) -> "PspKernel":
        """Every spike raises the potential by the weight itself; `eps_bar` ~ `tau_mem`, `eps_hat` ~ `tau_mem / 2`."""
        return PspKernel.one_pole(1.0, decay(tau_mem, dt, "tau_mem"), dt, delay=1)

    @staticmethod
    def one_pole(gain: ArrayLike, a: ArrayLike, dt: float, *, delay: int = 0) -> "PspKernel":
        """`eps[k] = gain a^k`, after `delay` steps."""
        return TwoStateKernel.make(dt, a=a, jump_mem=gain, delay=delay)

    @staticmethod
    def two_poles(gain: ArrayLike, a: ArrayLike, b: ArrayLike, dt: float, *, delay: int = 0) -> "PspKernel":
        """`eps[k] = gain (a^(k+1) - b^(k+1)) / (a - b)`: a synapse `b` feeding a membrane `a`; `a = b` is allowed."""
        coupling = np.asarray(gain) * np.asarray(b)
        return TwoStateKernel.make(dt, a=a, b=b, coupling=coupling, jump_mem=gain, jump_syn=1.0, delay=delay)

    @staticmethod
    def difference(gain: ArrayLike, a: ArrayLike, b: ArrayLike, dt: float, *, delay: int = 0) -> "PspKernel":
        """`eps[k] = gain (a^k - b^k)`: a difference of exponentials."""
        coupling = np.asarray(b, float) - np.asarray(a, float)
        return TwoStateKernel.make(dt, a=a, b=b, coupling=coupling, jump_syn=-np.asarray(gain, float), delay=delay)

    @staticmethod
    def integrator(gain: ArrayLike, dt: float, steps: int, *, delay: int = 0) -> "PspKernel":
        """A perfect integrator (IF neuron): `eps[k] = gain`. It never settles, so give the trial's length."""
        return TwoStateKernel.make(dt, a=1.0, jump_mem=gain, delay=delay, steps=steps)

    @staticmethod
    def by_update(update: str, *, beta: ArrayLike, alpha: ArrayLike = 0.0, dt: float = 1e-3) -> "PspKernel":
        """The kernel of a common update of the potential `v`, as hand-written loops have it.

        | `update` | per step | v is read |
        |---|---|---|
        | "leaky" | `v = beta v + x` | after |
        | "leaky-mean" | `v = beta v + (1 - beta) x` | after |
        | "synaptic" | `i = alpha i + x`, then `v = beta v + i` | after |
        | "synaptic-mean" | `i = alpha i + x`, then `v = beta v + (1 - beta) i` | after |
        | "eprop" | `v[t+1] = beta v[t] + x[t]` | at t + 1 |
        | "spytorch" | `i, v = alpha i + x, beta v + i`, with the old i | before |
        | "stork" | `i, v = alpha i + x, beta v + (1 - beta) i`, with the old i | before |

        Args:
            update: its name. snnTorch's tutorials use "leaky" and "synaptic", `v += (x - v) / tau` is "leaky-mean" with
                `beta = 1 - 1 / tau`.
            beta: decay of v per step.
            alpha: decay of i per step.
            dt: time step in seconds; only rates in Hz depend on it.

        Raises:
            ValueError: an unknown name.
        """
        if update not in _UPDATES:
            raise ValueError(f"unknown update {update!r}: choose one of {', '.join(_UPDATES)}")
        mean, delay = _UPDATES[update]
        gain = 1 - np.asarray(beta, float) if mean else 1.0
        return PspKernel.two_poles(gain, beta, alpha, dt, delay=delay)

    @staticmethod
    def from_response(values: ArrayLike, dt: float) -> "PspKernel":
        """A measured impulse response `[K, *N]`, taken to be zero after its end."""
        return SampledKernel(dt=dt, values=np.asarray(values, float))

    @staticmethod
    def continuous(tau_mem: float, tau_syn: float | None) -> "PspKernel":
        """The limit dt -> 0 that the paper's "analytical" formulas use; `tau_syn=None` for a delta synapse."""
        return ContinuousKernel(dt=0.0, tau_mem=tau_mem, tau_syn=tau_syn)


_UPDATES = {
    "leaky": (False, 0),
    "leaky-mean": (True, 0),
    "synaptic": (False, 0),
    "synaptic-mean": (True, 0),
    "eprop": (False, 1),
    "spytorch": (False, 2),
    "stork": (True, 2),
}
"""By the name of the update: whether it scales its input by `1 - beta`, and how many steps later the input acts."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TwoStateKernel(PspKernel):
    """All closed forms in one: a membrane state m driven by a synaptic state s, one step being ::

        m <- a m + coupling s + jump_mem x        s <- b s + jump_syn x        eps = m, `delay` steps later

    The sums follow from the stationary covariance of (m, s) under white input, so nothing is singular at a = b.
    """

    a: Array
    b: Array
    coupling: Array
    jump_mem: Array
    jump_syn: Array
    delay: int = 0

    @classmethod
    def make(
        cls,
        dt: float,
        *,
        a: ArrayLike,
        b: ArrayLike = 0.0,
        coupling: ArrayLike = 0.0,
        jump_mem: ArrayLike = 0.0,
        jump_syn: ArrayLike = 0.0,
        delay: int = 0,
        steps: int | None = None,
    ) -> "TwoStateKernel":
        """Broadcast and check the constants."""
        checked_dt(dt)
        values = np.broadcast_arrays(*(np.asarray(v, float) for v in (a, b, coupling, jump_mem, jump_syn)))
        for name, value in (("a", values[0]), ("b", values[1])):
            if not np.all((value >= 0) & ((value < 1) | (steps is not None) & (value == 1))):
                raise ValueError(
                    f"the decay {name} per step must lie in [0, 1), got {value.min():.6g} to {value.max():.6g}; "
                    "a perfect integrator (decay 1) needs PspKernel.integrator with the trial's steps"
                )
        if not all(np.isfinite(value).all() for value in values[2:]):
            raise ValueError(f"the gain of a kernel must be finite, got {values[2:]}")
        if delay < 0:
            raise ValueError(f"the delay of a kernel must be 0 steps or more, got {delay}")
        a, b, coupling, jump_mem, jump_syn = values
        return cls(dt=dt, steps=steps, a=a, b=b, coupling=coupling, jump_mem=jump_mem, jump_syn=jump_syn, delay=delay)

    def response(self, steps: int) -> Array:
        eps = np.zeros((steps, *self.a.shape))
        m, s = self.jump_mem, self.jump_syn
        for k in range(self.delay, steps):
            eps[k] = m
            m, s = self.a * m + self.coupling * s, self.b * s
        return eps

    def scaled(self, factor: float) -> Self:
        factor = checked_factor(factor)
        return replace(self, jump_mem=factor * self.jump_mem, jump_syn=factor * self.jump_syn)

    def system(self) -> tuple[Array, int]:
        if not self.coupling.any():
            return np.stack([np.stack([self.a, self.jump_mem], -1)] * 2, -2), self.delay
        membrane = np.stack([self.a, self.coupling, self.jump_mem], -1)
        synapse = np.stack([np.zeros_like(self.a), self.b, self.jump_syn], -1)
        return np.stack([membrane, membrane, synapse], -2), self.delay

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        a, b, c, u, v = self.a, self.b, self.coupling, self.jump_mem, self.jump_syn
        s_s = v**2 / (1 - b**2)
        m_s = (u * v + b * c * s_s) / (1 - a * b)
        m_m = (u**2 + 2 * a * c * m_s + c**2 * s_s) / (1 - a**2)
        return (u + c * v / (1 - b)) / (1 - a), m_m, a * m_m + c * m_s


@dataclass(frozen=True, eq=False, kw_only=True)
class SampledKernel(PspKernel):
    """A kernel known by its samples `values` `[K, *N]`."""

    values: Array

    def __post_init__(self) -> None:
        checked_dt(self.dt)
        if self.values.ndim == 0 or not np.isfinite(self.values).all() or not self.values.any():
            raise ValueError("an impulse response needs at least one sample, all finite and not all zero")

    def response(self, steps: int) -> Array:
        eps = np.zeros((steps, *self.values.shape[1:]))
        known = min(steps, len(self.values))
        eps[:known] = self.values[:known]
        return eps

    def scaled(self, factor: float) -> Self:
        return replace(self, values=checked_factor(factor) * self.values)

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        eps = self.values
        return eps.sum(0), (eps**2).sum(0), (eps[:-1] * eps[1:]).sum(0)


@dataclass(frozen=True, eq=False, kw_only=True)
class ContinuousKernel(PspKernel):
    """The limit dt -> 0 (paper, supplement S1)."""

    tau_mem: float
    tau_syn: float | None
    gain: float = 1.0

    def __post_init__(self) -> None:
        for tau in (self.tau_mem,) if self.tau_syn is None else (self.tau_mem, self.tau_syn):
            if not 0 < tau < np.inf:
                raise ValueError(f"a time constant must be a positive number of seconds, got {tau}")

    @cached_property
    def eps_bar(self) -> Array:
        """`tau_syn`, or `tau_mem` for a delta synapse."""
        return np.asarray(self.gain * (self.tau_mem if self.tau_syn is None else self.tau_syn))

    @cached_property
    def eps_hat(self) -> Array:
        """`tau_syn^2 / (2 (tau_syn + tau_mem))`, or `tau_mem / 2` for a delta synapse."""
        if self.tau_syn is None:
            return np.asarray(self.gain**2 * self.tau_mem / 2)
        return np.asarray((self.gain * self.tau_syn) ** 2 / (2 * (self.tau_syn + self.tau_mem)))

    @cached_property
    def curvature(self) -> float:
        """`-R''(0) / R(0)` of the autocorrelation R in 1/s^2; infinite where the potential jumps."""
        return np.inf if self.tau_syn is None else 1 / (self.tau_mem * self.tau_syn)

    @property
    def lag_one(self) -> Array:  # type: ignore[override]
        """1: there is no step."""
        return np.asarray(1.0)

    def response(self, steps: int) -> Array:
        """Refused: without a time step there is nothing to sample."""
        raise ValueError("the continuous limit has no time step to sample its response at")

    def scaled(self, factor: float) -> Self:
        return replace(self, gain=checked_factor(factor) * self.gain)

    def over_trial(self, steps: int) -> Self:
        """Refused: the limit is that of the stationary process."""
        raise ValueError("the continuous limit has no time step to count a trial's steps in")

    def _stationary_sums(self) -> tuple[Array, Array, Array]:
        raise AssertionError("the continuous limit overrides every sum")


def decay(tau: ArrayLike, dt: float, name: str = "tau") -> Array:
    """`exp(-dt / tau)`, the factor per step of an exponential decay with time constant `tau` (seconds)."""
    checked_dt(dt)
    taus = np.asarray(tau, float)
    if not np.all((taus > 0) & np.isfinite(taus)):
        raise ValueError(f"{name} must be a positive number of seconds, got {tau!r}")
    return np.exp(-dt / taus)


def checked_factor(factor: float) -> float:
    """Refuse a factor by which no kernel can be scaled."""
    if not np.isfinite(number(factor)) or factor == 0:
        raise ValueError(f"a kernel can be scaled by a finite number other than 0, got {factor}")
    return factor


def checked_dt(dt: float) -> float:
    """Refuse a time step that is not a positive number of seconds."""
    if not 0 < number(dt) < np.inf:
        raise ValueError(f"the time step dt must be a positive number of seconds, got {dt!r}")
    return dt


def number(value: Any) -> float:
    """The value as a float; NaN, which lies in no range, for anything that is not a number."""
    try:
        return np.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return np.nan
