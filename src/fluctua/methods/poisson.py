"""The paper's formula: Poisson input of a known rate, independent weights."""

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.components import SilentInputError
from fluctua.methods.method import Method, Reached, Targets
from fluctua.methods.population import Goal
from fluctua.methods.weights import check_given, draw, family_of, of_entries, shares, write
from fluctua.network.facts import Population
from fluctua.network.network import Group
from fluctua.network.replay import Replay
from fluctua.theory.laws import Family, Normal
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import Drive, Moments, Target, crossing_rate
from fluctua.theory.weights import Afferent, solve


@dataclass(frozen=True)
class Poisson(Method):
    """The paper's formula for every population, from the rate of its afferents: see `fluctuation_driven_`.

    Attributes:
        nu: rate of the afferents in Hz: a number for the whole network; None for the mean rate of the batch, as in the
            paper; "per-layer" to measure it for each pathway. A recurrent pathway then has the rate that the theory
            predicts at the target.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: law of the weights that may take either sign; synapses under Dale's law have their own.

    Example:
        >>> import fluctua
        >>> from fluctua.neurons import LI, LIF
        >>> model = torch.nn.Sequential(torch.nn.Linear(30, 20), LIF(), torch.nn.Linear(20, 2), LI())
        >>> x = (torch.rand(100, 16, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()
        >>> report = fluctua.initialize(model, x, method=Poisson(nu=50.0), seed=0)
        >>> print(f"{report['1'].target_sigma_u:.2f}")
        1.00
    """

    aims: ClassVar[bool] = True

    nu: float | Literal["per-layer"] | None = None
    alpha: float = 0.9
    law: Family = Normal()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        rate = self.nu in (None, "per-layer") or (isinstance(self.nu, Real) and 0 < self.nu < float("inf"))
        if not rate:
            raise ValueError(f'nu must be a positive rate in Hz, "per-layer" or None, got {self.nu!r}')

    def solve(self, group: Group, targets: Targets, replay: Replay, generator: torch.Generator) -> Reached:
        nu = replay.input_rate if self.nu is None else self.nu
        goals = {name: Goal(target, alpha=self.alpha, law=self.law) for name, target in targets.items()}
        return {p.name: fit(p, goals[p.name], nu, replay, generator) for p in group if p.name in goals}


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

    As in `torch.nn.init`, the weight is used as `x @ w.T`.

    Args:
        tensor: the weights; they are overwritten.
        nu: mean firing rate of the afferents in Hz.
        kernel: PSP kernel of the neurons that the weights lead to.
        target: the wanted state (default: mean 0, xi = 1).
        threshold: threshold of those neurons.
        generator: for the draws, which are made on the CPU; default: torch's own.

    Returns:
        The tensor.

    Raises:
        InfeasibleTargetError: no weights reach the target; names the largest feasible `mu_u`.

    Example:
        >>> kernel = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)
        >>> w = fluctuation_driven_(torch.empty(128, 700), nu=15.8, kernel=kernel)
    """
    check_given(kernel, target, tensor=tensor)
    if tensor.ndim < 2:
        raise ValueError(f"fluctuation_driven_ needs a weight [out, in, ...], got the shape {tuple(tensor.shape)}")
    drive = Drive.poisson(tensor[0].numel(), nu, kernel)
    (law,) = solve(target or Target(), threshold, kernel, [Afferent(drive)])
    write(tensor, draw(law, tensor, generator))
    return tensor


def fit(
    population: Population, goal: Goal, nu: float | Literal["per-layer"], replay: Replay, generator: torch.Generator
) -> Moments:
    """Draw the weights into one population by the formula; returns the moments aimed at.

    Args:
        population: the population; pathways that must be skipped count as if they supplied their share.
        goal: the wanted state.
        nu: rate of the afferents in Hz, or "per-layer": see `Poisson`.
        replay: for measuring.
        generator: for the draws.
    """
    neuron, pathways, wanted = population.neuron, population.pathways, goal.moments(population)
    rates = presynaptic_rates(population, wanted, replay) if nu == "per-layer" else {}
    afferents = []
    for q, share in zip(pathways, shares(pathways, population, goal.alpha), strict=True):
        rate = rates[q.name] if nu == "per-layer" else float(nu)
        if not rate > 0:
            raise SilentInputError(
                f"the afferents of {q.name} do not fire on this batch, so their rate cannot be measured: give nu in Hz"
            )
        drive = Drive.poisson(q.fan_in, rate, neuron.kernels[q.port])
        family = family_of(q, goal.law) if q.effect else goal.law  # of both signs, as they come
        afferents.append(Afferent(drive, share, family, q.effect or 1))
    laws = solve(goal.target, neuron.theta, neuron.kernel, afferents, neuron.rest, f" for {population.name}")
    for q, law in zip(pathways, laws, strict=True):
        if q.skipped_because is None:
            drawn = of_entries(q, draw(law, q.weight, generator, q.rows))
            write(q.weight, drawn if q.signs is None else drawn.abs())
            if q.bias is not None and q.bias.requires_grad:
                write(q.bias, torch.zeros_like(q.bias))
    return wanted


def presynaptic_rates(population: Population, wanted: Moments, replay: Replay) -> dict[str, float]:
    """Mean presynaptic rate in Hz of each pathway of a population, by the pathway's name."""
    neuron = population.neuron
    rates = {}
    if neuron.theta is not None:
        predicted = float(np.mean(crossing_rate(wanted.xi(neuron.theta), neuron.kernel)))
        rates = {q.name: predicted for q in population.pathways if q.recurrent}
    heard = replay.heard(population)
    return rates | {name: float(x.double().mean()) / neuron.kernel.dt for name, x in heard.items()}
