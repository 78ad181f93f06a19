"""The input of a model from what users have: loaders, pairs with labels, arrays, integers and booleans."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fluctua.network.adapters.registry import KnownNeurons, WholeCall, prepare
from fluctua.network.errors import BatchError
from fluctua.network.preserve import preserved
from fluctua.network.run import Copies, modules_of, parameters_of


@dataclass(frozen=True, eq=False)
class Input:
    """The input of a model, as taken from what the user gave."""

    batch: Any
    labels: int | None = None  # number of samples with a label
    spread: float | None = None  # standard deviation of the wanted values, if these are no classes
    notes: tuple[str, ...] = ()  # what was done, a sentence each


def take(model: nn.Module, batch: Any, known: KnownNeurons, by_default: bool) -> Input:
    """Extract the input from what the user gave.

    From a `DataLoader` the first batch is taken. The rest applies to models without a given `forward`: of a pair, the
    first item is the input, and the labels are ignored; NumPy arrays become tensors, and integers and booleans become
    numbers of the weights' type, unless the model looks them up.

    Raises:
        BatchError: an iterator, which can be read only once, an array that holds no numbers, or values of samples that
            are no numbers.
    """
    notes = []
    if isinstance(batch, DataLoader):
        batch = _first_of(batch)
        notes.append("the first batch of the DataLoader was taken")
    if not by_default:
        return Input(batch, notes=tuple(notes))
    if isinstance(batch, Iterator):
        raise BatchError(
            f"the batch is an iterator ({type(batch).__name__}), which can be read only once: pass the "
            "DataLoader itself, or next(iterator)"
        )
    labels = spread = None
    if _has_labels(model, batch, known):
        batch, labels, spread = batch[0], _count(batch[1]), _spread(batch[1])
        rest = "the labels were ignored" if spread is None else "only the spread of the values was used"
        notes.append(f"the batch is a pair; its first item was taken; {rest}")
    if isinstance(batch, np.ndarray):
        if batch.dtype.kind not in "biuf":
            raise BatchError(f"the batch is an array of {batch.dtype}, not of numbers: make frames of the events first")
        batch = torch.from_numpy(np.ascontiguousarray(batch))
        notes.append("the batch was converted from a NumPy array")
        batch = batch.to(_precision(model)) if batch.is_floating_point() else batch
    looked_up = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in modules_of(model))
    if isinstance(batch, Tensor) and not (batch.is_floating_point() or batch.is_complex() or looked_up):
        notes.append(f"the batch was converted from {batch.dtype} to {_precision(model)}")
        batch = batch.to(_precision(model))
    return Input(batch, labels, spread, tuple(notes))


def alike(batch: Any, first: Any) -> Any:
    """The input in a further batch, taken as in the first."""
    if not isinstance(first, Tensor):
        return batch
    x = batch[0] if isinstance(batch, tuple | list) else batch
    x = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    if not isinstance(x, Tensor):
        return x
    return x.to(first.dtype, copy=x.is_inference())  # autograd takes no inference tensors


def _first_of(loader: DataLoader[Any]) -> Any:
    """Its first batch; neither torch's random number generator nor its own advances."""
    generator = loader.generator
    state = None if generator is None else generator.get_state()
    with torch.random.fork_rng([]):
        first = list(islice(loader, 1))
    if not first:
        raise BatchError("the DataLoader is empty: there is nothing to measure")
    if generator is not None and state is not None:
        generator.set_state(state)
    return first[0]


def _has_labels(model: nn.Module, batch: Any, known: KnownNeurons) -> bool:
    """Whether the batch is an input with its labels, rather than two inputs that the model needs together."""
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor | np.ndarray)):
        return False
    second = torch.as_tensor(batch[1]) if isinstance(batch[1], np.ndarray) else batch[1]
    if not isinstance(second, Tensor) or second.ndim < 2 or not second.is_floating_point():
        return True
    return _runs(model, batch[0], known) or not _runs(model, batch, known)  # a loop over steps runs on a pair too


def _runs(model: nn.Module, batch: Any, known: KnownNeurons) -> bool:
    with preserved(model, prepare), torch.no_grad():
        try:
            WholeCall(known)(model, Copies(model).of(batch))
        except Exception:
            return False
    return True


def _count(labels: Any) -> int | None:
    """Number of samples with labels, if these have one axis."""
    one_axis = getattr(labels, "ndim", 1) == 1 and hasattr(labels, "__len__")
    return len(labels) if one_axis else None


def _spread(wanted: Any) -> float | None:
    """The standard deviation of floating-point numbers that differ; None for anything else."""
    values = torch.as_tensor(wanted) if isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f" else wanted
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return None
    finite = values.detach().double()[values.isfinite()]  # others are missing
    if not finite.numel():
        raise BatchError("the values that came with the batch are all NaN or infinite: give the batch without them")
    return float(finite.std(correction=0)) or None


def _precision(model: nn.Module) -> torch.dtype:
    """The type of the model's weights."""
    kinds = (p.dtype for p in parameters_of(model) if p.is_floating_point())
    return next(kinds, torch.get_default_dtype())
