"""Weights and neurons that follow each other in a `nn.Sequential`: one step of all of them in one go.

A step that their code would do as the last one is only counted. Their code is known, so what could make it do anything
else is known too: another input, state, weight, module or hook. All of that is looked at in every step.
"""

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import nn
from torch.nn.modules import module as of_torch

from fluctua.fusion.handles import Step, Whole
from fluctua.fusion.member import Member
from fluctua.fusion.nodes import Node
from fluctua.network.adapters.registry import StepLoop
from fluctua.network.run import stacked

_HOOKS = [f"_{way}_{kind}" for way in ("forward", "backward") for kind in ("hooks", "pre_hooks")]


class Chain:
    """Weights and neurons.

    Args:
        modules: all of them, in their order.
        members: the neurons in the model, by module.
    """

    def __init__(self, modules: Sequence[Any], members: Mapping[Any, Member]) -> None:
        self._modules = modules
        self._members = [members[m] for m in self._modules if m in members]
        self._weights = [m._parameters for m in self._modules if m not in members]
        self._hooks = [getattr(m, name) for m in self._modules for name in _HOOKS]
        self._hooks += [getattr(of_torch, f"_global{name}") for name in _HOOKS]
        self._last = members.get(self._modules[-1])
        self._source: Node | None = None  # of the last step, if it may go on
        self._known: list[Any] = []
        self._answer: Any = None

    def __call__(self, x: Any) -> Any:
        """What the last of them returns."""
        if type(x) is Step and x.node is self._source and x.step > 1 and self._goes_on(x.step):
            for member in self._members:
                if member is not self._last:
                    member.advance()
            return Step.of(self._answer.node, x.step) if self._last is None else self._last.next()
        steps, self._source = [x], None
        for module in self._modules:
            steps.append(module(steps[-1]))
        self._answer = steps[-1]
        if all(type(step) is Step and step.step == x.step for step in (steps if self._last is None else steps[:-1])):
            self._source, self._known = x.node, self._facts()
        return self._answer

    def rest(self, steps: int) -> Node | None:
        """What they give in all steps if two are done, and nobody comes between the others; None if unknown."""
        if self._source is None or type(self._answer) is not Step or not self._goes_on(2):
            return None
        for member in self._members:
            member.calls = steps - 1
            member.advance()
        found: Node = self._answer.node
        return found

    def _goes_on(self, step: int) -> bool:
        """Whether this step is the one after the last, and nothing else has changed."""
        here = [member.calls == step and member.undisturbed for member in self._members]
        return all(here) and not any(self._hooks) and self._known == self._facts()

    def _facts(self) -> list[Any]:
        """What decides what a step gives: weights as they are now, forward passes, and what neurons are called with."""
        weights = [
            w is not None and (id(w), w.is_inference() or w._version) for own in self._weights for w in own.values()
        ]
        return [*weights, *[m.__dict__.get("forward") for m in self._modules], *[m.source for m in self._members]]


def in_chains(module: Any, members: Mapping[Any, Member], weights: Collection[nn.Module]) -> Any:
    """The forward pass of a `nn.Sequential`, with weights and neurons that follow each other as chains."""
    modules, parts = list(module._modules.values()), list[Any]()

    def joins(child: Any) -> bool:
        known = members[child].stepwise and members[child].keeps if child in members else child in weights
        return known and _is_plain(child)

    for known, run in groupby(modules, joins):
        children = list(run)
        parts += [Chain(children, members)] if known else children

    def forward(input: Any) -> Any:  # named as in torch
        for part in parts if modules == list(module._modules.values()) else module:
            input = part(input)
        return input

    vars(forward)["chain"] = parts[0] if len(parts) == 1 and _is_plain(module) else None
    return forward


def stepped(loop: StepLoop, model: Any, batch: Any) -> Any:
    """As `loop.through`; a model that is one chain takes two steps, and then all that are left in one go."""
    chain = getattr(vars(model).get("forward"), "chain", None)
    if loop.time is None or not isinstance(chain, Chain) or any(getattr(model, name) for name in _HOOKS):
        return loop.through(model, batch)
    steps, outputs = batch.shape[loop.time], []
    for k in range(steps):
        if k == 2 and (found := chain.rest(steps)) is not None:
            return Whole.of(found)
        outputs.append(model(batch.select(loop.time, k)))
    return stacked(outputs)


def _is_plain(module: Any) -> bool:
    return type(module).__call__ is nn.Module.__call__ and module._compiled_call_impl is None
