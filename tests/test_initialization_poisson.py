import math

import pytest
import torch
from torch import nn

import fluctua
from fluctua import PspKernel, Target
from fluctua.neurons import LI, LIF

KERNEL = PspKernel.exponential(20e-3, 10e-3, dt=2e-3)


def standard_normal(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("mean", "xi"), [(0.0, 1.0), (0.0, 2.5), (0.4, 1.5), (-0.3, 2.0)])
def test_one_tensor_follows_the_papers_formula(mean: float, xi: float) -> None:
    n, nu = 700, 15.8
    w = torch.empty(64, n, dtype=torch.float64)
    result = fluctua.fluctuation_driven_(
        w, nu=nu, kernel=KERNEL, target=Target(mean, xi), generator=torch.Generator().manual_seed(7)
    )
    assert result is w
    # The kernel sums as the authors' code computes them: by running the neuron on one spike.
    u = i = 0.0
    a, b, dt = math.exp(-0.1), math.exp(-0.2), 2e-3
    eps = []
    for t in range(500):
        u, i = a * u + (1 - a) * i, b * i + (1.0 if t == 0 else 0.0)
        eps.append(u)
    eps_bar, eps_hat = sum(eps) * dt, sum(e * e for e in eps) * dt
    mu_w = mean / (n * nu * eps_bar)
    sigma_w = math.sqrt(((1 - mean) / xi) ** 2 / (n * nu * eps_hat) - mu_w**2)
    z = standard_normal((64, n), 7).double()
    assert torch.allclose(w, mu_w + sigma_w * z, rtol=1e-6, atol=1e-6 * sigma_w)


def test_convolutions_count_their_kernel_into_the_fan_in() -> None:
    w = torch.empty(32, 8, 3, 3)
    fluctua.fluctuation_driven_(w, nu=10.0, kernel=KERNEL, generator=torch.Generator().manual_seed(0))
    sigma = 1 / math.sqrt(72 * 10.0 * float(KERNEL.eps_hat))
    assert torch.allclose(w, sigma * standard_normal((32, 8, 3, 3), 0), rtol=1e-5)


def network(depth: int = 3, bias: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in [50] + [64] * (depth - 1):
        layers += [nn.Linear(n, 64, bias=bias), LIF()]
    return nn.Sequential(*layers, nn.Linear(64, 5, bias=bias), LI(0.2))


def batch(rate: float = 20.0) -> torch.Tensor:
    return (torch.rand(200, 16, 50, generator=torch.Generator().manual_seed(0)) < rate * 2e-3).float()


def test_the_network_gets_the_formula_with_one_global_rate() -> None:
    model = network(bias=True)
    report = fluctua.initialize(model, batch(), method="poisson", nu=15.8, seed=5)
    draws = torch.Generator().manual_seed(5)
    for layer in model:
        if isinstance(layer, nn.Linear):
            n = layer.in_features
            kernel = KERNEL if layer.out_features == 64 else PspKernel.exponential(0.2, 10e-3, dt=2e-3)
            sigma = 1 / math.sqrt(n * 15.8 * float(kernel.eps_hat))
            expected = sigma * torch.randn(layer.weight.shape, generator=draws)
            assert torch.allclose(layer.weight, expected, rtol=1e-5, atol=1e-6 * sigma)
            assert not layer.bias.any()
    assert "4 bias(es) were set to zero" in report.notes


def test_the_rate_of_the_batch_is_the_default() -> None:
    x = batch()
    models = [network() for _ in range(2)]
    fluctua.initialize(models[0], x, method="poisson", seed=0)
    fluctua.initialize(models[1], x, method="poisson", nu=float(x.double().mean()) / 2e-3, seed=0)
    assert torch.allclose(models[0][0].weight, models[1][0].weight, rtol=1e-6)


def test_the_rate_of_each_layer_can_be_measured() -> None:
    x, model = batch(), network()
    fluctua.initialize(model, x, method="poisson", nu="per-layer", seed=0)
    with torch.no_grad():
        hidden = model[1](model[0](x))
    nu = float(hidden.double().mean()) / 2e-3
    sigma = 1 / math.sqrt(64 * nu * float(KERNEL.eps_hat))
    draws = torch.Generator().manual_seed(0)
    torch.randn(64, 50, generator=draws)
    assert torch.allclose(model[2].weight, sigma * torch.randn(64, 64, generator=draws), rtol=1e-4)


def test_the_formula_drifts_with_depth_and_the_measured_method_does_not() -> None:
    x, model = batch(), network(depth=8)
    formula = fluctua.initialize(model, x, Target(xi=2.0), method="poisson", seed=0)
    measured = fluctua.initialize(model, x, Target(xi=2.0), seed=0)
    hidden = [p.name for p in measured if p.threshold is not None]
    assert formula[hidden[-1]].sigma_u < 0.1 * 0.5, "xi = 2 dies out: each layer is driven by less than was assumed"
    assert any("misses its target" in warning for warning in formula.warnings)
    for name in hidden:
        assert measured[name].sigma_u == pytest.approx(0.5, rel=1e-3)


def test_a_one_dimensional_tensor_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a weight \[out, in"):
        fluctua.fluctuation_driven_(torch.empty(5), nu=10.0, kernel=KERNEL)


@pytest.mark.parametrize("nu", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(nu: float) -> None:
    with pytest.raises(ValueError, match="a rate above zero"):
        fluctua.fluctuation_driven_(torch.empty(5, 5), nu=nu, kernel=KERNEL)
