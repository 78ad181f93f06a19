"""Recurrent and Dale networks are brought to a state that reproduces itself."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua import Target
from fluctua.lab.data.module import SpikeDataModule
from fluctua.lab.networks.blocks import recurrent_conv_block
from fluctua.layers import DaleLayer, Recurrent
from fluctua.layers.dale import SignedLinear
from fluctua.methods import Measured, Poisson
from fluctua.methods.circuits import NoFixedPointError
from fluctua.methods.components import SilentInputError
from fluctua.methods.weights import draw
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.theory import Afferent, Drive, InfeasibleTargetError, PspKernel, solve
from fluctua.theory.laws import Exponential, LogNormal, Normal, OneSided
from shared.circuit_loops import potential_parts
from shared.pairs import mostly
from shared.spikes import spikes

DT = 2e-3


def rnn(n_in: int = 40, n: int = 64, cell: nn.Module | None = None, *, bias: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    recurrent = Recurrent(cell if cell is not None else LIF(), nn.Linear(n, n, bias=bias))
    return nn.Sequential(nn.Linear(n_in, n, bias=bias), recurrent)


def dale(n_in: int = 40, n_exc: int = 64, **options: Any) -> DaleLayer:
    torch.manual_seed(0)
    return DaleLayer(n_in, n_exc, **options)


def poisson(steps: int = 200, samples: int = 12, n: int = 40) -> Tensor:
    return spikes(steps, samples, n, p=0.05)


class Found:
    """What a circuit does on a batch, by a simulation that knows nothing of the library's measurements."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        layer = model
        with torch.no_grad():
            if isinstance(model, nn.Sequential):
                x, layer = model[0](x), model[1]
            populations = potential_parts(layer, x)
            fired = layer(x)
        potentials = [sum(parts[1:], parts[0]) for parts in populations]
        self.mu = [float(u.mean()) for u in potentials]
        self.sigma = [float(u.std()) for u in potentials]
        self.variances = [[float(u.var()) for u in parts] for parts in populations]
        self.silent = float((fired.sum((0, 1)) == 0).double().mean())
        self.rate = float(fired.mean()) / DT

    def share(self, population: int = 0) -> float:
        """Of what comes from outside, next to the first recurrent pathway."""
        outside, recurrent, *_ = self.variances[population]
        return outside / (outside + recurrent)


class Concatenated(nn.Module):
    """Two layers of different widths, side by side before a recurrent population."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.ModuleList(nn.Linear(40, n, bias=False) for n in widths)
        self.last = Recurrent(LIF(), nn.Linear(sum(widths), sum(widths), bias=False))

    def current(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], -1)

    def forward(self, x: Tensor) -> Any:
        return self.last(self.current(x))


def test_what_is_concatenated_before_a_recurrent_population_has_the_shares_of_its_units() -> None:
    model, x = Concatenated(8, 56), poisson()
    fluctua.initialize(model, x, seed=0)
    with torch.no_grad():
        outside, recurrent = potential_parts(model.last, model.current(x))[0]
    for part in (slice(0, 8), slice(8, 64)):
        assert float((outside + recurrent)[..., part].std()) == pytest.approx(1.0, abs=0.15)
        assert float(outside[..., part].var()) == pytest.approx(0.9, abs=0.2)


# -- real recordings -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recordings(data_dir: Path) -> tuple[Tensor, Tensor]:
    """To initialise on, and others to look at."""
    data = SpikeDataModule.from_shd_files(data_dir / "fsdd_train.h5", duration=0.7, seed=0)
    return data.batch(32)[0], data.batch(32, "val")[0]


@pytest.mark.parametrize(("alpha", "xi"), [(0.9, 1.0), (0.5, 2.0)])
def test_a_recurrent_population_on_recordings(recordings: tuple[Tensor, Tensor], alpha: float, xi: float) -> None:
    x, others = recordings
    model = rnn(700, 128)
    report = fluctua.initialize(model, x, Target(xi=xi), method=Measured(alpha=alpha), seed=0)
    if (alpha, xi) == (0.5, 2.0):  # where spikes are rare and weights strong, a few samples ignite
        others = others[:, quiet(model, others)]
    for batch, slack in ((x, 1), (others, 2)):
        found = Found(model, batch)
        assert found.mu == pytest.approx([0.0], abs=0.05 * slack)
        assert found.sigma == pytest.approx([1 / xi], rel=0.1 * slack)
        assert found.silent <= 0.01 * slack
    share = Found(model, x).share()
    assert share == pytest.approx(alpha, abs=0.05)
    assert [q.share for q in report[0].pathways] == pytest.approx([share, 1 - share])


def quiet(model: nn.Module, x: Tensor) -> Tensor:
    """Numbers of all samples but the most active tenth."""
    with torch.no_grad():
        activity = model(x).mean((0, 2))
    order: Tensor = activity.argsort()
    return order[: int(0.9 * x.shape[1])]


def assert_dale(model: DaleLayer, x: Tensor, others: Tensor, target: Target) -> None:
    """What is asked of a layer under Dale's law on the recordings it was initialised on, and half of it on others."""
    sigma = (1 - target.mean) / (target.xi or 1.0)
    for batch, slack in ((x, 1), (others, 2)):
        found = Found(model, batch)
        assert found.mu == pytest.approx(2 * [target.mean], abs=0.1 * slack)
        assert found.sigma == pytest.approx(2 * [sigma], rel=0.15 * slack)
        assert found.silent <= 0.01 * slack
    for k in range(2):
        assert Found(model, x).share(k) == pytest.approx(0.9, abs=0.05)
    assert all(bool((w >= 0).all()) for w in model.parameters())


