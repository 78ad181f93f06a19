"""The loops over time behind every neuron: one contract, several engines."""

from typing import TYPE_CHECKING

from fluctua._lazy import renamed
from fluctua.timeloop.engines import engine

__all__ = ["engine"]

if not TYPE_CHECKING:
    _CONTRACT = ("Adaptation", "Engine", "LoopParameters", "LoopResult", "Reset", "State")
    _ENGINES = ("Stepper", "run", "stepper", "widened")
    _NEURONS = ("ArcTan", "SigmoidDerivative", "SuperSpike")
    __getattr__ = renamed(
        __name__,
        {name: f"fluctua.timeloop.contract.{name}" for name in _CONTRACT}
        | {name: f"fluctua.timeloop.engines.{name}" for name in _ENGINES}
        | {name: f"fluctua.neurons.{name}" for name in _NEURONS}
        | {"Surrogate": "fluctua.timeloop.surrogates.Surrogate", "step": "fluctua.timeloop.reference.step"},
    )
