"""Spikes as bits and fused layers, against dense tensors and a plain loop over time."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluctua.layers import FusedSequential
from fluctua.neurons import LI, LIF
from fluctua.simd.threads import cache_size
from fluctua.spikes.batch import SpikeBatch
from fluctua.timeloop import cpu_loop, events_layers
from fluctua.timeloop.engines import step_by_step
from fluctua.timeloop.events_layers import Layer, run_layers
from shared.neuron_options import FIRING, leaky
from shared.pairs import named, pairs
from shared.spikes import spikes as random_spikes

DTYPE = torch.float64


spikes = partial(random_spikes, p=0.3, dtype=DTYPE)


def graded(*shape: int, p: float = 0.3, seed: int = 0) -> Tensor:
    sizes = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1), dtype=DTYPE)
    return spikes(*shape, p=p, seed=seed) * sizes


# -- spikes as bits ----------------------------------------------------------------------------------------------

SHAPE = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 150))


@settings(max_examples=30, deadline=None)
@given(
    shape=SHAPE, seed=st.integers(0, 9), valued=st.booleans(), order=st.permutations([0, 1, 2]), single=st.booleans()
)
def test_bits_and_values_make_the_same_dense_tensor(
    shape: tuple[int, int, int], seed: int, valued: bool, order: Sequence[int], single: bool
) -> None:
    x = (graded if valued else spikes)(*shape, seed=seed).permute(*order)
    x = x.float() if single else x
    batch = SpikeBatch.from_dense(x)
    assert batch is not None
    assert batch.shape == tuple(x.shape)
    assert (batch.values is None) == bool(((x == 0) | (x == 1)).all())
    assert torch.equal(batch.dense(x.dtype), x)


def test_a_slice_and_an_expanded_tensor_are_read_where_they_lie() -> None:
    x = graded(9, 6, 200)
    for part in (x[::2, 1:5, 3:140], x[:, :, ::2], x[:1, :1].expand(4, 3, 200)):
        batch = SpikeBatch.from_dense(part)
        assert batch is not None
        assert torch.equal(batch.dense(DTYPE), part)


def test_what_is_denser_than_allowed_stays_dense() -> None:
    x = torch.zeros(4, 5, 10)
    x[:, :, :3] = 1.0
    assert SpikeBatch.from_dense(x, 0.3) is not None
    assert SpikeBatch.from_dense(x, 0.299) is None


def test_listed_spikes_are_ones_however_often_they_are_listed() -> None:
    x = spikes(7, 3, 130, p=0.1)
    t, b, n = (indices.numpy() for indices in x.nonzero(as_tuple=True))
    t, b, n = (np.concatenate([indices, indices[::-1]]) for indices in (t, b, n))
    assert torch.equal(SpikeBatch.from_indices(t, b, n, (7, 3, 130)).dense(DTYPE), x)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (([0], [0], [5]), r"a unit must be in 0..4, got 5..5"),
        (([0, 9], [0, 1], [1, 1]), r"a step must be in 0..3, got 0..9"),
        (([0], [-1], [1]), r"a sample must be in 0..1, got -1..-1"),
        (([0, 1], [0], [1]), "one step, sample and unit each"),
        (([0.9, 1.7], [0, 0], [1, 1]), "are whole numbers"),
    ],
)
def test_spikes_that_lie_outside_are_refused(indices: tuple[list[float], list[int], list[int]], message: str) -> None:
    steps, samples, units = map(np.array, indices)
    with pytest.raises(ValueError, match=message):
        SpikeBatch.from_indices(steps, samples, units, (4, 2, 5))


# -- fused layers ------------------------------------------------------------------------------------------------


def drawn(*shape: int, seed: int, scale: float) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def layer(n: int, cell: nn.Module, n_in: int | None, *, recurrent: bool = False, bias: bool = True, seed: int) -> Layer:
    """A layer with weights large enough for spikes; without `n_in` its current is given."""
    assert isinstance(cell, LIF | LI)
    weight = None if n_in is None else drawn(n, n_in, seed=seed, scale=8 / n_in**0.5).requires_grad_()
    return Layer(
        (n,),
        cell.double().dynamics(),
        weight,
        drawn(n, seed=seed + 1, scale=0.2).requires_grad_() if bias and n_in is not None else None,
        drawn(n, n, seed=seed + 2, scale=4 / n**0.5).requires_grad_() if recurrent else None,
        drawn(n, seed=seed + 3, scale=0.2).requires_grad_() if recurrent and bias else None,
        (cell.initial, -0.1) if isinstance(cell, LI) else (0.2, 0.3),
    )


def run(x: Tensor, layers: Sequence[Layer], events: SpikeBatch | None) -> Tensor:
    """What leaves the last layer."""
    (output,) = run_layers(x, layers, events)
    return output


def plain(x: Tensor, layers: Sequence[Layer]) -> Tensor:
    """The same by matrix products and the reference engine, step by step where there is recurrence."""
    for entry in layers:
        current = x if entry.weight is None else nn.functional.linear(x, entry.weight, entry.bias)
        begun = *entry.initial, *[0.0] * (entry.dynamics.states - len(entry.initial))
        state: tuple[Tensor, ...] = tuple(torch.full_like(current[0], part) for part in begun)
        step, outputs = step_by_step(entry.dynamics), list[Tensor]()
        for now in current:
            if entry.recurrent is not None and outputs:
                now = now + nn.functional.linear(outputs[-1], entry.recurrent, entry.recurrent_bias)
            output, state = step((now,), state)
            outputs.append(output)
        x = torch.stack(outputs)
    return x


def leaves(layers: Sequence[Layer]) -> list[Tensor]:
    found = [t for e in layers for t in (e.weight, e.bias, e.recurrent, e.recurrent_bias) if t is not None]
    return found + [t for e in layers for t in e.dynamics.constants if t.requires_grad]


def assert_same(x: Tensor, layers: Sequence[Layer], *, given: bool = False, tolerance: float = 1e-10) -> Tensor:
    """Spikes equal, potentials and gradients to rounding, on whatever is differentiable."""
    x = x.detach().requires_grad_()
    ours, truth = run(x, layers, None if given else SpikeBatch.from_dense(x)), plain(x, layers)
    if layers[-1].dynamics.spiking:
        assert torch.equal(ours, truth)
    else:
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12 * max(1.0, float(truth.detach().abs().max())))
    upstream = drawn(*truth.shape, seed=99, scale=1.0)
    inputs = [x, *leaves(layers)]
    mine = torch.autograd.grad(ours, inputs, upstream)
    # Over a few steps some of the output is constant to torch; the fused layers give zeros then.
    anchored = truth + sum(0 * t.sum() for t in inputs)
    true = torch.autograd.grad(anchored, inputs, upstream)
    for got, expected in zip(mine, true, strict=True):
        assert got.shape == expected.shape
        assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())
    return ours.detach()


# Each combination is a kernel of its own, forward and backward; whether neurons share their constants makes none.
OPTIONS = pairs(
    recurrent=[False, True],
    delta=[False, True],
    adaptation=[None, "threshold", "current"],
    learnt=[None, "time constants", "all"],
    **FIRING,
    size=[None, 37],
)


def split(options: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Whether the layer is recurrent, and the options of its neurons."""
    return options["recurrent"], {key: value for key, value in options.items() if key != "recurrent"}


