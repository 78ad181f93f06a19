"""Laws of `inspect`: what it reports is what a plain simulation of the network shows, and it changes nothing."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fluctua
from fluctua.layers import OverTime
from fluctua.network import Network
from fluctua.neurons import LI, LIF, SuperSpike
from fluctua.neurons.leaky import LeakyNeuron
from fluctua.state.facts import PopulationState
from fluctua.state.inspection import inspect_network
from fluctua.state.measure import Window
from fluctua.state.summary import _gradient_warnings
from fluctua.theory import PspKernel, crossing_rate
from fluctua.theory.target import Moments
from shared.spikes import spikes as random_spikes
from shared.tracing import trace

Array = NDArray[np.float64]

T, B, N_IN = 60, 7, 12


spikes = partial(random_spikes, p=0.08, dtype=torch.float64)


def filled(model: nn.Module, gain: float = 1.0, seed: int = 0) -> nn.Module:
    """The model in double precision, its weights N(0, gain^2), its biases N(0, 0.2^2)."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            scale = gain if parameter.ndim > 1 else 0.2
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model


def network(neuron: Callable[[], LIF] = LIF, *, n: int = 9, gain: float = 1.0, bias: bool = False) -> nn.Module:
    layers = [nn.Linear(N_IN, n, bias=bias), neuron(), nn.Linear(n, n, bias=bias), neuron()]
    return filled(nn.Sequential(*layers, nn.Linear(n, 3, bias=bias), LI(0.1)), gain)


def only(report: fluctua.Report) -> PopulationState:
    (state,) = report
    return state


def weight_of(model: nn.Module, name: str) -> Tensor:
    return dict(model.named_parameters())[name]


def plain_layer(current: Array, neuron: LeakyNeuron) -> tuple[Array, Array]:
    """Free potential and output `[T, B, N]`, by the paper's recursion, one neuron and one step after the other."""
    steps, samples, n = current.shape

    def each(value: Tensor) -> Array:
        return np.broadcast_to(value.detach().double().numpy(), (n,))

    a = np.exp(-neuron.dt / each(neuron.tau_mem))
    b = None if neuron.tau_syn is None else np.exp(-neuron.dt / each(neuron.tau_syn))
    theta = each(neuron.threshold) if isinstance(neuron, LIF) else np.full(n, np.inf)
    free, out = np.zeros(current.shape), np.zeros(current.shape)
    for sample, i in itertools.product(range(samples), range(n)):
        u = v = syn = 0.0  # free potential, potential, synaptic current
        for t in range(steps):
            x = current[t, sample, i]
            fired = v > theta[i]
            free[t, sample, i], out[t, sample, i] = u, float(fired)
            drive = x if b is None else (1 - a[i]) * syn
            u = a[i] * u + drive
            v = a[i] * v + drive
            if fired:
                v = v - theta[i] if isinstance(neuron, LIF) and neuron.reset == "subtract" else 0.0
            syn = 0.0 if b is None else b[i] * syn + x
    return free, out if isinstance(neuron, LIF) else free


def plain_simulation(model: nn.Module, x: Tensor) -> dict[str, tuple[Array, Array, Array]]:
    """Current, free potential and output of every population of a sequence of layers."""
    signal, states = x.numpy(), {}
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            signal = signal @ module.weight.detach().numpy().T
            signal = signal if module.bias is None else signal + module.bias.detach().numpy()
        elif isinstance(module, LeakyNeuron):
            current = signal
            free, signal = plain_layer(current, module)
            states[name] = (current, free, signal)
    return states


def arrival(current: Array) -> NDArray[np.bool_]:
    return np.cumsum((current != 0).any(-1), axis=0) > 0


# --- against a plain simulation ---

TAUS = torch.linspace(8e-3, 30e-3, 9)
NEURONS: dict[str, Callable[[], LIF]] = {
    "the paper's": LIF,
    "delta synapse, reset by subtraction": lambda: LIF(15e-3, None, reset="subtract"),
    "own time constants for each neuron": lambda: LIF(TAUS, TAUS.flip(0) / 2, threshold=0.5),
}


