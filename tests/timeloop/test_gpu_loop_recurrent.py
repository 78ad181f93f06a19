"""A population that hears itself, in the gpu engine's kernels as Triton interprets them, against plain steps of torch.

No GPU is needed. What a GPU would run is compiled for one, though, and looked at.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from fluctua.layers import DaleLayer, Recurrent
from fluctua.neurons import LIF, AdaptiveLIF, ArcTan, ExcInhLIF, SigmoidDerivative, SuperSpike
from fluctua.neurons.leaky import State
from fluctua.neurons.surrogates import Surrogate
from fluctua.timeloop import engine
from fluctua.timeloop.contract import Dynamics, Tensors
from fluctua.timeloop.engines import step_by_step

pytest.importorskip("triton")
from fluctua.layers import fusion
from fluctua.timeloop import engines, gpu_loop
from fluctua.timeloop.gpu_source import Heard
from shared.leaky_populations import LoopParameters
from shared.pairs import named, pairs
from shared.triton_kernels import compilable, compiling, interpret, machine_code

DTYPE = torch.float64
SUPERSPIKE = SuperSpike()


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    interpret(monkeypatch)


def drawn(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def between(low: float, high: float, *shape: int, seed: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


@dataclass(frozen=True)
class Case:
    """A population; its options without numbers."""

    exponential: bool = True
    hard: bool = True
    differentiable: bool = False
    surrogate: Surrogate = SUPERSPIKE
    biased: bool = True

    def __str__(self) -> str:
        words = "exponential" if self.exponential else "delta", "zero" if self.hard else "subtract"
        return "-".join([*words, *(["differentiable"] if self.differentiable else []), type(self.surrogate).__name__])

    def numbers(self, steps: int = 12, samples: int = 3, neurons: int = 5) -> dict[str, Tensor]:
        """Everything that may have a gradient: the current, the state, constants of a neuron each, and weights."""
        numbers = {
            "current": drawn(steps, samples, neurons, scale=3.0),
            "potential": drawn(samples, neurons, scale=0.3, seed=1),
            "synaptic": drawn(samples, neurons, scale=0.3, seed=2),
            "decay_mem": between(0.8, 0.95, neurons, seed=3),
            "decay_syn": between(0.6, 0.9, 1, seed=4),
            "threshold": between(0.4, 0.6, neurons, seed=5),
            "weight": drawn(neurons, neurons, scale=2.0 * neurons**-0.5, seed=6),
            "bias": drawn(neurons, scale=0.3, seed=7),
        }
        unused = [] if self.exponential else ["synaptic", "decay_syn"]
        return {k: v for k, v in numbers.items() if k not in (unused if self.biased else [*unused, "bias"])}

    def run(self, run: Callable[..., Any], n: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Spikes and the final state."""
        p = LoopParameters(
            n["decay_mem"],
            n.get("decay_syn"),
            n["threshold"],
            "zero" if self.hard else "subtract",
            self.differentiable,
            self.surrogate,
        )
        state = State(n["potential"], n.get("synaptic", torch.zeros_like(n["potential"])))
        output, _, end = run(n["current"], p.dynamics, p.parts(state), n["weight"], n.get("bias"))
        return output, *end


def stepped(current: Tensor, dynamics: Dynamics, state: Tensors, weight: Tensor, bias: Tensor | None) -> Any:
    """The truth: one step of the reference after the other."""
    step, outputs = step_by_step(dynamics), list[Tensor]()
    potentials: list[Tensor] = []
    for x in current.unbind(0):
        potentials.append(state[0])
        output, state = step((x + linear(outputs[-1], weight, bias) if outputs else x,), state)
        outputs.append(output)
    return torch.stack(outputs), torch.stack(potentials), state


