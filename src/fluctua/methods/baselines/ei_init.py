"""E-I Init: exponential weights for networks under Dale's law."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fluctua.methods.baselines.classic import Baseline
from fluctua.methods.components import SilentInputError
from fluctua.methods.weights import excites, normal, writable, write
from fluctua.network.facts import Population
from fluctua.network.network import Network
from fluctua.network.replay import Replay


@dataclass(frozen=True)
class EIInit(Baseline):
    """Apply `ei_init_` to the layers of a network under Dale's law, one after the other, on their measured input.

    Reconstructed, beyond the authors' circuit: excitation within a layer is sized by the statistics of the layer's
    input from outside, inhibitory weights are `1 / n_I`, and weights of either sign are Kaiming's with gain 1. Biases
    are zero.

    Raises:
        SilentInputError: a layer that no activity reaches.
        ValueError: a network without any layer under Dale's law.

    Example:
        >>> import fluctua
        >>> from fluctua.layers import DaleLayer
        >>> model = DaleLayer(30, n_exc=20, n_inh=5)
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=EIInit(), seed=0)
        >>> all(bool((w >= 0).all()) for w in model.parameters())
        True
    """

    def begin(self, network: Network, generator: torch.Generator) -> None:
        """Refuse a network without a layer under Dale's law."""
        synapses = (q.synapse for p in network.populations for q in p.pathways)
        if not any(hasattr(synapse, "sign") for synapse in synapses):  # a weight law alone does not keep signs
            raise ValueError(
                "ei-init is for networks with layers under Dale's law, and this one has none: choose another method"
            )

    def fill(self, population: Population, replay: Replay, generator: torch.Generator) -> None:
        heard = replay.heard(population)
        for q in writable(population):
            if excites(q, population) > 0:
                ei_init_(q.weight, heard.get(q.name, next(iter(heard.values()))), generator=generator)
            elif excites(q, population) < 0:
                write(q.weight, torch.full_like(q.weight, q.sign / q.fan_in))
            else:
                write(q.weight, normal(q.weight, generator) / math.sqrt(q.fan_in))
            if q.bias is not None and q.bias.requires_grad:
                write(q.bias, torch.zeros_like(q.bias))


def ei_init_(weight: Tensor, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Fill non-negative weights `[out, in, ...]` in place from the statistics of their first batch of input.

    Liu, Ding & Yu 2026 (DeepEISNN, arXiv 2509.23253, eq. 53): for fan-in d ::

        w ~ Exponential with mean sqrt(Var x / (d (E[x^2] + Var x)))

    so that the variance of the excitatory current, over weights and samples, is that of one input, `Var x`.

    Certain: formula and statistics (the authors' code): `E[x^2]` over everything, `Var x` over samples, then averaged
    over features. Weights to excitatory and to inhibitory neurons are drawn alike. Left out, as parts of the authors'
    circuit of divisive inhibition: inhibitory weights of `1 / n_I`, and the inhibitory gain.

    Args:
        weight: overwritten.
        x: the input of the weights, `[T, B, in, ...]`; every time step of every trial is a sample.
        generator: for the draws, which are made on the CPU; default: torch's own.

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
