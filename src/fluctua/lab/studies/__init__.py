"""The studies by name, each in full and in a version of minutes."""

from fluctua.lab.studies.ablation import Ablation
from fluctua.lab.studies.catalogue import STUDIES, Pair
from fluctua.lab.studies.conv import Conv
from fluctua.lab.studies.dale import DaleNets
from fluctua.lab.studies.depth import Depth
from fluctua.lab.studies.depth_in_time import DepthInTime
from fluctua.lab.studies.digits import Digits
from fluctua.lab.studies.direct import DirectStates, DirectVGGs
from fluctua.lab.studies.filters import Filters
from fluctua.lab.studies.modern import Modern
from fluctua.lab.studies.obstacles import Obstacles
from fluctua.lab.studies.rates import Rates
from fluctua.lab.studies.recurrence import Recurrence
from fluctua.lab.studies.robustness import Robustness
from fluctua.lab.studies.shallow import Shallow
from fluctua.lab.studies.speakers import Speakers
from fluctua.lab.studies.states import States
from fluctua.lab.studies.targets import Targets
from fluctua.lab.studies.task import FSDD, SHD, FileTask, RandmanTask, Task
from fluctua.lab.studies.theory import Theory
from fluctua.lab.studies.time_constants import TimeConstants
from fluctua.lab.studies.training import Recipe

__all__ = [
    "FSDD",
    "SHD",
    "STUDIES",
    "Ablation",
    "Conv",
    "DaleNets",
    "Depth",
    "DepthInTime",
    "Digits",
    "DirectStates",
    "DirectVGGs",
    "FileTask",
    "Filters",
    "Modern",
    "Obstacles",
    "Pair",
    "RandmanTask",
    "Rates",
    "Recipe",
    "Recurrence",
    "Robustness",
    "Shallow",
    "Speakers",
    "States",
    "Targets",
    "Task",
    "Theory",
    "TimeConstants",
]