def with_gradients(
    case: Case, run: Callable[..., Any], numbers: dict[str, Tensor], wanted: str | None = None
) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Results, and gradients of a loss on all of them with respect to everything, or to what is wanted."""
    leaves = {k: t.clone().requires_grad_(wanted in (None, k)) for k, t in numbers.items()}
    results = case.run(run, leaves)
    loss = (results[0] * drawn(*results[0].shape, seed=9).to(results[0])).sum()
    loss = loss + sum((k * part).sin().sum() for k, part in enumerate(results[1:], 1))
    loss.backward()  # type: ignore[no-untyped-call]
    return results, {k: t.grad for k, t in leaves.items() if t.grad is not None}


def assert_same(case: Case, numbers: dict[str, Tensor], wanted: str | None = None) -> None:
    """Both ways give the same, but for sums of a few hundred terms in another order: some 1e-14 of the largest."""
    ours, our_gradients = with_gradients(case, engines.recurrent, numbers, wanted)
    unheard = {k: torch.zeros_like(g) for k, g in our_gradients.items()} if len(numbers["current"]) == 1 else {}
    theirs, heard = with_gradients(case, stepped, numbers, wanted)
    their_gradients = unheard | heard  # of a single step the truth does not use the weight
    assert torch.equal(ours[0], theirs[0])
    for mine, truth in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12)
    assert our_gradients.keys() == their_gradients.keys()
    for key, truth in their_gradients.items():
        torch.testing.assert_close(our_gradients[key], truth, rtol=0, atol=1e-12 * float(truth.abs().max()), msg=key)


CASES = [Case(*options) for options in product([True, False], [True, False], [False, True])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_plain_steps_with_all_gradients(case: Case) -> None:
    numbers = case.numbers()
    assert_same(case, numbers)
    spikes = case.run(engines.recurrent, numbers)[0]
    assert 0.05 < spikes.mean() < 0.6
    assert not torch.equal(spikes, case.run(engines.recurrent, {**numbers, "weight": 0 * numbers["weight"]})[0])


@pytest.mark.parametrize("wanted", ["current", "potential", "synaptic", "decay_syn", "threshold", "weight", "bias"])
def test_one_gradient_alone(wanted: str) -> None:
    assert_same(Case(hard=False), Case().numbers(), wanted)


@pytest.mark.parametrize("case", CASES[:5:2], ids=str)
def test_equals_plain_steps_where_the_input_alone_is_differentiated(case: Case) -> None:
    assert_same(case, case.numbers(), "current")


@pytest.mark.parametrize("surrogate", [SigmoidDerivative(), ArcTan(), SuperSpike(3.0)], ids=repr)
def test_every_surrogate(surrogate: Surrogate) -> None:
    case = Case(surrogate=surrogate, differentiable=True)
    assert_same(case, case.numbers())


@pytest.mark.parametrize("alone", [True, False], ids=["one-launch", "a-launch-a-step"])
@pytest.mark.parametrize(
    ("steps", "samples", "neurons"), [(1, 1, 1), (3, 1, 1), (1, 3, 7), (5, 17, 1), (5, 1, 64), (4, 17, 150)]
)
def test_any_size_in_one_launch_or_many(
    steps: int, samples: int, neurons: int, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_loop, "_ALONE", neurons - 1 + alone)
    case = Case(differentiable=True)
    assert_same(case, case.numbers(steps, samples, neurons))


def test_a_thousand_neurons() -> None:
    case = Case(exponential=False)
    assert_same(case, case.numbers(2, 2, 1000))


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[3], CASES[4]], ids=str)
def test_gradients_in_single_precision_are_within_1e_5_of_their_maximum(case: Case) -> None:
    single = {k: t.float() for k, t in case.numbers(12, 3, 20).items()}
    (spikes, *_), gradients = with_gradients(case, engines.recurrent, single)
    (expected, *_), truth = with_gradients(case, stepped, {k: t.double() for k, t in single.items()})
    assert torch.equal(spikes.double(), expected)
    for key, gradient in truth.items():
        assert (gradients[key].double() - gradient).abs().max() < 1e-5 * gradient.abs().max(), key


def test_final_state_alone_carries_a_gradient() -> None:
    gradients: list[Tensor] = []
    for run in (engines.recurrent, stepped):
        numbers = {**Case().numbers(), "current": Case().numbers()["current"].requires_grad_()}
        gradients += torch.autograd.grad(Case().run(run, numbers)[1].sum(), numbers["current"])
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-13)


def test_memory_in_any_order() -> None:
    numbers = Case().numbers()
    turned = {**numbers, "weight": numbers["weight"].T.contiguous().T}
    turned["current"] = numbers["current"].transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned["current"].is_contiguous()
    assert_same(Case(), turned)
    assert torch.equal(Case().run(engines.recurrent, turned)[0], Case().run(engines.recurrent, numbers)[0])


def kept(case: Case, *wanted: str) -> int:
    """How many numbers for each neuron, sample and step are kept for backward."""
    numbers, sizes = {k: t.requires_grad_(k in wanted) for k, t in case.numbers(12).items()}, list[int]()

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        case.run(engines.recurrent, numbers)
    return sum(sizes) // numbers["current"].numel()


def test_backward_keeps_no_more_than_it_needs() -> None:
    assert kept(Case()) == 0
    assert kept(Case(), "current") == 1
    assert kept(Case(), "current", "weight") == 2
    assert kept(Case(), "weight", "decay_mem") == 3
    assert kept(Case(exponential=False), "weight", "decay_mem") == 2
    assert kept(Case(exponential=False, differentiable=True), "current") == 2


def test_second_derivatives_are_refused() -> None:
    numbers = {k: t.requires_grad_() for k, t in Case().numbers().items()}
    spikes = Case().run(engines.recurrent, numbers)[0]
    (gradient,) = torch.autograd.grad(spikes.sum(), numbers["current"], create_graph=True)
    with pytest.raises(RuntimeError, match=r"recurrent loop can be differentiated only once.*engine\('reference'\)"):
        gradient.square().sum().backward()  # type: ignore[no-untyped-call]


def recurrent(cell: nn.Module | None = None, n: int = 12) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(LIF() if cell is None else cell, nn.Linear(n, n))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the currents that the gpu engine integrates."""
    seen: list[torch.Size] = []

    def spy(current: Tensor, *others: Any) -> Any:
        seen.append(current.shape)
        return run(current, *others)

    run = engines.recurrent
    monkeypatch.setattr(fusion, "recurrent", spy)
    return seen


