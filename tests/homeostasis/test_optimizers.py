import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fluctua.homeostasis.optimizers import SMORMS3, make_optimizer

Array = NDArray[np.float64]


def backward(loss: torch.Tensor, weight: torch.Tensor) -> None:
    (weight.grad,) = torch.autograd.grad(loss, weight)


def smorms3(weight: Array, gradients: list[Array], lr: float, eps: float) -> Array:
    """Funk's three lines, literally."""
    mem, g, g2 = np.ones_like(weight), np.zeros_like(weight), np.zeros_like(weight)
    for grad in gradients:
        r = 1 / (mem + 1)
        g = (1 - r) * g + r * grad
        g2 = (1 - r) * g2 + r * grad**2
        weight = weight - grad * np.minimum(lr, g * g / (g2 + eps)) / (np.sqrt(g2) + eps)
        mem = 1 + mem * (1 - g * g / (g2 + eps))
    return weight


def test_smorms3_equals_the_transcription() -> None:
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(4, 3)) * 10.0 ** rng.integers(-9, 3) for _ in range(50)]
    gradients[7][:] = 0.0
    start = rng.normal(size=(4, 3))
    weight = torch.tensor(start, requires_grad=True)
    optimizer = SMORMS3([weight], lr=0.3)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(weight.detach().numpy(), smorms3(start, gradients, 0.3, 1e-16), rtol=1e-12)


def test_smorms3_finds_the_minimum_of_a_badly_scaled_quadratic() -> None:
    scale = torch.tensor([1e-2, 1.0, 1e3])
    weight = torch.ones(3, requires_grad=True)
    optimizer = SMORMS3([weight], lr=0.05)

    def closure() -> float:
        loss = (scale * weight.square()).sum()
        backward(loss, weight)
        return loss.item()

    first = optimizer.step(closure)
    for _ in range(500):
        last = optimizer.step(closure)
    assert last < 1e-4 * first
    assert weight.abs().max().item() < 1e-2


def test_smorms3_does_not_know_the_scale_of_the_loss() -> None:
    def end(scale: float) -> Array:
        weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
        optimizer = SMORMS3([weight], lr=0.1)
        for _ in range(20):
            backward(scale * (weight * torch.tensor([1.0, 2.0, 3.0])).square().sum(), weight)
            optimizer.step()
        return np.asarray(weight.detach())

    np.testing.assert_allclose(end(1.0), end(1e4), rtol=1e-6)


def test_smorms3_goes_on_from_its_state_dict() -> None:
    def steps(weight: torch.Tensor, optimizer: SMORMS3, n: int) -> None:
        for _ in range(n):
            backward(weight.pow(4).sum(), weight)
            optimizer.step()

    whole, half = (torch.linspace(1, 2, 5, requires_grad=True) for _ in range(2))
    optimizer = SMORMS3([whole], lr=0.1)
    steps(whole, optimizer, 6)
    first = SMORMS3([half], lr=0.1)
    steps(half, first, 3)
    second = SMORMS3([half], lr=0.1)
    second.load_state_dict(first.state_dict())
    steps(half, second, 3)
    assert torch.equal(whole, half)


def test_a_weight_without_gradient_stays() -> None:
    moving, idle = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    optimizer = SMORMS3([moving, idle])
    backward(moving.sum(), moving)
    optimizer.step()
    assert not torch.equal(moving, torch.ones(2))
    assert torch.equal(idle, torch.ones(2))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("smorms3", SMORMS3), ("SMORMS3", SMORMS3), ("adamw", torch.optim.AdamW), ("SGD", torch.optim.SGD)],
)
def test_optimizers_by_name(name: str, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = make_optimizer(name, [torch.nn.Parameter(torch.ones(2))], lr=0.25)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_options_are_handed_on() -> None:
    optimizer = make_optimizer("sgd", [torch.nn.Parameter(torch.ones(2))], lr=0.1, momentum=0.9)
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("name", ["nadamm", "optimizer", "lr_scheduler"])
def test_an_unknown_name_is_answered_with_some_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match="choose smorms3, adam"):
        make_optimizer(name, [torch.nn.Parameter(torch.ones(2))], lr=0.1)


@pytest.mark.parametrize(("lr", "eps"), [(0.0, 1e-16), (-1.0, 1e-16), (float("nan"), 1e-16), (0.1, 0.0)])
def test_senseless_settings_are_refused(lr: float, eps: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        SMORMS3([torch.nn.Parameter(torch.ones(2))], lr=lr, eps=eps)
