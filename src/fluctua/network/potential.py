"""The free (never spiking) membrane potential, from the current that reaches a population."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import Neuron, Pathway, Population
from fluctua.theory.psp import PspKernel, TwoStateKernel


def free_potential(current: Tensor, kernel: PspKernel) -> Tensor:
    """`U = eps * I` from rest: current `[T, B, *N]` -> potential of the same shape, without gradient.

    Half precision is integrated in float32, and so returned.
    """
    current = current.detach().to(torch.promote_types(current.dtype, torch.float32))
    if isinstance(kernel, TwoStateKernel):
        return _two_states(current, kernel)
    return _convolved(current, kernel)


def population_currents(
    population: Population, arguments: Sequence[Tensor], spikes: Mapping[str, Tensor]
) -> list[Tensor | None]:
    """Input currents `[T, B, *N]` of a population, one for each of its kernels; None where none arrives.

    Args:
        population: whose.
        arguments: the currents that its module is called with.
        spikes: `[T, B, *N]` of the populations that recurrent pathways start from, by name; without them these add
            nothing.
    """
    currents = currents_from_outside(population, arguments)
    for q in recurrent_pathways(population):
        if q.inner is not None and q.sources[0] in spikes:
            _add(currents, q.port, q.inner(spikes[q.sources[0]]))
    return currents


def currents_from_outside(population: Population, arguments: Sequence[Tensor]) -> list[Tensor | None]:
    """What its module's call alone brings a population, for each of its kernels."""
    currents = [None if k is None or k >= len(arguments) else arguments[k] for k in population.arguments]
    for q in _once(q for q in population.pathways if q.argument is not None):
        if q.inner is not None and q.argument is not None:
            _add(currents, q.port, q.inner(arguments[q.argument]))
    return currents


def recurrent_pathways(population: Population) -> list[Pathway]:
    """The pathways that start in a population's own module, one for each synapse."""
    return _once(q for q in population.pathways if q.inside)


def _once(pathways: Iterable[Pathway]) -> list[Pathway]:
    """One pathway for each synapse: one with two weights has two in the population."""
    return list({q.inner: q for q in reversed(list(pathways))}.values())[::-1]


def _add(currents: list[Tensor | None], port: int, added: Tensor) -> None:
    arrived = currents[port]
    currents[port] = added if arrived is None else arrived + added


def potential_of(neuron: Neuron, currents: Sequence[Tensor | None]) -> Tensor:
    """The free potential of a population: `rest + sum_p eps_p * I_p` over its input currents `[T, B, *N]`."""
    u = response(neuron, currents)
    return u + neuron.rest if neuron.rest else u


def response(neuron: Neuron, currents: Sequence[Tensor | None]) -> Tensor:
    """What input currents `[T, B, *N]` of a population add to its free potential: `sum_p eps_p * I_p`."""
    parts = [
        free_potential(current, kernel)
        for current, kernel in zip(currents, neuron.kernels, strict=True)
        if current is not None
    ]
    return sum(parts[1:], parts[0])


def potential_adjoint(weight: Tensor, kernel: PspKernel) -> Tensor:
    """Transpose of `free_potential`: `sum_t weight[t] U[t]` is `sum_t potential_adjoint(weight)[t] I[t]`."""
    return free_potential(weight.flip(0), kernel).flip(0)


def _two_states(x: Tensor, k: TwoStateKernel) -> Tensor:
    a, b, coupling, jump_mem, jump_syn = (
        torch.as_tensor(np.asarray(v)).to(x) for v in (k.a, k.b, k.coupling, k.jump_mem, k.jump_syn)
    )
    simple = bool((coupling == 0).all())  # no synaptic state to carry along
    u = torch.empty_like(x)
    u[: k.delay] = 0
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