@pytest.mark.parametrize(
    ("family", "mean"), [(Exponential(), 0.3), (LogNormal(1.0), 0.0)], ids=lambda value: str(value)
)
def test_dales_law_on_recordings(recordings: tuple[Tensor, Tensor], family: OneSided, mean: float) -> None:
    model = dale(700, 128, family=family)
    fluctua.initialize(model, recordings[0], Target(mean=mean), seed=0)
    assert_dale(model, *recordings, Target(mean=mean))


@pytest.mark.slow
@pytest.mark.parametrize("mean", [0.0, 0.3])
@pytest.mark.parametrize("family", [Exponential(), LogNormal(1.0)], ids=["exponential", "log-normal"])
def test_dales_law_far_below_threshold(data_dir: Path, family: OneSided, mean: float) -> None:
    """At xi = 2 neurons fire once a second, so it takes more samples to see that none is silent."""
    data = SpikeDataModule.from_shd_files(data_dir / "fsdd_train.h5", duration=0.7, seed=0)
    x, others = data.batch(192)[0], data.batch(192, "val")[0]
    model = dale(700, 128, family=family)
    fluctua.initialize(model, x, Target(mean=mean, xi=2.0), seed=0)
    assert_dale(model, x, others, Target(mean=mean, xi=2.0))


# -- every kind of circuit -------------------------------------------------------------------------------------

CELLS: dict[str, Callable[[], nn.Module]] = {
    "LIF": LIF,
    "delta": lambda: LIF(20e-3, None),
    "soft reset": lambda: LIF(reset="subtract"),
    "adaptive threshold": AdaptiveLIF,
    "adaptation current": lambda: AdaptiveLIF(kind="current", coupling=0.5),
    "many time constants": lambda: LIF(torch.linspace(10e-3, 30e-3, 64)),
    "exc/inh": ExcInhLIF,
}


