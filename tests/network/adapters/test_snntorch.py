"""The facts of snnTorch's neurons against its own simulation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import framework_of, specs_of
from fluctua.network.adapters.snntorch import FACTS, REFUSED
from fluctua.network.facts import PopulationSpec, UnsupportedNeuronError

snn = pytest.importorskip("snntorch")

STEPS, N = 60, 3
BETAS = torch.tensor([0.5, 0.9, 0.99])
FAR = 1e9  # a threshold that nothing reaches

Make = Callable[..., nn.Module]

NEURONS: dict[str, Make] = {
    "Leaky": lambda **k: snn.Leaky(beta=0.9, **k),
    "Leaky, by neuron": lambda **k: snn.Leaky(beta=BETAS, **k),
    "Leaky, learnt": lambda **k: snn.Leaky(beta=0.8, learn_beta=True, learn_threshold=True, **k),
    "Leaky, decay above 1": lambda **k: snn.Leaky(beta=1.7, **k),
    "Leaky, integrator": lambda **k: snn.Leaky(beta=1.0, **k),
    "Leaky, reset to zero": lambda **k: snn.Leaky(beta=0.9, reset_mechanism="zero", **k),
    "Leaky, no reset": lambda **k: snn.Leaky(beta=0.9, reset_mechanism="none", **k),
    "Leaky, reset at once": lambda **k: snn.Leaky(beta=0.9, reset_delay=False, **k),
    "Leaky, hidden state": lambda **k: snn.Leaky(beta=0.9, init_hidden=True, output=True, **k),
    "Synaptic": lambda **k: snn.Synaptic(alpha=0.7, beta=0.9, **k),
    "Synaptic, equal decays": lambda **k: snn.Synaptic(alpha=0.9, beta=0.9, **k),
    "Synaptic, by neuron": lambda **k: snn.Synaptic(alpha=torch.tensor([0.0, 0.5, 0.9]), beta=BETAS, **k),
    "Synaptic, integrator": lambda **k: snn.Synaptic(alpha=0.8, beta=1.0, **k),
    "Alpha": lambda **k: snn.Alpha(alpha=0.9, beta=0.8, **k),
    "Alpha, by neuron": lambda **k: snn.Alpha(alpha=torch.tensor([0.7, 0.95, 0.9]), beta=0.6, **k),
    "Lapicque, beta": lambda **k: snn.Lapicque(beta=0.9, **k),
    "Lapicque, R and C": lambda **k: snn.Lapicque(R=5.1, C=5e-3, time_step=1e-3, **k),
    "Lapicque, beta and R": lambda **k: snn.Lapicque(beta=0.8, R=3.0, **k),
    "Lapicque, beta and C": lambda **k: snn.Lapicque(beta=0.8, C=2.0, time_step=0.5, **k),
    "RLeaky": lambda **k: snn.RLeaky(beta=0.9, linear_features=N, **k),
    "RLeaky, one to one": lambda **k: snn.RLeaky(beta=0.9, all_to_all=False, V=0.5, **k),
    "RSynaptic": lambda **k: snn.RSynaptic(alpha=0.7, beta=0.9, linear_features=N, **k),
    "RSynaptic, one to one": lambda **k: snn.RSynaptic(alpha=0.7, beta=0.9, all_to_all=False, V=0.5, **k),
    "StateLeaky": lambda **k: snn.StateLeaky(beta=0.9, channels=N, **k),
    "StateLeaky, by neuron": lambda **k: snn.StateLeaky(beta=BETAS, channels=N, **k),
    "StateLeaky, truncated": lambda **k: snn.StateLeaky(beta=BETAS, channels=N, kernel_truncation_steps=7, **k),
    "StateLeaky, readout": lambda **k: snn.StateLeaky(beta=0.9, channels=N, output=False),
    "LinearLeaky": lambda **k: snn.LinearLeaky(beta=0.9, in_features=N, out_features=N, **k),
    "DeltaLeaky": lambda **k: snn.DeltaLeaky(beta=0.9, init_hidden=True, delta_threshold=k.get("threshold", 1.0)),
}


def the_member(neuron: nn.Module, steps: int = STEPS) -> PopulationSpec:
    (member,) = specs_of(neuron, Timing(steps=steps)).values()
    return member


def called(neuron: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and potential `[T, B, N]` of a neuron that is called as its layout says, from rest."""
    framework = framework_of(neuron)
    assert framework is not None
    framework.reset(neuron)
    if not the_member(neuron).layout.stepwise:
        out = neuron(x)
        return (out, out) if isinstance(out, Tensor) else out
    spikes, potentials = [], []
    state: tuple[Any, ...] = ()
    for x_t in x:
        spk, *rest = neuron(x_t, *state)
        state = () if getattr(neuron, "init_hidden", False) else tuple(rest)
        if isinstance(neuron, snn.RLeaky | snn.RSynaptic) and state:
            state = (spk, *rest)
        spikes.append(spk)
        potentials.append(rest[-1][0] - rest[-1][1] if isinstance(neuron, snn.DeltaLeaky) else rest[-1])
    return torch.stack(spikes), torch.stack(potentials)


