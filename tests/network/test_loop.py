"""Who loops over time is found out, and what comes back from the neurons themselves is seen."""

import pytest
import torch
from torch import Tensor, nn

from fluctua.network import WiringError, trace
from fluctua.network.known_neurons import Reading
from fluctua.network.loop import StepLoop, WholeCall, running_of
from fluctua.network.preserve import plain_call
from fluctua.neurons import LIF
from shared.step_networks import NEURONS, Looping, SameNeuronTwice, linear, stack, trains

READING = Reading(neurons=NEURONS)


def feeds(model: nn.Module) -> dict[str, dict[str, tuple[tuple[str, ...], bool]]]:
    populations = trace(model, trains(5, 3), plain_call, READING)
    return {p.name: {q.name: (q.sources, q.recurrent) for q in p.pathways} for p in populations}


def test_recurrence_by_hand_is_seen_with_its_source() -> None:
    assert feeds(Looping(recurrent=True, feedback=True)) == {
        "first": {"one.weight": (("input",), False)},
        "second": {
            "two.weight": (("first",), False),
            "again.weight": (("second",), True),
            "back.weight": (("third",), True),
        },
        "third": {"three.weight": (("second",), True)},
    }


def test_without_recurrence_no_pathway_is_marked() -> None:
    assert not any(recurrent for ways in feeds(Looping()).values() for _, recurrent in ways.values())


def test_a_model_that_loops_is_called_once_and_one_for_single_steps_is_looped() -> None:
    x = trains(7, 3)
    assert isinstance(running_of(Looping(), x, plain_call, READING), WholeCall)
    loop = running_of(stack(3), x, plain_call, READING)
    assert isinstance(loop, StepLoop)
    model = stack(3)
    expected = torch.stack([model(now) for now in x])
    assert torch.equal(loop(model, x), expected), "the state of the first run is reset"


def test_a_plain_call_is_right_for_own_neurons_and_what_the_user_says_goes() -> None:
    def mine(model: nn.Module, batch: Tensor) -> None: ...

    own = nn.Sequential(linear(50), LIF())
    assert running_of(own, trains(3, 2), plain_call) is plain_call
    assert running_of(stack(2), trains(3, 2), mine, READING) is mine


def test_a_model_that_cannot_run_is_refused_with_both_reasons() -> None:
    with pytest.raises(WiringError, match=r"cannot be run over time.*mat1 and mat2.*step by step.*forward="):
        running_of(stack(2), torch.rand(7, 3, 49), plain_call, READING)
    with pytest.raises(WiringError, match=r"not a tensor \[T, B, ...\].*forward="):
        running_of(stack(2), [torch.rand(3, 50)], plain_call, READING)


def test_one_neuron_module_for_two_layers_is_refused() -> None:
    with pytest.raises(WiringError, match="the neuron neuron is fed by other weights in one call than in the next"):
        trace(SameNeuronTwice(), trains(4, 2), plain_call, READING)


def test_a_neuron_that_runs_twice_in_a_step_is_refused() -> None:
    class Twice(Looping):
        def forward(self, x: Tensor) -> Tensor:
            out = []
            for now in x:
                a, _ = self.first(self.one(now))
                b, _ = self.first(self.two(a))
                out.append(self.second(self.three(b))[0])
            return torch.stack(out)

    with pytest.raises(WiringError, match="first was called 2 times in one time step"):
        trace(Twice(), trains(4, 2), plain_call, READING)
