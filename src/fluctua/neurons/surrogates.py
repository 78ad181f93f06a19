"""Surrogate gradients: what backward uses in place of the derivative of the spike function."""

import inspect
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fluctua.theory.psp import number


@dataclass(frozen=True, eq=False)
class Surrogate(ABC):
    """Stands in for the derivative of the Heaviside function; `beta` (1 / potential) is its steepness.

    Those of one class and with the same attributes are equal, and share their loops.
    """

    beta: float

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), self.beta))

    def __post_init__(self) -> None:
        if not 0 < number(self.beta) < math.inf:
            raise ValueError(f"a surrogate needs a finite steepness beta > 0, got {self.beta!r}")

    @abstractmethod
    def derivative(self, x: Tensor) -> Tensor:
        """Pseudo-derivative at the distance `x = U - theta` from threshold, of any shape."""


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """`1 / (beta |x| + 1)^2`, the paper's choice (Zenke & Ganguli 2018).

    >>> import torch
    >>> SuperSpike(beta=10).derivative(torch.tensor([0.0, 0.1]))
    tensor([1.0000, 0.2500])
    """

    beta: float = 20.0

    def derivative(self, x: Tensor) -> Tensor:
        return (self.beta * x.abs() + 1.0).pow(-2)


@dataclass(frozen=True)
class SigmoidDerivative(Surrogate):
    """`beta s (1 - s)` with `s = sigmoid(beta x)` (Bengio et al. 2013).

    >>> import torch
    >>> SigmoidDerivative(beta=4).derivative(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.0707])
    """

    beta: float = 10.0

    def derivative(self, x: Tensor) -> Tensor:
        s = (self.beta * x).sigmoid()
        return self.beta * s * (1.0 - s)


@dataclass(frozen=True)
class ArcTan(Surrogate):
    """`beta/2 / (1 + (pi/2 beta x)^2)`, the derivative of a scaled arctangent (Fang et al. 2021).

    >>> import torch
    >>> ArcTan(beta=2).derivative(torch.tensor([0.0, 1.0]))
    tensor([1.0000, 0.0920])
    """

    beta: float = 2.0

    def derivative(self, x: Tensor) -> Tensor:
        return (0.5 * self.beta) / (1.0 + (0.5 * math.pi * self.beta * x).square())


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


# torch asks for the signature at every call, and finding it takes longer than the call.
_Spike.forward.__signature__ = inspect.signature(_Spike.forward)  # type: ignore[attr-defined]
_SUPERSPIKE = SuperSpike()


def spike(x: Tensor, surrogate: Surrogate = _SUPERSPIKE) -> Tensor:
    """1 where the distance from threshold `x > 0`, else 0; the derivative in backward is the surrogate's.

    >>> import torch
    >>> distance = torch.tensor([-0.05, 0.05], requires_grad=True)
    >>> spike(distance)
    tensor([0., 1.], grad_fn=<_SpikeBackward>)
    """
    return _Spike.apply(x, surrogate)  # type: ignore[no-untyped-call,no-any-return]
