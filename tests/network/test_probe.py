"""Laws of probing: what is measured of a neuron is what its formulas say, and the neuron is as it was."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network import ProbedNeuron
from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.registry import specs_of
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.probe import probe
from fluctua.neurons import LI, LIF, AdaptiveLIF, spike
from fluctua.theory import PspKernel

T = 100


class Leak(nn.Module):
    """`v <- decay v + gain x`, with whatever a test adds to it; spikes above 1."""

    def __init__(self, decay: float | list[float] = 0.9, gain: float = 1.0) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.tensor(decay))
        self.gain, self.v = gain, torch.zeros(())
        self.theta = 1.0

    def restart(self) -> None:
        self.v = torch.zeros(())

    def charged(self, x: Tensor) -> Tensor:
        return self.decay * self.v + self.gain * x

    def forward(self, x: Tensor) -> Tensor:
        v = self.charged(x)
        spikes = (v > self.theta).to(v)
        self.v = v * (1 - spikes)
        return spikes


class Rectified(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return super().charged(x).relu()


class Floored(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return super().charged(x).clamp(min=-0.2)


class Pacemaker(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return super().charged(x) + 0.2


class Drifting(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return self.v + x - 1e-4


class Lifted(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return super().charged(x) + 0.05


class Graded(Leak):
    def forward(self, x: Tensor) -> Tensor:
        self.v = self.charged(x)
        return self.v.relu()


class Deaf(Leak):
    def charged(self, x: Tensor) -> Tensor:
        return 0 * x


class Stepped(nn.Module):
    """An own neuron, one step at a time, with its state passed from call to call."""

    def __init__(self, neuron: Any) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor, *state: Any) -> tuple[Any, ...]:
        before = state[0] if state else self.neuron.initial_state(x[None])
        output, after = self.neuron.step(x, before)
        self.potential = before.potential
        return output, after


SPEC = ProbedNeuron(threshold="theta", membrane="v", reset="restart")
TIMING = Timing(dt=1e-3, steps=T)

OWN: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: LIF(20e-3, 10e-3, 2e-3),
    "delta synapse": lambda: LIF(20e-3, None, 2e-3),
    "heterogeneous": lambda: LIF(torch.linspace(5e-3, 20e-3, 5), 10e-3, 2e-3),
    "adaptive": lambda: AdaptiveLIF(),
    "readout": lambda: LI(50e-3, 10e-3, 2e-3),
}


@pytest.mark.parametrize("name", OWN)
def test_an_own_neuron_is_measured_as_its_table_says(name: str) -> None:
    neuron = OWN[name]()
    threshold = "neuron.threshold" if hasattr(neuron, "threshold") else None
    spec = ProbedNeuron(threshold, "potential", passes_state=True)
    table = specs_of(neuron)[""].neuron
    measured = probe(Stepped(neuron), spec, Timing(dt=table.kernel.dt, steps=T))
    assert measured.threshold == table.threshold
    assert np.abs(measured.kernel.response(T) - table.kernel.response(T)).max() < 1e-6
    assert measured.kernel.eps_hat == pytest.approx(table.kernel.eps_hat, rel=1e-5)


def _snntorch(name: str, **constants: Any) -> tuple[nn.Module, ProbedNeuron]:
    snntorch = pytest.importorskip("snntorch")
    neuron = getattr(snntorch, name)(init_hidden=True, **constants)
    return neuron, ProbedNeuron("threshold", "mem", reset="reset_mem")


def _norse(name: str) -> tuple[nn.Module, ProbedNeuron]:
    norse = pytest.importorskip("norse.torch")
    neuron = getattr(norse, name)()
    if name == "LIFRefracCell":
        return neuron, ProbedNeuron("p.lif.v_th", lambda module, output: output[1].lif.v, passes_state=True)
    threshold = "p.v_th" if hasattr(neuron.p, "v_th") else None
    return neuron, ProbedNeuron(threshold, lambda module, output: output[1].v, passes_state=True)


def _spikingjelly(name: str, **constants: Any) -> tuple[nn.Module, ProbedNeuron]:
    spikingjelly = pytest.importorskip("spikingjelly.activation_based.neuron")
    neuron = getattr(spikingjelly, name)(**constants)
    return neuron, ProbedNeuron("v_threshold", "v", reset="reset")


def _sinabs(name: str, **constants: Any) -> tuple[nn.Module, ProbedNeuron]:
    sinabs = pytest.importorskip("sinabs.layers")
    neuron = getattr(sinabs, name)(**constants)
    threshold = None if name == "ExpLeak" else "b0" if name == "ALIF" else "spike_threshold"
    return neuron, ProbedNeuron(threshold, "v_mem", time="second", reset="reset_states")


KNOWN: dict[str, Callable[[], tuple[nn.Module, ProbedNeuron]]] = {
    "snntorch Leaky": lambda: _snntorch("Leaky", beta=0.9),
    "snntorch Leaky, vector": lambda: _snntorch("Leaky", beta=torch.tensor([0.5, 0.7, 0.9])),
    "snntorch Synaptic": lambda: _snntorch("Synaptic", alpha=0.8, beta=0.9),
    "snntorch Alpha": lambda: _snntorch("Alpha", alpha=0.9, beta=0.8),
    "snntorch Lapicque": lambda: _snntorch("Lapicque", R=5.0, C=1e-3, time_step=1e-3),
    "norse LIFCell": lambda: _norse("LIFCell"),
    "norse LIFBoxCell": lambda: _norse("LIFBoxCell"),
    "norse LIFRefracCell": lambda: _norse("LIFRefracCell"),
    "norse LICell": lambda: _norse("LICell"),
    "norse IAFCell": lambda: _norse("IAFCell"),
    "norse LSNNCell": lambda: _norse("LSNNCell"),
    "spikingjelly IFNode": lambda: _spikingjelly("IFNode"),
    "spikingjelly LIFNode": lambda: _spikingjelly("LIFNode", tau=3.0),
    "spikingjelly LIFNode, input not decayed": lambda: _spikingjelly("LIFNode", tau=3.0, decay_input=False),
    "spikingjelly ParametricLIFNode": lambda: _spikingjelly("ParametricLIFNode"),
    "spikingjelly CUBALIFNode": lambda: _spikingjelly("CUBALIFNode"),
    "spikingjelly QIFNode": lambda: _spikingjelly("QIFNode"),
    "sinabs LIF": lambda: _sinabs("LIF", tau_mem=20.0),
    "sinabs LIF with synapse": lambda: _sinabs("LIF", tau_mem=20.0, tau_syn=10.0),
    "sinabs LIF, not normalised": lambda: _sinabs("LIF", tau_mem=20.0, norm_input=False),
    "sinabs IAF": lambda: _sinabs("IAF"),
    "sinabs IAF with synapse": lambda: _sinabs("IAF", tau_syn=10.0),
    "sinabs ExpLeak": lambda: _sinabs("ExpLeak", tau_mem=20.0),
    "sinabs ALIF": lambda: _sinabs("ALIF", tau_mem=20.0, tau_adapt=50.0),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_neuron_of_a_framework_is_measured_as_its_table_says(name: str) -> None:
    neuron, spec = KNOWN[name]()
    table = specs_of(neuron, Timing(steps=T))[""].neuron
    measured = probe(neuron, spec, Timing(dt=table.kernel.dt, steps=T))
    expected = table.kernel.response(T)
    assert measured.threshold == pytest.approx(table.threshold)
    assert measured.rest == pytest.approx(specs_of(neuron)[""].neuron.rest, abs=1e-9)
    # QIF is linearised in its table: its response to an impulse of 1e-3 is off by some of that.
    tolerance = 1e-3 if "QIF" in name else 1e-6
    assert np.abs(measured.kernel.response(T) - expected).max() < tolerance * np.abs(expected).max()
    assert measured.kernel.eps_hat == pytest.approx(table.kernel.eps_hat, rel=tolerance)


def test_a_measured_kernel_is_exact_to_the_precision_of_float64() -> None:
    measured = probe(Leak(0.5, gain=3.0), SPEC, TIMING)
    decay = float(torch.tensor(0.5))
    assert np.abs(measured.kernel.response(T) - 3 * decay ** np.arange(T)).max() < 1e-11
    assert measured.rest == 0


def test_neurons_that_differ_have_a_kernel_each() -> None:
    decays = [0.5, 0.75, 0.875]
    measured = probe(Leak(decays), SPEC, TIMING)
    expected = np.stack([PspKernel.one_pole(1.0, decay, 1e-3).response(T) for decay in decays], 1)
    assert np.abs(measured.kernel.response(T) - expected).max() < 1e-11


def test_a_perfect_integrator_takes_the_trials_length() -> None:
    measured = probe(Leak(1.0, gain=0.5), SPEC, TIMING)
    expected = PspKernel.integrator(0.5, 1e-3, T)
    assert measured.kernel.eps_hat == pytest.approx(expected.eps_hat, rel=1e-9)
    assert measured.kernel.eps_bar == pytest.approx(expected.eps_bar, rel=1e-9)
    assert "does not settle" in str(measured.note)


def test_a_resting_potential_is_measured() -> None:
    assert probe(Lifted(0.5), SPEC, TIMING).rest == pytest.approx(0.05 / (1 - 0.5), rel=1e-6)


def test_what_is_linear_only_near_rest_is_said_to_be() -> None:
    """A floor at -0.2 is out of reach of a small impulse, not of one that leads half-way to the threshold."""
    assert "linear only near rest" in str(probe(Floored(0.9), SPEC, TIMING).note)
    assert "linear" not in str(probe(Leak(0.9), SPEC, TIMING).note)


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (Rectified, "it rectifies"),
        (Pacemaker, "fires without input"),
        (Drifting, "does not come to rest"),
        (Deaf, "does not respond to an impulse"),
        (Graded, "emits something"),
    ],
    ids=["rectified", "pacemaker", "drifting", "deaf", "graded"],
)
def test_a_neuron_that_weights_cannot_govern_is_refused(neuron: type[Leak], reason: str) -> None:
    with pytest.raises(UnsupportedNeuronError, match=reason):
        probe(neuron(), SPEC, TIMING)


def test_a_wrong_description_is_answered_by_what_to_check() -> None:
    with pytest.raises(UnsupportedNeuronError, match="no attribute 'v_th': check threshold="):
        probe(Leak(), ProbedNeuron("v_th", "v"), TIMING)
    with pytest.raises(UnsupportedNeuronError, match="check time=, membrane="):
        probe(Leak(), ProbedNeuron(1.0, "u"), TIMING)


class Forgetful(nn.Module):
    """Of a synaptic current that lives on for a step within a sequence, nothing is kept for the next call."""

    def forward(self, x: Tensor) -> Tensor:
        current = x + torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        for now in current:
            self.v = 0.5 * self.__dict__.get("v", 0.0) + now
        return torch.zeros_like(x)


def test_a_sequence_neuron_that_forgets_between_calls_is_not_taken_for_one_that_does_not() -> None:
    spec = ProbedNeuron(1.0, "v", time="first", reset=lambda m: m.__dict__.pop("v", None))
    with pytest.raises(UnsupportedNeuronError, match="ends at another potential"):
        probe(Forgetful(), spec, TIMING)


def test_the_neuron_is_left_as_it_was() -> None:
    neuron = Leak([0.5, 0.75])
    neuron(torch.rand(7, 2))
    state, decay = neuron.v, neuron.decay
    values = state.clone()
    random = torch.get_rng_state()
    probe(neuron, SPEC, TIMING)
    assert neuron.v is state
    assert neuron.decay is decay
    assert torch.equal(state, values)
    assert state.dtype == decay.dtype == torch.float32
    assert decay.requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert list(neuron.state_dict()) == ["decay"]


def test_nothing_is_run_while_the_trials_length_is_unknown() -> None:
    class Broken(Leak):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("was run")

    assert probe(Broken(), SPEC, Timing()).threshold == 1.0


class Adapting(nn.Module):
    """As sparch has it: adaptation follows the potential, by a coupling that may make it unstable."""

    def __init__(self, coupling: Tensor) -> None:
        super().__init__()
        self.a = nn.Parameter(coupling)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        u = w = torch.zeros_like(x[0])
        spikes, potentials = [], []
        for now in x:
            u, w = 0.9 * u + 0.1 * (now - w), 0.97 * w + self.a * u
            spikes.append((u >= 1).to(x))
            potentials.append(u)
        return torch.stack(spikes), torch.stack(potentials)


def test_unstable_neurons_among_stable_ones_are_named() -> None:
    described = ProbedNeuron(threshold=1.0, membrane=1, time="first")
    with pytest.raises(
        UnsupportedNeuronError, match=r"2 of 4 neurons of Adapting are unstable: below threshold an impulse grows"
    ):
        probe(Adapting(torch.tensor([0.1, -1.0, 0.0, -0.5])), described, Timing(None, 30))
    probe(Adapting(torch.tensor([0.1, 0.02, 0.0, 0.05])), described, Timing(None, 30))


# --- a potential that nobody sees: what it does is stated, and spikes bear it out ---


class LocalMembrane(nn.Module):
    """As TET, tdBN and MS-ResNet write it: the potential is a variable of the call."""

    def __init__(self, theta: float = 1.0, decay: float = 0.5) -> None:
        super().__init__()
        self.theta, self.decay = theta, decay

    def forward(self, x: Tensor) -> Tensor:
        u, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            u = self.decay * u + x[:, t]
            spikes: Tensor = spike(u - self.theta)
            u = (1 - spikes) * u
            out.append(spikes)
        return torch.stack(out, 1)


def test_a_stated_kernel_sets_a_potential_that_nobody_sees() -> None:
    x = (torch.rand(16, 80, 30, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(30, 40), LocalMembrane())
    stated: dict[type[nn.Module], ProbedNeuron] = {
        LocalMembrane: ProbedNeuron(threshold="theta", decay="decay", time="second")
    }
    report = fluctua.initialize(model, x, neurons=stated, time=1, seed=0)
    assert report["1"].sigma_u == pytest.approx(1.0, rel=0.02)
    with torch.no_grad():
        current, u, potentials = model[0](x), torch.zeros(16, 40), []
        for t in range(80):
            u = 0.5 * u + current[:, t]
            potentials.append(u)
    assert float(torch.stack(potentials).std()) == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"threshold": 2.0, "decay": 0.5}, "should just raise it to its threshold 2, but it fires below that"),
        ({"threshold": 1.0, "decay": 0.5, "gain": 3.0}, "but it fires not above that"),
        ({"threshold": 1.0, "decay": 1.5}, "must be fractions left after a step"),
        ({"threshold": 1.0, "decay": "tau"}, "has no attribute 'tau': check decay="),
    ],
)
def test_what_spikes_do_not_bear_out_is_refused(stated: dict[str, Any], words: str) -> None:
    model, x = nn.Sequential(nn.Linear(30, 40), LocalMembrane()), torch.rand(4, 20, 30)
    neurons: dict[type[nn.Module], ProbedNeuron] = {LocalMembrane: ProbedNeuron(time="second", **stated)}
    with pytest.raises(UnsupportedNeuronError, match=words):
        fluctua.initialize(model, x, neurons=neurons, time=1)


def test_a_potential_is_found_or_stated() -> None:
    with pytest.raises(ValueError, match=r"needs membrane= \(where its potential is\) or decay="):
        ProbedNeuron(threshold=1.0)


class Insisting(nn.Module):
    """Its first call wants the state, one tensor or several as one argument."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.packed = packed

    def forward(self, x: torch.Tensor, state: Any) -> Any:
        u = 0.9 * (state[0] if self.packed else state) + x
        spikes = fluctua.neurons.spike(u - 1.0)
        u = u * (1 - spikes)
        return spikes, (u, u) if self.packed else u


