"""The loops over time behind every neuron: one contract, several engines."""

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
