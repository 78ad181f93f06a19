"""Laws of norse's facts: kernel, threshold and inner synapses of every class against norse's own simulation."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Timing
from fluctua.network.adapters.norse import FACTS, REFUSED
from fluctua.network.adapters.registry import members_of
from fluctua.network.facts import Member, UnsupportedNeuronError
from shared.spikes import assert_spikes_alike

norse = pytest.importorskip("norse.torch")

T, B, N = 80, 3, 4
OUT_OF_REACH = torch.tensor(1e9)
EACH = torch.linspace(40.0, 160.0, N)  # a rate for each neuron, 1/s

Build = Callable[..., nn.Module]


def plain(name: str, parameters: str, **constants: Any) -> Build:
    """A class that takes its parameters only."""

    def build(**more: Any) -> nn.Module:
        p = getattr(norse, parameters)(**constants | more)
        module: nn.Module = getattr(norse, name)(p=p)
        return module.double()

    return build


def own_weights(name: str, parameters: str, **constants: Any) -> Build:
    """A class with weights: the identity for its input, none for its spikes."""

    def build(**more: Any) -> nn.Module:
        p = getattr(norse, parameters)(**constants | more)
        module: Any = getattr(norse, name)(N, N, p=p)
        with torch.no_grad():
            module.input_weights.copy_(torch.eye(N))
            if hasattr(module, "recurrent_weights"):
                module.recurrent_weights.zero_()
        return module.double()  # type: ignore[no-any-return]

    return build


def refractory(build: Callable[..., Build], name: str, parameters: str, inner: str, field: str) -> Build:
    """A class whose parameters hold those of the neuron without a refractory period."""

    def built(**constants: Any) -> nn.Module:
        return build(name, parameters, **{field: getattr(norse, inner)(**constants)})()

    return built


LINEAR: Mapping[str, Build] = {
    "LIF": plain("LIF", "LIFParameters"),
    "LIF, constants of each neuron": plain("LIF", "LIFParameters", tau_mem_inv=EACH, tau_syn_inv=2 * EACH),
    "LIF, equal time constants": plain("LIF", "LIFParameters", tau_mem_inv=torch.tensor(200.0)),
    "LIF, leak potential": plain("LIF", "LIFParameters", v_leak=torch.tensor(-0.5)),
    "LIFCell": plain("LIFCell", "LIFParameters"),
    "LIFCell, leak potential": plain("LIFCell", "LIFParameters", v_leak=torch.tensor(0.3)),
    "LIFRecurrent": own_weights("LIFRecurrent", "LIFParameters"),
    "LIFRecurrentCell": own_weights("LIFRecurrentCell", "LIFParameters", tau_syn_inv=torch.tensor(300.0)),
    "LIFRefracCell": refractory(plain, "LIFRefracCell", "LIFRefracParameters", "LIFParameters", "lif"),
    "LIFRefracRecurrent": refractory(own_weights, "LIFRefracRecurrent", "LIFRefracParameters", "LIFParameters", "lif"),
    "LIFRefracRecurrentCell": refractory(
        own_weights, "LIFRefracRecurrentCell", "LIFRefracParameters", "LIFParameters", "lif"
    ),
    "LIFBoxCell": plain("LIFBoxCell", "LIFBoxParameters", tau_mem_inv=torch.tensor(50.0)),
    "IAF": plain("IAF", "IAFParameters"),
    "IAFCell": plain("IAFCell", "IAFParameters", v_reset=torch.tensor(-0.2)),
    "LSNN": plain("LSNN", "LSNNParameters"),
    "LSNNCell": plain("LSNNCell", "LSNNParameters", tau_mem_inv=torch.tensor(50.0)),
    "LSNNRecurrent": own_weights("LSNNRecurrent", "LSNNParameters"),
    "LSNNRecurrentCell": own_weights("LSNNRecurrentCell", "LSNNParameters"),
    "LI": plain("LI", "LIParameters", v_leak=torch.tensor(0.1)),
    "LICell": plain("LICell", "LIParameters"),
    "LILinearCell": own_weights("LILinearCell", "LIParameters"),
    "LIBoxCell": plain("LIBoxCell", "LIBoxParameters"),
}
SPIKING = [name for name in LINEAR if not name.startswith("LI") or name.startswith("LIF")]
NONLINEAR: Mapping[str, Build] = {
    "LIFEx": plain("LIFEx", "LIFExParameters"),
    "LIFExCell": plain("LIFExCell", "LIFExParameters", delta_T=torch.tensor([0.1, 0.3, 0.5, 0.6])),
    "LIFExRecurrent": own_weights("LIFExRecurrent", "LIFExParameters"),
    "LIFExRecurrentCell": own_weights("LIFExRecurrentCell", "LIFExParameters"),
    "LIFAdEx": plain("LIFAdEx", "LIFAdExParameters"),
    "LIFAdExCell": plain("LIFAdExCell", "LIFAdExParameters", tau_ada_inv=EACH),
    "LIFAdExRecurrent": own_weights("LIFAdExRecurrent", "LIFAdExParameters"),
    "LIFAdExRecurrentCell": own_weights("LIFAdExRecurrentCell", "LIFAdExParameters"),
    "LIFAdExRefracCell": refractory(
        plain, "LIFAdExRefracCell", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
    "LIFAdExRefracRecurrent": refractory(
        own_weights, "LIFAdExRefracRecurrent", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
    "LIFAdExRefracRecurrentCell": refractory(
        own_weights, "LIFAdExRefracRecurrentCell", "LIFAdExRefracParameters", "LIFAdExParameters", "lif_adex"
    ),
}
ALL = {**LINEAR, **NONLINEAR}
RECURRENT = {  # with the class that does the same to a current from outside
    "LIFRecurrent": "LIF",
    "LIFRecurrentCell": "LIFCell",
    "LIFRefracRecurrent": "LIFRefracCell",
    "LIFRefracRecurrentCell": "LIFRefracCell",
    "LSNNRecurrent": "LSNN",
    "LSNNRecurrentCell": "LSNNCell",
    "LIFExRecurrent": "LIFEx",
    "LIFExRecurrentCell": "LIFExCell",
    "LIFAdExRecurrent": "LIFAdEx",
    "LIFAdExRecurrentCell": "LIFAdExCell",
    "LIFAdExRefracRecurrent": "LIFAdExRefracCell",
    "LIFAdExRefracRecurrentCell": "LIFAdExRefracCell",
}


def member(module: nn.Module) -> Member:
    return members_of(module, Timing(steps=T))[""]


def simulated(module: nn.Module, x: Tensor, state: Any = None) -> tuple[Tensor, Tensor]:
    """Output and potential `[T, B, N]` of a module on `x` by norse itself."""
    outputs, potentials = [], []
    sequence = not member(module).layout.stepwise
    with torch.no_grad():
        for now in x:  # a sequence module gets sequences of one step
            output, state = module(now[None] if sequence else now, state)
            outputs.append(output[0] if sequence else output)
            potentials.append(_potential(state).expand(x.shape[1:]))
    return torch.stack(outputs), torch.stack(potentials)


def _potential(state: Any) -> Tensor:
    v: Tensor = state.v if hasattr(state, "v") else state[0].v
    return v.detach()


def without_spikes(name: str, build: Build) -> nn.Module:
    return build(v_th=OUT_OF_REACH) if name in SPIKING else build()


def impulse(size: float = 1.0) -> Tensor:
    x = torch.zeros(T, B, N, dtype=torch.float64)
    x[0] = size
    return x


@pytest.mark.parametrize("name", LINEAR)
def test_the_kernel_is_the_response_of_the_free_potential_to_a_unit_impulse(name: str) -> None:
    module = without_spikes(name, LINEAR[name])
    neuron = member(module).neuron
    answer = simulated(module, impulse())[1] - simulated(module, 0 * impulse())[1]
    eps = torch.as_tensor(neuron.kernel.response(T)).reshape(T, 1, -1)
    assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_without_input_the_potential_stays_at_rest(name: str) -> None:
    module = without_spikes(name, LINEAR[name])
    u = simulated(module, 0 * impulse())[1]
    assert torch.allclose(u, torch.full_like(u, member(module).neuron.rest), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SPIKING)
def test_a_neuron_fires_where_an_impulse_lifts_its_potential_above_the_threshold(name: str) -> None:
    module = LINEAR[name]()
    neuron = member(module).neuron
    assert neuron.threshold == 1.0
    size = (neuron.threshold - neuron.rest) / neuron.kernel.response(T).reshape(T, -1).max(0)
    below, above = (simulated(module, impulse() * torch.as_tensor(factor * size))[0] for factor in (0.99, 1.01))
    assert not below.any()
    assert above.any(0).all()


@pytest.mark.parametrize("name", [name for name in LINEAR if name not in SPIKING])
def test_a_readout_has_no_threshold_and_gives_out_its_potential(name: str) -> None:
    module = LINEAR[name]()
    output, potential = simulated(module, torch.rand(T, B, N, dtype=torch.float64))
    assert member(module).neuron.threshold is None
    assert torch.equal(output, potential)


@pytest.mark.parametrize("name", NONLINEAR)
def test_an_exponential_neuron_is_linearised_at_rest(name: str) -> None:
    module, size = NONLINEAR[name](), 1e-4
    neuron = member(module).neuron
    up, still, down = (simulated(module, impulse(s), at_rest(module))[1] for s in (size, 0.0, -size))
    assert torch.allclose(still, still[:1].expand_as(still), rtol=0, atol=1e-9)
    assert float(still.mean()) == pytest.approx(neuron.rest, abs=1e-9)
    answer = (up - down) / (2 * size)  # the odd part: what is quadratic in the size is gone
    eps = torch.as_tensor(neuron.kernel.response(T)).reshape(T, 1, -1)
    assert torch.allclose(answer, eps.expand_as(answer), rtol=0, atol=1e-5)
    assert "linearised" in (neuron.note or "")


def at_rest(module: Any) -> Any:
    """The state in which an exponential neuron stays: found by letting it run down without current."""
    p = getattr(module.p, "lif_adex", module.p)
    coupling = p.adaptation_current if hasattr(p, "adaptation_current") else 0
    v = torch.zeros(B, N, dtype=torch.float64)
    for _ in range(1000):  # leak and adaptation pull by (1 + coupling) v, the upstroke by less: a contraction
        v = p.v_leak + p.delta_T * torch.exp((v - p.v_th) / p.delta_T) / (1 + coupling)
    state = module.state_fallback(impulse()[0] if member(module).layout.stepwise else impulse())
    inner = state if hasattr(state, "v") else state[0]
    inner = inner._replace(v=v, **({"a": coupling * (v - p.v_leak)} if hasattr(inner, "a") else {}))
    return inner if hasattr(state, "v") else state._replace(**{state._fields[0]: inner})


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_module_fires_as_one_without_recurrence_does_on_the_inner_currents(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    module: Any = ALL[name]()
    twin: Any = ALL[RECURRENT[name]]()
    twin.p = module.p
    with torch.no_grad():
        for weight in (module.input_weights, module.recurrent_weights):
            weight.copy_(8 * torch.randn(N, N, generator=generator))
        module.recurrent_weights.fill_diagonal_(0)
    x = (torch.rand(T, B, N, generator=generator) < 0.2).double()
    spikes, _ = simulated(module, x)
    given, back = member(module).synapses
    assert spikes.mean() > 0.05
    assert_spikes_alike(lambda total: simulated(twin, total)[0], given.current(x) + back.current(spikes), spikes)


@pytest.mark.parametrize("name", RECURRENT)
def test_inner_synapses_say_where_they_come_from(name: str) -> None:
    found = member(ALL[name]())
    assert [(s.source, s.port, s.parameter) for s in found.synapses] == [
        (0, 0, "input_weights"),
        ("", 0, "recurrent_weights"),
    ]
    assert found.arguments == (None,)


@pytest.mark.parametrize("autapses", [False, True])
def test_no_current_flows_by_autapses_that_a_module_does_not_have(autapses: bool) -> None:
    module = norse.LIFRecurrent(N, N, autapses=autapses)
    torch.nn.init.ones_(module.recurrent_weights)
    spikes = torch.zeros(2, 1, N)
    spikes[0, 0, 0] = 1
    synapse = member(module).synapses[1]
    assert torch.equal(synapse.current(spikes)[1, 0], torch.tensor([float(autapses), 1, 1, 1]))
    assert synapse.mask is None if autapses else torch.equal(synapse.mask, 1 - torch.eye(N))  # type: ignore[arg-type]


def test_every_class_of_the_table_is_tested() -> None:
    tried = {type(build()) for build in ALL.values()}
    assert {f"{c.__module__}.{c.__qualname__}" for c in tried} == set(FACTS)


@pytest.mark.parametrize("name", REFUSED)
def test_the_name_of_a_refused_class_is_that_of_a_class(name: str) -> None:
    assert isinstance(getattr(norse, name.rpartition(".")[2]), type)
    assert getattr(norse, name.rpartition(".")[2]).__module__ == name.rpartition(".")[0]


def test_a_refused_neuron_is_named_with_the_way_out() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"CobaLIFCell .* conductances.* use LIFCell"):
        members_of(norse.CobaLIFCell(3, 4))


def test_a_time_constant_shorter_than_the_step_is_refused() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"LIFCell has dt \* tau_syn_inv = 2, .* another dt"):
        members_of(norse.LIFCell(dt=0.01))


def test_an_exponential_neuron_that_fires_without_input_is_refused() -> None:
    p = norse.LIFExParameters(delta_T=torch.tensor(1.5))
    with pytest.raises(UnsupportedNeuronError, match=r"no resting potential at delta_T = 1.5 .* smaller delta_T"):
        members_of(norse.LIFEx(p=p))


def test_an_adaptation_that_alone_holds_a_neuron_back_is_refused() -> None:
    p = norse.LIFAdExParameters(delta_T=torch.tensor(6.0))
    with pytest.raises(UnsupportedNeuronError, match=r"upstroke outgrows its leak .* smaller delta_T"):
        members_of(norse.LIFAdEx(p=p))
