"""Balance: give all neurons of a population the same mean potential, unless that would remove the signal."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from fluctua.methods.components import FreePotential
from fluctua.methods.weights import LARGE, blocks, write_all
from fluctua.network.facts import Pathway, free_potential, potential_of
from fluctua.network.run import hooked
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import InfeasibleTargetError

Balance = bool | Literal["auto"]

_SOME = 16
LEFT, MANY = 0.5, 10  # fraction of the signal that must be left; number of inputs that make that needless
DUST = 1e-6
_PARTING = ("Split", "Slice", "Narrow", "Index", "Select", "Unbind")  # operations that read a part of a tensor


@dataclass(frozen=True, eq=False)
class Balanced:
    """What was done to the weights of pathways.

    Attributes:
        activity: mean activity in the shape of each weight.
        biases: for a weight that was left as it is, the bias that cancels the means of its neurons.
        movable: whether the weights can move the mean of U and leave a signal.
    """

    activity: Sequence[Tensor] = ()
    biases: Mapping[Tensor, Mapping[Tensor, Tensor]] = field(default_factory=dict)
    movable: bool = True


def moved_by(pathways: Sequence[Pathway], how: Balance) -> list[Tensor]:
    """The parameters that `balance` may write: weights and, for "auto", biases."""
    return [*(q.weight for q in pathways), *(b for q in pathways if how == "auto" and (b := _bias(q)) is not None)]


_WIDE = 2**16
"""Weights from which on the mean activity is taken from one row of the gradient where that is enough."""

_IN_CACHE = 2**16
"""Potentials whose variance is taken at a time."""

Calls = dict[Tensor, list[tuple[GradientEdge, Tensor]]]
"""By weight, the calls of the layer that it belongs to: where the gradient of the output arrives, and the input."""


@contextmanager
def applying(pathways: Sequence[Pathway]) -> Iterator[Calls]:
    """Inside the block, record the calls of large linear layers."""
    calls: Calls = {}

    def noting(weight: Tensor, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad and args and args[0].ndim > 1:
            calls.setdefault(weight, []).append((get_gradient_edge(output), args[0].detach().flatten(0, -2)))

    large = [q for q in pathways if q.weight.numel() >= _WIDE and type(q.synapse).forward is nn.Linear.forward]
    with hooked([q.synapse.register_forward_hook(partial(noting, q.weight)) for q in large]):
        yield calls


def _bias(q: Pathway) -> Tensor | None:
    return q.bias if q.bias is not None and q.bias.requires_grad else None


def balance(
    potential: FreePotential, currents: Sequence[Tensor | None], pathways: Sequence[Pathway], how: Balance, calls: Calls
) -> Balanced:
    """Balance the weights of pathways, in place, by projection or by biases, or leave them.

    The projection removes one direction from the weights of each neuron. With many inputs this is one direction among
    many, and what lies along it is noise. With few inputs, or where all inputs rise and fall together, it is the
    signal. So "auto" compares the variance over samples of what the pathways bring to U before and after (over time, if
    samples do not differ); of n inputs, the fraction `1 - 1 / n` of all directions stays. If variance and directions
    together leave less than half, and fewer than ten inputs carry the signal, the weights stay as they are. Biases then
    cancel the means, if there are any and if they leave half.

    The currents are differentiable with respect to `moved_by`, and come with the calls of large layers. Pathways are
    those whose weights may take either sign. True always projects.
    """
    population, weights, moved = potential.population, [q.weight for q in pathways], moved_by(pathways, how)
    means = mean_activity(currents, potential.mask, population.neuron.kernels, moved, calls)
    reach = dict(zip(moved[len(weights) :], means[len(weights) :], strict=True))
    del means[len(weights) :]
    activity = [_compact(_for_all_rows(q, means.pop(0)), q.rows) for q in pathways]
    rest = _rest(potential, pathways, moved)
    before = _signal(potential_of(population.neuron, [None if c is None else c.detach() for c in currents]), rest)
    along = [project_(q.weight, r, q.rows) for q, r in zip(pathways, activity, strict=True)]
    kept = _signal(potential.potential(), rest) / max(before, 1e-30)
    if how is True and kept < DUST:
        names = " and ".join(q.name for q in pathways)
        raise InfeasibleTargetError(
            f"balance=True removes everything that {population.name} receives through {names}: "
            "all of it lies along the mean of the input; use balance='auto', which keeps it"
        )
    n = _inputs(pathways, activity)
    if how is True or kept * (1 - 1 / n) >= min(LEFT, MANY / n):
        return Balanced(activity)
    cancelling: dict[Tensor, dict[Tensor, Tensor]] = {}
    for q, r, part in zip(pathways, activity, along, strict=True):
        rows = r.transpose(0, q.rows)
        with torch.no_grad():
            q.weight.transpose(0, q.rows).add_(part.to(r).reshape(-1, *[1] * (r.ndim - 1)) * rows)
        if (b := _bias(q)) is not None:
            mean = part.to(r) * rows.flatten(1).square().sum(1)
            cancelling[q.weight] = {b: torch.where(reach[b] == 0, 0, -mean / reach[b])}
    biases = {b: value for own in cancelling.values() for b, value in own.items()}
    write_all(biases)
    if cancelling and _signal(potential.potential(), rest) < LEFT * before:  # a constant input is cancelled as a whole
        write_all({b: torch.zeros_like(b) for b in biases})
        cancelling = {}
    lone = all(w.shape[q.rows] == 1 for w, q in zip(weights, pathways, strict=True))
    return Balanced(activity, cancelling, bool(cancelling) or not lone)


def _rest(potential: FreePotential, pathways: Sequence[Pathway], moved: Sequence[Tensor]) -> Tensor | None:
    """The potential from other pathways or from currents without a weight, such as a trunk."""
    population = potential.population
    if len(pathways) == len(population.pathways) and not population.unweighted and not population.offset:
        return None
    now = {p: p.detach().clone() for p in moved}
    rest = potential.potential(moved)
    write_all(now)
    return rest


def _signal(u: Tensor, rest: Tensor | None) -> float:
    """Variance over samples of U `[T, B, *N]` without the rest, averaged over steps and neurons.

    If all samples are alike, it is the variance over time.
    """
    u = u if rest is None else u - rest
    found = power = 0.0
    few = max(1, _IN_CACHE // max(1, u[0].numel()))
    for some in u.split(few):  # type: ignore[no-untyped-call]  # of var, torch's own takes six times as long
        found += _power(some - some.mean(1, keepdim=True))
        power += _power(some)
    return (found if found > DUST * power else _power(u - u.mean(0, keepdim=True))) / u.numel()


def _power(u: Tensor) -> float:
    return float(torch.linalg.vector_norm(u)) ** 2


def _inputs(pathways: Sequence[Pathway], activity: Sequence[Tensor]) -> float:
    """Effective number of inputs of a neuron through a pathway, at least: `(sum_j r_j^2)^2 / sum_j r_j^4`."""

    def power(r: Tensor, p: int) -> float:
        return float((torch.linalg.vector_norm(r, p, dim=1, dtype=torch.float64) ** p).mean())

    by_row = (r.transpose(0, q.rows) for q, r in zip(pathways, activity, strict=True))
    rows = [r[:: max(1, len(r) // 64)].flatten(1) for r in by_row]  # some rows represent all
    return min((power(r, 2) ** 2 / fourth for r in rows if (fourth := power(r, 4))), default=float("inf"))


def mean_activity(
    currents: Sequence[Tensor | None], mask: Tensor, kernels: Sequence[PspKernel], weights: list[Tensor], calls: Calls
) -> list[Tensor]:
    """Mean filtered presynaptic activity `r`, in the shape of each weight: one row per output unit.

    With frozen weights the mean potential `w_i . r` differs between neurons, and that difference never goes away: it
    leaves some neurons silent and others saturated (theory: balance). U is linear in the weights, so `r` is the
    gradient of the mean potential with respect to them. This holds for any linear path: convolutions with strides,
    groups, dilation and borders, pooling, additions. Rows are known up to a common factor, the number of neurons that
    share a row.
    """
    arrived = [(c, k) for c, k in zip(currents, kernels, strict=True) if c is not None and c.requires_grad]
    adjoints = [_mean_adjoint(c, mask, k) for c, k in arrived]
    ends: list[Any] = [end for w in weights for end in ([edge for edge, _ in calls[w]] if w in calls else [w])]
    gradients = iter(torch.autograd.grad([c for c, _ in arrived], ends, adjoints, allow_unused=True))
    found = [
        _by_rows([(next(gradients), x) for _, x in calls[w]], w) if w in calls else next(gradients) for w in weights
    ]
    return [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]


def _by_rows(calls: Sequence[tuple[Tensor | None, Tensor]], weight: Tensor) -> Tensor | None:
    """The gradient of a weight from those of its layer's outputs; one row if all are equal, without computing each."""
    arrived = [(g.flatten(0, -2), x) for g, x in calls if g is not None]
    if all(bool((g == g[:, :1]).all()) for g, _ in arrived):
        arrived = [(g[:, :_SOME], x) for g, x in arrived]  # one row alone would be summed in another order
    rows = [(g.T @ x.to(g)).to(weight) for g, x in arrived]
    total = sum(rows[1:], rows[0]) if rows else None
    return total if total is None or len(total) == len(weight) else total[:1].expand_as(weight)


