"""Balanced weights: no neuron gets a mean potential of its own (design 2.4).

With frozen weights the mean potential `w_i . r` differs from neuron to neuron, `r` being the mean filtered activity of
the afferents, and that difference never goes away with time: it leaves some neurons silent and others saturated.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fluctua.network.potential import potential_adjoint
from fluctua.theory import PspKernel


def mean_activity(
    currents: Sequence[Tensor | None], mask: Tensor, kernels: Sequence[PspKernel], weights: list[Tensor]
) -> list[Tensor]:
    """Mean filtered presynaptic activity `r`, in the shape of each weight: one row per output unit.

    U is linear in the weights, so `r` is the gradient of the mean potential with respect to them. This holds for any
    linear path: convolutions with strides, groups, dilation and borders, pooling, additions. Rows are known up to a
    common factor, the number of neurons that share a row.

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
