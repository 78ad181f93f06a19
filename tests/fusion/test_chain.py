"""Weights and neurons that follow each other in a `nn.Sequential`: what they give, and that every change is seen."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import fluctua
from fluctua.fusion import FuseError, handles
from shared.fused_networks import INPUTS, SAMPLES, STEPS, TIME_FIRST, assert_same_passes, passed, woken

CHANGED = 4  # at this step something else happens


class Looping(nn.Module):
    """A sequential in a loop; `then` gets it, and the number of the step, before each."""

    def __init__(self, then: Callable[[Any, int], Any] = lambda layers, t: None) -> None:
        super().__init__()
        neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
        sizes = ((INPUTS, 16), (16, 8), (8, 4))
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), neuron.LIFNode())]
        self.layers, self.then = nn.Sequential(nn.Flatten(), *layers, nn.Identity()), then

    def forward(self, x: Tensor) -> Any:
        out = []
        for t in range(len(x)):
            out.append(self.then(self.layers, t))
            out.append(self.layers(x[t]))
        return [found for found in out if found is not None]


def quiet_until_fused(then: Callable[[Any, int], Any]) -> tuple[Any, Any]:
    """A model that is fused without what it then does."""
    model: Any = woken(Looping(), 5)
    fast = fluctua.fuse(model, TIME_FIRST)
    model.then = then
    return model, fast


def test_weights_are_looked_at_in_the_first_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, fast = quiet_until_fused(lambda layers, t: None)
    calls, product = list[int](), handles._product

    def counted(handle: Any, *weights: Any) -> Any:
        calls.append(handle.step)
        return product(handle, *weights)

    monkeypatch.setattr(handles, "_product", counted)
    ours = passed(fast, model, TIME_FIRST)
    assert sorted(calls) == [0, 0, 0, 1, 1, 1]
    assert_same_passes(ours, passed(fast.plain, model, TIME_FIRST))


@pytest.mark.parametrize("every", [1, 3])
def test_states_that_are_looked_at_keep_their_numbers(every: int) -> None:
    model, fast = quiet_until_fused(lambda layers, t: layers[4].v if t and t % every == 0 else None)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))


def test_a_state_that_autograd_holds_keeps_its_numbers() -> None:
    model, fast = quiet_until_fused(lambda layers, t: layers[2].v * t + layers[4].v.sum() if t else None)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))


@pytest.mark.parametrize("of_all", [False, True])
def test_a_hook_that_comes_later_sees_what_is_left(of_all: bool) -> None:
    seen = list[int]()

    def then(layers: Any, t: int) -> None:
        if t == CHANGED:
            hook = lambda module, args, output: seen.append(t) if module is layers[3] else None  # noqa: E731
            hooks.append((register_module_forward_hook if of_all else layers[3].register_forward_hook)(hook))

    hooks = list[Any]()
    model, fast = quiet_until_fused(then)
    ours = passed(fast, model, TIME_FIRST)
    hooks.pop().remove()
    assert len(seen) == STEPS - CHANGED
    model.then = lambda layers, t: None
    assert_same_passes(ours, passed(fast.plain, model, TIME_FIRST))


def test_a_part_that_is_called_by_itself_is_seen() -> None:
    def then(layers: Any, t: int) -> None:
        if t == CHANGED:
            layers[2](layers[1](torch.zeros(SAMPLES, INPUTS)))

    model, fast = quiet_until_fused(then)
    with pytest.raises(FuseError):
        passed(fast, model, TIME_FIRST)


def _edited(layers: Any, t: int) -> None:
    layers[4].v = layers[4].v * 0.5


def _reset(layers: Any, t: int) -> None:
    layers[4].reset()


def _weighted(layers: Any, t: int) -> None:
    with torch.no_grad():
        layers[3].weight.mul_(2)


def _replaced(layers: Any, t: int) -> None:
    layers[3].weight = nn.Parameter(layers[3].weight.detach().clone())


def _without_bias(layers: Any, t: int) -> None:
    layers[3].bias = None


def _exchanged(layers: Any, t: int) -> None:
    layers[3] = nn.Linear(16, 8)


def _overridden(layers: Any, t: int) -> None:
    layers[3].forward = lambda x: x[:, :8]


@pytest.mark.parametrize("change", [_edited, _reset, _weighted, _replaced, _without_bias, _exchanged, _overridden])
def test_what_changes_between_two_steps_is_refused(change: Callable[[Any, int], None]) -> None:
    model, fast = quiet_until_fused(lambda layers, t: change(layers, t) if t == CHANGED else None)
    with pytest.raises(FuseError, match=r"changed between steps|is not computed as at step 0"):
        passed(fast, model, TIME_FIRST)


def test_another_input_goes_through_anew() -> None:
    class Twice(Looping):
        """Two sequences, one after the other."""

        def forward(self, x: Tensor) -> Any:
            first, second = [self.layers(step) for step in x], [self.layers(step) for step in 1 - x]
            return torch.stack(first), torch.stack(second)

    model = woken(Twice(), 5)
    fast = fluctua.fuse(model, TIME_FIRST)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))


def sequential(*others: nn.Module) -> Any:
    """A model that runs one step in a call."""
    made: Any = Looping()
    return nn.Sequential(*made.layers[1:-1], *others)


@pytest.mark.parametrize("others", [(), (nn.Identity(),), (nn.Linear(4, 3),)])
def test_a_model_that_is_one_chain_gives_all_steps(others: tuple[nn.Module, ...]) -> None:
    model: Any = woken(sequential(*others), 5)
    fast = fluctua.fuse(model, TIME_FIRST)
    assert_same_passes(passed(fast, model, TIME_FIRST), passed(fast.plain, model, TIME_FIRST))
    states = list[Tensor]()
    for call in (fast, fast.plain):  # each goes on with the state that it left behind
        passed(call, model, TIME_FIRST)
        states.append(torch.stack([call(TIME_FIRST).sum(), model[1].v.sum(), model[5].v.sum()]))
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize("hooked", ["itself", "part", "all"])
def test_hooks_of_a_model_that_is_one_chain_see_every_step(hooked: str) -> None:
    model: Any = woken(sequential(), 5)
    fast, calls = fluctua.fuse(model, TIME_FIRST), list[Any]()

    def hook(module: Any, args: Any, output: Any) -> None:
        calls.append(module)

    places = {"itself": model.register_forward_hook, "part": model[2].register_forward_hook}
    handle = places.get(hooked, register_module_forward_hook)(hook)
    try:
        fast(TIME_FIRST)
    finally:
        handle.remove()
    watched = {"itself": model, "part": model[2], "all": model[5]}[hooked]
    assert sum(module is watched for module in calls) == STEPS
