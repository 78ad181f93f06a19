"""A feature map that hears itself through a convolution equals the stepped loop, with its gradients."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluctua.lab.networks.blocks import recurrent_conv_block
from fluctua.layers import FusedSequential, OverTime, Recurrent
from fluctua.neurons import LI, LIF, ArcTan
from fluctua.neurons.surrogates import Surrogate
from fluctua.timeloop import conv_recurrence, engine
from shared.circuit_loops import recurrent_by_hand
from shared.neuron_options import FIRING, leaky, two_synapses
from shared.pairs import each, named

NEURONS: dict[str, dict[str, Any]] = {
    "exponential": {},
    "delta": {"delta": True},
    "adaptive threshold": {"adaptation": "threshold"},
    "adaptive current": {"adaptation": "current"},
}
# Each combination is a kernel of its own, forward and backward; sizes of maps are not. Pairs are tested where a step
# stands in the simplest loop: `test_cpu_loop.py`, `test_step.py`.
OPTIONS = each(neuron=[*NEURONS, "two synapses"], learnt=[False, True], **FIRING, dtype=[torch.float64, torch.float32])


def cell_of(neuron: str, learnt: bool, **firing: Any) -> nn.Module:
    if neuron == "two synapses":
        return two_synapses(learnt=learnt, **firing)
    return leaky(**NEURONS[neuron], learnt="all" if learnt else None, **firing, beta=3.0, coupling=0.3)


MAPS: dict[str, tuple[Callable[[], nn.Conv1d | nn.Conv2d], tuple[int, ...]]] = {
    "line": (lambda: nn.Conv1d(5, 5, 5, padding=2, bias=False), (5, 9)),
    "wide line": (lambda: nn.Conv1d(18, 18, 3, padding="same", bias=False), (18, 21)),
    "window beyond the line": (lambda: nn.Conv1d(3, 3, 9, padding=4, bias=False), (3, 2)),
    "plane": (lambda: nn.Conv2d(3, 3, (3, 5), padding=(1, 2), bias=False), (3, 6, 7)),
    "one place": (lambda: nn.Conv2d(2, 2, 1, bias=False), (2, 1, 1)),
}


def drawn(*shape: int, scale: float = 3.0, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))).to(dtype)


def made(cell: nn.Module, name: str = "line", dtype: torch.dtype = torch.float64) -> tuple[Recurrent, Tensor]:
    """A layer with weights of its own, large enough to matter, and a current for it."""
    conv, shape = MAPS[name]
    torch.manual_seed(0)
    layer = Recurrent(cell, conv()).to(dtype)
    with torch.no_grad():
        weight_of(layer).mul_(3)
    return layer, drawn(60, 3, *shape, dtype=dtype)


def weight_of(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight.weight")


def stepped(layer: Recurrent, x: Tensor) -> Tensor:
    return layer.proceed(x)[0]["cell"]


def assert_same_gradients(ours: Tensor, truth: Tensor, inputs: list[Tensor], tolerance: float) -> None:
    upstream = drawn(*truth.shape, scale=1.0, seed=1, dtype=truth.dtype)
    gradients = (torch.autograd.grad(out, inputs, upstream) for out in (ours, truth))
    for mine, true in zip(*gradients, strict=True):
        assert true.abs().max() > 0
        torch.testing.assert_close(mine, true, rtol=0, atol=tolerance * float(true.abs().max()))


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the currents that the fused loop was called with."""
    calls, original = list[tuple[int, ...]](), conv_recurrence.run

    def counting(x: Tensor, *rest: Any) -> Tensor:
        calls.append(tuple(x.shape))
        return original(x, *rest)

    monkeypatch.setattr(conv_recurrence, "run", counting)
    return calls