@pytest.mark.parametrize("window", ["trial", "arrival"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("bias", [False, True])
def test_every_number_is_that_of_a_plain_simulation(neuron: str, window: Window, bias: bool) -> None:
    model, x = network(NEURONS[neuron], gain=0.7, bias=bias), spikes(T, B, N_IN)
    x[:, -1] = 0  # one sample in which nothing happens but what biases do
    states = plain_simulation(model, x)
    report = fluctua.inspect(model, x, window=window)
    assert [p.name for p in report] == list(states)
    assert any(p.silent for p in report)
    assert any(p.saturated for p in report) or not bias
    for p in report:
        current, free, out = states[p.name]
        counts = np.ones((T, B), bool) if window == "trial" else arrival(current)
        u = free[counts]  # [steps that count, N]
        assert p.n == free.shape[2]
        assert p.mu_u == pytest.approx(u.mean(), rel=1e-9)
        assert p.sigma_u == pytest.approx(u.std(), rel=1e-9)
        assert p.sigma_temporal == pytest.approx(np.sqrt(u.var(0).mean()), rel=1e-9)
        assert p.sigma_across == pytest.approx(u.mean(0).std(), rel=1e-9)
        if p.threshold is None:
            assert (p.xi, p.rate, p.rate_predicted, p.latency, p.silent, p.saturated) == (None,) * 6
            continue
        firsts = [next((t for t in range(T) if out[t, b].any()), np.inf) for b in range(B)]
        median = sorted(firsts)[B // 2]
        assert p.xi == pytest.approx((p.threshold - u.mean()) / np.sqrt(u.var(0).mean()), rel=1e-9)
        kernel = report_kernel(model, p.name)
        own = crossing_rate((p.threshold - u.mean(0)) / u.std(0), kernel)
        assert p.rate_predicted == pytest.approx(float(own.mean()), rel=1e-9)
        assert p.rate == pytest.approx(out[counts].mean() / 2e-3, rel=1e-9)
        assert p.latency == (None if np.isinf(median) else pytest.approx(median * 2e-3))
        assert p.silent == pytest.approx((out.sum((0, 1)) == 0).mean())
        assert p.saturated == pytest.approx((u.mean(0) > p.threshold).mean())
        np.testing.assert_allclose(p.plot_data.rates, out[counts].mean(0) / 2e-3)
        raster = [(t * 2e-3, i) for t in range(T) for i in range(p.n) if out[t, 0, i]]
        np.testing.assert_allclose(p.plot_data.raster, np.array(raster).reshape(-1, 2))
        assert p.plot_data.shown == 9
        assert p.plot_data.duration == pytest.approx(T * 2e-3)


def report_kernel(model: nn.Module, name: str) -> PspKernel:
    (found,) = (p for p in trace(model, spikes(2, 2, N_IN)) if p.name == name)
    return found.neuron.kernel


def test_what_lies_between_neurons_alone_makes_none_fire_nor_is_said_to() -> None:
    """Offsets that spread the means by half a threshold, and fluctuations of a hundredth of it."""
    model, x = filled(nn.Sequential(nn.Linear(N_IN, 200), LIF()), gain=0.01), spikes(1000, 4, N_IN)
    with torch.no_grad():
        eps_bar = float(report_kernel(model, "1").eps_bar) / 2e-3
        weight_of(model, "0.bias").copy_(torch.linspace(-0.9, 0.7, 200) / eps_bar)
    p = only(fluctua.inspect(model, x, window="trial"))
    assert p.silent == 1
    assert p.sigma_across > 4 * p.sigma_temporal
    assert p.xi is not None
    assert p.xi > 4 / p.sigma_u
    assert p.rate_predicted == pytest.approx(0.0, abs=0.1)


@pytest.mark.parametrize("maps", [True, False], ids=["maps", "tokens"])
def test_of_feature_maps_silent_neurons_and_silent_maps_are_counted(maps: bool) -> None:
    """A map of which one place fires is not silent; its other neurons are."""
    conv = nn.Conv1d(1, 3, 1, bias=False) if maps else nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([50.0, 50.0, 0.0]).reshape(3, 1, 1) if maps else 50 * torch.eye(8))
    x = torch.zeros(50, 2, 1 if maps else 3, 8)
    x[:, :, :, 2] = 1
    x[:, :, 2:] = 0
    p = only(fluctua.inspect(nn.Sequential(OverTime(conv), LIF()), x))
    assert p.silent == pytest.approx(1 - 2 / 24)
    assert p.silent_maps == (pytest.approx(1 / 3) if maps else None)


def test_the_weights_are_reported_pathway_by_pathway() -> None:
    model = network()
    weight = weight_of(model, "2.weight").detach()
    (q,) = fluctua.inspect(model, spikes(T, B, N_IN))["3"].pathways
    assert (q.name, q.sources, q.fan_in) == ("2.weight", ("1",), 9)
    assert q.mean == pytest.approx(float(weight.mean()))
    assert q.std == pytest.approx(float(weight.std(correction=0)))


def test_fluctuations_far_from_zero_are_not_lost_in_rounding() -> None:
    model = network(bias=True)
    with torch.no_grad():
        weight_of(model, "0.bias").fill_(100.0)  # the mean of U is 500 times its fluctuations in time
    x = spikes(T, B, N_IN)
    exact = fluctua.inspect(model, x, window="arrival")["1"]
    single = fluctua.inspect(copy.deepcopy(model).float(), x.float(), window="arrival")["1"]
    assert single.sigma_temporal == pytest.approx(exact.sigma_temporal, rel=1e-5)
    assert single.sigma_across == pytest.approx(exact.sigma_across, rel=1e-3)


def test_moments_in_half_precision_are_as_good_as_its_currents() -> None:
    model = network().bfloat16()
    x = spikes(T, B, N_IN).bfloat16()
    current = x @ weight_of(model, "0.weight").detach().T  # rounded to 8 bits, the last rounding there is
    kernel_in_eight_bits = next(iter(trace(model, x))).neuron.kernel
    eps = kernel_in_eight_bits.response(T)
    free = np.stack([np.tensordot(eps[: t + 1][::-1], current[: t + 1].double().numpy(), (0, 0)) for t in range(T)])
    p = fluctua.inspect(model, x)["1"]
    assert p.sigma_temporal == pytest.approx(np.sqrt(free.var((0, 1)).mean()), rel=1e-5)
    assert p.sigma_across == pytest.approx(free.mean((0, 1)).std(), rel=1e-5)


def test_a_model_that_needs_more_than_a_plain_call_is_run_by_forward() -> None:
    model, x = network(), spikes(T, B, N_IN)
    batch_first = fluctua.inspect(model, x.transpose(0, 1), forward=lambda m, batch: m(batch.transpose(0, 1)))
    assert str(batch_first) == str(fluctua.inspect(model, x))


# --- gradients ---


def loss_of(output: Tensor) -> Tensor:
    return (output - 0.3).square().mean()


def autograd_norms(model: nn.Module, x: Tensor) -> dict[str, float]:
    twin = copy.deepcopy(model)
    loss_of(twin(x)).backward()  # type: ignore[no-untyped-call]
    return {name: float(p.grad.norm()) for name, p in twin.named_parameters() if p.grad is not None}


def test_gradient_norms_are_those_of_autograd() -> None:
    model, x = network(bias=True), spikes(T, B, N_IN)
    norms = autograd_norms(model, x)
    report = fluctua.inspect(model, x, loss=loss_of)
    for population, weight in (("1", "0.weight"), ("3", "2.weight"), ("5", "4.weight")):
        assert norms[weight] > 0
        assert report[population].gradient_norm == pytest.approx(norms[weight])


def test_frozen_weights_have_a_gradient_all_the_same_and_stay_frozen() -> None:
    model, x = network(), spikes(T, B, N_IN)
    norm = autograd_norms(model, x)["0.weight"]
    weight = weight_of(model, "0.weight").requires_grad_(False)
    assert fluctua.inspect(model, x, loss=loss_of)["1"].gradient_norm == pytest.approx(norm)
    assert not weight.requires_grad


class TwoWays(nn.Module):
    """A population with two weights, and one whose output is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(N_IN, 9, bias=False) for _ in range(3))
        self.lif, self.aside = LIF(), LIF()

    def forward(self, x: Tensor) -> Tensor:
        self.aside(self.c(x))
        return self.lif(self.a(x) + self.b(x.roll(1, 0)))  # type: ignore[no-any-return]


def test_the_gradient_norm_of_a_population_is_that_of_all_its_weights() -> None:
    model, x = filled(TwoWays()), spikes(T, B, N_IN)
    norms = autograd_norms(model, x)
    report = fluctua.inspect(model, x, loss=loss_of)
    assert report["lif"].gradient_norm == pytest.approx(np.hypot(norms["a.weight"], norms["b.weight"]))
    assert report["aside"].gradient_norm == 0  # the loss does not depend on it


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm], ids=["new", "old"])
def test_the_gradient_of_a_parametrised_weight_is_taken_at_the_weight(norm: Callable[[nn.Module], nn.Module]) -> None:
    plain = filled(nn.Sequential(nn.Linear(N_IN, 9, bias=False), LIF()))
    x = spikes(T, B, N_IN)
    model = copy.deepcopy(plain)
    norm(dict(model.named_modules())["0"])
    assert only(fluctua.inspect(model, x, loss=loss_of)).gradient_norm == pytest.approx(
        autograd_norms(plain, x)["0.weight"]
    )


def test_without_a_loss_there_is_no_gradient_norm() -> None:
    assert all(p.gradient_norm is None for p in fluctua.inspect(network(), spikes(T, B, N_IN)))


@pytest.mark.parametrize(
    "loss", [lambda out: out.sum((0, 1)), lambda out: out.sum().detach(), lambda out: out.sum().item()]
)
def test_a_loss_that_is_no_number_with_a_gradient_is_refused(loss: Callable[[Tensor], Any]) -> None:
    with pytest.raises(ValueError, match="the loss must return one number"):
        fluctua.inspect(network(), spikes(T, B, N_IN), loss=loss)


# --- the histogram ---


@pytest.mark.parametrize("window", ["trial", "arrival"])
@pytest.mark.parametrize("bias", [0.0, 1e4])
def test_the_histogram_is_a_density_with_the_mean_of_the_potential(window: Window, bias: float) -> None:
    model = network(bias=True)
    with torch.no_grad():
        weight_of(model, "0.bias").add_(bias)
    for p in fluctua.inspect(model, spikes(T, B, N_IN), window=window):
        widths = np.diff(p.plot_data.edges)
        assert (widths > 0).all()
        assert p.plot_data.density @ widths == pytest.approx(1, abs=1e-9)
        centres = p.plot_data.edges[:-1] + widths / 2
        lost = 0.21 * p.sigma_u  # what lies beyond the edges, 5 sigma_u away, moves the mean by no more (Chebyshev)
        assert (p.plot_data.density * widths) @ centres == pytest.approx(p.mu_u, abs=widths[0] / 2 + lost)


def test_a_large_population_is_thinned_and_its_histogram_stays_a_density() -> None:
    model = filled(nn.Sequential(nn.Linear(4, 3000), LI(0.1)))
    p = only(fluctua.inspect(model, spikes(50, 10, 4)))  # 1.5 million potentials
    widths = np.diff(p.plot_data.edges)
    assert p.plot_data.density @ widths == pytest.approx(1, abs=1e-9)
    middle = (p.plot_data.edges[:-1] + widths / 2) @ (p.plot_data.density * widths)
    assert middle == pytest.approx(p.mu_u, abs=0.01 * p.sigma_u)


# --- networks at the edge ---


def test_a_silent_network_is_called_silent() -> None:
    model = network(gain=0.0)
    for window in ("trial", "arrival"):
        report = fluctua.inspect(model, spikes(T, B, N_IN), window=window)  # type: ignore[arg-type]
        for p in report[:2]:
            assert (p.mu_u, p.sigma_u, p.xi, p.rate, p.latency, p.silent, p.saturated) == (0, 0, None, 0, None, 1, 0)
            assert p.rate_predicted is None
        assert report.warnings == ("no spike within the trial of 0.12 s, in half of the samples or more: 1, 3",)


def test_a_network_of_one_neuron_is_reported_like_any_other() -> None:
    model, x = network(n=1, gain=2.0), spikes(T, B, N_IN)
    _, free, out = plain_simulation(model, x)["1"]
    p = fluctua.inspect(model, x)["1"]
    assert (p.n, p.sigma_across, p.plot_data.shown) == (1, 0, 1)
    assert p.sigma_u == pytest.approx(free.std())
    assert p.rate == pytest.approx(out.mean() / 2e-3)


class Squeezed(nn.Module):
    """One neuron whose current has no axis of neurons."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.lif = nn.Linear(N_IN, 1), LIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(self.linear(x).squeeze(-1))  # type: ignore[no-any-return]


def test_a_current_without_an_axis_of_neurons_is_that_of_one_neuron() -> None:
    squeezed, x = filled(Squeezed()), spikes(T, B, N_IN)
    linear, lif = squeezed.children()
    report, same = fluctua.inspect(squeezed, x), fluctua.inspect(nn.Sequential(linear, lif), x)
    (row,), (expected,) = report.rows(), same.rows()
    names = ("name", "weights")
    assert {k: v for k, v in row.items() if k not in names} == {k: v for k, v in expected.items() if k not in names}


def test_a_readout_alone_has_moments_and_nothing_else() -> None:
    model, x = filled(nn.Sequential(nn.Linear(N_IN, 3), LI(0.1))), spikes(T, B, N_IN)
    report = fluctua.inspect(model, x)
    _, free, _ = plain_simulation(model, x)["1"]
    p = only(report)
    assert p.sigma_u == pytest.approx(free.std())
    assert (p.threshold, p.xi, p.rate, p.silent) == (None, None, None, None)
    assert report.warnings == ()


def test_a_trial_of_one_step_is_all_rest() -> None:
    p = fluctua.inspect(network(), spikes(1, B, N_IN))["1"]
    assert (p.mu_u, p.sigma_u, p.rate) == (0, 0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_in_a_warning(value: float) -> None:
    model = network()
    with torch.no_grad():
        weight_of(model, "2.weight")[0, 0] = value
    report = fluctua.inspect(model, spikes(T, B, N_IN), loss=loss_of)
    assert "the potential of 3 has NaN or infinite values: so have the weights 2.weight" in report.warnings
    assert np.isfinite(report["1"].sigma_u)
    assert not np.isfinite(report["3"].sigma_u)
    assert report["3"].rate_predicted is None
    assert "nan" in str(report)


def test_a_batch_with_nan_is_named_in_a_warning() -> None:
    x = spikes(T, B, N_IN)
    x[5, 0, 0] = float("nan")
    report = fluctua.inspect(network(), x)
    assert report.warnings[0] == (
        "the potential of 1 has NaN or infinite values: look for them in the batch and in biases"
    )


@pytest.mark.parametrize(("spiking_samples", "latency"), [(0, None), (2, None), (3, 20e-3), (4, 18e-3)])
def test_the_latency_is_none_once_half_of_the_samples_have_no_spike(
    spiking_samples: int, latency: float | None
) -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), LIF(20e-3, None))
    with torch.no_grad():
        weight_of(model, "0.weight").fill_(1.5)
    x = torch.zeros(T, 4, 1)
    for b in range(spiking_samples):
        x[10 - b - 1, b] = 1  # sample b spikes in step 10 - b
    assert only(fluctua.inspect(model, x)).latency == (None if latency is None else pytest.approx(latency))


def test_late_activity_is_worth_a_warning() -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), LIF(20e-3, None))
    with torch.no_grad():
        weight_of(model, "0.weight").fill_(1.5)
    early, late = torch.zeros(T, 3, 1), torch.zeros(T, 3, 1)
    early[T // 2], late[T - 5] = 1, 1
    assert fluctua.inspect(model, early).warnings == ()
    (warning,) = fluctua.inspect(model, late).warnings
    assert warning.startswith("first spike only in the last third of the trial of 0.12 s: 1;")


def test_missed_targets_are_named_with_the_worst() -> None:
    model, x = network(), spikes(T, B, N_IN)
    actual = {p.name: p.sigma_u for p in fluctua.inspect(model, x)}
    factors = {"1": 1.05, "3": 1.5, "5": 0.5}
    targets = {name: Moments(np.zeros(()), np.asarray(sigma * factors[name])) for name, sigma in actual.items()}
    report = inspect_network(Network.of(model, x), targets=targets)
    assert report["3"].target_sigma_u == pytest.approx(1.5 * actual["3"])
    assert report.warnings[-1] == (
        f"sigma_U misses its target by more than 10 %: 3, 5 (worst: {actual['5']:.2f} for {0.5 * actual['5']:.2f} in 5)"
    )


def test_a_mean_that_misses_its_target_is_named_with_the_worst() -> None:
    model, x = network(), spikes(T, B, N_IN)
    actual = {p.name: p for p in fluctua.inspect(model, x)}
    shifts = {"1": 0.05, "3": 0.2, "5": -0.5}
    targets = {
        name: Moments(np.asarray(p.mu_u + shifts[name] * p.sigma_u), np.asarray(p.sigma_u))
        for name, p in actual.items()
    }
    warnings = inspect_network(Network.of(model, x), targets=targets).warnings
    assert (
        f"mu_U misses its target by more than a tenth of sigma_U: 3, 5 (worst: {actual['5'].mu_u:.2f} for "
        f"{actual['5'].mu_u - 0.5 * actual['5'].sigma_u:.2f} in 5)"
    ) in warnings


def test_saturation_is_worth_a_warning() -> None:
    model, x = network(bias=True), spikes(T, B, N_IN)
    assert not any("above threshold" in warning for warning in fluctua.inspect(model, x).warnings)
    weight_of(model, "2.bias").data.fill_(20.0)
    (warning,) = [w for w in fluctua.inspect(model, x).warnings if "above threshold" in w]
    assert warning.startswith("the mean potential of at least half of the neurons is above threshold")
    assert ": 3;" in warning


@pytest.mark.parametrize(
    ("n_layers", "beta", "warned"), [(5, 1e3, "fades"), (5, 15.0, None), (13, 6.0, None), (13, 3.0, "grows")]
)
def test_a_gradient_that_fades_or_grows_through_the_layers_is_worth_a_warning(
    n_layers: int, beta: float, warned: str | None
) -> None:
    n = 64
    cells = [LIF(surrogate=SuperSpike(beta)) for _ in range(n_layers)]
    layers = [layer for cell in cells for layer in (nn.Linear(n, n, bias=False), cell)]
    model = nn.Sequential(*layers, nn.Linear(n, 3, bias=False), LI(0.1))
    x = spikes(250, 4, n).float()
    fluctua.initialize(model, x, seed=0)
    report = fluctua.inspect(model, x, loss=lambda output: output.square().mean())
    found = [w for w in report.warnings if w.startswith("the gradient ")]
    assert [w.split()[2] for w in found] == ([warned] if warned else [])
    if warned:
        at_first, at_last = (report[name].gradient_norm or 0.0 for name in ("3", f"{2 * n_layers - 1}"))
        assert (at_first < at_last / 1000) if warned == "fades" else (at_first > 1000 * at_last)


def test_a_gradient_of_nothing_is_told_and_silence_is_not_blamed_on_the_surrogate() -> None:
    n, n_layers = 16, 4
    layers = [layer for _ in range(n_layers) for layer in (nn.Linear(n, n, bias=False), LIF())]
    model, x = nn.Sequential(*layers, nn.Linear(n, 3, bias=False), LI(0.1)), spikes(100, 4, n, p=0.2).float()
    fluctua.initialize(model, x, seed=0)
    through = fluctua.inspect(model, x, loss=lambda output: output.square().mean())
    assert not any("gradient" in warning for warning in through.warnings)
    lost = [p if p.name != "3" else replace(p, gradient_norm=0.0) for p in through]
    (warning,) = _gradient_warnings(tuple(lost))
    assert warning.startswith("the gradient fades from ")
    assert " to 0.0e+00 in 3: " in warning
    silent = [replace(p, latency=None) if p.name == "5" else p for p in lost]
    assert _gradient_warnings(tuple(silent)) == []


def test_many_names_are_cut_short_in_a_warning() -> None:
    layers = [layer for _ in range(8) for layer in (nn.Linear(N_IN, N_IN, bias=False), LIF())]
    report = fluctua.inspect(filled(nn.Sequential(*layers), 0.0), spikes(T, B, N_IN))
    assert report.warnings[0].endswith(": 1, 3, 5, 7, 9 and 3 more")


# --- inspecting is looking ---


def stochastic() -> nn.Module:
    return nn.Sequential(
        OverTime(nn.Conv1d(2, 4, 3)),
        OverTime(nn.BatchNorm1d(4)),
        LIF(),
        nn.Dropout(0.5),
        nn.Flatten(2),
        nn.Linear(40, 3),
        LI(0.1, learn_tau=True),
    )


@pytest.mark.parametrize("loss", [None, loss_of])
@pytest.mark.parametrize("training", [True, False])
def test_inspect_changes_nothing(loss: Callable[[Any], Tensor] | None, training: bool) -> None:
    model, x = filled(stochastic()).train(training), spikes(T, B, 2, 12)
    with torch.no_grad():
        weight_of(model, "0.module.weight").requires_grad_(False)
        weight_of(model, "5.weight").grad = torch.ones(3, 40).double()
    modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    before, batch, random = copy.deepcopy(model.state_dict()), x.clone(), torch.get_rng_state()
    first, second = (fluctua.inspect(model, x, loss=loss) for _ in range(2))
    assert str(first) == str(second)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(x, batch)
    assert torch.equal(torch.get_rng_state(), random)
    assert [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert gradients.keys() == {"5.weight"}
    assert torch.equal(gradients["5.weight"], torch.ones(3, 40).double())


def test_a_failing_forward_leaves_the_model_as_it_was() -> None:
    model, x, calls = network(), spikes(T, B, N_IN), []

    def forward(m: nn.Module, batch: Any) -> Any:
        calls.append(1)
        output = m(batch)
        if len(calls) > 1:  # the first traces the wiring
            raise RuntimeError("out of memory")
        return output

    with pytest.raises(RuntimeError, match="out of memory"):
        fluctua.inspect(model, x, forward=forward)
    assert len(calls) == 2
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_bad_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"the batch must have a time step and a sample, 1 got \[60, 0, 9\]"):
        fluctua.inspect(network(), spikes(T, 0, N_IN))
    with pytest.raises(ValueError, match="unknown window 'half'"):
        fluctua.inspect(network(), spikes(T, B, N_IN), window="half")  # type: ignore[arg-type]
