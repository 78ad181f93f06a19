"""The loops over time behind every neuron: one contract, several engines."""

from fluctua.timeloop.contract import Engine, LoopParameters, LoopResult, Reset, State
from fluctua.timeloop.engines import engine, run
from fluctua.timeloop.surrogates import ArcTan, SigmoidDerivative, SuperSpike, Surrogate

__all__ = [
    "ArcTan",
    "Engine",
    "LoopParameters",
    "LoopResult",
    "Reset",
    "SigmoidDerivative",
    "State",
    "SuperSpike",
    "Surrogate",
    "engine",
    "run",
]
