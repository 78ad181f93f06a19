"""Who loops over time is found out, and what comes back from the neurons themselves is seen."""

import pytest
import torch
from torch import Tensor, nn

from fluctua.network import Network, WiringError
from fluctua.network.adapters.registry import KnownNeurons, StepLoop, WholeCall, over_time
from fluctua.network.run import plain_call
from fluctua.neurons import LIF
from shared.step_networks import NEURONS, Looping, SameNeuronTwice, linear, stack, trains
from shared.tracing import trace

KNOWN = KnownNeurons(described=NEURONS)


def feeds(model: nn.Module) -> dict[str, dict[str, tuple[tuple[str, ...], bool]]]:
    populations = trace(model, trains(5, 3), neurons=NEURONS)
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
    assert isinstance(over_time(Looping(), x, KNOWN, 0), WholeCall)
    loop = over_time(stack(3), x, KNOWN, 0)
    assert isinstance(loop, StepLoop)
    model = stack(3)
    expected = torch.stack([model(now) for now in x])
    assert torch.equal(loop(model, x), expected), "the state of the first run is reset"


def test_a_plain_call_is_right_for_own_neurons_and_what_the_user_says_goes() -> None:
    def mine(model: nn.Module, batch: Tensor) -> None:
        for now in batch:
            model(now)

    own = nn.Sequential(linear(50), LIF())
    assert Network.of(own, trains(3, 2)).forward is plain_call
    assert Network.of(stack(2), trains(3, 2), forward=mine, neurons=NEURONS).forward is mine


def test_a_model_that_cannot_run_is_refused_with_both_reasons() -> None:
    with pytest.raises(WiringError, match=r"cannot be run over time.*mat1 and mat2.*step by step.*forward="):
        over_time(stack(2), torch.rand(7, 3, 49), KNOWN, 0)
    with pytest.raises(WiringError, match=r"not a tensor \[T, B, ...\].*forward="):
        over_time(stack(2), [torch.rand(3, 50)], KNOWN, 0)


def test_one_neuron_module_for_two_layers_is_refused() -> None:
    with pytest.raises(WiringError, match="different weights feed the neuron neuron from one call to the next"):
        trace(SameNeuronTwice(), trains(4, 2), neurons=NEURONS)


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
        trace(Twice(), trains(4, 2), neurons=NEURONS)


def test_time_may_be_the_second_axis() -> None:
    x = trains(7, 3)
    first, second = (
        Network.of(stack(2), batch, time=time, neurons=NEURONS)  # type: ignore[arg-type]
        for batch, time in ((x, 0), (x.transpose(0, 1), 1))
    )
    assert [p.steps for p in second.populations] == [7, 7]
    torch.manual_seed(0)
    model = stack(2)
    assert torch.equal(first.forward(model, x), second.forward(model, x.transpose(0, 1)))
    with pytest.raises(ValueError, match=r"the axis of time is 0, .*, or 1, .* got 2"):
        Network.of(stack(2), x, time=2)  # type: ignore[arg-type]
