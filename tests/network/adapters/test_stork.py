"""Models of stork: the facts of its groups, and their state after one call, by its own simulation."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network.adapters.registry import framework_of, members_of
from fluctua.network.adapters.stork import FACTS
from fluctua.network.facts import Member, UnsupportedNeuronError

DT, STEPS, BATCH, INPUTS, WIDTH, N = 1e-3, 100, 16, 60, 32, 3

try:  # pragma: no cover - the tests run on either
    from stork.connections import Connection
    from stork.layers import ConvLayer  # noqa: F401 - tells a true stork
    from stork.models import RecurrentSpikingModel as Model
    from stork.nodes import (
        AdaptiveLIFGroup,
        AdaptLearnLIFGroup,
        Exc2InhLIFGroup,
        ExcInhAdaptiveLIFGroup,
        ExcInhLIFGroup,
        InputGroup,
        LIFGroup,
        MaxPool1d,
        ReadoutGroup,
    )

    MORE: dict[str, Any] = {
        "AdaptLearnLIFGroup": lambda: AdaptLearnLIFGroup(N),
        "ExcInhAdaptiveLIFGroup": lambda: ExcInhAdaptiveLIFGroup(N),
    }
    REAL = True
except ImportError:
    from shared.stork_layout import (
        AdaptiveLIFGroup,
        Connection,
        Exc2InhLIFGroup,
        ExcInhLIFGroup,
        InputGroup,
        LIFGroup,
        MaxPool1d,
        ReadoutGroup,
    )
    from shared.stork_layout import RecurrentSpikingModel as Model

    MORE, REAL = {}, False

GROUPS: dict[str, Any] = {
    "LIFGroup": lambda: LIFGroup(N, tau_mem=20e-3, tau_syn=10e-3),
    "LIFGroup, equal time constants": lambda: LIFGroup(N, tau_mem=10e-3, tau_syn=10e-3),
    "LIFGroup, learnt": lambda: LIFGroup(N, learn_timescales=True),
    "AdaptiveLIFGroup": lambda: AdaptiveLIFGroup(N),
    "ExcInhLIFGroup": lambda: ExcInhLIFGroup(N, tau_exc=4e-3, tau_inh=8e-3),
    "ExcInhLIFGroup, by neuron": lambda: ExcInhLIFGroup(N, sigma_tau=0.3),
    "Exc2InhLIFGroup": lambda: Exc2InhLIFGroup(N, tau_nmda=50e-3),
    "ReadoutGroup": lambda: ReadoutGroup(N, initial_state=0.0),
    **MORE,
}


def configured(model: Any, source: Any, output: Any) -> Any:
    if REAL:
        from stork.loss_stacks import LossStack

        model.configure(source, output, loss_stack=LossStack(), time_step=DT)
    else:
        model.configure(source, output, time_step=DT)
    return model


def alone(name: str) -> Any:
    """A group in a model of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(1, STEPS, N)
        source, group = model.add_group(InputGroup(N)), model.add_group(GROUPS[name]())
        model.add_connection(Connection(source, group))
        configured(model, source, group)
    return group


def the_member(group: nn.Module) -> Member:
    (member,) = members_of(group).values()
    return member


