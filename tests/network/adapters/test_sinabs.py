"""What fluctua says of sinabs's neurons is what they do."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import members_of
from fluctua.network.adapters.sinabs import FRAMEWORK
from fluctua.network.facts import Member, Neuron, UnsupportedNeuronError
from shared.spikes import assert_first_spikes_where

sl: Any = pytest.importorskip("sinabs.layers")
activation: Any = pytest.importorskip("sinabs.activation")
alif: Any = pytest.importorskip("sinabs.layers.alif")

STEPS = 50
FAR = 1e9  # a threshold out of reach
N = 3


def many(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, N)


SPIKING: dict[str, Callable[[], Any]] = {
    "LIF": lambda: sl.LIF(tau_mem=10.0),
    "LIF, raw input": lambda: sl.LIF(tau_mem=10.0, norm_input=False, spike_threshold=torch.tensor(2.0)),
    "LIF, synapse": lambda: sl.LIF(tau_mem=10.0, tau_syn=5.0),
    "LIF, synapse, raw input": lambda: sl.LIF(tau_mem=10.0, tau_syn=10.0, norm_input=False),
    "LIF, many time constants": lambda: sl.LIF(tau_mem=many(5, 30), tau_syn=many(20, 2)),
    "LIF, learnt decays": lambda: sl.LIF(tau_mem=many(5, 30), train_alphas=True),
    "LIF, learnt decays, synapse": lambda: sl.LIF(tau_mem=20.0, tau_syn=many(2, 20), train_alphas=True),
    "LIF, one spike a step": lambda: sl.LIF(tau_mem=10.0, spike_fn=activation.SingleSpike),
    "LIF, reset to 0": lambda: sl.LIF(tau_mem=10.0, reset_fn=activation.MembraneReset()),
    "LIF, lower limit": lambda: sl.LIF(tau_mem=10.0, min_v_mem=-1.0),
    "squeezed LIF": lambda: sl.LIFSqueeze(batch_size=1, tau_mem=10.0),
    "IAF": sl.IAF,
    "IAF, synapse": lambda: sl.IAF(tau_syn=5.0),
    "squeezed IAF": lambda: sl.IAFSqueeze(batch_size=1),
    "ALIF": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0),
    "ALIF, raw input": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, norm_input=False, adapt_scale=0.5),
    "ALIF, synapse": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, spike_threshold=torch.tensor(0.2)),
    "ALIF, synapse, raw input": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, norm_input=False),
    "ALIF, learnt decays": lambda: sl.ALIF(tau_mem=10.0, tau_adapt=20.0, tau_syn=5.0, train_alphas=True),
    "squeezed ALIF": lambda: alif.ALIFSqueeze(batch_size=1, tau_mem=10.0, tau_adapt=20.0),
}
READOUTS: dict[str, Callable[[], Any]] = {
    "ExpLeak": lambda: sl.ExpLeak(tau_mem=10.0),
    "ExpLeak, scaled input": lambda: sl.ExpLeak(tau_mem=10.0, norm_input=True),
    "squeezed ExpLeak": lambda: sl.ExpLeakSqueeze(batch_size=1, tau_mem=10.0),
    "LIF without spikes": lambda: sl.LIF(tau_mem=10.0, spike_fn=None),
}
RECURRENT: dict[str, Callable[[nn.Module], tuple[Any, Any]]] = {  # and the same without recurrence
    "LIF": lambda w: (sl.LIFRecurrent(tau_mem=10.0, tau_syn=5.0, rec_connect=w), sl.LIF(tau_mem=10.0, tau_syn=5.0)),
    "IAF": lambda w: (sl.IAFRecurrent(rec_connect=w), sl.IAF()),
    "ALIF": lambda w: (
        sl.ALIFRecurrent(tau_mem=10.0, tau_adapt=20.0, rec_connect=w),
        sl.ALIF(tau_mem=10.0, tau_adapt=20.0),
    ),
}


def member(layer: Any, timing: Timing = Timing()) -> Member:  # noqa: B008 - frozen
    return members_of(layer, timing)[""]


def facts(layer: Any, timing: Timing = Timing()) -> Neuron:  # noqa: B008 - frozen
    return member(layer, timing).neuron


def out_of_reach(layer: Any) -> Any:
    if hasattr(layer, "b0"):
        layer.b0 = torch.tensor(FAR)
    elif layer.spike_threshold is not None:
        layer.spike_threshold.data = torch.tensor(FAR)
    return layer


def potential(layer: Any, currents: Tensor) -> Tensor:
    """What the potential of a layer is after each step: currents `[T, N]` -> potentials likewise.

    Read at the end of calls of growing length, because some layers record it shifted or forget it between calls.
    """
    after = []
    for steps in range(1, len(currents) + 1):
        layer.reset_states()
        layer(currents[:steps] if hasattr(layer, "num_timesteps") else currents[None, :steps])
        after.append(layer.v_mem[0].detach().clone())
    return torch.stack(after)


def emitted(layer: Any, currents: Tensor) -> Tensor:
    """Spikes `[T, N]` for currents `[T, N]`."""
    spikes: Tensor = layer(currents) if hasattr(layer, "num_timesteps") else layer(currents[None])[0]
    return spikes.detach()


@pytest.mark.parametrize("name", SPIKING | READOUTS)
def test_the_kernel_is_the_response_to_a_unit_impulse(name: str) -> None:
    layer = out_of_reach((SPIKING | READOUTS)[name]().double())
    impulse = torch.zeros(STEPS, N, dtype=torch.double)
    impulse[0] = 1.0
    kernel = facts(layer, Timing(steps=STEPS)).kernel
    response = np.broadcast_to(kernel.response(STEPS).reshape(STEPS, -1), (STEPS, N))
    assert response == pytest.approx(potential(layer, impulse).numpy(), abs=1e-5)
    assert facts(layer).rest == pytest.approx(float(potential(layer, 0 * impulse).abs().max()), abs=1e-12)


@pytest.mark.parametrize("name", SPIKING)
def test_the_first_spike_comes_where_the_free_potential_meets_the_threshold(name: str) -> None:
    layer = SPIKING[name]().double()
    threshold = facts(layer).threshold
    assert threshold is not None
    currents = 4 * threshold * torch.randn(STEPS, N, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    spikes = emitted(layer, currents)
    assert spikes.any()
    assert_first_spikes_where(potential(out_of_reach(layer), currents), threshold, spikes)


@pytest.mark.parametrize("name", READOUTS)
def test_readouts_have_no_threshold(name: str) -> None:
    assert facts(READOUTS[name]()).threshold is None


@pytest.mark.parametrize("name", SPIKING | READOUTS)
def test_reset_brings_a_layer_back_to_its_start(name: str) -> None:
    layer = (SPIKING | READOUTS)[name]()
    currents = 2 * torch.rand(STEPS, N, generator=torch.Generator().manual_seed(0))
    first, second = emitted(layer, currents), emitted(layer, currents)
    FRAMEWORK.reset(layer)
    assert torch.equal(first, emitted(layer, currents))
    assert not torch.equal(first, second)


# -- recurrence ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1)], ids=["flat", "feature maps"])
@pytest.mark.parametrize("name", RECURRENT)
def test_a_layer_without_recurrence_spikes_alike_on_the_recurrent_current(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(6, 6)
    for p in linear.parameters():  # eighths, so that every sum is exact, and small, so that nothing grows without bound
        p.data = torch.randint(-1, 2, p.shape, generator=generator) / 8
    recurrent, plain = RECURRENT[name](nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape)))
    currents = 4 * torch.randn(4, STEPS, *shape, generator=generator)
    spikes = recurrent(currents).transpose(0, 1)
    (synapse,) = member(recurrent).synapses
    current = synapse.current(spikes).transpose(0, 1)
    assert (synapse.module, synapse.source, synapse.port) == (recurrent.rec_connect, "", 0)
    assert spikes.mean() > 0.02
    assert torch.equal(plain(currents + current).transpose(0, 1), spikes)
    assert not torch.equal(plain(currents).transpose(0, 1), spikes)


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrence_leaves_the_facts_of_the_neuron_alone(name: str) -> None:
    recurrent, plain = (facts(layer, Timing(steps=STEPS)) for layer in RECURRENT[name](nn.Linear(N, N)))
    assert recurrent.threshold == plain.threshold
    assert recurrent.kernel.response(STEPS) == pytest.approx(plain.kernel.response(STEPS), abs=0)


# -- options ---------------------------------------------------------------------------------------------------


def test_learnt_constants_are_read_as_they_are_now() -> None:
    layer = sl.LIF(tau_mem=10.0, spike_threshold=torch.tensor(1.0))
    with torch.no_grad():
        layer.tau_mem.fill_(1 / np.log(2))  # halves at each step
        layer.spike_threshold.fill_(3.0)
    assert facts(layer).kernel.response(3) == pytest.approx(np.array([0.5, 0.25, 0.125]), rel=1e-6)
    assert facts(layer).threshold == 3.0


def test_time_counts_in_steps_until_the_user_says_how_long_they_last() -> None:
    layer = sl.LIF(tau_mem=10.0)
    assert (facts(layer).in_steps, facts(layer).kernel.dt) == (True, 1.0)
    told = facts(layer, Timing(dt=2e-3))
    assert (told.in_steps, told.kernel.dt) == (False, 2e-3)
    assert told.kernel.eps_bar == pytest.approx(2e-3)  # norm_input makes the sum over steps 1


@pytest.mark.parametrize("known", [{"batch_size": 4}, {"num_timesteps": 5}], ids=["samples known", "steps known"])
def test_a_squeezed_sequence_is_unfolded_sample_by_sample(known: dict[str, int]) -> None:
    squeezed, plain = sl.LIFSqueeze(tau_mem=10.0, **known), sl.LIF(tau_mem=10.0)
    currents = 5 * torch.randn(4, 5, N, generator=torch.Generator().manual_seed(0))
    flat, wide = member(squeezed).layout, member(plain).layout
    spikes = flat.as_sequence(squeezed(currents.flatten(0, 1)))
    assert spikes.shape == (5, 4, N)
    assert torch.equal(spikes, wide.as_sequence(plain(currents)))
    assert torch.equal(flat.as_called(flat.as_sequence(currents.flatten(0, 1))), currents.flatten(0, 1))


@pytest.mark.parametrize(
    ("known", "what"),
    [({"batch_size": 7}, "7 samples: set the number of samples"), ({"num_timesteps": 9}, "9 steps: set the number of")],
    ids=["samples known", "steps known"],
)
def test_a_squeezed_batch_of_another_size_is_refused(known: dict[str, int], what: str) -> None:
    model = nn.Sequential(nn.Linear(N, N), sl.LIFSqueeze(tau_mem=10.0, **known))
    with pytest.raises(ValueError, match=f"20 frames in one axis are no trials of {what}"):
        fluctua.initialize(model, torch.ones(20, N))


@pytest.mark.parametrize(
    ("make", "note"),
    [
        (lambda: sl.LIF(tau_mem=10.0), None),
        (lambda: sl.LIF(tau_mem=10.0, min_v_mem=-1.0), "cuts its potential off at min_v_mem = -1; "),
        (sl.IAF, "integrates without leak"),
        (lambda: sl.IAF(min_v_mem=-2.0), "integrates without leak.*; it cuts its potential off at min_v_mem = -2; "),
    ],
    ids=["none", "lower limit", "no leak", "both"],
)
def test_facts_that_hold_in_part_come_with_a_note(make: Callable[[], Any], note: str | None) -> None:
    found = facts(make()).note
    assert (found is None) if note is None else re.match(note, found or "")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: sl.LIF(tau_mem=10.0, min_v_mem=0.0), "min_v_mem = 0 .*: take min_v_mem=-spike_threshold or lower"),
        (lambda: sl.ALIF(tau_mem=10.0, tau_adapt=9.0, min_v_mem=0.5), "min_v_mem = 0.5 .*: take min_v_mem="),
        (
            lambda: sl.IAF(reset_fn=activation.MembraneReset(0.25)),
            r"adds its reset_value \(0.25\) at every step.*: use",
        ),
    ],
    ids=["limit at rest", "limit above rest", "reset value"],
)
def test_what_keeps_the_potential_from_fluctuating_is_refused(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(UnsupportedNeuronError, match=reason):
        members_of(make())


def test_a_reset_value_drives_the_potential_without_any_spike() -> None:
    layer = sl.LIF(tau_mem=10.0, reset_fn=activation.MembraneReset(0.25))
    assert layer(torch.zeros(1, 3, 1)).sum() == 0
    assert layer.v_mem.item() > 0.25  # the reason why it is refused


def test_every_stateful_layer_of_the_package_is_known() -> None:
    classes = {kind for kind in vars(sl).values() if inspect.isclass(kind) and issubclass(kind, sl.StatefulLayer)}
    names = {
        kind: {f"{base.__module__}.{base.__qualname__}" for base in kind.__mro__}
        for kind in classes - {sl.StatefulLayer}
    }
    assert len(names) > 8
    assert [kind for kind, bases in names.items() if bases.isdisjoint(FRAMEWORK.facts)] == []
    assert FRAMEWORK.facts.keys() <= set().union(*names.values())
