"""The table of docs/engines.md: every neuron in every shell, on both devices."""

import importlib.util
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor, nn

from fluctua.layers import FusedSequential, Recurrent
from fluctua.neurons import LIF, AdaptiveLIF, ExcInhLIF, SigmoidDerivative, from_step, spike
from fluctua.timeloop import conv_recurrence, engine, engines, events_layers


def _decaying(x: Tensor, state: tuple[Tensor, ...], c: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    u = c["decay"] * state[0] + x
    out = spike(u - c["theta"])
    return out, (u * (1 - out),)


NEURONS: dict[str, Callable[[], nn.Module]] = {
    "LIF": LIF,
    "LIF, trained": lambda: LIF(20e-3, None, reset="subtract", differentiable_reset=True, learn_tau=True),
    "LIF, another surrogate": lambda: LIF(surrogate=SigmoidDerivative()),
    "AdaptiveLIF, threshold": lambda: AdaptiveLIF(learn_adaptation=True),
    "AdaptiveLIF, current": lambda: AdaptiveLIF(kind="current", coupling=0.5),
    "ExcInhLIF": lambda: ExcInhLIF(learn_tau=True),
    "of one's own": lambda: from_step(_decaying, constants={"decay": 0.9, "theta": 1.0}, threshold="theta"),
}

SHELLS: dict[str, tuple[Callable[[nn.Module], nn.Module], tuple[int, ...], str]] = {
    "alone": (lambda cell: cell, (4,), "_run"),
    "behind a weight": (lambda cell: FusedSequential(nn.Linear(4, 4), cell), (4,), "run_layers"),
    "recurrent": (lambda cell: Recurrent(cell, nn.Linear(4, 4)), (4,), "run_layers"),
    "recurrent behind a weight": (
        lambda cell: FusedSequential(nn.Linear(4, 4), Recurrent(cell, nn.Linear(4, 4))),
        (4,),
        "run_layers",
    ),
    "recurrent map": (lambda cell: Recurrent(cell, nn.Conv1d(4, 4, 3, padding=1, bias=False)), (4, 9), "run"),
    "recurrent map of two axes": (
        lambda cell: Recurrent(cell, nn.Conv2d(4, 4, 3, padding=1, bias=False)),
        (4, 5, 6),
        "run",
    ),
}


class Chosen(Exception):
    """What would have run."""


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations say that they were chosen, and are not compiled."""

    def saying(name: str) -> Callable[..., NoReturn]:
        def chosen(*_: Any, **__: Any) -> NoReturn:
            raise Chosen(name)

        return chosen

    for module, name in ((engines, "_run"), (events_layers, "run_layers"), (conv_recurrence, "run")):
        monkeypatch.setattr(module, name, saying(name))


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("neuron", NEURONS)
def test_every_neuron_is_fused_in_every_shell_on_the_cpu(neuron: str, shell: str) -> None:
    made, shape, operation = SHELLS[shell]
    with pytest.raises(Chosen, match=f"^{operation}$"):
        made(NEURONS[neuron]())(torch.zeros(3, 2, *shape))


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("shell", ["alone", "behind a weight", "recurrent"])
@pytest.mark.parametrize("neuron", NEURONS)
def test_every_neuron_is_fused_on_the_gpu(neuron: str, shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that hears itself, and two populations, go step by step there."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    made, shape, _ = SHELLS[shell]
    with engine("gpu"), pytest.raises(Chosen, match=r"^_run$"):
        made(NEURONS[neuron]())(torch.zeros(3, 2, *shape))