@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_a_fused_layer_equals_product_and_loop(options: dict[str, Any]) -> None:
    recurrent, neuron = split(options)
    out = assert_same(spikes(30, 5, 70), [layer(37, leaky(**neuron), 70, recurrent=recurrent, seed=1)])
    assert 0.01 < float(out.mean()) < 0.6


@pytest.mark.parametrize("options", [o for o in OPTIONS if o["recurrent"]], ids=named)
def test_recurrence_on_a_given_current_equals_the_loop(options: dict[str, Any]) -> None:
    current = drawn(3, 40, 37, seed=4, scale=2.0).transpose(0, 1)
    cell = [layer(37, leaky(**split(options)[1]), None, recurrent=True, seed=5)]
    assert 0.01 < float(assert_same(current, cell, given=True).mean()) < 0.6


@pytest.mark.parametrize("tau_syn", [10e-3, None])
@pytest.mark.parametrize("learn_tau", [False, True])
def test_a_readout_equals_product_and_loop(tau_syn: float | None, learn_tau: bool) -> None:
    readout = LI(0.1, tau_syn, initial=-1e-3, learn_tau=learn_tau)
    assert_same(graded(20, 3, 65), [layer(11, readout, 65, bias=False, seed=2)])


def network(n_in: int, sizes: tuple[int, int, int], *, bias: bool = True) -> list[Layer]:
    one, two, three = sizes
    return [
        layer(one, LIF(), n_in, bias=bias, seed=10),
        layer(two, LIF(reset="subtract"), one, recurrent=True, bias=bias, seed=20),
        layer(three, LI(0.05), two, bias=bias, seed=30),
    ]


