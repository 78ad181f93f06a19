"""Laws of the shares: each pathway's is that of the potential which its weight alone would cause."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import DaleLayer, OverTime, Recurrent
from fluctua.methods import Measured
from fluctua.network.facts import Pathway, Population, free_potential
from fluctua.neurons import LI, LIF
from fluctua.state.facts import PopulationState
from shared.circuit_loops import dale_by_hand, late
from shared.circuit_networks import CASES as CIRCUITS
from shared.circuit_networks import made
from shared.spikes import spikes
from shared.tracing import trace
from shared.wiring_networks import CASES, Layers, Residual


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network in float64 without biases, in eval mode, and its input."""
    model, x = (CASES[name].model(), CASES[name].batch()) if name in CASES else made(name)
    with torch.no_grad():
        for key, p in model.named_parameters():
            if key.endswith("bias"):
                p.zero_()
    return model.eval(), x


class Held:
    """Runs a model whose neurons put out what they did the first time, whatever becomes of the weights."""

    def __init__(self, model: nn.Module, x: Tensor, populations: tuple[Population, ...]) -> None:
        self.model, self.x, self.populations = model, x, populations
        self.outputs: dict[nn.Module, Tensor] = {}
        self.spikes: dict[str, Tensor] = {}
        self.rest = self.arguments()

    def arguments(self) -> dict[nn.Module, tuple[Tensor, ...]]:
        seen: dict[nn.Module, tuple[Tensor, ...]] = {}

        def read(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            seen[module] = tuple(a.clone() for a in args)

        def hold(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            return self.outputs.setdefault(module, output.clone()).clone()

        handles = [p.emitter.register_forward_hook(note_once(self.spikes, p.name)) for p in self.populations]
        for module in {p.module for p in self.populations}:
            handles += [module.register_forward_pre_hook(read), module.register_forward_hook(hold)]
        with torch.no_grad():
            self.model(self.x)
        for handle in handles:
            handle.remove()
        return seen

    def part(self, p: Population, q: Pathway) -> float:
        """Variance of what the weight adds: of how the potential changes when the weight is doubled."""
        kernel = p.neuron.kernels[q.port]
        with torch.no_grad():
            if q.inner is not None:
                return float(free_potential(q.inner(self.spikes[q.sources[0]]), kernel).var(correction=0))
            k = p.arguments[q.port]
            assert k is not None
            q.weight.mul_(2)
            now = self.arguments()[p.module][k]
            q.weight.div_(2)
        return float(free_potential(now - self.rest[p.module][k], kernel).var(correction=0))

    def unweighted(self, p: Population) -> float:
        """Variance of what arrives without a weight."""
        names = {q.name: q for q in p.pathways if q.inner is None}
        with torch.no_grad():
            u = free_potential(self.rest[p.module][0], p.neuron.kernel)
            for q in names.values():
                q.weight.mul_(2)
                u -= free_potential(self.arguments()[p.module][0] - self.rest[p.module][0], p.neuron.kernel)
                q.weight.div_(2)
        return float(u.var(correction=0)) if p.unweighted else 0.0


def note_once(table: dict[str, Tensor], name: str) -> Any:
    def after(module: nn.Module, args: Any, output: Tensor) -> None:
        table.setdefault(name, output.clone())

    return after


@pytest.mark.parametrize(
    "name",
    [
        *("residual", "joined", "residual stream in place", "one layer, two shapes", "hooks that change outputs"),
        *("recurrent", "feature maps", "a residual net", "around two ports", "a stack of both"),
        *("Dale without recurrent excitation", "one weight in two circuits"),
    ],
)
def test_shares_are_those_of_what_each_weight_alone_adds(name: str) -> None:
    model, x = built(name)
    before = copy.deepcopy(model.state_dict())
    populations, report = trace(model, x), fluctua.inspect(model, x)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    held = Held(model, x, populations)
    several = 0
    for p, state in zip(populations, report, strict=True):
        parts = {q.name: held.part(p, q) for q in p.pathways}
        if len(parts) < 2:
            assert [q.share for q in state.pathways] == [None]
            continue
        several += 1
        total = sum(parts.values()) + held.unweighted(p)
        for q in state.pathways:
            assert q.share == pytest.approx(parts[q.name] / total, rel=1e-6, abs=1e-9)
            assert parts[q.name] > 0
    assert several == sum(len(ways) > 1 for ways in feeds(name))


def feeds(name: str) -> list[Any]:
    return [ways for _, ways, _ in CASES[name].feeds] if name in CASES else list(CIRCUITS[name].feeds.values())


def test_they_are_seen_in_the_report_of_an_initialisation_too() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(DaleLayer(40, 40, 10), nn.Linear(40, 3), LI(0.1)), spikes(250, 16, 40, p=0.05)
    report = fluctua.initialize(model, x, seed=0)
    for mine, theirs in zip(report, fluctua.inspect(model, x), strict=True):
        assert [q.share for q in mine.pathways] == pytest.approx([q.share for q in theirs.pathways])
    fed, back, against = (q.share for q in report["0.circuit.exc"].pathways)
    assert fed is not None
    assert back is not None
    assert against is not None
    assert fed + back + against == pytest.approx(1.0)
    assert fed / (fed + back) == pytest.approx(0.9, abs=0.05)
    assert report.rows()[0]["weight_share"] == f"{fed:.3f} {back:.3f} {against:.3f}"
    assert report.rows()[2]["weight_share"] == "-"


def test_they_hold_for_the_window_that_was_asked_for() -> None:
    layer, x = DaleLayer(20, 8, 4).double(), 4 * spikes(60, 3, 20, p=0.3).double()
    x[:30] = 0
    with torch.no_grad():
        for w in (layer.input_exc.weight, layer.input_inh.weight):
            w.mul_(8)
    fired, kernel = dale_by_hand(layer, x), trace(layer, x)[0].neuron.kernels
    weight = layer.circuit.exc_exc
    assert weight is not None
    with torch.no_grad():
        currents = [layer.input_exc(x), late(weight(fired["exc"])), late(layer.circuit.inh_exc(fired["inh"]))]
    potentials = [free_potential(c, kernel[k]) for c, k in zip(currents, (0, 0, 1), strict=True)]
    for window, first in (("trial", 0), ("arrival", 30)):
        parts = [float(u[first:].var(correction=0)) for u in potentials]
        state = fluctua.inspect(layer, x, window=window)[0]  # type: ignore[arg-type]
        assert [q.share for q in state.pathways] == pytest.approx([part / sum(parts) for part in parts], rel=1e-9)


class OneNorm(Layers):
    """A norm behind the sum of two pathways."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Any:
        return self.lif_c(self.norm(self.b(self.lif_a(self.a(x))) + self.skip(x)))


class TwoNorms(OneNorm):
    """A norm behind each."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.LayerNorm(12)

    def forward(self, x: Tensor) -> Any:
        return self.lif_c(self.norm(self.b(self.lif_a(self.a(x)))) + self.other(2 * self.skip(x)))


class Through(Layers):
    """What feeds one population on its own is on the way of another pathway into it."""

    def forward(self, x: Tensor) -> Any:
        a = self.a(x)
        return self.lif_c(self.b(self.lif_a(a)) + self.c(self.skip(x)) + self.skip(x))


def last_state(model: nn.Module) -> PopulationState:
    state: PopulationState = fluctua.inspect(model, CASES["sequential"].batch().float())[-1]
    return state


@pytest.mark.parametrize("model", [OneNorm(), Through()], ids=["a norm behind both", "one through another"])
def test_what_cannot_be_told_apart_has_no_share(model: nn.Module) -> None:
    assert len(last_state(model).pathways) > 1
    assert all(q.share is None for q in last_state(model).pathways)


def test_norms_of_their_own_give_pathways_the_size_that_counts() -> None:
    torch.manual_seed(0)
    model = TwoNorms()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5 if p.ndim > 1 else 0)
        model.norm.weight.fill_(1.0)
        model.other.weight.fill_(2.0)
    x, kernel = CASES["sequential"].batch().float(), trace(model, CASES["sequential"].batch().float())[-1].neuron.kernel
    with torch.no_grad():
        currents = [model.norm(model.b(model.lif_a(model.a(x)))), model.other(2 * model.skip(x))]
    parts = [float(free_potential(c, kernel).var(correction=0)) for c in currents]
    shares = [q.share for q in last_state(model).pathways]
    assert shares == pytest.approx([part / sum(parts) for part in parts], rel=1e-4)


def test_silence_and_nan_have_no_shares() -> None:
    model, x = Residual(), CASES["sequential"].batch().float()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    silent = fluctua.inspect(model, x)[-1]
    assert [q.share for q in silent.pathways] == [0.0, 0.0] or all(q.share is None for q in silent.pathways)
    with torch.no_grad():
        model.c.weight[0, 0] = torch.nan
    assert all(q.share is None for q in fluctua.inspect(model, x)[-1].pathways)


class Deep(nn.Module):
    """Four residual networks, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual() for _ in range(4))
        self.between = nn.ModuleList(nn.Linear(12, 20) for _ in range(4))

    def forward(self, x: Tensor) -> Any:
        for block, linear in zip(self.blocks, self.between, strict=True):
            x = linear(block(x))
        return x


def test_one_pass_serves_all_populations_and_neurons_run_once() -> None:
    model, x = Deep(), CASES["sequential"].batch().float()
    steps, passes = Counter[str](), Counter[str]()
    simulate = LIF.simulate

    def counting(neuron: LIF, *args: Any) -> Any:
        steps["run"] += 1
        return simulate(neuron, *args)

    model.register_forward_hook(lambda module, args, output: passes.update(["pass"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LIF, "simulate", counting)
        populations = trace(model, x)
        assert steps["run"] == len(populations) == 12
        fluctua.inspect(model, x)
    assert steps["run"] == 3 * 12, "to trace again and to inspect"
    assert passes["pass"] == 3 + 1 + 2, "once with no pathway into the last of each block, once with each of the two"


def test_recurrent_feature_maps_have_shares() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        OverTime(nn.Conv1d(2, 4, 5, bias=False)), Recurrent(LIF(), nn.Conv1d(4, 4, 3, padding=1, bias=False))
    )
    x = spikes(100, 4, 2, 24)
    report = fluctua.initialize(model, x, method=Measured(alpha=0.7), seed=0)
    assert [q.share for q in report[0].pathways] == pytest.approx([0.7, 0.3], abs=0.05)