CELLS: dict[str, Callable[[], nn.Module]] = {
    "lif": LIF,
    "delta": lambda: LIF(20e-3, None),
    "soft reset": lambda: LIF(reset="subtract"),
    "learnt": lambda: LIF(learn_tau=True),
    "adaptive": lambda: AdaptiveLIF(beta=5.0, learn_tau=True, learn_adaptation=True),
    "adaptive by a current": lambda: AdaptiveLIF(beta=5.0, kind="current", coupling=0.3),
    "two synapses": ExcInhLIF,
    "many constants": lambda: LIF(torch.linspace(10e-3, 30e-3, 12), threshold=torch.linspace(0.8, 1.2, 12)),
}


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_layers_run_on_it(name: str, runs: list[torch.Size]) -> None:
    layer, current = recurrent(CELLS[name]()).double(), drawn(30, 2, 12, scale=5.0).requires_grad_()
    results = []
    for served in ("gpu", "reference"):
        with engine(served):
            output = layer(current)
        gradients = torch.autograd.grad((output * drawn(30, 2, 12)).sum(), [current, *layer.parameters()])
        results.append((output, *gradients))
    assert runs == [current.shape]
    assert torch.equal(results[0][0], results[1][0])
    assert 0.02 < results[0][0].mean() < 0.6
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12 * float(truth.detach().abs().max()))


@pytest.mark.parametrize(
    "of",
    pairs(
        launch=["one", "one a step"],
        options=[{}, {"learn_tau": True, "reset": "subtract"}, {"recurrent_excitation": False}],
        sizes=[(12, 5), (70, 30), (1, 1)],
    ),
    ids=named,
)
def test_a_dale_layer_runs_on_it(of: dict[str, Any], runs: list[torch.Size], monkeypatch: pytest.MonkeyPatch) -> None:
    options, sizes, alone = of["options"], of["sizes"], of["launch"] == "one"
    monkeypatch.setattr(gpu_loop, "_ALONE", sum(sizes) - 1 + alone)
    torch.manual_seed(0)
    layer = DaleLayer(9, *sizes, **options).double()
    with torch.no_grad():
        for weight in layer.parameters():
            weight.mul_(3.0 if weight.ndim == 2 else 1.0)
    x = (between(0, 1, 12, 3, 9, seed=5) < 0.4).double().requires_grad_()
    results = []
    for served in ("gpu", "reference"):
        with engine(served):
            output = layer(x)
        direction = drawn(*output.shape)
        results.append((output, *torch.autograd.grad((output * direction).sum(), [x, *layer.parameters()])))
    assert runs == [(12, 3, sum(sizes))]
    assert torch.equal(results[0][0], results[1][0])
    assert 0.02 < results[0][0].mean() < 0.6
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12 * float(truth.detach().abs().max()))


MAPS: dict[str, tuple[nn.Conv1d | nn.Conv2d, tuple[int, ...]]] = {
    "a line": (nn.Conv1d(3, 3, 5, padding=2, bias=False), (11,)),
    "a plane": (nn.Conv2d(4, 4, 3, padding=1, bias=False), (5, 7)),
    "more channels than a tile has": (nn.Conv2d(19, 19, (1, 3), padding=(0, 1), bias=False), (2, 3)),
}


@pytest.mark.parametrize(
    ("cell", "name", "steps"),
    [
        tuple(row.values())
        for row in pairs(
            cell=["lif", "learnt", "adaptive by a current", "two synapses"], name=list(MAPS), steps=[9, 1, 2]
        )
    ],
)
def test_maps_that_hear_themselves_run_on_it(cell: str, name: str, steps: int, runs: list[torch.Size]) -> None:
    conv, frame = MAPS[name]
    with torch.no_grad():
        conv.double().weight.copy_(drawn(*conv.weight.shape, scale=6.0 / conv.weight[0].numel() ** 0.5, seed=7))
    layer = Recurrent(CELLS[cell](), conv).double()
    current = drawn(steps, 3, conv.in_channels, *frame, scale=6.0).requires_grad_()
    results = []
    for served in ("gpu", "reference"):
        with engine(served):
            output = layer(current)
        inputs = [current, *layer.parameters()]
        loss = (output * drawn(*output.shape, seed=9)).sum() + sum(0 * each.sum() for each in inputs)
        results.append((output, *torch.autograd.grad(loss, inputs)))
    assert runs == [current.shape]
    assert torch.equal(results[0][0], results[1][0])
    assert steps < 15 or 0.02 < results[0][0].mean() < 0.7
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12 * max(1e-3, float(truth.detach().abs().max())))