@pytest.mark.parametrize("name", mostly(CELLS, "delta", "soft reset"))
def test_neurons_of_every_kind_find_their_state(name: str) -> None:
    model, x = rnn(cell=CELLS[name]()), poisson()
    fluctua.initialize(model, x, method=Measured(alpha=0.7), seed=0)
    if name == "many time constants":
        state = fluctua.inspect(model, x)[0]
        assert (state.mu_u, state.sigma_u) == (pytest.approx(0.0, abs=0.05), pytest.approx(1.0, rel=0.06))
        return
    found = Found(model, x)
    assert found.mu == pytest.approx([0.0], abs=0.05)
    assert found.sigma == pytest.approx([1.0], rel=0.05)
    assert found.share() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (Target(mean=0.3), {}),
        (Target(mean=-0.5, xi=2.0), {}),
        (Target(sigma=0.6), {}),
        (Target(), {"balance": False}),
        (Target(), {"law": fluctua.theory.laws.Uniform()}),
    ],
    ids=["mean", "negative mean", "sigma", "no balance", "uniform"],
)
def test_every_target_and_law_is_reached(target: Target, options: dict[str, Any]) -> None:
    model, x = rnn(), poisson()
    fluctua.initialize(model, x, target, method=Measured(alpha=0.6), seed=0, **options)
    found = Found(model, x)
    assert found.mu == pytest.approx([target.mean], abs=0.05)
    assert found.sigma == pytest.approx([target.sigma or (1 - target.mean) / (target.xi or 1.0)], rel=0.05)
    assert found.share() == pytest.approx(0.6, abs=0.05)


def test_a_bias_takes_the_mean() -> None:
    model, x = rnn(bias=True), poisson()
    report = fluctua.initialize(model, x, Target(mean=0.3), method=Measured(alpha=0.6), seed=0)
    assert report[0].mu_u == pytest.approx(0.3, abs=0.05)
    assert report[0].sigma_u == pytest.approx(0.7, rel=0.05)
    assert any("bias" in note for note in report.notes)


@pytest.mark.parametrize("alpha", [0.5, 0.2])
def test_alpha_divides_excitation_under_dales_law(alpha: float) -> None:
    model, x = dale(), poisson()
    fluctua.initialize(model, x, method=Measured(alpha=alpha), seed=0)
    found = Found(model, x)
    assert found.sigma == pytest.approx([1.0, 1.0], rel=0.1)
    assert [found.share(0), found.share(1)] == pytest.approx([alpha, alpha], abs=0.06)


def test_stacks_and_feature_maps_hold_their_targets() -> None:
    torch.manual_seed(0)
    stack = nn.Sequential(dale(40, 48), nn.Linear(48, 48, bias=False), Recurrent(LIF(), nn.Linear(48, 48)))
    stack.extend([nn.Linear(48, 3), LI(0.1)])
    maps = nn.Sequential(recurrent_conv_block(2, 8, LIF, kernel=5, stride=2), recurrent_conv_block(8, 8, LIF, kernel=3))
    for model, x in ((stack, poisson()), (maps, spikes(200, 8, 2, 40, p=0.05))):
        report = fluctua.initialize(model, x, readout=Target(sigma=1.0), method=Measured(alpha=0.8), seed=0)
        assert not [w for w in report.warnings if "misses" in w]
        for state in fluctua.inspect(model, x):
            assert state.mu_u == pytest.approx(0.0, abs=0.1)
            assert state.sigma_u == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("make", [rnn, dale])
def test_a_rate_is_met_by_the_neurons_themselves(make: Callable[[], nn.Module]) -> None:
    model, x = make(), poisson()
    report = fluctua.initialize(model, x, Target(rate=8.0), method=Measured(alpha=0.7), seed=0)
    assert Found(model, x).rate == pytest.approx(8.0, rel=0.1)
    assert all(state.rate == pytest.approx(8.0, rel=0.1) for state in report)
    assert [s.target_sigma_u for s in report] == pytest.approx([s.sigma_u for s in report], rel=0.02)
    assert not [w for w in report.warnings if "misses" in w]


def test_from_the_arrival_of_activity_on() -> None:
    x = torch.cat([torch.zeros(100, 12, 40), poisson()])
    model = rnn()
    fluctua.initialize(model, x, method=Measured(alpha=0.7, window="arrival"), seed=0)
    with torch.no_grad():
        ((outside, recurrent),) = potential_parts(model[1], model[0](x))
    assert float((outside + recurrent)[100:].std()) == pytest.approx(1.0, rel=0.06)


