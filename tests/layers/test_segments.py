"""A long sequence in segments: the same spikes and gradients, in the memory of one segment."""

import gc
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fluctua
from fluctua.layers import FusedSequential, OverTime, Recurrent, ResidualBlock
from fluctua.layers.blocks import OneToOne
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.neurons.current_based import CurrentBased
from fluctua.timeloop import cpu_loop, engine
from shared.circuit_networks import CASES, made
from shared.pairs import mostly
from shared.spikes import spikes

DT = 1e-3


class TwoPorts(nn.Module):
    """One weight each for excitation and inhibition."""

    def __init__(self) -> None:
        super().__init__()
        self.exc, self.inh, self.neurons = nn.Linear(12, 9), nn.Linear(12, 9), ExcInhLIF(dt=DT)

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.exc(x), self.inh(x))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One population that two pathways pass through, each on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.neurons = nn.Linear(12, 9), nn.Linear(9, 9), LIF(dt=DT)

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.second(self.neurons(self.first(x))))  # type: ignore[no-any-return]


def dense(neuron: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 9), neuron(), nn.Dropout(0.2), nn.Linear(9, 4), LI(dt=DT, initial=0.3))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: dense(lambda: LIF(dt=DT, learn_tau=True)),
    "delta synapse": lambda: dense(lambda: LIF(tau_syn=None, dt=DT, reset="subtract")),
    "adaptive": lambda: dense(lambda: AdaptiveLIF(dt=DT, learn_adaptation=True)),
    "exc inh": lambda: nn.Sequential(TwoPorts(), nn.Linear(9, 4), LI(dt=DT)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(2, (1, 12)), OverTime(nn.Conv1d(1, 2, 3)), LIF(dt=DT), nn.Flatten(2), nn.Linear(20, 4), LI(dt=DT)
    ),
    "a neuron alone": lambda: LIF(dt=DT),
    "current-based": lambda: dense(lambda: CurrentBased(0.9, 0.3, DT, decay_syn=0.8, threshold=1.0)),
    "one neuron twice": Twice,
    "fused": lambda: FusedSequential(
        nn.Linear(12, 9), Recurrent(LIF(dt=DT), nn.Linear(9, 9)), nn.Linear(9, 4), LI(dt=DT)
    ),
    "residual": lambda: nn.Sequential(
        nn.Linear(12, 9), LIF(dt=DT), ResidualBlock(nn.Sequential(nn.Linear(9, 9), LIF(dt=DT), nn.Linear(9, 9)),
                                                    OneToOne(9), LIF(dt=DT))
    ),
}  # fmt: skip


def trains(steps: int, samples: int = 3) -> Tensor:
    return spikes(steps, samples, 12, p=0.3, dtype=torch.float64)


def strong(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make().double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim > 1:
                p.mul_(8.0)
    return model


def weights_of(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)


def test_backward_takes_the_engine_of_forward() -> None:
    model, x = strong(MODELS["one neuron twice"]), trains(40)
    with engine("reference"):
        out = fluctua.layers.in_segments(model, x, 7)
    out.sum().backward()  # type: ignore[no-untyped-call]
    mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(x).sum().backward()
    for own, p in zip(mine, model.parameters(), strict=True):
        torch.testing.assert_close(own, p.grad)


def test_threads_on_one_model_get_what_each_would_alone() -> None:
    model, inputs = strong(MODELS["one neuron twice"]), [trains(40) for _ in range(4)]
    truth, before = [model(x).detach() for x in inputs], sys.getswitchinterval()
    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda x: fluctua.layers.in_segments(model, x, 5).detach(), inputs * 5))
    finally:
        sys.setswitchinterval(before)
    for mine, theirs in zip(found, truth * 5, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("length", [1, 7, 40, 100])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_output_and_gradients_are_those_of_the_whole(name: str, length: int) -> None:
    assert_same(strong(MODELS[name]), trains(40), length)


@pytest.mark.parametrize("length", [1, 7, 25])
@pytest.mark.parametrize("name", sorted(CASES))
def test_circuits_go_on_from_where_they_ended(name: str, length: int) -> None:
    model, x = made(name)
    assert_same(model.eval(), x[:40], length)  # eval: no dropout, and norms that do not depend on the segment


def test_a_circuit_hears_its_last_spikes_over_the_border() -> None:
    """So that the law above is none of states alone."""
    torch.manual_seed(0)
    weight = nn.Linear(12, 12)
    nn.init.normal_(weight.weight)
    layer, x = Recurrent(LIF(tau_syn=None, dt=DT), weight).double(), trains(40)
    _, before = layer.proceed(x[:20])
    assert bool(before.spikes["cell"].any())
    deaf = before._replace(spikes={"cell": torch.zeros_like(before.spikes["cell"])})
    assert not torch.equal(layer.proceed(x[20:], state=before)[0]["cell"], layer.proceed(x[20:], state=deaf)[0]["cell"])


def assert_same(model: nn.Module, x: Tensor, length: int) -> None:
    """Output and gradients are those of the whole sequence."""
    found = []
    for run in (model, lambda x: fluctua.layers.in_segments(model, x, length)):
        model.zero_grad()
        x = x.detach().requires_grad_()
        out = run(x)
        (out * weights_of(out)).sum().backward()
        gradients = [tensor.grad for tensor in (x, *model.parameters())]
        found.append([out, *(g for g in gradients if g is not None)])
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=0, atol=1e-11 * float(whole.detach().abs().max()))
    assert bool((found[0][0] != 0).any())


