"""Every fused loop has a first derivative only and says so; the plain loop has all."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import DaleLayer, FusedSequential, OverTime, Recurrent
from fluctua.neurons import LI, LIF, AdaptiveLIF, ExcInhLIF
from fluctua.timeloop import engine

REFUSAL = r"can be differentiated only once; for second derivatives .* `with fluctua\.timeloop\.engine\('reference'\):`"


def chain() -> nn.Module:
    return FusedSequential(
        nn.Linear(6, 6), LIF(), nn.Linear(6, 6), Recurrent(LIF(), nn.Linear(6, 6)), nn.Linear(6, 2), LI()
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lif": lambda: LIF(learn_tau=True),
    "readout": LI,
    "adaptive": lambda: AdaptiveLIF(kind="current", coupling=0.3),
    "exc inh": ExcInhLIF,
    "chain": chain,
    "recurrent": lambda: Recurrent(LIF(), nn.Linear(6, 6)),
    "dale": lambda: DaleLayer(6, 4, 2),
    "convolution": lambda: nn.Sequential(nn.Unflatten(2, (1, 6)), OverTime(nn.Conv1d(1, 2, 3)), LIF()),
    "weight behind": lambda: nn.Sequential(LIF(), nn.Linear(6, 3, bias=False)),
}

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda out: out.sum(),  # of which a gradient that torch took for a constant would have no second one
    "squared": lambda out: (out - 0.3).square().sum(),
}


def made(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    x = (torch.rand(40, 5, 6, generator=torch.Generator().manual_seed(1)) < 0.2).double()
    return NETWORKS[name]().double(), (3 * x).requires_grad_()


def gradient_penalty(model: Callable[[Tensor], Tensor], x: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
    (gradient,) = torch.autograd.grad(loss(model(x)), x, create_graph=True)
    return gradient.square().sum()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_who_differentiates_a_gradient_of_a_fused_loop_is_refused(name: str, loss: str) -> None:
    model, x = made(name)
    penalty = gradient_penalty(model, x, LOSSES[loss])
    assert float(penalty.detach()) > 0
    for tensor in (x, *model.parameters()):  # one by one: autograd goes only where it finds what is asked for
        with pytest.raises(RuntimeError, match=REFUSAL):
            torch.autograd.grad(penalty, tensor, retain_graph=True)
    with pytest.raises(RuntimeError, match=REFUSAL):
        penalty.backward()  # type: ignore[no-untyped-call]


def test_the_compact_loop_refuses_alike() -> None:
    model, x = made("lif")
    with engine("cpu-bfloat16"):
        penalty = gradient_penalty(model, x, LOSSES["linear"])
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.autograd.grad(penalty, x)


def test_a_gradient_that_is_only_used_goes_through() -> None:
    """As in `create_graph=True` for the sake of other parts of a graph."""
    model, x = made("chain")
    (plain,) = torch.autograd.grad(model(x).sum(), x)
    (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    assert torch.equal(gradient, plain)
    scale = torch.ones((), dtype=x.dtype, requires_grad=True)
    (slope,) = torch.autograd.grad((scale * gradient).sum(), scale)
    assert slope == pytest.approx(float(plain.sum()))


@pytest.mark.parametrize("name", ["lif", "readout", "adaptive", "exc inh"])
def test_the_operators_of_compiled_code_refuse_alike(name: str) -> None:
    model, x = made(name)
    torch._dynamo.reset()
    penalty = gradient_penalty(torch.compile(model, backend="eager"), x, LOSSES["squared"])
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.autograd.grad(penalty, x)


def test_torchs_own_hessian_products_are_refused_too() -> None:
    model, x = made("chain")
    with pytest.raises(RuntimeError, match=REFUSAL):
        torch.autograd.functional.hvp(lambda x: model(x).square().sum(), x, x.detach())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_way_out_gives_second_derivatives(name: str) -> None:
    model, x = made(name)
    with engine("reference"):
        (second,) = torch.autograd.grad(gradient_penalty(model, x, LOSSES["squared"]), x)
    assert bool(second.isfinite().all())
    assert bool(second.any())


def test_those_of_a_readout_are_those_of_finite_differences() -> None:
    model, x = made("readout")
    step = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(2))
    with engine("reference"):
        (second,) = torch.autograd.grad(gradient_penalty(model, x, LOSSES["squared"]), x)
        ahead, back = (
            gradient_penalty(model, (x + s * step).detach().requires_grad_(), LOSSES["squared"]) for s in (1, -1)
        )
    # Exact but for rounding, since the penalty is quadratic.
    torch.testing.assert_close((second * step).sum(), ((ahead - back) / 2).detach(), rtol=1e-10, atol=0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_torch_jit_traces_the_reference_loop() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), LIF(), nn.Linear(6, 2), LI())
    x, other = ((torch.rand(15, 3, 8) < 0.3).float() for _ in range(2))
    traced: Callable[[Tensor], Tensor] = torch.jit.trace(model, x)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(traced(other), model(other))
