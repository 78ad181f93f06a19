"""The contract of adapters: what holds of every framework, by the framework's own simulation."""

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network.adapters.registry import specs_of
from fluctua.network.errors import UnsupportedNeuronError
from fluctua.network.facts import Pathway, PopulationSpec
from shared.frameworks.cases import FrameworkCases, class_name, member
from shared.spikes import assert_first_spikes_where, assert_spikes_alike
from shared.tracing import trace

STEPS = 60

FRAMEWORKS: dict[str, FrameworkCases] = {}
MISSING: dict[str, str] = {}
for package in ("own", "snntorch", "norse", "spikingjelly", "sinabs", "rockpool", "stork"):
    try:
        FRAMEWORKS[package] = import_module(f"shared.frameworks.{package}").CASES
    except pytest.skip.Exception as absent:
        MISSING[package] = str(absent)


def every(of: str) -> pytest.MarkDecorator:
    """A test for each case of a table of each framework, or one that says why a framework is skipped."""
    found = [
        pytest.param(cases, key, id=f"{name}-{key}") for name, cases in FRAMEWORKS.items() for key in getattr(cases, of)
    ]
    skipped = [pytest.param(None, None, id=name, marks=pytest.mark.skip(why)) for name, why in MISSING.items()]
    return pytest.mark.parametrize(("cases", "name"), found + skipped)


EVERY_FRAMEWORK = pytest.mark.parametrize(
    "cases",
    [pytest.param(cases, id=name) for name, cases in FRAMEWORKS.items()]
    + [pytest.param(None, id=name, marks=pytest.mark.skip(why)) for name, why in MISSING.items()],
)

# -- neurons ------------------------------------------------------------------------------------------------------


def made(cases: FrameworkCases, name: str) -> Any:
    return cases.neurons[name].make().to(cases.neurons[name].dtype)


_TOLD: dict[tuple[int, str], PopulationSpec] = {}


def told_of(cases: FrameworkCases, name: str) -> PopulationSpec:
    """What fluctua says of a neuron, asked once."""
    key = id(cases), name
    if key not in _TOLD:
        _TOLD[key] = member(made(cases, name), STEPS)
    return _TOLD[key]