@pytest.mark.parametrize("packed", [False, True])
def test_a_state_that_the_first_call_insists_on_is_zero_or_stated(packed: bool) -> None:
    start = (lambda module, x: ((torch.zeros_like(x),) * 2,)) if packed else None
    membrane = (lambda module, output: output[1][0]) if packed else 1
    spec = ProbedNeuron(threshold=1.0, membrane=membrane, passes_state=True, start=start)
    facts = probe(Insisting(packed), spec, Timing(None, 50))
    np.testing.assert_allclose(facts.kernel.response(5), 0.9 ** np.arange(5), rtol=1e-6)


class InOneTuple(nn.Module):
    """Takes current and membrane as one argument, and insists on it."""

    def __init__(self, tau: float = 5.0) -> None:
        super().__init__()
        self.tau = tau

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        syn, mem = state
        syn = 0.8 * syn + x
        mem = (1 - 1 / self.tau) * mem + syn
        z = spike(mem - 1.0)
        return z, (syn, mem * (1 - z))


def test_states_in_one_tuple_are_passed_on_as_one() -> None:
    described = ProbedNeuron(
        1.0, membrane=lambda m, out: out[1][1], passes_state=True, start=lambda m, x: (torch.zeros_like(x),) * 2
    )
    neuron = probe(InOneTuple(), described, Timing(None, T))
    syn = mem = 0.0
    eps = []
    for k in range(20):
        syn = 0.8 * syn + (k == 0)
        mem = 0.8 * mem + syn
        eps.append(mem)
    np.testing.assert_allclose(np.ravel(neuron.kernel.response(20)), eps, rtol=1e-6)


