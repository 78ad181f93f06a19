"""The time loop in plain torch: slow, short, on any device. The truth the other engines are tested against."""

from typing import Any

import torch
from torch import Tensor

from fluctua.timeloop.contract import LoopParameters, LoopResult, State
from fluctua.timeloop.surrogates import Surrogate


class _Spike(torch.autograd.Function):
    """Heaviside function of the distance from threshold, with a surrogate derivative."""

    @staticmethod
    def forward(x: Tensor, surrogate: Surrogate) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Surrogate], output: Tensor) -> None:
        x, ctx.surrogate = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(x), None


def spike(x: Tensor, surrogate: Surrogate) -> Tensor:
    """1 where `x > 0`, else 0; the derivative in backward is the surrogate's."""
    return _Spike.apply(x, surrogate)  # type: ignore[no-untyped-call,no-any-return]


def step(x: Tensor, parameters: LoopParameters, state: State) -> tuple[Tensor, Tensor, State]:
    """One step of the dynamics in `contract.py`, from t to t + 1.

    Args:
        x: input current of the step, `[B, *N]`, in float32 or float64.
        parameters: constants in the type and on the device of `x`. Nothing is checked or converted here.
        state: before the step.

    Returns:
        The output of the step and its potential `U[t]` before the reset, `[B, *N]`, and the state after it. As in a
        `LoopResult` no gradient flows through the potential of a population that spikes.
    """
    p, (u, i, w) = parameters, state
    v = p.decay_mem * u + (x if p.decay_syn is None else (1 - p.decay_mem) * i)
    if p.decay_syn is not None:
        i = p.decay_syn * i + x
    if p.threshold is None:
        return u, u, State(v, i)
    theta, adaptation = p.threshold, p.adaptation
    if adaptation is None:
        out = spike(u - theta, p.surrogate)
    elif w is None:
        raise ValueError("the state of a population that adapts needs an adaptation, got None")
    elif adaptation.coupling is None:
        theta = theta + w
        out = spike(u - theta, p.surrogate)
        w = adaptation.decay * w + (1 - adaptation.decay) * (adaptation.strength * out)
    else:
        out = spike(u - theta, p.surrogate)
        w = adaptation.decay * w + (1 - adaptation.decay) * (adaptation.coupling * u + adaptation.strength * out)
        v = v - (1 - p.decay_mem) * w
    reset = out if p.differentiable_reset else out.detach()
    v = v * (1 - reset) if p.reset == "zero" else v - theta * reset
    return out, u.detach(), State(v, i, w)


class ReferenceEngine:
    """Serves every request."""

    name = "reference"

    def unsupported(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """None: the reference serves everything."""
        return None

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """See `Engine.run`."""
        outputs, potentials = [], []
        for x in current.unbind(0):
            output, potential, state = step(x, parameters, state)
            outputs.append(output)
            potentials.append(potential)
        output = torch.stack(outputs)
        return LoopResult(output, torch.stack(potentials) if parameters.spiking else output, state)
