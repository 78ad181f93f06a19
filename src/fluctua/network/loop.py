"""How to run a model over all time steps where the user does not say it.

Models of neurons that take whole sequences are called once. One of neurons that take a single step either loops over
time itself, and is called once too, or is written for one step, and is then called for each. A call of the model tells
which: in the first case its neurons run more than once. Neurons are brought to rest before.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fluctua.network.adapters.framework import Framework
from fluctua.network.adapters.registry import framework_of, keeper_of
from fluctua.network.errors import WiringError
from fluctua.network.hooks import hooked
from fluctua.network.known_neurons import Reading, neurons_of
from fluctua.network.layout import mapped
from fluctua.network.modules import modules_of
from fluctua.network.preserve import Copies, Forward, plain_call, preserved


@dataclass(frozen=True)
class WholeCall:
    """One call with the whole batch, after the model was brought to rest."""

    reading: Reading

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """What the model returns."""
        reset(model, self.reading)
        return model(batch)


@dataclass(frozen=True)
class StepLoop:
    """One call for each step of a batch `[T, B, ...]`, after the model was brought to rest."""

    reading: Reading

    def __call__(self, model: nn.Module, batch: Tensor) -> Any:
        """What the model returns, step by step `[T, B, ...]`."""
        reset(model, self.reading)
        step = _framework(model, self.reading).step
        outputs, state = [], None
        for x in batch.unbind(0):
            output, state = step(model, x, state)
            outputs.append(output)
        return _stacked(outputs)


def running_of(
    model: nn.Module,
    batch: Any,
    forward: Forward,
    reading: Reading = Reading(),  # noqa: B008 - frozen
) -> Forward:
    """The `forward` given, or instead of a plain call what the model's neurons ask for.

    Raises:
        WiringError: the model runs neither on the whole batch nor on one step of it.
    """
    if forward is not plain_call:
        return forward
    neurons = neurons_of(model, reading)
    if all(_is_own(neuron) for neuron in neurons):
        return plain_call
    stepwise = [n for n in neurons if any(m.layout.stepwise for m in reading.members(n).values())]
    whole = WholeCall(reading)
    if not stepwise:
        return whole
    looping, failure = _loops(model, batch, whole, stepwise)
    if looping:
        return whole
    loop = StepLoop(reading)
    if not isinstance(batch, Tensor) or batch.ndim < 2:
        raise WiringError(_helpless("its batch is not a tensor [T, B, ...]", failure)) from failure
    try:
        with preserved(model), torch.no_grad():
            loop(model, Copies(model).of(batch[:2]))
    except Exception as error:
        raise WiringError(_helpless(f"{type(error).__name__}: {error}", failure)) from error
    return loop


def reset(model: nn.Module, reading: Reading) -> None:
    """Bring a model to rest, as the framework of each module does before a trial."""
    for module in modules_of(model):
        named, framework = reading.named(module), keeper_of(module)
        if named is not None:
            named.bring_to_rest(module)
        elif framework is not None:
            framework.reset(module)


class _Twice(BaseException):  # no Exception, which the model might catch
    """A neuron was called a second time."""


def _loops(model: nn.Module, batch: Any, whole: WholeCall, stepwise: list[nn.Module]) -> tuple[bool, Exception | None]:
    """Whether the model itself calls its neurons for more than one step, and what went wrong if it could not run."""
    called: set[nn.Module] = set()

    def count(module: nn.Module, args: Any) -> None:
        if module in called:
            raise _Twice
        called.add(module)

    with preserved(model), torch.no_grad(), hooked([n.register_forward_pre_hook(count) for n in stepwise]):
        try:
            whole(model, Copies(model).of(batch))
        except _Twice:
            return True, None
        except Exception as error:
            return False, error
    return False, None


def _helpless(step: str, whole: Exception | None) -> str:
    first = "reaches its neurons once only" if whole is None else f"fails ({type(whole).__name__}: {whole})"
    return (
        f"the model cannot be run over time: called with the whole batch it {first}, and step by step it fails "
        f"({step}); give forward=, a function (model, batch) that runs all time steps"
    )


def _is_own(neuron: nn.Module) -> bool:
    framework = framework_of(neuron)
    return framework is not None and framework.package == "fluctua"


def _framework(model: nn.Module, reading: Reading) -> Framework:
    """That of the first neuron which is called step by step."""
    for neuron in neurons_of(model, reading):
        framework = framework_of(neuron)
        if framework is not None and framework.layout(neuron).stepwise:
            return framework
    return Framework("", "", {})


def _stacked(outputs: list[Any]) -> Any:
    """The outputs of all steps as one, every tensor of them stacked."""
    tensors = list[list[Tensor]]()
    for output in outputs:
        found: list[Tensor] = []
        mapped(output, lambda x, found=found: found.append(x) or x)  # type: ignore[misc]
        tensors.append(found)
    columns = iter([torch.stack(column) for column in zip(*tensors, strict=True)])
    return mapped(outputs[0], lambda x: next(columns))
