"""fluctua's own neurons in a fused model: the same spikes and gradients, whatever the model's own forward does."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.fusion import FuseError
from fluctua.layers import DaleLayer, FusedSequential, OverTime, Recurrent
from fluctua.layers.dale import keep_signs
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF, from_step, spike
from shared.pairs import mostly
from shared.spikes import spikes

T, B, N = 30, 6, 24
BATCH = spikes(T, B, N, p=0.2)
FRAMES = spikes(T, B, 2 * 36, p=0.2).reshape(T, B, 2, 6, 6)


class ByHand(nn.Module):
    """A skip connection, and neurons called by name."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(N, 20), nn.Linear(20, 20), nn.Linear(20, 4), LI()
        self.first, self.second = LIF(), AdaptiveLIF()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.first(self.a(x))
        spikes = self.second(self.b(hidden)) + hidden
        return {"potential": self.out(self.c(spikes)), "spikes": spikes}


class Observed(LIF):
    """A class of the user's own."""

    def forward(self, current: Tensor) -> Tensor:
        return super().forward(2 * current)


def leaky() -> nn.Module:
    """Neurons that rest at 0.1."""

    def step(x: Tensor, state: Any, c: Any) -> Any:
        u = 0.1 + c["decay"] * (state[0] - 0.1) + x
        out = spike(u - c["threshold"])
        return out, (u - c["threshold"] * out.detach(),)

    return from_step(step, constants={"decay": 0.9, "threshold": 1.0}, rest=(0.1,))


def recurrent(bias: bool = False) -> nn.Module:
    return Recurrent(LIF(), nn.Linear(20, 20, bias=bias))


def dense(*middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(N, 20), *middle, nn.Linear(20, 4), LI())


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor, tuple[str, ...]]] = {
    "feed-forward": (lambda: dense(LIF(), nn.Linear(20, 20), LIF()), BATCH, ("1", "3", "5")),
    "adapting": (lambda: dense(AdaptiveLIF()), BATCH, ("1", "3")),
    "written as one step": (lambda: dense(leaky()), BATCH, ("1", "3")),
    "recurrent": (lambda: dense(recurrent()), BATCH, ("1", "3")),
    "recurrent with a bias": (lambda: dense(recurrent(bias=True)), BATCH, ("1", "3")),
    "a forward of its own": (ByHand, BATCH, ("out", "first", "second")),
    "dropout and norm": (lambda: dense(LIF(), nn.Dropout(0.0), nn.LayerNorm(20)), BATCH, ("1", "5")),
    "a class of the user's": (lambda: dense(Observed()), BATCH, ("3",)),
    "inside a fused sequence": (
        lambda: nn.Sequential(FusedSequential(nn.Linear(N, 20), LIF()), nn.Linear(20, 4), LI()),
        BATCH,
        ("2",),
    ),
    "Dale": (lambda: nn.Sequential(DaleLayer(N, 16, 4), nn.Linear(16, 4), LI()), BATCH, ("2",)),
    "convolutions": (
        lambda: nn.Sequential(
            *(OverTime(nn.Conv2d(2, 4, 3, padding=1)), LIF(), OverTime(nn.MaxPool2d(2))),
            *(nn.Flatten(2), nn.Linear(36, 4), LI()),
        ),
        FRAMES,
        ("1", "5"),
    ),
    "a recurrent map": (
        lambda: nn.Sequential(
            *(OverTime(nn.Conv2d(2, 4, 3, padding=1)), Recurrent(LIF(), nn.Conv2d(4, 4, 3, padding=1, bias=False))),
            *(nn.Flatten(2), nn.Linear(144, 4), LI()),
        ),
        FRAMES,
        ("1", "4"),
    ),
}  # fmt: skip


def made(name: str) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    build, x, _ = MODELS[name]
    model: Any = build().double()
    fluctua.initialize(model, x.double(), seed=0)
    return model, x.double()


def trained(model: nn.Module, call: Any, x: Tensor) -> list[Tensor]:
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    keep_signs(optimiser, model)
    for _ in range(5):
        out = call(x)
        optimiser.zero_grad()
        (out["potential"] if isinstance(out, dict) else out).square().sum().backward()
        optimiser.step()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("name", mostly(MODELS, "adapting", "recurrent with a bias"))
def test_a_fused_model_of_own_neurons_trains_to_the_same_weights(name: str) -> None:
    model, x = made(name)
    fast = fluctua.fuse(model, x)
    assert sorted(fast.report.fused) == sorted(MODELS[name][2])
    assert list(fast.state_dict()) == list(model.state_dict())
    start = {key: value.clone() for key, value in model.state_dict().items()}
    slowly = trained(model, model, x)
    model.load_state_dict(start)
    for slow, quick in zip(slowly, trained(model, fast, x), strict=True):
        assert torch.allclose(slow, quick, rtol=1e-9, atol=1e-9)


def test_a_hook_sees_what_it_sees_in_the_model() -> None:
    model, x = made("feed-forward")
    fast, seen = fluctua.fuse(model, x), list[Tensor]()
    model[1].register_forward_hook(lambda module, args, output: seen.append(output.detach() * 1.0))
    model(x)
    fast(x)
    assert torch.equal(*seen)


def test_neurons_that_take_two_currents_run_as_they_are() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e, self.i, self.cell, self.out, self.li = (
                *(nn.Linear(N, 9) for _ in "ei"),
                ExcInhLIF(),
                nn.Linear(9, 2),
                LI(),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.li(self.out(self.cell(self.e(x).abs(), self.i(x).abs())))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Two()
    fast = fluctua.fuse(model, BATCH)
    assert fast.report.fused == ("li",)
    assert fast.report.by_steps == {"cell": "it takes 2 currents"}
    assert torch.allclose(fast(BATCH), model(BATCH), atol=1e-5)


def test_layers_that_fuse_by_themselves_leave_nothing_to_do() -> None:
    with pytest.raises(FuseError, match="fluctua's own layers already run in fused loops"):
        fluctua.fuse(FusedSequential(nn.Linear(N, 20), LIF()), BATCH)
