"""Weights into one population, for the present activity of its afferents (theory: measured moments)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.methods.balance import Balance, Balanced, applying, balance, moved_by
from fluctua.methods.components import Component, FreePotential, MeanShift, Reach, Solution
from fluctua.methods.weights import affine, by_row, draw, excites, family_of, of_entries, shares, writable
from fluctua.network.facts import Pathway, Population
from fluctua.network.replay import Replay
from fluctua.state.measure import Window
from fluctua.theory.laws import Family, Normal, OneSided, WeightLaw
from fluctua.theory.target import InfeasibleTargetError, Moments, Target
from fluctua.theory.weights import check_feasible

_JOINING = ("Cat", "Stack", "CopySlices", "ConstantPad", "IndexPut", "Scatter", "SliceScatter", "SelectScatter")
_BENDING = re.compile(
    "_*(Relu|LeakyRelu|Prelu|Elu|Celu|Gelu|Silu|Mish|Soft|Sigmoid|Tanh|Hard|Clamp|Glu|Max|Min|AdaptiveMax|Amax|Amin"
    "|Round|Sign|Abs|Exp|Log|Pow|Sqrt|Threshold|a division)(?!and)"
)


@dataclass(frozen=True)
class Place:
    """The place of a population on a trunk (`methods/trunk.py`).

    Attributes:
        part: the fraction of the wanted variance that it should find there.
        least: standard deviation that its own pathways add in any case, in units of the one that it should find.
    """

    part: float = 1.0
    least: float = 0.0


@dataclass(frozen=True)
class Goal:
    """The state that a population should reach, and how.

    Attributes:
        target: the wanted state.
        balance: give every neuron the same mean potential; "auto": unless that would lose the signal, see `balance`.
        window: over which moments are taken.
        alpha: share of the variance that feed-forward pathways supply in a population with recurrence.
        law: law of the weights that may take either sign.
        place: on a trunk that several populations read.
    """

    target: Target
    balance: Balance = "auto"
    window: Window = "trial"
    alpha: float = 0.9
    law: Family = Normal()  # noqa: RUF009 - frozen
    place: Place = Place()

    def __post_init__(self) -> None:
        if not isinstance(self.law, Family):
            raise ValueError(f"law must be a law of weights, such as Normal(), got {self.law!r}")

    def moments(self, population: Population) -> Moments:
        """Mean and standard deviation that a target in xi, sigma or rate stands for."""
        sigma = self.target.sigma_u(population.neuron.theta, population.neuron.kernel)
        return Moments(np.asarray(self.target.mean), sigma if self.place.part == 1 else sigma * self.place.part**0.5)


def fresh(
    population: Population, goal: Goal, generator: torch.Generator, in_place: bool = False
) -> dict[Tensor, Tensor]:
    """New values into a population, of about the right size, if not in place already; zero biases, neutral norms."""
    values: dict[Tensor, Tensor] = {}
    for q in adjustable(population):
        size = np.asarray(q.fan_in**-0.5)
        family = family_of(q, goal.law)
        if isinstance(family, OneSided):
            law = WeightLaw(family, q.sign * size, size * family.spread)
        else:
            law = WeightLaw(family, np.zeros(()), size)
        biases = affine(q, "bias")
        if q.skipped_because is None:
            drawn = draw(law, q.weight, generator, q.rows, in_place=in_place)
            if not in_place or q.mask is not None:
                values[q.weight] = of_entries(q, drawn)
            biases += [] if q.bias is None else [q.bias]
        for parameter, value in (*((b, 0.0) for b in biases), *((gain, 1.0) for gain in affine(q, "weight"))):
            if parameter.requires_grad:
                values[parameter] = torch.full_like(parameter, value)
    return values


def _joined(pathways: Sequence[Pathway]) -> bool:
    """Whether each pathway may feed only some of the neurons: they are concatenated, or written into parts."""
    return any(operation.startswith(_JOINING) for q in pathways for operation in q.via)


def bent_by(population: Population) -> list[str]:
    """Why its potential is not linear in its weights: the weights themselves, operations on the way, gates."""
    found: list[str] = []
    for q in adjustable(population):  # what comes before a norm does not count if its gain is set
        after = max((k + 1 for k, operation in enumerate(q.via) if q.norms and "Norm" in operation), default=0)
        found += [] if q.linear or q.norms else [q.name]
        found += [operation for operation in q.via[after:] if _BENDING.match(operation) or "Norm" in operation]
    return list(dict.fromkeys([*found, *(gate.name for gate in population.gates)]))


def adjustable(population: Population) -> list[Pathway]:
    """The pathways whose weight may be written, or the gain of norms behind it."""
    return [q for q in population.pathways if q.skipped_because is None or q.normed]


def shiftable(population: Population) -> list[Pathway]:
    """The pathways whose weight may be shifted as a whole; none in a population that hears itself."""
    recurrent = any(q.recurrent for q in population.pathways)
    return [q for q in population.pathways if q.shifts and q.weight.requires_grad and not recurrent]


def solve(population: Population, goal: Goal, replay: Replay, *, once: bool = False) -> tuple[FreePotential, Solution]:
    """The factors that bring the present weights to the target, for the present activity of the afferents.

    If the solution is written `once`, it may lie in the memory of the weights.

    Raises:
        SilentInputError: no current reaches the population.
        InfeasibleTargetError: see `FreePotential.solve`.
    """
    free = adjustable(population)
    carriers = [q for q in free if _carries(q)]
    with applying(carriers) as calls:
        currents = replay.currents(population, moved_by(carriers, goal.balance))
    potential = FreePotential.of(population, replay, currents, goal.moments(population).sigma_u, goal.window)
    done = balance(potential, currents, carriers, goal.balance, calls) if goal.balance and carriers else Balanced()
    wanted = shares(free, population, goal.alpha)
    parts = _parts(free, wanted, done.biases, once and not _joined(free))
    if _joined(free) and len(parts) == len(free):
        potential = potential.reaching(dict(zip((q.weight for q in free), parts, strict=True)))
        if potential.reach is not None:
            _all_of(free, potential.reach)
    sides = _sides(parts, free, population)
    if sides[1] and sides[-1]:
        return potential, _balance_of_signs(potential, [*sides[1], *sides[0]], sides[-1], goal)
    if sides[1] or sides[-1]:
        _check_one_sided(population, carriers, goal)
    shift = MeanShift(_mean_part(potential, free, wanted, done.activity, goal)) if done.movable else None
    return potential, potential.solve(parts, shift, goal.target, goal.place.least)


def missed_share(potential: FreePotential, goal: Goal) -> float:
    """The largest distance of a share of the variance from the wanted one, with the present weights.

    Shares are compared within excitation, inhibition and weights of either sign: see `shares`.
    """
    population, largest = potential.population, 0.0
    free = adjustable(population)
    wanted = shares(free, population, goal.alpha)
    for kind in (1, -1, 0):
        among = ((q, share) for q, share in zip(free, wanted, strict=True) if q.signs is None or q.effect)
        group = [(q, share) for q, share in among if excites(q, population) == kind]
        biases = {q.weight: {q.bias: q.bias.detach().clone()} for q, _ in group if q.bias is not None}
        parts = _alone(_parts([q for q, _ in group], [share for _, share in group], biases, once=False))
        if len(parts) > 1:
            variances = potential.variances(parts)
            supplied = np.array(variances) / max(sum(variances), 1e-24)
            asked = np.array([float(potential.shares_of(part, parts).mean()) for part in parts])
            largest = max(largest, float(np.abs(supplied - asked / asked.sum()).max()))
    return largest


def _sides(parts: Sequence[Component], free: Sequence[Pathway], population: Population) -> dict[int, list[Component]]:
    """The parts that excite (1), inhibit (-1), and do either (0); a weight whose entries have signs is parted."""
    sides: dict[int, list[Component]] = {1: [], -1: [], 0: []}
    for part in parts:
        q = next(q for q in free if q.weight in part.values or any(gain in part.values for gain in affine(q, "weight")))
        if q.signs is None or q.effect:
            sides[excites(q, population)].append(part)
            continue
        upward = q.signs * float(population.neuron.kernels[q.port].eps_bar.mean())
        for sign in (1, -1):
            values = {p: torch.where(upward * sign > 0, v, 0.0) if p is q.weight else v for p, v in part.values.items()}
            sides[sign].append(Component(values, part.share))
    return sides


def _balance_of_signs(
    potential: FreePotential, others: list[Component], inhibiting: list[Component], goal: Goal
) -> Solution:
    """Inhibition as the shift that cancels the mean of all else: per neuron where it is to be balanced."""
    solution = potential.solve(
        _alone(others), MeanShift(potential.in_proportion(_alone(inhibiting)), bool(goal.balance)), goal.target
    )
    if solution.factors(1.0)[1].mean() < 0:
        p, sigma = potential.population, float(potential.sigma.double().square().mean().sqrt())
        check_feasible(goal.target, p.neuron.threshold, 1 / solution.lift, sigma, p.neuron.rest, f" for {p.name}")
    return solution


def _check_one_sided(population: Population, carriers: list[Pathway], goal: Goal) -> None:
    """Refuse weights that all excite, or all inhibit, with nothing to set the mean by."""
    if not carriers and not any(q.bias is not None and q.bias.requires_grad for q in writable(population)):
        raise InfeasibleTargetError(
            f"mu_u = {goal.target.mean:g} is out of reach for {population.name}: where all weights excite, or all "
            "inhibit, their variance fixes their mean; add or unfreeze a pathway of the other sign, or a bias"
        )


def _alone(parts: list[Component]) -> list[Component]:
    """The same parts, as if each supplied all of the variance."""
    total = sum(part.share for part in parts)
    return [Component(part.values, part.share / total) for part in parts]


def _parts(
    free: Sequence[Pathway], parts: Sequence[float], biases: Mapping[Tensor, Mapping[Tensor, Tensor]], once: bool
) -> list[Component]:
    """What makes U fluctuate: the weight of each pathway with a bias that cancels its mean, or the gain of a norm."""
    shared: dict[tuple[Tensor, ...], float] = {}
    for q, share in zip(free, parts, strict=True):
        parameters = (*affine(q, "weight"),) or (q.weight,)
        shared[parameters] = shared.get(parameters, 0.0) + share
    alone = once and len(shared) == 1
    found = [({p: p.detach() if alone else p.detach().clone() for p in ps}, share) for ps, share in shared.items()]
    return [Component(own | {b: v for p in own for b, v in biases.get(p, {}).items()}, share) for own, share in found]


def _all_of(free: Sequence[Pathway], reach: Reach) -> None:
    """Let the other parameters of a pathway act where its weight does."""
    for q in free:
        for p in (*affine(q, "weight"), *offsets_of(q)):
            reach.by[p] = reach.by[q.weight]


def _mean_part(
    potential: FreePotential, free: list[Pathway], wanted: list[float], activity: Sequence[Tensor], goal: Goal
) -> Component:
    """The part that shifts the mean of U: a bias if there is one, else the weights of either sign.

    A bias shifts without noise. Weights shift with the least noise along the mean activity, every neuron by the same
    amount; if that was not measured, every weight by the same amount, as in the paper. Each pathway brings its share of
    that noise. If only chance differences are to be removed, neurons with different thresholds are shifted by equal
    multiples of `sigma_u`.
    """
    by_chance = goal.target.mean == potential.population.neuron.rest
    sigma = potential.sigma.double().cpu().numpy() if by_chance and potential.sigma.ndim else None
    biased = [
        Component({b: torch.ones_like(b) * (1.0 if sigma is None else by_row(sigma, b)) for b in found})
        for q in free
        if (found := offsets_of(q))
    ]
    if biased and potential.reach is None:
        return biased[0]
    carrying = [q for q in free if _carries(q)]
    carriers = [(q.weight, share) for q, share in zip(free, wanted, strict=True) if _carries(q)]
    along = [of_entries(q, torch.ones((1,) * q.weight.ndim).to(q.weight).expand_as(q.weight)) for q in carrying]
    if potential.reach is not None:
        rows = [r / r.square().sum().clamp_min(1e-30) for r in activity or along]
        return _covering(potential, [*biased, *(Component({q.weight: r}) for q, r in zip(carrying, rows, strict=True))])
    if activity:
        rows = [r.transpose(0, q.rows) for q, r in zip(carrying, activity, strict=True)]
        rows = [r if r.stride(0) else r[:1] for r in rows]  # one may represent all
        norm = sum((r.flatten(1).square().sum(1) for r in rows), torch.zeros(())).clamp_min(1e-30)
        scaled = [r / norm.reshape(-1, *[1] * (r.ndim - 1)) for r in rows]
        along = [r.transpose(0, q.rows).expand_as(q.weight) for q, r in zip(carrying, scaled, strict=True)]
    if sigma is not None:
        along = [v * by_row(sigma, v, q.rows) for q, v in zip(carrying, along, strict=True)]
    values = dict(zip((w for w, _ in carriers), along, strict=True))
    if by_chance:  # too small to be worth measuring
        return Component(values)
    return potential.in_proportion(
        [Component({w: v.contiguous()}, sum(s for u, s in carriers if u is w)) for w, v in values.items()]
    )


def _covering(potential: FreePotential, parts: list[Component]) -> Component:
    """The first parts that together move every unit."""
    assert potential.reach is not None
    chosen: list[Component] = []
    for part in parts:
        covered = potential.reach.of(p for other in chosen for p in other.values) if chosen else torch.zeros(())
        if bool((potential.reach.of(part.values) > covered).any()):
            chosen.append(part)
    return potential.levelled(chosen)


def offsets_of(q: Pathway) -> list[Tensor]:
    """The parameters of a pathway that set its mean without noise."""
    biases = affine(q, "bias") if q.norms else [] if q.bias is None else [q.bias]
    return [bias for bias in biases if bias.requires_grad]


def _carries(q: Pathway) -> bool:
    """Whether the weights of a pathway, of either sign, can set a mean."""
    return q.carries and not q.norms and not isinstance(q.family, OneSided)