def without_weights(neuron: nn.Module) -> nn.Module:
    """Linear layers inside the neuron become identities (from outside) or nothing (from its own spikes)."""
    with torch.no_grad():
        for name, layer in neuron.named_modules():
            if isinstance(layer, nn.Linear):
                layer.weight.copy_(torch.eye(N) if name == "linear" else torch.zeros(N, N))
                layer.bias.zero_()
    return neuron


@pytest.mark.parametrize("name", NEURONS)
def test_the_kernel_is_the_response_to_an_impulse(name: str) -> None:
    dtype = torch.float32 if name in ("RLeaky", "RSynaptic") else torch.float64  # spikes are always float32 there
    neuron = without_weights(NEURONS[name](threshold=FAR).to(dtype))
    x = torch.zeros(STEPS, 1, N, dtype=dtype)
    x[5] = 1.0
    _, u = called(neuron, x)
    eps = the_member(neuron).neuron.kernel.response(STEPS - 5)
    expected = np.broadcast_to(eps[:, None] if eps.ndim == 1 else eps, (STEPS - 5, N))
    np.testing.assert_allclose(u[5:, 0].detach().numpy(), expected, rtol=0, atol=1e-5)
    assert np.abs(expected).max() > 0.05
    assert not u[:5].any()


@pytest.mark.parametrize("name", NEURONS)
def test_the_threshold_is_where_it_fires(name: str) -> None:
    neuron = without_weights(NEURONS[name](threshold=0.6))
    facts = the_member(neuron).neuron
    if "readout" in name:
        assert facts.threshold is None
        return
    assert facts.threshold == pytest.approx(0.6)
    assert facts.rest == 0
    peak = float(np.abs(facts.kernel.response(STEPS)).max(0).min())  # of the neuron that responds least
    x = torch.zeros(STEPS, 2, N)
    x[0, 0], x[0, 1] = 0.6 / peak * 1.001, 0.6 / float(np.abs(facts.kernel.response(STEPS)).max()) * 0.999
    spikes, _ = called(neuron, x)
    assert spikes[:, 0].any(0).all()
    assert not spikes[:, 1].any()


@pytest.mark.parametrize("name", ["RLeaky", "RSynaptic"])
@pytest.mark.parametrize("hidden", [False, True], ids=["explicit state", "hidden state"])
def test_the_current_of_a_recurrence_is_what_the_framework_adds(name: str, hidden: bool) -> None:
    options = {"init_hidden": True, "output": True} if hidden else {}
    neuron = NEURONS[name](threshold=1.0, reset_mechanism="none", **options)
    check_recurrence(neuron, torch.randn(STEPS, 4, N, generator=torch.Generator().manual_seed(0)))


def test_the_current_of_a_convolutional_recurrence_is_what_the_framework_adds() -> None:
    neuron = snn.RLeaky(beta=0.9, conv2d_channels=2, kernel_size=3, reset_mechanism="none")
    check_recurrence(neuron, torch.randn(STEPS, 2, 2, 4, 5, generator=torch.Generator().manual_seed(0)))


