"""E-I Init: exponential weights for networks that obey Dale's law."""

import math

import torch
from torch import Tensor

from fluctua.initialization.components import SilentInputError
from fluctua.initialization.drawing import write


def ei_init_(weight: Tensor, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill non-negative weights `[out, in, ...]` in place from the statistics of their first batch of input.

    Liu, Ding & Yu 2026 (DeepEISNN, arXiv 2509.23253, eq. 53): for fan-in d ::

        w ~ Exponential with mean sqrt(Var x / (d (E[x^2] + Var x)))

    so that the variance of the excitatory current, over weights and samples, is that of one input, `Var x`.

    Certain: formula and statistics (the authors' code): `E[x^2]` over everything, `Var x` over samples, then averaged
    over features. Weights to excitatory and to inhibitory neurons are drawn alike. The rest of the method belongs to
    their circuit of divisive inhibition and is not here: inhibitory weights of `1 / n_I` and the inhibitory gain.

    Args:
        weight: overwritten.
        x: what the weights get, `[T, B, in, ...]`; every time step of every trial is a sample.
        generator: of the draws, which are made on the CPU; default: torch's own.

    Returns:
        The weight.

    Raises:
        ValueError: a weight or an input with too few axes.
        SilentInputError: an input without variance.
    """
    if weight.ndim < 2:
        raise ValueError(f"ei_init_ needs a weight [out, in, ...], got the shape {tuple(weight.shape)}")
    if x.ndim < 3:
        raise ValueError(f"ei_init_ needs an input [T, B, in, ...], got the shape {tuple(x.shape)}")
    samples = x.detach().flatten(0, 1).double()
    variance, square = float(samples.var(0).mean()), float(samples.square().mean())
    if not variance > 0:
        raise SilentInputError("the input of ei_init_ is the same in all samples: take a batch with activity")
    mean = math.sqrt(variance / (weight[0].numel() * (square + variance)))
    write(weight, mean * torch.empty(weight.shape).exponential_(generator=generator).to(weight))
    return weight
