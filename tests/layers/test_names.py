"""The public names of neurons, spikes, layers and time loops: an example each, and old names that still work."""

import doctest
from types import ModuleType
from typing import Any

import pytest
import torch

from fluctua import layers, neurons, spikes, timeloop
from fluctua.layers.dale import DaleError
from fluctua.timeloop.reference import step

PACKAGES = layers, neurons, spikes, timeloop


@pytest.mark.parametrize(
    ("package", "name"),
    [(package, name) for package in PACKAGES for name in package.__all__],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_an_example_shows_what_it_does(package: ModuleType, name: str) -> None:
    value = getattr(package, name)
    torch.manual_seed(0)
    home = __import__(value.__module__, fromlist=[name])
    tests = doctest.DocTestFinder(recurse=False).find(value, name, home, globs=vars(home).copy())
    assert any(test.examples for test in tests)
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.parametrize(
    ("package", "old", "new", "value"),
    [
        (layers, "Chain", "fluctua.layers.FusedSequential", layers.FusedSequential),
        (layers, "SpikeBatch", "fluctua.spikes.SpikeBatch", spikes.SpikeBatch),
        (layers, "DaleError", "fluctua.layers.dale.DaleError", DaleError),
        (neurons, "Surrogate", "fluctua.timeloop.surrogates.Surrogate", neurons.SuperSpike.__base__),
        (timeloop, "SuperSpike", "fluctua.neurons.SuperSpike", neurons.SuperSpike),
        (timeloop, "step", "fluctua.timeloop.reference.step", step),
    ],
)
def test_an_old_name_works_and_names_the_new_one(package: ModuleType, old: str, new: str, value: Any) -> None:
    with pytest.warns(DeprecationWarning, match=rf"^{package.__name__}\.{old} is now {new}$"):
        assert getattr(package, old) is value


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_an_unknown_name_is_an_attribute_error(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = package.nonsense