# -- the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("options", OPTIONS, ids=named)
def test_spikes_and_gradients_are_those_of_the_stepped_loop(
    options: dict[str, Any], name: str, fused: list[tuple[int, ...]]
) -> None:
    dtype, cell = options["dtype"], cell_of(**{key: value for key, value in options.items() if key != "dtype"})
    layer, x = made(cell, name, dtype)
    x.requires_grad_()
    out, truth = layer(x), stepped(layer, x)
    assert fused == [tuple(x.shape)]
    assert torch.equal(out, truth)  # in float32 not a law, for sums run in another order, but so here
    assert 0.005 < float(truth.detach().mean()) < 0.5
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    # All that is heard excites: the time constant of inhibition has no effect.
    trained = [p for name, p in layer.named_parameters() if not name.endswith("tau_inh")]
    assert_same_gradients(out, truth, [x, *trained], tolerance)


@pytest.mark.parametrize("name", MAPS)
def test_a_loop_by_hand_agrees(name: str) -> None:
    """So that the stepped loop is not taken at its word."""
    layer, x = made(LIF(), name)
    x.requires_grad_()
    out, truth = layer(x), recurrent_by_hand(layer.cell, layer.weight, x)
    assert torch.equal(out, truth)
    assert_same_gradients(out, truth, [x, *layer.parameters()], 1e-9)
    assert not torch.equal(out, layer.cell(x)), "the recurrence matters"


sizes, odd = st.integers(1, 9), st.sampled_from([1, 3, 5])


@given(
    channels=st.sampled_from([1, 2, 8, 9, 16, 17]),
    frame=st.tuples(sizes, sizes),
    kernel=st.tuples(odd, odd),
    batch=st.sampled_from([1, 2, 9, 17]),  # more than a block takes
    steps=st.integers(4, 12),
)
@settings(max_examples=60, deadline=None)
def test_any_shape(channels: int, frame: tuple[int, int], kernel: tuple[int, int], batch: int, steps: int) -> None:
    """In float64: in float32 sums in another order may, if rarely, lift a potential over the threshold."""
    torch.manual_seed(0)
    layer = Recurrent(LIF(10e-3, 5e-3), nn.Conv2d(channels, channels, kernel, padding="same", bias=False)).double()
    x = drawn(steps, batch, channels, *frame, scale=6.0).requires_grad_()
    out, truth = layer(x), stepped(layer, x)
    assert torch.equal(out, truth)
    inputs = [x, weight_of(layer)]
    gradients = (torch.autograd.grad(o.square().sum(), inputs) for o in (out, truth))
    for mine, true in zip(*gradients, strict=True):
        scale = max(1.0, float(true.abs().max()))
        torch.testing.assert_close(mine, true, rtol=0, atol=scale * 1e-10)


@pytest.mark.parametrize("steps", [1, 2])
def test_few_steps(steps: int) -> None:
    layer, x = made(LIF(20e-3, None))
    x = x[:steps].requires_grad_()
    out = layer(x)
    assert torch.equal(out, stepped(layer, x))
    gradient, by_weight = torch.autograd.grad(out.sum(), [x, weight_of(layer)])
    assert bool(gradient.any()) == (steps > 1), "the current of the last step reaches no spike"
    assert not by_weight.any()


@pytest.mark.parametrize("shape", [(5, 9), (5, 1), (9,)])
def test_every_neuron_may_have_constants_of_its_own(shape: tuple[int, ...], fused: list[tuple[int, ...]]) -> None:
    size = torch.Size(shape).numel()
    tau, theta = (torch.linspace(*span, size).reshape(shape) for span in ((5e-3, 30e-3), (0.8, 1.2)))
    layer, x = made(LIF(tau, tau / 2, threshold=theta, learn_tau=True))
    x.requires_grad_()
    out, truth = layer(x), stepped(layer, x)
    assert len(fused) == 1
    assert torch.equal(out, truth)
    assert_same_gradients(out, truth, [x, *layer.parameters()], 1e-9)


