"""The reference against the equations written out once more, and the door to the engines."""

import logging
import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from fluctua.neurons import ArcTan, SigmoidDerivative, SuperSpike
from fluctua.neurons.leaky import State
from fluctua.neurons.steps import Reset
from fluctua.neurons.surrogates import Surrogate, spike
from fluctua.timeloop import engine
from fluctua.timeloop.engines import choose
from shared.leaky_populations import LoopParameters, run

A, B, THETA = 0.9, 0.7, 0.4


def parameters(
    *, synapse: bool = True, threshold: float | None = THETA, reset: Reset = "zero", dtype: torch.dtype = torch.float64
) -> LoopParameters:
    a, b = torch.tensor(A, dtype=dtype), torch.tensor(B, dtype=dtype)
    theta = None if threshold is None else torch.tensor(threshold, dtype=dtype)
    return LoopParameters(a, b if synapse else None, theta, reset)


def one_neuron(xs: list[float], synapse: bool, threshold: float | None, reset: str) -> tuple[list[float], list[float]]:
    """Output and potential of a neuron from rest, by the equations of the contract."""
    u = i = 0.0
    outs, us = [], []
    for x in xs:
        out = u if threshold is None else float(u > threshold)
        outs.append(out)
        us.append(u)
        v = A * u + ((1 - A) * i if synapse else x)
        if threshold is None:
            u = v
        elif reset == "zero":
            u = v * (1 - out)
        else:
            u = v - threshold * out
        i = B * i + x
    return outs, us


@pytest.mark.parametrize(
    ("synapse", "threshold", "reset"), list(product([True, False], [None, THETA], ["zero", "subtract"]))
)
def test_reference_follows_the_equations(synapse: bool, threshold: float | None, reset: Reset) -> None:
    generator = torch.Generator().manual_seed(1)
    current = 3 * torch.randn(40, 3, 2, generator=generator, dtype=torch.float64)
    with engine("reference"):
        result = run(current, parameters(synapse=synapse, threshold=threshold, reset=reset))
    for column, output, potential in zip(
        current.flatten(1).T, result.output.flatten(1).T, result.potential.flatten(1).T, strict=True
    ):
        outs, us = one_neuron(column.tolist(), synapse, threshold, reset)
        np.testing.assert_array_equal(output, outs)
        np.testing.assert_array_equal(potential, us)
    if threshold is not None:
        assert 0.05 < result.output.mean() < 0.6


def test_impulse_response_is_the_psp_kernel() -> None:
    impulse = torch.zeros(30, 1, 1, dtype=torch.float64)
    impulse[0] = 1.0
    k = torch.arange(29, dtype=torch.float64)
    exponential = torch.cat([torch.zeros(1), (1 - A) * (A**k - B**k) / (A - B)])
    delta = torch.cat([torch.zeros(1), A**k])
    for synapse, kernel in ((True, exponential), (False, delta)):
        result = run(impulse, parameters(synapse=synapse, threshold=None))
        torch.testing.assert_close(result.output.flatten(), kernel, rtol=1e-12, atol=1e-14)
        assert result.output is result.potential


@pytest.mark.parametrize(
    ("surrogate", "antiderivative"),
    [
        (SuperSpike(20.0), lambda x: x / (1 + 20 * abs(x))),
        (SigmoidDerivative(10.0), lambda x: 1 / (1 + math.exp(-10 * x))),
        (ArcTan(2.0), lambda x: math.atan(math.pi * x) / math.pi),
    ],
)
def test_surrogate_is_the_derivative_of_a_soft_step(
    surrogate: Surrogate, antiderivative: Callable[[float], float]
) -> None:
    h = 1e-6
    x = torch.tensor([-1.3, -0.2, -0.01, 0.01, 0.3, 2.0], dtype=torch.float64)
    slope = [(antiderivative(v + h) - antiderivative(v - h)) / (2 * h) for v in x.tolist()]
    torch.testing.assert_close(surrogate.derivative(x), torch.tensor(slope, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_spike_is_a_step_with_the_surrogate_as_derivative() -> None:
    x = torch.tensor([-0.1, 0.0, 0.1], requires_grad=True)
    output = spike(x, SuperSpike())
    output.sum().backward()  # type: ignore[no-untyped-call]
    assert output.tolist() == [0.0, 0.0, 1.0]
    assert x.grad is not None
    torch.testing.assert_close(x.grad, SuperSpike().derivative(x.detach()))


def test_reset_carries_a_gradient_only_where_asked() -> None:
    def gradient(differentiable: bool) -> Tensor:
        x = torch.full((5, 1, 1), 2.0, requires_grad=True)
        p = parameters(dtype=torch.float32)
        with engine("reference"):
            p = LoopParameters(p.decay_mem, p.decay_syn, p.threshold, "subtract", differentiable)
            run(x, p).state.potential.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return x.grad

    assert not torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_integrated_in_single(dtype: torch.dtype) -> None:
    current = (3 * torch.randn(30, 4, 5, generator=torch.Generator().manual_seed(2))).to(dtype)
    half, single = run(current, parameters()), run(current.float(), parameters(dtype=torch.float32))
    assert half.output.dtype == dtype
    assert half.potential.dtype == half.state.potential.dtype == torch.float32
    assert torch.equal(half.output.float(), single.output)
    assert torch.equal(half.potential, single.potential)


def test_a_state_is_brought_to_the_type_of_the_current() -> None:
    current, rest = torch.zeros(3, 2, 4), torch.ones(2, 4, dtype=torch.float16)
    result = run(current, parameters(), State(rest, rest))
    assert result.state.potential.dtype == torch.float32


def test_engine_is_chosen_by_name_and_given_back() -> None:
    current = torch.zeros(3, 1, 1)
    p = parameters(dtype=torch.float32)
    assert choose((current,), p.dynamics).name == "cpu"
    with engine("reference"):
        assert choose((current,), p.dynamics).name == "reference"
        with engine("auto"):
            assert choose((current,), p.dynamics).name == "cpu"
        assert choose((current,), p.dynamics).name == "reference"
    with pytest.raises(KeyError), engine("reference"):
        raise KeyError
    assert choose((current,), p.dynamics).name == "cpu"


class Unknown(Surrogate):
    def derivative(self, x: Tensor) -> Tensor:
        return x.cumsum(0)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_an_engine_that_steps_aside_says_why(name: str, caplog: pytest.LogCaptureFixture) -> None:
    p = LoopParameters(torch.tensor(A), None, torch.tensor(THETA), surrogate=Unknown(1.0))
    with engine(name), caplog.at_level(logging.INFO, "fluctua"):
        assert choose((torch.zeros(3, 1, 1),), p.dynamics).name == "reference"
    assert "'cpu' falls back" in caplog.text
    assert "cumsum" in caplog.text


@pytest.mark.parametrize(
    ("current", "message"),
    [
        (torch.zeros(5), r"\[T, B, \.\.\.\]"),
        (torch.zeros(0, 2, 3), "T >= 1"),
        (torch.zeros(5, 2, 3, dtype=torch.int64), r"\.float\(\)"),
    ],
)
def test_a_current_that_makes_no_sense_is_refused(current: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(current, parameters())


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown engine 'tpu'"), engine("tpu"):
        pass
    with pytest.raises(ValueError, match="beta > 0"):
        SuperSpike(0.0)
    with pytest.raises(ValueError, match=r"one step of the current, \(2, 4\)"):
        run(torch.zeros(3, 2, 4), parameters(), State(torch.zeros(4), torch.zeros(4)))
