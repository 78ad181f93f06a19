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


class ReferenceEngine:
    """Serves every request."""

    name = "reference"

    def refusal(self, current: Tensor, parameters: LoopParameters) -> str | None:
        """None: the reference serves everything."""
        return None

    def run(self, current: Tensor, parameters: LoopParameters, state: State) -> LoopResult:
        """See `Engine.run`."""
        p, (u, i) = parameters, state
        outputs, potentials = [], []
        for x in current.unbind(0):
            potentials.append(u)
            v = p.decay_mem * u + (x if p.decay_syn is None else (1 - p.decay_mem) * i)
            if p.threshold is not None:
                out = spike(u - p.threshold, p.surrogate)
                outputs.append(out)
                reset = out if p.differentiable_reset else out.detach()
                u = v * (1 - reset) if p.reset == "zero" else v - p.threshold * reset
            else:
                u = v
            if p.decay_syn is not None:
                i = p.decay_syn * i + x
        potential = torch.stack(potentials)
        if not p.spiking:
            return LoopResult(potential, potential, State(u, i))
        return LoopResult(torch.stack(outputs), potential.detach(), State(u, i))
