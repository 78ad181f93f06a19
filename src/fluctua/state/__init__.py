"""What state a network is in."""

from fluctua.state.inspection import inspect
from fluctua.state.report import PathwayState, PopulationState, Report, Sketch

__all__ = ["PathwayState", "PopulationState", "Report", "Sketch", "inspect"]
