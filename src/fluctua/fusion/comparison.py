"""A fused model against the model itself: do spikes, outputs and gradients agree?"""

import copy
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fluctua.fusion.errors import FuseError
from fluctua.fusion.handles import Handle, reals
from fluctua.network.preserve import preserved
from fluctua.network.run import hooked, mapped, modules_of, named_parameters_of, tensors_in
from fluctua.timeloop.engines import engine

if TYPE_CHECKING:
    from fluctua.fusion.model import FusedModel

Result = TypeVar("Result")

_SAMPLES = 4
_NOTHING = 1e-12  # of the largest gradient: rounding left over from sums that cancel
_TOLERANCE = 1e-6  # of the largest number; both run in double precision, except what a model keeps in single


def compared(
    fast: "FusedModel", batch: Any, axis: int | None, exact: bool
) -> tuple[dict[str, int], str, tuple[str, ...]]:
    """Calls of each population in a trial, what the comparison showed, and what it could not show.

    Raises:
        FuseError: outputs, spikes or gradients differ, unless not `exact`.
    """
    twin = _copied(fast).double()
    for population in twin.populations:
        step = population.look()
        if not isinstance(step, str):
            step.widen()
    for module in modules_of(twin):
        if "Dropout" in type(module).__name__:
            module.eval()  # masks per step would use other random numbers
    with _in_double(), _one_thread(), engine("reference"):
        little, (truth, spikes, gradients, differentiable) = on_few(partial(_everything, twin, twin.plain), batch, axis)
        shown = {name: len(calls) for name, calls in spikes.items()}
        twin.__dict__["_shown"] = shown
        while True:
            try:
                mine, fused_spikes, fused_gradients, _ = _everything(twin, twin, little, differentiable)
                break
            except FuseError as error:
                if error.changed is None or error.changed in twin.hearing:
                    raise
                twin.hearing.add(error.changed)  # perhaps they are recurrent
    fast.hearing.update(twin.hearing)
    del twin
    _without_waste()
    largest = max((float(g.abs().max()) for g in gradients.values() if g.numel()), default=0.0)
    differences = _differences(truth, mine, "an output")
    for name, calls in spikes.items():
        differences += _differences(calls, fused_spikes.get(name, []), f"what {name} gives")
    for name, gradient in gradients.items():
        differences += _differences([gradient], [fused_gradients[name]], f"the gradient of {name}", _NOTHING * largest)
    if differences and exact:
        raise FuseError(f"the fused model gives something else: {differences[0]} (exact=False accepts it)")
    silent = [name for name, calls in spikes.items() if calls and not any(bool((c != 0).any()) for c in calls)]
    count = sum(int((c != 0).sum()) for calls in spikes.values() for c in calls)
    total = sum(c.numel() for calls in spikes.values() for c in calls)
    what = f"{count:,} of {total:,} outputs of neurons are spikes, all alike; outputs and gradients too"
    notes = [f"{name} was not called" for name, calls in spikes.items() if not calls]
    notes += [f"{name} is silent on this batch, so the comparison does not cover what it feeds" for name in silent]
    return shown, "; ".join(differences) or what, (*notes, *differences)


def _copied(fast: "FusedModel") -> "FusedModel":
    """A deep copy that bypasses the modules' own copying, which is not always correct; without histories of tensors."""
    with preserved(fast):
        own = [m for m in modules_of(fast) if hasattr(type(m), "__deepcopy__")]
        memo: dict[int, Any] = {id(m): object.__new__(type(m)) for m in own}
        for m in own:
            vars(memo[id(m)]).update(copy.deepcopy(vars(m), memo))
        return copy.deepcopy(fast, memo)


def on_few(call: Callable[[Any], Result], batch: Any, axis: int | None) -> tuple[Any, Result]:
    """A few samples of a batch, which lie along this axis, and what is found with them; with all if that fails."""
    if axis is not None and isinstance(batch, Tensor) and batch.ndim > axis + 1 and batch.shape[axis] > _SAMPLES:
        few = batch.narrow(axis, 0, _SAMPLES)
        with suppress(Exception):  # foreign code may need the whole batch
            return few, call(few)
    return batch, call(batch)


