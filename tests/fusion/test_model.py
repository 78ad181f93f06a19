"""Fused models of the real frameworks beside the models themselves: outputs, gradients, training, and refusals."""

import copy
import gc
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import fluctua
from fluctua.fusion import FuseError
from fluctua.fusion.handles import Handle
from fluctua.fusion.model import FusedModel
from fluctua.fusion.nodes import Node
from fluctua.fusion.population import Population
from fluctua.timeloop import engine
from shared.fused_calls import fused_calls
from shared.fused_networks import (
    BATCH_FIRST,
    FRAMES,
    INPUTS,
    SAMPLES,
    STEPS,
    TIME_FIRST,
    SnnLoop,
    assert_same_passes,
    loss_of,
    passed,
    rested,
    spikes,
    tensors,
    woken,
)
from shared.pairs import mostly

# --- models as their tutorials write them ---


class SnnStatic(SnnLoop):
    """An image that is shown for some steps."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, total = self.lif1.reset_mem(), self.lif2.reset_mem(), torch.zeros(())
        for _ in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(x), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            total = total + spk2
        return total, mem2


class SnnBatchFirst(SnnLoop):
    """Time is the second axis; the weight in front acts on all steps at once; the output is a dictionary."""

    def forward(self, x: Tensor) -> Any:
        current = self.fc1(x)
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for t in range(x.shape[1]):
            spk1, mem1 = self.lif1(current[:, t], mem1)
            spk2, mem2 = self.lif2(F.dropout(self.fc2(spk1), 0.0), mem2)
            out.append(spk2)
        return {"spikes": torch.stack(out, 1), "last": [mem2]}


class SnnConv(nn.Module):
    """Convolutions with batch norm and pooling per step."""

    def __init__(self) -> None:
        super().__init__()
        snn = pytest.importorskip("snntorch")
        self.conv, self.bn, self.lif1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), snn.Leaky(beta=0.9)
        self.pool, self.fc, self.lif2 = nn.MaxPool2d(2), nn.Linear(64, 3), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> Tensor:
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for frame in x:
            spk1, mem1 = self.lif1(self.bn(self.conv(frame)), mem1)
            spk2, mem2 = self.lif2(self.fc(self.pool(spk1).flatten(1)), mem2)
            out.append(spk2)
        return torch.stack(out)


class SnnMaps(nn.Module):
    """Two convolutions, pooled before the neurons, as the tutorials of snnTorch write them; the maps are returned.

    If they are `watched`, also those before pooling, of one step.
    """

    def __init__(self, watched: bool = False) -> None:
        super().__init__()
        snn, self.watched = pytest.importorskip("snntorch"), watched
        thresholds = torch.linspace(0.5, 1.5, 3 * 4 * 4).view(3, 4, 4)  # no two of a map are alike
        self.conv1, self.lif1 = nn.Conv2d(2, 3, 3, padding=1), snn.Leaky(beta=0.9, threshold=thresholds)
        self.conv2, self.lif2 = nn.Conv2d(3, 5, 2), snn.Leaky(beta=0.8)
        self.fc, self.lif3 = nn.Linear(5, 3), snn.Leaky(beta=0.9)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        maps, out = [], []
        for step, frame in enumerate(x):
            currents = self.conv1(frame)
            spk1, mem1 = self.lif1(F.max_pool2d(currents, 2), mem1)
            if self.watched and step == 3:
                out.append(currents[:, 0, 0, :3])
            spk2, mem2 = self.lif2(F.max_pool2d(self.conv2(spk1), 3), mem2)
            spk3, mem3 = self.lif3(self.fc(spk2.view(x.shape[1], -1)), mem3)
            maps.append(spk1)
            out.append(spk3)
        return torch.stack(out), torch.stack(maps)


def snn_sequential() -> nn.Module:
    snn = pytest.importorskip("snntorch")
    return nn.Sequential(
        nn.Linear(INPUTS, 16),
        snn.Leaky(beta=0.9, init_hidden=True),
        nn.Linear(16, 4),
        snn.Synaptic(alpha=0.8, beta=0.9, init_hidden=True, output=True),
    )


def norse_state() -> nn.Module:
    norse = pytest.importorskip("norse.torch")
    made: nn.Module = norse.SequentialState(nn.Linear(INPUTS, 16), norse.LIFCell(), nn.Linear(16, 4), norse.LIFCell())
    return made


class NorseLoop(nn.Module):
    """A loop over cells, with a readout of which the largest potential counts."""

    def __init__(self) -> None:
        super().__init__()
        norse = pytest.importorskip("norse.torch")
        self.fc1, self.lif, self.fc2, self.li = nn.Linear(INPUTS, 16), norse.LIFCell(), nn.Linear(16, 4), norse.LICell()

    def forward(self, x: Tensor) -> Tensor:
        s1 = s2 = None
        voltages = torch.empty(x.shape[0], x.shape[1], 4, dtype=x.dtype)
        for ts in range(x.shape[0]):
            z, s1 = self.lif(self.fc1(x[ts]), s1)
            v, s2 = self.li(torch.relu(self.fc2(z)), s2)
            voltages[ts] = v
        return voltages.max(0).values


def norse_lifted() -> nn.Module:
    norse = pytest.importorskip("norse.torch")

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.lif = nn.Linear(INPUTS, 16), norse.LIF()

        def forward(self, x: Tensor) -> tuple[Tensor, Any]:
            return self.lif(self.fc(x))  # type: ignore[no-any-return]

    return Net()


def spikingjelly(mode: str) -> nn.Module:
    sj = pytest.importorskip("spikingjelly.activation_based")
    from spikingjelly.activation_based import functional, layer, neuron, surrogate

    options: dict[str, Any] = {"surrogate_function": surrogate.ATan(), "detach_reset": True}
    model = nn.Sequential(
        layer.Linear(INPUTS, 16, bias=False),
        neuron.LIFNode(**options),
        layer.Dropout(0.0),
        layer.Linear(16, 4, bias=False),
        neuron.ParametricLIFNode(**options),
    )
    functional.set_step_mode(model, mode)
    assert sj is not None
    return model


def spikingjelly_conv(mode: str) -> nn.Module:
    pytest.importorskip("spikingjelly.activation_based")
    from spikingjelly.activation_based import functional, layer, neuron

    model = nn.Sequential(
        layer.Conv2d(2, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        neuron.IFNode(),
        layer.MaxPool2d(2),
        layer.Flatten(),
        layer.Linear(64, 3),
        neuron.LIFNode(),
    )
    functional.set_step_mode(model, mode)
    return model


def sinabs() -> nn.Module:
    sl = pytest.importorskip("sinabs.layers")
    return nn.Sequential(
        nn.Linear(INPUTS, 16, bias=False),
        sl.LIF(tau_mem=10.0, tau_syn=5.0),
        nn.Linear(16, 4, bias=False),
        sl.IAF(spike_threshold=torch.tensor(2.0)),
    )


def rockpool() -> nn.Module:
    modules = pytest.importorskip("rockpool.nn.modules")
    from rockpool.nn.combinators import Sequential
    from rockpool.parameters import Constant

    tau = {"tau_mem": Constant(0.02), "tau_syn": Constant(0.01)}
    made: nn.Module = Sequential(
        modules.LinearTorch((INPUTS, 16)),
        modules.LIFTorch(16, **tau),
        modules.LinearTorch((16, 4)),
        modules.LIFTorch(4),
    )
    return made


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, float, dict[str, Any]]] = {
    "snntorch loop": (SnnLoop, TIME_FIRST, 3, {}),
    "snntorch learnt": (lambda: SnnLoop(learn_beta=True, learn_threshold=True), TIME_FIRST, 3, {}),
    "snntorch reset at once": (lambda: SnnLoop(reset_delay=False, reset_mechanism="zero"), TIME_FIRST, 3, {}),
    "snntorch static": (SnnStatic, spikes(SAMPLES, INPUTS), 3, {"time": None}),
    "snntorch batch first": (SnnBatchFirst, BATCH_FIRST, 3, {"time": 1}),
    "snntorch conv": (SnnConv, FRAMES, 3, {}),
    "snntorch maps": (SnnMaps, FRAMES, 3, {}),
    "snntorch maps of few spikes": (SnnMaps, FRAMES * spikes(*FRAMES.shape, seed=3), 3, {}),
    "snntorch watched maps": (lambda: SnnMaps(watched=True), FRAMES * spikes(*FRAMES.shape, seed=3), 3, {}),
    "snntorch sequential": (snn_sequential, TIME_FIRST, 3, {}),
    "snntorch sequential, batch first": (snn_sequential, BATCH_FIRST, 3, {"time": 1}),
    "norse state": (norse_state, TIME_FIRST, 30, {}),
    "norse loop": (NorseLoop, TIME_FIRST, 30, {}),
    "norse lifted": (norse_lifted, TIME_FIRST, 30, {}),
    "spikingjelly s": (lambda: spikingjelly("s"), TIME_FIRST, 5, {}),
    "spikingjelly m": (lambda: spikingjelly("m"), TIME_FIRST, 5, {}),
    "spikingjelly conv s": (lambda: spikingjelly_conv("s"), FRAMES, 5, {}),
    "spikingjelly conv m": (lambda: spikingjelly_conv("m"), FRAMES, 5, {}),
    "sinabs": (sinabs, BATCH_FIRST, 30, {"time": 1}),
    "rockpool": (rockpool, BATCH_FIRST, 3, {"time": 1}),
}


def made(name: str) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    build, x, gain, options = MODELS[name]
    torch.manual_seed(0)
    return woken(build(), gain), x, options


# --- what they give ---


@pytest.mark.parametrize("name", MODELS)
def test_a_fused_model_gives_what_the_model_gives(name: str) -> None:
    model, x, options = made(name)
    fast = fluctua.fuse(model, x, **options)
    twin = copy.deepcopy(fast)  # for the statistics of batch norm
    theirs, ours = passed(twin.plain, twin, x), passed(fast, model, x)
    assert [t.shape for t in ours[0]] == [t.shape for t in theirs[0]]
    assert all(t.is_contiguous() for t in ours[0])
    assert_same_passes(ours, theirs)


@pytest.mark.parametrize(
    "name", mostly(["snntorch loop", "snntorch conv", "spikingjelly m", "sinabs"], "snntorch conv", "sinabs")
)
def test_training_ends_with_the_same_weights(name: str) -> None:
    weights = []
    for fused in (False, True):
        model, x, _ = made(name)
        model, x = model.double(), x.double()
        fast = fluctua.fuse(model, x, forward=lambda model, x: model(x))
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with widened():
            for _ in range(5):
                rested(model)
                optimizer.zero_grad()
                loss_of((fast if fused else fast.plain)(x)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        weights.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def widened() -> Any:
    """snnTorch makes single precision of its spikes."""
    from fluctua.fusion.comparison import _Widened

    return _Widened()


# --- what it is ---


def test_it_shares_parameters_and_state_dict() -> None:
    model, x, _ = made("snntorch loop")
    fast = fluctua.fuse(model, x)
    assert fast.unfused is model
    assert list(fast.state_dict()) == list(model.state_dict())
    assert all(a is b for a, b in zip(fast.parameters(), model.parameters(), strict=True))
    torch.optim.SGD(fast.parameters(), lr=0.1)
    fast.eval()
    assert not model.training
    assert not model.get_submodule("lif1").training
    twin = copy.deepcopy(fast)
    assert all(a is b for a, b in zip(twin.parameters(), twin.unfused.parameters(), strict=True))
    assert torch.equal(twin(x)[0], fast(x)[0])


def test_the_model_itself_runs_as_before() -> None:
    model, x, _ = made("spikingjelly s")
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    fast = fluctua.fuse(model, x)
    rested(model)
    fast(x)
    rested(model)
    assert {name: set(vars(m)) for name, m in model.named_modules()} == before
    assert type(model(x[0])) is Tensor


def test_the_comparison_takes_one_thread_and_leaves_their_number_as_it_was() -> None:
    seen, before = list[int](), torch.get_num_threads()

    class Counting(SnnLoop):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    try:
        torch.set_num_threads(2)
        fluctua.fuse(woken(Counting(), 3), TIME_FIRST)
        assert (seen[-1], torch.get_num_threads()) == (1, 2)  # at each small step, two would wait for each other
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("in_place", [True, False])
def test_compiled_parts_run_as_they_are_written(in_place: bool) -> None:
    part: Any = nn.Sequential(nn.Linear(INPUTS, 16), nn.LayerNorm(16))
    model: Any = woken(SnnLoop(), 3)
    model.fc1 = part if in_place else torch.compile(part, backend="eager")
    if in_place:
        part.compile(backend="eager")
    fast = fluctua.fuse(model, TIME_FIRST)
    for samples in (SAMPLES, SAMPLES - 1):
        x = TIME_FIRST[:, :samples]
        torch.testing.assert_close(tensors(fast(x))[0], tensors(fast.plain(x))[0])
    assert (part._compiled_call_impl is not None) == in_place


def test_labels_and_loaders_are_taken_as_elsewhere() -> None:
    model, labels = woken(SnnLoop(), 3), torch.zeros(SAMPLES)
    loader: Any = DataLoader([(TIME_FIRST, labels)], batch_size=None)  # type: ignore[arg-type]
    reports = [str(fluctua.fuse(model, batch).report) for batch in (TIME_FIRST, (TIME_FIRST, labels), loader)]
    assert len({*reports}) == 1


def test_threads_on_one_fused_model_get_what_each_would_alone() -> None:
    model = woken(SnnLoop(), 3)
    fast, inputs = fluctua.fuse(model, TIME_FIRST), [spikes(STEPS, SAMPLES, INPUTS) for _ in range(4)]
    truth = [tensors(model(x)) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: tensors(fast(x)), inputs * 3))
    for mine, theirs in zip(found, truth * 3, strict=True):
        torch.testing.assert_close(mine, theirs)


class Gained(SnnLoop):
    """A tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.linspace(0.5, 1.5, INPUTS)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(self.gain * x)


