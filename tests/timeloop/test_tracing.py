"""Every operation that a step may use: the loop that is derived from it against torch, forward and backward."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from fluctua.neurons.steps import LeakyStep
from fluctua.neurons.surrogates import SuperSpike
from fluctua.timeloop import engine
from fluctua.timeloop.contract import Dynamics
from fluctua.timeloop.engines import integrate
from fluctua.timeloop.tracing import trace, untraceable

DTYPE = torch.float64

EXACT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "product of sums": lambda x, c: (x + c) * (x - 2 * c) / (c + 3),
    "reversed": lambda x, c: 1 - x + 2 / (c + 3),
    "abs and neg": lambda x, c: -x.abs() + c,
    "square and cube": lambda x, c: (0.2 * c * x) ** 2 - (0.1 * x) ** 3 + (0.1 * x).square(),
    "negative power": lambda x, c: c * (x.abs() + 1) ** -2,
    "minimum and maximum": lambda x, c: torch.minimum(x, c) - 2 * torch.maximum(x, 0.5 * c),
    "clamp": lambda x, c: x.clamp(-0.5, 0.7) + x.clamp(min=0) + x.clamp(max=0.2) * c,
    "relu": lambda x, c: torch.relu(x) * c,
    "where": lambda x, c: torch.where(x > c, x * c, x - c) + torch.where(x.abs() < 0.3, 1.0, x),
    "masks": lambda x, c: ((x > 0) & (x < c)).to(x) * x + ((x <= -1) | (x >= 1)).to(x) * c + (~(x != c)).to(x),
    "masked fill": lambda x, c: c * x.masked_fill(x < c, 0.25),
    "sign": lambda x, c: torch.sign(x) * c * x,
    "round, floor, trunc": lambda x, c: x * c + torch.round(3 * x) - torch.floor(2 * x) + torch.trunc(4 * x),
    "whole numbers": lambda x, c: 0.1 * c * (4 * x).to(torch.int8).to(x) - 0.1 * x.long().to(x),
    "truth": lambda x, c: torch.where(torch.round(x).bool(), x, c) + x.bool() * c + (x > 0).bool() * x * 0.5,
    "in place": lambda x, c: x.clone().mul_(2).add_(c),
    "a new number": lambda x, c: c * x * torch.full_like(x, 0.5) + torch.zeros_like(c) + x.new_ones(()),
}
ROUNDED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "alpha": lambda x, c: torch.add(x, c, alpha=0.3) - torch.sub(x, c, alpha=1.7),  # torch fuses it, here and there
    "root": lambda x, c: (c * x.abs() + 0.5).sqrt(),  # of large tensors torch asks MKL, which rounds otherwise
    "exp": lambda x, c: torch.exp(0.5 * x) * c,
    "log": lambda x, c: torch.log(x.abs() + 0.5) * c,
    "sigmoid": lambda x, c: torch.sigmoid(3 * x) * c,
    "tanh": lambda x, c: torch.tanh(x * c),
    "erf": lambda x, c: torch.erf(x * c),
    "sin and cos": lambda x, c: torch.sin(3 * x) * c + torch.cos(x),
    "whole powers": lambda x, c: x.clamp(-1, 1) ** 5 * c + (0 * x) ** 0 - (x.abs() + 1) ** -3 + 2 ** -x.abs(),
    "any power": lambda x, c: (x.abs() + 0.1) ** 1.3 * c + (x.abs() + 1) ** 0.5,
}


NEURONS = 9  # of each function


def everything(name: str, functions: Sequence[str], dtype: torch.dtype) -> list[tuple[Tensor, ...]]:
    """Of a filter of each function: output and final state, and all gradients.

    Each function has neurons of its own, in one population: so all are compiled at once.
    """
    generator, count = torch.Generator().manual_seed(0), len(functions)
    x, c, weights = (
        torch.randn(12, 3, NEURONS, generator=generator, dtype=DTYPE),
        0.5 + torch.rand(NEURONS, generator=generator, dtype=DTYPE),
        torch.randn(12, 3, NEURONS, generator=generator, dtype=DTYPE),
    )
    x, c, start, weights = (torch.cat([t.to(dtype)] * count, -1).requires_grad_() for t in (x, c, 0.2 * x[0], weights))
    own = torch.arange(NEURONS * count) // NEURONS
    masks = [(own == k).to(dtype) for k in range(1, count)]

    def step(
        inputs: tuple[Tensor, ...], state: tuple[Tensor, ...], constants: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        heard, (shared, *others) = inputs[0] + 0.3 * state[0], constants
        value, *rest = ((EXACT | ROUNDED)[each](heard, shared) for each in functions)
        for mine, of_this in zip(others, rest, strict=True):
            value = torch.where(mine > 0.5, of_this, value)
        u = 0.5 * state[0] + value
        return 2 * u, (u,)

    assert untraceable(step, 1, 1, count) is None
    with engine(name):
        output, _, (end,) = integrate((x,), Dynamics(step, (c, *masks), states=1, spiking=False), (start,))
    gradients = torch.autograd.grad((output * weights).sum() + end.sum(), [x, c, start])
    split = [t.split(NEURONS, -1) for t in (output.detach(), end.detach(), *gradients)]
    return list(zip(*split, strict=True))


def groups(names: Iterable[str], size: int = 5) -> list[tuple[str, ...]]:
    left = list(names)
    return [tuple(left[k : k + size]) for k in range(0, len(left), size)]


@pytest.mark.parametrize("names", groups([*EXACT, *ROUNDED]), ids=", ".join)
@pytest.mark.parametrize("engine_name", ["cpu", "gpu"])
def test_the_loop_does_what_torch_does(
    names: tuple[str, ...], engine_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine_name == "gpu":
        pytest.importorskip("triton")
        # Triton's interpreter has no functions of the GPU's library.
        names = tuple(name for name in names if name not in ("tanh", "round, floor, trunc", "whole numbers", "truth"))
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    ours, truth = (everything(e, names, DTYPE) for e in (engine_name, "reference"))
    for name, *results in zip(names, ours, truth, strict=True):
        for k, (mine, theirs) in enumerate(zip(*results, strict=True)):
            forward = k < 2
            tolerance = 0.0 if forward and name in EXACT else 1e-10 * float(theirs.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("names", groups(EXACT), ids=", ".join)
def test_in_single_precision_every_bit_of_the_way_forth_is_torchs(names: tuple[str, ...]) -> None:
    ours, truth = (everything(e, names, torch.float32) for e in ("cpu", "reference"))
    for name, *results in zip(names, ours, truth, strict=True):
        for k, (mine, theirs) in enumerate(zip(*results, strict=True)):
            tolerance = 0.0 if k < 2 else 1e-4 * float(theirs.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x, c: x - x.mean(), "mean"),
        (lambda x, c: x.cumsum(0), "cumsum"),
        (lambda x, c: x + torch.ones(3, dtype=DTYPE, requires_grad=True) * torch.rand(3, 4).sum(), "shape"),
        (lambda x, c: x.sort().values, "sort"),
        (lambda x, c: torch.fft.fft(x).real, "fft"),
        (lambda x, c: x / x.shape[-1], "more than the numbers"),
        (lambda x, c: x * x.ndim, "more than the numbers"),
        (lambda x, c: x if x.dtype == torch.float32 else 2 * x, "more than the numbers"),
        (lambda x, c: x * (x == x.amax(1, keepdim=True)), "cannot be followed (IndexError"),
        (lambda x, c: x if c > 0.5 else 2 * x, "cannot be followed (RuntimeError"),
        (lambda x, c: torch.round(x, decimals=1), "round with decimals"),
        (lambda x, c: x.abs() ** c, "power whose exponent is a tensor"),
        (lambda x, c: x**100, "power of 100"),
        (lambda x, c: torch.div(x, c, rounding_mode="floor"), "rounds a quotient down"),
    ],
)
def test_what_is_not_neuron_by_neuron_says_why(function: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    def step(
        inputs: tuple[Tensor, ...], state: tuple[Tensor, ...], constants: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        u = function(inputs[0] + state[0], constants[0])
        return u, (u,)

    assert reason in (untraceable(step, 1, 1, 1) or "")


def test_a_spike_that_a_truth_allows_is_one() -> None:
    def step(
        inputs: tuple[Tensor, ...], state: tuple[Tensor, ...], constants: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        u, left = state
        spike = (u > constants[0]).to(u.dtype)
        resting = (left > 0).to(u.dtype)
        return (1 - resting) * spike, (u + inputs[0], left + spike)

    found = trace(step, 1, 2, 1)
    assert found.fired is not None
    assert found.distance is None


def test_a_step_is_followed_whatever_torch_is_doing_around_it() -> None:
    def step(
        inputs: tuple[Tensor, ...], state: tuple[Tensor, ...], constants: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        return state[0], (constants[0] * state[0] + inputs[0],)

    def refuse(tensor: Tensor) -> Tensor:
        raise AssertionError("somebody else's hook")

    with torch.inference_mode(), torch.device("meta"), torch.autograd.graph.saved_tensors_hooks(refuse, refuse):
        assert untraceable(step, 1, 1, 1) is None


def test_the_first_use_of_a_neuron_may_be_within_vmap() -> None:
    x, step = torch.rand(5, 2, 3), LeakyStep(False, "zero", False, SuperSpike(7.25))  # one that nobody has followed yet
    assert torch.vmap(lambda w: w + float(untraceable(step, 1, 1, 2) is None))(x[0, 0]).equal(x[0, 0] + 1)
