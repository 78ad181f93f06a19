"""Laws of tracing: populations come in the order in which they run, each with exactly what feeds it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

import fluctua
from fluctua.layers import OverTime
from fluctua.methods.components import SilentInputError
from fluctua.network import WiringError
from fluctua.network.facts import INPUT, Pathway, Population
from fluctua.network.network import Network
from fluctua.network.preserve import preserved
from fluctua.network.run import hooked
from fluctua.neurons import LIF
from shared.functions import Function
from shared.spikes import spikes as random_spikes
from shared.tracing import trace
from shared.wiring_networks import (
    CASES,
    CONVOLUTIONAL,
    FLAT,
    IMAGE,
    SEQUENTIAL,
    Feeds,
    Joined,
    Layers,
    Residual,
    convolutional,
    sequential,
    shared_weight,
)


def feeds(populations: tuple[Population, ...]) -> list[Feeds]:
    return [(p.name, {q.name: q.sources for q in p.pathways}, p.unweighted) for p in populations]


spikes = partial(random_spikes, p=0.3)


def pathways(model: nn.Module, shape: tuple[int, ...] = FLAT) -> dict[str, Pathway]:
    """All pathways by the name of population and weight."""
    return {f"{p.name} < {q.name}": q for p in trace(model, spikes(*shape)) for q in p.pathways}


def only_pathway(model: nn.Module, shape: tuple[int, ...] = FLAT) -> Pathway:
    (pathway,) = pathways(model, shape).values()
    return pathway


@pytest.mark.parametrize("name", CASES)
def test_populations_come_in_the_order_of_execution_with_what_feeds_them(name: str) -> None:
    case = CASES[name]
    model = case.model()
    populations = trace(model, case.batch())
    assert feeds(populations) == case.feeds
    modules = dict(model.named_modules())
    for p in populations:
        assert modules[p.name] is p.module
        for q in p.pathways:
            assert modules[q.name.removesuffix(f".{q.parameter}")] is q.synapse


class Experiment:
    """Runs a model with the output of every neuron held at what it was, but for one that may be disturbed."""

    def __init__(self, model: nn.Module, batch: Tensor, populations: tuple[Population, ...]) -> None:
        self.model, self.batch, self.populations = model, batch, populations
        self._outputs: dict[str, Tensor] = {}
        self.rest = self.currents()

    def currents(self, batch: Tensor | None = None, disturbed: str | None = None) -> dict[str, Tensor]:
        """The input current of each population."""
        seen: dict[str, Tensor] = {}

        def read(name: str) -> Any:
            return lambda module, args: seen.update({name: args[0].detach().clone()})

        def hold(name: str) -> Any:
            def held(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                kept = self._outputs.setdefault(name, output.detach().clone())
                noise = torch.rand(kept.shape, generator=torch.Generator().manual_seed(2)).to(kept)
                return kept + noise if name == disturbed else kept.clone()

            return held

        with preserved(self.model), torch.no_grad():  # hooks that were there before are silent in it
            handles = [p.module.register_forward_pre_hook(read(p.name)) for p in self.populations]
            handles += [p.module.register_forward_hook(hold(p.name)) for p in self.populations]
            with hooked(handles):
                self.model(self.batch if batch is None else batch)
        return seen

    def reached(self, currents: dict[str, Tensor]) -> set[str]:
        """The populations whose current is not what it was."""
        return {name for name, current in currents.items() if not torch.equal(current, self.rest[name])}


@pytest.mark.parametrize("name", CASES)
def test_sources_are_the_populations_whose_spikes_make_a_difference(name: str) -> None:
    case = CASES[name]
    model = case.model()
    populations = trace(model, case.batch())
    experiment = Experiment(model, case.batch(), populations)
    for source in populations:
        said = {p.name for p in populations if source.name in {*p.unweighted, *sources(p)}}
        assert experiment.reached(experiment.currents(disturbed=source.name)) == said
    reached = experiment.reached(experiment.currents(batch=1 - case.batch()))
    assert {p.name for p in populations if INPUT in sources(p)} <= reached


def sources(population: Population) -> set[str]:
    return {source for q in population.pathways for source in q.sources}


@pytest.mark.parametrize("name", CASES)
def test_pathways_are_the_weights_that_make_a_difference(name: str) -> None:
    case = CASES[name]
    model = case.model()
    populations = trace(model, case.batch())
    experiment = Experiment(model, case.batch(), populations)
    for key, weight in model.named_parameters():
        if weight.ndim >= 2 and "gain" not in key and "offset" not in key:
            said = {p.name for p in populations if any(weight is own for own in weights_into(p))}
            with disturbed(weight):
                assert experiment.reached(experiment.currents()) == said, key


def weights_into(population: Population) -> Iterator[Tensor]:
    """The weights of its pathways and of what the signal passes on the way to them."""
    for q in population.pathways:
        for module in (q.synapse, *q.through):
            yield from module.parameters()


@contextmanager
def disturbed(weight: Tensor) -> Iterator[None]:
    """A weight with noise added inside the block."""
    before = weight.detach().clone()
    with torch.no_grad():
        weight += torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)).to(weight)
        yield
        weight.copy_(before)


# -- what lies between ------------------------------------------------------------------------------------------


def operation(function: Callable[[Tensor], Tensor], *shape: int) -> str:
    """What autograd calls a function."""
    node = function(torch.ones(shape, requires_grad=True)).grad_fn
    assert node is not None
    return re.sub(r"Backward\d", "", node.name())


BETWEEN: dict[str, tuple[list[nn.Module], list[str]]] = {
    "nothing": ([], []),
    "identity": ([nn.Identity()], []),
    "a new shape": ([nn.Flatten(2), nn.Unflatten(2, (4, 6, 6)), Function(lambda y: y.contiguous())], []),
    "another view": ([Function(lambda y: y.unsqueeze(0).squeeze(0).view_as(y))], []),
    "average pooling": ([OverTime(nn.AvgPool2d(2))], [operation(nn.AvgPool2d(2), 1, 1, 2, 2)]),
    "in this order": (
        [OverTime(nn.MaxPool2d(2)), nn.ReLU(), Function(torch.neg)],
        [operation(nn.MaxPool2d(2), 1, 1, 2, 2), "Relu", "Neg"],
    ),
    "dropout": ([nn.Dropout(0.5)], [operation(nn.Dropout(0.5), 3)]),
    "batch norm": ([OverTime(nn.BatchNorm2d(4))], [operation(nn.BatchNorm2d(1), 2, 1, 2, 2)]),
    "in place": ([Function(torch.relu), Function(lambda y: y.mul_(2))], ["Relu", "Mul"]),
    "in place on a view": ([Function(lambda y: y.mul_(2))], ["CopySlices"]),
    "addition": ([Function(lambda y: y + 1)], ["Add"]),
    "powers": ([Function(lambda y: y.pow(2)), Function(lambda y: y.sum(-1))], ["Pow", "Sum"]),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_via_names_the_operations_between_synapse_and_neuron(name: str) -> None:
    modules, expected = BETWEEN[name]
    pathway = only_pathway(nn.Sequential(OverTime(nn.Conv2d(2, 4, 3)), *modules, LIF()), IMAGE)
    assert list(pathway.via) == expected


def test_dropout_in_eval_mode_is_no_operation() -> None:
    model = nn.Sequential(nn.Linear(20, 4), nn.Dropout(0.5), LIF())
    assert len(only_pathway(model).via) == 1
    assert only_pathway(model.eval()).via == ()


def test_each_pathway_has_the_operations_of_its_own_way() -> None:
    found = pathways(Residual())
    assert found["lif_c < c.weight"].via == ("Add", "Sub")
    assert found["lif_c < skip.weight"].via == ("Add", "Sub")
    assert found["lif_b < b.weight"].via == ("Add",)
    assert found["lif_a < a.weight"].via == ()


NORMS: list[tuple[list[nn.Module], int | None]] = [
    ([OverTime(nn.BatchNorm2d(4))], 0),
    ([OverTime(nn.GroupNorm(2, 4))], 0),
    ([nn.LayerNorm([4, 6, 6])], 0),
    ([nn.RMSNorm([6])], 0),
    ([OverTime(nn.InstanceNorm2d(4, affine=True))], 0),
    ([OverTime(nn.BatchNorm2d(4)), nn.ReLU(inplace=True), OverTime(nn.AvgPool2d(2))], 0),
    ([OverTime(nn.BatchNorm2d(4)), nn.LayerNorm([6])], 1),
    ([OverTime(nn.BatchNorm2d(4)), OverTime(nn.BatchNorm2d(4, affine=False))], None),
    ([OverTime(nn.BatchNorm2d(4, affine=False))], None),
    ([OverTime(nn.InstanceNorm2d(4))], None),
]


@pytest.mark.parametrize(("modules", "last"), NORMS)
def test_the_norm_is_the_last_before_the_neuron_if_it_has_a_gain(modules: list[nn.Module], last: int | None) -> None:
    before = OverTime(nn.BatchNorm2d(2))  # its scale is that of the synapse's input
    model = nn.Sequential(before, OverTime(nn.Conv2d(2, 4, 3)), *modules, LIF())
    norm = None if last is None else modules[last]
    norms = () if norm is None else (norm.module if isinstance(norm, OverTime) else norm,)
    assert only_pathway(model, IMAGE).norms == norms


def test_a_norm_belongs_to_the_pathways_that_pass_it() -> None:
    class Model(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.LayerNorm(12)

        def forward(self, x: Tensor) -> Any:
            return self.lif_a(self.norm(self.a(x)) + self.skip(x))

    model = Model()
    found = pathways(model)
    assert found["lif_a < a.weight"].norms == (model.norm,)
    assert found["lif_a < skip.weight"].norms == ()


def test_in_a_chain_of_layers_the_one_next_to_the_neuron_is_the_synapse() -> None:
    first, second, third = nn.Linear(20, 9), nn.Linear(9, 8), nn.Linear(8, 7)
    model = nn.Sequential(first, nn.ReLU(), second, third, LIF(), nn.Linear(7, 6), nn.Linear(6, 5), LIF())
    found = pathways(model)
    assert found.keys() == {"4 < 3.weight", "7 < 6.weight"}
    assert found["4 < 3.weight"].synapse is third
    assert found["4 < 3.weight"].through == (second, first)
    assert found["7 < 6.weight"].through == (model[5],)
    assert found["7 < 6.weight"].sources == ("4",)


def test_what_a_neuron_sends_does_not_pass_the_layers_before_it() -> None:
    found = pathways(Joined())
    assert all(q.through == () for q in found.values())


# -- weights to be skipped -----------------------------------------------------------------------------------


def test_a_plain_weight_may_be_written() -> None:
    for case in (CASES["sequential"], CASES["convolutional"], CASES["model.compile()"], CASES["chains of layers"]):
        assert all(q.skipped_because is None for p in trace(case.model(), case.batch()) for q in p.pathways)


def test_a_frozen_weight_is_found_and_skipped_because() -> None:
    model = sequential()
    model[2].requires_grad_(False)
    reasons = [q.skipped_because for q in pathways(model).values()]
    assert reasons == [None, "frozen (requires_grad=False)", None]


def test_a_model_that_is_frozen_altogether_is_traced_all_the_same() -> None:
    model = sequential().requires_grad_(False)
    populations = trace(model, spikes(*FLAT))
    assert feeds(populations) == SEQUENTIAL
    assert {q.skipped_because for p in populations for q in p.pathways} == {"frozen (requires_grad=False)"}


@pytest.mark.parametrize("name", ["shared weight", "shared module", "residual stream in place"])
def test_a_shared_weight_belongs_to_the_first_population_that_it_feeds(name: str) -> None:
    case = CASES[name]
    owner: dict[int, str] = {}
    for p in trace(case.model(), case.batch()):
        for q in p.pathways:
            first = owner.setdefault(id(q.weight), p.name)
            assert q.skipped_because == (
                None if first == p.name else f"shared with {first}, for which it was initialised"
            )
    assert len(owner) < sum(len(names) for _, names, _ in case.feeds)


def test_a_shared_weight_that_is_frozen_gives_the_nearer_reason() -> None:
    model = shared_weight()
    for p in model.parameters():
        p.requires_grad_(False)
    assert [q.skipped_because for q in pathways(model).values()] == [
        "frozen (requires_grad=False)",
        "frozen (requires_grad=False)",
        "shared with 3, for which it was initialised",
    ]


@pytest.mark.parametrize(
    "name", ["weight_norm", "spectral_norm", "orthogonal", "weight_norm by hook", "spectral_norm by hook"]
)
def test_a_parametrised_weight_is_found_and_skipped_because(name: str) -> None:
    case = CASES[name]
    populations = trace(case.model(), case.batch())
    reasons = [q.skipped_because for p in populations for q in p.pathways]
    alone = "parametrised: initialise it before parametrising it"
    sizeless = "its size has no effect on the output"
    assert reasons == 2 * [sizeless if "weight_norm" in name else alone] + [None]
    assert all(q.normed == ("weight_norm" in name) for p in populations[:2] for q in p.pathways)
    assert [tuple(q.weight.shape) for p in populations for q in p.pathways] == [(12, 20), (12, 12), (4, 12)]


def test_looking_at_a_spectral_norm_does_not_move_it_on() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(20, 12)), LIF())
    pathway = only_pathway(model)
    before = [b.clone() for b in model.buffers()]
    looks = [pathway.weight.detach() for _ in range(3)]
    assert all(torch.equal(look, looks[0]) for look in looks)
    assert all(torch.equal(b, now) for b, now in zip(before, model.buffers(), strict=True))


def test_a_parametrisation_with_weights_of_its_own_is_no_layer() -> None:
    class LowRank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Parameter(torch.randn(12, 2)), nn.Parameter(torch.randn(2, 20))

        def forward(self, weight: Tensor) -> Tensor:
            return weight + self.left @ self.right

    layer = nn.Linear(20, 12)
    parametrize.register_parametrization(layer, "weight", LowRank())
    found = pathways(nn.Sequential(layer, LIF())).values()
    assert [q.name for q in found if q.synapse is layer] == [
        "0.parametrizations.weight.original",
        "0.parametrizations.weight.0.left",
    ]
    assert len(found) == 2


# -- facts of a pathway -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(7, 3, bias=False), (1, 7)),
        (nn.Conv1d(4, 6, 5, dilation=2, bias=False), (1, 4, 40)),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False), (1, 4, 9, 9)),
        (nn.Conv3d(2, 2, 2, stride=2, bias=False), (1, 2, 8, 8, 8)),
        (nn.ConvTranspose1d(4, 6, 6, stride=3, bias=False), (1, 4, 12)),
        (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2, bias=False), (1, 4, 9, 9)),
    ],
)
def test_fan_in_counts_the_afferents_of_a_neuron(layer: nn.Module, shape: tuple[int, ...]) -> None:
    for p in layer.parameters():
        nn.init.ones_(p)
    summed = layer(torch.ones(shape))
    middle = summed[(0, 0, *(n // 2 for n in summed.shape[2:]))]  # away from the border
    assert Pathway("w", layer, "weight", (INPUT,)).fan_in == int(middle)


def test_the_bias_is_the_tensor_of_that_name_or_none() -> None:
    with_bias, without = nn.Linear(3, 2), nn.Linear(3, 2, bias=False)
    assert Pathway("w", with_bias, "weight", (INPUT,)).bias is with_bias.bias
    assert Pathway("w", without, "weight", (INPUT,)).bias is None
    rnn = nn.GRU(3, 2)
    assert Pathway("w", rnn, "weight_ih_l0", (INPUT,), bias_name="bias_ih_l0").bias is rnn.bias_ih_l0
    assert Pathway("w", with_bias, "weight", (INPUT,), bias_name=None).bias is None


def test_a_layer_with_several_weights_is_a_pathway_for_each() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Parameter(torch.randn(20, 4)), nn.Parameter(torch.randn(4, 20))

        def forward(self, x: Tensor) -> Any:
            return x @ self.first + x.flip(2) @ self.second.T

    (population,) = trace(nn.Sequential(Two(), LIF()), spikes(*FLAT))
    assert {q.parameter: q.rows for q in population.pathways} == {"first": 1, "second": 0}
    assert {q.sources for q in population.pathways} == {(INPUT,)}


# -- how the model is run ---------------------------------------------------------------------------------------


def test_gradients_may_be_off_around_the_call() -> None:
    with torch.no_grad():
        assert feeds(trace(sequential(), spikes(*FLAT))) == SEQUENTIAL


def test_a_forward_of_the_users_own_runs_the_model() -> None:
    def forward(model: nn.Module, batch: Any) -> Any:
        return model(batch["x"])

    batch = {"x": spikes(*IMAGE), "label": 3}
    assert feeds(trace(convolutional(), batch, forward)) == CONVOLUTIONAL


def test_a_neuron_alone_is_a_population_that_nothing_feeds() -> None:
    (population,) = trace(LIF(), spikes(*FLAT))
    assert (population.name, population.pathways, population.unweighted) == ("model", (), ())


def test_half_precision_and_two_steps_are_enough() -> None:
    model = sequential().bfloat16()
    assert feeds(trace(model, spikes(2, 1, 20).bfloat16())) == SEQUENTIAL


# -- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compiled", ["layer", "several", "traced"])
def test_a_layer_compiled_by_jit_is_left_and_the_rest_initialised(compiled: str) -> None:
    """Also its running statistics stay as they were."""
    several = nn.Sequential(nn.Flatten(0, 1), nn.Linear(12, 20), nn.BatchNorm1d(20), nn.Unflatten(0, (40, 6)))
    x = spikes(40, 6, 12)
    compile_: Any = partial(torch.jit.trace, example_inputs=x) if compiled == "traced" else torch.jit.script
    layer = compile_(several if compiled == "several" else nn.Linear(12, 20))
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(5)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    report = fluctua.initialize(nn.Sequential(layer, LIF(), nn.Linear(20, 10), LIF()), x, fluctua.Target(), seed=0)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert report["3"].sigma_u == pytest.approx(1.0, abs=1e-3)
    assert any("torch.jit hides how it acts" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_silence_behind_a_layer_compiled_by_jit_names_it_and_blames_no_time() -> None:
    layer = torch.jit.script(nn.Linear(12, 20))
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(0.01)
    with pytest.raises(
        SilentInputError, match=r"for 0\.weight was left as it is \(torch\.jit .*Give it weights"
    ) as refusal:
        fluctua.initialize(nn.Sequential(layer, LIF(), nn.Linear(20, 10), LIF()), spikes(40, 6, 12), seed=0)
    assert "Activity needs time" not in str(refusal.value)


def test_a_weight_borrowed_from_a_layer_is_refused() -> None:
    class Tied(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.lif_b(F.linear(self.lif_a(self.a(x)), self.b.weight))

    refused(Tied(), r"the weight b\.weight feeds lif_b from outside a layer of its own")


def refused(model: nn.Module, message: str, batch: Any = None) -> None:
    """In one sentence, and with the model as it was."""
    keys = [set(vars(m)) for m in model.modules()]
    with pytest.raises(WiringError, match=message) as refusal:
        trace(model, spikes(*FLAT) if batch is None else batch)
    assert ". " not in str(refusal.value)
    assert [set(vars(m)) for m in model.modules()] == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_without_neurons_is_refused() -> None:
    refused(nn.Sequential(nn.Linear(20, 4), nn.ReLU()), r"no spiking neuron found.*\(Linear, ReLU\) is known;")


def test_a_model_whose_neurons_are_not_reached_is_refused() -> None:
    class Idle(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.a(x)

    refused(Idle(), "reached none of its neurons$")


def test_a_neuron_called_twice_is_refused() -> None:
    class Twice(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.lif_a(self.b(self.lif_a(self.a(x))))

    class Stepwise(Layers):
        def forward(self, x: Tensor) -> Any:
            return [self.lif_a(self.a(step[None])) for step in x]

    refused(Twice(), r"the neuron lif_a was called 2 times in one forward pass: give each population a module")
    refused(Stepwise(), r"the neuron lif_a was called 40 times in one forward pass")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_that_turns_gradients_off_is_refused(mode: Any) -> None:
    class Off(Layers):
        def forward(self, x: Tensor) -> Any:
            with mode():
                return self.lif_a(self.a(x))

    refused(Off(), r"the neuron lif_a runs under torch\.no_grad\(\) or inference_mode\(\).*give a `forward` that does$")


def test_inference_mode_around_the_call_is_refused() -> None:
    with torch.inference_mode():
        refused(sequential(), r"inside torch\.inference_mode\(\): leave it")


def test_a_model_that_detaches_all_its_currents_is_refused() -> None:
    class Detached(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.lif_a(self.a(x).detach())

    refused(Detached(), "no gradient reaches any neuron")


def test_a_model_that_changes_its_input_is_refused_and_the_input_spared() -> None:
    class Greedy(Layers):
        def forward(self, x: Any) -> Any:
            x["x"] *= 2
            return self.lif_a(self.a(x["x"]))

    batch = {"x": spikes(*FLAT)}
    before = batch["x"].clone()
    refused(Greedy(), "changes its input in place", batch)
    assert torch.equal(batch["x"], before)
    assert len(trace(Greedy(), batch, lambda model, batch: model({"x": batch["x"].clone()}))) == 1


def test_layers_that_have_not_run_yet_are_refused() -> None:
    model = nn.Sequential(nn.LazyLinear(12), LIF(), OverTime(nn.LazyBatchNorm1d()))
    with pytest.raises(WiringError, match=r"no weights yet \(0, 2\.module\): run the model once on a batch first$"):
        trace(model, spikes(*FLAT))
    model(spikes(*FLAT))
    assert len(trace(model, spikes(*FLAT))) == 1


@pytest.mark.parametrize("current", [3, None, torch.ones(5)])
def test_a_neuron_that_is_not_called_with_a_current_is_refused(current: Any) -> None:
    class Odd(Layers):
        def forward(self, x: Tensor) -> Any:
            return self.lif_a(current)

    refused(Odd(), r"the neuron lif_a was not called with a current \[T, B, \.\.\.\] as its first argument$")


class Adapted(nn.Module):
    """A layer beside weights of its own, as adapters have it."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(20, 16)
        self.down, self.up = nn.Parameter(torch.randn(2, 20)), nn.Parameter(torch.randn(16, 2))

    def forward(self, x: Tensor) -> Any:
        return self.base(x) + x @ self.down.T @ self.up.T


def test_what_holds_a_layer_and_weights_of_its_own_is_one_layer() -> None:
    model = nn.Sequential(Adapted(), LIF())
    population = Network.of(model, (torch.rand(30, 4, 20) < 0.2).float()).populations[0]
    assert [q.name for q in population.pathways] == ["0.up", "0.base.weight"]
    assert [q.bias_name for q in population.pathways] == ["base.bias", "base.bias"]
