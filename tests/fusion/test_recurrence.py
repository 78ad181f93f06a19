"""Neurons that hear themselves, by weights of their module or by the model's own code: fused beside as it is."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fluctua
from fluctua.fusion import FuseError
from fluctua.timeloop import engine
from shared.fused_networks import (
    BATCH_FIRST,
    INPUTS,
    TIME_FIRST,
    SnnLoop,
    assert_same_passes,
    passed,
    rested,
    spikes,
    woken,
)
from shared.pairs import mostly

UNITS = 16


class OfSnnTorch(SnnLoop):
    """RLeaky or RSynaptic, as its docstring calls it."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        alpha = {"alpha": 0.8} if kind == "RSynaptic" else {}
        self.lif1 = getattr(pytest.importorskip("snntorch"), kind)(beta=0.9, **alpha, **options)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state, mem2, out, potentials = self.lif1.reset_mem(), self.lif2.reset_mem(), [], []
        for t in range(len(x)):
            state = self.lif1(self.fc1(x[t]), *state)
            spk2, mem2 = self.lif2(self.fc2(state[0]), mem2)
            out.append(spk2)
            potentials.append(state[-1])
        return torch.stack(out), torch.stack(potentials)


class MapOfSnnTorch(nn.Module):
    """A feature map that hears itself by a convolution."""

    def __init__(self) -> None:
        super().__init__()
        snn = pytest.importorskip("snntorch")
        self.conv, self.lif = nn.Conv2d(2, 4, 3, padding=1), snn.RLeaky(beta=0.9, conv2d_channels=4, kernel_size=3)

    def forward(self, x: Tensor) -> Tensor:
        state, out = self.lif.reset_mem(), []
        for frame in x:
            state = self.lif(self.conv(frame), *state)
            out.append(state[0])
        return torch.stack(out)


