"""The paper's formula: Poisson input of a known rate, independent weights."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.components import SilentInputError
from fluctua.methods.drawing import draw, of_entries, write
from fluctua.methods.measured import Aim
from fluctua.methods.shares import shares
from fluctua.network import INPUT, Population
from fluctua.network.replay import Passes
from fluctua.theory import Afferent, Drive, PspKernel, Target, crossing_rate, solve
from fluctua.theory.membrane import Moments

Rate = float | Literal["per-layer"] | None


def fluctuation_driven_(
    tensor: Tensor,
    *,
    nu: float,
    kernel: PspKernel,
    target: Target | None = None,
    threshold: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a weight tensor `[out, in, ...]` in place with the paper's fluctuation-driven normal weights.

    With the fan-in n (the entries of one row) and target `(mu_U, xi)` (Rossbroich, Gygax & Zenke 2022, eq. 6-9)::

        mu_W      = mu_U / (n nu eps_bar)
        sigma_W^2 = ((theta - mu_U) / xi)^2 / (n nu eps_hat) - mu_W^2

    As in `torch.nn.init`, the tensor is one that is multiplied from the left, `x @ w.T`.

    Args:
        tensor: the weights; they are overwritten.
        nu: mean firing rate of the afferents in Hz.
        kernel: PSP kernel of the neurons that the weights lead to.
        target: the wanted state (default: mean 0, xi = 1).
        threshold: of those neurons.
        generator: of the draws, which are made on the CPU; default: torch's own.

    Returns:
        The tensor.

    Raises:
        InfeasibleTargetError: no weights reach the target; names the largest feasible `mu_u`.

    Example:
        >>> kernel = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)
        >>> w = fluctuation_driven_(torch.empty(128, 700), nu=15.8, kernel=kernel)
    """
    if tensor.ndim < 2:
        raise ValueError(f"fluctuation_driven_ needs a weight [out, in, ...], got the shape {tuple(tensor.shape)}")
    drive = Drive.poisson(tensor[0].numel(), nu, kernel)
    (law,) = solve(target or Target(), threshold, kernel, [Afferent(drive)])
    write(tensor, draw(law, tensor, generator))
    return tensor


def fit(
    population: Population, aim: Aim, nu: Rate, passes: Passes, input_rate: float, generator: torch.Generator
) -> Moments:
    """Draw the weights into one population by the formula; returns the moments aimed at.

    Args:
        population: where the weights lead; pathways that must be skipped count as if they did their share.
        aim: the wanted state.
        nu: rate of the afferents in Hz, None for `input_rate`, or "per-layer" to measure it for each pathway, where
            that of a recurrent one is the rate that the theory predicts at the target.
        passes: for measuring.
        input_rate: mean rate of the network's input in Hz.
        generator: of the draws.
    """
    neuron, pathways, wanted = population.neuron, population.pathways, aim.moments(population)
    rates = presynaptic_rates(population, wanted, passes) if nu == "per-layer" else {}
    afferents = []
    for q, share in zip(pathways, shares(pathways, population, aim.alpha), strict=True):
        rate = rates[q.name] if nu == "per-layer" else input_rate if nu is None else float(nu)
        if not rate > 0:
            raise SilentInputError(
                f"the afferents of {q.name} do not fire on this batch, so their rate cannot be measured: give nu in Hz"
            )
        drive = Drive.poisson(q.fan_in, rate, neuron.kernels[q.port])
        afferents.append(Afferent(drive, share, q.family or aim.law, q.sign))
    laws = solve(aim.target, neuron.threshold, neuron.kernel, afferents, neuron.rest)
    for q, law in zip(pathways, laws, strict=True):
        if q.skipped_because is None:
            write(q.weight, of_entries(q, draw(law, q.weight, generator, q.rows)))
            if q.bias is not None and q.bias.requires_grad:
                write(q.bias, torch.zeros_like(q.bias))
    return wanted


def presynaptic_rates(population: Population, wanted: Moments, passes: Passes) -> dict[str, float]:
    """Mean rate in Hz of what each pathway of a population gets, by the pathway's name."""
    neuron = population.neuron
    rates = {}
    if neuron.threshold is not None:
        predicted = float(np.mean(crossing_rate(wanted.xi(neuron.threshold), neuron.kernel)))
        rates = {q.name: predicted for q in population.pathways if q.recurrent}
    heard = passes.heard(population)
    return rates | {name: float(x.double().mean()) / neuron.kernel.dt for name, x in heard.items()}


def mean_input_rate(populations: tuple[Population, ...], passes: Passes) -> float:
    """Mean rate in Hz of the network's input, over all pathways that it comes in by; 0 where there is none."""
    rates = []
    for population in populations:
        from_data = {q.name for q in population.pathways if q.sources == (INPUT,)}
        heard = passes.heard(population) if from_data else {}
        rates += [float(heard[name].double().mean()) / population.neuron.kernel.dt for name in from_data]
    return float(np.mean(rates)) if rates else 0.0
