"""Weights: how they are drawn and written, balanced, and what share of the variance each pathway is to supply."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fluctua.network.facts import Pathway, Population, free_potential
from fluctua.theory.laws import OneSided, WeightLaw
from fluctua.theory.psp import PspKernel
from fluctua.theory.target import default_shares

Array = NDArray[np.float64]


def new_generator(seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    """The generator of all draws: the one given, one from the seed, or one seeded by torch's own generator."""
    if generator is not None:
        if seed is not None:
            raise ValueError("give a seed or a generator, not both")
        return generator
    if seed is None:
        seed = int(torch.randint(2**62, ()).item())
    return torch.Generator().manual_seed(seed)


def draw(law: WeightLaw, like: Tensor, generator: torch.Generator | None, rows: int = 0) -> Tensor:
    """Weights from the law in the shape of `like`, whose axis `rows` counts output units, drawn on the CPU.

    So they are the same on every device.

    One number of `generator` (default: torch's own) seeds the NumPy generator that they come from.
    """
    rng = np.random.default_rng(int(torch.randint(2**63 - 1, (), generator=generator, device="cpu")))
    mean, std = (_rows(value, like.shape[rows]) for value in (law.mean, law.std))
    by_row = like.transpose(0, rows).shape
    return torch.as_tensor(WeightLaw(law.family, mean, std, law.density).draw(rng, by_row)).transpose(0, rows).to(like)


def of_entries(q: Pathway, value: Tensor) -> Tensor:
    """A value for the weight of a pathway, zero where that has no entries."""
    return value if q.mask is None else value * q.mask.to(value)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of `like`, drawn on the CPU in float32: the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def write(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place."""
    with torch.no_grad():
        parameter.copy_(value)


def writable(population: Population) -> list[Pathway]:
    """The pathways whose weights may be written."""
    return [q for q in population.pathways if q.skipped_because is None]


def affine(q: Pathway, name: Literal["weight", "bias"]) -> list[Tensor]:
    """The gains or offsets of the norms of a pathway."""
    return [p for norm in q.norms if isinstance(p := getattr(norm, name, None), Tensor)]


def by_row(value: Array, weight: Tensor, rows: int = 0) -> Tensor:
    """A number for all rows of `weight`, which its axis `rows` counts, or one for each, broadcast against it.

    A value per neuron `[*N]` becomes one per row, the mean over the neurons that share it; where the first axis of
    `[*N]` is not that of the rows, all rows get the mean.
    """
    found = torch.as_tensor(_rows(value, weight.shape[rows])).to(weight)
    return found.reshape(-1, *[1] * (weight.ndim - 1)).transpose(0, rows)


def _rows(value: Array, size: int) -> Array:
    """As `by_row` for so many rows, of the shape `[]` or `[rows]`."""
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1).mean(1)
    return rows if len(rows) == size else np.asarray(rows.mean())


def excites(q: Pathway, population: Population) -> int:
    """1 where all weights of a pathway excite, -1 where all inhibit, 0 where they may take either sign."""
    if not isinstance(q.family, OneSided):
        return 0
    return q.sign if population.neuron.kernels[q.port].eps_bar.mean() > 0 else -q.sign


def shares(pathways: Sequence[Pathway], population: Population, alpha: float) -> list[float]:
    """Shares that add up to 1: the paper's `alpha` within excitation, inhibition and weights of either sign alike.

    Pathways of one kind together supply as much as there are of them. Between excitation and inhibition that is only
    a start: how they divide their part between them follows from the wanted mean.
    """
    kinds = [excites(q, population) for q in pathways]
    found = [0.0] * len(pathways)
    for kind in set(kinds):
        members = [k for k, other in enumerate(kinds) if other == kind]
        within = default_shares([pathways[k].recurrent for k in members], alpha)
        for k, share in zip(members, within, strict=True):
            found[k] = share * len(members) / len(pathways)
    return found


def mean_activity(
    currents: Sequence[Tensor | None], mask: Tensor, kernels: Sequence[PspKernel], weights: list[Tensor]
) -> list[Tensor]:
    """Mean filtered presynaptic activity `r`, in the shape of each weight: one row per output unit.

    With frozen weights the mean potential `w_i . r` differs from neuron to neuron, and that difference never goes away
    with time: it leaves some neurons silent and others saturated (theory: balance). U is linear in the weights, so `r`
    is the gradient of the mean potential with respect to them. This holds for any linear path: convolutions with
    strides, groups, dilation and borders, pooling, additions. Rows are known up to a common factor, the number of
    neurons that share a row.

    Args:
        currents: `[T, B, *N]`, one for each kernel, with a graph back to `weights`.
        mask: `[T, B]`, the window over which the mean is taken.
        kernels: of the population's neurons.
        weights: of the pathways to be balanced.
    """
    arrived = [(c, k) for c, k in zip(currents, kernels, strict=True) if c is not None and c.requires_grad]
    adjoints = [_mean_adjoint(c, mask, k) for c, k in arrived]
    gradients = torch.autograd.grad([c for c, _ in arrived], weights, adjoints, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)]


def _mean_adjoint(current: Tensor, mask: Tensor, kernel: PspKernel) -> Tensor:
    """What the mean potential within the window gains from each entry of the current."""
    weight = (mask / mask.sum()).reshape(*mask.shape, *[1] * (current.ndim - 2))
    if kernel.eps_bar.ndim:  # time constants differ by neuron
        weight = weight.expand_as(current)
    return potential_adjoint(weight, kernel).expand_as(current)


def potential_adjoint(weight: Tensor, kernel: PspKernel) -> Tensor:
    """Transpose of `free_potential`: `sum_t weight[t] U[t]` is `sum_t potential_adjoint(weight)[t] I[t]`."""
    return free_potential(weight.flip(0), kernel).flip(0)


def balanced(weight: Tensor, r: Tensor, axis: int = 0) -> Tensor:
    """Every row made orthogonal to the mean activity: `w_i - r_i (r_i . w_i) / |r_i|^2`.

    Args:
        weight: to be balanced.
        r: mean activity, in its shape.
        axis: that counts rows, the output units.
    """
    if axis:
        return balanced(weight.transpose(0, axis), r.transpose(0, axis)).transpose(0, axis)
    w, rows = weight.flatten(1).double(), r.flatten(1).double()
    norm = rows.square().sum(1, keepdim=True)
    along = torch.where(norm > 0, (w * rows).sum(1, keepdim=True) / norm.clamp_min(torch.finfo(norm.dtype).tiny), 0.0)
    return (w - along * rows).reshape(weight.shape).to(weight)
