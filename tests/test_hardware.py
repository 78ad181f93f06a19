"""Laws of quantised weights: they lie on the grid, and the state that is reported is the one that is left."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import fluctua
from fluctua.hardware import Grid, quantize
from fluctua.layers import DaleLayer, Recurrent
from fluctua.methods import Measured
from fluctua.neurons import LI, LIF, from_step, spike
from fluctua.neurons.current_based import CurrentBased

T, DT = 80, 2e-3
N, HIDDEN = 40, 64


def batch() -> torch.Tensor:
    return (torch.rand(T, 16, N, generator=torch.Generator().manual_seed(0)) < 20 * DT).float()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    recurrent = Recurrent(LIF(dt=DT), nn.Linear(HIDDEN, HIDDEN, bias=False))
    layers = [nn.Linear(N, HIDDEN), LIF(dt=DT), nn.Linear(HIDDEN, HIDDEN), recurrent, nn.Linear(HIDDEN, 4), LI(dt=DT)]
    return nn.Sequential(*layers)


WEIGHTS = ["0.weight", "2.weight", "3.weight.weight", "4.weight"]


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("scale", [None, 0.05], ids=["fitted", "given"])
def test_quantised_weights_lie_on_the_grid(bits: int, scale: float | None) -> None:
    model = network()
    report = fluctua.initialize(model, batch(), seed=0)
    _, scales = quantize(model, batch(), Grid(bits, scale), report=report)
    assert sorted(scales) == WEIGHTS
    for name, found in scales.items():
        integers = model.get_parameter(name).detach().double() / found
        # The weights are rounded to single precision after all.
        assert float((integers - integers.round()).abs().max()) < 1e-4
        assert -(2 ** (bits - 1)) <= float(integers.min().round())
        assert float(integers.max().round()) <= 2 ** (bits - 1) - 1
        assert scale is None or found == scale


def test_a_potential_that_stands_still_is_kept_standing_still() -> None:
    """Two steps are too few for the second layer to hear of anything: its wanted standard deviation is zero."""
    model = network()
    fluctua.initialize(model, batch(), seed=0)
    for part in (model[0], model[2], model[4]):
        torch.nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    report, _ = quantize(model, batch()[:2], Grid(np.int64(8)))  # type: ignore[arg-type] # an integer like others
    assert report["3"].sigma_u == report["3"].target_sigma_u == 0
    assert not any("3" in warning and "sigma" in warning for warning in report.warnings)


def test_with_eight_bits_the_state_survives_as_reported() -> None:
    model = network()
    report = fluctua.initialize(model, batch(), seed=0)
    after, _ = quantize(model, batch(), report=report)
    assert after.warnings == ()
    assert [p.target_sigma_u for p in after] == [p.target_sigma_u for p in report]
    measured = fluctua.inspect(model, batch())
    for p, now in zip(after, measured, strict=True):
        assert p.sigma_u == now.sigma_u
        # Rounding errors of at most 2.5 sigma / 127 each, so 1 % of the weights' spread, as the layers before change.
        assert p.sigma_u == pytest.approx(p.target_sigma_u, rel=0.1)


def test_sigma_changes_with_the_weights_as_linearity_says() -> None:
    """One layer on white input: sigma_U is the size of the weights times a constant, so the report must follow it."""
    model = nn.Sequential(nn.Linear(N, 512, bias=False), CurrentBased(0.9, 1.0, DT, threshold=1.0))
    before = fluctua.initialize(model, batch(), seed=0, method=Measured(balance=False))
    size = float(model.get_parameter("0.weight").detach().square().mean())
    after, _ = quantize(model, batch(), Grid(2), report=before)
    change = (float(model.get_parameter("0.weight").detach().square().mean()) / size) ** 0.5
    # 512 neurons with 40 afferents of unequal counts: the ratio scatters by 1 / sqrt(512 40) = 0.7 %, and the mean.
    assert after[0].sigma_u / before[0].sigma_u == pytest.approx(change, rel=0.05)


def test_without_a_report_the_state_before_is_the_target() -> None:
    model = network()
    before = fluctua.inspect(model, batch())
    after, _ = quantize(model, batch(), Grid(6))
    assert [p.target_sigma_u for p in after] == pytest.approx([p.sigma_u for p in before])


@pytest.mark.parametrize(
    ("grid", "reason"),
    [(Grid(2), "too coarse for 0.weight"), (Grid(8, 1e-4), "of them lie outside it"), (Grid(8, 50.0), "too coarse")],
    ids=["few bits", "small scale", "large scale"],
)
def test_a_grid_that_is_too_coarse_warns(grid: Grid, reason: str) -> None:
    model = network()
    fluctua.initialize(model, batch(), seed=0)
    after, _ = quantize(model, batch(), grid)
    assert any(reason in warning for warning in after.warnings)


def test_the_fitted_scale_has_the_least_error_of_all() -> None:
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    grid = Grid(4)
    best = grid.fit(weight)

    def error(scale: float) -> float:
        return float((grid.integers(weight, scale) * scale - weight).square().mean())

    # Scales are tried in steps of 1.2 % of the largest, where the error, flat at its minimum, changes by less than 1 %.
    assert error(best) < 1.01 * min(error(best * factor) for factor in (0.6, 0.8, 0.9, 0.95, 1.05, 1.1, 1.2, 1.5))


def test_weights_of_one_sign_use_the_whole_range() -> None:
    torch.manual_seed(0)
    model = DaleLayer(N, HIDDEN, dt=DT)
    fluctua.initialize(model, batch(), seed=0)
    _, scales = quantize(model, batch(), Grid(4))
    for name, scale in scales.items():
        integers = (model.get_parameter(name).detach().double() / scale).round()
        assert float(integers.min()) >= 0
        assert 7 < float(integers.max()) <= 15


def test_frozen_weights_are_skipped_because() -> None:
    model = network()
    weight = model.get_parameter("0.weight").requires_grad_(False)
    frozen = weight.clone()
    _, scales = quantize(model, batch(), Grid(3))
    assert torch.equal(weight, frozen)
    assert sorted(scales) == WEIGHTS[1:]


@pytest.mark.parametrize(("bits", "scale"), [(1, None), (17, None), (8, 0.0), (8, float("nan")), (8, float("inf"))])
def test_a_grid_that_is_none_is_refused(bits: int, scale: float | None) -> None:
    with pytest.raises(ValueError, match=r"bits, 2 to 16|positive and finite"):
        Grid(bits, scale)


# --- thresholds and decays ---


def chip() -> nn.Sequential:
    """A net of 12, 128 and 7 neurons with steps of 50 ms and time constants of 160 and 65 ms."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 128), LIF(0.16, 0.065, dt=0.05), nn.Linear(128, 7), LIF(0.16, 0.065, dt=0.05))


