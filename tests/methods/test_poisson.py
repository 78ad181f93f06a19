import math

import numpy as np
import pytest
import torch
from torch import nn

import fluctua
from fluctua import PspKernel, Target
from fluctua.layers import Recurrent
from fluctua.methods import Poisson
from fluctua.methods.weights import draw
from fluctua.neurons import LI, LIF
from fluctua.theory import Afferent, Drive, Exponential, Normal, solve, xi_for_rate
from fluctua.theory.laws import Uniform, WeightLaw

KERNEL = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)


def papers_law(mean: float, xi: float, n: int, nu: float) -> tuple[float, float]:
    """Mean and std of the weights, by the kernel sums of the authors' code, which runs the neuron on one spike."""
    u = i = 0.0
    a, b, dt = math.exp(-0.1), math.exp(-0.2), 2e-3
    eps = []
    for t in range(500):
        u, i = a * u + (1 - a) * i, b * i + (1.0 if t == 0 else 0.0)
        eps.append(u)
    eps_bar, eps_hat = sum(eps) * dt, sum(e * e for e in eps) * dt
    mu_w = mean / (n * nu * eps_bar)
    return mu_w, math.sqrt(((1 - mean) / xi) ** 2 / (n * nu * eps_hat) - mu_w**2)


def assert_normal(w: torch.Tensor, mean: float, std: float) -> None:
    """Mean and std of the entries within five standard errors, and the share of tails that a normal law has."""
    z = (w.detach().double() - mean) / std
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert abs(float(z.std()) - 1) < 5 / math.sqrt(2 * z.numel())
    tail = 0.0455  # beyond two standard deviations
    assert abs(float((z.abs() > 2).double().mean()) - tail) < 5 * math.sqrt(tail / z.numel())


@pytest.mark.parametrize(("mean", "xi"), [(0.0, 1.0), (0.0, 2.5), (0.4, 1.5), (-0.3, 2.0)])
def test_one_tensor_follows_the_papers_formula(mean: float, xi: float) -> None:
    n, nu = 700, 15.8
    mu_w, sigma_w = papers_law(mean, xi, n, nu)
    (law,) = solve(Target(mean, xi), 1.0, KERNEL, [Afferent(Drive.poisson(n, nu, KERNEL))])
    assert float(law.mean) == pytest.approx(mu_w, rel=1e-6)
    assert float(law.std) == pytest.approx(sigma_w, rel=1e-6)

    def drawn(target: Target | None) -> torch.Tensor:
        w = torch.empty(64, n, dtype=torch.float64)
        result = fluctua.fluctuation_driven_(
            w, nu=nu, kernel=KERNEL, target=target, generator=torch.Generator().manual_seed(7)
        )
        assert result is w
        return w

    w = drawn(Target(mean, xi))
    assert_normal(w, mu_w, sigma_w)
    standard = drawn(None) / papers_law(0.0, 1.0, n, nu)[1]
    assert torch.allclose(w, mu_w + sigma_w * standard, rtol=0, atol=1e-6 * sigma_w), "the target moves and scales"


def test_convolutions_count_their_kernel_into_the_fan_in() -> None:
    w = torch.empty(32, 8, 3, 3)
    fluctua.fluctuation_driven_(w, nu=10.0, kernel=KERNEL, generator=torch.Generator().manual_seed(0))
    assert_normal(w, 0.0, 1 / math.sqrt(72 * 10.0 * float(KERNEL.eps_hat)))


def test_weights_are_drawn_by_one_number_of_the_generator() -> None:
    law = WeightLaw(Exponential(), np.asarray(-0.2), np.asarray(0.2), density=0.3)
    first, again, other = (torch.Generator().manual_seed(s) for s in (0, 0, 1))
    w = draw(law, torch.empty(50, 40), first)
    assert w.dtype == torch.float32
    assert torch.equal(w, draw(law, torch.empty(50, 40), again))
    assert torch.allclose(w.double(), draw(law, torch.empty(50, 40, dtype=torch.float64), rewound(again)), rtol=1e-6)
    assert not torch.equal(w, draw(law, torch.empty(50, 40), first)), "each draw moves the generator on"
    assert not torch.equal(w, draw(law, torch.empty(50, 40), other))
    assert bool((w <= 0).all())
    assert abs(float((w != 0).double().mean()) - 0.3) < 5 * math.sqrt(0.21 / w.numel())


def rewound(generator: torch.Generator) -> torch.Generator:
    return generator.manual_seed(generator.initial_seed())


def test_neurons_that_share_a_row_share_the_mean_of_their_laws() -> None:
    """A convolution `[channels, in, k, k]` into neurons `[channels, height, width]`."""
    std = np.array([1.0, 3.0]).reshape(2, 1, 1) * np.array([0.5, 1.5]).reshape(1, 2, 1) * np.ones((1, 1, 4))
    w = draw(WeightLaw(Normal(), np.asarray(0.0), std), torch.empty(2, 50, 5, 5), torch.Generator().manual_seed(0))
    assert_normal(w[0], 0.0, 1.0)
    assert_normal(w[1], 0.0, 3.0)
    w = draw(WeightLaw(Normal(), np.asarray(0.0), std), torch.empty(7, 200), torch.Generator().manual_seed(0))
    assert_normal(w, 0.0, 2.0)


