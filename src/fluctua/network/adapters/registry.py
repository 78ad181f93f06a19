"""Which modules of a model are neurons, what their facts are, and how a model of them runs over time.

Classes are known by name, so fluctua imports no framework itself. A subclass is served by the entry of its nearest base
class. The user describes classes that no framework knows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from fluctua.network.adapters.framework import FactsOf, Framework, States, Stepping, Timing, changes, check_version
from fluctua.network.errors import AXES, Axis, BatchError, UnsupportedNeuronError, WiringError
from fluctua.network.facts import Neuron, PopulationSpec
from fluctua.network.preserve import preserved
from fluctua.network.run import Copies, Forward, Layout, Shown, contents_of, hooked, modules_of, plain_call, stacked
from fluctua.timeloop.tracing import said

if TYPE_CHECKING:
    from fluctua.network.probe import ProbedNeuron

ADAPTERS = ("fluctua", "norse", "rockpool", "sinabs", "snntorch", "spikingjelly", "stork")
"""The packages whose neurons are known, each from a module beside this one; imported when a class of it is met."""

Specs = Mapping[str, PopulationSpec]


@dataclass(frozen=True)
class KnownNeurons:
    """The neuron classes of all frameworks, and those that the user has described.

    Attributes:
        dt: time step in seconds of neurons that count time in steps.
        described: what classes are like that no framework knows.
        readouts: names of populations that the user calls readouts; None to decide by what is seen.
    """

    dt: float | None = None
    described: Mapping[type[nn.Module], "ProbedNeuron"] = field(default_factory=dict)
    readouts: Collection[str] | None = None
    _found: dict[Any, Specs] = field(default_factory=dict, repr=False, compare=False)
    _contents: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def specs(self, module: nn.Module, steps: int | None = None) -> Specs:
        """The populations of a module by name, for a trial of `steps` steps; none if it is no neuron."""
        kept = (t for m in modules_of(module) for t in (*m._parameters.values(), *m._buffers.values()))
        now = module, *(t._version for t in kept if t is not None and not t.is_inference())
        if (now, steps) not in self._found:
            if now not in self._contents:
                try:
                    hash(made := module if self.description(module) else contents_of(module))
                except Exception:  # it refers to itself, or to what has no contents to compare
                    made = module
                self._contents[now] = made
            alike = self._found.get((self._contents[now], steps))
            found = self._specs(module, steps) if alike is None else {"": replace(alike[""], emitter=module)}
            self._found[now, steps] = found
            if found.keys() == {""} and not found[""].inner:  # else it holds more of the module
                self._found[self._contents[now], steps] = found
        return self._found[now, steps]

    def _specs(self, module: nn.Module, steps: int | None) -> Specs:
        timing, description = Timing(self.dt, steps), self.description(module)
        if description is None:
            return specs_of(module, timing)
        from fluctua.network.probe import probe

        return {"": PopulationSpec(probe(module, description, timing), module, (0,), layout=self.layout(module))}

    def description(self, module: nn.Module) -> "ProbedNeuron | None":
        """The user's description of a module, by its nearest base class; None without one."""
        return next((self.described[base] for base in type(module).__mro__ if base in self.described), None)

    def layout(self, module: nn.Module) -> Layout:
        """How a neuron module takes time, whether it can be served or not."""
        if (description := self.description(module)) is not None:
            return Layout(description.time)
        framework = framework_of(module)
        return Layout() if framework is None else framework.layout(module)

    def is_derived(self, module: nn.Module) -> bool:
        """Whether its class is the user's own, served by the entry of a framework's class."""
        found = None if self.description(module) else framework_of(module)
        return found is not None and _name(type(module)) not in found.facts

    def found_in(self, model: nn.Module) -> list[nn.Module]:
        """The neuron modules of a model; not those inside other neuron modules."""
        found: list[nn.Module] = []
        inside: set[nn.Module] = set()
        for module in modules_of(model):
            if module not in inside and (self.description(module) or framework_of(module)):
                found.append(module)
                inside |= set(modules_of(module)) - {module}
        return found

    def served_in(self, model: nn.Module) -> list[nn.Module]:
        """The neuron modules of a model that can be served.

        Raises:
            UnsupportedNeuronError: none of them can.
        """
        refused = self.refused_in(model)
        served = [module for module in self.found_in(model) if module not in refused]
        if refused and not served:
            raise next(iter(refused.values()))
        return served

    def refused_in(self, model: nn.Module) -> dict[nn.Module, UnsupportedNeuronError]:
        """The modules of known classes that cannot be served, and why; not those that the user has described."""
        refused = {}
        for module in self.found_in(model):
            try:
                if self.description(module) is None:
                    self.specs(module)
            except UnsupportedNeuronError as error:
                refused[module] = error
        return refused

    def begins_with(self, module: nn.Module, x: Tensor, states: States, named: Mapping[str, Any]) -> States:
        """The state from which a call with a step `x` and these states continues.

        Raises:
            UnsupportedNeuronError: it is not known where the module keeps its state.
        """
        if (description := self.description(module)) is not None:
            return description.state(module, (*states, *named.values()) or description.first_state(module, x))
        return _stepping(module).begins_with(module, x, states, named)

    def left_by(self, module: nn.Module, output: Any) -> States:
        """The state that a call left; raises as `begins_with`."""
        if (description := self.description(module)) is not None:
            return description.state(module, output[1:] if isinstance(output, tuple) else ())
        return _stepping(module).left_by(module, output)

    def reset(self, model: nn.Module) -> None:
        """Bring a model to rest, as the framework of each module does before a trial."""
        for module in modules_of(model):
            description, framework = self.description(module), resetting_framework(module)
            if description is not None:
                description.bring_to_rest(module)
            elif framework is not None:
                framework.reset(module)


