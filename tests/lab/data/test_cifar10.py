"""The CIFAR-10 reader, on small files in the official layout and on real pictures; no pickle is trusted."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fluctua.lab.data import Images, read_cifar10
from shared.data_files import cifar_batch, python2_pickle, write_batch, write_cifar10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cifar10(tmp_path_factory.mktemp("data") / "cifar-10-batches-py")


def test_the_writer_of_these_tests_writes_what_python_2_wrote() -> None:
    data, labels = cifar_batch(1)
    for array in (data, np.asfortranarray(data)):
        content = pickle.loads(python2_pickle({b"data": array, b"labels": labels, b"n": (3,)}), encoding="bytes")
        np.testing.assert_array_equal(content[b"data"], data)
        assert (content[b"labels"], content[b"n"]) == (labels, (3,))


def test_images_are_channels_of_rows_in_the_order_of_the_files(folder: Path) -> None:
    train, test = read_cifar10(folder)
    assert train.pixels.shape == (100, 3, 32, 32)
    assert train.pixels.dtype == np.uint8
    assert train.labels.dtype == np.int64
    assert train.n_classes == 10
    for k in range(5):
        data, labels = cifar_batch(2, seed=k)
        np.testing.assert_array_equal(train.pixels[20 * k : 20 * k + 20].reshape(20, -1), data)
        assert train.labels[20 * k : 20 * k + 20].tolist() == labels
    np.testing.assert_array_equal(test.pixels.reshape(20, -1), cifar_batch(2, seed=5)[0])
    # the layout: 1024 bytes of red, row by row, then green, then blue
    image, label = train[3]
    assert image[1, 2, 3] == cifar_batch(2)[0][3, 1024 + 2 * 32 + 3]
    assert label == 1


def test_files_written_by_python_3_and_in_columns_are_the_same(folder: Path) -> None:
    data, labels = cifar_batch(2)
    modern = pickle.dumps({b"data": data, b"labels": labels}, protocol=3)
    for raw in (modern, python2_pickle({b"data": np.asfortranarray(data), b"labels": labels})):
        (folder / "data_batch_1").write_bytes(raw)
        np.testing.assert_array_equal(read_cifar10(folder)[0].pixels[:20].reshape(20, -1), data)


# --- refusals ---


class Calls:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def touched(path: Path) -> dict[str, Callable[[], bytes]]:
    """Pickles that would make a file when they are loaded, or do something else that they should not."""
    code = f"open({str(path)!r}, 'w').close()"
    return {
        "os.system": lambda: pickle.dumps(Calls(os.system, f"touch {path}"), 2),
        "eval": lambda: pickle.dumps({b"data": Calls(eval, code)}, 4),
        "Path.touch": lambda: pickle.dumps(Calls(Path.touch, path)),
        "numpy.load": lambda: pickle.dumps(Calls(np.load, str(path)), 2),
        "numpy.core": lambda: b"cnumpy.core.multiarray\nscalar\n.",
        "an attribute of what is allowed": lambda: b"\x80\x04\x8c\x05numpy\x8c\x18ndarray.__init__.__class__\x93.",
        "old opcodes": lambda: f"(S'touch {path}'\nios\nsystem\n.".encode(),
        "a registered extension": lambda: b"\x80\x02\x82\x01.",
        "a persistent id": lambda: b"Pid\n.",
    }


@pytest.mark.parametrize("name", touched(Path("x")))
def test_a_malicious_pickle_is_refused_and_nothing_is_run(name: str, tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path / "batches", per_class=1)
    mark = tmp_path / "mark"
    (folder / "data_batch_3").write_bytes(touched(mark)[name]())
    with pytest.raises(
        ValueError, match=r"data_batch_3 cannot be read as a batch of CIFAR-10 \(.+\): unpack"
    ) as refusal:
        read_cifar10(folder)
    assert not mark.exists()
    assert "\n" not in str(refusal.value)


def test_what_a_pickle_asks_for_is_named(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, per_class=1)
    (folder / "test_batch").write_bytes(pickle.dumps(Calls(eval, "1"), 2))
    with pytest.raises(ValueError, match=r"it asks for (__builtin__|builtins)\.eval, which no such file needs"):
        read_cifar10(folder)


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, per_class=1)
    raw = (folder / "data_batch_2").read_bytes()
    for length in [*range(1, 400), *range(400, len(raw), 1777), len(raw) - 1]:
        (folder / "data_batch_2").write_bytes(raw[:length])
        with pytest.raises(ValueError, match="data_batch_2 cannot be read as a batch of CIFAR-10"):
            read_cifar10(folder)


DATA, LABELS = cifar_batch(1)
CONTENTS: dict[str, tuple[Any, Any, str]] = {
    "an image of another size": (DATA[:, :-3], LABELS, r"not bytes of the shape \[samples, 3072\]"),
    "one image": (DATA[0], LABELS, r"not bytes of the shape \[samples, 3072\]"),
    "numbers": (DATA.astype(np.float32), LABELS, "not bytes"),
    "no array": (b"pixels", LABELS, "not bytes"),
    "a label too many": (DATA, [*LABELS, 0], "11 labels for 10 images"),
    "a label out of range": (DATA, [*LABELS[:-1], 10], "not a list of numbers from 0 to 9"),
    "labels that are words": (DATA, [b"cat"] * 10, "not a list of numbers"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_wrong_contents_are_refused(name: str, tmp_path: Path) -> None:
    data, labels, sentence = CONTENTS[name]
    folder = write_cifar10(tmp_path, per_class=1)
    write_batch(folder / "data_batch_5", data, labels)
    with pytest.raises(ValueError, match=f"data_batch_5 cannot be read as a batch of CIFAR-10 .*{sentence}"):
        read_cifar10(folder)


@pytest.mark.parametrize("raw", [python2_pickle({b"data": 1}), python2_pickle([1]), b"<html>not found</html>"])
def test_other_files_are_refused(raw: bytes, tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, per_class=1)
    (folder / "test_batch").write_bytes(raw)
    with pytest.raises(ValueError, match="test_batch cannot be read as a batch of CIFAR-10"):
        read_cifar10(folder)


def test_an_array_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path, per_class=1)
    honest = (folder / "test_batch").read_bytes()
    lie = honest.replace(b"J\n\0\0\0J\0\x0c\0\0", b"J\xff\xff\xff\x7fJ\0\x0c\0\0")  # the shape (10, 3072)
    assert lie != honest
    (folder / "test_batch").write_bytes(lie)
    with pytest.raises(ValueError, match="not bytes of the shape"):
        read_cifar10(folder)


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data_batch_1 is missing: unpack cifar-10-python\.tar\.gz from"):
        read_cifar10(tmp_path / "none")
    folder = write_cifar10(tmp_path / "some", per_class=1)
    (folder / "test_batch").unlink()
    with pytest.raises(FileNotFoundError, match="test_batch is missing"):
        read_cifar10(folder)


# --- batches ---


def test_an_image_becomes_a_constant_current(folder: Path) -> None:
    data = cifar_module(folder, duration=0.1)
    assert (data.shape, data.n_classes, data.n_steps) == ((3, 32, 32), 10, 50)
    x, y = next(iter(data.test_dataloader()))
    assert (x.shape, x.dtype, y.dtype) == ((50, 16, 3, 32, 32), torch.float32, torch.int64)
    assert x.stride(0) == 0  # one step in memory
    pixels = torch.from_numpy(read_cifar10(folder)[1].pixels[:16])
    torch.testing.assert_close(x[17], (pixels.float() / 255 - 0.5) / 0.5)
    assert x[0].min() >= -1
    assert x[0].max() <= 1


def test_what_goes_to_a_device_is_one_time_step(folder: Path) -> None:
    data = cifar_module(folder, duration=0.1)
    x, y = data.transfer_batch_to_device(data.batch(4), torch.device("meta"), 0)
    assert (x.shape, x.stride(0), x.device.type) == ((50, 4, 3, 32, 32), 0, "meta")
    assert y.device.type == "meta"


def test_validation_images_are_held_out_of_every_class(folder: Path) -> None:
    data = cifar_module(folder)
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 90, "val": 10, "test": 20}
    assert np.bincount(data.splits["val"].labels).tolist() == [1] * 10
    rows = [part.pixels.reshape(len(part), -1) for part in (data.splits["train"], data.splits["val"])]
    assert len(np.unique(np.concatenate(rows), axis=0)) == 100
    _, y = data.batch(20)
    assert torch.bincount(y).tolist() == [2] * 10


def cifar_module(folder: Path, **options: Any) -> Any:
    pytest.importorskip("lightning")
    from fluctua.lab.data.image_module import ImageDataModule

    return ImageDataModule.from_cifar10(folder, **options)


def test_real_pictures(data_dir: Path) -> None:
    train, test = read_cifar10(data_dir / "cifar-10-batches-py")
    assert (len(train), len(test)) == (10_000, 2_000)  # data/README.md: class-balanced
    assert np.bincount(train.labels).tolist() == [1000] * 10
    # CIFAR-10's published channel means are 0.491, 0.482, 0.447; these are subsets of a fifth
    means = train.pixels.mean(axis=(0, 2, 3)) / 255
    np.testing.assert_allclose(means, [0.491, 0.482, 0.447], atol=0.01)
    # neighbouring pixels of a picture are alike, in both directions: the axes are rows and columns
    x = train.pixels[:500].astype(np.float64)
    for axis in (2, 3):
        assert np.abs(np.diff(x, axis=axis)).mean() < 0.3 * x.std()
    assert isinstance(train.subset(np.arange(3)), Images)
