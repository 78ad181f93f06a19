"""A framework gives one default tensor to all its neurons: a test that writes to it would change the next neuron."""

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fluctua.network.adapters.registry import frameworks


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, tuple):
        return [tensor for part in value for tensor in tensors_in(part)]
    return [value] if isinstance(value, Tensor) else []


@cache
def default_tensors(imported: frozenset[str]) -> dict[str, Tensor]:
    """All tensors that are an argument's default in the neurons of these modules, or a constant in such a default."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name in (name for framework in frameworks() for name in framework.facts):
        module, _, kind = name.rpartition(".")
        for base in getattr(sys.modules[module], kind).__mro__ if module in imported else ():
            for argument, parameter in inspect.signature(base).parameters.items():
                found |= {id(tensor): (f"{argument} of {name}", tensor) for tensor in tensors_in(parameter.default)}
    return {f"{name} ({key:x})": tensor for key, (name, tensor) in found.items()}


@pytest.fixture(autouse=True)
def defaults_are_left_alone() -> Iterator[None]:
    """Fails a test that changes a default tensor of a framework, and brings the default back."""
    modules = {name.rpartition(".")[0] for framework in frameworks() for name in framework.facts}
    tensors = default_tensors(frozenset(modules & sys.modules.keys()))
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    yield
    changed = [name for name, value in before.items() if not torch.equal(tensors[name].detach(), value)]
    for name in changed:
        tensors[name].data = before[name]
    assert changed == [], "give the neuron a tensor of its own"
