"""Neurons that adapt run in the fused loops, in a `Recurrent` and in a `FusedSequential`, as they do outside."""

import copy
from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LI, LIF, AdaptiveLIF
from fluctua.timeloop import engine
from shared.circuit_loops import recurrent_by_hand
from shared.fused_calls import fused_calls
from shared.pairs import mostly
from shared.spikes import spikes as random_spikes

OWN = torch.linspace(10e-3, 30e-3, 40)

CELLS: dict[str, Callable[[], AdaptiveLIF]] = {
    "threshold": AdaptiveLIF,
    "threshold, soft reset": lambda: AdaptiveLIF(reset="subtract", differentiable_reset=True, beta=40.0),
    "trained": lambda: AdaptiveLIF(learn_tau=True, learn_adaptation=True, differentiable_reset=True),
    "every neuron its own": lambda: AdaptiveLIF(OWN, OWN, tau_adapt=5 * OWN, beta=4e3 * OWN),
    "current": lambda: AdaptiveLIF(kind="current", coupling=0.5, learn_adaptation=True),
    "current, delta": lambda: AdaptiveLIF(20e-3, None, kind="current", coupling=0.5, learn_tau=True),
}
MOST = mostly(CELLS, "threshold, soft reset", "current, delta")


def drawn(*shape: int, scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


spikes = partial(random_spikes, p=0.2, dtype=torch.float64)


def linear(n_in: int, n: int, *, scale: float, seed: int) -> nn.Linear:
    module = nn.Linear(n_in, n).double()
    with torch.no_grad():
        module.weight.copy_(drawn(n, n_in, scale=scale / n_in**0.5, seed=seed))
        module.bias.copy_(drawn(n, scale=0.1, seed=seed + 100))
    return module


def modules(cell: AdaptiveLIF) -> list[nn.Module]:
    """Two adaptive layers, the second of which hears itself, and a readout."""
    return [
        *(linear(30, 40, scale=9, seed=1), copy.deepcopy(cell).double()),
        *(linear(40, 40, scale=9, seed=2), Recurrent(cell, linear(40, 40, scale=4, seed=3)).double()),
        *(linear(40, 6, scale=2, seed=4), LI(0.05).double()),
    ]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each fused operation had that ran."""
    return fused_calls(monkeypatch)


def gradients(output: Tensor, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(output, inputs, drawn(*output.shape, scale=1.0, seed=9).to(output))


@pytest.mark.parametrize("name", MOST)
def test_recurrence_is_one_operation_and_equals_a_loop_by_hand(name: str, fused: list[int]) -> None:
    layer = Recurrent(CELLS[name](), linear(40, 40, scale=4, seed=3)).double()
    current = drawn(60, 3, 40).requires_grad_()
    out, truth = layer(current), recurrent_by_hand(layer.cell, layer.weight, current)
    assert fused == [1]
    assert torch.equal(out, truth)
    assert 0.005 < float(out.detach().mean()) < 0.5
    inputs = [current, *layer.parameters()]
    for mine, true in zip(gradients(out, inputs), gradients(truth, inputs), strict=True):
        assert float((mine - true).abs().max()) <= 1e-10 * float(true.abs().max())
        assert true.abs().max() > 0


@pytest.mark.parametrize("name", MOST)
def test_a_chain_is_one_operation_and_equals_the_modules_one_by_one(name: str, fused: list[int]) -> None:
    layers, x = modules(CELLS[name]()), spikes(60, 3, 30).requires_grad_()
    with engine("reference"):
        truth = nn.Sequential(*layers)(x)
    assert fused == []
    out = FusedSequential(*layers)(x)
    assert fused == [3]
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-12 * float(truth.detach().abs().max()))
    inputs = [x, *(p for module in layers for p in module.parameters())]
    for mine, true in zip(gradients(out, inputs), gradients(truth, inputs), strict=True):
        assert float((mine - true).abs().max()) <= 1e-10 * float(true.abs().max())
        assert true.abs().max() > 0


@pytest.mark.parametrize("name", ["threshold", "current"])
def test_in_single_precision_it_is_as_exact_as_the_reference(name: str) -> None:
    """Recurrence multiplies what is rounded, by how much depends on the weights: so it is for the reference as well."""
    double = Recurrent(CELLS[name](), linear(40, 40, scale=4, seed=3)).double()
    single, x = copy.deepcopy(double).float(), drawn(40, 3, 40).float()

    def run(layer: Recurrent, current: Tensor, name: str) -> list[Tensor]:
        current = current.requires_grad_()
        with engine(name):
            out = layer(current)
        return [t.detach().double() for t in (out, *gradients(out, [current, *layer.parameters()]))]

    truth, plain, ours = run(double, x.double(), "reference"), run(single, x, "reference"), run(single, x, "auto")
    assert torch.equal(ours[0], truth[0])

    def error(found: Sequence[Tensor]) -> float:
        return max(float((f - t).abs().max() / t.abs().max()) for f, t in zip(found[1:], truth[1:], strict=True))

    assert error(ours) <= 4 * error(plain) <= 1e-3, "the same number of roundings, in another order"


def test_adaptation_changes_what_the_fused_loop_gives() -> None:
    """So that the laws above are none of neurons that do not adapt."""
    layers, x = modules(AdaptiveLIF()), spikes(60, 3, 30)
    tireless = [
        *(layers[0], LIF().double(), layers[2], Recurrent(LIF(), layers[3].weight).double()),  # type: ignore[arg-type]
    ]
    assert FusedSequential(*layers[:4])(x).sum() < 0.9 * FusedSequential(*tireless)(x).sum()


class OwnAdaptive(AdaptiveLIF):
    pass


def test_a_subclass_is_stepped_through(fused: list[int]) -> None:
    cell = OwnAdaptive().double()
    layer, current = Recurrent(cell, linear(40, 40, scale=4, seed=3)), drawn(30, 2, 40)
    assert torch.equal(layer(current), recurrent_by_hand(cell, layer.weight, current))
    assert fused == []


def test_a_threshold_may_be_trained(fused: list[int]) -> None:
    cell = AdaptiveLIF().double()
    del cell.threshold
    cell.threshold = theta = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    layer, current = Recurrent(cell, linear(40, 40, scale=4, seed=3)), drawn(30, 2, 40)
    upstream = drawn(30, 2, 40)
    ours = torch.autograd.grad(layer(current), theta, upstream)
    truth = torch.autograd.grad(recurrent_by_hand(cell, layer.weight, current), theta, upstream)
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=0)
    assert fused == [1]


def test_more_threads_give_the_same_spikes_and_repeat_their_gradients_exactly() -> None:
    layers, x = modules(CELLS["trained"]()), spikes(40, 7, 30)
    inputs = [p for module in layers for p in module.parameters()]
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            out = FusedSequential(*layers)(x)
            results.append((out.detach(), *gradients(out, inputs)))
    finally:
        torch.set_num_threads(before)
    alone, first, second = results
    assert torch.equal(alone[0], first[0])
    for one, mine, again in zip(alone, first, second, strict=True):
        assert torch.equal(mine, again)
        torch.testing.assert_close(one, mine, rtol=0, atol=1e-12 * float(one.abs().max()))
