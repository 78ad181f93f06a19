"""The state of a network, measured and reported."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.state.inspection import inspect as inspect
    from fluctua.state.report import Report as Report

__getattr__, __dir__, __all__ = lazy(__name__)
