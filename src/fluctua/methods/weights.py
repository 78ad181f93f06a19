"""Weights: checks of arguments, draws, writing, and the shares of the variance."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fluctua.network.facts import INPUT, Pathway, Population
from fluctua.theory.laws import Family, Normal, OneSided, Relay, WeightLaw
from fluctua.theory.psp import Array, PspKernel
from fluctua.theory.target import Target, default_shares

LARGE = 2**20
"""From this number of entries a weight dominates time and memory, and the last bits matter less."""


def check_target(given: Target | None, name: str) -> None:
    """Refuse a given target that is no `Target`."""
    if not isinstance(given, Target | None):
        raise ValueError(f"{name} must be a Target, such as Target(xi=1.0) or Target(sigma=0.1), got {given!r}")


def check_given(kernel: PspKernel, target: Target | None, **tensors: Tensor) -> None:
    """Refuse an invalid kernel or target, and tensors that numbers cannot be written to."""
    if not isinstance(kernel, PspKernel):
        raise ValueError(f"kernel must be a PspKernel, such as PspKernel.by_update('leaky', beta=0.9), got {kernel!r}")
    check_target(target, "target")
    for name, given in tensors.items():
        if not isinstance(given, Tensor):
            raise ValueError(f"{name} must be a tensor, got {type(given).__name__}")
        if not given.is_floating_point() or given.is_meta or given.numel() == 0:
            kind = f"{given.dtype} {[*given.shape]} on {given.device}"
            raise ValueError(f"{name} must be a dense floating-point tensor with entries, got {kind}")


def new_generator(seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    """The generator of all draws: the one given, one from the seed, or one seeded by torch's own generator."""
    if generator is not None:
        if seed is not None or not isinstance(generator, torch.Generator):
            raise ValueError(f"give a seed, or a torch.Generator instead, got {seed!r} and {generator!r}")
        return generator
    if seed is None:
        seed = int(torch.randint(2**62, ()).item())
    if not isinstance(seed, Integral) or not -(2**63) <= seed < 2**64:
        raise ValueError(f"a seed is a whole number of 64 bits, got {seed!r}")
    return torch.Generator().manual_seed(int(seed))


def draw(
    law: WeightLaw, like: Tensor, generator: torch.Generator | None, rows: int = 0, *, in_place: bool = False
) -> Tensor:
    """Weights from the law in the shape of `like`, whose axis `rows` counts output units; `in_place` in its memory.

    They are drawn on the CPU, so they are the same for every device. One number of `generator` (default: torch's own)
    seeds the NumPy generator that draws them; for normal weights of large tensors it seeds a generator of torch, which
    takes a tenth of the time.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device="cpu"))
    rng, numbers = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    mean, std = (_rows(value, like.shape[rows]) for value in (law.mean, law.std))
    drawn = like.detach() if in_place else torch.empty_like(like, requires_grad=False)
    by_row = drawn.transpose(0, rows)
    apart = law.density == 1 and law.family.independent  # which synapses are absent is drawn last
    single = isinstance(law.family, Normal) and drawn.numel() >= LARGE and drawn.dtype.itemsize <= 4
    for part in blocks(by_row) if apart else [slice(None)]:
        one, other = (value[part] if value.ndim else value for value in (mean, std))
        if single and apart:
            to = by_row[part]
            x = to if to.device.type == "cpu" and to.dtype == torch.float32 else torch.empty(to.shape)
            to.copy_(x.normal_(generator=numbers).mul_(_broadcast(other, x)).add_(_broadcast(one, x)))
            continue
        own = WeightLaw(law.family, one, other, law.density)
        by_row[part] = torch.as_tensor(own.draw(rng, by_row[part].shape)).to(drawn)
    return drawn


def _broadcast(value: Array, like: Tensor) -> Tensor:
    """Numbers `[]` or `[rows]`, shaped to broadcast to `like`."""
    return torch.as_tensor(value).to(like).reshape(-1, *[1] * (like.ndim - 1))


def blocks(rows: Tensor) -> Iterator[slice]:
    """Slices of the first axis of about 1 MB in double precision, so that a large weight is not copied as a whole."""
    step = max(1, 2**17 * len(rows) // max(1, rows.numel()))
    yield from (slice(start, start + step) for start in range(0, len(rows), step))


def of_entries(q: Pathway, value: Tensor) -> Tensor:
    """A value for the weight of a pathway, zero outside its mask."""
    return value if q.mask is None else value * q.mask.to(value)


def family_of(q: Pathway, law: Family) -> Family:
    """The law of a pathway's weights: its own if it has one, else the given; `Relay` only between populations."""
    if q.family is not None:
        return q.family
    hears_data = INPUT in q.sources or not q.sources
    return law.rest if isinstance(law, Relay) and (hears_data or q.recurrent) else law


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers in the shape of `like`, drawn on the CPU in float32: the same on every device."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)


def write(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place if the value differs; caches of the old value are then invalid."""
    with torch.no_grad():
        if not torch.equal(parameter, value):
            parameter.copy_(value)


def write_all(values: Mapping[Tensor, Tensor]) -> None:
    """Overwrite parameters in place."""
    for parameter, value in values.items():
        write(parameter, value)


def writable(population: Population) -> list[Pathway]:
    """The pathways whose weights may be written."""
    return [q for q in population.pathways if q.skipped_because is None]


def affine(q: Pathway, name: Literal["weight", "bias"]) -> list[Tensor]:
    """The gains or offsets of the norms of a pathway."""
    return [p for norm in q.norms if isinstance(p := getattr(norm, name, None), Tensor)]


def by_row(value: Array, weight: Tensor, rows: int = 0) -> Tensor:
    """Numbers, one for each row of `weight` or one for all, shaped to broadcast against it; `rows` is its row axis.

    Values per neuron `[*N]` become one per row, the mean over the neurons that share it. If the first axis of `[*N]` is
    not that of the rows, all rows get the mean.
    """
    return _broadcast(_rows(value, weight.shape[rows]), weight).transpose(0, rows)


def _rows(value: Array, size: int) -> Array:
    """As `by_row`, for `size` rows, of the shape `[]` or `[rows]`."""
    rows = value.reshape(value.shape[0] if value.ndim else 1, -1).mean(1)
    return rows if len(rows) == size else np.asarray(rows.mean())


def excites(q: Pathway, population: Population) -> int:
    """1 if all weights of a pathway excite, -1 if all inhibit, 0 if they do both or may take either sign."""
    if not isinstance(q.family, OneSided):
        return 0
    return q.effect if population.neuron.kernels[q.port].eps_bar.mean() > 0 else -q.effect


def shares(pathways: Sequence[Pathway], population: Population, alpha: float) -> list[float]:
    """Shares that add up to 1: the paper's `alpha` within excitation, inhibition and weights of either sign.

    Each of these kinds together gets a share in proportion to its number of pathways. Between excitation and inhibition
    that is only a start: the wanted mean decides how they divide their part.
    """
    kinds = [excites(q, population) for q in pathways]
    found = [0.0] * len(pathways)
    for kind in set(kinds):
        members = [k for k, other in enumerate(kinds) if other == kind]
        within = default_shares([pathways[k].recurrent for k in members], alpha)
        for k, share in zip(members, within, strict=True):
            found[k] = share * len(members) / len(pathways)
    return found
