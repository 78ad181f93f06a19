"""One neuron module of a model, for the fused loops."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Framework, States, Stepping
from fluctua.network.adapters.registry import framework_named
from fluctua.network.preserve import preserved
from fluctua.network.run import Layout, modules_of
from fluctua.network.stepping import NeuronStep, followed
from fluctua.timeloop.tracing import said

_PLAIN = (bool, int, float, str, type(None))


@dataclass(eq=False)
class Population:
    """A neuron module; its step is traced when first needed, and again when its options have changed.

    Attributes:
        name: of the module in the model.
        module: the module.
        framework: its framework.
    """

    name: str
    module: Any
    framework: Framework
    _known: "tuple[Any, NeuronStep | str] | None" = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy and another process get: the framework by its name, and no trace."""
        return {"name": self.name, "module": self.module, "package": self.framework.package}

    def __setstate__(self, state: dict[str, Any]) -> None:
        found = framework_named(state.pop("package"))
        vars(self).update(state, framework=found, _known=None)

    @property
    def stepping(self) -> Stepping:
        """How its steps are taken."""
        assert self.framework.stepping is not None
        return self.framework.stepping

    @property
    def layout(self) -> Layout:
        """How it is called."""
        return self.framework.layout(self.module)

    @property
    def kind(self) -> str:
        """The name of its class."""
        return type(self.module).__name__

    @property
    def keeps(self) -> bool:
        """Whether its module keeps the state itself."""
        return all(hasattr(self.module, name) for name in self.stepping.names(self.module))

    def follow(self) -> NeuronStep:
        """Its step, traced.

        Raises:
            ValueError: no loop can be made of it.
        """
        return followed(self.module, self.stepping)

    def look(self) -> NeuronStep | str:
        """The trace of its present step, or why it runs unfused."""
        if self.framework.stepping is None:
            return f"neurons of {self.framework.package} are not supported"
        now = _options(self.module, self.stepping)
        if self._known is None or self._known[0] != now:
            try:
                found = self.follow()
                heard = self.stepping.hearing(self.module) is None or found.step.traced.fired is not None
                self._known = now, found if heard else "it is recurrent, and its output is not seen to be 0 or 1"
            except ValueError as error:
                self._known = now, str(error)
            except Exception as error:  # of a stranger's code: any
                self._known = now, f"the step cannot be followed ({said(error)})"
        return self.stepping.watched(self.module) or self._known[1]

    def types(self, x: Tensor, state: States) -> tuple[torch.dtype, ...]:
        """The types of what a step gives, and of the state after it; none if all are that of the current `x`."""
        if x.dtype == torch.float32 and not torch.is_autocast_enabled(x.device.type):
            return ()
        with torch.no_grad(), preserved(self.module):
            begin = tuple(part[0] if isinstance(part, Tensor) else torch.full_like(x[0], part) for part in state)
            output, after = self.stepping.step(self.module, x[0], begin)
        return output.dtype, *(part.dtype for part in after)


def _options(module: nn.Module, stepping: Stepping) -> Any:
    """Everything except tensors of numbers that decides what a step does."""
    attributes = [
        (m.training, *((name, _option(value)) for name, value in vars(m).items() if name != "forward"))
        for m in modules_of(module)
    ]
    return attributes, [_number(getattr(module, name, None)) for name in stepping.options(module)]


def _option(value: Any) -> Any:
    """What may be an option as it is, so that nothing else takes its place in memory; None for anything else."""
    if isinstance(value, tuple):
        return type(value), *map(_option, value)
    return value if isinstance(value, _PLAIN) or callable(value) else None


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