def run(cases: FrameworkCases, neuron: Any, *currents: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return cases.run(neuron, *currents)


def free(cases: FrameworkCases, name: str, *currents: Tensor) -> Tensor:
    with torch.no_grad():
        return cases.free(made(cases, name), *currents)


def responses(cases: FrameworkCases, name: str) -> list[Tensor]:
    """Of each input the kernel that fluctua tells, `[T, 1, N]`, or one for all neurons."""
    kernels = told_of(cases, name).neuron.kernels
    return [torch.as_tensor(np.array(kernel.response(STEPS))).reshape(STEPS, 1, -1) for kernel in kernels]


def source_of(q: Pathway) -> str | int | None:
    """The population within the module, or the argument of its call, that a pathway of an adapter starts from."""
    return q.sources[0] if q.sources else q.argument


def silence(cases: FrameworkCases, name: str, steps: int) -> list[Tensor]:
    """No current into each of the inputs."""
    dtype = cases.neurons[name].dtype
    return [torch.zeros(steps, 8, cases.width, dtype=dtype) for _ in told_of(cases, name).neuron.kernels]


@every("neurons")
def test_the_kernels_are_the_responses_to_a_unit_impulse(cases: FrameworkCases, name: str) -> None:
    case = cases.neurons[name]
    still = silence(cases, name, case.settle + STEPS)
    rest = free(cases, name, *still)
    for port, eps in enumerate(responses(cases, name)):
        currents = [x.clone() for x in still]
        currents[port][case.settle] = case.impulse
        answer = (free(cases, name, *currents) - rest)[case.settle :].double() / case.impulse
        torch.testing.assert_close(answer, eps.expand_as(answer), rtol=0, atol=1e-5)
        assert float(eps.abs().max()) > 0.01


@every("neurons")
def test_without_input_the_potential_comes_to_rest_and_stays_there(cases: FrameworkCases, name: str) -> None:
    potential = free(cases, name, *silence(cases, name, cases.neurons[name].settle + 10))[-10:]
    told = member(made(cases, name)).neuron.rest  # of the mean neuron
    assert potential.flatten(1).mean(1).tolist() == pytest.approx([told] * 10, abs=1e-5)


@every("neurons")
def test_a_neuron_first_spikes_where_its_free_potential_meets_the_threshold(cases: FrameworkCases, name: str) -> None:
    told = told_of(cases, name).neuron
    currents = silence(cases, name, STEPS)
    generator = torch.Generator().manual_seed(0)
    for x, eps in zip(currents, responses(cases, name), strict=True):  # the potential is about twice the threshold
        size = 2 * ((told.threshold or 1.0) - told.rest) / eps.square().sum(0, keepdim=True).sqrt()
        x += size * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    output, potential = run(cases, made(cases, name), *currents)
    if told.threshold is None:
        assert torch.equal(output, potential), "a readout gives out its potential"
        return
    potential = free(cases, name, *currents)
    if cases.neurons[name].either_sign:
        potential = potential.abs()
    assert_first_spikes_where(potential, told.threshold, output)
    assert float((output != 0).any(0).double().mean()) > 0.25


@every("neurons")
def test_a_reset_brings_back_the_first_answer(cases: FrameworkCases, name: str) -> None:
    neuron = made(cases, name)
    currents = [torch.rand_like(x) for x in silence(cases, name, 20)]
    for first, again in zip(*(run(cases, neuron, *currents) for _ in range(2)), strict=True):
        assert torch.equal(first, again)


@every("neurons")
def test_a_subclass_is_served_like_its_base_and_a_look_leaves_a_neuron_alone(cases: FrameworkCases, name: str) -> None:
    neuron = made(cases, name)
    base, attributes = member(neuron).neuron, dict(vars(neuron))
    assert {key: value for key, value in vars(neuron).items() if value is not attributes[key]} == {}
    neuron.__class__ = type("Mine", (type(neuron),), {})
    mine = member(neuron).neuron
    assert (mine.threshold, mine.rest, mine.note) == (base.threshold, base.rest, base.note)
    for kernel, expected in zip(mine.kernels, base.kernels, strict=True):
        assert np.array_equal(kernel.response(STEPS), expected.response(STEPS))


@EVERY_FRAMEWORK
def test_time_counts_in_steps_unless_the_framework_or_the_user_says_how_long_they_are(cases: FrameworkCases) -> None:
    neuron = next(iter(cases.neurons.values())).make()
    alone, told = member(neuron).neuron, member(neuron, dt=2e-3).neuron
    assert (alone.in_steps, told.in_steps) == (not cases.adapter.timed, False)
    if not cases.adapter.timed:
        assert (alone.kernel.dt, told.kernel.dt) == (1.0, 2e-3)
        np.testing.assert_allclose(told.kernel.eps_bar, 2e-3 * alone.kernel.eps_bar)


@EVERY_FRAMEWORK
def test_every_class_is_served_or_refused_and_what_is_served_is_tested(cases: FrameworkCases) -> None:
    named = {*cases.adapter.facts, *cases.adapter.refused}
    kinds = {kind: {class_name(base) for base in kind.__mro__} for kind in cases.classes()}
    assert [kind for kind, bases in kinds.items() if named.isdisjoint(bases)] == []
    assert named - set().union(*kinds.values()) == cases.lacking
    recurrent = [case.make()[0] for case in cases.recurrences.values()]
    tested = [*(c.make() for c in cases.neurons.values()), *recurrent, *(make() for make in cases.elsewhere)]
    untested = cases.adapter.facts.keys() - {class_name(base) for n in tested for base in type(n).__mro__}
    assert untested <= cases.lacking


@every("refused")
def test_what_cannot_be_served_is_refused_with_the_reason_and_a_way_out(cases: FrameworkCases, name: str) -> None:
    make, words = cases.refused[name]
    with pytest.raises(UnsupportedNeuronError, match=words):
        specs_of(make())


@every("noted")
def test_facts_that_hold_in_part_come_with_a_note(cases: FrameworkCases, name: str) -> None:
    make, words = cases.noted[name]
    note = member(make()).neuron.note
    assert (note is None) if words is None else re.match(words, note or "")


@every("live")
def test_learnt_constants_are_read_as_they_are_now(cases: FrameworkCases, name: str) -> None:
    neuron, change, response = cases.live[name]()
    change()
    told = member(neuron).neuron.kernel.response(len(response))
    assert told.reshape(len(response), -1)[:, 0] == pytest.approx(np.array(response), rel=1e-6)


@every("recurrences")
def test_the_current_of_an_inner_synapse_is_what_the_framework_adds(cases: FrameworkCases, name: str) -> None:
    """A neuron spikes as one without weights of its own does on the current that fluctua computes."""
    case = cases.recurrences[name]
    x = case.currents()
    neuron, plain = (module.to(x.dtype) for module in case.make())
    spikes, _ = run(cases, neuron, x)
    told, told_of_plain = member(neuron, STEPS), member(plain, STEPS).neuron
    assert [(s.parameter or None, source_of(s), s.port) for s in told.inner] == [(*way, 0) for way in case.inner]
    assert all(s.synapse in nn.Module.modules(neuron) for s in told.inner)
    outside = sum((s.inner(x) for s in told.inner if s.inner and source_of(s) == 0), start=torch.zeros(()))
    inside = sum((s.inner(spikes) for s in told.inner if s.inner and source_of(s) == ""), start=torch.zeros(()))
    if outside.ndim == 0:
        outside = x
    assert told.arguments == ((0,) if outside is x else (None,))
    assert float((spikes != 0).double().mean()) > 0.02
    with torch.no_grad():
        assert_spikes_alike(lambda current: cases.run(plain, current)[0], outside + inside, spikes)
    assert inside.ndim == 0 or not torch.equal(run(cases, plain, outside)[0], spikes)
    assert told.neuron.threshold == told_of_plain.threshold
    assert np.array_equal(told.neuron.kernel.response(STEPS), told_of_plain.kernel.response(STEPS))


# -- networks -----------------------------------------------------------------------------------------------------


@every("networks")
def test_one_call_brings_every_population_to_its_target(cases: FrameworkCases, name: str) -> None:
    """Mean and spread of the potentials of neurons that get what they get in a run, but cannot spike."""
    case = cases.networks[name]
    model, report = case.initialised(fluctua.Target())
    assert {p.name: {q.name: q.sources for q in p.pathways} for p in report} == case.wiring
    seen = cases.observe(model, case)
    assert seen.keys() == case.wiring.keys()
    for population, (_, u) in seen.items():
        assert abs(float(u.mean())) < 0.05, population
        wanted = 0.1 if report[population].threshold is None else 1.0
        assert float(u.std()) == pytest.approx(wanted, rel=case.slack), population


@every("networks")
def test_nothing_but_the_weights_is_changed(cases: FrameworkCases, name: str) -> None:
    """Down to the state that the last run left in the neurons, and the modes of modules."""
    case = cases.networks[name]
    model = case.model()
    written = list(dict.fromkeys(weight for ways in case.wiring.values() for weight in ways))
    frozen = written.pop() if len(written) > 1 else None
    if frozen is not None:
        model.get_parameter(frozen).requires_grad_(False)
    next(nn.Module.children(model)).training = False
    shape = shapes(case.run(model, case.batch()))
    before, weights = everything(cases, model), {key: p.detach().clone() for key, p in model.named_parameters()}
    fluctua.inspect(model, case.batch(), **case.options)
    assert everything(cases, model) == before
    assert changed(model, weights) == set()
    fluctua.initialize(model, case.batch(), seed=0, **case.options)
    assert everything(cases, model) == before
    assert {*written} <= changed(model, weights)
    assert [key for key in changed(model, weights) - {*written} if not is_gain_or_bias(model, key)] == []
    assert shapes(case.run(model, case.batch())) == shape


def changed(model: Any, weights: Mapping[str, Tensor]) -> set[str]:
    return {key for key, p in model.named_parameters() if not torch.equal(p, weights[key])}


def everything(cases: FrameworkCases, model: Any) -> Any:
    """All that must be left alone, in a form that can be compared."""
    modules = list(nn.Module.modules(model))
    return (
        list(model.state_dict()),
        {name: p.requires_grad for name, p in model.named_parameters()},
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks), "forward" in vars(m)) for m in modules],
        {name: content(buffer) for name, buffer in model.named_buffers()},
        content(torch.random.get_rng_state()),
        content(cases.memory(model)),
    )


