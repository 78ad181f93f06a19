"""The input is found in what users have, and what was done to it is said."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fluctua
from fluctua.network import Network
from fluctua.network.errors import BatchError
from fluctua.neurons import LI, LIF
from shared.spikes import spikes
from shared.step_networks import NEURONS, Looping, stack

T, B, N = 30, 6, 50
SEQUENCE = spikes(T, B, N)
LABELS = torch.arange(B)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(N, 20), LIF(), nn.Linear(20, 3), LI(0.1))


def loader(**options: Any) -> DataLoader[Any]:
    """Batches of samples `[B, T, N]`, as the default gives them."""
    return DataLoader(TensorDataset(SEQUENCE.transpose(0, 1).contiguous(), LABELS), batch_size=B, **options)


TAKEN: dict[str, tuple[Callable[[], Any], str]] = {
    "a pair": (lambda: (SEQUENCE, LABELS), "the batch is a pair"),
    "a list with targets of floating point": (lambda: [SEQUENCE, torch.rand(T, B, 1)], "the batch is a pair"),
    "an array": (lambda: SEQUENCE.numpy(), "converted from a NumPy array"),
    "an array of double precision": (lambda: SEQUENCE.double().numpy(), "converted from a NumPy array"),
    "an array that runs backwards": (lambda: SEQUENCE.flip(0).numpy()[::-1], "converted from a NumPy array"),
    "arrays of whole numbers with labels": (
        lambda: (SEQUENCE.numpy().astype(np.int16), LABELS.numpy()),
        "from torch.int16 to torch.float32",
    ),
    "whole numbers": (lambda: SEQUENCE.long(), "from torch.int64 to torch.float32"),
    "booleans": (lambda: SEQUENCE.bool(), "from torch.bool to torch.float32"),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_what_users_have_gives_the_same_weights_as_the_tensor_and_a_note(kind: str) -> None:
    make, words = TAKEN[kind]
    plain, other = model(), model()
    readout = fluctua.Target(sigma=0.5)  # else it is that of what is wanted
    fluctua.initialize(plain, SEQUENCE, readout=readout, seed=0)
    report = fluctua.initialize(other, make(), readout=readout, seed=0)
    assert any(words in note for note in report.notes)
    for expected, weight in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, weight)


def test_numbers_become_what_weights_are() -> None:
    assert Network.of(model().double(), SEQUENCE.bool()).batch.dtype == torch.float64


def test_the_first_batch_of_a_loader_is_taken_and_no_random_number_is_used_up() -> None:
    generator = torch.Generator().manual_seed(3)
    batches = loader(shuffle=True, generator=generator)
    own = generator.get_state()
    first = next(iter(batches))[0]
    generator.set_state(own)
    net = stack(2)
    before = torch.get_rng_state()
    network = Network.of(net, batches, time=1, neurons=NEURONS)
    assert torch.equal(network.batch, first)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.get_state(), own)
    assert [p.steps for p in network.populations] == [T, T]
    assert network.notes[0] == "the first batch of the DataLoader was taken"


def test_a_function_that_runs_the_model_gets_the_pair_itself() -> None:
    seen = []

    def run(net: nn.Module, batch: Any) -> Any:
        seen.append(batch)
        return net(batch[0].transpose(0, 1))

    fluctua.initialize(model(), loader(), forward=run, seed=0)
    assert all(len(batch) == 2 and torch.equal(batch[1], LABELS) for batch in seen)


@pytest.mark.parametrize("samples", [1, B])
def test_a_loop_over_steps_does_not_take_a_pair_for_two_of_them(samples: int) -> None:
    """Input and wanted values of one shape: such a model runs on the pair as well."""
    x, wanted = SEQUENCE[:, :samples], torch.rand(T, samples, N, generator=torch.Generator().manual_seed(0))

    class Regression(Looping):
        def forward(self, x: Any) -> Any:
            return super().forward(torch.stack(list(x)))

    network = Network.of(Regression(), (x, wanted), neurons=NEURONS)
    assert network.batch is x
    assert network.spread == pytest.approx(float(wanted.std(correction=0)), rel=1e-6)
    assert network.populations[0].steps == T


def test_a_model_of_two_inputs_gets_both() -> None:
    class Two(Looping):
        def forward(self, pair: Any) -> Any:
            x, gain = pair
            return super().forward(x * gain)

    network = Network.of(Two(), (SEQUENCE, torch.full((T, B, N), 2.0)), neurons=NEURONS)
    assert isinstance(network.batch, tuple)
    assert network.notes == ()


def test_whole_numbers_that_are_looked_up_stay_whole() -> None:
    words = torch.randint(0, 7, (T, B), generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Embedding(7, N), *stack(1))
    assert Network.of(net, words, neurons=NEURONS).batch.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (iter([SEQUENCE]), "read only once: pass the DataLoader itself"),
        (np.zeros(5, [("t", int), ("x", int)]), "not of numbers: make frames of the events first"),
        (DataLoader(TensorDataset(SEQUENCE[:0])), "the DataLoader is empty"),
    ],
)
def test_what_cannot_be_taken_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(BatchError, match=message):
        fluctua.initialize(model(), batch)


@pytest.mark.parametrize("make", [lambda: stack(2), Looping, model], ids=["steps", "a loop", "sequences"])
def test_labels_tell_samples_that_are_read_as_time(make: Callable[[], nn.Module]) -> None:
    net = make()
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(BatchError, match=r"\[6, 30, 50\] came with 6 labels but was read as 6 steps of 30 samples"):
        fluctua.initialize(net, loader(), neurons=NEURONS)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_priming_takes_every_batch_as_it_takes_the_first() -> None:
    bounds = [fluctua.homeostasis.ActivityBound("lower", 2.0, per="population")]
    pairs = [(SEQUENCE.numpy(), LABELS), (SEQUENCE.bool(), LABELS)]
    plain, other = model(), model()
    fluctua.homeostasis.prime(plain, [SEQUENCE, SEQUENCE], bounds, epochs=3, seed=0)
    fluctua.homeostasis.prime(other, pairs, bounds, epochs=3, seed=0)
    for expected, weight in zip(plain.parameters(), other.parameters(), strict=True):
        assert torch.equal(expected, weight)


# -- static inputs -----------------------------------------------------------------------------------------------


def image() -> Tensor:
    return torch.rand(B, N, generator=torch.Generator().manual_seed(1))


def test_a_static_input_is_shown_at_every_step() -> None:
    shown = image().expand(T, B, N)
    for net in (stack(2), model()):
        static = Network.of(net, image(), time=None, steps=T, neurons=NEURONS)
        sequence = Network.of(net, shown, neurons=NEURONS)
        for name, expected in sequence.spikes().items():
            assert torch.equal(static.spikes()[name], expected)
        assert [p.steps for p in static.populations] == [p.steps for p in sequence.populations] == [T, T]


@pytest.mark.parametrize("call", [fluctua.initialize, fluctua.inspect])
def test_the_report_says_what_was_run(call: Callable[..., fluctua.Report]) -> None:
    report = call(stack(2), image(), time=None, steps=T, neurons=NEURONS)
    assert str(report).startswith(f"T = {T} steps x B = {B} samples, ")


class Repeating(nn.Module):
    """It makes a sequence of a static input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.net = model()

    def forward(self, x: Tensor) -> Any:
        return self.net(x.expand(T, *x.shape))


