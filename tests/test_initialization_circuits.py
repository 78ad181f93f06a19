"""Recurrent and Dale networks reach a state that reproduces itself, on real recordings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.data.module import SpikeDataModule
from fluctua.initialization.root import find_root
from fluctua.layers import DaleLayer, Recurrent
from fluctua.neurons import LIF
from fluctua.theory import Drive, PspKernel, membrane_moments
from fluctua.wiring import Population, free_potential, trace


def recordings(data_dir: Path) -> tuple[Tensor, Tensor]:
    """To initialise on, and others to look at."""
    data = SpikeDataModule.from_shd_files(data_dir / "fsdd_train.h5", duration=0.5, seed=0)
    return data.batch(24)[0], data.batch(24, "val")[0]


def poisson(*shape: int, p: float = 0.05) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(0)) < p).float()


def rnn(n_in: int = 700, n: int = 128) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(n_in, n, bias=False), Recurrent(LIF(), nn.Linear(n, n, bias=False)))


def parts(population: Population, model: nn.Module, x: Tensor) -> dict[str, float]:
    """Variance of what each pathway alone adds to the free potential, with the spikes of the whole network."""
    heard: dict[str, Tensor] = {}
    fired: dict[str, Tensor] = {}
    populations = {p.name: p for p in trace(model, x)}
    handles = [
        p.emitter.register_forward_hook(lambda m, args, out, name=name: fired.update({name: out.detach()}))
        for name, p in populations.items()
    ]
    handles += [
        q.synapse.register_forward_hook(lambda m, args, out, name=q.name: heard.update({name: out.detach()}))
        for q in population.pathways
        if not q.recurrent
    ]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    found = {}
    for q in population.pathways:
        with torch.no_grad():
            current = heard[q.name] if q.inner is None else q.inner(fired[q.sources[0]])
        found[q.name] = float(free_potential(current, population.neuron.kernels[q.port]).var())
    return found


@pytest.mark.parametrize(("xi", "alpha"), [(1.0, 0.9), (2.0, 0.9), (1.0, 0.5)])
def test_recurrence_on_recordings(data_dir: Path, xi: float, alpha: float) -> None:
    x, others = recordings(data_dir)
    model = rnn()
    fluctua.initialize(model, x, Target(xi=xi), alpha=alpha, seed=0)
    for batch, slack in ((x, 1), (others, 2)):
        (state,) = fluctua.inspect(model, batch)
        assert state.mu_u == pytest.approx(0.0, abs=0.05 * slack)
        assert state.sigma_u == pytest.approx(1 / xi, rel=0.1 * slack)
        assert state.silent is not None
        assert state.silent <= 0.01 * slack
    variances = parts(trace(model, x)[0], model, x)
    assert variances["0.weight"] / sum(variances.values()) == pytest.approx(alpha, abs=0.05)


@pytest.mark.parametrize("mean", [0.0, 0.3])
def test_dales_law_on_recordings(data_dir: Path, mean: float) -> None:
    x, others = recordings(data_dir)
    torch.manual_seed(0)
    model = DaleLayer(700, 128, 32)
    fluctua.initialize(model, x, Target(mean=mean), seed=0)
    for batch, slack in ((x, 1), (others, 2)):
        for state in fluctua.inspect(model, batch):
            assert state.mu_u == pytest.approx(mean, abs=0.1 * slack)
            assert state.sigma_u == pytest.approx(1 - mean, rel=0.15 * slack)
            assert state.silent is not None
            assert state.silent <= 0.01 * slack
    for population, (outer, inner) in zip(
        trace(model, x),
        (("input_exc.weight", "circuit.exc_exc.weight"), ("input_inh.weight", "circuit.exc_inh.weight")),
        strict=True,
    ):
        variances = parts(population, model, x)
        assert variances[outer] / (variances[outer] + variances[inner]) == pytest.approx(0.9, abs=0.05)


def test_a_rate_is_met_by_a_recurrent_population() -> None:
    model, x = rnn(40, 64), poisson(250, 16, 40)
    report = fluctua.initialize(model, x, Target(rate=8.0), seed=0)
    assert report[0].rate == pytest.approx(8.0, rel=0.1)


def test_same_seed_same_weights() -> None:
    models, x = [rnn(40, 32) for _ in range(2)], poisson(200, 8, 40)
    for model in models:
        fluctua.initialize(model, x, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_frozen_recurrence_is_left_alone() -> None:
    model, x = rnn(40, 64), poisson(250, 16, 40)
    (inner,) = [p for name, p in model.named_parameters() if name == "1.weight.weight"]
    inner.requires_grad_(False).mul_(0.5)
    before = inner.clone()
    report = fluctua.initialize(model, x, seed=0)
    assert torch.equal(inner, before)
    assert any("1.weight.weight was left alone: frozen" in note for note in report.notes)
    assert report[0].sigma_u == pytest.approx(1.0, rel=0.1)


def test_a_state_that_does_not_exist_is_refused_and_leaves_the_model_usable() -> None:
    model, x = rnn(40, 32), poisson(60, 4, 40, p=0.02)
    with pytest.raises(ValueError, match=r"found no state that reproduces itself|no spike reaches"):
        fluctua.initialize(model, x, Target(xi=3.5), alpha=0.001, seed=0)
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    model(x).sum().backward()


def test_excitation_alone_has_no_choice_of_its_mean() -> None:
    from fluctua.layers import SignedLinear

    model = nn.Sequential(SignedLinear(40, 32), LIF())
    with pytest.raises(fluctua.theory.InfeasibleTargetError, match="their variance fixes their mean"):
        fluctua.initialize(model, poisson(200, 8, 40), seed=0)


def test_the_papers_formula_on_a_dale_layer_is_that_of_the_solver() -> None:
    model, nu = DaleLayer(700, 128, 32), 15.8
    fluctua.initialize(model, poisson(60, 4, 700, p=0.03), method="poisson", nu=nu, seed=0)
    exc, inh = PspKernel.exponential(20e-3, 10e-3, 2e-3), PspKernel.exponential(20e-3, 20e-3, 2e-3).scaled(-1)
    circuit = model.circuit
    assert circuit.exc_exc is not None
    weights = [model.input_exc.weight, circuit.exc_exc.weight, circuit.inh_exc.weight]
    drives = [Drive.poisson(w.shape[1], nu, k) for w, k in zip(weights, (exc, exc, inh), strict=True)]
    moments = membrane_moments(
        drives, [float(w.detach().mean()) for w in weights], [float(w.detach().square().mean()) for w in weights]
    )
    # The law's numbers are exact (tests of theory); what is drawn has their sampling error: 4096 exponential weights.
    assert float(moments.mu_u) == pytest.approx(0.0, abs=0.15)
    assert float(moments.sigma_u) == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("start", [0.0, 0.4, -0.7])
def test_the_root_of_a_curved_function_is_found(start: float) -> None:
    def measure(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([np.expm1(x[0]) + 0.5 * x[1], np.tanh(x[1]) - 0.3 * x[0] + 0.1])

    calls = 0

    def counted(x: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        nonlocal calls
        calls += 1
        return measure(x)

    x, size = find_root(counted, np.array([start, start]), enough=1e-3, calls=30)
    assert size <= 1e-3
    assert np.abs(measure(x)).max() == pytest.approx(size)
    assert calls <= 30


def test_where_there_is_no_root_the_best_point_is_honest() -> None:
    x, size = find_root(lambda x: 1 + x**2, np.array([0.5]), enough=1e-3, calls=20)
    assert size == pytest.approx(float(1 + x[0] ** 2))
    assert size < 1.1