def test_the_gradient_below_threshold_is_that_of_finite_differences() -> None:
    """Of the function that the surrogate is the derivative of, as far as neurons do not hear each other."""
    cell = LIF(20e-3, None, surrogate=ArcTan(1.0), threshold=50.0)
    layer, x = made(cell)
    x, upstream, step = (0.1 * x).requires_grad_(), drawn(*x.shape, seed=1), drawn(*x.shape, seed=2)
    (mine,) = torch.autograd.grad(layer(x), x, upstream)

    def soft(x: Tensor) -> Tensor:
        """An arctangent in place of the Heaviside function."""
        return torch.atan(torch.pi / 2 * (cell.simulate(x).potential - cell.threshold)) / torch.pi

    with torch.no_grad():
        weight_of(layer).zero_()
    (alone,) = torch.autograd.grad(layer(x), x, upstream)
    h = 1e-5
    slope = (upstream * (soft(x.detach() + h * step) - soft(x.detach() - h * step))).sum() / (2 * h)
    torch.testing.assert_close((alone * step).sum(), slope, rtol=1e-6, atol=0)
    assert not torch.equal(mine, alone), "what could be heard counts in backward"


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_matter(threads: int) -> None:
    layer, _ = made(LIF())
    x = drawn(20, 21, 5, 9).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = layer(x)
        assert_same_gradients(out, stepped(layer, x), [x, *layer.parameters()], 1e-9)
    finally:
        torch.set_num_threads(before)


# -- autograd --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wants_x", [True, False])
@pytest.mark.parametrize("wants_weight", [True, False])
def test_only_what_asks_gets_a_gradient(wants_x: bool, wants_weight: bool) -> None:
    layer, x = made(LIF())
    x.requires_grad_(wants_x)
    layer.weight.requires_grad_(wants_weight)
    out = layer(x)
    assert out.requires_grad == (wants_x or wants_weight)
    assert torch.equal(out, stepped(layer, x))
    if inputs := [t for t in (x, weight_of(layer)) if t.requires_grad]:
        assert_same_gradients(out, stepped(layer, x), inputs, 1e-9)


def test_without_gradients_the_spikes_are_the_same(fused: list[tuple[int, ...]]) -> None:
    layer, x = made(LIF())
    truth = stepped(layer, x)
    with torch.no_grad():
        assert torch.equal(layer(x), truth)
    with torch.inference_mode():
        assert torch.equal(layer(x), truth)
    assert len(fused) == 2


def test_any_layout_of_current_and_gradient() -> None:
    layer, x = made(LIF())
    other = x.movedim(0, -1).contiguous().movedim(-1, 0).requires_grad_()
    assert not other.is_contiguous()
    out = layer(other)
    assert torch.equal(out, stepped(layer, x))
    weighed = out.sum(), stepped(layer, other).sum()  # whose gradient is expanded from one number
    mine, true = (torch.autograd.grad(o, other)[0] for o in weighed)
    torch.testing.assert_close(mine, true, rtol=0, atol=1e-9 * float(true.abs().max()))


