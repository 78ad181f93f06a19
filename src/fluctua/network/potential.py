"""The free membrane potential of a current through one PSP kernel."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fluctua.theory.psp import PspKernel, TwoStateKernel
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.engines import integrate
from fluctua.timeloop.steps import Tensors


def free_potential(current: Tensor, kernel: PspKernel) -> Tensor:
    """`U = eps * I` from rest: current `[T, B, *N]` -> potential of the same shape, without gradient.

    Half precision is integrated in float32, and so returned.
    """
    current = current.detach().to(torch.promote_types(current.dtype, torch.float32))
    if isinstance(kernel, TwoStateKernel):
        return _two_states(current, kernel)
    return _convolved(current, kernel)


def potential_adjoint(weight: Tensor, kernel: PspKernel) -> Tensor:
    """Transpose of `free_potential`: `sum_t weight[t] U[t]` is `sum_t potential_adjoint(weight)[t] I[t]`."""
    return free_potential(weight.flip(0), kernel).flip(0)


@dataclass(frozen=True)
class _Filter:
    """One step of a `TwoStateKernel`, as the time loops take it; `synaptic` says whether it has a second state."""

    synaptic: bool

    def __call__(self, inputs: Tensors, state: Tensors, constants: Tensors) -> tuple[Tensor, Tensors]:
        (x,), (m, *others), (a, jump_mem, *rest) = inputs, state, constants
        m = a * m + jump_mem * x
        if not self.synaptic:
            return m, (m,)
        (s,), (b, coupling, jump_syn) = others, rest
        m = m + coupling * s
        return m, (m, b * s + jump_syn * x)


def _two_states(x: Tensor, k: TwoStateKernel) -> Tensor:
    u = torch.zeros_like(x)
    if k.delay >= len(x):
        return u
    synaptic = bool(np.any(k.coupling != 0))
    numbers = (k.a, k.jump_mem, k.b, k.coupling, k.jump_syn)[: 5 if synaptic else 2]
    constants = tuple(torch.as_tensor(np.asarray(v)).to(x) for v in numbers)
    dynamics = Dynamics(_Filter(synaptic), constants, 2 if synaptic else 1, spiking=False)
    rest = (torch.zeros_like(x[0]),) * dynamics.states
    u[k.delay :] = integrate((x[: len(x) - k.delay],), dynamics, rest).output
    return u


def _convolved(x: Tensor, k: PspKernel) -> Tensor:
    steps = x.shape[0]
    eps = torch.as_tensor(k.response(steps)).to(x)
    eps = eps.reshape(steps, *[1] * (x.ndim - eps.ndim), *eps.shape[1:])
    size = 2 * steps  # zero padding: without it the convolution would wrap around
    spectrum = torch.fft.rfft(x, size, dim=0) * torch.fft.rfft(eps, size, dim=0)
    potential: Tensor = torch.fft.irfft(spectrum, size, dim=0)[:steps]
    return potential
