"""Beside the library: data sets, training, networks by name, studies, sweeps, the demo and the command line.

Nothing outside this folder imports it. `load` gives back a finished run.
"""

from typing import TYPE_CHECKING

from fluctua._lazy import lazy

if TYPE_CHECKING:
    from fluctua.lab.loading import FinishedRun as FinishedRun
    from fluctua.lab.loading import load as load

__getattr__, __dir__, __all__ = lazy(__name__)
