"""Laws of calls that are done as a whole: after any error all is as before, and threads do not meet."""

import copy
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import PspKernel, Target
from fluctua.hardware import Grid, quantize
from fluctua.homeostasis import prime, scale_synapses
from fluctua.layers import Recurrent
from fluctua.methods import Measured, Poisson
from fluctua.neurons import LI, LIF


class Noisy(nn.Module):
    """Draws from every generator, counts its calls in a buffer, and fails at a call if it is told to."""

    calls: Tensor

    def __init__(self, fails_at: int = -1) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: dict[str, int] = {}
        self.fails_at = fails_at

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen["calls"] = self.seen.get("calls", 0) + 1
        TOTAL.calls += 1
        random.random()
        np.random.random()  # noqa: NPY002
        if TOTAL.calls == self.fails_at:
            raise RuntimeError("the model failed")
        return x * (torch.rand(()) < 2)


class _Total:
    calls = 0


TOTAL = _Total()
"""What no call takes back: how many passes there were."""


def model(fails_at: int = -1) -> nn.Sequential:
    torch.manual_seed(0)
    TOTAL.calls = 0
    recurrent = Recurrent(LIF(), nn.Linear(20, 20, bias=False))
    layers = [Noisy(fails_at), nn.Linear(30, 20), LIF(), nn.Dropout(0.1), nn.Linear(20, 20), recurrent]
    net = nn.Sequential(*layers, nn.Linear(20, 2), LI())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    return net


X = (torch.rand(60, 4, 30, generator=torch.Generator().manual_seed(0)) < 0.1).float()


def state(net: nn.Module, generator: torch.Generator) -> Any:
    """All that a call may change, as values that can be compared."""
    return (
        [(name, p.detach().clone(), p.grad, p.requires_grad) for name, p in net.named_parameters()],
        [(name, b.clone()) for name, b in net.named_buffers()],
        [{k: copy.copy(v) for k, v in vars(m).items() if isinstance(v, dict | int | bool)} for m in net.modules()],
        generator.get_state(),
        torch.get_rng_state(),
        random.getstate(),
        np.asarray(np.random.get_state(legacy=False)["state"]["key"]),  # noqa: NPY002
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a is b or a == b)


Call = Callable[[nn.Module, torch.Generator], object]

CALLS: dict[str, Call] = {
    "initialize": lambda net, g: fluctua.initialize(net, X, generator=g),
    "initialize to a rate": lambda net, g: fluctua.initialize(net, X, Target(rate=5.0), generator=g),
    "poisson": lambda net, g: fluctua.initialize(net, X, method=Poisson(), generator=g),
    "lsuv": lambda net, g: fluctua.initialize(net, X, method="lsuv", generator=g),
    "rescale": lambda net, g: fluctua.rescale(net, X),
    "prime": lambda net, g: prime(net, X, epochs=2),
    "scale_synapses": lambda net, g: scale_synapses(net, X, 20.0, rounds=3),
    "quantize": lambda net, g: quantize(net, X, Grid(4), thresholds=True, decay_bits=8),
    "inspect": lambda net, g: fluctua.inspect(net, X),
    "diagnose": lambda net, g: fluctua.diagnose(net, X),
}

REFUSED: dict[str, Call] = {
    "a target out of reach": lambda net, g: fluctua.initialize(net, X, Target(rate=400.0), generator=g),
    "a bad alpha": lambda net, g: fluctua.initialize(net, X, method=Measured(alpha=2.0), generator=g),
    "a bad window": lambda net, g: fluctua.initialize(net, X, method=Measured(window="later"), generator=g),  # type: ignore[arg-type]
    "a bad readout": lambda net, g: fluctua.initialize(net, X, readout=Target(sigma=1.0, mean=-9e9), generator=g),
    "a mean out of reach": lambda net, g: fluctua.initialize(net, X, Target(mean=-50.0, xi=0.02), generator=g),
    "an unknown population": lambda net, g: fluctua.initialize(net, X, populations=["2", "no"], generator=g),
    "a seed and a generator": lambda net, g: fluctua.initialize(net, X, seed=1, generator=g),
    "an unknown optimiser": lambda net, g: prime(net, X, optimizer="none"),
    "a bad rate": lambda net, g: scale_synapses(net, X, {"2": 10.0, "5": float("nan")}),
    "bits of a decay": lambda net, g: quantize(net, X, decay_bits=99),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_model_that_fails_in_any_pass_is_as_before(name: str) -> None:
    failures = 0
    for at in (1, 2, 3, 4, 6, 9, 14):
        net, generator = model(at), torch.Generator().manual_seed(3)
        before = state(net, generator)
        try:
            CALLS[name](net, generator)
        except Exception:
            failures += 1
            assert same(state(net, generator), before), f"failing pass {at}"
    assert failures


@pytest.mark.parametrize("name", REFUSED)
def test_after_a_refusal_all_is_as_before(name: str) -> None:
    net, generator = model(), torch.Generator().manual_seed(3)
    before = state(net, generator)
    with pytest.raises(ValueError):  # noqa: PT011 - what it says is tested where it is said
        REFUSED[name](net, generator)
    assert same(state(net, generator), before)


def test_a_weight_that_is_no_modules_is_as_before() -> None:
    weight, bias, generator = torch.rand(20, 30), torch.rand(20), torch.Generator().manual_seed(3)
    kernel, before = PspKernel.exponential(20e-3, 10e-3, dt=2e-3), (weight.clone(), bias.clone(), generator.get_state())
    for x, target in ((X, Target(mean=0.99, xi=9.0)), (X * 0, None)):
        with pytest.raises(ValueError):  # noqa: PT011
            fluctua.measured_(weight, x, kernel=kernel, target=target, bias=None, generator=generator)
        with pytest.raises(ValueError):  # noqa: PT011
            fluctua.measured_(weight, x * 0, kernel=kernel, bias=bias, generator=generator)
        assert same((weight, bias, generator.get_state()), before)


def test_threads_that_look_at_one_model_see_what_one_thread_sees() -> None:
    net = model()
    alone = str(fluctua.inspect(net, X))
    with ThreadPoolExecutor(8) as pool:
        reports = [pool.submit(lambda: str(fluctua.inspect(net, X))) for _ in range(24)]
    assert {report.result() for report in reports} == {alone}


def test_threads_with_one_seed_find_one_network_though_it_has_dropout() -> None:
    def weights(_: int) -> Tensor:
        own = copy.deepcopy(net)
        fluctua.initialize(own, X, seed=5)
        return torch.cat([p.detach().flatten() for p in own.parameters()])

    net = model()
    alone = weights(0)
    with ThreadPoolExecutor(6) as pool:
        assert all(torch.equal(found, alone) for found in pool.map(weights, range(12)))