def test_the_comparison_is_of_the_models_own_numbers() -> None:
    model: Any = woken(Gained(), 3)
    report, said = fluctua.fuse(model, TIME_FIRST[:, :4]).report, []
    for lif in (model.lif1, model.lif2):
        lif.register_forward_hook(lambda _m, _x, out: said.append(int(out[0].sum())))
    model(TIME_FIRST[:, :4])
    assert report.compared.startswith(f"{sum(said):,} of")


def test_a_surrogate_that_takes_anothers_place_in_memory_is_seen() -> None:
    snn = pytest.importorskip("snntorch")
    from snntorch import surrogate

    model: Any = woken(nn.Sequential(nn.Linear(INPUTS, 16), snn.Leaky(0.9, init_hidden=True)), 3)
    fast, found = fluctua.fuse(model, TIME_FIRST), []
    for slope in (1.0, 300.0) * 3:
        for _ in range(3):
            model[1].spike_grad = surrogate.fast_sigmoid(slope=slope)
        for call in (fast, fast.plain):
            rested(model)
            found.append(torch.autograd.grad(tensors(call(TIME_FIRST))[0].sum(), model[0].weight)[0])
    for mine, theirs in zip(found[::2], found[1::2], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def test_an_option_in_a_tuple_is_seen() -> None:
    norse = pytest.importorskip("norse.torch")
    model: Any = woken(norse.SequentialState(nn.Linear(INPUTS, 16), norse.LIFCell()), 20)
    fast, found = fluctua.fuse(model, TIME_FIRST), []
    model[1].p = model[1].p._replace(method="tanh")
    for call in (fast, fast.plain):
        found.append(torch.autograd.grad(tensors(call(TIME_FIRST))[0].sum(), model[0].weight)[0])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4 * float(found[1].abs().max()))


