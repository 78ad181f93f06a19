"""Laws of the passes: the current is that of an undisturbed forward pass, and every layer runs only a few times."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import OverTime
from fluctua.network import Network, replay
from fluctua.network.facts import Population
from fluctua.network.preserve import only_requiring_grad, preserved
from fluctua.network.replay import Replay
from fluctua.network.run import parameters_of, plain_call
from fluctua.neurons import LIF
from fluctua.spikes.batch import SpikeBatch
from fluctua.timeloop import events_layers
from shared.spikes import spikes
from shared.tracing import trace
from shared.wiring_networks import CASES, Layers


class Reached(Exception):
    pass


def undisturbed(model: nn.Module, batch: Tensor, population: Population, gradients: list[Tensor]) -> Tensor:
    """The population's input current in a plain forward pass, with a graph back to some parameters."""
    currents: list[Tensor] = []

    def read(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        currents.append(args[0].clone())

    with (
        preserved(model),
        only_requiring_grad(parameters_of(model), gradients),
        population.module.register_forward_pre_hook(read),
    ):
        model(batch)
    (current,) = currents
    return current


def assert_equal(current: Tensor, expected: Tensor) -> None:
    # Layers may be computed in another order with and without gradients: sums of a few hundred at most.
    rounding = 1000 * torch.finfo(expected.dtype).eps
    torch.testing.assert_close(current, expected, rtol=rounding, atol=rounding * float(expected.abs().max()))


@pytest.fixture(params=["as torch multiplies", "spike by spike"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a pass multiplies: layers that are large have their weights added up."""
    monkeypatch.setattr(replay, "_LARGE", 1 if request.param == "spike by spike" else 2**60)
    return str(request.param)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("name", CASES)
def test_the_current_is_that_of_an_undisturbed_pass(name: str) -> None:
    """Population after population, each with new weights before it is done: as an initialiser works."""
    case = CASES[name]
    model, batch = case.model(), case.batch()
    passes = Replay(model, batch, plain_call, trace(model, batch))
    for population in trace(model, batch):
        weights = [q.weight for q in population.pathways if q.skipped_because is None]
        for factor in (1.0, 1.5, 0.9):
            with torch.no_grad():
                for weight in weights:
                    weight *= factor
            expected = undisturbed(model, batch, population, [])
            assert_equal(passes.current(population), expected)
        assert expected.abs().max() > 0.1
        passes.done(population)


@pytest.mark.usefixtures("products")
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # of the network whose user has set one
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_an_undisturbed_pass(name: str) -> None:
    case = CASES[name]
    model, batch = case.model(), case.batch()
    passes = Replay(model, batch, plain_call, trace(model, batch))
    for population in trace(model, batch):
        weights = list({id(q.weight): q.weight for q in population.pathways if q.skipped_because is None}.values())
        (current,) = (c for c in passes.currents(population, weights) if c is not None)
        assert current.requires_grad == bool(weights)
        if weights:
            direction = torch.randn(current.shape, generator=torch.Generator().manual_seed(0)).to(current)
            expected = torch.autograd.grad(undisturbed(model, batch, population, weights), weights, direction)
            for gradient, truth in zip(torch.autograd.grad(current, weights, direction), expected, strict=True):
                torch.testing.assert_close(gradient, truth, rtol=1e-10, atol=1e-10)
                assert truth.any()
        passes.done(population)


@pytest.mark.parametrize("density", [0.1, 0.9])
def test_the_weights_of_few_spikes_are_added_up_and_spikes_are_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, density: float
) -> None:
    model = nn.Sequential(nn.Linear(40, 30), LIF(), nn.Linear(30, 20), LIF()).double()
    batch = spikes(30, 5, 40, p=density, dtype=torch.float64)
    looked, added = list[tuple[int, ...]](), list[tuple[int, ...]]()
    from_dense, weighted = SpikeBatch.from_dense, events_layers.weighted

    def look(x: Tensor, limit: float) -> SpikeBatch | None:
        looked.append(tuple(x.shape))
        return from_dense(x, limit)

    def add(found: SpikeBatch, like: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        added.append(tuple(weight.shape))
        return weighted(found, like, weight, bias)

    fluctua.initialize(model, batch, seed=0)
    expected = [p.detach().clone() for p in model.parameters()]
    monkeypatch.setattr(replay, "_LARGE", 1)
    monkeypatch.setattr(SpikeBatch, "from_dense", look)
    monkeypatch.setattr(events_layers, "weighted", add)
    fluctua.initialize(model, batch, seed=0)
    for weight, truth in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(weight, truth, rtol=1e-9, atol=1e-12)
    assert looked == [(30, 5, 40), (30, 5, 30)]
    assert ((30, 40) in added) == (density < 0.25)
    assert added.count((20, 30)) >= 2


@pytest.mark.parametrize("name", ["convolutional", "random numbers everywhere", "spectral_norm"])
def test_every_pass_is_like_the_last(name: str) -> None:
    case = CASES[name]
    model, batch = case.model(), case.batch()
    passes = Replay(model, batch, plain_call, trace(model, batch))
    for population in trace(model, batch):
        first = passes.current(population)
        torch.rand(10)
        assert all(torch.equal(passes.current(population), first) for _ in range(3))
        passes.done(population)


def test_a_population_that_was_initialised_keeps_its_spikes_whatever_becomes_of_its_weights() -> None:
    """It answers from memory: what is done is not looked at again."""
    case = CASES["sequential"]
    model, batch = case.model(), case.batch()
    first, second, _ = trace(model, batch)
    passes = Replay(model, batch, plain_call, trace(model, batch))
    passes.done(first)
    before = passes.current(second)
    with torch.no_grad():
        first.pathways[0].weight.zero_()
    assert torch.equal(passes.current(second), before)
    fresh = Replay(model, batch, plain_call, trace(model, batch))
    assert not torch.equal(fresh.current(second), before)


def test_a_model_that_catches_exceptions_does_not_catch_the_end_of_a_pass() -> None:
    class Careful(Layers):
        def forward(self, x: Tensor) -> Any:
            try:
                return self.lif_b(self.b(self.lif_a(self.a(x))))
            except Exception:
                return x

    model, batch = Careful(), CASES["sequential"].batch().float()
    passes = Replay(model, batch, plain_call, trace(model, batch))
    for population in trace(model, batch):
        assert_equal(passes.current(population), undisturbed(model, batch, population, []))
        passes.done(population)


def test_a_population_that_is_no_longer_reached_is_named() -> None:
    class Switched(Layers):
        on = True

        def forward(self, x: Tensor) -> Any:
            return self.lif_a(self.a(x)) if self.on else x

    model, batch = Switched(), CASES["sequential"].batch().float()
    (population,) = trace(model, batch)
    model.on = False
    with pytest.raises(RuntimeError, match="did not reach lif_a, though it did when it was traced"):
        Replay(model, batch, plain_call, [population]).current(population)


def test_an_error_in_a_pass_leaves_the_model_and_the_memory_as_they_were() -> None:
    case = CASES["sequential"]
    model, batch = case.model(), case.batch()
    first, second, third = trace(model, batch)
    failing = False

    def fail(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if failing:
            raise Reached
        return output

    passes = Replay(model, batch, plain_call, trace(model, batch))
    passes.done(first)
    expected = passes.current(second)
    third.pathways[0].synapse.register_forward_hook(fail)
    passes.done(second)
    failing = True
    with pytest.raises(Reached):
        passes.current(third)
    failing = False
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(Replay(model, batch, plain_call, trace(model, batch)).current(second), expected)
    assert_equal(passes.current(third), undisturbed(model, batch, third, []))


class Remembering(LIF):
    """Keeps something of every call, anew each time or in the same memory."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place, self.kept = in_place, {"v": torch.zeros(())}
        self.v: Any = None

    def forward(self, *args: Any) -> Any:
        total = args[0].detach().sum(0)
        self.v = self.v.add_(total) if self.in_place and self.v is not None else total
        self.kept["v"] = self.v
        return super().forward(*args)


class ReadingItsState(nn.Module):
    """Two layers, of which the first is read by its potential as well, and changed by the reader."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.a, self.first, self.b, self.second = nn.Linear(20, 12), Remembering(in_place), nn.Linear(12, 4), LIF()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.first(self.a(x))
        READ.append(self.first.v.clone())
        assert torch.equal(self.first.kept["v"], self.first.v)
        if self.first.in_place:
            self.first.v.mul_(0)
        return self.second(self.b(spikes))  # type: ignore[no-any-return]


READ: list[Tensor] = []


@pytest.mark.parametrize("in_place", [False, True])
def test_what_answers_from_memory_has_its_state_of_then(in_place: bool) -> None:
    torch.manual_seed(0)
    model, batch = ReadingItsState(in_place), CASES["sequential"].batch().float()
    network = Network.of(model, batch)
    first, second = network.populations
    READ.clear()
    with network.replay() as passes:
        passes.current(first)
        passes.done(first)
        for _ in range(3):
            with torch.no_grad():
                model.b.weight *= 1.5
            passes.current(second)
    assert len(READ) == 3
    assert bool(READ[0].any())
    assert all(torch.equal(v, READ[0]) for v in READ)


# -- cost -------------------------------------------------------------------------------------------------------

runs: Counter[int] = Counter()


class Counting(nn.Module):
    """Counts how often a module really runs; a replaced `forward` does not."""

    def forward(self, *args: Any) -> Any:
        runs[id(self)] += 1
        return super().forward(*args)


class CountingLinear(Counting, nn.Linear): ...


class CountingConv(Counting, nn.Conv2d): ...


class CountingLIF(Counting, LIF): ...


class ResidualNet(nn.Module):
    """Blocks with two layers and a skip around them."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first, self.lif = CountingLinear(20, 12), CountingLIF()
        self.layers = nn.ModuleList(CountingLinear(12, 12) for _ in range(2 * depth))
        self.lifs = nn.ModuleList(CountingLIF() for _ in range(2 * depth))

    def forward(self, x: Tensor) -> Any:
        x = self.lif(self.first(x))
        for i in range(0, len(self.layers), 2):
            y = self.lifs[i](self.layers[i](x))
            x = self.lifs[i + 1](self.layers[i + 1](y) + x)
        return x


def chain(depth: int) -> nn.Module:
    layers = [nn.Sequential(CountingLinear(12 if i else 20, 12), nn.Dropout(0.1), CountingLIF()) for i in range(depth)]
    return nn.Sequential(*layers)


def bottlenecks(depth: int) -> nn.Module:
    layers = [
        nn.Sequential(CountingLinear(12 if i else 20, 4), CountingLinear(4, 12), CountingLIF()) for i in range(depth)
    ]
    return nn.Sequential(*layers)


def convolutions(depth: int) -> nn.Module:
    layers = [
        nn.Sequential(
            OverTime(CountingConv(2, 2, 3, padding=1, groups=2)), OverTime(CountingConv(2, 2, 1)), CountingLIF()
        )
        for _ in range(depth)
    ]
    return nn.Sequential(*layers)


def real_runs(model: nn.Module, batch: Tensor, passes_each: int) -> dict[str, int]:
    """How often each counted module runs while all populations are done, one after another, by its name."""
    populations = trace(model, batch)
    passes = Replay(model, batch, plain_call, trace(model, batch))
    runs.clear()
    for population in populations:
        for _ in range(passes_each):
            for q in population.pathways:  # with the same weights a pass is answered from memory
                with torch.no_grad():
                    q.weight.mul_(1)
            passes.current(population)
            passes.current(population)
        passes.done(population)
    return {name: runs[id(module)] for name, module in model.named_modules() if isinstance(module, Counting)}


@pytest.mark.parametrize("make", [chain, ResidualNet, bottlenecks, convolutions], ids=lambda make: make.__name__)
@pytest.mark.parametrize("passes_each", [1, 4])
def test_a_network_of_any_depth_costs_each_layer_a_few_runs(make: Any, passes_each: int) -> None:
    """Weights run in every pass of their population and in one more, the neurons just once."""
    batch = CASES["convolutional" if make is convolutions else "sequential"].batch().float()[:20, :2]
    for depth in (2, 6):
        model = make(depth)
        counts = real_runs(model, batch, passes_each)
        neurons = [counts.pop(name) for name, module in model.named_modules() if isinstance(module, LIF)]
        assert len(neurons) >= depth
        assert sorted(neurons) == [0, *[1] * (len(neurons) - 1)], "nobody asks what the last one does"
        assert set(counts.values()) <= {passes_each, passes_each + 1}


def test_spikes_that_the_model_changes_in_place_cost_one_run_more() -> None:
    class InPlace(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.lif_a, self.lif_b = CountingLIF(), CountingLIF()

        def forward(self, x: Tensor) -> Any:
            a = self.lif_a(self.a(x))
            a *= 2
            b = self.lif_b(self.b(a))
            return self.lif_c(self.c(b))

    counts = real_runs(InPlace(), CASES["sequential"].batch().float(), 4)
    assert counts == {"lif_a": 2, "lif_b": 1}


def test_a_pass_goes_no_further_than_its_population() -> None:
    model = chain(4)
    first = trace(model, CASES["sequential"].batch().float())[0]
    runs.clear()
    Replay(model, CASES["sequential"].batch().float(), plain_call, [first]).current(first)
    assert sum(runs.values()) == 1


def test_stand_ins_share_their_memory() -> None:
    """Else a deep network would be held in memory twice."""
    model, batch = chain(6), CASES["sequential"].batch().float()
    passes = Replay(model, batch, plain_call, trace(model, batch))
    addresses: set[int] = set()

    def read(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        addresses.add(output.data_ptr())
        return output

    for population in trace(model, batch):
        passes.current(population)
        passes.done(population)
    for module in model.modules():
        if isinstance(module, CountingLinear):
            module.register_forward_hook(read)
    passes.current(population)
    assert len(addresses) == 2, "one for all stand-ins, and the current itself"
