"""The fused GPU engine in Triton's interpreter against the reference: every spike equal, gradients within rounding.

No GPU is needed. What a GPU would run is compiled for one, though, and looked at.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluctua.neurons import LI, LIF, AdaptiveLIF, ArcTan, ExcInhLIF, SigmoidDerivative, SuperSpike
from fluctua.neurons.leaky import State
from fluctua.neurons.surrogates import Surrogate
from fluctua.timeloop import engine, engines
from fluctua.timeloop.contract import LoopResult
from fluctua.timeloop.engines import GPU

pytest.importorskip("triton")
from shared.leaky_populations import Adaptation, LoopParameters, run
from shared.triton_kernels import compilable, compiling, interpret, machine_code

DTYPE = torch.float64
SHAPE = (12, 2, 3, 5)  # [T, B, *N]


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    interpret(monkeypatch)


def drawn(shape: tuple[int, ...], scale: float = 3.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def between(low: float, high: float, shape: tuple[int, ...], seed: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def options(
    synapse: bool, spikes: bool, reset: str = "zero", differentiable: bool = False, adapts: str = ""
) -> LoopParameters:
    """A population with constants of every shape: one for all, one a channel, one a neuron."""
    coupling = between(0.1, 0.5, (3, 1), 3) if adapts == "current" else None
    return LoopParameters(
        decay_mem=between(0.8, 0.95, (3, 1), 1),
        decay_syn=between(0.6, 0.9, (3, 5), 2) if synapse else None,
        threshold=torch.tensor(0.5, dtype=DTYPE) if spikes else None,
        reset="zero" if reset == "zero" else "subtract",
        differentiable_reset=differentiable,
        adaptation=Adaptation(between(0.9, 0.95, (5,), 4), between(1, 2, (3, 5), 5), coupling) if adapts else None,
    )


READOUTS = [options(synapse, False) for synapse in (True, False)]
SPIKING = [
    options(synapse, True, reset, differentiable, adapts)
    for synapse, reset, differentiable, adapts in product(
        [True, False], ["zero", "subtract"], [False, True], ["", "threshold", "current"]
    )
]
EXPONENTIAL_LIF, DELTA_LIF = options(True, True), options(False, True)
ALIF, ADLIF = (options(True, True, "zero", True, adapts) for adapts in ("threshold", "current"))


def named(p: LoopParameters) -> str:
    words = ["delta" if p.decay_syn is None else "exponential", p.reset if p.spiking else "readout"]
    words += ["differentiable"] if p.differentiable_reset else []
    words += [] if p.adaptation is None else ["alif" if p.adaptation.coupling is None else "adlif"]
    return "-".join(words)


def constants(p: LoopParameters) -> dict[str, Tensor]:
    q = p.adaptation
    tensors = {"decay_mem": p.decay_mem, "decay_syn": p.decay_syn, "threshold": p.threshold}
    if q is not None:
        tensors |= {"rho": q.decay, "beta": q.strength, "coupling": q.coupling}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def with_constants(p: LoopParameters, c: Mapping[str, Tensor]) -> LoopParameters:
    q = None if p.adaptation is None else Adaptation(c["rho"], c["beta"], c.get("coupling"))
    return replace(
        p, decay_mem=c["decay_mem"], decay_syn=c.get("decay_syn"), threshold=c.get("threshold"), adaptation=q
    )


def leaf(tensor: Tensor, dtype: torch.dtype = DTYPE) -> Tensor:
    return tensor.detach().to(dtype).clone().requires_grad_()


def everything(
    name: str, p: LoopParameters, current: Tensor, dtype: torch.dtype = DTYPE, wanted: str | None = None
) -> tuple[LoopResult, dict[str, Tensor]]:
    """Result of an engine, and the gradients wrt all inputs (or the wanted one) of a loss on all that has one."""
    rest = tuple(current.shape[1:])
    inputs = {"input": current, **{part: drawn(rest, 0.3, seed) for seed, part in enumerate(State._fields)}}
    if p.adaptation is None:
        del inputs["adaptation"]
    inputs |= constants(p)
    inputs = {key: leaf(tensor, dtype) if wanted in (None, key) else tensor.to(dtype) for key, tensor in inputs.items()}
    p = with_constants(p, inputs)
    if name == "gpu":
        assert GPU.unsupported((inputs["input"],), p.dynamics) is None
    with engine(name):
        result = run(inputs["input"], p, State(inputs["potential"], inputs["current"], inputs.get("adaptation")))
    loss = (result.output * drawn(tuple(current.shape), 1.0, 9).to(dtype)).sum()
    loss = loss + sum((k * part).sin().sum() for k, part in enumerate(result.state, 1) if part is not None)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {key: tensor.grad for key, tensor in inputs.items() if tensor.grad is not None}
    return result, gradients


def assert_same(
    p: LoopParameters,
    current: Tensor,
    tolerance: float = 1e-12,
    dtype: torch.dtype = DTYPE,
    wanted: str | None = None,
) -> None:
    ours, our_gradients = everything("gpu", p, current, dtype, wanted)
    theirs, their_gradients = everything("reference", p, current, dtype, wanted)
    for mine, truth in zip((*ours[:2], *ours.state), (*theirs[:2], *theirs.state), strict=True):
        assert (mine is None) == (truth is None)
        if mine is not None and truth is not None:
            torch.testing.assert_close(mine, truth, rtol=0, atol=0, equal_nan=True)
            assert mine.requires_grad >= truth.requires_grad
    assert our_gradients.keys() == their_gradients.keys()
    for key, truth in their_gradients.items():
        error, scale = (float(t.abs().max()) if t.numel() else 0.0 for t in (our_gradients[key] - truth, truth))
        assert our_gradients[key].shape == truth.shape, key
        assert error <= tolerance * scale, key


@pytest.mark.parametrize("p", READOUTS + SPIKING, ids=named)
def test_equals_the_reference(p: LoopParameters) -> None:
    assert_same(p, drawn(SHAPE))
    if p.spiking:
        assert 0.02 < run(drawn(SHAPE), p).output.mean() < 0.5


@pytest.mark.parametrize("p", READOUTS + SPIKING, ids=named)
def test_equals_the_reference_where_no_constant_is_learnt(p: LoopParameters) -> None:
    assert_same(p, drawn(SHAPE), wanted="input")


@pytest.mark.parametrize("p", [READOUTS[0], EXPONENTIAL_LIF, DELTA_LIF, ALIF, ADLIF], ids=named)
def test_equals_the_reference_in_single_precision(p: LoopParameters) -> None:
    assert_same(p, drawn(SHAPE), tolerance=1e-5, dtype=torch.float32)


@pytest.mark.parametrize("surrogate", [SigmoidDerivative(), ArcTan(), SuperSpike(3.0)], ids=repr)
def test_equals_the_reference_with_every_surrogate(surrogate: Surrogate) -> None:
    assert_same(replace(ALIF, surrogate=surrogate), drawn(SHAPE))


@pytest.mark.parametrize("p", [EXPONENTIAL_LIF, ADLIF], ids=named)
def test_many_columns_and_steps(p: LoopParameters) -> None:
    assert_same(with_constants(p, {key: c.flatten()[:1] for key, c in constants(p).items()}), drawn((60, 2, 75)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    steps=st.integers(1, 4),
    p=st.sampled_from([*READOUTS, *SPIKING]),
    seed=st.integers(0, 2**20),
)
def test_any_shape(shape: list[int], steps: int, p: LoopParameters, seed: int) -> None:
    values = {key: c.flatten()[0] for key, c in constants(p).items()}
    values["decay_mem"] = between(0.5, 0.9, tuple(shape[1:]), seed)
    assert_same(with_constants(p, values), drawn((steps, *shape), seed=seed))


@pytest.mark.parametrize("wanted", ["potential", "current", "adaptation", "decay_mem", "threshold", "coupling"])
def test_one_gradient_alone(wanted: str) -> None:
    assert_same(ADLIF, drawn(SHAPE), wanted=wanted)


@pytest.mark.parametrize("p", [READOUTS[1], EXPONENTIAL_LIF], ids=named)
def test_final_state_alone_carries_a_gradient(p: LoopParameters) -> None:
    gradients = []
    for name in ("gpu", "reference"):
        x = leaf(drawn(SHAPE))
        with engine(name):
            run(x, p).state.potential.sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("p", [READOUTS[1], EXPONENTIAL_LIF, ALIF], ids=named)
def test_nan_and_infinity_spread_as_in_the_reference(p: LoopParameters) -> None:
    current = drawn(SHAPE)
    current[3, 1, 2, 2] = torch.nan
    current[5, 0, 2, 1] = torch.inf
    results, gradients = [], []
    for name in ("gpu", "reference"):
        x = leaf(current)
        with engine(name):
            results.append(run(x, p))
        results[-1].output.sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(x.grad)
    for mine, truth in zip(results[0][:2], results[1][:2], strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert results[0].potential.isnan().any()


def test_memory_in_any_order() -> None:
    current = drawn(SHAPE)
    batch_first = current.transpose(0, 1).contiguous().transpose(0, 1)
    negative = torch.complex(torch.zeros_like(current), -current).conj().imag
    assert not batch_first.is_contiguous()
    assert negative.is_neg()
    with engine("gpu"):
        for view in (batch_first, negative):
            assert torch.equal(run(view, EXPONENTIAL_LIF).potential, run(current, EXPONENTIAL_LIF).potential)
        gradients = []
        for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
            x = leaf(current)
            run(x, DELTA_LIF).output.permute(order).contiguous().sin().sum().backward()  # type: ignore[no-untyped-call]
            gradients.append(x.grad)
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[0], gradients[1])


def kept(p: LoopParameters, x: Tensor) -> list[Tensor]:
    """The tensors of the current's size that are kept for backward."""
    tensors: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), engine("gpu"):
        result = run(x, p)
    assert result.output.requires_grad
    return [t for t in tensors if t.shape == x.shape]


