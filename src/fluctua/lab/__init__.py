"""Beside the library: data sets, training, networks by name, studies, sweeps, the demo and the command line.

Nothing outside this folder imports it. `load` gives back a finished run.
"""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.lab.loading import FinishedRun, load

__all__ = ["FinishedRun", "load"]

__getattr__, __dir__ = lazy(__name__, {"FinishedRun": "fluctua.lab.loading", "load": "fluctua.lab.loading"})