def _without_waste() -> None:
    """Give memory back to the system: that of thousands of small tensors, now freed, would stay with the process."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def _everything(
    twin: "FusedModel", call: Any, batch: Any, differentiable: Sequence[bool] | None = None
) -> tuple[list[Tensor], dict[str, list[Tensor]], dict[str, Tensor], list[bool]]:
    """Outputs of the model, of each population call by call, gradients of all parameters, and from which outputs."""
    calls: dict[str, list[Any]] = {p.name: [] for p in twin.populations}

    def after(name: str, module: Any, args: Any, output: Any) -> None:
        calls[name].append(output)

    batch = mapped(batch, lambda x: x.detach().double() if x.is_floating_point() else x)
    with (
        preserved(twin.unfused),
        hooked([p.module.register_forward_hook(partial(after, p.name)) for p in twin.populations]),
    ):
        output = list(tensors_in(call(batch)))
        given = [x.requires_grad and x.is_floating_point() for x in output]
        both = zip(given, differentiable or given, strict=False)  # with other outputs they differ anyway
        numbers = torch.Generator().manual_seed(0)
        weights = [torch.rand(x.shape, generator=numbers, dtype=torch.float64).to(x.device) for x in output]
        heads = [(x * w).sum() for x, w, (mine, theirs) in zip(output, weights, both, strict=False) if mine and theirs]
        parameters = {name: p for name, p in named_parameters_of(twin) if p.requires_grad}
        gradients: Sequence[Tensor | None] = [None] * len(parameters)
        if heads and parameters:
            gradients = torch.autograd.grad(heads, list(parameters.values()), allow_unused=True)
        spikes = {name: [next(tensors_in(x), None) for x in reals(outputs)] for name, outputs in calls.items()}
    found = {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(parameters.items(), gradients, strict=True)
    }
    return (
        [x.detach() for x in output],
        {name: [x.detach() for x in xs if x is not None] for name, xs in spikes.items()},
        found,
        given,
    )


def _differences(truth: list[Tensor], mine: list[Tensor], what: str, floor: float = 0.0) -> list[str]:
    """Differences between tensors beyond rounding, except those below `floor`."""
    if [x.shape for x in truth] != [x.shape for x in mine]:
        return [
            f"{what} has other shapes, {[tuple(x.shape) for x in mine][:3]} for {[tuple(x.shape) for x in truth][:3]}"
        ]
    for a, b in zip(truth, mine, strict=True):
        if a.is_floating_point() and a.numel():
            worst, size = float((a - b).abs().max()), float(a.abs().max())
            if not worst <= max(_TOLERANCE * size, floor):
                return [f"{what} differs by {worst:.3g} of {size:.3g}"]
        elif not torch.equal(a, b):
            return [f"{what} differs"]
    return []


@contextmanager
def _in_double() -> Iterator[None]:
    """Inside the block new tensors of the model are float64 too."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with _Widened():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Inside the block torch computes on one thread: on a few samples more would wait for each other at each step."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


class _Widened(TorchFunctionMode):
    """Replaces single precision by double where a model asks for it; functional dropout passes everything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: _wide(v) for k, v in (kwargs or {}).items()}
        name = getattr(func, "__name__", "")
        if func is Tensor.float:
            func = Tensor.double
        if "dropout" in name and args and isinstance(args[0], Tensor):
            waits = isinstance(args[0], Handle) and args[0].node.waits
            return Handle.__torch_function__(dropout, types, args) if waits else args[0]
        return func(*map(_wide, args), **kwargs)


def dropout(x: Tensor, *_: Any) -> Tensor:
    """Passes everything; named after the function that it replaces."""
    return x


def _wide(argument: Any) -> Any:
    """Double precision in place of single, as torch names it; anything else unchanged."""
    if argument is torch.float32:
        return torch.float64
    if argument in ("torch.FloatTensor", "torch.cuda.FloatTensor") if isinstance(argument, str) else False:
        return argument.replace("Float", "Double")
    return torch.DoubleTensor if argument is torch.FloatTensor else argument
