"""The fused CPU engine against the reference: every spike equal, every gradient within rounding."""

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Tensor

from fluctua.neurons import ArcTan, SigmoidDerivative, SuperSpike
from fluctua.neurons.leaky import State
from fluctua.neurons.surrogates import Surrogate
from fluctua.simd import compiling, threads
from fluctua.timeloop import cpu_loop, engine, generated
from fluctua.timeloop.engines import CPU
from shared.leaky_populations import LoopParameters, run
from shared.loop_populations import (
    ADAPTIVE,
    DTYPE,
    LIF,
    READOUTS,
    SHAPE,
    SPIKING,
    assert_same,
    assert_same_gradients,
    assert_same_results,
    drawn,
    everything,
    leaf,
    named,
)


@pytest.mark.parametrize("p", READOUTS + SPIKING + ADAPTIVE, ids=named)
def test_equals_the_reference(p: LoopParameters) -> None:
    assert CPU.unsupported((drawn(SHAPE),), p.dynamics) is None
    assert_same(p, drawn(SHAPE))
    if p.spiking:
        assert 0.02 < run(drawn(SHAPE), p).output.mean() < 0.5


FEW = [READOUTS[0], LIF, SPIKING[3], SPIKING[5], ADAPTIVE[2], ADAPTIVE[5]]


@pytest.mark.parametrize("p", FEW, ids=named)
def test_equals_the_reference_in_single_precision(p: LoopParameters) -> None:
    assert_same(p, drawn(SHAPE), tolerance=1e-5, dtype=torch.float32)


@pytest.mark.parametrize("surrogate", [SigmoidDerivative(), ArcTan(), SuperSpike(3.0)], ids=repr)
def test_equals_the_reference_with_every_surrogate(surrogate: Surrogate) -> None:
    assert_same(replace(LIF, surrogate=surrogate), drawn(SHAPE))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    steps=st.integers(1, 8),
    p=st.sampled_from([READOUTS[0], LIF, ADAPTIVE[5]]),  # each is a kernel, and one more where neurons share constants
    seed=st.integers(0, 2**20),
)
def test_any_shape(shape: list[int], steps: int, p: LoopParameters, seed: int) -> None:
    neurons = tuple(shape[1:])
    adaptation = p.adaptation and replace(p.adaptation, strength=drawn(neurons, 1.0, seed).abs())
    decay_syn = None if p.decay_syn is None else 0.5 + drawn(neurons, 0.1, seed).abs().clamp(max=0.4)
    p = replace(p, decay_mem=p.decay_mem[0, 0], decay_syn=decay_syn, adaptation=adaptation)
    assert_same(p, drawn((steps, *shape), seed=seed))


@pytest.mark.parametrize("p", [READOUTS[0], LIF], ids=named)
def test_many_columns_cross_blocks_and_threads(p: LoopParameters) -> None:
    columns = 2 * cpu_loop.BLOCK + 37
    p = replace(p, decay_mem=torch.linspace(0.5, 0.9, columns, dtype=DTYPE), decay_syn=p.decay_mem[0])
    assert_same(p, drawn((4, 2, columns)))


@pytest.fixture
def threads_again() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_again")
def test_number_of_threads_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GRAIN", 16)
    current = drawn((20, 13, 5, 7))
    torch.set_num_threads(1)
    result, gradients = everything("cpu", LIF, current)
    for count in (2, 3, 8):
        torch.set_num_threads(count)
        again, gradients_again = everything("cpu", LIF, current)
        assert_same_results(again, result)
        assert_same_gradients(gradients_again, gradients, 0.0)


def forked(current: Tensor, p: LoopParameters, spikes: Tensor) -> None:
    assert torch.equal(run(current, p).output, spikes)


@pytest.mark.usefixtures("threads_again")
def test_a_forked_process_gets_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "GRAIN", 16)
    torch.set_num_threads(2)
    current = drawn(SHAPE)
    spikes = run(current, LIF).output
    child = multiprocessing.get_context("fork").Process(target=forked, args=(current, LIF, spikes))
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_readout_passes_gradcheck() -> None:
    for readout in READOUTS:
        inputs = [leaf(drawn((4, 2, 5, 7))), leaf(drawn((2, 5, 7))), leaf(drawn((2, 5, 7))), leaf(readout.decay_mem)]
        if readout.decay_syn is not None:
            inputs.append(leaf(readout.decay_syn))

        def potential(x: Tensor, u: Tensor, i: Tensor, a: Tensor, b: Tensor | None = None) -> tuple[Tensor, ...]:
            result = run(x, LoopParameters(a, b), State(u, i))
            return result.output, *result.state[:2]

        assert torch.autograd.gradcheck(potential, inputs, fast_mode=True)