def test_a_stack_of_layers_equals_the_layers_one_by_one() -> None:
    layers = network(70, (37, 80, 20))
    out = assert_same(graded(40, 5, 70), layers)
    assert out.abs().max() > 0


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 5),
    samples=st.integers(1, 4),
    n_in=st.integers(1, 70),
    sizes=st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 9)),
    bias=st.booleans(),
)
def test_any_shape(steps: int, samples: int, n_in: int, sizes: tuple[int, int, int], bias: bool) -> None:
    assert_same(spikes(steps, samples, n_in, p=0.5), network(n_in, sizes, bias=bias))


def floats_saved(x: Tensor, layers: Sequence[Layer]) -> tuple[Tensor, int]:
    """The output, and how many floating-point numbers its graph holds."""
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run(x, layers, SpikeBatch.from_dense(x))
    return output, sum(tensor.numel() for tensor in saved if tensor.is_floating_point())


@pytest.mark.parametrize("options", OPTIONS[::3], ids=named)
def test_gradients_are_the_same_whether_potentials_are_kept_or_integrated_again(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    recurrent, neuron = split(options)
    layers = [layer(37, leaky(**neuron), 30, recurrent=recurrent, seed=5), layer(9, LI(learn_tau=True), 37, seed=6)]
    x = graded(25, 9, 30)
    kept, more = floats_saved(x, layers)
    monkeypatch.setattr(events_layers, "_KEPT", 0)
    again, fewer = floats_saved(x, layers)
    assert more - fewer >= x.shape[0] * x.shape[1] * 37
    found = [torch.autograd.grad(output.square().sum(), leaves(layers)) for output in (kept, again)]
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("recurrent", [False, True])
def test_potentials_written_past_the_caches_give_the_same_gradients(
    monkeypatch: pytest.MonkeyPatch, recurrent: bool
) -> None:
    layers = [layer(37, leaky(), 30, recurrent=recurrent, seed=5), layer(9, LI(), 37, seed=6)]
    x, found = spikes(25, 9, 30), []
    for least in (cpu_loop._STREAM, 0):
        monkeypatch.setattr(cpu_loop, "_STREAM", least)
        output = run(x, layers, SpikeBatch.from_dense(x))
        found.append([output, *torch.autograd.grad(output.square().sum(), leaves(layers))])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_blocks_fit_a_cache_of_any_processor() -> None:
    assert 1 << 16 <= cache_size() <= 1 << 26


def test_nothing_is_kept_where_no_backward_pass_may_follow() -> None:
    layers = network(70, (37, 40, 20))
    x = spikes(20, 7, 70)
    _, trained = floats_saved(x, layers)
    with torch.no_grad():
        _, alone = floats_saved(x, layers)
    assert alone == 0 < trained


def test_backward_may_run_on_another_number_of_threads_than_forward() -> None:
    layers, x, before = network(70, (37, 40, 20)), spikes(20, 7, 70), torch.get_num_threads()
    found = []
    try:
        for forth, back in ((3, 3), (3, 1), (3, 2)):
            torch.set_num_threads(forth)
            out = run(x, layers, SpikeBatch.from_dense(x))
            torch.set_num_threads(back)
            found.append(torch.autograd.grad(out.square().sum(), leaves(layers)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_single_precision_agrees_to_rounding() -> None:
    x, weight = spikes(40, 4, 70), drawn(40, 70, seed=8, scale=0.3)
    gradients = []
    for dtype in (torch.float32, DTYPE):
        w = weight.float().to(dtype).requires_grad_()
        entry = Layer((40,), LIF().to(dtype).dynamics(), w)
        out = run(x.to(dtype), [entry], SpikeBatch.from_dense(x.to(dtype)))
        out.backward(drawn(*out.shape, seed=7, scale=1.0).to(dtype))  # type: ignore[no-untyped-call]
        assert w.grad is not None
        gradients.append(w.grad.double())
    mine, true = gradients
    # Potentials of about 1 are off by some 4 x 2^-24; the surrogate multiplies that by up to 2 beta = 40.
    assert float((mine - true).abs().max()) <= 160 * 2**-24 * float(true.abs().max())


def test_nan_in_the_input_spreads_to_all_that_hears_it_and_no_further() -> None:
    x = spikes(20, 3, 30)
    x[10, 1, 4] = float("nan")
    entry = layer(12, LI(0.1), 30, seed=3)
    out = run(x, [entry], SpikeBatch.from_dense(x)).detach()
    truth = plain(x, [entry]).detach()
    assert torch.equal(out.isnan(), truth.isnan())
    assert out[12:, 1].isnan().all()
    assert not out[:, 0].isnan().any()


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    layers = network(30, (20, 20, 5))
    for entry in layers:
        assert entry.weight is not None
        entry.weight.requires_grad_(False)
    run(spikes(20, 2, 30), layers, SpikeBatch.from_dense(spikes(20, 2, 30))).sum().backward()  # type: ignore[no-untyped-call]
    assert all(e.weight is not None and e.weight.grad is None for e in layers)
    assert all(e.bias is not None and e.bias.grad is not None for e in layers)


def test_a_second_derivative_is_refused() -> None:
    entry, x = layer(12, LIF(), 30, seed=3), spikes(20, 3, 30)
    out = run(x, [entry], SpikeBatch.from_dense(x))
    assert entry.weight is not None
    (gradient,) = torch.autograd.grad(out.sum(), entry.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated only once"):
        gradient.sum().backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16])
def test_spikes_of_any_type_make_a_batch(dtype: torch.dtype) -> None:
    x = torch.rand(9, 2, 70) < 0.2
    batch = SpikeBatch.from_dense(x.to(dtype))
    assert batch is not None
    assert torch.equal(batch.dense(), x.float())


def test_spikes_changed_between_forward_and_backward_are_noticed() -> None:
    batch = SpikeBatch.from_indices([0, 3], [0, 1], [5, 6], (9, 2, 17))
    y = FusedSequential(nn.Linear(17, 8), LI())(batch)
    batch.words.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_weights_changed_between_forward_and_backward_are_noticed() -> None:
    entry, x = layer(12, LIF(), 30, seed=3), spikes(20, 3, 30)
    out = run(x, [entry], SpikeBatch.from_dense(x))
    assert entry.weight is not None
    with torch.no_grad():
        entry.weight.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()  # type: ignore[no-untyped-call]


def test_more_threads_give_the_same_spikes_and_repeat_their_gradients_exactly() -> None:
    x, layers = spikes(20, 7, 70), network(70, (37, 40, 20))
    weight = layers[0].weight
    assert weight is not None
    results: dict[int, list[tuple[Tensor, Tensor]]] = {}
    before = torch.get_num_threads()
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            out = run(x, layers, SpikeBatch.from_dense(x))
            (gradient,) = torch.autograd.grad(out.square().sum(), weight)
            results.setdefault(threads, []).append((out.detach(), gradient))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    (alone,), (first, second) = results[1], results[3]
    assert torch.equal(alone[0], first[0])
    assert torch.equal(first[1], second[1])
    torch.testing.assert_close(alone[1], first[1], rtol=0, atol=1e-12 * float(alone[1].abs().max()))