def slow_batch() -> torch.Tensor:
    return (torch.rand(60, 16, 12, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def lif(model: nn.Module, k: int) -> LIF:
    found = model.get_submodule(str(k))
    assert isinstance(found, LIF)
    return found


def test_thresholds_become_multiples_of_the_scale_of_the_weights() -> None:
    model = chip()
    fluctua.initialize(model, slow_batch(), seed=0)
    after, scales = quantize(model, slow_batch(), Grid(4), thresholds=True)
    for k in (1, 3):
        theta = float(lif(model, k).threshold)
        steps = theta / scales[f"{k - 1}.weight"]
        assert steps == pytest.approx(round(steps), abs=1e-4)
        assert after[str(k)].threshold == theta  # the report is that of the rounded network
        assert any(f"the threshold of {k} was rounded from 1 to" in note for note in after.notes)


def test_thresholds_of_a_step_of_the_users_own_are_rounded_by_their_name() -> None:
    def step(x: Tensor, state: tuple[Tensor, ...], c: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
        u = c["a"] * state[0] + x
        out = spike(u - c["theta"])
        return out, (u * (1 - out.detach()),)

    neuron = from_step(step, constants={"a": 0.9, "theta": 0.77}, threshold="theta", rest=(0.0,))
    model = nn.Sequential(nn.Linear(12, 20), neuron)
    fluctua.initialize(model, slow_batch(), seed=0)
    after, scales = quantize(model, slow_batch(), Grid(4), thresholds=True)
    theta = float(torch.as_tensor(neuron.theta))
    assert theta != 0.77
    assert theta / scales["0.weight"] == pytest.approx(round(theta / scales["0.weight"]), abs=1e-4)
    assert after["1"].threshold == pytest.approx(theta)


@pytest.mark.parametrize("bits", [3, 12])
def test_decays_become_multiples_of_a_power_of_two(bits: int) -> None:
    model = chip()
    report = fluctua.initialize(model, slow_batch(), seed=0)
    quantize(model, slow_batch(), decay_bits=bits)
    for tau, wanted in ((lif(model, 1).tau_mem, 0.16), (lif(model, 1).tau_syn, 0.065)):
        assert tau is not None
        decay = float(torch.exp(-0.05 / tau.double()))
        assert decay * 2**bits == pytest.approx(round(decay * 2**bits), abs=1e-3)
        assert decay == pytest.approx(float(torch.tensor(-0.05 / wanted).exp()), abs=2**-bits / 2 + 1e-6)
    now = fluctua.inspect(model, slow_batch())["1"].sigma_u
    assert (abs(now / report["1"].sigma_u - 1) < 0.02) is (bits == 12)


def test_a_state_that_coarse_thresholds_and_decays_have_shifted_is_brought_back_by_rescale() -> None:
    model = chip()
    fluctua.initialize(model, slow_batch(), seed=0)
    left, _ = quantize(model, slow_batch(), Grid(3), thresholds=True, decay_bits=3)
    back = fluctua.rescale(model, slow_batch(), grid=Grid(3))
    assert abs(left["1"].sigma_u - 1) > 0.05
    for p in back:
        assert p.threshold is not None
        assert p.sigma_u / p.threshold == pytest.approx(1.0, rel=1e-2)


def test_a_net_that_one_scale_for_all_layers_silences_fires_on_a_grid_that_rescale_finds() -> None:
    model, batch = chip(), slow_batch()
    fluctua.initialize(model, batch, seed=0)
    on_chip, widest = copy.deepcopy(model), float(model.get_parameter("0.weight").detach().abs().max())
    left, _ = quantize(on_chip, batch, Grid(8, scale=1.5 * widest), thresholds=True, decay_bits=8)
    assert left["3"].silent == 1
    assert any("too coarse for 2.weight" in warning for warning in left.warnings)
    found = fluctua.diagnose(on_chip, batch)[0]
    assert (found.kind, found.serious) == ("grid", True)
    back = fluctua.rescale(model, batch, grid=Grid(8))
    assert [p.silent for p in back] == [0, 0]
    assert [p.sigma_u for p in back] == pytest.approx([1.0, 1.0], rel=1e-2)
    for k in (0, 2):
        assert len(model.get_parameter(f"{k}.weight").detach().unique()) <= 256  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("package", "make", "read"),
    [
        ("snntorch", lambda m: m.Synaptic(alpha=0.71, beta=0.83, init_hidden=True), lambda n: (n.alpha, n.beta)),
        (
            "spikingjelly.activation_based.neuron",
            lambda m: m.LIFNode(tau=2.7, step_mode="m"),
            lambda n: (torch.tensor(1 - 1 / n.tau),),
        ),
        ("sinabs.layers", lambda m: m.LIF(tau_mem=7.3), lambda n: (torch.exp(-1 / n.tau_mem),)),
    ],
)
def test_decays_of_frameworks_are_rounded_too(package: str, make: Any, read: Any) -> None:
    neuron = make(pytest.importorskip(package))
    model = nn.Sequential(nn.Linear(N, 8), neuron)
    quantize(model, batch(), decay_bits=4, time=1 if package.startswith("sinabs") else 0)
    for decay in read(neuron):
        assert float(decay) * 16 == pytest.approx(round(float(decay) * 16), abs=1e-4)


def test_neurons_within_a_recurrent_layer_are_rounded_too() -> None:
    model = network()
    quantize(model, batch(), Grid(6), thresholds=True, decay_bits=5)
    inner = [m for m in model.modules() if isinstance(m, LIF)][1]
    decay = float(torch.exp(-DT / inner.tau_mem))
    assert decay * 32 == pytest.approx(round(decay * 32), abs=1e-4)


def test_neurons_of_unknown_decays_are_refused_and_nothing_is_changed() -> None:
    model = nn.Sequential(nn.Linear(N, 8), LIF(), nn.Linear(8, 8), CurrentBased(0.9, 1.0, DT, threshold=1.0))
    before = model.get_parameter("0.weight").detach().clone()
    tau = lif(model, 1).tau_mem
    with pytest.raises(ValueError, match=r"the decays of 3 .CurrentBased. have no name that fluctua knows"):
        quantize(model, batch(), decay_bits=8)
    assert torch.equal(lif(model, 1).tau_mem, tau)
    assert torch.equal(model.get_parameter("0.weight"), before)
    with pytest.raises(ValueError, match="a decay has a whole number of bits, 2 to 24, got decay_bits=1"):
        quantize(network(), batch(), decay_bits=1)


def test_a_pruned_layer_keeps_its_mask_and_lies_on_the_grid() -> None:
    model = network()
    layer: Any = model[0]
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    mask = layer.weight_mask.bool()
    report, scales = quantize(model, batch(), Grid(4))
    effective = layer.weight  # as the module shows it, before another pass
    assert torch.equal(effective != 0, mask & (effective != 0))
    integers = effective.detach().double() / scales["0.weight_orig"]
    assert float((integers - integers.round()).abs().max()) < 1e-4
    assert "0.weight_orig keeps its mask: 50% of its entries count" in report.notes
    # What is cut off has no say in the scale.
    assert scales["0.weight_orig"] == Grid(4).fit(before_rounding()[mask])
    model(batch())
    assert torch.equal(layer.weight, effective)


def before_rounding() -> torch.Tensor:
    return network().get_parameter("0.weight").detach()
