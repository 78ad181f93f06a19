"""Layers under Dale's law equal a loop written by hand, and no weight ever has the wrong sign."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fluctua
from fluctua.layers import DaleLayer
from fluctua.layers.dale import DaleError, SignedLinear, constrain_, keep_signs
from fluctua.methods import Measured, Poisson
from fluctua.methods.method import Method
from fluctua.neurons import LI
from fluctua.theory import Target
from fluctua.theory.laws import Exponential, Gamma, HalfNormal, LogNormal, Normal, OneSided
from shared.circuit_loops import dale_by_hand, populations_of
from shared.spikes import spikes

FAMILIES = [Exponential(), LogNormal(1.0), Gamma(2.0), Gamma(0.5), HalfNormal()]


def layer(n_in: int = 20, n_exc: int = 12, n_inh: int = 3, *, gain: float = 12.0, **options: Any) -> DaleLayer:
    """A layer in double precision, its input strong enough for spikes."""
    torch.manual_seed(0)
    dale = DaleLayer(n_in, n_exc, n_inh, **options).double()
    with torch.no_grad():
        for w in (dale.input_exc.weight, dale.input_inh.weight):
            w.mul_(gain)
    return dale


def signed(model: nn.Module) -> list[Tensor]:
    return [m.weight for m in model.modules() if isinstance(m, SignedLinear)]


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(DaleLayer(20, 12, 3, **options), nn.Linear(12, 4), LI(0.1))


# -- the loop --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"recurrent_excitation": False},
        {"tau_mem": 10e-3, "tau_exc": 5e-3, "tau_inh": 30e-3, "dt": 1e-3},
        {"reset": "subtract", "threshold": 0.7, "gain": 5.0},
        {"differentiable_reset": True, "learn_tau": True},
    ],
    ids=["default", "no recurrent excitation", "time constants", "soft reset", "trained"],
)
def test_it_equals_a_loop_by_hand_with_its_gradients(options: dict[str, Any]) -> None:
    dale, x = layer(**options), spikes(80, 4, 20, p=0.3).double().requires_grad_()
    expected = dale_by_hand(dale, x)
    currents = dale.input_exc(x), dale.input_inh(x)
    seen = populations_of(dale.circuit, *currents)
    out = dale(x)
    for mine, true in ((seen["exc"], expected["exc"]), (seen["inh"], expected["inh"]), (out, expected["exc"])):
        assert torch.equal(mine, true)
        assert 0.005 < float(true.detach().mean()) < 0.6
    inputs = [x, *dale.parameters()]
    upstream = torch.randn(out.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ours, truth = (torch.autograd.grad(o, inputs, upstream) for o in (out, expected["exc"]))
    for mine, true in zip(ours, truth, strict=True):
        torch.testing.assert_close(mine, true, rtol=0, atol=1e-10 * float(true.abs().max()))
        assert true.abs().max() > 0


def test_inhibition_inhibits() -> None:
    dale, x = layer(), spikes(80, 4, 20, p=0.3).double()
    counts = []
    for strength in (0.0, 1.0, 10.0):
        with torch.no_grad():
            dale.circuit.inh_exc.weight.fill_(strength)
        counts.append(float(dale(x).sum().detach()))
    assert counts[0] > counts[1] > counts[2]


def test_the_papers_ratio_is_the_default() -> None:
    dale = DaleLayer(700, 128)
    assert dale.circuit.inh_exc.weight.shape == (128, 32)
    assert dale.circuit.inh_inh.weight.shape == (32, 32)
    assert all(isinstance(m.family, Exponential) for m in dale.modules() if isinstance(m, SignedLinear))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DaleLayer(5, 0), "every population needs a neuron, got n_in=5, n_exc=0"),
        (lambda: DaleLayer(5, 4, 0), "every population needs a neuron"),
        (lambda: DaleLayer(5, 4, family=Normal()), "needs a one-sided law such as Exponential"),  # type: ignore[arg-type]
        (lambda: SignedLinear(5, 4, Normal()), "needs a one-sided law such as Exponential"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_layer_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# -- signs -----------------------------------------------------------------------------------------------------


def assert_signs(model: nn.Module) -> None:
    assert all(bool((w >= 0).all()) for w in signed(model))
    assert len(signed(model)) >= 4


def test_signs_are_right_from_the_start() -> None:
    assert_signs(network())
    for w in signed(network()):
        assert float(w.detach().max()) <= 2 / w.shape[1]
        assert float(w.detach().mean()) == pytest.approx(1 / w.shape[1], rel=4 / (3 * w.numel()) ** 0.5)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("method", [Measured(), Poisson(nu=25.0)], ids=["measured", "poisson"])
def test_initialised_weights_have_their_sign(family: OneSided, method: Method) -> None:
    model, x = DaleLayer(40, 40, 10, family=family), spikes(150, 8, 40, p=0.05)
    fluctua.initialize(model, x, Target(xi=1.0), method=method, seed=0)
    assert_signs(model)
    model(x)
    kappas = [float(w.detach().square().mean() / w.detach().mean() ** 2) for w in signed(model)[:1]]
    # 1600 weights: the mean square of heavy tails is known to some 10-20 %.
    assert kappas[0] == pytest.approx(family.kappa, rel=0.25)


@pytest.mark.parametrize(("value", "message"), [(-0.1, "a weight of -0.1 breaks Dale's law"), (float("nan"), "is NaN")])
def test_a_forward_pass_refuses_wrong_signs_and_nan(value: float, message: str) -> None:
    for k in range(6):
        model, x = network(), spikes(10, 2, 20)
        with torch.no_grad():
            signed(model)[k].flatten()[3] = value
        with pytest.raises(DaleError, match=message):
            model(x)
        constrain_(model)
        if value < 0:
            model(x)
            assert float(signed(model)[k].detach().flatten()[3]) == 0


def free_weight(model: nn.Sequential) -> Tensor:
    """Of the readout, which Dale's law does not bind."""
    assert isinstance(model[1], nn.Linear)
    return model[1].weight.detach().clone()


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step along gradients that push all weights down."""
    for w in model.parameters():
        w.grad = torch.ones_like(w)
    optimizer.step()


def test_keep_signs_constrains_after_every_step_until_removed() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    free = free_weight(model)
    handle = keep_signs(optimizer, model)
    for _ in range(3):
        stepped(model, optimizer)
        assert_signs(model)
    assert any(bool((w == 0).any()) for w in signed(model)), "the steps were long enough to meet zero"
    torch.testing.assert_close(free_weight(model), free - 0.15)  # other weights go where they like
    assert bool((free_weight(model) < 0).any())
    handle.remove()
    stepped(model, optimizer)
    with pytest.raises(DaleError, match="breaks Dale's law"):
        model(spikes(10, 2, 20))


def test_signs_outlast_training_with_lightning() -> None:
    lightning = pytest.importorskip("lightning")
    from fluctua.lab.training.module import SpikingClassifier

    model, x = network(), spikes(40, 24, 20, p=0.3)
    before = [w.detach().clone() for w in signed(model)]
    samples = TensorDataset(x.transpose(0, 1), torch.arange(24) % 4)
    loader: DataLoader[Any] = DataLoader(samples, batch_size=4, collate_fn=collate)
    silent = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **silent)
    trainer.fit(SpikingClassifier(model, optimizer="adam", lr=0.05), loader)
    assert_signs(model)
    assert all(bool((w == 0).any()) for w in signed(model)[:2]), "training has pushed weights against zero"
    assert not any(torch.equal(w, old) for w, old in zip(signed(model), before, strict=True))
    model(x)


def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x, y = zip(*samples, strict=True)
    return torch.stack(x, 1), torch.stack(y)
