"""The loops over time behind every neuron: one contract, several engines."""

from typing import TYPE_CHECKING

from fluctua._deprecated import old_names
from fluctua.timeloop.contract import Adaptation, Engine, LoopParameters, LoopResult, Reset, State
from fluctua.timeloop.engines import Stepper, engine, run, stepper, widened
from fluctua.timeloop.reference import step
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike, Surrogate

__all__ = [
    "Adaptation",
    "ArcTan",
    "Engine",
    "LoopParameters",
    "LoopResult",
    "Reset",
    "SigmoidDerivative",
    "State",
    "Stepper",
    "SuperSpike",
    "Surrogate",
    "engine",
    "run",
    "step",
    "stepper",
    "widened",
]

if not TYPE_CHECKING:
    __getattr__ = old_names(__name__)
