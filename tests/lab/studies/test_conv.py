"""Laws of the study of convolutional networks and of its tasks, on tiny data in the official layouts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rich")
pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("h5py")

from fluctua.lab.data.binning import bin_events
from fluctua.lab.data.cifar10 import read_cifar10
from fluctua.lab.data.nmnist import NMNIST
from fluctua.lab.networks import AudioConv, ImageConv, network
from fluctua.lab.studies.conv import (
    CONV_CIFAR10,
    CONV_DVS,
    CONV_SHD,
    SMALL_CONV_CIFAR10,
    SMALL_CONV_DVS,
    SMALL_CONV_DVS_DEEP,
    SMALL_CONV_SHD,
    Conv,
)
from fluctua.lab.studies.image_task import (
    CIFAR10Task,
    GestureTask,
    Merged,
    NMNISTTask,
    SampledTask,
    SpokenTask,
    balanced,
    mean_pooled,
)
from fluctua.lab.studies.methods import LABELS, SHARE
from fluctua.lab.studies.training import Recipe
from fluctua.lab.sweeps.runner_perform import perform
from fluctua.lab.sweeps.store import Store
from fluctua.lab.sweeps.study import Record
from fluctua.lab.sweeps.sweep import Run, runs_of
from fluctua.neurons import SuperSpike
from shared.data_files import (
    gestures,
    nmnist,
    write_cifar10,
    write_folder,
    write_official_gestures,
    write_shd,
    write_tar,
)
from shared.layout import assert_legible
from shared.outcomes import timeless

FULL, SMALL = (CONV_SHD, CONV_CIFAR10, CONV_DVS), (SMALL_CONV_SHD, SMALL_CONV_CIFAR10, SMALL_CONV_DVS)

SPOKEN = SpokenTask(path="train.h5", test_path="test.h5", dt=5e-3, duration=0.1, per_class=4, val_fraction=0.25)
NMNIST_FOLDER = NMNISTTask(dt=5e-3, duration=0.1, batch_size=10, per_class=4, val_fraction=0.25, pool=2)
NMNIST_TAR = replace(NMNIST_FOLDER, path="nmnist.tar", pool=1)
GESTURES = GestureTask(dt=50e-3, duration=1.0, per_class=2, test_per_class=1, val_fraction=0.5, pool=8)
CIFAR10 = CIFAR10Task(dt=5e-3, duration=0.1, per_class=4, test_per_class=1, val_fraction=0.25, pool=4)

TINY = Conv(
    task=NMNIST_FOLDER,
    task_name="tiny",
    networks=("cifar10-conv-shallow", "cifar10-conv"),
    width=2,
    recipe=Recipe(epochs=1, measured_on=8),
    lrs=(5e-3,),
)
TINY_IMAGES = replace(TINY, task=CIFAR10)
TINY_SPOKEN = replace(TINY, task=replace(SPOKEN, pool=2), networks=("shd-conv",), methods=("measured",))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All data sets, tiny, as `--data` has them."""
    root = tmp_path_factory.mktemp("data")
    files = nmnist(per_digit=5)
    write_folder(root / "N-MNIST", files)
    write_tar(root / "nmnist.tar", files)
    write_cifar10(root / "cifar-10-batches-py", per_class=2)
    write_official_gestures(root / "DvsGesture", gestures(range(3)), gestures([7]))
    write_shd(root / "train.h5", [*range(10)] * 6, speakers=[0] * 30 + [1] * 30)
    write_shd(root / "test.h5", [*range(10)] * 3, speakers=[0] * 10 + [5] * 20)
    return root