@pytest.mark.parametrize(
    ("kind", "fused"), [("PSN", ("3",)), ("SlidingPSN", ("3",)), ("KLIFNode", ("1", "3")), ("SLTTLIFNode", ("3",))]
)
def test_neurons_beside_others_fuse_as_far_as_they_can(kind: str, fused: tuple[str, ...]) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    options = {"PSN": {"T": STEPS}, "SlidingPSN": {"k": 2}}.get(kind, {})
    layers = nn.Linear(INPUTS, 16), getattr(neuron, kind)(**options), nn.Linear(16, 8)
    model = woken(nn.Sequential(*layers, neuron.LIFNode()), 3)
    functional.set_step_mode(model, "m")
    assert fluctua.fuse(model, TIME_FIRST).report.fused == fused
    if kind == "KLIFNode":  # although no kernel of it is known
        assert fluctua.fuse(woken(nn.Sequential(*layers), 3), TIME_FIRST).report.fused == ("1",)


def test_the_rate_that_sinabs_leaves_is_that_of_the_pass() -> None:
    model: Any = woken(sinabs(), 20)
    fast, found = fluctua.fuse(model, BATCH_FIRST, time=1), []
    for x in (BATCH_FIRST, 0 * BATCH_FIRST):
        for call in (fast, fast.plain):
            rested(model)
            call(x)
            rate = next(m.firing_rate for m in model.modules() if hasattr(m, "firing_rate"))
            found.append((rate.detach() + 0, torch.autograd.grad(rate, model[0].weight)[0]))
    for mine, theirs in zip(found[::2], found[1::2], strict=True):
        torch.testing.assert_close(mine, theirs)
    assert found[0][0] > 0


