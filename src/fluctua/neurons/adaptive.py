"""Leaky integrate-and-fire neurons that adapt."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from fluctua.neurons.leaky import LIF, LeakyNeuron, State, Tau, constant, numbers, register_tau, shown, tau_property
from fluctua.neurons.steps import Reset
from fluctua.neurons.surrogates import Surrogate
from fluctua.theory.psp import decay
from fluctua.timeloop.contract import Dynamics


class AdaptiveLIF(LIF):
    """Leaky integrate-and-fire neurons with adaptation: input current `[T, B, *N]` -> spikes.

    The dynamics are those of `LIF` plus an adaptation `w` in units of the potential, `rho = exp(-dt/tau_adapt)`.
    It raises the threshold (`kind="threshold"`: ALIF, Bellec et al. 2018)::

        out[t] = H(U[t] - theta - w[t])
        w[t+1] = rho w[t] + (1-rho) beta out[t]

    which is their `theta + beta A[t]` with `w = beta A`; the reset "subtract" subtracts the raised threshold. Or it
    is a current against the drive (`kind="current"`: adLIF, Bittar & Garner 2022; Baronig et al. 2025)::

        w[t+1] = rho w[t] + (1-rho) (c U[t] + beta out[t])
        U[t+1] = (a U[t] + (1-a) (I[t] - w[t+1])) (1 - out[t])

    and for a delta synapse `U[t+1] = (a U[t] + x[t] - (1-a) w[t+1]) (1 - out[t])`. U reads the new w, as in the order
    of both papers (symplectic Euler in the second, which shows that it is more stable). Bittar & Garner write w
    without the factor `1-rho`: their a and b are `(1-rho) coupling` and `(1-rho) beta`; in Baronig et al. they are
    `coupling / q` and `beta / q` with `q = 120`. U[t] in the coupling is that before the reset in the first paper, as
    here, and that after it in the second.

    At a constant rate r, w settles at `beta r dt`; one spike adds about `beta dt / tau_adapt`.

    Args:
        tau_mem: membrane time constant in seconds; a scalar, or a tensor that broadcasts to the population's shape.
        tau_syn: synaptic time constant in seconds, likewise, or None for a delta synapse.
        dt: time step in seconds.
        tau_adapt: time constant of the adaptation in seconds, likewise.
        beta: strength of the adaptation by spikes; a scalar, or a tensor that broadcasts to the population's shape. The
            default, like those of the papers, lets a spike raise the adaptation by about the threshold.
        coupling: `c`, adaptation by the potential itself, likewise; only with `kind="current"`.
        kind: "threshold" or "current".
        threshold: see `LIF`, as all that follow.
        reset: "zero" or "subtract"; it leaves the adaptation alone.
        differentiable_reset: whether the gradient also flows through the reset. It always flows through the adaptation.
        surrogate: `SuperSpike` (default), `SigmoidDerivative` or `ArcTan`.
        learn_tau: whether the time constants are trained.
        learn_adaptation: whether `beta` and `coupling` are trained.

    Raises:
        ValueError: constants that are not positive and finite, an unknown reset or kind, or a coupling that does not go
            with the kind or makes the potential unstable.

    Example:
        >>> current = torch.full((100, 1, 1), 0.5)
        >>> [int(neurons(current).sum()) for neurons in (LIF(), AdaptiveLIF(tau_adapt=0.1))]
        [15, 3]
    """

    log_tau_adapt: Tensor
    beta: Tensor
    coupling: Tensor | None
    kind: Literal["threshold", "current"]

    def __init__(
        self,
        tau_mem: Tau = 20e-3,
        tau_syn: Tau | None = 10e-3,
        dt: float = 2e-3,
        *,
        tau_adapt: Tau = 0.2,
        beta: float | Tensor = 100.0,
        coupling: float | Tensor = 0.0,
        kind: Literal["threshold", "current"] = "threshold",
        threshold: float | Tensor = 1.0,
        reset: Reset = "zero",
        differentiable_reset: bool = False,
        surrogate: Surrogate | None = None,
        learn_tau: bool = False,
        learn_adaptation: bool = False,
    ) -> None:
        LeakyNeuron.__init__(self, tau_mem, tau_syn, dt, learn_tau=learn_tau)
        self._set_firing(threshold, reset, differentiable_reset, surrogate)
        register_tau(self, "tau_adapt", tau_adapt, learn_tau)
        self._register_strength("beta", beta, learn_adaptation)
        if kind == "current":
            self._register_strength("coupling", coupling, learn_adaptation)
            _check_coupling(numbers(self.tau_mem), numbers(self.tau_adapt), numbers(coupling), dt)
        elif kind != "threshold":
            raise ValueError(f"unknown kind of adaptation {kind!r}: choose 'threshold' or 'current'")
        elif torch.as_tensor(coupling).any():
            raise ValueError(f"a threshold does not follow the potential, got coupling={coupling}: use kind='current'")
        else:
            self.coupling = None
        self.kind = kind

    def _register_strength(self, name: str, value: float | Tensor, learn: bool) -> None:
        tensor = constant(value)
        if not bool(tensor.isfinite().all()):
            raise ValueError(f"{name} must be finite, got {value!r}")
        if learn:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    tau_adapt = tau_property("tau_adapt", "Time constant of the adaptation in seconds.")

    def dynamics(self) -> Dynamics:
        """The step and its constants, from the live parameters."""
        coupling = () if self.coupling is None else (self.coupling,)
        constants = self.threshold, torch.exp(-self.dt / self.tau_adapt), self.beta, *coupling
        return self._dynamics(constants, *self._options, self.kind)

    @property
    def _has(self) -> tuple[bool, bool, bool]:
        return True, self.log_tau_syn is not None, True

    def initial_state(self, current: Tensor) -> State:
        """State before the first step for an input current `[T, B, *N]`: at rest, without adaptation."""
        rest = super().initial_state(current)
        return rest._replace(adaptation=rest.potential)

    def extra_repr(self) -> str:
        """The constants, for `print(model)`."""
        own = [f"kind={self.kind!r}", f"tau_adapt={shown(self.tau_adapt)}", f"beta={shown(self.beta)}"]
        if self.coupling is not None:
            own.append(f"coupling={shown(self.coupling)}")
        return ", ".join([super().extra_repr(), *own])


def _check_coupling(tau_mem: ArrayLike, tau_adapt: ArrayLike, coupling: ArrayLike, dt: float) -> None:
    """Refuse an adaptation current whose coupling to the potential makes both grow without bound.

    The eigenvalues of (U, w) have the product `a rho` and the sum `a + rho - (1-a) (1-rho) c`; they lie in the unit
    circle where `-1 < c < (1+a) (1+rho) / ((1-a) (1-rho))`.
    """
    a, rho, c = np.broadcast_arrays(decay(tau_mem, dt), decay(tau_adapt, dt), coupling)
    limit = (1 + a) * (1 + rho) / ((1 - a) * (1 - rho))
    unstable = ~((c > -1) & (c < limit))
    if unstable.any():
        raise ValueError(
            f"the coupling of an adaptation current must lie between -1 and {limit[unstable].min():.6g}, the limit of "
            f"stability at these time constants, got {c[unstable][0]:.6g}"
        )
