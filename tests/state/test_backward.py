"""Laws of what the gradient meets: shares and slopes of a true run, gains against gradients that autograd finds."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.layers import DaleLayer, Recurrent
from fluctua.network import Network
from fluctua.network.facts import Pathway
from fluctua.network.run import hooked
from fluctua.neurons import LI, LIF, AdaptiveLIF, ArcTan, SigmoidDerivative, SuperSpike
from fluctua.neurons.current_based import CurrentBased
from fluctua.neurons.surrogates import Surrogate
from fluctua.state.backward import Course, Drive, _power, participation, passages, step_of_cell
from fluctua.state.measure import watch
from fluctua.timeloop.contract import step_of
from shared.spikes import spikes

N, T, B = 40, 150, 16


def stack(*cells: nn.Module) -> nn.Sequential:
    layers = [layer for cell in cells for layer in (nn.Linear(N, N, bias=False), cell)]
    return nn.Sequential(*layers, nn.Linear(N, 3, bias=False), LI(0.2))


def watched(network: Network) -> dict[str, Any]:
    measured: dict[str, Any] = {}
    modules = dict.fromkeys(p.module for p in network.populations)
    within = [[p for p in network.populations if p.module is module] for module in modules]
    with hooked([h for some in within for h in watch(some, "trial", measured, drives=True)]), torch.no_grad():
        network.run()
    return measured


def drives_of(network: Network) -> dict[str, Drive]:
    return {name: m.drive for name, m in watched(network).items()}


def initialised(*cells: nn.Module, seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(seed)
    model, x = stack(*cells), spikes(T, B, N, p=0.03).float()
    fluctua.initialize(model, x, seed=seed)
    return model, x


def potential(model: nn.Sequential, k: int, x: Tensor) -> tuple[LIF, Tensor]:
    """The neurons of layer k, and their potential in float64."""
    cell = model[2 * k + 1]
    assert isinstance(cell, LIF)
    with torch.no_grad():
        return cell, cell.simulate(model[: 2 * k + 1](x)).potential.double()


SURROGATES = [SuperSpike(3.0), SuperSpike(20.0), SigmoidDerivative(5.0), ArcTan(2.0)]


@pytest.mark.parametrize("surrogate", SURROGATES, ids=repr)
def test_the_slopes_are_the_surrogate_at_the_potential_of_the_run_itself(surrogate: Surrogate) -> None:
    model, x = initialised(LIF(surrogate=surrogate), LIF(surrogate=surrogate))
    network = Network.of(model, x)
    p, drive = network.populations[1], drives_of(network)["3"]
    slopes = Course.of(p, drive).slopes()
    _, u = potential(model, 1, x)
    expected = surrogate.derivative(u - 1.0).reshape(T, -1)
    assert slopes.shape == expected.shape  # 16 samples of 40 neurons are few enough to take all
    assert (slopes - expected).abs().max() < 1e-4 * expected.max()
    assert participation(slopes) == pytest.approx(float(expected.mean() ** 2 / expected.square().mean()), rel=1e-3)


def test_of_many_neurons_some_stand_for_all() -> None:
    model, x = initialised(LIF(threshold=torch.linspace(0.8, 1.2, N)))
    network = Network.of(model, x.repeat(1, 8, 1))
    drive = drives_of(network)["1"]
    assert drive.currents[0].shape == (T, 2048)
    course = Course.of(network.populations[0], drive)
    cell, u = potential(model, 0, x)
    expected = participation(cell.surrogate.derivative(u - cell.threshold))
    assert course.share() == pytest.approx(expected, rel=0.05)  # 2048 of 640 different, drawn with replacement


@pytest.mark.parametrize(
    "cell",
    [
        LIF(reset="subtract"),
        LIF(tau_syn=None),
        AdaptiveLIF(),
        AdaptiveLIF(kind="current", beta=2.0, coupling=0.5),
        CurrentBased(0.9, 0.1, 2e-3, decay_syn=0.8, threshold=1.0, leak=0.1),
        Recurrent(LIF(), nn.Linear(N, N, bias=False)),
    ],
    ids=lambda cell: type(cell).__name__,
)
def test_neurons_of_all_kinds_are_followed_to_the_spikes_that_they_give(cell: nn.Module) -> None:
    model, x = initialised(cell)
    network = Network.of(model, x)
    p = network.populations[0]
    drive = drives_of(network)[p.name]
    course = Course.of(p, drive)
    dynamics, _ = step_of_cell(course.cell, drive.neurons)
    constants = tuple(map(drive.of_units, dynamics.constants))
    with torch.no_grad():
        out = step_of(dynamics.step)(drive.currents, course.states, constants)[0]
    fired = network.spikes([p])[p.name].reshape(T, -1)
    assert fired.any()
    assert (out != fired).float().mean() < 1e-3  # but for rounding


def test_populations_of_a_circuit_have_their_own_passages() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(DaleLayer(N, 32, 8), nn.Linear(32, 3, bias=False), LI(0.2))
    x = spikes(T, B, N, p=0.05).float()
    fluctua.initialize(model, x, seed=0)
    network = Network.of(model, x)
    found = passages(network.populations, watched(network))
    assert set(found) == {p.name for p in network.spiking}
    assert all(0 < passage.participation < 0.2 for passage in found.values())
    assert all(passage.sharpness == 20.0 for passage in found.values())


@pytest.mark.parametrize("beta", [5.0, 20.0])
def test_the_gain_is_near_that_of_true_gradients(beta: float) -> None:
    """Within a third: resets cut the way back, and a trial ends (docs/depth.md has the errors)."""
    model, x = initialised(*(LIF(surrogate=SuperSpike(beta)) for _ in range(5)))
    network = Network.of(model, x)
    found = passages(network.populations, watched(network))
    h, out = x, []
    for layer in model:
        h = layer(h)
        if isinstance(layer, LIF):
            h.retain_grad()
            out.append(h)
    out[-1].backward(torch.randn(out[-1].shape, generator=torch.Generator().manual_seed(0)))
    norms = [float(s.grad.norm()) for s in out if s.grad is not None]
    true = (norms[0] / norms[2]) ** 0.5  # layers 2 and 3; the last sees the white gradient, which is no eigenvector
    theory = (found["3"].gradient_gain * found["5"].gradient_gain) ** 0.5  # type: ignore[operator]
    assert true / theory == pytest.approx(1.0, abs=0.33)
    assert found["1"].gradient_gain is None  # it hears the data alone


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(30, 50, bias=False),
        nn.Conv1d(6, 8, 5, padding=2, bias=False),
        nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False),
        nn.Conv2d(6, 4, 4, stride=2, padding=1, bias=False),
        nn.ConvTranspose2d(6, 4, 3, bias=False),
    ],
    ids=repr,
)
def test_the_power_of_weights_is_what_a_white_gradient_grows_by(layer: Any) -> None:
    torch.manual_seed(0)
    layer.reset_parameters()
    size = {nn.Linear: (30,), nn.Conv1d: (layer.weight.shape[1], 400)}.get(
        type(layer), (getattr(layer, "in_channels", 0), 60, 60)
    )
    x = torch.randn(4000 if len(size) == 1 else 40, *size, requires_grad=True)
    y = layer(x)
    g = torch.randn_like(y)
    y.backward(g)
    assert x.grad is not None
    rows = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    power = _power(Pathway("w", layer, "weight", ("a",), rows=rows))
    edge = 0.1 if x.ndim > 2 else 0.0  # of borders, where some weights lead nowhere
    assert float(x.grad.square().mean() / g.square().mean()) == pytest.approx(power, rel=0.06 + edge)


def test_a_report_says_how_the_gradient_passes_where_it_was_asked_for() -> None:
    model, x = initialised(LIF(), LIF())
    plain = fluctua.inspect(model, x)
    assert all(p.participation is p.sharpness is p.gradient_gain is None for p in plain)
    assert "participation" not in str(plain)
    report = fluctua.inspect(model, x, loss=lambda output: output.square().mean())
    assert "gradient at  participation  sharpness  gain of the gradient" in str(report)
    assert "<th>gradient at</th>" in report._repr_html_()
    assert 0.01 < report["3"].participation < 0.1
    assert report["5"].participation is None
    assert [row["sharpness"] for row in report.rows()] == [20.0, 20.0, None]


def test_few_neurons_that_carry_the_gradient_are_worth_a_warning_in_deep_networks_alone() -> None:
    def warned(*betas: float) -> list[str]:
        model, x = initialised(*(LIF(surrogate=SuperSpike(beta)) for beta in betas))
        return [w for w in fluctua.inspect(model, x).warnings if "carry the gradient" in w]

    assert warned(*[20.0] * 3) == warned(*[2.5] * 6) == []
    (warning,) = warned(2.5, 2.5, 20.0, 2.5, 40.0, 2.5)
    assert warning.startswith("few neurons carry the gradient through 5, 9: the participation share is 0.0")
    assert 'initialize(..., surrogate="share")' in warning
