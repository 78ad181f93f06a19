"""Laws of networks of unknown neurons, which the user names: they are initialised as those of known ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.network import ProbedNeuron

T, B, N, HIDDEN = 80, 32, 40, 64
KEPT, PASSED = "kept", "passed"


class Mine(nn.Module):
    """A neuron with a synapse and a soft reset that fluctua does not know; keeps its state."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = 1.0
        self.silent = False
        self.restart()

    def restart(self) -> None:
        self.i: Any = 0.0
        self.v: Any = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.i = 0.7 * self.i + x
        self.v = 0.9 * self.v + 0.2 * self.i
        spikes: Tensor = 0 * self.v if self.silent else ((self.v > self.theta).to(x) - self.v).detach() + self.v
        self.v = self.v - self.theta * spikes.detach()
        return spikes


class Passing(Mine):
    """The same with its state passed from call to call."""

    def forward(self, x: Tensor, state: Any = None) -> Any:
        self.i, self.v = (0.0, 0.0) if state is None else state
        spikes = super().forward(x)
        return spikes, (self.i, self.v)


class Loop(nn.Module):
    """A recurrent and a feed-forward population in a loop written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Passing(), Passing()
        self.w_in, self.w_rec = nn.Linear(N, HIDDEN, bias=False), nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.w_out = nn.Linear(HIDDEN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        a: Any = None
        b: Any = None
        spikes, out = x.new_zeros(x.shape[1], HIDDEN), []
        for now in x:
            spikes, a = self.first(self.w_in(now) + self.w_rec(spikes), a)
            y, b = self.second(self.w_out(spikes), b)
            out.append(y)
        return torch.stack(out)


NEURONS: Any = {
    Mine: ProbedNeuron("theta", "v", reset="restart"),
    Passing: ProbedNeuron("theta", lambda module, output: output[1][1], passes_state=True),
}


def batch() -> Tensor:
    return (torch.rand(T, B, N, generator=torch.Generator().manual_seed(0)) < 0.05).float()


def sequential() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(N, HIDDEN), Mine(), *[m for _ in range(3) for m in (nn.Linear(HIDDEN, HIDDEN), Mine())]
    )


def free_potential(module: Mine, currents: list[Tensor]) -> Tensor:
    """Potential `[T, B, N]` of the neuron itself, kept from spiking, on the currents that it gets in the network."""
    module.restart()
    module.silent = True
    state, potentials = None, []
    for x in currents:
        if isinstance(module, Passing):
            _, state = module(x, state)
        else:
            module(x)
        potentials.append(module.v)
    module.silent = False
    module.restart()
    return torch.stack(potentials)


@pytest.mark.parametrize("model", [sequential, Loop], ids=["stepwise, run by default", "loop by hand, recurrent"])
def test_named_neurons_reach_their_target_in_their_own_simulation(model: Any) -> None:
    torch.manual_seed(0)
    net, x = model(), batch()
    keys = list(net.state_dict())
    report = fluctua.initialize(net, x, seed=0, neurons=NEURONS)
    currents: dict[str, list[Tensor]] = {}
    modules = {name: m for name, m in net.named_modules() if isinstance(m, Mine)}
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda m, args, name=name: currents.setdefault(name, []).append(args[0]))
    with torch.no_grad():
        if model is Loop:
            net(x)
        else:
            [net(now) for now in x]
        assert [p.name for p in report] == list(modules)
        found = {name: free_potential(module, currents[name][:T]) for name, module in modules.items()}
    for p in report:
        recurrent = any("rec" in q.name for q in p.pathways)
        # Of one population's fixed point, and of weights that are scaled once and exactly.
        assert float(found[p.name].std()) == pytest.approx(p.target_sigma_u, rel=0.1 if recurrent else 0.05)
        assert float(found[p.name].mean()) == pytest.approx(0.0, abs=0.05)
    assert list(net.state_dict()) == keys


def test_pathways_of_named_neurons_are_found() -> None:
    report = fluctua.inspect(Loop(), batch(), neurons=NEURONS)
    found = {p.name: {q.name: q.sources for q in p.pathways} for p in report}
    assert found == {
        "first": {"w_in.weight": ("input",), "w_rec.weight": ("first",)},
        "second": {"w_out.weight": ("first",)},
    }


def test_with_a_time_step_rates_are_in_hz() -> None:
    net = sequential()
    per_step = fluctua.inspect(net, batch(), neurons=NEURONS)
    in_hz = fluctua.inspect(net, batch(), neurons=NEURONS, dt=2e-3)
    for a, b in zip(per_step, in_hz, strict=True):
        assert a.rate is not None
        assert b.rate == pytest.approx(a.rate / 2e-3)
        assert b.sigma_u == pytest.approx(a.sigma_u)


def test_what_a_user_says_of_a_class_holds_for_its_subclasses() -> None:
    class Child(Mine):
        pass

    net = nn.Sequential(nn.Linear(N, HIDDEN), Child())
    assert len(fluctua.inspect(net, batch(), neurons=NEURONS)) == 1
