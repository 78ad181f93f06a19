"""The names of version 0.1: each still leads to what it named, with a DeprecationWarning, until version 0.3.

`keep_old_paths` lets old modules be imported; `lazy` and the packages that have no lazy names ask `renamed` for names
that they no longer hand on themselves. Nothing is imported before an old name is used.
"""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import Any

MODULES: Mapping[str, str] = MappingProxyType(
    {
        "fluctua.cli": "fluctua.lab.cli",
        "fluctua.data": "fluctua.lab.data",
        "fluctua.diagnostics": "fluctua.state",
        "fluctua.diagnostics.plots": "fluctua.state.figure",
        "fluctua.experiments": "fluctua.lab",
        "fluctua.experiments.aggregate": "fluctua.lab.results.aggregate",
        "fluctua.experiments.figures": "fluctua.lab.results.figures",
        "fluctua.experiments.page": "fluctua.lab.results.page",
        "fluctua.experiments.runner": "fluctua.lab.sweeps.runner",
        "fluctua.experiments.runner_dask": "fluctua.lab.sweeps.runner_dask",
        "fluctua.experiments.runner_local": "fluctua.lab.sweeps.runner_local",
        "fluctua.experiments.store": "fluctua.lab.sweeps.store",
        "fluctua.experiments.sweep": "fluctua.lab.sweeps.sweep",
        "fluctua.experiments.table": "fluctua.lab.results.table",
        "fluctua.initialization": "fluctua.methods",
        "fluctua.initialization.fluctuation": "fluctua.methods.method",
        "fluctua.initialization.homeostasis": "fluctua.homeostasis.refinement",
        "fluctua.initialization.priming": "fluctua.homeostasis.priming",
        "fluctua.initialization.quantization": "fluctua.hardware",
        "fluctua.initialization.scaling": "fluctua.homeostasis.scaling",
        "fluctua.layers.chain": "fluctua.layers.fused_sequential",
        "fluctua.layers.event_input": "fluctua.lab.data.binning",
        "fluctua.timeloop.events": "fluctua.spikes.batch",
        "fluctua.timeloop.surrogates": "fluctua.neurons.surrogates",
        "fluctua.training": "fluctua.lab.training",
        "fluctua.training.optimizers": "fluctua.homeostasis.optimizers",
        "fluctua.training.regularizers": "fluctua.homeostasis.bounds",
        "fluctua.wiring": "fluctua.network",
        "fluctua.wiring.graph": "fluctua.network.facts",
    }
)
"""Old module -> new one; what lies beneath it follows, unless it has a line of its own."""


def _each_name(moved: Mapping[str, Mapping[str, str]]) -> Mapping[str, Mapping[str, tuple[str, str]]]:
    """`{old module: {new module: "name old:new ..."}}` -> `{old module: {old name: (new module, new name)}}`."""
    return {
        old: {name.partition(":")[0]: (home, name.rpartition(":")[2]) for home in homes for name in homes[home].split()}
        for old, homes in moved.items()
    }


NAMES: Mapping[str, Mapping[str, tuple[str, str]]] = MappingProxyType(
    _each_name(
        {
            "fluctua": {
                "fluctua.hardware": "Grid quantize",
                "fluctua.homeostasis": "prime scale_synapses",
                "fluctua.layers": "in_segments",
                "fluctua.methods.nir": "initialize_nir",
                "fluctua.network": "ProbedNeuron",
            },
            "fluctua.diagnostics": {"fluctua.state.facts": "PathwayState PopulationState Sketch:PlotData"},
            "fluctua.initialization": {
                "fluctua.hardware": "Grid quantize",
                "fluctua.homeostasis": "prime scale_synapses",
                "fluctua.homeostasis.refinement": "Refinement",
                "fluctua.methods.components": "SilentInputError",
                "fluctua.methods.nir": "initialize_nir",
                "fluctua.network.errors": "BatchError",
            },
            "fluctua.initialization.baselines": {
                "fluctua.methods.baselines.spikeinit": "PiecewiseExponential",
                "fluctua.methods.baselines.tdbn": "ThresholdBatchNorm",
            },
            "fluctua.layers": {
                "fluctua.lab.data.binning": "spike_batch",
                "fluctua.layers": "Chain:FusedSequential",
                "fluctua.layers.blocks": "OneToOne conv_block recurrent_conv_block",
                "fluctua.layers.circuit": "Circuit Synapse",
                "fluctua.layers.dale": "DaleCircuit DaleError SignedLinear constrain_ keep_signs",
                "fluctua.spikes": "SpikeBatch",
            },
            "fluctua.layers.chain": {"fluctua.layers": "Chain:FusedSequential"},
            "fluctua.neurons": {"fluctua.neurons.leaky": "LeakyNeuron", "fluctua.neurons.surrogates": "Surrogate"},
            "fluctua.theory": {
                "fluctua.theory.laws": "Family HalfNormal OneSided Uniform WeightLaw",
                "fluctua.theory.membrane": "Moments",
                "fluctua.theory.target": "default_shares",
            },
            "fluctua.timeloop": {
                "fluctua.neurons": "ArcTan SigmoidDerivative SuperSpike",
                "fluctua.neurons.leaky": "State Stepper",
                "fluctua.timeloop.contract": "Engine LoopResult",
                "fluctua.timeloop.engines": "widened",
                "fluctua.neurons.steps": "Reset",
                "fluctua.neurons.surrogates": "Surrogate",
            },
            "fluctua.training": {
                "fluctua.homeostasis": "ActivityBound",
                "fluctua.homeostasis.bounds": "paper_bounds",
                "fluctua.homeostasis.optimizers": "SMORMS3 make_optimizer",
            },
            "fluctua.training.fit": {"fluctua.homeostasis.refinement": "TrainingDiverged"},
            "fluctua.training.settings": {"fluctua.homeostasis.refinement": "TrainingDiverged"},
            "fluctua.wiring": {
                "fluctua.network.errors": "UnsupportedNeuronError",
                "fluctua.network.facts": "INPUT InnerSynapse:inner_pathway Member:PopulationSpec Neuron Pathway "
                "Population free_potential population_currents potential_of",
                "fluctua.network.network": "trace:populations_of",
            },
            "fluctua.wiring.graph": {"fluctua.network.errors": "UnsupportedNeuronError"},
            "fluctua.wiring.nir": {
                "fluctua.network.nir.conventions": "CONVENTIONS",
                "fluctua.network.nir.model": "NirModel",
            },
        }
    )
)
"""Of an old or a present module, each name that lives elsewhere now, with its module and what it is called there."""

