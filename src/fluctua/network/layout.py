"""How a neuron module is called: where time is in what it takes and what it returns."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Time = Literal["first", "second", "step", "merged"]


@dataclass(frozen=True)
class Layout:
    """The convention of one neuron module; a subclass for a framework that passes currents by other ways.

    Attributes:
        time: "first" for a call with the whole sequence `[T, B, *N]`, "second" for `[B, T, *N]`, "merged" for
            `[B * T, *N]` sample by sample, "step" for one call a time step with `[B, *N]`.
        samples: B of a merged sequence, None where T is known.
        steps: T of a merged sequence, None where B is known.
    """

    time: Time = "first"
    samples: int | None = None
    steps: int | None = None

    @property
    def stepwise(self) -> bool:
        """Whether the module is called once for each time step."""
        return self.time == "step"

    def currents(self, module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], most: int) -> tuple[Tensor, ...]:
        """The input currents of one call, as they are given: its leading tensors, `most` at most."""
        currents: list[Tensor] = []
        for argument in args or tuple(kwargs.values()):
            if not isinstance(argument, Tensor) or len(currents) == most:
                break
            currents.append(argument)
        return tuple(currents)

    def spikes(self, module: Any, output: Any) -> Tensor:
        """What the module has emitted in one call, as it is returned: the first tensor of its output."""
        found = first_tensor(output)
        if found is None:
            raise ValueError(f"{type(module).__name__} returned no tensor that could be its spikes")
        return found

    def answer(self, module: Any, output: Any, spikes: Tensor) -> Any:
        """What the module returns in place of `output` where its spikes in that call are `spikes` instead."""
        return with_first_tensor(output, spikes)

    def as_sequence(self, x: Tensor) -> Tensor:
        """What one call takes or returns -> `[t, B, *N]`, where t is 1 for a step; a view."""
        if self.time == "step":
            return x.unsqueeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            self._check_merged(len(x))
            steps = -1 if self.samples else self.steps or 1
            split: Tensor = x.unflatten(0, (self.samples or -1, steps))  # type: ignore[no-untyped-call]
            return split.transpose(0, 1)
        return x

    def _check_merged(self, frames: int) -> None:
        known, unit = (self.samples, "samples") if self.samples else (self.steps or 1, "steps")
        if frames % known:
            raise ValueError(
                f"{frames} frames in one axis are no trials of {known} {unit}: set the number of {unit} in the neurons "
                "to that of the batch"
            )

    def as_called(self, x: Tensor) -> Tensor:
        """The way back: `[t, B, *N]` -> what one call takes or returns."""
        if self.time == "step":
            return x.squeeze(0)
        if self.time == "second":
            return x.transpose(0, 1)
        if self.time == "merged":
            return x.transpose(0, 1).flatten(0, 1)
        return x


def first_tensor(output: Any) -> Tensor | None:
    """The first tensor in what a module returns."""
    if isinstance(output, Tensor):
        return output
    for item in output if isinstance(output, tuple | list) else ():
        if (found := first_tensor(item)) is not None:
            return found
    return None


def with_first_tensor(output: Any, tensor: Tensor) -> Any:
    """What a module returns, with another tensor in the place of its first."""
    done = False

    def replaced(x: Tensor) -> Tensor:
        nonlocal done
        x, done = (x if done else tensor), True
        return x

    return mapped(output, replaced)


def mapped(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a module returns, every tensor in it changed."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, tuple | list):
        items = [mapped(item, change) for item in output]
        return output._make(items) if hasattr(output, "_make") else type(output)(items)
    if isinstance(output, dict):
        return type(output)((key, mapped(item, change)) for key, item in output.items())
    return output