def test_what_rockpool_records_in_a_call_is_that_of_the_model() -> None:
    model = woken(rockpool(), 3)
    fast, found = fluctua.fuse(model, BATCH_FIRST, time=1), []
    for call in (fast, model):
        rested(model)
        found.append(call(BATCH_FIRST, record=True)[2])
    for name, theirs in found[1].items():
        if isinstance(theirs, dict):
            assert found[0][name].keys() == theirs.keys()
            for part, value in theirs.items():
                if isinstance(value, Tensor):
                    torch.testing.assert_close(found[0][name][part], value, msg=f"{name} {part}")


def test_state_goes_on_where_the_model_keeps_it() -> None:
    for name in ("spikingjelly s", "spikingjelly m", "sinabs", "snntorch sequential"):
        model, x, options = made(name)
        fast = fluctua.fuse(model, x, **options)
        halves = x.chunk(2, options.get("time", 0))
        rested(model)
        truth = [tensors(fast.plain(half))[0].detach() for half in halves]
        rested(model)
        with torch.no_grad():
            mine = [tensors(fast(half))[0] for half in halves]
        for a, b in zip(mine, truth, strict=True):
            assert torch.equal(a, b), name


def test_the_report_names_what_runs_where() -> None:
    snn = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    layers = nn.Linear(INPUTS, 16), snn.Leaky(0.9, init_hidden=True), snn.Leaky(0.9, init_hidden=True, inhibition=True)
    fast = fluctua.fuse(woken(nn.Sequential(*layers), 3), TIME_FIRST)
    assert fast.report.fused == ("1",)
    assert list(fast.report.by_steps) == ["2"]
    assert "fused: 1" in str(fast.report)
    assert "by steps: 2, as the step cannot be followed" in str(fast.report)


