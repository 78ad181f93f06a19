"""The state of a network, measured and reported."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.state.inspection import inspect
    from fluctua.state.report import Report

__all__ = ["Report", "inspect"]

__getattr__, __dir__ = lazy(__name__, {"Report": "fluctua.state.report", "inspect": "fluctua.state.inspection"})
