"""Laws of what reaches a neuron: what is multiplied and what multiplies, which norms, and which current two read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fluctua
from fluctua.network import Network
from fluctua.network.facts import Population
from fluctua.neurons import LI, LIF
from shared.free import free_potentials, sigma
from shared.spikes import spikes

N, STEPS = 32, 40
BATCH = spikes(STEPS, 12, 40, p=0.15)


class Between(nn.Module):
    """A neuron, what a function makes of its spikes with three weights, and the neuron that gets it."""

    def __init__(self, way: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.first = nn.Linear(40, N, bias=False), LIF()
        self.a, self.b, self.c = (nn.Linear(N, N, bias=False) for _ in range(3))
        self.way, self.spiking, self.norm = way, LIF(), nn.LayerNorm(N)
        self.last, self.head, self.out = LIF(), nn.Linear(N, 3), LI()

    def forward(self, x: Tensor) -> Any:
        return self.out(self.head(self.last(self.way(self, self.first(self.stem(x))))))


def mixed(m: Any, h: Tensor) -> Tensor:
    gate = torch.sigmoid(m.b(h))
    return gate * m.a(h) + (1 - gate) * m.c(h)  # type: ignore[no-any-return]


def squeezed(m: Any, h: Tensor) -> Tensor:
    current = m.norm(m.a(h))
    return current * torch.sigmoid(m.c(F.relu(m.b(current.mean(0)))))  # type: ignore[no-any-return]


GATES: dict[str, tuple[Callable[[Any, Tensor], Tensor], set[str], set[str]]] = {
    "gated linear unit": (lambda m, h: m.a(h) * torch.sigmoid(m.b(h)), {"a"}, {"b"}),
    "the gate first": (lambda m, h: torch.sigmoid(m.b(h)) * m.a(h), {"a"}, {"b"}),
    "squeeze and excite": (squeezed, {"a"}, {"b", "c"}),
    "a gate between two": (mixed, {"a", "c"}, {"b"}),
    "with a way past the gate": (lambda m, h: m.a(h) + m.a(h) * torch.tanh(m.b(h)), {"a"}, {"b"}),
    "smaller than what it multiplies": (lambda m, h: m.a(h).mean(-1, keepdim=True) * m.b(h), {"b"}, {"a"}),
    "gated by spikes": (lambda m, h: m.spiking(m.b(h)) * m.a(h), {"a"}, set()),
    "attention": (
        lambda m, h: torch.softmax(m.a(h) @ m.b(h).transpose(1, 2) / N, -1) @ m.c(h),
        {"c"},
        {"a", "b"},
    ),
    "attention without softmax": (lambda m, h: m.a(h) @ m.b(h).transpose(1, 2) @ m.c(h) / N, {"c"}, {"a", "b"}),
    "scaled dot product": (lambda m, h: F.scaled_dot_product_attention(m.a(h), m.b(h), m.c(h)), {"c"}, {"a", "b"}),
}


def last(model: Between) -> Population:
    return next(p for p in Network.of(model, BATCH).populations if p.name == "last")


@pytest.mark.parametrize("name", GATES)
def test_what_multiplies_is_left_alone_and_the_current_measured_as_gated(name: str) -> None:
    way, weights, gates = GATES[name]
    model = Between(way)
    found = last(model)
    assert {q.name for q in found.pathways} == {f"{w}.weight" for w in weights}
    assert {gate.name for gate in found.gates} == {f"{w}.weight" for w in gates}
    assert "first" in found.heard
    before = {w: getattr(model, w).weight.detach().clone() for w in gates}
    report = fluctua.initialize(model, BATCH, seed=0)
    assert all(torch.equal(getattr(model, w).weight, value) for w, value in before.items())
    u = free_potentials(model, BATCH)["last"]
    assert sigma(u) == pytest.approx(1.0, rel=0.011)
    assert float(u.mean()) == pytest.approx(0.0, abs=0.011)
    assert any("the gate of the current into last" in note for note in report.notes) == bool(gates)
    assert not any(note.startswith(f"{w} feeds no known neuron") for note in report.notes for w in gates)


class PerStep(nn.Module):
    """A weight and a norm for each time step, in a loop or at once."""

    def __init__(self, *, bias: bool = True, own: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight, self.neuron = nn.Linear(40, N, bias=False), LIF()
        self.norms = nn.ModuleList(nn.BatchNorm1d(N) for _ in range(STEPS))
        self.head, self.out, self.own = nn.Linear(N, 3), LI(), own
        for norm in self.norms if not bias else ():
            norm.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Any:
        currents = [norm(self.weight(now)) for now, norm in zip(x, self.norms, strict=True)]
        if not self.own:
            currents = [norm(now) for now, norm in zip(self.weight(x), self.norms, strict=True)]
        return self.out(self.head(self.neuron(torch.stack(currents))))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("own", [True, False], ids=["step by step", "at once"])
def test_the_norms_of_all_time_steps_are_set(own: bool, bias: bool) -> None:
    model = PerStep(own=own, bias=bias)
    (pathway,) = Network.of(model, BATCH).populations[0].pathways
    assert set(pathway.norms) == set(model.norms)
    fluctua.initialize(model, BATCH, seed=0)
    gains = torch.stack([norm.weight for norm in model.norms])  # type: ignore[misc]
    assert float(gains.min()) == float(gains.max()) != 1.0
    assert sigma(free_potentials(model, BATCH)["neuron"]) == pytest.approx(1.0, rel=0.01)


def test_without_an_offset_only_the_variance_is_set() -> None:
    model = PerStep(bias=False).eval()
    report = fluctua.initialize(model, BATCH, seed=0)
    u = free_potentials(model, BATCH)["neuron"]
    assert sigma(u) == pytest.approx(1.0, rel=0.01)
    assert any("mu_U misses" in w for w in report.warnings) == (abs(float(u.mean())) > 0.1)


def test_a_way_without_a_norm_leaves_the_size_to_the_weight() -> None:
    assert last(Between(lambda m, h: m.norm(m.a(h)))).pathways[0].norms != ()
    model = Between(lambda m, h: (lambda y: y + m.norm(y))(m.a(h)))
    assert last(model).pathways[0].norms == ()


def test_data_that_are_added_without_a_weight_count() -> None:
    model = Between(lambda m, h: m.a(h) + 0.3 * BATCH[:, : h.shape[1], :N])
    fluctua.initialize(model, BATCH, seed=0)
    u = free_potentials(model, BATCH)["last"]
    assert (sigma(u), float(u.mean())) == pytest.approx((1.0, 0.0), abs=0.01)


class Pool(nn.Module):
    """A readout that sums up what two layers send in every step."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        from shared.step_networks import StepNeuron

        self.a, self.b = nn.Linear(40, N, bias=False), nn.Linear(N, N, bias=False)
        self.near, self.far = nn.Linear(N, 3, bias=False), nn.Linear(N, 3, bias=False)
        self.first, self.second, self.pool = StepNeuron(), StepNeuron(), StepNeuron(threshold)

    def forward(self, x: Tensor) -> Any:
        a = b = c = None
        for now in x:
            one, a = self.first(self.a(now), a)
            two, b = self.second(self.b(one), b)
            _, c = self.pool(self.near(one), c)
            _, c = self.pool(self.far(two), c)
        return None if c is None else c.potential


def test_a_readout_may_be_called_for_several_layers_in_a_step() -> None:
    from shared.step_networks import NEURONS, free_potential_of

    model, currents = Pool(1e9), list[Tensor]()
    report = fluctua.initialize(model, BATCH, seed=0, neurons=NEURONS)
    with torch.no_grad():
        handle = model.pool.register_forward_pre_hook(lambda module, args: currents.append(args[0]))
        model(BATCH)
        handle.remove()
        u = free_potential_of(model.pool, currents)
    assert len(u) == 2 * STEPS
    assert {q.name for q in report["pool"].pathways} == {"near.weight", "far.weight"}
    assert report["pool"].sigma_u == pytest.approx(sigma(u), rel=1e-3) == pytest.approx(0.1, rel=0.01)
    with pytest.raises(fluctua.network.WiringError, match="pool was called 2 times in one time step"):
        Network.of(Pool(1.0), BATCH, neurons=NEURONS)
