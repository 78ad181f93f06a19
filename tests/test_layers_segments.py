"""A long sequence in segments: the same spikes and gradients, in the memory of one segment."""

import gc
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import DaleLayer, OverTime, Recurrent
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.timeloop import cpu_memory, engine

DT = 1e-3


class TwoPorts(nn.Module):
    """One weight each for excitation and inhibition."""

    def __init__(self) -> None:
        super().__init__()
        self.exc, self.inh, self.neurons = nn.Linear(12, 9), nn.Linear(12, 9), ExcInhLIF(dt=DT)

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.exc(x), self.inh(x))  # type: ignore[no-any-return]


def dense(neuron: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 9), neuron(), nn.Dropout(0.2), nn.Linear(9, 4), LI(dt=DT, initial=0.3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: dense(lambda: LIF(dt=DT, learn_tau=True)),
    "delta synapse": lambda: dense(lambda: LIF(tau_syn=None, dt=DT, reset="subtract")),
    "adaptive": lambda: dense(lambda: AdaptiveLIF(dt=DT, learn_adaptation=True)),
    "exc inh": lambda: nn.Sequential(TwoPorts(), nn.Linear(9, 4), LI(dt=DT)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(2, (1, 12)), OverTime(nn.Conv1d(1, 2, 3)), LIF(dt=DT), nn.Flatten(2), nn.Linear(20, 4), LI(dt=DT)
    ),
    "a neuron alone": lambda: LIF(dt=DT),
}


def spikes(steps: int, samples: int = 3) -> Tensor:
    return (torch.rand(steps, samples, 12, generator=torch.Generator().manual_seed(0)) < 0.3).double()


def strong(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(8.0)
    return model


def weights_of(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)


@pytest.mark.parametrize("length", [1, 7, 40, 100])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_output_and_gradients_are_those_of_the_whole(name: str, length: int) -> None:
    found = []
    for run in (lambda m, x: m(x), lambda m, x: fluctua.in_segments(m, x, length)):
        model, x = strong(MODELS[name]), spikes(40).requires_grad_()
        out = run(model, x)
        (out * weights_of(out)).sum().backward()
        gradients = [tensor.grad for tensor in (x, *model.parameters())]
        found.append([out, *(g for g in gradients if g is not None)])
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-11 * float(whole.detach().abs().max()))
    assert bool((found[0][0] != 0).any())


def test_dropout_has_one_mask_in_forward_and_backward() -> None:
    model, x = strong(MODELS["lif"]).train(), spikes(40).requires_grad_()
    torch.manual_seed(3)
    out = fluctua.in_segments(model, x, 10)
    with torch.no_grad():
        torch.manual_seed(3)
        assert torch.equal(fluctua.in_segments(model, x, 10), out)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(gradient.isfinite().all())


def test_truncated_gradients_do_not_reach_into_the_segment_before() -> None:
    model, x = strong(MODELS["lif"]), spikes(40).requires_grad_()
    for truncate in (False, True):
        out = fluctua.in_segments(model, x, 10, truncate=truncate)
        (gradient,) = torch.autograd.grad(out[10:20].sum(), x)
        assert bool(gradient[:10].any()) is not truncate
        assert bool(gradient[10:20].any())


def test_a_long_sequence_keeps_nothing_of_its_loops_until_backward_computes_them_again() -> None:
    model, x = strong(MODELS["lif"]).float(), spikes(4000, 8).float()

    def lent(run: Callable[[], Tensor]) -> int:
        """Bytes of the loops' memory that live between forward and backward."""
        gc.collect()
        before = cpu_memory.pool.lent
        with engine("cpu"):
            out = run()
        held = cpu_memory.pool.lent - before
        out.sum().backward()  # type: ignore[no-untyped-call]
        return held

    whole, cut = lent(lambda: model(x)), lent(lambda: fluctua.in_segments(model, x, 100))
    potentials = 4 * 4000 * 8 * (9 + 4)
    assert whole >= potentials
    assert cut < 0.1 * potentials


def test_a_model_is_left_as_it_was() -> None:
    model = strong(MODELS["lif"])
    fluctua.in_segments(model, spikes(20), 7)
    assert all("forward" not in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError):
        fluctua.in_segments(model, spikes(20)[..., :5], 7)
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "length", "message"),
    [
        (nn.Sequential(nn.Linear(12, 4), LIF()), 0, "1 step or more, got 0"),
        (nn.Sequential(DaleLayer(12, 4, 2)), 5, r"0\.circuit is a recurrent circuit.*Chain"),
        (Recurrent(LIF(), nn.Linear(12, 12)), 5, "the model is a recurrent circuit"),
        (nn.Sequential(OverTime(nn.BatchNorm1d(12)), LIF()), 5, r"statistics over the whole sequence.*eval"),
    ],
    ids=["length", "dale", "recurrent", "norm"],
)
def test_what_cannot_be_cut_is_refused(model: nn.Module, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fluctua.in_segments(model, spikes(10).float(), length)
