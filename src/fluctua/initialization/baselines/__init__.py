"""The rivals: initialisers that others have proposed, by name, for comparison."""

from fluctua.initialization.baselines.by_name import BASELINES, DALE_BASELINES, Baseline, baseline
from fluctua.initialization.baselines.classic import folded_kaiming, kaiming, torch_default, xavier
from fluctua.initialization.baselines.ding import ding
from fluctua.initialization.baselines.ei_init import ei_init, ei_init_
from fluctua.initialization.baselines.lsuv import lsuv
from fluctua.initialization.baselines.micheli import micheli
from fluctua.initialization.baselines.spikeinit import PiecewiseExponential, spikeinit, spikeinit_sim
from fluctua.initialization.baselines.tdbn import ThresholdBatchNorm, tdbn

__all__ = [
    "BASELINES",
    "DALE_BASELINES",
    "Baseline",
    "PiecewiseExponential",
    "ThresholdBatchNorm",
    "baseline",
    "ding",
    "ei_init",
    "ei_init_",
    "folded_kaiming",
    "kaiming",
    "lsuv",
    "micheli",
    "spikeinit",
    "spikeinit_sim",
    "tdbn",
    "torch_default",
    "xavier",
]
