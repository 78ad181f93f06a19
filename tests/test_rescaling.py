"""Laws of `rescale`: the network is at its target, and the pattern of its weights is the one that was there."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fluctua
from fluctua import Target, rescale
from fluctua.hardware import Grid
from fluctua.layers import DaleLayer, OverTime, Recurrent
from fluctua.neurons import LI, LIF
from fluctua.theory import InfeasibleTargetError, PspKernel, crossing_rate

T, B, N = 150, 16, 40
DT = 2e-3


def batch(*shape: int) -> Tensor:
    return (torch.rand(T, B, *(shape or (N,)), generator=torch.Generator().manual_seed(0)) < 20 * DT).float()


def dense(bias: bool = True, threshold: float | Tensor = 1.0) -> nn.Sequential:
    torch.manual_seed(0)
    hidden = [nn.Linear(N, 64, bias=bias), LIF(threshold=threshold), nn.Linear(64, 32, bias=bias), LIF()]
    return nn.Sequential(*hidden, nn.Linear(32, 4, bias=bias), LI(0.1))


def layer(model: nn.Module, k: int) -> nn.Linear:
    found = model.get_submodule(str(k))
    assert isinstance(found, nn.Linear)
    return found


def conv() -> nn.Sequential:
    torch.manual_seed(0)
    first = [OverTime(nn.Conv1d(1, 6, 5)), LIF(), nn.Flatten(2)]
    return nn.Sequential(*first, nn.Linear(6 * 36, 8), LIF())


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, 64), nn.LayerNorm(64), LIF(), nn.Linear(64, 8), LIF())


def recurrent() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, 64), Recurrent(LIF(), nn.Linear(64, 64, bias=False)), nn.Linear(64, 8), LIF())


NETWORKS: dict[str, tuple[Callable[[], nn.Sequential], Tensor]] = {
    "dense": (dense, batch()),
    "thresholds that differ": (lambda: dense(threshold=torch.linspace(0.5, 1.5, 64)), batch()),
    "feature maps": (conv, batch(1, N)),
    "a norm": (normed, batch()),
    "recurrent": (recurrent, batch()),
}


def pattern(before: Tensor, after: Tensor) -> tuple[float, float]:
    """Factor and offset from one to the other; nothing else may lie between them."""
    factor = 0.0 if before.numel() == 1 or before.std() == 0 else float(after.std() / before.std())
    offset = after - factor * before
    assert torch.allclose(offset, offset.mean().expand_as(offset), atol=1e-4 * float(1 + after.abs().max()))
    return factor, float(offset.mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_target_is_met_by_one_factor_and_one_offset_for_each_population(name: str) -> None:
    make, x = NETWORKS[name]
    model = make()
    before = copy.deepcopy(dict(model.named_parameters()))
    report = rescale(model, x, Target(mean=0.1, xi=1.5), per_neuron=False)
    for p in report:
        tolerance = 0.1 if name == "recurrent" else 2e-3
        wanted = (0.1, 0.9 / 1.5) if p.threshold is not None else (0.0, 0.1)
        if name != "thresholds that differ" or p.threshold is None:
            assert (p.mu_u, p.sigma_u) == pytest.approx(wanted, abs=tolerance)
        for q in p.pathways:
            was, now = before[q.name].detach(), dict(model.named_parameters())[q.name].detach()
            factor, offset = pattern(was, now)
            assert factor > 0
            assert offset == pytest.approx(0.0, abs=1e-4 * factor)
            if name != "a norm" and (bias := q.name.replace("weight", "bias")) in before:
                own, _ = pattern(before[bias].detach(), dict(model.named_parameters())[bias].detach())
                assert own == pytest.approx(factor, rel=1e-3)
    again = fluctua.inspect(model, x)
    assert [p.sigma_u for p in again] == pytest.approx([p.sigma_u for p in report], rel=1e-5)


def test_each_neuron_on_its_own_gets_the_same_mean_and_fluctuations() -> None:
    model = dense()
    rows = layer(model, 0).weight.detach().clone()
    report = rescale(model, batch())
    first = report[0]
    assert (first.mu_u, first.sigma_u) == pytest.approx((0.0, 1.0), abs=1e-3)
    assert first.sigma_across == pytest.approx(0.0, abs=1e-3)
    assert first.silent == 0
    for old, new in zip(rows, layer(model, 0).weight.detach(), strict=True):
        pattern(old, new)


def test_without_biases_the_factor_alone_brings_xi() -> None:
    model = dense(bias=False)
    with torch.no_grad():
        layer(model, 0).weight.add_(0.05)
    report = rescale(model, batch(), Target(xi=1.5), per_neuron=False)
    for p in report[:2]:
        assert p.threshold is not None
        assert (p.threshold - p.mu_u) / p.sigma_u == pytest.approx(1.5, rel=1e-3)
    assert report[0].mu_u > 0.1
    assert report[2].sigma_u == pytest.approx(0.1, rel=1e-3)


def test_without_biases_each_neuron_is_brought_to_xi_of_its_own() -> None:
    """Those below rest excepted: they get at most twice their factor."""
    model = dense(bias=False)
    with torch.no_grad():
        layer(model, 0).weight.add_(0.02)
    unlike = fluctua.inspect(model, batch())[0]
    report = rescale(model, batch(), Target(xi=1.5))
    assert unlike.silent is not None
    assert report[0].silent == 0
    assert report[0].rate_predicted == pytest.approx(
        float(crossing_rate(1.5, PspKernel.exponential(20e-3, 10e-3, DT))), rel=0.2
    )


def test_a_mean_far_below_threshold_without_a_bias_is_refused_and_nothing_changed() -> None:
    model = dense(bias=False)
    with torch.no_grad():
        layer(model, 2).weight.copy_(-layer(model, 2).weight.abs())
        layer(model, 0).weight.mul_(20)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InfeasibleTargetError, match=r"3 has a mean potential of -\d+.* give 2.weight a bias"):
        rescale(model, batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Beside(nn.Module):
    """A second layer with something beside its weights that stays as it is."""

    def __init__(self, beside: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.a = nn.Linear(N, 64, bias=False), LIF()
        self.second, self.frozen, self.b = nn.Linear(64, 64), nn.Linear(64, 64, bias=False), LIF()
        self.beside = beside
        fluctua.initialize(self, batch(), seed=0)
        with torch.no_grad():
            if beside == "a correlated weight":
                self.frozen.weight.copy_(0.4 * self.second.weight)
            self.second.weight.mul_(3)
            self.second.bias.fill_(0.05)
        self.frozen.requires_grad_(False)
        if beside == "a frozen bias":
            self.second.bias.requires_grad_(False)
        else:
            self.second.bias = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        z = self.a(self.first(x))
        current = self.second(z)
        if "weight" in self.beside:
            current = current + 0.4 * self.frozen(z)
        spikes: Tensor = self.b(current + 2 * z if self.beside == "the spikes themselves" else current)
        return spikes


BESIDE = ["a frozen bias", "a frozen weight", "a correlated weight", "the spikes themselves"]


@pytest.mark.parametrize("target", [Target(xi=1.0), Target(xi=2.0), Target(sigma=0.8)], ids=str)
@pytest.mark.parametrize("beside", BESIDE)
def test_the_factor_allows_for_what_stays_beside_the_weights(beside: str, target: Target) -> None:
    model = Beside(beside)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    p = rescale(model, batch(), target, per_neuron=False)["b"]
    reached = p.sigma_u if target.sigma else (1.0 - p.mu_u) / p.sigma_u
    assert reached == pytest.approx(target.sigma or target.xi, rel=2e-3)
    for name in ("second.bias", "frozen.weight"):
        assert name not in before or torch.equal(model.state_dict()[name], before[name])
    each = rescale(Beside(beside), batch(), target)["b"]
    reached = each.sigma_u if target.sigma else each.xi
    assert reached == pytest.approx(target.sigma or target.xi, rel=0.03)


def test_what_stays_may_be_too_much_for_the_target_which_is_told() -> None:
    model = Beside("a frozen bias")
    with torch.no_grad():
        model.second.bias.fill_(3.0)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        InfeasibleTargetError, match=r"without the weights that may be scaled b has a mean potential of "
    ):
        rescale(model, batch())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("law", ["recurrent", "Dale"])
def test_a_circuit_that_is_at_its_target_stays_there_and_one_that_is_not_comes_nearer(law: str) -> None:
    torch.manual_seed(0)
    first = [DaleLayer(N, 40, 10)] if law == "Dale" else [nn.Linear(N, 40), Recurrent(LIF(), nn.Linear(40, 40))]
    model = nn.Sequential(*first, nn.Linear(40, 3), LI(0.1))
    wanted = fluctua.initialize(model, batch(), seed=0)[0]
    assert rescale(model, batch())[0].sigma_u == pytest.approx(wanted.sigma_u, rel=0.1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6)
    off = fluctua.inspect(model, batch())[0]
    back = rescale(model, batch())[0]
    assert abs(back.sigma_u - 1) < 0.15 < abs(off.sigma_u - 1)


def test_a_rate_is_reached() -> None:
    report = rescale(dense(), batch(), Target(rate=10.0))
    assert [p.rate for p in report[:2]] == pytest.approx([10.0, 10.0], rel=0.05)


def test_readouts_can_be_left_alone() -> None:
    model = dense()
    before = layer(model, 4).weight.detach().clone()
    rescale(model, batch(), readout=None)
    assert torch.equal(layer(model, 4).weight, before)


def test_weights_of_one_time_step_serve_another() -> None:
    """A network in its state at 1 ms, run at 5 ms on the same spikes: other kernels, other weights, the same state."""
    fine, coarse = (nn.Sequential(nn.Linear(N, 64), LIF(dt=dt), nn.Linear(64, 32), LIF(dt=dt)) for dt in (1e-3, 5e-3))
    x = (torch.rand(300, B, N, generator=torch.Generator().manual_seed(0)) < 0.02).float()
    fluctua.initialize(fine, x, seed=0)
    coarse.load_state_dict(fine.state_dict())
    merged = x.reshape(60, 5, B, N).sum(1)
    wrong = fluctua.inspect(coarse, merged)[0].sigma_u
    report = rescale(coarse, merged)
    assert abs(wrong - 1) > 0.15
    assert [p.sigma_u for p in report] == pytest.approx([1.0, 1.0], rel=1e-3)
    assert [p.silent for p in report] == [0, 0]


def test_a_pruned_network_gets_back_its_state_and_keeps_its_holes() -> None:
    model = dense()
    fluctua.initialize(model, batch(), seed=0)
    for k in (0, 2):
        prune.l1_unstructured(model[k], "weight", 0.9)  # type: ignore[no-untyped-call]
    assert fluctua.inspect(model, batch())[0].sigma_u < 0.9
    report = rescale(model, batch())
    assert [p.sigma_u for p in report[:2]] == pytest.approx([1.0, 1.0], rel=1e-3)
    assert float(layer(model, 0).weight.eq(0).float().mean()) == pytest.approx(0.9, abs=0.01)


def test_neurons_that_have_lost_all_weights_stay_of_the_size_of_the_others() -> None:
    model = dense()
    with torch.no_grad():
        layer(model, 0).weight[:5] = 0
    report = rescale(model, batch())
    assert float(layer(model, 0).bias.detach().abs().max()) < 1.0
    assert report[0].silent == pytest.approx(5 / 64)


def test_weights_of_two_bits_are_brought_to_the_target_on_their_grid() -> None:
    model = dense()
    report = rescale(model, batch(), grid=Grid(bits=2))
    assert [p.sigma_u for p in report] == pytest.approx([1.0, 1.0, 0.1], rel=1e-3)
    assert all(len(set(layer(model, k).weight.flatten().tolist())) <= 4 for k in (0, 2, 4))


def test_a_scale_of_the_chip_stays() -> None:
    model = dense()
    rescale(model, batch(), grid=Grid(bits=8, scale=0.125))
    integers = layer(model, 0).weight / 0.125
    assert torch.equal(integers, integers.round())


def test_a_relu_network_becomes_a_spiking_one() -> None:
    """Weights learned on rates are silent as they are, and decide as before once they are rescaled."""
    torch.manual_seed(0)
    centres = torch.rand(4, N)
    labels = torch.arange(400) % 4
    rates = (centres[labels] + 0.3 * torch.randn(400, N)).clamp(0, 1)
    ann = nn.Sequential(nn.Linear(N, 64), nn.ReLU(), nn.Linear(64, 4))
    optimizer = torch.optim.Adam(ann.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(ann(rates), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (ann(rates).argmax(1) == labels).float().mean() > 0.95
    snn = nn.Sequential(ann[0], LIF(), ann[2], LI(0.1))
    x = (torch.rand(T, 400, N) < 0.05 * rates).float()

    def accuracy() -> float:
        with torch.no_grad():
            return float((snn(x).mean(0).argmax(1) == labels).float().mean())

    before = accuracy()
    report = rescale(snn, x, Target(xi=1.0))
    assert before < 0.6
    assert accuracy() > 0.9
    assert report.warnings == ()


@pytest.mark.parametrize("bias", [True, False])
def test_a_report_brings_each_population_back_to_what_it_was(bias: bool) -> None:
    model = dense(bias)
    with torch.no_grad():
        layer(model, 0).weight.mul_(5).add_(0.02)
        layer(model, 2).weight.mul_(9)
    before = fluctua.inspect(model, batch())
    for k in (0, 2, 4):
        prune.l1_unstructured(model[k], "weight", 0.7)  # type: ignore[no-untyped-call]
    changed = fluctua.inspect(model, batch())
    after = rescale(model, batch(), before, per_neuron=False)
    assert max(abs(p.sigma_u / q.sigma_u - 1) for p, q in zip(changed, before, strict=True)) > 0.1
    assert [p.sigma_u for p in after] == pytest.approx([p.sigma_u for p in before], rel=1e-3)
    if bias:
        assert [p.mu_u for p in after] == pytest.approx([p.mu_u for p in before], abs=1e-3)
    with pytest.raises(KeyError, match="no population '1'"):
        rescale(model, batch(), fluctua.Report(before.populations[2:]))