def test_double_precision() -> None:
    model, x = rnn().double(), poisson().double()
    fluctua.initialize(model, x, method=Measured(alpha=0.7), seed=0)
    assert Found(model, x).sigma == pytest.approx([1.0], rel=0.05)


# -- what is touched -------------------------------------------------------------------------------------------


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def changed(model: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("make", [rnn, dale])
def test_same_seed_same_weights_and_torch_is_skipped_because(make: Callable[[], nn.Module]) -> None:
    models, x = [make() for _ in range(3)], poisson(250, 8)
    before = torch.get_rng_state()
    for model, seed in zip(models, (3, 3, 4), strict=True):
        fluctua.initialize(model, x, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert not changed(models[0], weights(models[1]))
    assert changed(models[0], weights(models[2])) == set(weights(models[0]))


@pytest.fixture(scope="module")
def settled() -> DaleLayer:
    """A layer in its state, to be copied."""
    layer = dale()
    fluctua.initialize(layer, poisson(), seed=1)
    return layer


EXC = {"input_exc.weight", "circuit.exc_exc.weight", "circuit.inh_exc.weight"}


def test_only_the_chosen_populations_of_a_circuit_are_touched(settled: DaleLayer) -> None:
    layer, x = copy.deepcopy(settled), poisson()
    before = weights(layer)
    report = fluctua.initialize(layer, x, Target(xi=1.3), populations=["circuit.exc"], seed=2)
    assert changed(layer, before) == EXC
    found = Found(layer, x)
    assert found.mu[0] == pytest.approx(0.0, abs=0.1)
    assert found.sigma[0] == pytest.approx(1 / 1.3, rel=0.1)
    assert found.share() == pytest.approx(0.9, abs=0.05)
    assert report["circuit.inh"].target_sigma_u is None


def test_a_chosen_population_that_hears_a_silent_one_is_refused_by_its_name() -> None:
    layer = dale()
    with torch.no_grad():
        layer.input_inh.weight.zero_()
        layer.circuit.exc_inh.weight.zero_()  # type: ignore[union-attr]
    with pytest.raises(SilentInputError, match=r"of 0.4 s: circuit.inh gave none in time"):
        fluctua.initialize(layer, poisson(), populations=["circuit.exc"], seed=0)


@pytest.mark.parametrize("name", ["exc_exc", "inh_inh"])
def test_frozen_weights_inside_are_skipped_because_and_count(settled: DaleLayer, name: str) -> None:
    layer, x = copy.deepcopy(settled), poisson()
    if name == "inh_inh":
        layer.circuit.exc_inh.requires_grad_(False)  # type: ignore[union-attr]
        layer.input_inh.requires_grad_(False)
    layer.circuit.get_submodule(name).requires_grad_(False)
    before = weights(layer)
    report = fluctua.initialize(layer, x, seed=2)
    frozen = {n for n, p in layer.named_parameters() if not p.requires_grad}
    assert changed(layer, before) == set(before) - frozen
    (note,) = [note for note in report.notes if "skipped: frozen" in note]
    assert len(note.partition(" w")[0].split(", ")) == len(frozen)
    found = Found(layer, x)
    assert found.mu[0] == pytest.approx(0.0, abs=0.1)
    assert found.sigma[0] == pytest.approx(1.0, rel=0.1)


def test_frozen_recurrence_of_either_sign_is_skipped_because_and_counts() -> None:
    model, x = rnn(), poisson()
    inner = dict(model.named_parameters())["1.weight.weight"].requires_grad_(False)
    before = inner.clone()
    report = fluctua.initialize(model, x, seed=0)
    assert torch.equal(inner, before)
    assert any("1.weight.weight was skipped: frozen" in note for note in report.notes)
    assert Found(model, x).sigma == pytest.approx([1.0], rel=0.05)


# -- what cannot be had ----------------------------------------------------------------------------------------


class AllExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.circuit = SignedLinear(40, 64), Recurrent(ExcInhLIF(), SignedLinear(64, 64))

    def forward(self, x: Tensor) -> Any:
        return self.circuit(self.first(x))


def test_excitation_with_nothing_to_inhibit_it_is_refused(settled: DaleLayer) -> None:
    message = "all weights excite, or all inhibit, their variance fixes their mean; add or unfreeze"
    with pytest.raises(InfeasibleTargetError, match=message):
        fluctua.initialize(AllExcite(), poisson(), seed=0)
    layer = copy.deepcopy(settled)
    layer.circuit.inh_exc.requires_grad_(False)
    with pytest.raises(InfeasibleTargetError, match=message):
        fluctua.initialize(layer, poisson(), seed=0)


@pytest.mark.parametrize(("alpha", "xi"), [(0.02, 3.0), (0.001, 2.0)])
def test_a_state_that_nothing_keeps_going_is_refused_and_leaves_the_model_usable(alpha: float, xi: float) -> None:
    """Recurrence that has to bring nearly all fluctuations, from spikes that are too few to bring them."""
    model, x = rnn(), poisson()
    with pytest.raises(NoFixedPointError, match=r"^1 found no state that reproduces itself: .*a larger alpha"):
        fluctua.initialize(model, x, Target(xi=xi), method=Measured(alpha=alpha), seed=0)
    assert not any("forward" in vars(m) or m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(bool(p.isfinite().all()) and p.requires_grad for p in model.parameters())
    model(x).sum().backward()
    report = fluctua.initialize(model, x, seed=0)
    assert report[0].sigma_u == pytest.approx(1.0, rel=0.05)


def test_a_mean_that_excitation_alone_overshoots_is_refused_at_once() -> None:
    with pytest.raises(InfeasibleTargetError, match="the largest feasible mu_u here is"):
        fluctua.initialize(dale(), poisson(), Target(mean=0.95, xi=1.0), seed=0)


# -- the paper's formula ---------------------------------------------------------------------------------------

NU = 15.8
EXCITATION = PspKernel.exponential(20e-3, 10e-3, DT)
INHIBITION = PspKernel.exponential(20e-3, 20e-3, DT).scaled(-1)


def test_the_formula_for_a_recurrent_population_is_that_of_the_solver() -> None:
    model, x = rnn(700, 128), spikes(20, 2, 700)
    fluctua.initialize(model, x, Target(mean=0.2, xi=1.5), method=Poisson(nu=NU, alpha=0.7), seed=5)
    afferents = [Afferent(Drive.poisson(n, NU, EXCITATION), share, Normal()) for n, share in ((700, 0.7), (128, 0.3))]
    laws = solve(Target(mean=0.2, xi=1.5), 1.0, EXCITATION, afferents)
    generator = torch.Generator().manual_seed(5)
    for weight, law in zip(model.parameters(), laws, strict=True):
        torch.testing.assert_close(weight.detach(), draw(law, weight, generator), rtol=1e-5, atol=1e-8)


def test_the_formula_for_a_dale_layer_is_that_of_the_solver() -> None:
    model, x = dale(700, 128, family=LogNormal(1.0)), spikes(20, 2, 700)
    fluctua.initialize(model, x, Target(mean=0.1), method=Poisson(nu=NU, alpha=0.8), seed=5)
    generator = torch.Generator().manual_seed(5)
    rows = (("input_exc", "exc_exc", "inh_exc"), ("input_inh", "exc_inh", "inh_inh"))
    for names in rows:
        weight = [p for n in names for name, p in model.named_parameters() if name.split(".")[-2] == n]
        drives = [
            Drive.poisson(w.shape[1], NU, k) for w, k in zip(weight, (EXCITATION, EXCITATION, INHIBITION), strict=True)
        ]
        # Three pathways; the two of excitation have two thirds of the variance, alpha of it from outside.
        shares = 2 / 3 * 0.8, 2 / 3 * 0.2, 1 / 3
        afferents = [Afferent(d, s, LogNormal(1.0)) for d, s in zip(drives, shares, strict=True)]
        for w, law in zip(weight, solve(Target(mean=0.1), 1.0, EXCITATION, afferents), strict=True):
            torch.testing.assert_close(w.detach(), draw(law, w, generator), rtol=1e-5, atol=1e-8)
