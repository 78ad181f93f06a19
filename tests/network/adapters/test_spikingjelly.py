"""What fluctua says of SpikingJelly's neurons is what they do."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import members_of
from fluctua.network.adapters.spikingjelly import FRAMEWORK
from fluctua.network.facts import Neuron, UnsupportedNeuronError
from shared.spikes import assert_first_spikes_where

sj: Any = pytest.importorskip("spikingjelly.activation_based.neuron")

SETTLE, STEPS = 120, 60  # time before and after an impulse
FAR = 1e9  # a threshold out of reach

SPIKING: dict[str, Callable[[], Any]] = {
    "IF": sj.IFNode,
    "IF, soft reset": lambda: sj.IFNode(v_threshold=0.7, v_reset=None),
    "IF, reset below 0": lambda: sj.IFNode(v_reset=-0.3),
    "simple IF": sj.SimpleIFNode,
    "half threshold": lambda: sj.HalfThresholdIFNode(0.8),
    "activation aware": lambda: sj.ActivationAwareIFNode(0.8, v_offset=0.3),
    "LIF": sj.LIFNode,
    "LIF, soft reset": lambda: sj.LIFNode(tau=5.0, v_reset=None),
    "LIF, reset below 0": lambda: sj.LIFNode(tau=3.0, v_reset=-0.4),
    "LIF, raw input": lambda: sj.LIFNode(tau=4.0, decay_input=False, v_reset=-0.2),
    "simple LIF": lambda: sj.SimpleLIFNode(tau=3.0, decay_input=True, v_reset=-0.1),
    "simple LIF, raw input": lambda: sj.SimpleLIFNode(tau=3.0, decay_input=False),
    "parametric LIF": lambda: sj.ParametricLIFNode(init_tau=6.0),
    "parametric LIF, raw input": lambda: sj.ParametricLIFNode(init_tau=2.5, decay_input=False, v_reset=None),
    "integer spikes": lambda: sj.ILIFNode(tau=4.0, v_threshold=0.9),
    "complementary LIF": lambda: sj.ComplementaryLIFNode(tau=4.0),
    "current based": sj.CUBALIFNode,
    "current based, slow": lambda: sj.CUBALIFNode(c_decay=0.9, v_decay=0.9, v_threshold=2.0, v_reset=None),
    "analog": lambda: sj.LIAFNode(lambda x: (x >= 0).to(x), threshold_related=True, tau=3.0),
    "online": lambda: sj.SLTTLIFNode(tau=3.0),
    "quadratic": sj.QIFNode,
    "quadratic, rest above 0": lambda: sj.QIFNode(tau=4.0, v_c=0.9, a0=1.5, v_rest=0.1, v_reset=None),
    "resonant": sj.RAFNode,
    "resonant, slow": lambda: sj.RAFNode(b=-0.1, omega=0.2, dt=2.0, v_threshold=0.5),
}
READOUTS: dict[str, Callable[[], Any]] = {
    "potential of an IF": sj.NonSpikingIFNode,
    "potential of a LIF": lambda: sj.NonSpikingLIFNode(tau=7.0),
}
STEP_MODES = pytest.mark.parametrize("mode", ["s", "m"])


def facts(node: Any, timing: Timing = Timing()) -> Neuron:  # noqa: B008 - frozen
    return members_of(node, timing)[""].neuron


def free(node: Any, mode: str) -> Any:
    """The node in double precision, its threshold out of reach."""
    if not hasattr(node, "decode"):
        node.double().step_mode = mode
        node.v_threshold = torch.as_tensor(FAR) if isinstance(node.v_threshold, Tensor) else FAR
    return node


def potential(node: Any, currents: Tensor) -> Tensor:
    """What the potential of a node is after each step, spikes and resets included: currents `[T, B, *N]`."""
    if hasattr(node, "decode"):
        return torch.stack(node(currents))
    after = []
    for x in currents:
        node(x if node.step_mode == "s" else x.unsqueeze(0))
        after.append(node.v.detach())
    return torch.stack(after)


def response(make: Callable[[], Any], mode: str, size: float) -> tuple[Tensor, float]:
    """Response to a unit impulse, `[STEPS]`, and the potential that the node has come to without input."""
    runs = []
    for impulse in (size, 0.0):
        node = free(make(), mode)
        currents = torch.zeros(SETTLE + STEPS, 1, 1, dtype=torch.double)
        currents[SETTLE] = impulse
        runs.append(potential(node, currents).flatten())
    with_impulse, without = runs
    return (with_impulse - without)[SETTLE:] / size, float(without[SETTLE - 1])


@STEP_MODES
@pytest.mark.parametrize("name", SPIKING | READOUTS)
def test_the_kernel_is_the_response_to_a_unit_impulse(name: str, mode: str) -> None:
    make = (SPIKING | READOUTS)[name]
    small = "quadratic" in name  # linear near its rest only
    measured, rest = response(make, mode, 1e-6 if small else 1.0)
    neuron = facts(make(), Timing(steps=STEPS))
    assert neuron.kernel.response(STEPS) == pytest.approx(measured.numpy(), abs=1e-5)
    assert neuron.rest == pytest.approx(rest, abs=1e-6)


@STEP_MODES
@pytest.mark.parametrize("name", SPIKING)
def test_the_first_spike_comes_where_the_free_potential_meets_the_threshold(name: str, mode: str) -> None:
    make = SPIKING[name]
    threshold = facts(make()).threshold
    assert threshold is not None
    generator = torch.Generator().manual_seed(0)
    currents = 3 * threshold * torch.randn(STEPS, 1, 50, generator=generator, dtype=torch.double)
    node = make().double()
    node.step_mode = mode
    spikes = torch.stack([node(x) for x in currents]) if mode == "s" else node(currents)
    assert spikes.any(0).double().mean() > 0.5
    assert_first_spikes_where(potential(free(make(), "s"), currents), threshold, spikes)


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_have_no_threshold(name: str) -> None:
    assert facts(READOUTS[name]()).threshold is None


@pytest.mark.parametrize("name", SPIKING)
def test_reset_brings_a_node_back_to_its_start(name: str) -> None:
    node = SPIKING[name]().double()
    currents = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    first, second = potential(node, currents), potential(node, currents)
    FRAMEWORK.reset(node)
    third = potential(node, currents)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_learnt_constants_are_read_as_they_are_now() -> None:
    node = sj.ParametricLIFNode(init_tau=2.0)
    with torch.no_grad():
        node.w.fill_(-np.log(9.0))  # 1 / (1 + 9)
    assert facts(node).kernel.response(3) == pytest.approx(0.1 * 0.9 ** np.arange(3))
    node.v_threshold = 3.0
    assert facts(node).threshold == 3.0


def test_a_threshold_of_each_channel_counts_by_its_mean() -> None:
    node = sj.ActivationAwareIFNode(torch.tensor([1.0, 2.0, 3.0]), v_offset=torch.tensor([0.5, 0.5, 0.5]))
    assert facts(node).threshold == 1.5


def test_time_counts_in_steps_until_the_user_says_how_long_they_last() -> None:
    node = sj.LIFNode(tau=4.0)
    assert (facts(node).in_steps, facts(node).kernel.dt) == (True, 1.0)
    told = facts(node, Timing(dt=2e-3))
    assert (told.in_steps, told.kernel.dt) == (False, 2e-3)
    assert told.kernel.eps_bar == pytest.approx(2e-3)  # decay_input makes the sum over steps 1


@pytest.mark.parametrize(("mode", "time"), [("s", "step"), ("m", "first")], ids=["single step", "multi step"])
def test_the_step_mode_says_where_time_is(mode: str, time: str) -> None:
    assert members_of(sj.LIFNode(step_mode=mode))[""].layout.time == time


@pytest.mark.parametrize("decode", [None, "max-mem"])
def test_readouts_return_the_potentials_of_all_steps(decode: str | None) -> None:
    node = sj.NonSpikingLIFNode(decode=decode)
    layout, output = members_of(node)[""].layout, node(torch.randn(5, 2, 3))
    potentials = layout.spikes(node, output)
    assert potentials.shape == ((5 if decode is None else 1), 2, 3)
    answer = layout.answer(node, output, potentials + 1)
    assert torch.equal(torch.stack(list(answer)), torch.stack(list(output)) + 1)


# -- what is refused -------------------------------------------------------------------------------------------

ABSTRACT = {"BaseNode", "NonSpikingBaseNode", "SimpleBaseNode"}


def node_classes() -> dict[str, type[nn.Module]]:
    """All that the package offers as a neuron."""
    return {
        f"{kind.__module__}.{kind.__qualname__}": kind
        for name, kind in vars(sj).items()
        if inspect.isclass(kind) and issubclass(kind, nn.Module) and name not in ABSTRACT
    }


def test_every_node_of_the_package_is_known_or_refused() -> None:
    classes = node_classes()
    named = {*FRAMEWORK.facts, *FRAMEWORK.refused}
    strange = [
        name
        for name, kind in classes.items()
        if named.isdisjoint(f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__)
    ]
    assert strange == []
    assert {name for name in named if name.count(".") == 4} <= classes.keys()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (sj.EIFNode, "no rest"),
        (sj.KLIFNode, "rectifies"),
        (sj.IzhikevichNode, "not linear"),
        (lambda: sj.PSN(T=8), "learnt matrix"),
        (lambda: sj.GatedLIFNode(T=8), "drifts"),
        (lambda: sj.MPBNLIFNode(out_features=4), "batch norm"),
        (sj.TernaryLIFNode, "either sign"),
        (lambda: sj.ILCLIFNode(2, 3), "in place"),
        (lambda: sj.NoisyCUBALIFNode(4), "noise"),
    ],
    ids=["EIF", "KLIF", "Izhikevich", "PSN", "gated", "batch norm", "ternary", "inner connections", "noisy"],
)
def test_what_is_not_linear_below_threshold_is_refused_with_the_reason(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UnsupportedNeuronError, match=f"of spikingjelly cannot be initialised: .*{reason}.*; use "):
        members_of(make())


@pytest.mark.parametrize(("v_c", "a0"), [(-0.2, 1.0), (0.8, 3.0)], ids=["runs away", "jumps over its rest"])
def test_a_quadratic_node_that_does_not_come_to_rest_is_refused(v_c: float, a0: float) -> None:
    with pytest.raises(UnsupportedNeuronError, match="QIFNode does not come to rest at v_rest = 0"):
        facts(sj.QIFNode(v_c=v_c, a0=a0))


@pytest.mark.parametrize("name", ["IF", "quadratic", "analog", "integer spikes"])
def test_facts_that_hold_in_part_come_with_a_note(name: str) -> None:
    assert facts(SPIKING[name]()).note
    assert facts(sj.LIFNode()).note is None
