"""Weights into one population, for the afferents as they are active now (theory: measured moments)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.balance import Balance, Balanced, balance, moved_by
from fluctua.methods.components import Component, FreePotential, MeanShift, SilentInputError, Solution, silence
from fluctua.methods.weights import by_row, draw, excites, of_entries, shares, writable
from fluctua.network.facts import Pathway, Population
from fluctua.network.replay import Replay
from fluctua.state.measure import Window, window_mask
from fluctua.theory.laws import Family, Normal, OneSided, WeightLaw
from fluctua.theory.membrane import Moments
from fluctua.theory.target import InfeasibleTargetError, Target
from fluctua.theory.weights import check_feasible


@dataclass(frozen=True)
class Goal:
    """Where a population is to be brought, and how.

    Attributes:
        target: the wanted state.
        balance: give every neuron the same mean potential; "auto": where the signal bears it, see `balance`.
        window: over which moments are taken.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: of weights that may take either sign.
    """

    target: Target
    balance: Balance = "auto"
    window: Window = "trial"
    alpha: float = 0.9
    law: Family = Normal()  # noqa: RUF009 - frozen

    def moments(self, population: Population) -> Moments:
        """Mean and standard deviation that a target in xi, sigma or rate stands for."""
        sigma = self.target.sigma_u(population.neuron.theta, population.neuron.kernel)
        return Moments(np.asarray(self.target.mean), sigma)


def fresh(population: Population, goal: Goal, generator: torch.Generator) -> dict[Tensor, Tensor]:
    """New values for the weights into a population, of about the right size; no bias, a neutral norm."""
    values: dict[Tensor, Tensor] = {}
    for q in writable(population):
        size = np.asarray(q.fan_in**-0.5)
        if isinstance(q.family, OneSided):
            law = WeightLaw(q.family, q.sign * size, size * q.family.spread)
        else:
            law = WeightLaw(goal.law, np.zeros(()), size)
        values[q.weight] = of_entries(q, draw(law, q.weight, generator, q.rows))
        for parameter, value in ((q.bias, 0.0), (_affine(q, "bias"), 0.0), (_affine(q, "weight"), 1.0)):
            if parameter is not None and parameter.requires_grad:
                values[parameter] = torch.full_like(parameter, value)
    return values


def solve(population: Population, goal: Goal, replay: Replay) -> tuple[FreePotential, Solution]:
    """The factors that bring weights of the present values to the target, for the afferents as they are active now.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: see `FreePotential.solve`.
    """
    free = writable(population)
    carriers = [q for q in free if _carries(q)]
    currents = replay.currents(population, moved_by(carriers, goal.balance))
    first = next(c for c in currents if c is not None)
    if not any(bool((c != 0).any()) for c in currents if c is not None):
        raise SilentInputError(silence(population, replay, first.shape[0]))
    mask = window_mask(first, goal.window)
    potential = FreePotential(population, replay, mask, torch.as_tensor(goal.moments(population).sigma_u).to(first))
    done = balance(potential, currents, carriers, goal.balance) if goal.balance and carriers else Balanced()
    wanted = shares(free, population, goal.alpha)
    parts = _parts(free, wanted, done.biases)
    excitation, inhibition = ([q for q in free if excites(q, population) == sign] for sign in (1, -1))
    if excitation and inhibition:
        return potential, _balance_of_signs(potential, parts, inhibition, goal)
    if excitation or inhibition:
        _check_one_sided(population, carriers, goal)
    shift = MeanShift(_mean_part(potential, free, wanted, done.activity, goal)) if done.movable else None
    return potential, potential.solve(parts, shift, goal.target)


def missed_share(potential: FreePotential, goal: Goal) -> float:
    """How far the shares of the variance are from those asked for, at most, with the weights as they are.

    They are compared within excitation, inhibition and weights of either sign: see `shares`.
    """
    population, largest = potential.population, 0.0
    free = writable(population)
    wanted = shares(free, population, goal.alpha)
    for kind in (1, -1, 0):
        group = [(q, share) for q, share in zip(free, wanted, strict=True) if excites(q, population) == kind]
        biases = {q.weight: {q.bias: q.bias.detach().clone()} for q, _ in group if q.bias is not None}
        parts = _alone(_parts([q for q, _ in group], [share for _, share in group], biases))
        if len(parts) > 1:
            variances = potential.variances(parts)
            total = max(sum(variances), 1e-24)
            largest = max(largest, *(abs(v / total - part.share) for v, part in zip(variances, parts, strict=True)))
    return largest


def _balance_of_signs(
    potential: FreePotential, parts: list[Component], inhibition: list[Pathway], goal: Goal
) -> Solution:
    """Inhibition as the shift that cancels the mean of all else: per neuron where it is to be balanced.

    Raises:
        InfeasibleTargetError: a mean above what excitation alone would bring, naming the largest feasible one.
    """
    weights = {q.weight for q in inhibition}
    inhibiting = [part for part in parts if part.values.keys() & weights]
    others = [part for part in parts if not part.values.keys() & weights]
    solution = potential.solve(
        _alone(others), MeanShift(potential.in_proportion(_alone(inhibiting)), bool(goal.balance)), goal.target
    )
    if solution.factors(1.0)[1].mean() < 0:
        p, sigma = potential.population, float(potential.sigma.double().square().mean().sqrt())
        check_feasible(goal.target, p.neuron.threshold, 1 / solution.lift, sigma, p.neuron.rest, f" for {p.name}")
    return solution


def _check_one_sided(population: Population, carriers: list[Pathway], goal: Goal) -> None:
    """Refuse weights that all excite, or all inhibit, with nothing to set the mean by.

    Raises:
        InfeasibleTargetError: always, unless there are weights of either sign, or a bias.
    """
    if not carriers and not any(q.bias is not None and q.bias.requires_grad for q in writable(population)):
        raise InfeasibleTargetError(
            f"mu_u = {goal.target.mean:g} is out of reach for {population.name}: where all weights excite, or all "
            "inhibit, their variance fixes their mean; add or unfreeze a pathway of the other sign, or a bias"
        )


def _alone(parts: list[Component]) -> list[Component]:
    """The same parts, as if they supplied all of the variance."""
    total = sum(part.share for part in parts)
    return [Component(part.values, part.share / total) for part in parts]


def _parts(
    free: Sequence[Pathway], parts: Sequence[float], biases: Mapping[Tensor, Mapping[Tensor, Tensor]]
) -> list[Component]:
    """What makes U fluctuate: the weight of each pathway, and a bias that takes its mean out, or the gain of a norm."""
    shared: dict[Tensor, float] = {}
    for q, share in zip(free, parts, strict=True):
        gain = _affine(q, "weight")
        parameter = q.weight if gain is None else gain
        shared[parameter] = shared.get(parameter, 0.0) + share
    return [Component({p: p.detach().clone(), **biases.get(p, {})}, share) for p, share in shared.items()]


def _mean_part(
    potential: FreePotential, free: list[Pathway], wanted: list[float], activity: Sequence[Tensor], goal: Goal
) -> Component:
    """The part that shifts the mean of U: a bias where there is one, else the weights of either sign.

    A bias shifts without noise. Weights do it with the least noise along the mean activity, every neuron by the same;
    where that was not measured, all by the same amount as in the paper. What noise it is comes from each pathway in
    proportion to its share. Where only chance is to be taken out, neurons of different thresholds are shifted by as
    many `sigma_u`.
    """
    by_chance = goal.target.mean == potential.population.neuron.rest
    sigma = potential.sigma.double().cpu().numpy() if by_chance and potential.sigma.ndim else None
    for q in free:
        bias = q.bias if q.norm is None else _affine(q, "bias")
        if bias is not None and bias.requires_grad:
            return Component({bias: torch.ones_like(bias) * (1.0 if sigma is None else by_row(sigma, bias))})
    carrying = [q for q in free if _carries(q)]
    carriers = [(q.weight, share) for q, share in zip(free, wanted, strict=True) if _carries(q)]
    along = [of_entries(q, torch.ones((1,) * q.weight.ndim).to(q.weight).expand_as(q.weight)) for q in carrying]
    if activity:
        rows = [r.transpose(0, q.rows) for q, r in zip(carrying, activity, strict=True)]
        rows = [r if r.stride(0) else r[:1] for r in rows]  # one may stand for all
        norm = sum((r.flatten(1).square().sum(1) for r in rows), torch.zeros(())).clamp_min(1e-30)
        scaled = [r / norm.reshape(-1, *[1] * (r.ndim - 1)) for r in rows]
        along = [r.transpose(0, q.rows).expand_as(q.weight) for q, r in zip(carrying, scaled, strict=True)]
    if sigma is not None:
        along = [v * by_row(sigma, v, q.rows) for q, v in zip(carrying, along, strict=True)]
    values = dict(zip((w for w, _ in carriers), along, strict=True))
    if by_chance:  # hardly needed, so not worth measuring
        return Component(values)
    return potential.in_proportion(
        [Component({w: v.contiguous()}, sum(s for u, s in carriers if u is w)) for w, v in values.items()]
    )


def _carries(q: Pathway) -> bool:
    """Whether the weights of a pathway, of either sign, can set a mean."""
    return q.norm is None and not isinstance(q.family, OneSided)


def _affine(q: Pathway, name: str) -> Tensor | None:
    parameter = getattr(q.norm, name, None)
    return parameter if isinstance(parameter, Tensor) else None