@pytest.fixture(scope="module")
def records(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """All runs of the tiny study with one seed."""
    store = Store(tmp_path_factory.mktemp("store"))
    store.open({})
    return [perform(run, store.root) for run in runs_of(TINY, 1, data)]


@pytest.mark.parametrize(
    ("task", "shape", "tested"),
    [
        (SPOKEN, (700,), 1),
        (replace(SPOKEN, pool=7), (100,), 1),
        (NMNIST_FOLDER, (2, 17, 17), 1),
        (NMNIST_TAR, (2, 34, 34), 1),
        (GESTURES, (2, 16, 16), 1),
        (CIFAR10, (3, 8, 8), 1),
    ],
    ids=["spoken", "spoken-pooled", "nmnist-folder", "nmnist-tar", "gestures", "cifar10"],
)
def test_a_task_has_as_many_samples_of_each_class_as_are_asked_for(
    data: Path, task: SampledTask[Any], shape: tuple[int, ...], tested: int
) -> None:
    samples = task.load(0, data)
    x, y = samples.batch(samples.n_classes)
    assert x.shape == (samples.n_steps, samples.n_classes, *shape)
    assert samples.shape == shape
    assert sorted(y.tolist()) == list(range(samples.n_classes))
    held_out = round(task.val_fraction * (task.per_class or 0))
    wanted = {"train": (task.per_class or 0) - held_out, "val": held_out, "test": tested}
    assert {name: set(np.bincount(part.labels)) for name, part in samples.splits.items()} == {
        name: {n} for name, n in wanted.items()
    }


def test_a_study_may_have_a_surrogate_of_its_own() -> None:
    deep, usual = (study.network(study.grid()[0]) for study in (SMALL_CONV_DVS_DEEP, SMALL_CONV_DVS))
    assert (deep.surrogate, usual.surrogate) == (SuperSpike(5.0), SuperSpike())
    assert deep.with_width(8).surrogate == deep.surrogate


def test_the_seed_draws_which_samples_are_used(data: Path) -> None:
    first, again, other = (NMNIST_FOLDER.load(seed, data).batch(20)[0] for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.equal(other)


def test_balanced_samples_are_different_ones_and_all_are_used_where_no_number_is_given() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0, 1])
    chosen = balanced(labels, 3, seed=0)
    assert len(set(chosen)) == 6
    assert np.bincount(labels[chosen]).tolist() == [3, 3]
    assert balanced(labels, None, seed=0).tolist() == list(range(7))
    with pytest.raises(ValueError, match=r"per_class=4 is not in 1\.\.3, the samples of class 0"):
        balanced(labels, 4, seed=0)


def test_merged_pixels_see_the_events_of_all_that_they_are_made_of(data: Path) -> None:
    dataset = NMNIST(data / "N-MNIST")
    settings: dict[str, Any] = {"dt": 0.01, "duration": 0.1, "binary": False}
    merged = Merged(dataset, NMNIST.shape, 2)
    fine = bin_events([dataset.events(0)], n_units=dataset.n_units, **settings).reshape(10, 2, 34, 34)
    coarse = bin_events([merged.events(0)], n_units=merged.n_units, **settings).reshape(10, 2, 17, 17)
    assert coarse.sum() > 0
    assert coarse.equal(fine.reshape(10, 2, 17, 2, 17, 2).sum(dim=(3, 5)))


def test_merged_pixels_of_an_image_are_their_mean(data: Path) -> None:
    images, _ = read_cifar10(data / "cifar-10-batches-py")
    pooled = torch.from_numpy(mean_pooled(images, 4).pixels).double()
    means = torch.nn.functional.avg_pool2d(torch.from_numpy(images.pixels).double(), 4)
    assert (pooled - means).abs().max() <= 0.5  # whole numbers
    assert mean_pooled(images, 1).pixels.tolist() == images.pixels.tolist()


@pytest.mark.parametrize("task", [NMNIST_FOLDER, CIFAR10, GESTURES], ids=["nmnist", "cifar10", "gestures"])
def test_pixels_that_cannot_be_merged_evenly_are_refused(data: Path, task: SampledTask[Any]) -> None:
    with pytest.raises(ValueError, match="pool=3 must divide the"):
        replace(task, pool=3).load(0, data)


def test_a_folder_is_among_the_files_that_a_study_needs(data: Path, tmp_path: Path) -> None:
    assert runs_of(TINY, 1, data)
    with pytest.raises(ValueError, match=r"N-MNIST is not in"):
        runs_of(TINY, 1, tmp_path)
    assert [study.files for study in FULL] == [
        ("shd_train.h5", "shd_test.h5"),
        ("cifar-10-batches-py",),
        ("DvsGesture",),
    ]


