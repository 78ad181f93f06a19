"""Laws of quantised weights: they lie on the grid, and the state that is reported is the one that is left."""

import pytest
import torch
from torch import nn

import fluctua
from fluctua.hardware import Grid, quantize
from fluctua.layers import DaleLayer, Recurrent
from fluctua.methods import Measured
from fluctua.neurons import LI, LIF
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
    with pytest.raises(ValueError, match=r"2 to 16 bits|positive and finite"):
        Grid(bits, scale)
