"""Neurons are known by the names of their classes, and by no import."""

import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
from torch import Tensor, nn

from fluctua.network.adapters import registry
from fluctua.network.adapters.framework import Framework, Timing, check_version
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Neuron
from fluctua.network.run import Layout, contents_of
from fluctua.theory import PspKernel

FRAMEWORKS = ("snntorch", "norse", "spikingjelly", "sinabs", "rockpool", "stork", "nir")


class Leaky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Derived(Leaky):
    """A user's own variant."""


class Rectifying(nn.Module):
    """Known, and not to be served."""


def leaky(module: Leaky, timing: Timing) -> Neuron:
    return Neuron((PspKernel.one_pole(1.0, 0.5, timing.unit),), 2.0)


def name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@pytest.fixture
def framework(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A framework in `torch`'s place, tested with a version that is not installed."""
    made = Framework(
        "torch",
        "0.3",
        {name(Leaky): leaky},
        refused={name(Rectifying): "it rectifies; take Leaky"},
        layout=lambda module: Layout("step"),
    )
    monkeypatch.setattr(registry, "_frameworks_of", lambda module: [made])
    check_version.cache_clear()
    yield
    check_version.cache_clear()


def test_no_framework_is_imported_to_know_its_neurons() -> None:
    code = (
        "import sys, torch; from fluctua.network.adapters.registry import specs_of; "
        "specs_of(torch.nn.Linear(1, 1)); "
        f"sys.exit(','.join(m for m in {FRAMEWORKS} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_adapter_names_a_class_once() -> None:
    found = [registry.framework_named(package) for package in registry.ADAPTERS]
    names = [n for f in found if f is not None for n in (*f.facts, *f.refused)]
    assert len(names) == len(set(names)) > 50


@pytest.mark.usefixtures("framework")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_subclass_is_served_by_its_nearest_base() -> None:
    (member,) = registry.specs_of(Derived()).values()
    assert (member.neuron.threshold, member.layout.stepwise) == (2.0, True)
    assert registry.specs_of(nn.Linear(1, 1)) == {}


@pytest.mark.usefixtures("framework")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_time_counts_in_steps_unless_someone_says_how_long_they_are() -> None:
    (in_steps,) = registry.specs_of(Leaky()).values()
    (in_seconds,) = registry.specs_of(Leaky(), Timing(dt=1e-3)).values()
    assert (in_steps.neuron.in_steps, in_steps.neuron.kernel.dt) == (True, 1.0)
    assert (in_seconds.neuron.in_steps, in_seconds.neuron.kernel.dt) == (False, 1e-3)


@pytest.mark.usefixtures("framework")
def test_what_cannot_be_served_is_refused_with_the_way_out() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"^Rectifying of torch cannot be initialised: .*take Leaky$"):
        registry.specs_of(Rectifying())


@pytest.mark.usefixtures("framework")
def test_another_version_than_the_tested_one_warns_once() -> None:
    with pytest.warns(UserWarning, match=r"torch .* is not a version that fluctua was tested with \(0\.3\)"):
        registry.specs_of(Leaky())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        registry.specs_of(Leaky())


def test_neurons_that_are_alike_are_read_once() -> None:
    """In what they keep, a function's closure included; what differs in a constant, or has states, is read anew."""
    snn = pytest.importorskip("snntorch")
    made = [snn.Leaky(0.9), snn.Leaky(0.9), snn.Leaky(0.8), snn.Leaky(0.9, spike_grad=snn.surrogate.atan(3.0))]
    first, alike, other, steeper = map(contents_of, made)
    assert first == alike
    assert len({first, other, steeper}) == 3
    known = registry.KnownNeurons()
    specs = [known.specs(module)[""] for module in made]
    assert specs[0].neuron is specs[1].neuron is not specs[2].neuron
    assert [spec.emitter for spec in specs] == made


def test_a_neuron_that_refers_to_its_network_is_read() -> None:
    snn = pytest.importorskip("snntorch")
    network = nn.Sequential(snn.Leaky(0.9), snn.Leaky(0.9))
    for neuron in network:
        vars(neuron)["around"] = [network]  # not a child
    known = registry.KnownNeurons()
    assert [known.specs(neuron)[""].neuron.threshold for neuron in network] == [1.0, 1.0]
