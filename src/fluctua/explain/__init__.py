"""Why a network does not learn, before training and during it."""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.explain.diagnosis import diagnose
    from fluctua.explain.finding import Diagnosis
    from fluctua.explain.monitor import Monitor

__all__ = ["Diagnosis", "Monitor", "diagnose"]

__getattr__, __dir__ = lazy(
    __name__,
    {
        "Diagnosis": "fluctua.explain.finding",
        "Monitor": "fluctua.explain.monitor",
        "diagnose": "fluctua.explain.diagnosis",
    },
)