def driven(group: Any, target: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes and the membrane that decides on them, `[T, B, N]`, from rest; for a readout what it puts out, twice."""
    framework = framework_of(group)
    assert framework is not None
    framework.reset(group)
    spikes: list[Tensor] = []
    potentials: list[Tensor] = []
    for x_t in x:
        group.add_to_state(target, x_t)
        before = getattr(group, "mem", None)
        group.evolve()
        group.clear_input()
        spikes.append(group.out)
        potentials.append(group.out if before is None else before)
    return torch.stack(spikes), torch.stack(potentials)


@pytest.mark.parametrize("name", GROUPS)
def test_the_kernels_are_the_responses_to_an_impulse(name: str) -> None:
    group = alone(name)
    targets = ("exc", "inh") if "Inh" in name else ("input",)
    kernels = the_member(group).neuron.kernels
    assert len(kernels) == len(targets)
    for target, kernel in zip(targets, kernels, strict=True):
        x = torch.zeros(STEPS, 1, N)
        x[5] = 0.5
        _, u = driven(group, target, x)
        eps = kernel.response(STEPS - 5)
        expected = 0.5 * np.broadcast_to(eps[:, None] if eps.ndim == 1 else eps, (STEPS - 5, N))
        np.testing.assert_allclose(u[5:, 0].detach().numpy(), expected, rtol=0, atol=1e-5)
        assert np.abs(expected).max() > 0.01


@pytest.mark.parametrize("name", GROUPS)
def test_the_threshold_is_where_it_fires(name: str) -> None:
    group = alone(name)
    facts = the_member(group).neuron
    if name == "ReadoutGroup":
        assert facts.threshold is None
        return
    assert facts.threshold == 1.0
    peaks = facts.kernel.response(STEPS).max(0)
    for size, fires in ((1.001 / peaks.min(), True), (0.999 / peaks.max(), False)):
        x = torch.zeros(STEPS, 1, N)
        x[0] = float(size)
        spikes, _ = driven(group, group.default_target, x)
        assert bool(spikes.any(0).all() if fires else spikes.any()) is fires


@pytest.mark.parametrize("name", GROUPS)
def test_a_reset_brings_back_the_first_answer(name: str) -> None:
    group = alone(name)
    x = 3 * torch.rand(STEPS, 1, N, generator=torch.Generator().manual_seed(0))
    first, again = (driven(group, group.default_target, x)[0] for _ in range(2))
    assert torch.equal(first, again)
    assert first.any()


def test_every_group_of_the_adapter_is_tested() -> None:
    tested = {f"{type(make()).__module__}.{type(make()).__qualname__}" for make in GROUPS.values()}
    missing = FACTS.keys() - tested
    assert missing == set() if REAL else all("AdaptLearn" in name or "ExcInhAdaptive" in name for name in missing)


def test_a_group_needs_its_time_step() -> None:
    with pytest.raises(UnsupportedNeuronError, match=r"call model.configure"):
        members_of(LIFGroup(N))


def test_constrained_weights_are_refused() -> None:
    group = alone("ExcInhLIFGroup")
    connection = Connection(InputGroup(N), group)
    connection.constraints = [object()]
    group.afferents = [connection]
    with pytest.raises(UnsupportedNeuronError, match=r"initialiser of DalianLayer, or build the layer"):
        members_of(group)


def deep() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = last = model.add_group(InputGroup(INPUTS))
    for _ in range(7):
        group = model.add_group(LIFGroup(WIDTH, tau_mem=20e-3, tau_syn=10e-3))
        model.add_connection(Connection(last, group))
        last = group
    output = model.add_group(ReadoutGroup(10))
    model.add_connection(Connection(last, output, bias=True))
    return configured(model, source, output)


def recurrent() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup(INPUTS))
    first, second = model.add_group(LIFGroup(WIDTH)), model.add_group(AdaptiveLIFGroup(WIDTH))
    output = model.add_group(ReadoutGroup(10))
    for a, b in ((source, first), (first, first), (first, second), (second, second), (second, output)):
        model.add_connection(Connection(a, b))
    return configured(model, source, output)


def residual() -> Any:
    """A shortcut over a layer, and a group with two kinds of input."""
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup(INPUTS))
    first, second, third = (model.add_group(make(WIDTH)) for make in (LIFGroup, LIFGroup, ExcInhLIFGroup))
    output = model.add_group(ReadoutGroup(10))
    for a, b in ((source, first), (first, second), (source, second), (second, third), (third, output)):
        model.add_connection(Connection(a, b))
    model.add_connection(Connection(first, third, target="inh"))
    return configured(model, source, output)


def convolutional() -> Any:
    model = Model(BATCH, STEPS, INPUTS)
    source = model.add_group(InputGroup((1, INPUTS)))
    first = model.add_group(LIFGroup((6, 28)))
    pooled = model.add_group(MaxPool1d(first))
    output = model.add_group(ReadoutGroup(10))
    model.add_connection(Connection(source, first, operation=nn.Conv1d, kernel_size=5, stride=2))
    model.add_connection(Connection(first, first, operation=nn.Conv1d, kernel_size=5, padding=2))
    model.add_connection(Connection(pooled, output, flatten_input=True))
    return configured(model, source, output)


INPUT = ("input",)
MODELS: dict[str, tuple[Any, dict[str, dict[str, tuple[str, ...]]], float]] = {
    "deep": (
        deep,
        {f"group{i}": {f"con{i - 1}.op.weight": (f"group{i - 1}",) if i > 2 else INPUT} for i in range(2, 10)},
        0.05,
    ),
    "recurrent": (
        recurrent,
        {
            "group2": {"con1.op.weight": INPUT, "con2.op.weight": ("group2",)},
            "group3": {"con3.op.weight": ("group2",), "con4.op.weight": ("group3",)},
            "group4": {"con5.op.weight": ("group3",)},
        },
        0.1,
    ),
    "residual": (
        residual,
        {
            "group2": {"con1.op.weight": INPUT},
            "group3": {"con2.op.weight": ("group2",), "con3.op.weight": INPUT},
            "group4": {"con4.op.weight": ("group3",), "con6.op.weight": ("group2",)},
            "group5": {"con5.op.weight": ("group4",)},
        },
        0.05,
    ),
    "convolutional": (
        convolutional,
        {
            "group2": {"con1.op.weight": INPUT, "con2.op.weight": ("group2",)},
            "group4": {"con3.op.weight": ("group2",)},
        },
        0.1,
    ),
}


def made(name: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name][0]()


def trains() -> Tensor:
    return (torch.rand(STEPS, BATCH, INPUTS, generator=torch.Generator().manual_seed(1)) < 0.05).float()


def free_potentials(model: Any, x: Tensor) -> dict[str, Tensor]:
    """Membranes `[T, B, *N]` of groups that get what they get in a run of the model and are not reset by their spikes.

    Each group runs beside the model: in its own step it fires, and a second time with its spikes withheld.
    """
    groups = {name: g for name, g in model.named_children() if hasattr(g, "dcy_mem")}
    inputs: dict[str, list[dict[str, Tensor]]] = {name: [] for name in groups}
    model.reset_states(x.shape[1])
    model.input_group.feed_data(x.transpose(0, 1))
    for t in range(len(x)):
        model.input_group.clk = t
        for name, group in groups.items():
            inputs[name].append(
                {key: group.states[key].clone() for key in group.states if key in ("input", "exc", "inh")}
            )
        model.evolve_all()
        model.propagate_all()
    potentials = {}
    for name, group in groups.items():
        group.reset_state(x.shape[1])
        scale = 1e-6  # of the input, so that a threshold of 1 is out of reach, and the group is linear
        if isinstance(group, ReadoutGroup):
            scale, group.out = 1.0, torch.zeros_like(group.out)
        seen = []
        for given in inputs[name]:
            for key, current in given.items():
                group.add_to_state(key, scale * current)
            before = getattr(group, "mem", None)  # what the step decides on; a readout puts out what comes of it
            group.evolve()
            group.clear_input()
            seen.append((group.out if before is None else before) / scale)
        potentials[name] = torch.stack(seen).detach()
    return potentials


@pytest.mark.parametrize("name", MODELS)
def test_every_population_is_in_the_wanted_state(name: str) -> None:
    _, wiring, tolerance = MODELS[name]
    model, x = made(name), trains()
    report = fluctua.initialize(model, x, seed=0)
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in report} == wiring
    for population, u in free_potentials(model, x).items():
        assert abs(float(u.mean())) < 0.05, population
        assert float(u.std()) == pytest.approx(1.0, rel=tolerance), population


@pytest.mark.parametrize("name", MODELS)
def test_nothing_but_the_weights_is_changed(name: str) -> None:
    model, x = made(name), trains()
    shape = model.run(x.transpose(0, 1)).shape
    generator, keys = torch.random.get_rng_state(), list(model.state_dict())
    attributes = [dict(vars(m)) for m in model.modules()]
    states = [(g.out, {key: (s, s.clone()) for key, s in g.states.items()}) for g in model.groups]
    fluctua.initialize(model, x, seed=0)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert list(model.state_dict()) == keys
    for module, before in zip(model.modules(), attributes, strict=True):
        assert vars(module).keys() == before.keys()
    for group, (out, before) in zip(model.groups, states, strict=True):
        assert group.out is out
        assert all(group.states[key] is s and torch.equal(s, value) for key, (s, value) in before.items())
    assert model.run(x.transpose(0, 1)).shape == shape


def test_a_run_that_the_user_writes_shows_the_same_state() -> None:
    def run(model: Any, x: Tensor) -> Any:
        return model.run(x)

    model, x = made("recurrent"), trains()
    fluctua.initialize(model, x, seed=0)
    ours, theirs = fluctua.inspect(model, x), fluctua.inspect(model, x.transpose(0, 1), forward=run)
    assert [p.name for p in ours] == [p.name for p in theirs]
    for p, q in zip(ours, theirs, strict=True):
        assert (p.mu_u, p.sigma_u) == (pytest.approx(q.mu_u, abs=1e-3 * q.sigma_u), pytest.approx(q.sigma_u, rel=1e-3))
