"""Why a network does not learn, before training and during it."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.explain.diagnosis import diagnose as diagnose
    from fluctua.explain.finding import Diagnosis as Diagnosis
    from fluctua.explain.monitor import Monitor as Monitor

__getattr__, __dir__, __all__ = lazy(__name__)