def test_every_place_of_a_map_may_have_constants_of_its_own(runs: list[torch.Size]) -> None:
    conv, frame = MAPS["a plane"]
    tau = torch.linspace(5e-3, 30e-3, 4 * 35).reshape(4, *frame)
    layer, current = Recurrent(LIF(tau, learn_tau=True), conv.double()).double(), drawn(12, 2, 4, *frame, scale=6.0)
    results = []
    for served in ("gpu", "reference"):
        with engine(served):
            output = layer(current)
        results.append((output, *torch.autograd.grad(output.square().sum(), list(layer.parameters()))))
    assert runs == [current.shape]
    for mine, truth in zip(*results, strict=True):
        torch.testing.assert_close(mine, truth, rtol=0, atol=1e-12 * float(truth.detach().abs().max()))


def hooked() -> Recurrent:
    layer = recurrent()
    layer.weight.register_forward_hook(lambda module, args, output: None)
    return layer


class Averaged(SuperSpike):
    """No function of one neuron."""

    def derivative(self, x: Tensor) -> Tensor:
        return super().derivative(x) / x.mean()


@pytest.mark.parametrize(
    "layer",
    [hooked, lambda: recurrent(LIF(surrogate=Averaged()))],
    ids=["a hook on the weight", "a surrogate that cannot be traced"],
)
def test_what_it_does_not_know_goes_step_by_step(layer: Callable[[], Recurrent], runs: list[torch.Size]) -> None:
    current, circuit = drawn(20, 2, 12, scale=5.0).float(), layer()
    with engine("gpu"):
        output = circuit(current)
    with engine("reference"):
        assert torch.equal(circuit(current), output)
    assert output.any()
    assert runs == []


def test_a_transformed_current_goes_step_by_step(runs: list[torch.Size]) -> None:
    layer, current = recurrent(), drawn(20, 2, 12, scale=5.0).float()
    with engine("gpu"):
        torch.func.grad(lambda x: layer(x).sum())(current)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer(current)
    with engine("gpu"):
        layer.to("meta")(current.to("meta"))
        layer.to_empty(device="cpu").bfloat16()(current.bfloat16())
    assert runs == []


def test_a_weight_of_another_size_is_named() -> None:
    layer = Recurrent(LIF(), nn.Linear(12, 11))
    with engine("gpu"), pytest.raises(ValueError, match="give it as many outputs as there are neurons"):
        layer(drawn(20, 2, 12).float())


@pytest.fixture(scope="module", autouse=True)
def _compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Triton's cache in a folder of its own."""
    with compiling(str(tmp_path_factory.mktemp("triton"))):
        yield


@pytest.mark.parametrize(("dtype", "size"), [("fp32", "i32"), ("fp32", "1"), ("fp64", "i64")])
def test_a_gpu_can_run_it_and_waits_between_two_steps(dtype: str, size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    tiles: dict[Heard, dict[str, object]] = {
        "one input": {"SAMPLES": gpu_loop._SAMPLES, "NEURONS": gpu_loop._NEURONS},
        "two inputs": {"SAMPLES": gpu_loop._SAMPLES, "NEURONS": gpu_loop._NEURONS},
        "a map": {"SAMPLES": gpu_loop._PLACES, "NEURONS": gpu_loop._CHANNELS},
    }
    a, b, theta = (torch.tensor(value, requires_grad=True) for value in (0.9, 0.8, 0.5))
    dynamics = LoopParameters(a, b, theta, differentiable_reset=True).dynamics
    two = ExcInhLIF(learn_tau=True, differentiable_reset=True).dynamics()
    name = {"fp32": "float32", "fp64": "float64"}[dtype]
    for heard, tile in tiles.items():
        forward, backward = compilable(two if heard == "two inputs" else dynamics, name, heard)
        for kernel, biased in ((forward, True), (backward, False)):
            code = machine_code(kernel, dtype, {"BIASED": biased, **tile}, size, gpu_loop._WARPS)
            assert code["cubin"]
            assert "barrier" in code["ttir"]
            assert (dtype, size) != ("fp32", "i32") or code["sass"].count("STL") < 8, f"registers are spilled: {heard}"
            assert "tf32" not in code["ptx"], "a product is rounded to ten bits"