def test_backward_keeps_no_more_than_it_needs() -> None:
    x = leaf(drawn(SHAPE))
    assert len(kept(READOUTS[0], x)) == 0
    assert len(kept(EXPONENTIAL_LIF, x)) == 1
    assert len(kept(replace(EXPONENTIAL_LIF, decay_mem=leaf(EXPONENTIAL_LIF.decay_mem)), x)) == 2
    assert len(kept(options(True, True, adapts="threshold"), x)) == 1
    assert len(kept(options(True, True, adapts="current"), x)) == 1


def test_no_graph_without_need() -> None:
    x = leaf(drawn(SHAPE))
    with engine("gpu"):
        with torch.no_grad():
            assert run(x, EXPONENTIAL_LIF).output.grad_fn is None
        assert run(x.detach(), EXPONENTIAL_LIF).output.grad_fn is None
        result = run(x, EXPONENTIAL_LIF)
    assert result.output.requires_grad
    assert not result.potential.requires_grad


@pytest.mark.parametrize("p", [EXPONENTIAL_LIF, ALIF], ids=named)
def test_second_derivatives_are_refused(p: LoopParameters) -> None:
    x = leaf(drawn(SHAPE))
    with engine("gpu"):
        (gradient,) = torch.autograd.grad(run(x, p).output.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"only once.*engine\('reference'\)"):
        torch.autograd.grad(gradient.square().sum(), x)


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "lif": LIF,
    "li": LI,
    "alif": lambda: AdaptiveLIF(beta=5.0),
    "adlif": lambda: AdaptiveLIF(beta=5.0, kind="current", coupling=0.3),
    "learnt": lambda: AdaptiveLIF(learn_tau=True, learn_adaptation=True),
}