def test_a_model_that_repeats_its_input_itself_needs_no_steps() -> None:
    ran = fluctua.initialize(Repeating(), image(), time=None, seed=0).ran
    assert ran.startswith(f"T = {T} steps x B = {B} samples, ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": None}, "the number of steps of its static input is not given: give steps="),
        ({"steps": 5}, "got steps=5 with time=0"),
        ({"time": None, "steps": 5, "forward": lambda net, x: net(x)}, "got steps=5 with forward="),
        ({"time": None, "steps": 0}, "one or more .* got steps=0"),
        ({"time": 2}, r"the axis of time is 0, .*, or 1, or None for a static input, got 2"),
        ({"time": 1.0}, r"the axis of time is 0, .*, or 1, or None for a static input, got 1\.0"),
    ],
)
def test_time_that_makes_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fluctua.initialize(stack(2), image(), neurons=NEURONS, **options)


def test_steps_of_a_model_that_loops_itself_must_be_its_own() -> None:
    class Own(Looping):
        def forward(self, x: Tensor) -> Any:
            return super().forward(x.expand(7, *x.shape))

    assert Network.of(Own(), image(), time=None, steps=7, neurons=NEURONS).populations[0].steps == 7
    with pytest.raises(ValueError, match="shows its input for 7 steps, so steps=5 cannot be used"):
        Network.of(Own(), image(), time=None, steps=5, neurons=NEURONS)


# -- which axis is which -----------------------------------------------------------------------------------------


def test_a_sequence_of_one_sample_is_warned_of() -> None:
    report = fluctua.inspect(stack(2), SEQUENCE[:, :1], neurons=NEURONS)
    assert report.ran.startswith(f"T = {T} steps x B = 1 sample, ")
    assert any("was read as 30 steps of 1 sample: if its first axis counts samples" in w for w in report.warnings)


def slow(seed: int = 0) -> Tensor:
    """Spikes `[T, B, N]` of rates that drift."""
    generator = torch.Generator().manual_seed(seed)
    drift = torch.randn(40, 10, N, generator=generator).cumsum(0)
    return (torch.rand(drift.shape, generator=generator) < drift.sigmoid()).float()


def test_an_order_along_the_second_axis_alone_is_warned_of() -> None:
    def warned(x: Tensor, **options: Any) -> bool:
        report = fluctua.inspect(stack(2), x, neurons=NEURONS, **options)
        return any("neighbours along its second axis are alike" in w for w in report.warnings)

    assert warned(slow().transpose(0, 1))
    assert not warned(slow())
    assert not warned(slow().transpose(0, 1), time=1)
    assert not any(warned(spikes(20, 10, N, seed=seed)) for seed in range(8)), "no order, no warning"


def test_a_step_without_samples_is_refused() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), *[m for m in stack(1) if not isinstance(m, nn.Linear)])
    with pytest.raises(
        BatchError, match=r"\[8, 1, 9, 9\] was read as \[T, B, ...\], .* Conv2d gets \[1, 9, 9\].*time=None"
    ):
        fluctua.initialize(net, torch.rand(8, 1, 9, 9), neurons=NEURONS)


def test_a_model_that_takes_another_axis_for_that_of_samples_is_warned_of() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.synapse, self.lif = nn.Conv1d(3, 8, 1), LIF()

        def forward(self, x: Tensor) -> Tensor:  # [B, C, T] -> [T, C, B]
            spikes: Tensor = self.lif(self.synapse(x).permute(2, 1, 0))
            return spikes

    report = fluctua.inspect(Swapped(), torch.rand(5, 3, 40))
    assert any("called with 8 samples, but the batch [5, 3, 40] has 5 or 3" in w for w in report.warnings)
