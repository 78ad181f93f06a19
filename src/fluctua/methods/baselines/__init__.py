"""The rivals: initialisers that others have proposed, by name, for comparison."""

from fluctua.methods.baselines.by_name import BASELINES, DALE_BASELINES, Baseline, baseline
from fluctua.methods.baselines.classic import folded_kaiming, kaiming, torch_default, xavier
from fluctua.methods.baselines.ding import ding
from fluctua.methods.baselines.ei_init import ei_init, ei_init_
from fluctua.methods.baselines.lsuv import lsuv
from fluctua.methods.baselines.micheli import micheli
from fluctua.methods.baselines.spikeinit import PiecewiseExponential, spikeinit, spikeinit_sim
from fluctua.methods.baselines.tdbn import ThresholdBatchNorm, tdbn

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