@pytest.mark.parametrize("name", NEURONS)
def test_neurons_run_on_it(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fluctua.timeloop")
    neurons, current, outputs = NEURONS[name](), drawn((20, 2, 5), 5.0).float(), []
    for served in ("gpu", "reference"):
        with engine(served):
            outputs.append(neurons(current))
    assert outputs[0].sum() != 0
    assert torch.equal(*outputs)
    assert "falls back" not in caplog.text


def test_excitation_and_inhibition_run_on_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fluctua.timeloop")
    neurons = ExcInhLIF(learn_tau=True)
    results: dict[str, list[Tensor]] = {}
    for name in ("gpu", "reference"):
        neurons.zero_grad()
        exc, inh = (leaf(drawn((20, 2, 5), 4.0, seed).abs(), torch.float32) for seed in (1, 2))
        with engine(name):
            output = neurons(exc, 0.3 * inh)
        (output * drawn((20, 2, 5), 1.0, 3).float()).sum().backward()
        gradients = [exc.grad, inh.grad, *(parameter.grad for parameter in neurons.parameters())]
        results[name] = [output, *(g for g in gradients if g is not None)]
    ours, truth = results["gpu"], results["reference"]
    assert torch.equal(ours[0], truth[0])
    assert 0.02 < ours[0].mean() < 0.5
    assert len(ours) == 6
    for mine, theirs in zip(ours[1:], truth[1:], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))
    assert "falls back" not in caplog.text