def test_a_graph_that_is_kept_gives_the_same_twice() -> None:
    layer, x = made(LIF(learn_tau=True))
    out = layer(x.requires_grad_()).sum()
    first, again = (torch.autograd.grad(out, [x, *layer.parameters()], retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("name", ["line", "plane"])
def test_second_derivatives_are_refused_and_the_reference_gives_them(name: str) -> None:
    layer, x = made(LIF(learn_tau=True), name)
    x.requires_grad_()

    def penalty() -> Tensor:
        (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    for tensor in (x, *layer.parameters()):
        with pytest.raises(RuntimeError, match="can be differentiated only once"):
            torch.autograd.grad(penalty(), tensor)
    with engine("reference"):
        (second,) = torch.autograd.grad(penalty(), x)
    assert bool(second.any())


# -- who looks, and what is not served -------------------------------------------------------------------------


def test_a_hook_on_the_tap_sees_the_spikes(fused: list[tuple[int, ...]]) -> None:
    layer, x = made(LIF())
    seen = list[Tensor]()
    layer.spikes["cell"].register_forward_hook(lambda module, args, output: seen.append(output))
    out = layer(x)
    assert len(fused) == 1
    assert torch.equal(seen[0], out)
    layer.spikes["cell"].register_forward_hook(lambda module, args, output: 2 * output)
    assert torch.equal(layer(x), 2 * out)


def test_a_hook_on_the_weight_is_called_at_every_step(fused: list[tuple[int, ...]]) -> None:
    layer, x = made(LIF())
    truth, heard = layer(x), list[Tensor]()
    layer.weight.register_forward_hook(lambda module, args, output: heard.append(output))
    assert torch.equal(layer(x), truth)
    assert len(heard) == len(x) - 1
    assert len(fused) == 1


class OwnSurrogate(Surrogate):
    def derivative(self, x: Tensor) -> Tensor:
        return (-self.beta * x.abs()).exp() / x.mean()


class OwnRecurrent(Recurrent):
    pass


class OwnLIF(LIF):
    pass


def conv(kernel: int, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(4, 4, kernel, **{"padding": "same", "bias": False, **options})


UNSERVED: dict[str, Callable[[], Recurrent]] = {
    "bias": lambda: Recurrent(LIF(), conv(3, bias=True)),
    "groups": lambda: Recurrent(LIF(), conv(3, groups=2)),
    "holes": lambda: Recurrent(LIF(), conv(3, dilation=2)),
    "even": lambda: Recurrent(LIF(), conv(4)),
    "around": lambda: Recurrent(LIF(), conv(3, padding_mode="circular")),
    "too wide": lambda: Recurrent(LIF(), nn.Conv1d(4, 4, 301, padding="same", bias=False)),
    "own neurons": lambda: Recurrent(OwnLIF(), conv(3)),
    "own circuit": lambda: OwnRecurrent(LIF(), conv(3)),
    "surrogate of the whole batch": lambda: Recurrent(LIF(surrogate=OwnSurrogate(10.0)), conv(3)),
    "sequence of modules": lambda: Recurrent(LIF(), nn.Sequential(conv(3))),
    "parametrised": lambda: Recurrent(LIF(), nn.utils.parametrizations.weight_norm(conv(3))),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_all_else_is_stepped_through(name: str, fused: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    layer, x = UNSERVED[name]().double(), drawn(30, 2, 4, 9).requires_grad_()
    out, truth = layer(x), stepped(layer, x)
    assert fused == []
    assert torch.equal(out, truth)
    assert_same_gradients(out, truth, [x, *layer.parameters()], 1e-12)


@pytest.mark.parametrize("name", ["reference", "cpu-bfloat16"])
def test_another_engine_is_asked_for_by_name(name: str, fused: list[tuple[int, ...]]) -> None:
    layer, x = made(LIF())
    with engine(name):
        out = layer(x)
    assert fused == []
    assert torch.equal(layer(x), out)
    assert len(fused) == 1


def test_half_precision_and_autocast_are_stepped_through(fused: list[tuple[int, ...]]) -> None:
    layer, x = made(LIF(), dtype=torch.bfloat16)
    assert layer(x).dtype == torch.bfloat16
    layer, x = made(LIF(), dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert fused == []


def test_what_does_not_fit_is_refused_as_before() -> None:
    with pytest.raises(ValueError, match="cannot take spikes of shape"):
        Recurrent(LIF(), conv(3))(torch.ones(3, 2, 5, 9))
    with pytest.raises(ValueError, match="gives a current of shape"):
        Recurrent(LIF(), conv(3, padding=0))(torch.ones(3, 2, 4, 9))
    with pytest.raises(ValueError, match=r"takes currents \[T, B, ...\]"):
        Recurrent(LIF(), conv(3))(torch.ones(0, 2, 4, 9))


def test_a_block_in_a_chain_uses_it(fused: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    block = recurrent_conv_block(1, 4, LIF, kernel=3, stride=2)
    net = FusedSequential(nn.Unflatten(2, (1, 21)), block, nn.Flatten(2), nn.Linear(40, 3, bias=False), LI()).double()
    with torch.no_grad():
        block.get_parameter("0.module.weight").mul_(10)
    x = (drawn(40, 3, 21) > 3).double()
    out = net(x)
    assert fused == [(40, 3, 4, 10)]
    with engine("reference"):
        truth = net(x)
    torch.testing.assert_close(out, truth, rtol=0, atol=1e-12)
    assert isinstance(block[0], OverTime)
    assert_same_gradients(out, truth, list(net.parameters()), 1e-9)
