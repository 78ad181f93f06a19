"""The public names of version 0.1: each leads to what it named, and warns once."""

import json
import subprocess
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest

from fluctua._deprecated import NAMES, REPLACED

PUBLIC_IN_0_1 = {
    "fluctua": """Grid ProbedNeuron PspKernel Report Target __version__ engine fluctuation_driven_ in_segments
        initialize initialize_nir inspect prime quantize scale_synapses""",
    "fluctua.data": """NMNIST Augmentation Augmented DVSGesture DropEvents EventArrays EventDataset Events Images
        LabelledDataset Mirror PixelShift RandmanSettings RandomCrop SHDFile SHDPaths SpatialShift Subset TimeJitter
        TimeStretch UnitJitter UnitShift bin_events find_shd make_randman read_cifar10 split""",
    "fluctua.diagnostics": "PathwayState PopulationState Report Sketch inspect",
    "fluctua.experiments.networks": """LABELS METHODS NETWORKS READOUT Architecture AudioConv Dale FullyConnected
        ImageConv ModernRecurrent Residual ResidualConv bring_up build feed_forward network""",
    "fluctua.experiments.studies": """FSDD SHD STUDIES Conv DaleNets Depth DepthInTime FileTask Modern Pair RandmanTask
        Rates Recipe Recurrence Shallow Speakers States Targets Task Theory TimeConstants""",
    "fluctua.initialization": """BatchError Grid Refinement SilentInputError fluctuation_driven_ initialize
        initialize_nir prime quantize scale_synapses""",
    "fluctua.initialization.baselines": """BASELINES DALE_BASELINES Baseline PiecewiseExponential ThresholdBatchNorm
        baseline ding ei_init ei_init_ folded_kaiming kaiming lsuv micheli spikeinit spikeinit_sim tdbn torch_default
        xavier""",
    "fluctua.layers": """Chain Circuit DaleCircuit DaleError DaleLayer OneToOne OverTime Recurrent ResidualBlock
        SignedLinear SpikeBatch Synapse constrain_ conv_block in_segments keep_signs recurrent_conv_block
        spike_batch""",
    "fluctua.neurons": """LI LIF AdaptiveLIF ArcTan ExcInhLIF LeakyNeuron SigmoidDerivative SuperSpike Surrogate
        heterogeneous""",
    "fluctua.theory": """Afferent Drive Exponential Family Gamma HalfNormal InfeasibleTargetError LogNormal Moments
        Normal OneSided PspKernel Target Uniform WeightLaw crossing_rate default_shares membrane_moments solve
        xi_for_rate""",
    "fluctua.timeloop": """Adaptation ArcTan Engine LoopParameters LoopResult Reset SigmoidDerivative State Stepper
        SuperSpike Surrogate engine run step stepper widened""",
    "fluctua.training": """LOSSES SMORMS3 ActivityBound TimeLoss loss_by_name make_optimizer
        max_over_time_cross_entropy mean_over_time_cross_entropy paper_bounds sum_of_softmax_cross_entropy
        sum_over_time_cross_entropy""",
    "fluctua.wiring": """INPUT InnerSynapse Member Neuron Pathway Population ProbedNeuron UnsupportedNeuronError
        WiringError free_potential population_currents potential_of trace""",
    "fluctua.wiring.nir": "CONVENTIONS NirModel from_nir to_nir",
    # Of the modules beneath, what the documentation named.
    "fluctua.data.augmentations": "Augmentation DropEvents UnitShift",
    "fluctua.data.dvs_gesture": "DVSGesture",
    "fluctua.data.fetch": "fetch",
    "fluctua.data.image_module": "ImageDataModule",
    "fluctua.data.module": "SpikeDataModule",
    "fluctua.data.shd": "find_shd",
    "fluctua.layers.chain": "Chain",
    "fluctua.theory.laws": "Exponential LogNormal",
    "fluctua.timeloop.contract": "LoopParameters",
    "fluctua.timeloop.events": "SpikeBatch",
    "fluctua.training.fit": "FitResult TrainSettings TrainingDiverged TrainingInterrupted fit",
    "fluctua.training.folder": "load_checkpoint",
    "fluctua.training.module": "SpikingClassifier",
    "fluctua.training.settings": "FitResult TrainSettings TrainingDiverged TrainingInterrupted",
    "fluctua.wiring.graph": "UnsupportedNeuronError",
}