def check_recurrence(neuron: nn.Module, x: Tensor) -> None:
    """Without reset the potential is that of the input and of the recurrent current together."""
    spikes, u = called(neuron, x)
    member = the_member(neuron)
    (synapse,) = member.inner
    assert (synapse.synapse, synapse.sources, synapse.port) == (neuron.recurrent, ("",), 0)
    total = x + synapse.inner(spikes)
    eps = torch.as_tensor(member.neuron.kernel.response(len(x))).float()
    expected = torch.stack([torch.einsum("k,k...->...", eps[: t + 1].flip(0), total[: t + 1]) for t in range(len(x))])
    torch.testing.assert_close(u, expected, rtol=1e-5, atol=1e-5)
    assert spikes.any()


def test_a_recurrence_of_each_neuron_with_itself_alone_is_no_synapse() -> None:
    assert the_member(NEURONS["RLeaky, one to one"]()).inner == ()


def test_the_weights_of_a_linear_leaky_are_an_afferent_synapse() -> None:
    neuron: Any = NEURONS["LinearLeaky"]()
    member = the_member(neuron)
    (synapse,) = member.inner
    x = torch.randn(STEPS, 2, N, generator=torch.Generator().manual_seed(0))
    assert member.arguments == (None,)
    assert (synapse.synapse, synapse.argument) == (neuron.linear, 0)
    torch.testing.assert_close(synapse.inner(x), neuron.linear(x))


@pytest.mark.parametrize("name", NEURONS)
def test_a_reset_brings_back_the_first_answer(name: str) -> None:
    neuron = NEURONS[name]()
    x = torch.rand(STEPS, 2, N, generator=torch.Generator().manual_seed(0))
    spikes, u = called(neuron, x)
    again, u_again = called(neuron, x)
    assert torch.equal(spikes, again)
    assert torch.equal(u, u_again)


def test_kernels_follow_the_live_parameters() -> None:
    neuron = snn.Leaky(beta=0.5, learn_beta=True)
    with torch.no_grad():
        neuron.beta.fill_(0.75)
    assert float(the_member(neuron).neuron.kernel.response(2)[1]) == 0.75


def test_time_counts_in_steps_unless_the_user_says_how_long_they_are() -> None:
    neuron = snn.Leaky(beta=0.9)
    in_steps, in_seconds = the_member(neuron).neuron, specs_of(neuron, Timing(dt=2e-3))[""].neuron
    assert in_steps.in_steps
    assert not in_seconds.in_steps
    assert float(in_seconds.kernel.eps_bar) == pytest.approx(2e-3 * float(in_steps.kernel.eps_bar))


def test_every_neuron_of_the_package_is_served_or_refused() -> None:
    classes = [getattr(snn, name) for name in dir(snn) if isinstance(getattr(snn, name), type)]
    neurons = {f"{c.__module__}.{c.__qualname__}" for c in classes if c.__module__.startswith("snntorch._neurons")}
    assert neurons - {"snntorch._neurons.neurons.LIF"} == FACTS.keys() | REFUSED.keys()  # LIF has no forward


REFUSED_NEURONS: dict[str, Make] = {
    "AssociativeLeaky": lambda: snn.AssociativeLeaky(N, 2, 2, 4),
    "LeakyParallel": lambda: snn.LeakyParallel(N, N, beta=0.9),
    "SConv2dLSTM": lambda: snn.SConv2dLSTM(1, 1, 3),
    "SLSTM": lambda: snn.SLSTM(N, N),
    "one of the user": lambda: type("Mine", (snn.SpikingNeuron,), {})(),
}


@pytest.mark.parametrize("name", REFUSED_NEURONS)
def test_what_is_not_linear_is_refused_with_a_way_out(name: str) -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"of snntorch cannot be initialised: .*(use|say|takes) "):
        specs_of(REFUSED_NEURONS[name]())


def test_a_lapicque_that_changes_sign_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match="time_step of R C at most"):
        specs_of(snn.Lapicque(beta=0.3))


def test_a_rounded_potential_is_noted() -> None:
    from snntorch.functional import quant

    assert "state_quant" in (the_member(snn.Leaky(beta=0.9, state_quant=quant.state_quant(4))).neuron.note or "")