_BY_METHOD = "fluctua.initialize(model, batch, method={})".format
_SAME_NAME = ("ding", "kaiming", "lsuv", "micheli", "spikeinit", "tdbn", "xavier")
_BY_LOSS = "fluctua.lab.training.TimeLoss({})".format

REPLACED: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "fluctua.initialization.baselines": {
            **dict.fromkeys(("BASELINES", "DALE_BASELINES", "Baseline", "baseline"), _BY_METHOD("name")),
            **{name: _BY_METHOD(f'"{name}"') for name in _SAME_NAME},
            **dict.fromkeys(("ei_init", "ei_init_"), _BY_METHOD('"ei-init"')),
            "folded_kaiming": _BY_METHOD('"kaiming-folded"'),
            "spikeinit_sim": _BY_METHOD('"spikeinit-sim"'),
            "torch_default": _BY_METHOD('"torch"'),
        },
        "fluctua.timeloop": {
            **dict.fromkeys(("Adaptation", "LoopParameters"), "LIF, LI or AdaptiveLIF of fluctua.neurons"),
            **{"run": "neurons.simulate", "step": "neurons.step", "stepper": "neurons.stepper"},
        },
        "fluctua.timeloop.contract": {"LoopParameters": "LIF, LI or AdaptiveLIF of fluctua.neurons"},
        "fluctua.training": {
            "max_over_time_cross_entropy": _BY_LOSS('"max"'),
            "mean_over_time_cross_entropy": _BY_LOSS('"mean"'),
            "sum_of_softmax_cross_entropy": _BY_LOSS('"softmax"'),
            "sum_over_time_cross_entropy": _BY_LOSS('"sum"'),
        },
    }
)
"""Of an old module, each name that nothing has any more, and what serves in its place."""


class _OldModule(ModuleType):
    """A module of before, every name of which is looked up where it is now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return renamed(self.__name__, name)


class _OldPaths:
    """Finds and loads the modules of before; no subclass of `importlib.abc`, which is slow to import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of that name, if there was one and what it held is still there."""
        if not fullname.startswith("fluctua.") or (new := _new_module(fullname)) is None:
            return None
        if (there := find_spec(new)) is None:
            return None
        loader: Any = self
        return ModuleSpec(fullname, loader, is_package=there.submodule_search_locations is not None)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """An empty module."""
        return _OldModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names are looked up when they are asked for."""


def keep_old_paths() -> None:
    """Keep the old module paths importable."""
    if not any(isinstance(finder, _OldPaths) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OldPaths())  # before the finder of folders, which may find the remains of an old one


def old_names(module: str) -> Callable[[str], Any]:
    """The `__getattr__` of a module that still answers to the names which it handed on before."""

    def __getattr__(name: str) -> Any:
        return renamed(module, name)

    return __getattr__


def renamed(module: str, name: str) -> Any:
    """The object that an old name of a module stands for now; warns once.

    Raises:
        AttributeError: there was no such name.
        ImportError: what it named is gone; says what serves in its place.
    """
    home, new_name = NAMES.get(module, {}).get(name, (_new_module(module), name))
    if home is None or (value := getattr(import_module(home), new_name, None)) is None:
        raise _gone(module, name)
    warnings.warn(
        f"{module}.{name} is {home}.{new_name} now; the old name goes with version 0.3",
        DeprecationWarning,
        stacklevel=3,
    )
    setattr(sys.modules[module], name, value)  # `from module import name` asks twice
    return value


def _gone(module: str, name: str) -> Exception:
    """Why an old name leads nowhere; not an AttributeError where there is advice, which `import` would swallow."""
    if name in REPLACED.get(module, {}):
        return ImportError(f"{module}.{name} is gone: use {REPLACED[module][name]}", name=module)
    return AttributeError(f"module {module!r} has no attribute {name!r}")


def _new_module(old: str) -> str | None:
    """Where a module of before is now."""
    head, tail = old, ""
    while head not in MODULES:
        head, dot, last = head.rpartition(".")
        if not dot:
            return None
        tail = f".{last}{tail}"
    return MODULES[head] + tail
