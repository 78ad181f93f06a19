"""Measured initialisation: weights scaled by the free potential that they cause on a real batch (design 2.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.balance import balanced, mean_activity
from fluctua.methods.components import Part, Rig, Shift, SilentInputError, Solution, silence
from fluctua.methods.drawing import draw, of_entries, write
from fluctua.methods.shares import excites, shares
from fluctua.network import Pathway, Population
from fluctua.network.replay import Passes
from fluctua.state.window import Window, window_mask
from fluctua.theory import InfeasibleTargetError, Normal, Target
from fluctua.theory.laws import Family, OneSided, WeightLaw
from fluctua.theory.membrane import Moments
from fluctua.theory.weights import check_feasible


@dataclass(frozen=True)
class Aim:
    """Where a population is to be brought, and how.

    Attributes:
        target: the wanted state.
        balance: give every neuron the same mean potential.
        window: over which moments are taken.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: of weights that may take either sign.
    """

    target: Target
    balance: bool = True
    window: Window = "trial"
    alpha: float = 0.9
    law: Family = Normal()  # noqa: RUF009 - frozen

    def moments(self, population: Population) -> Moments:
        """Mean and standard deviation that a target in xi, sigma or rate stands for."""
        sigma = self.target.sigma_u(population.neuron.threshold, population.neuron.kernel)
        return Moments(np.asarray(self.target.mean), sigma)


def fit(population: Population, aim: Aim, passes: Passes, generator: torch.Generator) -> Moments:
    """Draw and scale the weights into one population so that its free potential has the target's moments.

    A target given as a rate starts from the level-crossing formula and is then corrected by the rate that the neurons
    really have, resets included.

    Returns:
        The moments that were aimed at.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: the wanted mean, or what cannot be changed, brings more fluctuation than wanted, or the
            wanted rate cannot be reached.
    """
    rig, solution = solve(population, fresh(population, aim, generator), aim, passes)
    scale = 1.0 if aim.target.rate is None else _scale_for_rate(rig, solution, aim.target.rate)
    solution.write(scale)
    wanted = aim.moments(population)
    return Moments(wanted.mu_u, scale * wanted.sigma_u)


def fresh(population: Population, aim: Aim, generator: torch.Generator) -> dict[Tensor, Tensor]:
    """New values for the weights into a population, of about the right size; no bias, a neutral norm."""
    values: dict[Tensor, Tensor] = {}
    for q in writable(population):
        size = np.asarray(q.fan_in**-0.5)
        if isinstance(q.family, OneSided):
            law = WeightLaw(q.family, q.sign * size, size * q.family.spread)
        else:
            law = WeightLaw(aim.law, np.zeros(()), size)
        values[q.weight] = of_entries(q, draw(law, q.weight, generator, q.rows))
        for parameter, value in ((q.bias, 0.0), (_affine(q, "bias"), 0.0), (_affine(q, "weight"), 1.0)):
            if parameter is not None and parameter.requires_grad:
                values[parameter] = torch.full_like(parameter, value)
    return values


def solve(population: Population, values: dict[Tensor, Tensor], aim: Aim, passes: Passes) -> tuple[Rig, Solution]:
    """The factors that bring weights of these values to the target, for the afferents as they are active now.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: see `Rig.solve`.
    """
    free = writable(population)
    carriers = [q for q in free if _carries(q)]
    for parameter, value in values.items():
        write(parameter, value)
    currents = passes.currents(population, [q.weight for q in carriers])
    first = next(c for c in currents if c is not None)
    if not any(bool((c != 0).any()) for c in currents if c is not None):
        raise SilentInputError(silence(population, first.shape[0]))
    mask = window_mask(first, aim.window)
    activity: list[Tensor] = []
    if aim.balance and carriers:
        activity = mean_activity(currents, mask, population.neuron.kernels, [q.weight for q in carriers])
        for q, r in zip(carriers, activity, strict=True):
            write(q.weight, balanced(q.weight, r, q.rows))
    rig = Rig(population, passes, mask, torch.as_tensor(aim.moments(population).sigma_u).to(first))
    wanted = shares(free, population, aim.alpha)
    parts = _parts(free, wanted)
    excitation, inhibition = ([q for q in free if excites(q, population) == sign] for sign in (1, -1))
    if excitation and inhibition:
        return rig, _balance_of_signs(rig, parts, inhibition, aim)
    if excitation or inhibition:
        _check_one_sided(population, carriers, aim)
    return rig, rig.solve(parts, Shift(_mean_part(rig, free, wanted, activity, aim)), aim.target)


def missed_share(rig: Rig, aim: Aim) -> float:
    """How far the shares of the variance are from those asked for, at most, with the weights as they are.

    They are compared within excitation, inhibition and weights of either sign: see `shares`.
    """
    population, largest = rig.population, 0.0
    free = writable(population)
    wanted = shares(free, population, aim.alpha)
    for kind in (1, -1, 0):
        group = [(q, share) for q, share in zip(free, wanted, strict=True) if excites(q, population) == kind]
        parts = _alone(_parts([q for q, _ in group], [share for _, share in group]))
        if len(parts) > 1:
            variances = rig.variances(parts)
            total = max(sum(variances), 1e-24)
            largest = max(largest, *(abs(v / total - part.share) for v, part in zip(variances, parts, strict=True)))
    return largest


def writable(population: Population) -> list[Pathway]:
    """The pathways that an initialiser may write."""
    return [q for q in population.pathways if q.skipped_because is None]


def _balance_of_signs(rig: Rig, parts: list[Part], inhibition: list[Pathway], aim: Aim) -> Solution:
    """Inhibition as the shift that cancels the mean of all else: per neuron where it is to be balanced.

    Raises:
        InfeasibleTargetError: a mean above what excitation alone would bring, naming the largest feasible one.
    """
    weights = {q.weight for q in inhibition}
    inhibiting = [part for part in parts if part.values.keys() & weights]
    others = [part for part in parts if not part.values.keys() & weights]
    solution = rig.solve(_alone(others), Shift(rig.in_proportion(_alone(inhibiting)), aim.balance), aim.target)
    if solution.factors(1.0)[1].mean() < 0:
        neuron, sigma = rig.population.neuron, float(rig.sigma.double().square().mean().sqrt())
        check_feasible(aim.target, neuron.threshold, 1 / solution.lift, sigma, neuron.rest)
    return solution


def _check_one_sided(population: Population, carriers: list[Pathway], aim: Aim) -> None:
    """Refuse weights that all excite, or all inhibit, with nothing to set the mean by.

    Raises:
        InfeasibleTargetError: always, unless there are weights of either sign, or a bias.
    """
    if not carriers and not any(q.bias is not None and q.bias.requires_grad for q in writable(population)):
        raise InfeasibleTargetError(
            f"mu_u = {aim.target.mean:g} is out of reach for {population.name}: where all weights excite, or all "
            "inhibit, their variance fixes their mean; add or unfreeze a pathway of the other sign, or a bias"
        )


def _alone(parts: list[Part]) -> list[Part]:
    """The same parts, as if they supplied all of the variance."""
    total = sum(part.share for part in parts)
    return [Part(part.values, part.share / total) for part in parts]


def _parts(free: Sequence[Pathway], parts: Sequence[float]) -> list[Part]:
    """What makes U fluctuate: the weight of each pathway, or the gain of the norm behind one or several."""
    shared: dict[Tensor, float] = {}
    for q, share in zip(free, parts, strict=True):
        gain = _affine(q, "weight")
        parameter = q.weight if gain is None else gain
        shared[parameter] = shared.get(parameter, 0.0) + share
    return [Part({p: p.detach().clone()}, share) for p, share in shared.items()]


def _mean_part(rig: Rig, free: list[Pathway], wanted: list[float], activity: list[Tensor], aim: Aim) -> Part:
    """The part that shifts the mean of U: a bias where there is one, else the weights of either sign.

    A bias shifts without noise. Weights do it with the least noise along the mean activity, every neuron by the same;
    where that was not measured, all by the same amount as in the paper. What noise it is comes from each pathway in
    proportion to its share.
    """
    for q in free:
        bias = q.bias if q.norm is None else _affine(q, "bias")
        if bias is not None and bias.requires_grad:
            return Part({bias: torch.ones_like(bias)})
    carrying = [q for q in free if _carries(q)]
    carriers = [(q.weight, share) for q, share in zip(free, wanted, strict=True) if _carries(q)]
    along = [of_entries(q, torch.ones_like(q.weight)) for q in carrying]
    if activity:
        by_row = [r.transpose(0, q.rows) for q, r in zip(carrying, activity, strict=True)]
        norm = sum((r.flatten(1).square().sum(1) for r in by_row), torch.zeros(())).clamp_min(1e-30)
        scaled = [r / norm.reshape(-1, *[1] * (r.ndim - 1)) for r in by_row]
        along = [r.transpose(0, q.rows) for q, r in zip(carrying, scaled, strict=True)]
    values = dict(zip((w for w, _ in carriers), along, strict=True))
    if aim.target.mean == rig.population.neuron.rest:  # hardly needed, so not worth measuring
        return Part(values)
    return rig.in_proportion([Part({w: v}, sum(s for u, s in carriers if u is w)) for w, v in values.items()])


def _carries(q: Pathway) -> bool:
    """Whether the weights of a pathway, of either sign, can set a mean."""
    return q.norm is None and not isinstance(q.family, OneSided)


def _scale_for_rate(rig: Rig, solution: Solution, rate: float) -> float:
    """The factor of `sigma_u` at which the neurons fire at `rate` (Hz), by bisection of its logarithm.

    Raises:
        InfeasibleTargetError: even eight times the fluctuations of the formula do not bring that rate.
    """
    low: float = max(1 / 8, solution.constant**0.5)
    high = 8.0
    solution.write(high)
    if (largest := rig.rate()) < rate:
        raise InfeasibleTargetError(
            f"{rig.population.name} cannot fire at {rate:g} Hz on this batch: it reaches {largest:.3g} Hz at most"
        )
    for _ in range(14):  # the rate is then known to the spike
        middle = float((low * high) ** 0.5)
        solution.write(middle)
        reached = rig.rate()
        if abs(reached - rate) < 0.01 * rate:
            return middle
        low, high = (middle, high) if reached < rate else (low, middle)
    return high


def _affine(q: Pathway, name: str) -> Tensor | None:
    parameter = getattr(q.norm, name, None)
    return parameter if isinstance(parameter, Tensor) else None