def test_every_run_finds_all_that_its_table_prints(records: list[Record]) -> None:
    assert [r.error for r in records] == [None] * len(records)
    assert all({m.name for m in TINY.measures} <= r.values.keys() for r in records)
    for r in records:
        assert len(r.curves["rates"]) == {"cifar10-conv-shallow": 2, "cifar10-conv": 4}[str(r.axis("network"))]


def test_measurement_reaches_the_target_in_the_last_layer_and_every_method_its_own_state(
    records: list[Record],
) -> None:
    deep = {str(r.axis("method")): r.values["sigma_u"] for r in records if r.axis("network") == "cifar10-conv"}
    assert deep["measured"] == pytest.approx(1.0, rel=0.01)
    assert deep["measured-unbalanced"] == pytest.approx(1.0, rel=0.01)
    assert deep.pop(SHARE) == deep["measured"]  # another way back, the same way forward
    assert sorted(method for method, sigma in deep.items() if sigma == 0.0) == ["kaiming", "torch"]  # silent before
    assert len(set(deep.values())) == len(deep) - 1
    assert set(TINY.methods) <= LABELS.keys()


def test_the_figure_is_legible(records: list[Record]) -> None:
    figure = TINY.figure(records)
    assert_legible(figure)
    assert len(figure.axes) == 6  # three of each network


def test_a_figure_of_a_single_run_can_be_drawn(records: list[Record]) -> None:
    assert sum(axis.axison for axis in TINY.figure(records[-1:]).axes) == 3


@pytest.mark.parametrize(
    "study",
    [
        pytest.param(TINY, id="camera"),
        pytest.param(TINY_IMAGES, id="images"),
        pytest.param(TINY_SPOKEN, id="spoken", marks=pytest.mark.slow),  # its recurrent maps take long to compile
    ],
)
def test_a_run_is_a_function_of_setting_and_seed(data: Path, study: Conv) -> None:
    setting = next(s for s in study.grid() if s["method"] == "measured")
    first, again, other = (timeless(Run(study, setting, seed, data)()) for seed in (1, 1, 2))
    assert first == again
    assert first.values != other.values


def test_the_formula_is_given_a_rate_where_images_have_none(data: Path) -> None:
    setting = next(s for s in TINY_IMAGES.grid() if s["method"] == "poisson")
    assert Run(replace(TINY_IMAGES, rate=9.2), setting, 0, data)().values["sigma_u"] > 0
    with pytest.raises(ValueError, match="give nu in Hz"):
        Run(TINY_IMAGES, setting, 0, data)()


@pytest.mark.parametrize("study", FULL, ids=["shd", "cifar10", "dvs"])
def test_numbers_of_the_paper_stand_beside_the_networks_and_data_that_they_were_found_with(study: Conv) -> None:
    known = [s for s in study.grid() if any(r.applies_to(s) for r in study.references)]
    assert {s["method"] for s in known if s["network"] == study.networks[-1]} == {"kaiming", "poisson"}
    assert {s["method"] for s in known if s["network"] != study.networks[-1]} <= {"poisson"}


@pytest.mark.parametrize("study", SMALL, ids=["fsdd", "cifar10-subset", "nmnist"])
def test_a_small_study_has_all_methods_on_narrowed_networks_and_no_number_of_the_paper(study: Conv) -> None:
    assert {s["method"] for s in study.grid()} == set(Conv.methods)
    assert not [s for s in study.grid() if any(r.applies_to(s) for r in study.references)]
    for setting in study.grid():
        narrow, full = study.network(setting), network(str(setting["network"]))
        assert narrow != full
        assert _filters(narrow) < _filters(full)


@pytest.mark.parametrize("study", [*FULL, *SMALL], ids=["shd", "cifar10", "dvs", "fsdd", "cifar10-subset", "nmnist"])
def test_a_deeper_network_is_expected_to_take_longer(study: Conv) -> None:
    times = [study.seconds(s) for s in study.grid()]
    assert times == sorted(times)
    assert len(set(times)) == len(study.networks)


def _filters(net: object) -> int:
    assert isinstance(net, AudioConv | ImageConv)
    return sum(net.filters) if isinstance(net, AudioConv) else sum(map(sum, net.blocks))