def test_a_silent_layer_is_said_to_show_nothing() -> None:
    model, x, _ = made("spikingjelly m")
    report = fluctua.fuse(woken(model, 0), x).report
    assert any("1 is silent" in note for note in report.notes), report


def test_neurons_that_are_not_called_are_told() -> None:
    snn = pytest.importorskip("snntorch")
    model: Any = woken(SnnLoop(), 3)
    model.spare = snn.Leaky(beta=0.5)
    assert fluctua.fuse(model, TIME_FIRST).report.notes == ("spare was not called",)


def test_changed_options_are_followed_again() -> None:
    model, x, _ = made("spikingjelly m")
    fast = fluctua.fuse(model, x)
    for module in model.modules():
        if hasattr(module, "v_threshold"):
            module.v_threshold = 2.5  # type: ignore[assignment]
    rested(model)
    truth = fast.plain(x)
    rested(model)
    assert torch.equal(fast(x), truth)


def test_spikes_are_added_up_by_events(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = fused_calls(monkeypatch)
    model, x, _ = made("spikingjelly m")
    assert isinstance(model, nn.Sequential)
    model[2] = nn.Identity()
    fast = fluctua.fuse(model, x * spikes(*x.shape, p=0.5, seed=3))
    fast(x * spikes(*x.shape, p=0.5, seed=3))
    assert lengths == [2]


def test_pooling_joins_a_convolution_of_few_spikes() -> None:
    model, x, _ = made("snntorch maps of few spikes")
    fast, sizes = fluctua.fuse(model, x), []

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tuple(tensor.shape[-2:]))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fast(x)
    assert (4, 4) in sizes  # the maps after pooling
    assert (8, 8) not in sizes  # before


