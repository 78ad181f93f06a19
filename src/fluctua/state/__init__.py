"""What state a network is in."""

from fluctua.state.inspection import inspect
from fluctua.state.report import Report

__all__ = ["Report", "inspect"]
