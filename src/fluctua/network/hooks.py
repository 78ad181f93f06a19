"""What a population gets and emits in one forward pass, joined to sequences where its module is called step by step."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from fluctua.network.facts import Population


def heard(population: Population, then: Callable[[tuple[Tensor, ...]], None]) -> RemovableHandle:
    """A hook that hands on the currents `[T, B, *N]` of the population's module when the last has arrived."""
    layout, parts = population.layout, list[tuple[Tensor, ...]]()

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = layout.currents(module, args, kwargs, population.most)
        parts.append(tuple(layout.as_sequence(current) for current in given))
        if len(parts) == population.calls:
            joined = tuple(_joined(steps) for steps in zip(*parts, strict=True))
            parts.clear()
            then(joined)

    return population.module.register_forward_pre_hook(before, with_kwargs=True)


def emitted(population: Population, then: Callable[[Tensor], None]) -> RemovableHandle:
    """A hook that hands on the spikes `[T, B, *N]` of a population when it has emitted the last."""
    layout, calls, parts = population.emission, population.emissions, list[Tensor]()

    def after(module: Any, args: Any, output: Any) -> None:
        parts.append(layout.as_sequence(layout.spikes(module, output)))
        if len(parts) == calls:
            joined = _joined(tuple(parts))
            parts.clear()
            then(joined)

    return population.emitter.register_forward_hook(after)


@contextmanager
def hooked(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end of the block."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