def _stepping(module: nn.Module) -> Stepping:
    framework = framework_of(module)
    if framework is None or framework.stepping is None:
        raise UnsupportedNeuronError(f"the state of {type(module).__name__} is not known")
    return framework.stepping


@cache
def framework_named(package: str) -> Framework | None:
    """The adapter of a package; None if there is none."""
    if package not in ADAPTERS:
        return None
    name = "own" if package == "fluctua" else package
    found: Framework = import_module(f"fluctua.network.adapters.{name}").FRAMEWORK
    return found


@lru_cache
def _frameworks_of(kind: type) -> list[Framework]:
    """The frameworks that a class and its bases come from."""
    packages = dict.fromkeys(base.__module__.partition(".")[0] for base in kind.__mro__)
    return [framework for package in packages if (framework := framework_named(package)) is not None]


def framework_of(module: nn.Module) -> Framework | None:
    """The framework that knows a module as a neuron, or refuses it; None if none does."""
    return (_entry(module) or (None, ""))[0]


def resetting_framework(module: nn.Module) -> Framework | None:
    """The framework that brings a module to rest before a trial: a neuron, or anything else that keeps state."""
    keeping = (f for f in _frameworks_of(type(module)) if not _names(module).isdisjoint(f.stateful))  # type: ignore[arg-type]
    return framework_of(module) or next(keeping, None)


def specs_of(module: nn.Module, timing: Timing = Timing()) -> Specs:  # noqa: B008 - frozen
    """The populations of a module by name, "" for that of a plain neuron; none if it is no known neuron.

    Raises:
        UnsupportedNeuronError: a known class that cannot be served.
    """
    found = _entry(module)
    if found is None:
        return {}
    framework, entry = found
    if isinstance(entry, str):
        raise UnsupportedNeuronError(f"{type(module).__name__} of {framework.package} cannot be initialised: {entry}")
    if framework.tested:
        check_version(framework.package, framework.tested)
    facts = entry(module, timing)
    layout = framework.layout(module)
    if isinstance(facts, Neuron):
        facts = {"": PopulationSpec(facts, module, tuple(range(len(facts.kernels))))}
    in_steps = not framework.timed and timing.dt is None
    return {
        name: replace(spec, neuron=replace(spec.neuron, in_steps=in_steps), layout=layout)
        for name, spec in facts.items()
    }


def prepare(module: nn.Module) -> None:
    """Make a neuron module observable by torch's hooks."""
    framework = framework_of(module)
    if framework is not None and framework.prepare is not None:
        framework.prepare(module)


def transposed(synapse: nn.Module) -> int:
    """Axis of a weight that counts output units: 1 if it multiplies from the right or convolves backwards, else 0."""
    if isinstance(synapse, nn.modules.conv._ConvTransposeNd):
        return 1
    names = _names(synapse)
    return int(any(not names.isdisjoint(framework.transposed) for framework in _frameworks_of(type(synapse))))  # type: ignore[arg-type]


def _names(module: nn.Module) -> set[str]:
    return {_name(base) for base in type(module).__mro__}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _entry(module: nn.Module) -> tuple[Framework, FactsOf | str] | None:
    for base in type(module).__mro__:
        name = _name(base)
        for framework in _frameworks_of(type(module)):  # type: ignore[arg-type]
            if name in framework.facts:
                facts = framework.facts[name]
                own = framework.stepping is not None and changes(type(module), base)
                if facts is not None and not own:
                    return framework, facts
                from fluctua.network.adapters.by_step import by_step

                note = "its facts come from its own step" if own else None
                return framework, partial(by_step, framework, note)
            if name in framework.refused:
                return framework, framework.refused[name]
    return None


# -- how a model is run over all time steps --------------------------------------------------------------------------
#
# Models of neurons that take whole sequences are called once. A model of neurons that take single steps either loops
# over time itself, and is also called once, or is written for one step, and is called for each. A call of the model
# tells which: in the first case its neurons run more than once. Before that all neurons are brought to rest. A static
# input is shown at every step, unless the model itself makes a sequence of it.