EVERY = [f"{module}.{name}" for module, names in PUBLIC_IN_0_1.items() for name in names.split()]
GONE = [f"{module}.{name}" for module, names in REPLACED.items() for name in names]

IMPORT_EACH = """
import importlib, sys, warnings
import fluctua.training.fit, fluctua.data as data
assert "fluctua.lab.data.randman" not in sys.modules
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    results = {"by its name alone": [data.make_randman.__module__, fluctua.training.fit.fit.__module__]}
for module, name in ((data, "make_randman"), (fluctua.training.fit, "fit")):
    vars(module).pop(name)  # asked for below as if for the first time
for path in paths:
    module, _, name = path.rpartition(".")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        namespace = {}
        try:
            exec(f"from {module} import {name}", namespace)
        except ImportError as error:
            results[path] = {"error": str(error)}
            continue
    said = [str(warning.message) for warning in caught if warning.category is DeprecationWarning]
    same, new = None, None
    if said and " is fluctua." in said[0]:
        new = said[0].partition(" is ")[2].partition(" now")[0]
        home, _, new_name = new.rpartition(".")
        same = namespace[name] is getattr(importlib.import_module(home), new_name)
    results[path] = {"said": said, "files": [warning.filename for warning in caught], "new": new, "same": same}
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """Of each old name, what `from module import name` did, in a process of its own."""
    code = f"import json\npaths = json.loads({json.dumps(EVERY)!r})\n{IMPORT_EACH}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("path", [path for path in EVERY if path not in GONE])
def test_an_old_name_leads_to_what_it_named(path: str, results: dict[str, Any]) -> None:
    result = results[path]
    assert "error" not in result, result
    if moved(path):
        assert len(result["said"]) == 1, f"one warning is due: {result['said']}"
        assert result["said"][0].startswith(f"{path} is fluctua.")
        assert result["new"] != path
        assert result["same"]
        assert result["files"] == ["<string>"], "the warning names another line than the import"
    else:
        assert result["said"] == []


def moved(path: str) -> bool:
    """Whether a name of 0.1 has another path now."""
    module, _, name = path.rpartition(".")
    try:
        home = import_module(module)
    except ModuleNotFoundError:
        return True
    return type(home) is not ModuleType or name not in getattr(home, "__all__", vars(home))


@pytest.mark.parametrize("path", GONE)
def test_a_name_that_is_gone_says_what_serves_in_its_place(path: str, results: dict[str, Any]) -> None:
    module, _, name = path.rpartition(".")
    result = results[path]
    if "error" in result:
        assert result["error"].startswith(f"{path} is gone: use {REPLACED[module][name]}")


def test_a_name_that_never_was_is_an_error_as_ever() -> None:
    with pytest.raises(ImportError, match="cannot import name 'kaimings'"):
        exec("from fluctua.initialization.baselines import kaimings")
    with pytest.raises(ModuleNotFoundError, match=r"fluctua\.wirings"):
        import_module("fluctua.wirings")
    with pytest.raises(ModuleNotFoundError, match=r"fluctua\.data\.nothing"):
        import_module("fluctua.data.nothing")
    with pytest.raises(AttributeError, match=r"module 'fluctua\.layers' has no attribute 'Chains'"):
        import_module("fluctua.layers").Chains  # noqa: B018


def test_an_old_module_can_be_imported_by_its_name_alone(results: dict[str, Any]) -> None:
    assert results["by its name alone"] == ["fluctua.lab.data.randman", "fluctua.lab.training.fit"]


def test_every_line_of_the_table_of_names_was_public() -> None:
    listed = {f"{module}.{name}" for module, names in NAMES.items() for name in names}
    assert sorted(listed - set(EVERY)) == []