def test_dropout_has_one_mask_in_forward_and_backward() -> None:
    model, x = strong(MODELS["lif"]).train(), trains(40).requires_grad_()
    torch.manual_seed(3)
    out = fluctua.layers.in_segments(model, x, 10)
    with torch.no_grad():
        torch.manual_seed(3)
        assert torch.equal(fluctua.layers.in_segments(model, x, 10), out)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert bool(gradient.isfinite().all())


def test_truncated_gradients_do_not_reach_into_the_segment_before() -> None:
    model, x = strong(MODELS["lif"]), trains(40).requires_grad_()
    for truncate in (False, True):
        out = fluctua.layers.in_segments(model, x, 10, truncate=truncate)
        (gradient,) = torch.autograd.grad(out[10:20].sum(), x)
        assert bool(gradient[:10].any()) is not truncate
        assert bool(gradient[10:20].any())


def test_a_long_sequence_keeps_nothing_of_its_loops_until_backward_computes_them_again() -> None:
    model, x = strong(MODELS["lif"]).float(), trains(4000, 8).float()

    def lent(run: Callable[[], Tensor]) -> int:
        """Bytes of the loops' memory that live between forward and backward."""
        gc.collect()
        before = cpu_loop.pool.lent
        with engine("cpu"):
            out = run()
        held = cpu_loop.pool.lent - before
        out.sum().backward()  # type: ignore[no-untyped-call]
        return held

    whole, cut = lent(lambda: model(x)), lent(lambda: fluctua.layers.in_segments(model, x, 100))
    potentials = 4 * 4000 * 8 * (9 + 4)
    assert whole >= potentials
    assert cut < 0.1 * potentials


class Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of all tensors made inside the block that are still alive, but for views of `given`."""

    def __init__(self, given: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.given = given.untyped_storage()._cdata
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self.made[storage._cdata] = StorageWeakRef(storage), storage.nbytes()  # type: ignore[no-untyped-call]
        return results

    def alive(self) -> int:
        gc.collect()
        self.made.pop(self.given)
        return sum(size for storage, size in self.made.values() if not storage.expired())  # type: ignore


@pytest.mark.parametrize("name", mostly(["Dale", "recurrent", "a residual net"], "recurrent"))
def test_a_circuit_keeps_but_its_states_until_backward_steps_through_it_again(name: str) -> None:
    model, x = made(name)
    x = x[:, :1].repeat(4, 64, 1)  # enough samples for the states of random generators not to count
    held = []
    for run in (model, lambda x: fluctua.layers.in_segments(model, x, 24)):
        with Storages(x) as storages:
            out = run(x)
            held.append(storages.alive() - out.untyped_storage().nbytes())
        out.sum().backward()
    whole, cut = held
    # Per neuron: four numbers or less at each of ten borders, against ten or more at each of 240 steps.
    assert cut < 0.1 * whole


@pytest.mark.parametrize("name", ["lif", "fused"])
def test_a_model_is_left_as_it_was(name: str) -> None:
    model = strong(MODELS[name])
    fluctua.layers.in_segments(model, trains(20), 7)
    assert all("forward" not in vars(module) for module in model.modules())
    with pytest.raises(RuntimeError):
        fluctua.layers.in_segments(model, trains(20)[..., :5], 7)
    assert all("forward" not in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("model", "length", "message"),
    [
        (nn.Sequential(nn.Linear(12, 4), LIF()), 0, "1 step or more, got 0"),
        (nn.Sequential(OverTime(nn.BatchNorm1d(12)), LIF()), 5, r"statistics over the whole sequence.*eval"),
    ],
    ids=["length", "norm"],
)
def test_what_cannot_be_cut_is_refused(model: nn.Module, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fluctua.layers.in_segments(model, trains(10).float(), length)
