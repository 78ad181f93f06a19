"""The neurons of fluctua: one step of each, from t to t + 1, in torch. Nothing else states their equations."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from fluctua.neurons.surrogates import Surrogate, spike
from fluctua.timeloop.contract import Tensors

Reset = Literal["zero", "subtract"]


def checked_reset(reset: Reset) -> Reset:
    """The reset, if it is one."""
    if reset not in ("zero", "subtract"):
        raise ValueError(f"unknown reset {reset!r}: choose 'zero' or 'subtract'")
    return reset


@dataclass(frozen=True)
class LeakyStep:
    """A leaky membrane behind an exponential or a delta synapse; a spiking neuron, maybe adaptive, or a readout.

    With threshold theta, `a = exp(-dt/tau_mem)` and `b = exp(-dt/tau_syn)` (Rossbroich, Gygax & Zenke 2022; the
    released code of the paper)::

        out[t] = H(U[t] - theta)                       spikes; for a readout out[t] = U[t]
        V[t]   = a U[t] + (1 - a) I[t]                 exponential synapse
        V[t]   = a U[t] + x[t]                         delta synapse
        U[t+1] = V[t] (1 - out[t])                     reset "zero"
        U[t+1] = V[t] - theta out[t]                   reset "subtract"
        I[t+1] = b I[t] + x[t]

    It may adapt, with a variable w in units of the potential and `rho = exp(-dt/tau_adapt)`::

        w[t+1] = rho w[t] + (1 - rho) beta out[t]              its threshold is theta + w[t] instead of theta,
        w[t+1] = rho w[t] + (1 - rho) (c U[t] + beta out[t])   or V[t] loses (1 - a) w[t+1] before the reset

    The state is U, then I of an exponential synapse, then w; the constants are those needed of a, b, theta, rho, beta,
    c. `reset` is None for a readout.
    """

    exponential: bool
    reset: Reset | None
    differentiable_reset: bool
    surrogate: Surrogate
    adapts: Literal["threshold", "current"] | None = None

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        (x,), (u, *rest), (a, *others) = inputs, state, constants
        after = []
        if self.exponential:
            i = rest.pop(0)
            v = a * u + (1 - a) * i
            after = [others.pop(0) * i + x]
        else:
            v = a * u + x
        if self.reset is None:
            return u, (v, *after)
        theta, *adaptation = others
        if self.adapts is None:
            out = spike(u - theta, self.surrogate)
        else:
            (w,), (rho, beta, *coupling) = rest, adaptation
            if self.adapts == "threshold":
                theta = theta + w
            out = spike(u - theta, self.surrogate)
            pull = beta * out
            if self.adapts == "current":
                pull = coupling[0] * u + pull
            w = rho * w + (1 - rho) * pull
            if self.adapts == "current":
                v = v - (1 - a) * w
            after.append(w)
        return out, (_reset(v, theta, out, self.reset, self.differentiable_reset), *after)


@dataclass(frozen=True)
class ExcInhStep:
    """A leaky membrane behind an excitatory and an inhibitory synapse, each with its own input::

        out[t]   = H(U[t] - theta)
        V[t]     = a U[t] + (1 - a) (I_e[t] - I_i[t])          U[t+1] from V[t] by the reset, as in `LeakyStep`
        I_e[t+1] = b_e I_e[t] + exc[t]
        I_i[t+1] = b_i I_i[t] + inh[t]

    The state is U, I_e, I_i; the constants are a, b_e, b_i, theta.
    """

    reset: Reset
    differentiable_reset: bool
    surrogate: Surrogate

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        (exc, inh), (u, i_exc, i_inh), (a, b_exc, b_inh, theta) = inputs, state, constants
        out = spike(u - theta, self.surrogate)
        v = a * u + (1 - a) * (i_exc - i_inh)
        v = _reset(v, theta, out, self.reset, self.differentiable_reset)
        return out, (v, b_exc * i_exc + exc, b_inh * i_inh + inh)


def _reset(v: Tensor, theta: Tensor, out: Tensor, reset: Reset, differentiable: bool) -> Tensor:
    out = out if differentiable else out.detach()
    return v * (1 - out) if reset == "zero" else v - theta * out
