"""The facts of sinabs's neurons. Time constants count time steps."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fluctua.network.adapters.framework import FactsOf, Framework, Hearing, Sharpness, States, Stepping
from fluctua.network.run import Layout


def layout(module: Any) -> Layout:
    """`[B, T, *N]`, or for the Squeeze variants `[B * T, *N]`; these know B, T, or both (-1: not known)."""
    if not hasattr(module, "num_timesteps"):
        return Layout("second")
    samples, steps = (size if size > 0 else None for size in (module.batch_size, module.num_timesteps))
    return Layout("merged", samples, steps)


class Layers(Stepping):
    """State in buffers."""

    mean = "firing_rate"

    def names(self, module: Any) -> tuple[str, ...]:
        names = [name for name, _ in module.named_buffers(recurse=False)]
        return ("v_mem", *(name for name in names if name != "v_mem"))

    def hearing(self, module: Any) -> Hearing | None:
        return Hearing(module.rec_connect, kept=False) if hasattr(module, "rec_connect") else None

    def kept(self, module: Any, x: Tensor) -> States | None:
        lif = any(kind.__name__ == "LIF" for kind in type(module).__mro__) and self.hearing(module) is None
        if lif and all(part.shape[1:] == x.shape[1:] and len(part) != len(x) for part in self.held(module)):
            module.handle_state_batch_size_mismatch(len(x))  # it draws from the samples of the last batch
        return super().kept(module, x)

    def call(self, module: Any, x: Tensor) -> Tensor:
        if hasattr(module, "num_timesteps"):
            module.batch_size, module.num_timesteps = -1, 1
            output: Tensor = type(module).forward(module, x)
            return output
        output = type(module).forward(module, x.unsqueeze(1))
        return output.squeeze(1)

    def step(self, module: Any, x: Tensor, state: States) -> tuple[Tensor, States]:
        module.record_states = True  # ALIF forgets its current at the end of a call
        output, after = super().step(module, x, state)
        last = (module.recordings.get(name) for name in self.names(module))
        return output, tuple(part if seen is None else seen[:, -1] for seen, part in zip(last, after, strict=True))

    def carried(self, module: Any, name: str, part: Tensor) -> Tensor:
        forgets = name == "i_syn" and hasattr(module, "b0")
        return torch.zeros_like(part) if forgets else part

    def watched(self, module: Any) -> str | None:
        return "it records its states (record_states)" if module.record_states else None


def sharpness(module: Any) -> Sharpness | None:
    """The width of its `surrogate_grad_fn`, which modules may share."""
    surrogate: Any = module.surrogate_grad_fn
    names = {f.name for f in fields(surrogate)} if is_dataclass(surrogate) else set[str]()
    name = next((n for n in ("grad_width", "sigma", "window") if n in names), None)
    if name is None:
        return None

    def put(value: float) -> None:
        module.surrogate_grad_fn = replace(surrogate, **{str(name): value})

    return Sharpness(name, float(getattr(surrogate, name)), put)


def reset(module: Any) -> None:
    """All states to zero."""
    module.reset_states()


FACTS: Mapping[str, FactsOf | None] = dict.fromkeys(  # the Squeeze variants and ExpLeak are subclasses
    f"sinabs.layers.{name}"
    for name in ("alif.ALIF", "alif.ALIFRecurrent", "iaf.IAFRecurrent", "lif.LIF", "lif.LIFRecurrent")
)

FRAMEWORK = Framework(
    package="sinabs", tested="3.1.3", facts=FACTS, layout=layout, reset=reset, stepping=Layers(), sharpness=sharpness
)