def _for_all_rows(q: Pathway, activity: Tensor) -> Tensor:
    """The mean activity if a population reads a part of a layer; the other rows get that of the rows it reads."""
    by_row = activity.transpose(0, q.rows)
    parted = any(operation.startswith(_PARTING) for operation in q.via)
    if not parted or bool((read := by_row.flatten(1).any(1)).all()):
        return activity
    return torch.where(read.reshape(-1, *[1] * (by_row.ndim - 1)), by_row, by_row[read].mean(0)).transpose(0, q.rows)


def _mean_adjoint(current: Tensor, mask: Tensor, kernel: PspKernel) -> Tensor:
    """Gradient of the mean potential within the window with respect to the current."""
    weight = (mask / mask.sum()).reshape(*mask.shape, *[1] * (current.ndim - 2))
    if kernel.eps_bar.ndim:  # time constants differ by neuron
        weight = weight.expand_as(current)
    return potential_adjoint(weight, kernel).expand_as(current)


def potential_adjoint(weight: Tensor, kernel: PspKernel) -> Tensor:
    """Transpose of `free_potential`: `sum_t weight[t] U[t]` is `sum_t potential_adjoint(weight)[t] I[t]`."""
    return free_potential(weight.flip(0), kernel).flip(0)


def project_(weight: Tensor, r: Tensor, axis: int = 0) -> Tensor:
    """Make every row orthogonal to the mean activity `r`, in place: `w_i - r_i (r_i . w_i) / |r_i|^2`.

    Returns `(r_i . w_i) / |r_i|^2`; `axis` counts rows, the output units.
    """
    found, by_row, along_row = [], weight.detach().transpose(0, axis), r.transpose(0, axis)
    if along_row.stride(0) == 0 and len(by_row) > 1:  # one row for all, of a large weight: in its own precision
        one = along_row[0].to(weight.dtype)
        square = one.square().sum().clamp_min(torch.finfo(one.dtype).tiny)
        along: Tensor = torch.tensordot(by_row, one, one.ndim) / square
        for part in blocks(by_row):
            by_row[part] -= along[part].reshape(-1, *[1] * one.ndim) * one
        return along.double()
    for part in blocks(by_row):
        w, rows = by_row[part].flatten(1).double(), along_row[part].flatten(1).double()
        norm, common = rows.square().sum(1, keepdim=True), (w * rows).sum(1, keepdim=True)
        along = torch.where(norm > 0, common / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
        by_row[part] = (w - along * rows).reshape(by_row[part].shape).to(weight.dtype)
        found.append(along.flatten())
    return torch.cat(found)


def _compact(r: Tensor, axis: int) -> Tensor:
    """A large activity as one row if it is the same for all rows, as behind most layers."""
    by_row = r.transpose(0, axis)
    if r.numel() < LARGE or len(by_row) < 2 or not by_row.stride(0):
        return r
    probe = torch.randn(by_row[0].shape, generator=torch.Generator().manual_seed(0)).to(r)
    seen = torch.tensordot(by_row, probe, probe.ndim)  # rows that differ almost surely differ in a random direction
    if bool((seen - seen[0]).abs().max() > 1e-4 * by_row[0].norm()):
        return r
    return by_row[:1].clone().expand_as(by_row).transpose(0, axis)