class Holding(SnnLoop):
    """Every third potential is kept, in three ways, while the others come and go."""

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, kept = self.lif1.reset_mem(), self.lif2.reset_mem(), {}
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            if t % 3 == 0:
                kept[t] = [mem1, (spk1, mem2.clone())]
        return kept, spk2, mem1


def test_steps_that_somebody_holds_keep_their_numbers() -> None:
    model = woken(Holding(), 3)
    fast = fluctua.fuse(model, TIME_FIRST)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))


def test_a_step_leaves_no_tensors_in_circles() -> None:
    for name in ("snntorch maps of few spikes", "spikingjelly conv m", "norse loop"):
        model, x, options = made(name)
        fast = fluctua.fuse(model, x, **options)
        fast(x)
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            rested(model)
            loss_of(fast(x)).backward()  # type: ignore[no-untyped-call]
            gc.collect()
            assert not [found for found in gc.garbage if issubclass(type(found), Tensor | Node)]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()


@pytest.mark.parametrize("name", ["snntorch conv", "spikingjelly conv m"])
def test_neurons_in_a_loop_of_their_own_keep_their_state_alone_of_a_pass(name: str) -> None:
    model, x, options = made(name)
    fast = fluctua.fuse(model, x, **options)
    fast(x)
    first = fast.populations[0].module
    kept = [*vars(first).values(), *first._buffers.values(), *vars(first).get("_memories", {}).values()]
    states = [value for value in kept if isinstance(value, Tensor) and value.ndim > 2]
    assert states
    assert not [value for value in states if isinstance(value, Handle)]


def test_a_linear_module_with_a_forward_of_its_own_runs_as_it_is() -> None:
    model = woken(SnnLoop(), 3)
    linear = model.fc2
    vars(linear)["forward"] = MethodType(lambda self, x: 2 * F.linear(x, self.weight), linear)
    fast = fluctua.fuse(model, TIME_FIRST)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))
    assert "forward" in vars(linear)
    assert "forward" not in vars(model.fc1)


class Converting(SnnLoop):
    """Tensors of a step are brought to the type that they have."""

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t].type(x.dtype)).contiguous().to(x.device), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1.to(torch.float32)).float().type_as(mem1), mem2)
            assert spk2.type() == x.type()
            out.append(spk2.type(torch.FloatTensor))
        return torch.stack(out)


def test_a_type_that_is_there_already_keeps_a_step_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = woken(Converting(), 3), TIME_FIRST * spikes(*TIME_FIRST.shape, p=0.5, seed=3)
    fast = fluctua.fuse(model, x)
    lengths = fused_calls(monkeypatch)
    fast(x)
    assert lengths == [2]


def test_half_precision_and_the_reference_engine_run() -> None:
    model, x, _ = made("snntorch loop")
    fast = fluctua.fuse(model, x)
    truth = fast(x)[0]
    with engine("reference"):
        assert torch.equal(fast(x)[0], truth)
    with torch.autocast("cpu", torch.bfloat16):
        assert fast(x)[0].shape == truth.shape


class Noisy(SnnLoop):
    """Random numbers twice in a step, questions about tensors, and answers in the language's own types."""

    def forward(self, x: Tensor) -> Any:
        mem1, out, counts = self.lif1.reset_mem(), [], 0.0
        for t in range(len(x)):
            current = self.fc1(x[t])
            assert current.requires_grad == torch.is_grad_enabled()
            assert not current.is_leaf or not torch.is_grad_enabled()
            left, right = current * torch.rand_like(current), current * torch.rand_like(current)
            assert not torch.equal(left, right)
            spk1, mem1 = self.lif1(left + right, mem1)
            counts += float(spk1.sum())
            out.append(spk1)
        return torch.stack(out), counts