@pytest.mark.parametrize("p", [LIF, SPIKING[5]], ids=named)
def test_pieces_make_the_whole(p: LoopParameters) -> None:
    current = drawn(SHAPE)

    def in_pieces(*cuts: int) -> tuple[Tensor, Tensor]:
        x, state, outputs = leaf(current), None, []
        for piece in x.tensor_split(cuts):
            result = run(piece, p, state)
            outputs.append(result.output)
            state = result.state
        assert state is not None
        (torch.cat(outputs).cumsum(0).sin().sum() + state.potential.sum()).backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        return torch.cat(outputs), x.grad

    whole, gradient = in_pieces()
    pieces, gradient_of_pieces = in_pieces(1, 10, 11)
    assert torch.equal(pieces, whole)
    torch.testing.assert_close(gradient_of_pieces, gradient, rtol=0, atol=1e-12 * float(gradient.abs().max()))


@pytest.mark.parametrize("p", [READOUTS[1], LIF, SPIKING[6]], ids=named)
def test_nan_and_infinity_spread_as_in_the_reference(p: LoopParameters) -> None:
    current = drawn(SHAPE)
    current[3, 1, 2, 2] = torch.nan
    current[5, 0, 4, 1] = torch.inf
    results = {}
    for name in ("cpu", "reference"):
        x = leaf(current)
        with engine(name):
            results[name] = run(x, p)
        results[name].output.sum().backward()  # type: ignore[no-untyped-call]
        results[name] = results[name]._replace(state=State(x.grad if x.grad is not None else x, x.detach()))
    torch.testing.assert_close(results["cpu"].output, results["reference"].output, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(results["cpu"].potential, results["reference"].potential, rtol=0, atol=0, equal_nan=True)
    assert results["cpu"].potential.isnan().any()
    ours, truth = results["cpu"].state.potential, results["reference"].state.potential
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-12, equal_nan=True)


def test_memory_in_any_order() -> None:
    current = drawn(SHAPE)
    batch_first = current.transpose(0, 1).contiguous().transpose(0, 1)
    negative = torch.complex(torch.zeros_like(current), -current).conj().imag
    assert not batch_first.is_contiguous()
    assert negative.is_neg()
    for p in (READOUTS[0], LIF):
        for view in (batch_first, negative):
            assert torch.equal(run(view, p).potential, run(current, p).potential)
        gradients = []
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            x = leaf(current)
            run(x, p).output.permute(order).contiguous().sin().sum().backward()  # type: ignore[no-untyped-call]
            gradients.append(x.grad)
        assert gradients[0] is not None
        torch.testing.assert_close(gradients[0], gradients[1])


def test_maps_whose_channels_come_last_stay_as_they_are() -> None:
    current = drawn((6, 3, 4, 5, 7))
    last = current.movedim(2, -1).contiguous().movedim(-1, 2)
    decay = torch.linspace(0.5, 0.95, 140, dtype=DTYPE).view(4, 5, 7).requires_grad_()
    p, found = replace(LIF, decay_mem=decay), list[Any]()
    for x in (current, last):
        x = x.clone().requires_grad_()  # in the same order in memory
        result = run(x, p)
        loss = (result.output * current).sum() + result.state.potential.sum()
        found.append((result, torch.autograd.grad(loss, (x, decay))))
    (ours, gradients), (truth, their) = found[1], found[0]
    assert ours.output.stride() == last.stride()
    assert torch.equal(ours.output, truth.output)
    assert torch.equal(ours.state.potential, truth.state.potential)
    assert torch.equal(gradients[0], their[0])
    torch.testing.assert_close(gradients[1], their[1], rtol=1e-12, atol=1e-12)  # summed in another order


@pytest.mark.parametrize("wanted", ["x", "u", "i", "decay_mem", "decay_syn"])
def test_one_gradient_alone(wanted: str) -> None:
    current, rest = drawn(SHAPE), drawn(SHAPE[1:], 0.3)
    _, truth = everything("reference", LIF, current, state=State(rest, rest))
    tensors = {"x": current, "u": rest, "i": rest, "decay_mem": LIF.decay_mem}
    assert LIF.decay_syn is not None
    tensors["decay_syn"] = LIF.decay_syn
    tensors[wanted] = leaf(tensors[wanted])
    p = replace(LIF, decay_mem=tensors["decay_mem"], decay_syn=tensors["decay_syn"])
    result = run(tensors["x"], p, State(tensors["u"], tensors["i"]))
    weights = drawn(SHAPE, 1.0, 4)
    loss = (result.output * weights).sum() + result.state.potential.square().sum() + result.state.current.sin().sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = tensors[wanted].grad
    assert gradient is not None
    assert_same_gradients({wanted: gradient}, {wanted: truth[wanted]}, 1e-10)