def network(depth: int = 3, bias: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in [50] + [64] * (depth - 1):
        layers += [nn.Linear(n, 64, bias=bias), LIF()]
    return nn.Sequential(*layers, nn.Linear(64, 5, bias=bias), LI(0.2))


def batch(rate: float = 20.0) -> torch.Tensor:
    return (torch.rand(200, 16, 50, generator=torch.Generator().manual_seed(0)) < rate * 2e-3).float()


def linears(model: nn.Sequential) -> list[nn.Linear]:
    return [layer for layer in model if isinstance(layer, nn.Linear)]


def test_the_network_gets_the_formula_with_one_global_rate() -> None:
    model = network(bias=True)
    report = fluctua.initialize(model, batch(), method=Poisson(nu=15.8), seed=5)
    for layer in linears(model):
        kernel, sigma = (KERNEL, 1.0) if layer.out_features == 64 else (PspKernel.exponential(0.2, 10e-3, dt=2e-3), 0.1)
        assert_normal(layer.weight, 0.0, sigma / math.sqrt(layer.in_features * 15.8 * float(kernel.eps_hat)))
        assert not layer.bias.any()
    second, third = linears(model)[1:3]
    assert not torch.allclose(second.weight, third.weight), "each layer gets its own draw"
    assert "4 bias(es) were set to zero" in report.notes


def test_the_same_seed_gives_the_same_weights_whatever_torch_has_drawn() -> None:
    found = []
    for k in range(2):
        torch.manual_seed(k)
        fluctua.initialize(model := network(), batch(), method=Poisson(nu=15.8), seed=0)
        found.append(linears(model)[0].weight)
    assert torch.equal(*found)


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_recurrent_weights_supply_what_alpha_leaves_and_the_law_is_the_one_asked_for(share: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 200), Recurrent(LIF(), nn.Linear(200, 200, bias=False)))
    fluctua.initialize(model, batch(), method=Poisson(nu=20.0, alpha=share, law=Uniform()), seed=0)
    parts = [layer.weight.detach() for layer in model.modules() if isinstance(layer, nn.Linear)]
    for w, part in zip(parts, (share, 1 - share), strict=True):
        sigma = math.sqrt(part / (w.shape[1] * 20.0 * float(KERNEL.eps_hat)))
        assert float(w.std()) == pytest.approx(sigma, rel=0.05)  # 5 standard errors of 10,000 weights are 0.03
        assert float(w.abs().max()) <= math.sqrt(3) * sigma * (1 + 1e-6)


def test_a_rate_stands_for_the_xi_that_the_theory_gives_it() -> None:
    models = [network() for _ in range(2)]
    xi = float(xi_for_rate(3.0, KERNEL))
    for model, target in zip(models, (Target(rate=3.0), Target(xi=xi)), strict=True):
        fluctua.initialize(model, batch(), target, method=Poisson(nu=15.8), seed=0)
    assert torch.allclose(linears(models[0])[0].weight, linears(models[1])[0].weight, rtol=1e-6)


def test_rates_below_one_hertz_are_rates_and_zero_is_none() -> None:
    models = [network() for _ in range(2)]
    for model, nu in zip(models, (0.5, 2.0), strict=True):
        fluctua.initialize(model, batch(), method=Poisson(nu=nu), seed=0)
    assert torch.allclose(linears(models[0])[0].weight, 2 * linears(models[1])[0].weight, rtol=1e-6)
    for nu in (0.0, math.inf, -1.0):
        with pytest.raises(ValueError, match="nu must be a positive rate in Hz"):
            Poisson(nu=nu)


def test_the_rate_of_the_batch_is_the_default() -> None:
    x = batch()
    models = [network() for _ in range(2)]
    fluctua.initialize(models[0], x, method="poisson", seed=0)
    fluctua.initialize(models[1], x, method=Poisson(nu=float(x.double().mean()) / 2e-3), seed=0)
    for one, other in zip(*map(linears, models), strict=True):
        assert torch.allclose(one.weight, other.weight, rtol=1e-6)


def test_the_rate_of_each_layer_can_be_measured() -> None:
    x, model, reference = batch(), network(), network()
    fluctua.initialize(model, x, method=Poisson(nu="per-layer"), seed=0)
    fluctua.initialize(reference, x, method=Poisson(nu=15.8), seed=0)
    with torch.no_grad():
        hidden = model[:2](x)
    nu = float(hidden.double().mean()) / 2e-3
    measured, assumed = linears(model)[1].weight, linears(reference)[1].weight
    assert torch.allclose(measured, assumed * math.sqrt(15.8 / nu), rtol=1e-4)


def test_the_formula_drifts_with_depth_and_the_measured_method_does_not() -> None:
    x, model = batch(), network(depth=8)
    formula = fluctua.initialize(model, x, Target(xi=2.0), method="poisson", seed=0)
    measured = fluctua.initialize(model, x, Target(xi=2.0), seed=0)
    hidden = [p.name for p in measured if p.threshold is not None]
    assert formula[hidden[-1]].sigma_u < 0.1 * 0.5, "xi = 2 dies out: each layer is driven by less than was assumed"
    assert any("misses its target" in warning for warning in formula.warnings)
    for name in hidden:
        assert measured[name].sigma_u == pytest.approx(0.5, rel=1e-3)


def test_a_weight_of_one_row_is_filled_and_what_is_none_is_refused() -> None:
    assert fluctua.fluctuation_driven_(torch.zeros(1, 50), nu=10.0, kernel=KERNEL).all()
    with pytest.raises(ValueError, match="tensor must be a dense floating-point tensor"):
        fluctua.fluctuation_driven_(torch.zeros(5, 5, dtype=torch.long), nu=10.0, kernel=KERNEL)


def test_a_one_dimensional_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a weight \[out, in"):
        fluctua.fluctuation_driven_(torch.empty(5), nu=10.0, kernel=KERNEL)


@pytest.mark.parametrize("nu", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(nu: float) -> None:
    with pytest.raises(ValueError, match="a rate above zero"):
        fluctua.fluctuation_driven_(torch.empty(5, 5), nu=nu, kernel=KERNEL)