@dataclass(frozen=True)
class WholeCall:
    """One call with the whole batch, after the model was brought to rest."""

    known: KnownNeurons

    def __call__(self, model: nn.Module, batch: Any) -> Any:
        """What the model returns."""
        self.known.reset(model)
        return model(batch)


@dataclass(frozen=True)
class StepLoop:
    """One call for each step of a batch, or `steps` calls with a static one, after the model was brought to rest."""

    known: KnownNeurons
    time: Axis = 0
    steps: int | None = None

    def __call__(self, model: nn.Module, batch: Tensor) -> Any:
        """What the model returns, step by step `[T, B, ...]`."""
        self.known.reset(model)
        return self.through(model, batch)

    def through(self, model: nn.Module, batch: Tensor) -> Any:
        """The same, starting from the present state of the model."""
        step = _framework(model, self.known).step
        outputs, state = [], None
        for x in [batch] * (self.steps or 1) if self.time is None else batch.unbind(self.time):
            output, state = step(model, x, state)
            outputs.append(output)
        return stacked(outputs)


def over_time(model: nn.Module, batch: Any, known: KnownNeurons, time: Axis, steps: int | None = None) -> Forward:
    """How to run a model, as its neurons require, if no `forward` is given.

    With `steps` a static input is shown for that many steps, unless the model loops over time itself.

    Raises:
        BatchError: an input that is no sequence, or no static input, of samples.
        WiringError: the model runs neither on the whole batch nor on one step of it.
    """
    neurons = known.found_in(model)
    if all(framework is not None and framework.package == "fluctua" for framework in map(framework_of, neurons)):
        return plain_call if steps is None else Shown(steps, plain_call)
    stepwise = [n for n in neurons if known.layout(n).stepwise]
    whole = WholeCall(known)
    if not stepwise:
        return whole if steps is None else Shown(steps, whole)
    looping, failure = _loops(model, batch, whole, stepwise)
    if looping:
        return whole
    if time is None and steps is None:
        raise WiringError(
            "the model runs one time step per call, and the number of steps of its static input is not given"
            f"{'' if failure is None else f' (called once it fails, {said(failure)})'}: give steps="
        )
    loop = StepLoop(known, time, steps)
    if not isinstance(batch, Tensor) or batch.ndim < 2:
        raise WiringError(_cannot_run(f"its batch is not a tensor {AXES[time]}", failure)) from failure
    little = batch if time is None else batch.narrow(time, 0, min(2, batch.shape[time]))
    checks = _needing_samples(model, batch, time) if failure is None else []
    try:
        with preserved(model, prepare), torch.no_grad(), hooked(checks):
            replace(loop, steps=1)(model, Copies(model).of(little))
    except BatchError:
        raise
    except Exception as error:
        raise WiringError(_cannot_run(said(error), failure)) from error
    return loop


def _needing_samples(model: nn.Module, batch: Tensor, time: Axis) -> list[RemovableHandle]:
    """Hooks that refuse a step without an axis of samples, which a convolution would mistake for a single sample."""

    def before(module: Any, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], Tensor) and args[0].ndim == len(module.kernel_size) + 1:
            raise BatchError(
                f"the batch {[*batch.shape]} was read as {AXES[time]}, but then a step has no samples: "
                f"{type(module).__name__} gets {[*args[0].shape]}. For static inputs [B, ...] say time=None, "
                "steps=...; give a single recording [T, ...] an axis of samples, x[:, None]"
            )

    return [m.register_forward_pre_hook(before) for m in modules_of(model) if isinstance(m, nn.modules.conv._ConvNd)]


class _Twice(BaseException):  # not an Exception, which the model might catch
    """A neuron was called a second time."""


def _loops(model: nn.Module, batch: Any, whole: WholeCall, stepwise: list[nn.Module]) -> tuple[bool, Exception | None]:
    """Whether the model itself calls its neurons for more than one step, and what went wrong if it could not run."""
    called: set[nn.Module] = set()

    def count(module: nn.Module, args: Any) -> None:
        if module in called:
            raise _Twice
        called.add(module)

    with preserved(model, prepare), torch.no_grad(), hooked([n.register_forward_pre_hook(count) for n in stepwise]):
        try:
            whole(model, Copies(model).of(batch))
        except _Twice:
            return True, None
        except Exception as error:
            return False, error
    return False, None


def _cannot_run(step: str, whole: Exception | None) -> str:
    first = "reaches its neurons once only" if whole is None else f"fails ({said(whole)})"
    return (
        f"the model cannot be run over time: called with the whole batch it {first}, and step by step it fails "
        f"({step}); give forward=, a function (model, batch) that runs all time steps"
    )


def _framework(model: nn.Module, known: KnownNeurons) -> Framework:
    """The framework of the first neuron that is called step by step."""
    found = [framework_of(n) for n in known.found_in(model) if known.layout(n).stepwise]
    return next((framework for framework in found if framework is not None), Framework("", "", {}))
