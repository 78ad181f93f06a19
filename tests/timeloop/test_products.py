"""Products of matrices by either library."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fluctua.timeloop import products
from fluctua.timeloop.engines import engine  # noqa: F401 - the loops' package, as a user imports it

EPSILON = torch.finfo(torch.float32).eps


def error(found: Tensor, a: Tensor, b: Tensor) -> float:
    """The error of a product, in that of a sum of so many numbers of such sizes."""
    truth, sizes = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    return float(((found - truth).abs() / (EPSILON * a.shape[1] * sizes)).max())


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Either library, on any machine."""
    if request.param and not torch._C._has_mkldnn:
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(products, "_has_unused_vectors", lambda: request.param)
    return bool(request.param)


def matrices(*shapes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("size", [3, 300])
@pytest.mark.usefixtures("library")
def test_a_product_has_the_error_of_its_sums_however_its_matrices_lie_in_memory(size: int) -> None:
    a, b, wide = matrices((size, 2 * size), (2 * size, size), (size, 3 * size))
    part = wide[:, : 2 * size]
    for left, right in ((a, b), (b.t(), a.t()), (part, b), (part, a.t())):
        assert error(products.times(left, right), left, right) < 1


@pytest.mark.usefixtures("library")
def test_a_product_may_be_written_to_a_part_of_a_matrix() -> None:
    a, b, whole = matrices((2500, 70), (70, 90), (2500, 100))
    products.put(whole[:, :90], a, b)
    assert error(whole[:, :90], a, b) < 1


@pytest.mark.usefixtures("library")
def test_a_layer_and_its_gradients_are_those_of_torch() -> None:
    x, weight, bias = matrices((6 * 50, 120), (160, 120), (1, 160))
    given = [t.requires_grad_() for t in (x.view(6, 50, 120), weight, bias.view(160))]
    wide = [t.detach().double().requires_grad_() for t in given]
    found, truth = products.linear(*given), F.linear(*wide)
    assert torch.allclose(found.double(), truth, atol=1e-4)
    gradients = [torch.autograd.grad(y.sin().sum(), ts) for y, ts in ((found, given), (truth, wide))]
    for mine, own in zip(*gradients, strict=True):
        assert float((mine - own).abs().max()) < 1e-5 * float(own.abs().max())


def test_only_large_products_of_single_precision_go_to_the_other_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_has_unused_vectors", lambda: True)
    assert products._quicker(1 << 22, torch.float32)
    assert not products._quicker(1 << 20, torch.float32)
    assert not products._quicker(1 << 22, torch.float64)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not products._quicker(1 << 22, torch.float32)
