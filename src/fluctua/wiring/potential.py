"""The free (never spiking) membrane potential, from the current that reaches a population."""

import numpy as np
import torch
from torch import Tensor

from fluctua.theory import PspKernel
from fluctua.theory.psp import TwoStateKernel


def free_potential(current: Tensor, kernel: PspKernel) -> Tensor:
    """`U = eps * I` from rest: current `[T, B, *N]` -> potential of the same shape, without gradient."""
    current = current.detach()
    if isinstance(kernel, TwoStateKernel):
        return _two_states(current, kernel)
    return _convolved(current, kernel)


def potential_adjoint(weight: Tensor, kernel: PspKernel) -> Tensor:
    """Transpose of `free_potential`: `sum_t weight[t] U[t]` is `sum_t potential_adjoint(weight)[t] I[t]`."""
    return free_potential(weight.flip(0), kernel).flip(0)


def _two_states(x: Tensor, k: TwoStateKernel) -> Tensor:
    a, b, coupling, jump_mem, jump_syn = (
        torch.as_tensor(np.asarray(v)).to(x) for v in (k.a, k.b, k.coupling, k.jump_mem, k.jump_syn)
    )
    simple = bool((coupling == 0).all())  # no synaptic state to carry along
    u = torch.zeros_like(x)
    m, s = torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for t in range(x.shape[0] - k.delay):
        m = a * m + jump_mem * x[t]
        if not simple:
            m += coupling * s
            s = b * s + jump_syn * x[t]
        u[t + k.delay] = m
    return u


def _convolved(x: Tensor, k: PspKernel) -> Tensor:
    steps = x.shape[0]
    eps = torch.as_tensor(k.response(steps)).to(x)
    eps = eps.reshape(steps, *[1] * (x.ndim - eps.ndim), *eps.shape[1:])
    size = 2 * steps  # zero padding: without it the convolution would wrap around
    spectrum = torch.fft.rfft(x, size, dim=0) * torch.fft.rfft(eps, size, dim=0)
    potential: Tensor = torch.fft.irfft(spectrum, size, dim=0)[:steps]
    return potential