def test_final_state_alone_carries_a_gradient() -> None:
    gradients = []
    for name in ("cpu", "reference"):
        x = leaf(drawn(SHAPE))
        with engine(name):
            run(x, LIF).state.potential.sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


def saved(p: LoopParameters, current: Tensor) -> list[int]:
    """Addresses of the tensors of the current's size that are kept for backward, the potential's as zero."""
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run(current, p)
    return [t.data_ptr() - result.potential.data_ptr() for t in kept if t.shape == current.shape]


def test_only_the_potential_is_kept_for_backward() -> None:
    x = leaf(drawn(SHAPE))
    assert saved(LIF, x) == [0]
    assert saved(READOUTS[0], x) == []
    assert len(saved(replace(LIF, decay_mem=leaf(LIF.decay_mem)), x)) == 2


def test_no_graph_without_need() -> None:
    x = leaf(drawn(SHAPE))
    with torch.no_grad():
        assert run(x, LIF).output.grad_fn is None
    assert run(x.detach(), LIF).output.grad_fn is None
    result = run(x, LIF)
    assert result.output.requires_grad
    assert result.state.current.requires_grad
    assert not result.potential.requires_grad


@pytest.mark.parametrize("p", [READOUTS[0], LIF], ids=named)
def test_second_derivatives_are_refused(p: LoopParameters) -> None:
    x = leaf(drawn(SHAPE))
    (gradient,) = torch.autograd.grad(run(x, p).output.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"only once.*engine\('reference'\)"):
        gradient.square().sum().backward()  # type: ignore[no-untyped-call]


class Averaged(SuperSpike):
    """No function of one neuron."""

    def derivative(self, x: Tensor) -> Tensor:
        return super().derivative(x) / x.mean()


HALF = torch.tensor(0.5)
PLAIN = LoopParameters(HALF, HALF, HALF)


@pytest.mark.parametrize(
    ("current", "p", "reason"),
    [
        (torch.zeros(2, 1, 3, device="meta"), PLAIN, "takes CPU tensors"),
        (torch.zeros(2, 1, 3).to_sparse(), PLAIN, "plain tensors"),
        (torch.zeros(2, 1, 3, dtype=torch.float16), PLAIN, "float16"),
        (torch.zeros(2, 1, 3, dtype=DTYPE), PLAIN, "not of the current's type"),
        (torch.zeros(2, 1, 3), replace(PLAIN, decay_mem=torch.full((4,), 0.5)), "does not broadcast"),
        (torch.zeros(2, 1, 3), replace(PLAIN, decay_syn=torch.full((1, 1), 0.5)), "does not broadcast"),
        (torch.zeros(2, 1, 3), replace(PLAIN, threshold=leaf(HALF, torch.float32)), None),
        (torch.zeros(2, 1, 3), replace(PLAIN, surrogate=Averaged()), "mean"),
        (torch.zeros(2, 1, 3), PLAIN, None),
        (torch.nn.Parameter(torch.zeros(2, 1, 3)), PLAIN, None),
        (torch.zeros(2, 1, 3), LoopParameters(HALF, None, surrogate=Averaged()), None),
    ],
)
def test_refusals(current: Tensor, p: LoopParameters, reason: str | None) -> None:
    refusal = CPU.unsupported((current,), p.dynamics)
    assert refusal is None if reason is None else refusal is not None and reason in refusal


def test_transformed_tensors_are_left_to_the_reference() -> None:
    x = drawn((4, 2, 5, 7))

    def loss(x: Tensor) -> Tensor:
        assert "torch.func" in (CPU.unsupported((x,), LIF.dynamics) or "")
        return run(x, LIF).state.potential.sum()  # type: ignore[no-any-return]

    y = leaf(x)
    run(y, LIF).state.potential.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(torch.func.grad(loss)(x), y.grad)

    tangent = torch.ones_like(x)
    derivative = torch.func.jvp(lambda x: run(x, READOUTS[0]).output, (x,), (tangent,))[1]
    torch.testing.assert_close(derivative, run(tangent, READOUTS[0]).output)  # a readout is linear


def test_kernels_need_no_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_cache(*args: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(*args, **options)

    monkeypatch.setattr(compiling, "njit", without_cache)
    monkeypatch.setattr(cpu_loop, "through", cpu_loop.through.__wrapped__)
    monkeypatch.setattr(generated, "loaded", generated.loaded.__wrapped__)
    current = drawn(SHAPE)
    with engine("reference"):
        truth = run(current, READOUTS[1])
    assert torch.equal(run(current, READOUTS[1]).output, truth.output)
