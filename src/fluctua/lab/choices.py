"""The names that the command line offers, without their implementations: this keeps help and completion fast."""

from enum import StrEnum


class Model(StrEnum):
    """Networks of `fluctua.lab.networks.NETWORKS`."""

    fc = "fc"
    recurrent = "recurrent"
    modern = "modern"
    modern_adaptive = "modern-adaptive"
    shd_conv = "shd-conv"
    shd_conv_deep = "shd-conv-deep"
    audio_conv = "audio-conv"
    dale = "dale"
    dale_lognormal = "dale-lognormal"
    residual = "residual"
    cifar10_conv_shallow = "cifar10-conv-shallow"
    cifar10_conv = "cifar10-conv"
    dvs_conv = "dvs-conv"
    dvs_conv_deep = "dvs-conv-deep"
    residual_conv = "residual-conv"


class Method(StrEnum):
    """Initialisers of `fluctua.lab.networks.LABELS`."""

    measured = "measured"
    poisson = "poisson"
    kaiming = "kaiming"
    kaiming_relu = "kaiming-relu"
    kaiming_folded = "kaiming-folded"
    xavier = "xavier"
    torch = "torch"
    ding = "ding"
    micheli = "micheli"
    spikeinit = "spikeinit"
    spikeinit_sim = "spikeinit-sim"
    tdbn = "tdbn"
    lsuv = "lsuv"
    ei_init = "ei-init"


class Recipe(StrEnum):
    """Recipes of `fluctua.lab.recipes.RECIPES`."""

    plain = "plain"
    paper = "paper"
    modern = "modern"


class Loss(StrEnum):
    """Losses of `fluctua.lab.training.LOSSES`."""

    max_over_time = "max_over_time"
    sum_over_time = "sum_over_time"
    mean_over_time = "mean_over_time"
    sum_of_softmax = "sum_of_softmax"
    last_step = "last_step"
    every_step = "every_step"
    mse_every_step = "mse_every_step"
    mse_last_step = "mse_last_step"
    mse_mean_over_time = "mse_mean_over_time"


class Schedule(StrEnum):
    """Schedules of `fluctua.lab.training.schedules.SCHEDULES`."""

    constant = "constant"
    cosine = "cosine"


class Experiment(StrEnum):
    """Studies of `fluctua.lab.studies.STUDIES`, and all of the paper's."""

    paper = "paper"
    theory = "theory"
    shallow = "shallow"
    shallow_shd = "shallow-shd"
    depth = "depth"
    depth_fsdd = "depth-fsdd"
    depth_hard = "depth-hard"
    depth_time = "depth-time"
    depth_time_fsdd = "depth-time-fsdd"
    targets = "targets"
    speakers = "speakers"
    recurrence = "recurrence"
    dale = "dale"
    conv_shd = "conv-shd"
    conv_shd_wide = "conv-shd-wide"
    conv_cifar10 = "conv-cifar10"
    conv_dvs = "conv-dvs"
    conv_dvs_deep = "conv-dvs-deep"
    conv_cifar10_wide = "conv-cifar10-wide"
    conv_dvs_wide = "conv-dvs-wide"
    states = "states"
    filters = "filters"
    ablation = "ablation"
    robustness = "robustness"
    digits = "digits"
    obstacles = "obstacles"
    direct = "direct"
    direct_states = "direct-states"
    rates = "rates"
    time_constants = "time-constants"
    modern = "modern"


def in_order(choices: type[StrEnum]) -> str:
    """All names, for a sentence."""
    return ", ".join(choices)