def test_random_numbers_are_drawn_anew_and_questions_are_answered() -> None:
    model = woken(Noisy(), 3)
    fast = fluctua.fuse(model, TIME_FIRST, forward=lambda model, x: model(x), exact=False)
    spikes, counts = fast(TIME_FIRST)
    assert counts == float(spikes.sum())
    assert len({tuple(step.flatten().tolist()) for step in spikes}) > STEPS // 2  # a mask for each step


# --- what is refused ---


class Edited(SnnLoop):
    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            mem1 = mem1.clamp(min=-1)
            out.append(spk1)
        return torch.stack(out)


class Truncated(SnnLoop):
    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1.detach() if t % 4 == 3 else mem1)
            out.append(spk1)
        return torch.stack(out)


class Branching(SnnLoop):
    def forward(self, x: Tensor) -> Any:
        mem1, mem2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            cur2 = self.fc2(spk1) if t == 0 or spk1.sum() > 20 else self.fc2(2 * spk1)
            spk2, mem2 = self.lif2(cur2, mem2)
            out.append(spk2)
        return torch.stack(out)


class Backward(SnnLoop):
    def forward(self, x: Tensor) -> Any:
        mem1, out = self.lif1.reset_mem(), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]), mem1)
            mem1.sum().backward(retain_graph=True)
            out.append(spk1)
        return torch.stack(out)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Edited, "the state of lif1 (Leaky) is changed between steps 0 and 1"),
        (Truncated, "the state of lif1 (Leaky) is changed between steps 2 and 3, or cut out of the graph"),
        (Branching, "lif2 (Leaky) hears at step"),
        (Backward, "runs backward within its forward pass"),
    ],
)
def test_what_no_loop_over_all_steps_does_is_refused(kind: type[nn.Module], words: str) -> None:
    torch.manual_seed(0)
    model = woken(kind(), 3)
    state = copy.deepcopy(model.state_dict())
    memories = [vars(m)["_buffers"]["mem"] for m in (model.get_submodule("lif1"), model.get_submodule("lif2"))]
    with pytest.raises(FuseError, match=words.replace("(", r"\(").replace(")", r"\)")):
        fluctua.fuse(model, TIME_FIRST, forward=lambda model, x: model(x))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all("forward" not in vars(m) for m in model.modules())
    now = [vars(m)["_buffers"]["mem"] for m in (model.get_submodule("lif1"), model.get_submodule("lif2"))]
    assert all(type(m) is Tensor and torch.equal(m, before) for m, before in zip(now, memories, strict=True))


def test_neurons_that_cannot_be_followed_are_named() -> None:
    snn = pytest.importorskip("snntorch")
    model = nn.Sequential(nn.Linear(INPUTS, 4), snn.Leaky(0.9, inhibition=True, init_hidden=True))
    with pytest.raises(
        FuseError, match=r"none of the neurons can run in a fused loop \(1: the step cannot be followed"
    ):
        fluctua.fuse(model, TIME_FIRST)


def test_another_number_of_steps_of_a_static_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, options = made("snntorch static")
    fast = fluctua.fuse(model, x, **options)
    monkeypatch.setattr(f"{__name__}.STEPS", 7)
    with pytest.raises(FuseError, match="shown its current for 7 steps, and for 12 when"):
        fast(x)


def test_all_names_are_handed_on() -> None:
    assert isinstance(fluctua.fuse(*made("spikingjelly m")[:2]), FusedModel)
    assert Population.__doc__


@pytest.mark.parametrize("name", ["spikingjelly m", "spikingjelly s"])
def test_it_may_be_pickled_before_and_after_a_pass(name: str) -> None:
    """As a process that is spawned receives it."""
    model, x, options = made(name)
    fast = fluctua.fuse(model, x, **options)
    for _ in range(2):
        twin = pickle.loads(pickle.dumps(fast))
        rested(twin.unfused)
        theirs = twin(x)
        rested(model)
        assert torch.equal(theirs, fast(x))
        assert all(a is b for a, b in zip(twin.parameters(), twin.unfused.parameters(), strict=True))
