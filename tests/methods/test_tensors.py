"""Laws of weights without modules: the potential of the user's own loop has the target's moments."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fluctua
from fluctua import PspKernel, Target
from fluctua.methods.components import SilentInputError

A, B = 0.8, 0.9
X = (torch.rand(80, 8, 50, generator=torch.Generator().manual_seed(0)) < 0.1).float()

Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def leaky(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return i, B * v + x


def leaky_mean(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return i, v + (x - v) * (1 - B)


def synaptic(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    i = A * i + x
    return i, B * v + i


def synaptic_mean(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    i = A * i + x
    return i, B * v + (1 - B) * i


def spytorch(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return A * i + x, B * v + i


def stork(i: Tensor, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return A * i + x, B * v + (1 - B) * i


UPDATES: dict[str, tuple[Step, bool]] = {  # and whether v is read before the step
    "leaky": (leaky, False),
    "leaky-mean": (leaky_mean, False),
    "synaptic": (synaptic, False),
    "synaptic-mean": (synaptic_mean, False),
    "eprop": (leaky, True),
    "spytorch": (spytorch, True),
    "stork": (stork, True),
}


def potential(update: str, current: Tensor) -> Tensor:
    """The free potential `[T, B, N]` of a loop by hand."""
    step, before = UPDATES[update]
    i = v = torch.zeros_like(current[0])
    found = []
    for now in current.detach():
        old = v
        i, v = step(i, v, now)
        found.append(old if before else v)
    return torch.stack(found)


def kernel(update: str) -> PspKernel:
    return PspKernel.by_update(update, beta=B, alpha=0.0 if update in ("leaky", "leaky-mean", "eprop") else A)


@pytest.mark.parametrize("update", UPDATES)
def test_a_weight_in_the_convention_of_the_tutorial_is_on_target(update: str) -> None:
    w = torch.empty(50, 30, requires_grad=True)
    assert fluctua.measured_(w, X.transpose(0, 1), time=1, kernel=kernel(update), seed=0) is w
    assert w.is_leaf
    u = potential(update, torch.einsum("abc,cd->abd", X, w))
    assert abs(float(u.std(correction=0)) - 1) < 1e-3
    assert float(u.mean((0, 1)).abs().max()) < 1e-3, "of every neuron"


def test_mean_bias_and_share_are_what_is_asked_for() -> None:
    w, b = torch.empty(30, 50), torch.empty(30)
    target = Target(mean=0.2, xi=2.0)
    fluctua.measured_(w, X, kernel=kernel("leaky"), target=target, threshold=1.5, bias=b, share=0.25, seed=0)
    u = potential("leaky", X @ w.T + b)
    assert abs(float(u.mean()) - 0.2) < 1e-3
    assert abs(float(u.std(correction=0)) - 0.5 * 1.3 / 2) < 1e-3


def test_outside_and_recurrence_share_the_variance() -> None:
    """e-prop's loop, on independent spikes for those that come back."""
    spikes = (torch.rand(80, 8, 40, generator=torch.Generator().manual_seed(1)) < 0.1).float()
    w_in, w_rec = torch.empty(40, 50), torch.empty(40, 40)
    fluctua.measured_(w_in, X, kernel=kernel("eprop"), threshold=0.6, share=0.9, seed=0)
    fluctua.measured_(w_rec, spikes, kernel=kernel("eprop"), threshold=0.6, share=0.1, rows=0, seed=1)
    u = potential("eprop", X @ w_in.T + spikes @ w_rec.T)
    assert float(u.std(correction=0)) == pytest.approx(0.6, rel=0.05)  # 20 000 samples, that correlate over 20 steps


def test_a_readout_has_the_sigma_that_is_asked_for() -> None:
    w = torch.empty(10, 50)
    fluctua.measured_(w, X, kernel=kernel("synaptic"), threshold=None, target=Target(sigma=0.1), seed=0)
    assert abs(float(potential("synaptic", X @ w.T).std(correction=0)) - 0.1) < 1e-4


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((50, 50), {}, "say which axis of a square weight counts output units"),
        ((20, 30), {}, "no axis of the weight has as many entries as x"),
        ((30, 50), {"rows": 1}, "no axis of the weight has as many entries as x"),
        ((30, 50, 2), {}, "a weight of two axes"),
        ((30, 50), {"bias": torch.zeros(50)}, "one entry for each of 30 units"),
        ((30, 50), {"share": 0.0}, "share above 0"),
    ],
)
def test_what_does_not_go_together_is_refused(shape: tuple[int, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fluctua.measured_(torch.zeros(shape), X, kernel=kernel("leaky"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kernel": 1.0}, "kernel must be a PspKernel"),
        ({"target": 1.0}, "target must be a Target"),
        ({"x": X.numpy()}, "x must be a tensor of finite numbers, got ndarray"),
        ({"x": X / 0}, "x must be a tensor of finite numbers"),
        ({"weight": np.zeros((30, 50))}, "weight must be a tensor, got ndarray"),
        ({"weight": torch.zeros(30, 50, dtype=torch.int64)}, "weight must be a dense floating-point tensor"),
        ({"weight": torch.zeros(0, 50)}, r"with entries, got torch.float32 \[0, 50\]"),
        ({"weight": torch.zeros(30, 50, device="meta")}, "on meta"),
        ({"balance": "yes"}, 'balance must be True, False or "auto"'),
        ({"share": "half"}, "share above 0"),
        ({"threshold": float("nan")}, "a threshold must be a number, got nan"),
    ],
)
def test_what_no_weight_can_be_set_from_is_refused(given: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"weight": torch.zeros(30, 50), "x": X, "kernel": kernel("leaky"), **given}
    with pytest.raises(ValueError, match=message):
        fluctua.measured_(options.pop("weight"), options.pop("x"), **options)


def test_after_an_error_the_weight_is_as_it_was() -> None:
    w = torch.ones(30, 50)
    with pytest.raises(SilentInputError):
        fluctua.measured_(w, torch.zeros_like(X), kernel=kernel("leaky"))
    assert bool((w == 1).all())


def test_an_unknown_update_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match="unknown update 'lif': choose one of leaky, leaky-mean"):
        PspKernel.by_update("lif", beta=0.9)