class OfNorse(nn.Module):
    """A recurrent cell, which has a weight for its input too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        norse = pytest.importorskip("norse.torch")
        self.cell, self.fc, self.li = getattr(norse, kind)(INPUTS, UNITS), nn.Linear(UNITS, 4), norse.LICell()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s1: Any = None
        s2, out = None, []
        for t in range(len(x)):
            z, s1 = self.cell(x[t], s1)
            v, s2 = self.li(self.fc(z), s2)
            out.append(v)
        return torch.stack(out), getattr(s1, "lif", s1).z


def norse_sequence() -> nn.Module:
    made: nn.Module = pytest.importorskip("norse.torch").LIFRecurrent(INPUTS, UNITS)
    return made


def sinabs(once: bool = True) -> nn.Module:
    sl = pytest.importorskip("sinabs.layers")
    from sinabs.activation import MultiSpike, SingleSpike

    fires = SingleSpike if once else MultiSpike
    back = nn.Sequential(nn.Flatten(), nn.Linear(UNITS, UNITS))
    hears = sl.LIFRecurrent(tau_mem=10.0, tau_syn=5.0, rec_connect=back, spike_fn=fires)
    return nn.Sequential(nn.Linear(INPUTS, UNITS), hears, nn.Linear(UNITS, 4), sl.LIF(tau_mem=10.0))


def spikingjelly(elementwise: bool = False) -> nn.Module:
    pytest.importorskip("spikingjelly.activation_based")
    from spikingjelly.activation_based import layer, neuron

    cell = neuron.LIFNode(detach_reset=True)
    if elementwise:
        hears: nn.Module = layer.ElementWiseRecurrentContainer(cell, lambda x, y: x - 0.5 * y)
        return nn.Sequential(layer.Linear(INPUTS, UNITS), hears, layer.Linear(UNITS, 4), neuron.LIFNode())
    hears = layer.LinearRecurrentContainer(cell, INPUTS, INPUTS)
    return nn.Sequential(hears, layer.Linear(INPUTS, 4), neuron.LIFNode())


class ByHand(SnnLoop):
    """The last spikes are heard by the model's own code."""

    def __init__(self, current: Callable[["ByHand", Tensor, Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.current, self.bias = current, bias
        self.rec, self.both = nn.Linear(UNITS, UNITS, bias=bias), nn.Linear(INPUTS + UNITS, UNITS)
        self.weight, self.dropout = nn.Parameter(torch.randn(UNITS, UNITS)), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        mem1, mem2, out, potentials, total = self.lif1.reset_mem(), self.lif2.reset_mem(), [], [], torch.zeros(())
        spk1 = torch.zeros(x.shape[1], UNITS, dtype=x.dtype)
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.current(self, x[t], spk1), mem1)
            total = total + spk1.mean()
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
            potentials.append(mem1)
        return torch.stack(out), torch.stack(potentials), total


class Shown(ByHand):
    """A static input."""

    def forward(self, x: Tensor) -> Any:
        mem1, spk1, out = self.lif1.reset_mem(), torch.zeros(len(x), UNITS, dtype=x.dtype), []
        for _ in range(12):
            spk1, mem1 = self.lif1(self.fc1(x) + self.rec(spk1), mem1)
            out.append(spk1)
        return torch.stack(out)


def added(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.fc1(x) + m.rec(s)  # type: ignore[no-any-return]


def first_heard(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.rec(s) + m.fc1(x)  # type: ignore[no-any-return]


def joined(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.both(torch.cat([x, s], 1))  # type: ignore[no-any-return]


def scaled(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.fc1(x) - 0.5 * (s @ m.weight) - 0.1  # type: ignore[no-any-return]


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, float, dict[str, Any]]] = {
    "snntorch RLeaky": (lambda: OfSnnTorch("RLeaky", linear_features=UNITS), TIME_FIRST, 3, {}),
    "snntorch RSynaptic": (lambda: OfSnnTorch("RSynaptic", linear_features=UNITS), TIME_FIRST, 3, {}),
    "snntorch V": (lambda: OfSnnTorch("RLeaky", all_to_all=False, V=0.7), TIME_FIRST, 3, {}),
    "snntorch V of each": (
        lambda: OfSnnTorch("RSynaptic", all_to_all=False, V=-torch.rand(UNITS)), TIME_FIRST, 3, {},
    ),
    "snntorch map": (MapOfSnnTorch, spikes(12, 5, 2, 8, 8), 3, {}),
    "norse LIF": (lambda: OfNorse("LIFRecurrentCell"), TIME_FIRST, 30, {}),
    "norse LSNN": (lambda: OfNorse("LSNNRecurrentCell"), TIME_FIRST, 60, {}),
    "norse refractory": (lambda: OfNorse("LIFRefracRecurrentCell"), TIME_FIRST, 60, {}),
    "norse sequence": (norse_sequence, TIME_FIRST, 30, {}),
    "sinabs": (sinabs, BATCH_FIRST, 30, {"time": 1}),
    "spikingjelly": (spikingjelly, TIME_FIRST, 5, {}),
    "spikingjelly elementwise": (lambda: spikingjelly(elementwise=True), TIME_FIRST, 5, {}),
    "added": (lambda: ByHand(added), TIME_FIRST, 3, {}),
    "added without bias": (lambda: ByHand(first_heard, bias=False), TIME_FIRST, 3, {}),
    "joined": (lambda: ByHand(joined), TIME_FIRST, 3, {}),
    "scaled": (lambda: ByHand(scaled), TIME_FIRST, 3, {}),
    "static": (lambda: Shown(added), TIME_FIRST[0], 3, {"time": None}),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, Tensor, dict[str, Any]]:
    build, x, gain, options = MODELS[name]
    torch.manual_seed(0)
    return woken(build(), gain), x, options


@pytest.mark.parametrize("name", mostly(MODELS, "snntorch RSynaptic", "snntorch V of each"))
def test_a_fused_model_gives_what_the_model_gives(name: str) -> None:
    model, x, options = made(name)
    fast = fluctua.fuse(model, x, **options)
    assert not fast.report.by_steps
    theirs = passed(fast.plain, model, x)
    assert_same_passes(passed(fast, model, x), theirs, may_lack_zeros=True)


def test_the_loops_of_recurrent_layers_run_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from fluctua.timeloop import events_layers

    heard: list[Tensor] = []
    run = events_layers.run_to_end

    def seen(x: Tensor, layers: Any, spikes: Any = None) -> Any:
        heard.extend(layer.recurrent for layer in layers if layer.recurrent is not None)
        return run(x, layers, spikes)

    monkeypatch.setattr(events_layers, "run_to_end", seen)
    for name in ("snntorch RLeaky", "norse LSNN", "added without bias"):
        model, x, _ = made(name)
        fluctua.fuse(model, x)(x)
    weights = [heard[0].shape, *(h.shape for h in heard)]
    assert weights == [(UNITS, UNITS)] * 4


def test_any_state_before_the_first_step_and_the_reference_engine() -> None:
    model, x, _ = made("spikingjelly")
    fast = fluctua.fuse(model, x)
    truth = torch.cat([fast.plain(half).detach() for half in x.chunk(2)])
    rested(model)
    halves = [fast(half).detach() for half in x.chunk(2)]  # goes on from its state and its last spikes
    assert torch.equal(torch.cat(halves), truth)
    rested(model)
    with engine("reference"):
        assert torch.equal(fast(x), truth)


def test_neurons_that_fire_more_than_once_in_a_step_run_as_they_are() -> None:
    torch.manual_seed(0)
    model = woken(sinabs(once=False), 30)
    report = fluctua.fuse(model, BATCH_FIRST, time=1).report
    assert report.by_steps == {"1": "it is recurrent, and its output is not seen to be 0 or 1"}


class Feedback(ByHand):
    def forward(self, x: Tensor) -> Any:
        mem1, mem2, spk2, out = self.lif1.reset_mem(), self.lif2.reset_mem(), torch.zeros(x.shape[1], 4), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]) + F.pad(spk2, (0, 12)), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            out.append(spk2)
        return torch.stack(out)


class Potential(ByHand):
    def forward(self, x: Tensor) -> Any:
        mem1, out = torch.zeros(x.shape[1], UNITS), []
        for t in range(len(x)):
            spk1, mem1 = self.lif1(self.fc1(x[t]) + self.rec(mem1), mem1)
            out.append(spk1)
        return torch.stack(out)


def gated(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.fc1(x) * m.rec(s)  # type: ignore[no-any-return]


def noisy(m: ByHand, x: Tensor, s: Tensor) -> Tensor:
    return m.fc1(x) + m.rec(m.dropout(s))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Feedback(added), r"lif1 \(Leaky\) feeds back through other neurons, lif2 \(Leaky\)"),
        (lambda: Potential(added), r"lif1 \(Leaky\) reads its potential of the step before"),
        (lambda: ByHand(gated), "the fused model gives something else"),
        (lambda: ByHand(noisy), r"lif1 \(Leaky\) is recurrent through random numbers \(dropout\)"),
    ],
)
def test_what_is_no_weight_is_refused(build: Callable[[], nn.Module], words: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(FuseError, match=words):
        fluctua.fuse(woken(build(), 3), TIME_FIRST)


def test_layers_behind_a_state_without_gradient_are_compared_with_the_same_weights() -> None:
    norse = pytest.importorskip("norse.torch")
    from norse.torch.functional.lsnn import LSNNParameters

    torch.manual_seed(0)
    neurons = norse.LSNNRecurrent(20, 8, p=LSNNParameters(v_th=torch.tensor(0.2)))
    model = norse.SequentialState(neurons, nn.Linear(8, 4), norse.LI())
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    report = fluctua.fuse(model, (torch.rand(12, 6, 20) < 0.25).float()).report
    assert report.fused == ("0", "2")
