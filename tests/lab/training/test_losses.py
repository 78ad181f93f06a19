import pytest
import torch
from torch import Tensor, nn

import fluctua
from fluctua.lab import training
from fluctua.lab.training import (
    LOSSES,
    TimeLoss,
    ValueLoss,
    loss_by_name,
)
from fluctua.neurons import LI, LIF

OF_CLASSES = {name: loss for name, loss in LOSSES.items() if isinstance(loss, TimeLoss)}
losses = pytest.mark.parametrize("loss", OF_CLASSES.values(), ids=list(OF_CLASSES))


def readout(t: int = 7, b: int = 5, c: int = 3) -> Tensor:
    return torch.randn(t, b, c, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_max_over_time_is_minus_the_mean_log_probability_of_the_right_class() -> None:
    output, labels = readout(), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for b, label in enumerate(labels.tolist()):
        peaks = [max(output[t, b, c].item() for t in range(7)) for c in range(3)]
        total -= (torch.tensor(peaks, dtype=torch.float64).log_softmax(0)[label]).item()
    assert TimeLoss("max")(output, labels).item() == pytest.approx(total / 5)


def test_sum_of_softmax_is_minus_the_mean_log_of_the_right_class_s_mean_probability() -> None:
    output, labels = readout(), torch.tensor([0, 2, 1, 1, 0])
    right = torch.stack([output.softmax(2)[:, b, label] for b, label in enumerate(labels.tolist())])
    assert TimeLoss("softmax")(output, labels).item() == pytest.approx(-right.mean(1).log().mean().item())


def test_the_last_step_alone_counts_or_every_step_alike() -> None:
    output, labels = readout(), torch.tensor([0, 2, 1, 1, 0])
    by_step = [torch.nn.functional.cross_entropy(step, labels).item() for step in output]
    assert TimeLoss("last")(output, labels).item() == pytest.approx(by_step[-1])
    assert TimeLoss("every")(output, labels).item() == pytest.approx(sum(by_step) / len(by_step))
    assert torch.equal(TimeLoss("last").predict(output), output[-1].argmax(1))


def test_values_are_compared_with_every_step_the_last_or_the_mean() -> None:
    output = readout()
    wanted = torch.arange(15, dtype=torch.float64).reshape(5, 3) / 10
    assert ValueLoss("last")(output, wanted).item() == pytest.approx(((output[-1] - wanted) ** 2).mean().item())
    assert ValueLoss("mean")(output, wanted).item() == pytest.approx(((output.mean(0) - wanted) ** 2).mean().item())
    assert ValueLoss()(output, wanted).item() == pytest.approx(((output - wanted) ** 2).mean().item())
    course = readout() * 2
    assert ValueLoss()(output, course).item() == pytest.approx(((output - course) ** 2).mean().item())
    with pytest.raises(ValueError, match=r"the wanted values must be \[5, 3\], got \[5\]"):
        ValueLoss("last")(output, wanted[:, 0])
    with pytest.raises(ValueError, match=r"ValueLoss.'first'. is unknown: choose one of every, last, mean"):
        ValueLoss("first")


@pytest.mark.parametrize("name", ["mse_every_step", "mse_last_step", "mse_mean_over_time"])
def test_the_squared_error_of_classes_is_that_from_one_hot(name: str) -> None:
    output, labels, loss = readout(), torch.tensor([0, 2, 1, 1, 0]), loss_by_name(name)
    hot = torch.nn.functional.one_hot(labels, 3).double()
    assert isinstance(loss, ValueLoss)
    assert loss(output, labels).item() == pytest.approx(loss(output, hot).item())
    assert torch.equal(loss.classes(hot.expand(7, 5, 3)), labels)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2"):
        loss(output, labels + 1)


def test_a_readout_can_begin_with_the_moments_of_the_wanted_values() -> None:
    torch.manual_seed(0)
    x = (torch.rand(150, 32, 40) < 0.05).float()
    wanted = torch.randn(32, 2) * 0.3 - 0.1
    model = nn.Sequential(nn.Linear(40, 64), LIF(), nn.Linear(64, 2), LI(0.02))
    report = fluctua.initialize(model, x, readout=ValueLoss("last").readout(wanted), seed=0)
    moments = (float(wanted.mean()), float(wanted.std(correction=0)))
    assert (report["3"].mu_u, report["3"].sigma_u) == pytest.approx(moments, rel=1e-2)


def test_sum_of_softmax_stays_finite_where_the_right_class_is_hopeless() -> None:
    output = torch.tensor([[[0.0, 1e3]]]).expand(7, 1, 2).clone().requires_grad_()  # its probability is 0 in float32
    loss = TimeLoss("softmax")(output, torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, output)
    assert loss.item() == 1e3
    rounding = 1e3 * torch.finfo(torch.float32).eps
    torch.testing.assert_close(gradient.sum(0), torch.tensor([[-1.0, 1.0]]), rtol=0, atol=rounding)


@losses
def test_one_time_step_makes_all_losses_the_cross_entropy(loss: TimeLoss) -> None:
    output, labels = readout(t=1), torch.tensor([0, 2, 1, 1, 0])
    assert loss(output, labels).item() == pytest.approx(torch.nn.functional.cross_entropy(output[0], labels).item())


@pytest.mark.parametrize("loss", [loss for loss in OF_CLASSES.values() if loss.over_time != "last"])
def test_the_order_of_time_steps_does_not_matter(loss: TimeLoss) -> None:
    output, labels = readout(), torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(loss(output, labels), loss(output.flip(0), labels))


@losses
def test_gradient_is_right(loss: TimeLoss) -> None:
    labels = torch.tensor([0, 2, 1, 1, 0])
    assert torch.autograd.gradcheck(lambda output: loss(output, labels), readout().requires_grad_())


@losses
def test_the_prediction_is_the_label_of_least_loss(loss: TimeLoss) -> None:
    output = readout(b=1)
    costs = [loss(output, torch.tensor([label])).item() for label in range(3)]
    assert loss.predict(output).tolist() == [costs.index(min(costs))]


def test_max_over_time_sends_the_gradient_to_one_step_only() -> None:
    output = torch.zeros(6, 1, 2, requires_grad=True)  # all steps tie
    (gradient,) = torch.autograd.grad(TimeLoss("max")(output, torch.tensor([0])), output)
    assert (gradient != 0).sum() == 2


@pytest.mark.parametrize(
    ("output", "labels", "message"),
    [
        (torch.zeros(5, 3), torch.zeros(5, dtype=torch.long), r"\[T, B, C\]"),
        (torch.zeros(7, 5, 3), torch.zeros(7, dtype=torch.long), "time-major"),
        (torch.zeros(7, 5, 3), torch.zeros(5), "integers"),
        (torch.zeros(7, 5, 3), torch.full((5,), 3), r"0\.\.2"),
        (torch.zeros(7, 5, 3), torch.full((5,), -1), r"0\.\.2"),
        (torch.zeros(0, 5, 3), torch.zeros(5, dtype=torch.long), "empty"),
        ((torch.zeros(7, 5, 3), None), torch.zeros(5, dtype=torch.long), "tuple"),
    ],
)
def test_wrong_input_is_named(output: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TimeLoss("max")(output, labels)


def test_an_unknown_loss_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="max_over_time, sum_over_time"):
        loss_by_name("hinge")


def test_a_loss_is_a_value_and_another_word_is_refused_with_the_known_ones() -> None:
    assert TimeLoss("max") == loss_by_name("max_over_time") == LOSSES["max_over_time"]
    assert (
        len({TimeLoss(word) for word in ("max", "sum", "mean", "softmax", "last", "every")} | set(OF_CLASSES.values()))
        == 6
    )
    with pytest.raises(ValueError, match=r"TimeLoss\('median'\) is unknown: choose one of max, sum, mean, softmax"):
        TimeLoss("median")


@pytest.mark.parametrize("name", OF_CLASSES)
def test_an_old_name_works_and_says_the_new_one(name: str) -> None:
    loss = LOSSES[name]
    with pytest.warns(DeprecationWarning, match=f"{name}_cross_entropy is now TimeLoss\\('{loss.over_time}'\\)"):
        assert getattr(training, f"{name}_cross_entropy") == loss
    with pytest.raises(AttributeError, match="has no attribute"):
        getattr(training, name)