def loss_and_gradients(loss: Any, current: Tensor) -> tuple[Tensor, ...]:
    x = leaf(current, torch.float32)
    value = loss(x)
    return value.detach(), *torch.autograd.grad(value, x)


def loss_of_engine(x: Tensor) -> Tensor:
    p = LoopParameters(HALF, HALF, HALF, surrogate=SURROGATE)
    served = GPU
    assert served.unsupported((x,), p.dynamics) is None
    rest = torch.zeros_like(x[0])
    result = served.run((x,), p.dynamics, (rest, rest))
    return result.output.mean() + result.state[1].sum()  # type: ignore[no-any-return]


HALF, SURROGATE = torch.tensor(0.5), SuperSpike()


def test_compiles_without_a_graph_break() -> None:
    compiled = torch.compile(loss_of_engine, backend="aot_eager", fullgraph=True)
    for mine, truth in zip(
        loss_and_gradients(compiled, drawn(SHAPE)), loss_and_gradients(loss_of_engine, drawn(SHAPE)), strict=True
    ):
        assert torch.equal(mine, truth)


def test_autocast_changes_nothing() -> None:
    plain = loss_and_gradients(loss_of_engine, drawn(SHAPE))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = loss_and_gradients(loss_of_engine, drawn(SHAPE))
    assert all(torch.equal(mine, truth) for mine, truth in zip(cast, plain, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_widened(dtype: torch.dtype) -> None:
    current, neurons = drawn(SHAPE, 5.0).to(dtype), LIF()
    with engine("gpu"):
        output = neurons(current)
        truth = neurons(current.float())
    assert output.dtype == dtype
    assert torch.equal(output.float(), truth)


class Averaged(SuperSpike):
    """No function of one neuron."""

    def derivative(self, x: Tensor) -> Tensor:
        return super().derivative(x) / x.mean()


PLAIN = LoopParameters(HALF, HALF, HALF)


@pytest.mark.parametrize(
    ("current", "p", "reason"),
    [
        (torch.zeros(2, 1, 3).to_sparse(), PLAIN, "plain tensors"),
        (torch.zeros(2, 1, 3).to("meta"), PLAIN, "not on the current's device meta"),
        (torch.zeros(2, 1, 3, dtype=torch.float16), PLAIN, "float16"),
        (torch.zeros(2, 1, 3, dtype=DTYPE), PLAIN, "not of the current's type"),
        (torch.zeros(2, 1, 3), replace(PLAIN, decay_mem=torch.full((4,), 0.5)), "does not broadcast"),
        (torch.zeros(2, 1, 3), replace(PLAIN, surrogate=Averaged()), "mean"),
        (torch.zeros(2, 1, 3), PLAIN, None),
        (nn.Parameter(torch.zeros(2, 1, 3)), PLAIN, None),
        (torch.zeros(2, 1, 3), LoopParameters(HALF, None, surrogate=Averaged()), None),
    ],
)
def test_refusals(current: Tensor, p: LoopParameters, reason: str | None) -> None:
    refusal = GPU.unsupported((current,), p.dynamics)
    assert refusal is None if reason is None else refusal is not None and reason in refusal


def test_outside_the_interpreter_a_cpu_tensor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert GPU.unsupported((torch.zeros(2, 1, 3),), PLAIN.dynamics) == "it takes CUDA tensors, not one on cpu"


def test_without_triton_every_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_triton", lambda: False)
    assert "pip install 'fluctua[gpu]'" in (GPU.unsupported((torch.zeros(2, 1, 3),), PLAIN.dynamics) or "")


def test_transformed_tensors_are_left_to_the_reference() -> None:
    def loss(x: Tensor) -> Tensor:
        assert "torch.func" in (GPU.unsupported((x,), EXPONENTIAL_LIF.dynamics) or "")
        with engine("gpu"):
            return run(x, EXPONENTIAL_LIF).state.potential.sum()  # type: ignore[no-any-return]

    x = leaf(drawn(SHAPE))
    run(x, EXPONENTIAL_LIF).state.potential.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(torch.func.grad(loss)(drawn(SHAPE)), x.grad)


@pytest.fixture(scope="module", autouse=True)
def _compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Triton's cache in a folder of its own."""
    with compiling(str(tmp_path_factory.mktemp("triton"))):
        yield


def learning(p: LoopParameters) -> LoopParameters:
    """The same with all constants to be trained."""
    return with_constants(p, {name: leaf(c) for name, c in constants(p).items()})


def compiled(p: LoopParameters, dtype: str, size: str = "i32") -> list[Mapping[str, str]]:
    """Machine code of both directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "0")
        both = compilable(learning(p).dynamics, {"fp32": "float32", "fp64": "float64"}[dtype])
        return [machine_code(kernel, dtype, {"BLOCK": 128}, size) for kernel in both]


@pytest.mark.parametrize("p", [EXPONENTIAL_LIF, ALIF, ADLIF], ids=named)
@pytest.mark.parametrize("dtype", ["fp32", "fp64"])
def test_a_gpu_loads_ahead_and_fuses_no_operation(dtype: str, p: LoopParameters) -> None:
    forward, backward = compiled(p, dtype)
    assert "cp.async" in forward["ptx"]
    assert "MUL" in forward["sass"]
    assert "FMA" not in forward["sass"]
    assert "cp.async" in backward["ptx"]
    assert backward["cubin"]


@pytest.mark.parametrize("surrogate", [SigmoidDerivative(), ArcTan()], ids=repr)
def test_a_gpu_can_run_the_adjoint_with_every_surrogate(surrogate: Surrogate) -> None:
    assert compiled(replace(ADLIF, surrogate=surrogate), "fp32")[1]["cubin"]


@pytest.mark.parametrize("size", ["1", "i64"])
def test_a_gpu_takes_sizes_of_one_and_sizes_beyond_32_bits(size: str) -> None:
    assert all(stages["cubin"] for stages in compiled(ADLIF, "fp32", size))


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return import_module("bench_gpu")


def test_the_benchmark_says_that_there_is_no_gpu(
    bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    bench.main([])
    assert capsys.readouterr().out == "There is no GPU here, so nothing was measured.\n"


@pytest.mark.parametrize("name", ["W2", "W4"])
def test_the_benchmark_times_every_contestant(bench: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    measurement = bench.measure(bench.QUICK[name], torch.device("cpu"), rounds=2, copied=1e9)
    assert {bench.GPU, bench.REFERENCE, bench.COMPILED} <= set(measurement.seconds)
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measurement.seconds.values())
    assert ("bandwidth" in str(measurement)) == (name == "W4")


def test_the_benchmark_replaces_neurons_by_the_same_neurons_step_by_step(bench: Any) -> None:
    model = bench.network(bench.QUICK["W2"])
    stepped = bench.replaced(model, lambda m, weight: bench.Stepped(m, bench.one_step, weight))
    x = between(0.0, 5.0, (12, 4, 16), 6).float()
    assert model(x).abs().sum() > 0
    assert torch.equal(stepped(x), model(x))