class Hidden(Leak):
    """Neither its potential nor its leak can be read."""

    def __init__(self, tau: float) -> None:
        super().__init__(1 - 1 / tau)
        self.tau = tau


def test_a_constant_may_be_a_function_of_the_module() -> None:
    stated = ProbedNeuron(threshold=lambda m: m.theta, decay=lambda m: 1 - 1 / m.tau, reset="restart")
    neuron = probe(Hidden(4.0), stated, Timing(None, T))
    np.testing.assert_allclose(np.ravel(neuron.kernel.response(4)), 0.75 ** np.arange(4))


class WithWeights(Leak):
    """A layer and its neurons in one module."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(units, inputs))

    def charged(self, x: Tensor) -> Tensor:
        return super().charged(x @ self.weight.T)


@pytest.mark.parametrize("inputs", [20, 30])
def test_weights_on_the_way_to_the_potential_are_named(inputs: int) -> None:
    described = ProbedNeuron(1.0, membrane="v", reset="restart")
    with pytest.raises(UnsupportedNeuronError, match=r"apply weights that it holds \(weight\) before it"):
        probe(WithWeights(inputs, 20), described, Timing(None, T))


class Sized(Leak):
    """Its state is a buffer of the last batch's shape, and it takes currents of its own neurons only."""

    def __init__(self) -> None:
        super().__init__([0.5, 0.9])
        del self.v
        self.register_buffer("v", torch.zeros(4, 2))

    def charged(self, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError("one axis of samples, one of neurons")
        return super().charged(x)


def test_where_a_state_hides_the_shape_the_constants_tell_it() -> None:
    spec = ProbedNeuron(threshold="theta", membrane="v", reset="restart")
    eps = probe(Sized(), spec, Timing(dt=1e-3, steps=T)).kernel.response(3)
    np.testing.assert_allclose(eps, [[1.0, 1.0], [0.5, 0.9], [0.25, 0.81]], rtol=1e-6)
