"""A `FusedSequential` is an `nn.Sequential`, whatever is in it and whatever is done with it."""

import contextlib
import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fluctua
from fluctua.lab.data import Events, bin_events, spike_batch
from fluctua.layers import DaleLayer, FusedSequential, OverTime, Recurrent
from fluctua.neurons import LI, LIF
from fluctua.spikes.batch import SpikeBatch
from fluctua.timeloop import engine
from shared.fused_calls import fused_calls
from shared.spikes import spikes as random_spikes

DTYPE = torch.float64


spikes = partial(random_spikes, p=0.2, dtype=DTYPE)


def layers(n_in: int = 30) -> list[Any]:
    """Feed-forward, recurrent and a readout, with weights large enough for spikes."""
    torch.manual_seed(0)
    modules = [
        nn.Linear(n_in, 24),
        LIF(),
        nn.Linear(24, 20, bias=False),
        Recurrent(LIF(reset="subtract"), nn.Linear(20, 20)),
        nn.Linear(20, 6),
        LI(0.05, initial=-1e-3),
    ]
    with torch.no_grad():
        for module in modules:
            for p in module.parameters():
                p.mul_(6)
    return [module.double() for module in modules]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many layers each fused operation had that ran."""
    return fused_calls(monkeypatch)


def assert_same(chain: nn.Module, plain: nn.Module, x: Tensor) -> None:
    """Output and all gradients are those of the plain network on the reference engine."""
    x = x.detach().requires_grad_()
    with engine("reference"):
        truth = plain(x)
    ours = chain(x)
    torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12 * float(truth.detach().abs().max()))
    assert truth.detach().abs().max() > 0
    upstream = torch.randn(truth.shape, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    mine = torch.autograd.grad(ours, [x, *chain.parameters()], upstream, allow_unused=True)
    true = torch.autograd.grad(truth, [x, *plain.parameters()], upstream, allow_unused=True)
    for got, expected in zip(mine, true, strict=True):
        assert (got is None) == (expected is None)
        if got is not None and expected is not None:
            assert float((got - expected).abs().max()) <= 1e-9 * float(expected.abs().max())


def test_all_layers_run_as_one_and_give_what_a_sequential_gives(fused: list[int]) -> None:
    modules = layers()
    assert_same(FusedSequential(*modules), nn.Sequential(*modules), spikes(40, 3, 30))
    assert fused == [3]


def test_a_chain_is_a_sequential_to_whoever_saves_copies_or_slices_it() -> None:
    chain, other = FusedSequential(*layers()), nn.Sequential(*layers())
    assert list(chain.state_dict()) == list(other.state_dict())
    chain.load_state_dict(other.state_dict())
    x = spikes(30, 2, 30)
    for twin in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        assert torch.equal(twin(x), chain(x))
    assert isinstance(chain[:2], FusedSequential)
    assert torch.equal(chain[:2](x), other[:2](x))
    assert torch.equal(chain[2:](chain[:2](x)), chain(x))


def test_dense_input_is_multiplied_and_the_spikes_behind_it_are_not(fused: list[int]) -> None:
    modules = layers()
    assert_same(FusedSequential(*modules), nn.Sequential(*modules), torch.rand(30, 3, 30, dtype=DTYPE))
    assert fused == [2]


def test_a_spike_batch_gives_what_the_dense_tensor_gives(fused: list[int]) -> None:
    chain, x = FusedSequential(*layers()), spikes(30, 3, 30)
    batch = SpikeBatch.from_dense(x)
    assert batch is not None
    out = chain(batch)
    assert torch.equal(out, chain(x))
    assert fused == [3, 3]
    out.sum().backward()
    assert all(p.grad is not None for p in chain.parameters())
    assert torch.equal(FusedSequential(nn.Flatten(0, 1))(batch), x.float().flatten(0, 1)), (
        "what cannot be fused gets it dense"
    )


class OwnLIF(LIF):
    pass


Alter = Callable[[list[Any]], object]

ALTERATIONS: dict[str, tuple[Alter, list[int]]] = {
    "hook on a weight": (lambda m: m[0].register_forward_hook(lambda *_: None), [2]),
    "hook on neurons": (lambda m: m[1].register_forward_pre_hook(lambda *_: None), [2]),
    "backward hook": (lambda m: m[1].register_full_backward_hook(lambda *_: None), [2]),
    "hook inside the recurrence": (lambda m: m[3].weight.register_forward_hook(lambda *_: None), [1, 1]),
    "hook on the recurrence": (lambda m: m[3].register_forward_hook(lambda *_: None), [1, 1, 1]),
    "hook on a tap": (lambda m: m[3].spikes["cell"].register_forward_hook(lambda *_: None), [1, 1, 1]),
    "hook on the readout": (lambda m: m[5].register_forward_hook(lambda *_: None), [2]),
    "parametrised weight": (lambda m: parametrizations.weight_norm(m[2]), [1, 1, 1]),
    "neurons of one's own": (lambda m: m.__setitem__(1, OwnLIF().double()), [2]),
    "a module in between": (lambda m: m.insert(2, nn.Identity()), [1, 2]),
    "dropout of nothing": (lambda m: m.insert(2, nn.Dropout(0.0)), [1, 2]),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_what_cannot_be_fused_runs_as_it_stands(name: str, fused: list[int]) -> None:
    alter, expected = ALTERATIONS[name]
    modules = layers()
    alter(modules)
    FusedSequential(*modules)(spikes(30, 2, 30))
    assert fused == expected
    assert_same(FusedSequential(*modules), nn.Sequential(*modules), spikes(30, 2, 30))


def test_a_hook_sees_what_it_would_see_in_a_sequential() -> None:
    modules, x = layers(), spikes(30, 2, 30)
    seen: list[tuple[Tensor, Tensor]] = []
    handle = modules[1].register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    FusedSequential(*modules)(x)
    handle.remove()
    current = modules[0](x)
    torch.testing.assert_close(seen[0][0], current, rtol=0, atol=0)
    assert torch.equal(seen[0][1], modules[1](current))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_as_it_stands(dtype: torch.dtype, fused: list[int]) -> None:
    modules = [module.to(dtype) for module in layers()]
    x = spikes(20, 2, 30, dtype=dtype)
    assert torch.equal(FusedSequential(*modules)(x), nn.Sequential(*modules)(x))
    assert fused == []


def test_transformations_and_other_engines_run_the_modules_as_they_stand(fused: list[int]) -> None:
    chain, x = FusedSequential(*layers()), spikes(20, 2, 30)
    with engine("reference"):
        truth = chain(x)
    with torch.autocast("cpu", enabled=True):
        chain(x)
    weights = dict(chain.named_parameters())
    total, gradients = torch.func.grad_and_value(lambda w: torch.func.functional_call(chain, w, (x,)).sum())(weights)[
        ::-1
    ]
    assert fused == []
    torch.testing.assert_close(total, truth.sum())
    truth.sum().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(gradients[name], weight.grad)


def test_an_input_that_does_not_fit_is_refused_as_ever() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        FusedSequential(*layers())(spikes(5, 2, 29))


def test_an_empty_batch_goes_through() -> None:
    assert FusedSequential(*layers())(spikes(5, 0, 30)).shape == (5, 0, 6)


def test_gradients_are_off_where_torch_says_so() -> None:
    chain, x = FusedSequential(*layers()), spikes(20, 2, 30)
    with torch.no_grad():
        out = chain(x)
    assert not out.requires_grad
    assert torch.equal(out, chain(x))
    with torch.inference_mode():
        assert torch.equal(chain(x), out)


def test_other_layers_may_be_part_of_a_chain(fused: list[int]) -> None:
    torch.manual_seed(0)
    modules: list[Any] = [
        DaleLayer(30, 16).double(),
        nn.Linear(16, 8).double(),
        LIF().double(),
        OverTime(nn.LayerNorm(8)).double(),
    ]
    with torch.no_grad():
        for p in modules[0].parameters():
            p.mul_(8)
        modules[1].weight.mul_(8)
    assert_same(FusedSequential(*modules), nn.Sequential(*modules), spikes(40, 3, 30))
    assert fused == [1, 1]


def test_initialising_a_chain_gives_the_weights_of_a_sequential() -> None:
    x = spikes(60, 8, 30, dtype=torch.float32)
    modules = [module.float() for module in layers()]
    chain, plain = FusedSequential(*copy.deepcopy(modules)), nn.Sequential(*copy.deepcopy(modules))
    reports = [fluctua.initialize(model, x, seed=0) for model in (chain, plain)]
    for mine, theirs in zip(chain.parameters(), plain.parameters(), strict=True):
        # Sums over spikes are rounded in another order than a product with a matrix.
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert str(reports[0]).splitlines()[0] == str(reports[1]).splitlines()[0]


# -- events of a data set ------------------------------------------------------------------------------------------


def samples_of_events(n: int = 3) -> list[Events]:
    rng = np.random.default_rng(0)
    return [Events(rng.random(400).astype(np.float32) * 0.1, rng.integers(0, 70, 400)) for _ in range(n)]


@pytest.mark.parametrize(("pool", "duration"), [(1, 0.1), (3, 0.1), (2, 0.051)])
def test_events_become_the_spikes_of_a_dense_batch(pool: int, duration: float) -> None:
    settings = {"n_units": 70, "dt": 2e-3, "duration": duration, "pool": pool}
    expected = bin_events(samples_of_events(), **settings)  # type: ignore[arg-type]
    batch = spike_batch(samples_of_events(), **settings)  # type: ignore[arg-type]
    assert torch.equal(batch.dense(), expected)
    torch.manual_seed(0)
    chain = FusedSequential(nn.Linear(expected.shape[2], 5), LI(0.1))
    torch.testing.assert_close(chain(batch), chain(expected))


def test_events_that_cannot_be_binned_are_refused() -> None:
    with pytest.raises(ValueError, match="samples is empty"):
        spike_batch([], n_units=70, dt=2e-3, duration=0.1)
    with pytest.raises(ValueError, match="raise n_units, now 7"):
        spike_batch(samples_of_events(), n_units=7, dt=2e-3, duration=0.1)


LOGGED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "hook": (lambda: _hooked(FusedSequential(*layers())), "Linear and LIF: not fused, since LIF has a hook"),
    "subclass": (lambda: FusedSequential(nn.Linear(30, 4), OwnLIF()).double(), "since OwnLIF is none of LIF"),
    "type": (lambda: FusedSequential(nn.Linear(30, 4), LIF()), "a tensor is torch.float32 on cpu, not torch.float64"),
    "recurrence": (lambda: nn.Sequential(Recurrent(LIF(), nn.GRUCell(30, 30))).double(), "Recurrent(LIF): not fused"),
    "convolution": (
        lambda: nn.Sequential(nn.Unflatten(2, (1, 30)), OverTime(nn.Conv1d(1, 2, 3, dilation=2)).double()),
        "OverTime(Conv1d): not fused, since the convolution is not a plain window",
    ),
}


def _hooked(model: nn.Sequential) -> nn.Sequential:
    model[1].register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("name", LOGGED)
def test_the_log_says_why_modules_run_as_they_stand(name: str, caplog: pytest.LogCaptureFixture) -> None:
    make, reason = LOGGED[name]
    caplog.set_level("INFO", "fluctua.layers")
    with contextlib.suppress(RuntimeError, TypeError):  # where that is not what torch can do
        make()(spikes(9, 2, 30))
    assert reason in caplog.text


def test_what_is_fused_is_not_worth_a_word(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    FusedSequential(*layers())(spikes(9, 2, 30))
    assert "not fused" not in caplog.text
