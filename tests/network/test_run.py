"""Laws of running a user's model: afterwards nothing about it has changed, whatever its forward pass does."""

import copy
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

import fluctua
from fluctua import Target
from fluctua.layers import OverTime
from fluctua.methods import Poisson
from fluctua.network.preserve import only_requiring_grad, preserved
from fluctua.network.run import Copies, parameters_of
from fluctua.neurons import LI, LIF
from shared.tracing import trace
from shared.wiring_networks import CASES, compiled, compiled_in_place, sequential


class Trouble(Exception):
    pass


class Pair(NamedTuple):
    u: Tensor
    i: Tensor


class Messy(nn.Module):
    """A network that keeps all kinds of state and changes all of it in every forward pass.

    Args:
        fails: called in every forward pass, between the two neurons; may raise.
    """

    def __init__(self, fails: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.fails = fails
        self.first = parametrizations.spectral_norm(nn.Linear(20, 12))
        self.norm, self.drop, self.lif = OverTime(nn.BatchNorm1d(12)), nn.Dropout(0.2), LIF(threshold=0.1)
        self.second, self.third, self.readout = spectral_norm(nn.Linear(12, 12)), nn.Linear(12, 12), LI(0.1)
        self.third.bias.requires_grad_(False)
        self.idle = nn.Linear(3, 3)
        self.idle.weight.grad = torch.ones(3, 3)
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("window", torch.zeros(6), persistent=False)
        self.calls: Tensor
        self.window: Tensor
        self.view = self.window[2:4]  # shares the buffer's memory
        self.same = self.window
        self.count = 0
        self.log: list[Any] = [torch.zeros(2), [torch.zeros(1)]]
        self.log.append(self.log)
        self.table: dict[str, Any] = {"u": torch.zeros(3), "inner": {"i": torch.zeros(1)}}
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.recent: deque[Tensor] = deque([torch.zeros(1)], maxlen=3)
        self.seen = {0}
        self.state = Pair(torch.zeros(2), torch.zeros(2))
        self.generator = torch.Generator().manual_seed(5)
        self.alias = self.idle.weight.data[0]  # memory of a parameter
        self.forgotten: Tensor | None = torch.zeros(1)

    def forward(self, x: Tensor) -> Any:
        self.calls += 1
        self.view += 1
        self.count += 1
        self.log[1][0] += 1
        self.log.append(x)
        self.table["u"] += 1
        self.table["inner"]["i"] += 1
        self.table["new"] = x
        self.counts["forward"] += 1
        self.recent.append(x)
        self.seen.add(self.count)
        self.state.u.add_(1)
        self.state = Pair(self.state.i, self.state.u)
        self.added = x
        del self.forgotten
        x = x + torch.rand(x.shape, generator=self.generator)
        spikes = self.lif(self.drop(self.norm(self.first(x))))
        self.fails()
        self.norm.eval()
        self.first.bias.requires_grad_(False)
        return self.readout(self.third(self.second(spikes)))


def batch() -> Tensor:
    return (torch.rand(30, 4, 20, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def contents(value: Any, seen: tuple[int, ...] = ()) -> Any:
    """What can be compared: every value with its identity, and what is in it."""
    if isinstance(value, Tensor):
        return id(value), value.detach().clone()
    if isinstance(value, torch.Generator):
        return id(value), value.get_state()
    if id(value) in seen:
        return id(value)
    if isinstance(value, dict):
        return id(value), {key: contents(item, (*seen, id(value))) for key, item in value.items()}
    if isinstance(value, list | tuple | deque):
        return id(value), [contents(item, (*seen, id(value))) for item in value]
    return id(value), copy.copy(value) if isinstance(value, set) else None


def everything(model: nn.Module, *, but_values_of_parameters: bool = False) -> dict[str, Any]:
    """All there is about a model, and the state of torch's random number generator."""
    facts: dict[str, Any] = {"random numbers": (0, torch.get_rng_state())}
    for name, module in model.named_modules():
        facts |= {f"{name}|{key}": contents(value) for key, value in vars(module).items() if key != "_parameters"}
    for name, p in model.named_parameters():
        facts[f"{name}|flags"] = (id(p), p.requires_grad, p.is_leaf, contents(p.grad))
        facts[f"{name}|value"] = None if but_values_of_parameters else contents(p)
    return dict(sorted(facts.items()))


def assert_same(before: Any, after: Any, path: str = "") -> None:
    if isinstance(before, Tensor):
        assert torch.equal(before, after), path
    elif isinstance(before, dict):
        assert list(before) == list(after), path
        for key in before:
            assert_same(before[key], after[key], f"{path} {key}")
    elif isinstance(before, list | tuple):
        assert len(before) == len(after), path
        for old, new in zip(before, after, strict=True):
            assert_same(old, new, path)
    else:
        assert before == after, path


def test_the_messy_model_changes_everything_when_it_is_run() -> None:
    """Else the laws below would say nothing."""
    model = Messy()
    before = everything(model)
    model(batch())
    after = everything(model)
    attributes = ["view", "same", "count", "log", "table", "counts", "recent", "seen", "state", "generator", "_buffers"]
    for key in (
        *("random numbers", "norm.module|_buffers", "second|_buffers", "first.parametrizations.weight.0|_buffers"),
        *("norm|training", "first.bias|flags", *(f"|{name}" for name in attributes)),
    ):
        with pytest.raises(AssertionError):
            assert_same(before[key], after[key])
    assert "|added" in after.keys() - before.keys()
    assert "|forgotten" in before.keys() - after.keys()


def run(model: nn.Module) -> None:
    with preserved(model):
        for _ in range(3):
            model.__dict__.setdefault("forgotten", None)
            model(batch())


READERS: dict[str, Callable[[nn.Module], Any]] = {
    "preserved": run,
    "trace": lambda model: trace(model, batch()),
    "inspect": lambda model: fluctua.inspect(model, batch()),
    "inspect with a loss": lambda model: fluctua.inspect(model, batch(), loss=lambda u: u.square().mean()),
}
WRITERS: dict[str, Callable[[nn.Module], Any]] = {
    "measured": lambda model: fluctua.initialize(model, batch(), readout=Target(sigma=1.0), seed=0),
    "poisson": lambda model: fluctua.initialize(model, batch(), method=Poisson(nu=10.0), seed=0),
}


@pytest.mark.parametrize("reader", READERS)
def test_reading_leaves_everything_as_it_was(reader: str) -> None:
    model = Messy()
    before = everything(model)
    READERS[reader](model)
    assert_same(before, everything(model))


@pytest.mark.parametrize("writer", WRITERS)
def test_initialising_changes_nothing_but_the_values_of_parameters(writer: str) -> None:
    model = Messy()
    before = everything(model, but_values_of_parameters=True)
    WRITERS[writer](model)
    assert_same(before, everything(model, but_values_of_parameters=True))


@pytest.mark.parametrize("name", [*READERS, *WRITERS])
def test_a_forward_pass_that_fails_leaves_everything_as_it_was(name: str) -> None:
    reached = 0

    def fails() -> None:
        nonlocal reached
        reached += 1
        raise Trouble

    model = Messy(fails)
    before = everything(model)
    with pytest.raises(Trouble):
        (READERS | WRITERS)[name](model)
    assert reached >= 1
    assert_same(before, everything(model))


@pytest.mark.parametrize("at", [2, 3, 4])
def test_a_forward_pass_that_fails_later_on_leaves_everything_but_values_as_it_was(at: int) -> None:
    reached = 0

    def fails() -> None:
        nonlocal reached
        reached += 1
        if reached == at:
            raise Trouble

    model = Messy(fails)
    before = everything(model, but_values_of_parameters=True)
    with pytest.raises(Trouble):
        fluctua.initialize(model, batch(), seed=0)
    assert_same(before, everything(model, but_values_of_parameters=True))


@pytest.mark.parametrize("name", CASES)
def test_no_kind_of_network_is_changed_by_a_look_at_it(name: str) -> None:
    case = CASES[name]
    model = case.model()
    before = everything(model)
    fluctua.inspect(model, case.batch(), loss=lambda output: output.square().mean())
    assert_same(before, everything(model))


# -- inside the block -------------------------------------------------------------------------------------------


def test_inside_the_block_state_goes_on_as_ever() -> None:
    model, twin = Messy(), Messy()
    twin.load_state_dict(model.state_dict())
    torch.manual_seed(1)
    expected = [twin(batch())]
    twin.forgotten = None
    expected.append(twin(batch()))
    torch.manual_seed(1)
    with preserved(model):
        outputs = [model(batch())]
        model.forgotten = None
        outputs.append(model(batch()))
        assert (int(model.calls), model.count, len(model.log), len(model.recent)) == (2, 2, 5, 3)
        assert torch.equal(model.window, torch.tensor([0.0, 0, 2, 2, 0, 0]))
        assert model.same is model.window
        assert model.log[2] is model.log
    assert all(torch.equal(a, b) for a, b in zip(outputs, expected, strict=True))


def test_a_buffer_that_two_modules_share_stays_shared() -> None:
    first, second = nn.BatchNorm1d(4), nn.BatchNorm1d(4)
    second.running_mean = first.running_mean
    model = nn.Sequential(first, second)
    with preserved(model):
        assert second.running_mean is first.running_mean
        first(torch.randn(8, 4))
        assert second.running_mean is not None
        assert second.running_mean.any()
    assert second.running_mean is first.running_mean
    assert not second.running_mean.any()


def test_parameters_and_what_shares_their_memory_stand_for_themselves() -> None:
    model = Messy()
    with preserved(model):
        with torch.no_grad():
            model.idle.weight += 1
        assert torch.equal(model.alias, model.idle.weight[0])
    assert torch.equal(model.alias, model.idle.weight[0]), "new values are kept"


def test_every_pass_in_a_new_block_draws_the_same_numbers() -> None:
    model = nn.Sequential(nn.Dropout(0.5))
    draws = []
    for _ in range(2):
        with preserved(model):
            draws.append(model(torch.ones(50)))
    assert torch.equal(*draws)
    assert not torch.equal(model(torch.ones(50)), model(torch.ones(50)))


def test_hooks_that_look_on_are_silent_inside_and_stay() -> None:
    model, called = sequential(), []
    model[0].register_forward_hook(lambda module, args, output: called.append("forward"))
    model[0].register_forward_pre_hook(lambda module, args: called.append("before"))
    with preserved(model):
        model(batch())
    model(batch())
    assert called == ["before", "forward"]


def test_a_hook_set_inside_the_block_stays_until_it_is_removed() -> None:
    model, called = sequential(), []
    with preserved(model):
        handle = model[0].register_forward_hook(lambda module, args, output: called.append(1))
    model(batch())
    handle.remove()
    model(batch())
    assert called == [1]


@pytest.mark.parametrize("make", [compiled_in_place, lambda: compiled(sequential())], ids=["in place", "wrapped"])
def test_a_compiled_model_runs_as_it_is_written(make: Callable[[], nn.Module]) -> None:
    model, layers = make(), 0
    x = batch()
    with pytest.raises(Exception, match="the compiler was called"):
        model(x)
    inner: Any = getattr(model, "_orig_mod", model)

    def count(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        nonlocal layers
        layers += 1
        return output

    for layer in inner:
        layer.register_forward_hook(count)
    with preserved(model):
        out = model(x)
    assert layers == 6
    expected = x
    for layer in inner:
        expected = layer(expected)
    assert torch.equal(out, expected)
    with pytest.raises(Exception, match="the compiler was called"):
        model(x)


def test_copies_of_sparse_and_empty_tensors() -> None:
    sparse, empty = torch.eye(3).to_sparse(), torch.empty(0, 4)
    copies = Copies(nn.Module())
    twin = copies.of(sparse)
    assert twin is not sparse
    assert torch.equal(twin.to_dense(), torch.eye(3))
    assert copies.of(sparse) is twin
    assert copies.of(empty).shape == (0, 4)


def test_of_a_large_memory_the_part_that_is_seen_is_copied_alone() -> None:
    data = torch.arange(60_000.0).reshape(10, 60, 100)
    views = [data[:, :3], data[2], data[:, :, ::7], data.transpose(0, 2)[:5], data[0, :1].expand(9, 100), data[3, 1, 1]]
    for view in views:
        twin = Copies(nn.Module()).of(view)
        assert torch.equal(twin, view)
        assert twin.untyped_storage().nbytes() <= 4 * len(set(view.flatten().tolist()))
        assert twin.untyped_storage().data_ptr() != data.untyped_storage().data_ptr()
    overlapping = data[0].flatten().unfold(0, 4, 2)
    assert torch.equal(Copies(nn.Module()).of(overlapping), overlapping)


def test_what_shares_memory_does_so_among_the_copies_however_little_is_seen_of_it() -> None:
    data = torch.zeros(100, 10)
    for pair in (
        [data[0], data[0]],
        [data[:2], data[1:3]],
        [data[0], data.T[2:4]],
        [data[:1], data.view(torch.int32)[0]],
    ):
        a, b = Copies(nn.Module()).of(pair)
        a.fill_(1)
        assert bool((b != 0).any()), "a change of one shows in the other"
        assert not data.any()


def test_copies_keep_the_kind_of_a_container() -> None:
    copies = Copies(nn.Module())
    recent, counts, pair = deque([1, 2], maxlen=2), defaultdict(list, a=[1]), Pair(torch.ones(1), torch.ones(1))
    assert copies.of(recent).maxlen == 2
    assert copies.of(counts)["new"] == []
    assert "new" not in counts
    assert isinstance(copies.of(pair), Pair)
    plain = (1, "two", (3.0,))
    assert copies.of(plain) is plain, "nothing in it can change"
    assert copies.of(torch.Size([2, 3])) == torch.Size([2, 3])


# -- gradients --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad])
def test_gradients_are_on_for_exactly_the_wanted_parameters(outside: Any) -> None:
    first, second, third = nn.Linear(20, 12), nn.Linear(12, 12), nn.Linear(12, 4)
    second.requires_grad_(False)
    model = nn.Sequential(first, LIF(), second, LIF(), third)
    before = [p.requires_grad for p in model.parameters()]
    with outside():
        with only_requiring_grad(parameters_of(model), [second.weight, third.bias]):
            assert torch.is_grad_enabled()
            assert {id(p) for p in model.parameters() if p.requires_grad} == {id(second.weight), id(third.bias)}
        with only_requiring_grad(parameters_of(model), []):
            assert not model(batch()).requires_grad
        with only_requiring_grad(parameters_of(model), None):
            assert all(p.requires_grad for p in model.parameters())
        assert torch.is_grad_enabled() == (outside is torch.enable_grad)
    assert [p.requires_grad for p in model.parameters()] == before
    assert first.weight.requires_grad


def test_integer_parameters_never_require_a_gradient() -> None:
    model = nn.Module()
    model.codes = nn.Parameter(torch.arange(3), requires_grad=False)
    with only_requiring_grad(parameters_of(model), None):
        assert not model.codes.requires_grad


def test_flags_are_put_back_after_an_error() -> None:
    model = sequential()
    with pytest.raises(Trouble), only_requiring_grad(parameters_of(model), []):
        raise Trouble
    assert all(p.requires_grad for p in model.parameters())
