"""What state a network is in."""

from fluctua.diagnostics.inspection import inspect
from fluctua.diagnostics.report import PathwayState, PopulationState, Report, Sketch

__all__ = ["PathwayState", "PopulationState", "Report", "Sketch", "inspect"]