def content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.dtype, value.detach().tolist()
    if isinstance(value, dict):
        return {key: content(item) for key, item in value.items()}
    return [content(item) for item in value] if isinstance(value, list | tuple) else value


def shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    items = output.values() if isinstance(output, dict) else output if isinstance(output, tuple | list) else ()
    return [shapes(item) for item in items]


def is_gain_or_bias(model: Any, name: str) -> bool:
    owner = model.get_submodule(name.rpartition(".")[0])
    return name.endswith("bias") or isinstance(owner, nn.modules.batchnorm._BatchNorm)


@EVERY_FRAMEWORK
def test_what_ran_before_does_not_matter(cases: FrameworkCases) -> None:
    """Not even with fewer steps and samples."""
    case = cases.networks[cases.kept]
    fresh, used = case.model(), case.model()
    case.run(used, cases.fewer(case.batch()))
    reports = [fluctua.initialize(model, case.batch(), seed=0, **case.options) for model in (fresh, used)]
    assert str(reports[0]) == str(reports[1])
    assert all(torch.equal(a, b) for a, b in zip(*map(nn.Module.parameters, (fresh, used)), strict=True))


@EVERY_FRAMEWORK
def test_a_rate_in_hertz_is_met_as_the_framework_counts_its_spikes(cases: FrameworkCases) -> None:
    name, rate, dt = cases.rated
    case = cases.networks[name]
    model, report = case.initialised(fluctua.Target(rate=rate), dt=dt)
    dt = dt or trace(model, case.batch())[0].neuron.kernel.dt
    for population, (spikes, _) in cases.observe(model, case).items():
        if report[population].rate is not None:
            assert float(spikes.mean()) / dt == pytest.approx(rate, rel=0.05), population
            assert report[population].rate == pytest.approx(float(spikes.mean()) / dt, rel=1e-3), population


@every("alike")
def test_steps_and_whole_sequences_show_the_same(cases: FrameworkCases, name: str) -> None:
    stepped, whole = (cases.networks[key] for key in cases.alike[name])
    reports = (fluctua.inspect(case.model(), case.batch()) for case in (stepped, whole))
    for p, q in zip(*reports, strict=True):
        assert q.mu_u == pytest.approx(p.mu_u, abs=1e-3 * p.sigma_u)
        assert q.sigma_u == pytest.approx(p.sigma_u, rel=1e-3)
        assert q.rate == (None if p.rate is None else pytest.approx(p.rate, rel=1e-2))
