"""A model of any framework that runs on fused loops: the same parameters, inputs and outputs, in less time."""

from functools import partial
from typing import Any

from torch import nn

from fluctua.fusion.chain import stepped
from fluctua.fusion.comparison import compared, on_few
from fluctua.fusion.errors import FuseError
from fluctua.fusion.handles import Handle
from fluctua.fusion.own import own_populations
from fluctua.fusion.population import Population
from fluctua.fusion.report import FuseReport
from fluctua.fusion.session import Session
from fluctua.network.adapters.registry import KnownNeurons, StepLoop, framework_of, over_time
from fluctua.network.errors import Axis
from fluctua.network.intake import take
from fluctua.network.preserve import TURN, as_written
from fluctua.network.run import Forward, modules_of, named_modules_of


def fuse(
    model: nn.Module,
    batch: Any,
    *,
    forward: Forward | None = None,
    time: Axis = 0,
    steps: int | None = None,
    exact: bool = True,
) -> "FusedModel":
    """Run the model on fused loops: weights act on all steps at once, and neurons run in fused loops over time.

    The loops are derived from each neuron's own step, which is traced once, so spikes and gradients are those of the
    model. The model's own forward pass runs; whatever it does to the first step is done to all steps. If spikes are
    few, weights in front of neurons, also recurrent ones, are added up spike by spike. What cannot join runs step by
    step.

    Args:
        model: of fluctua, snnTorch, Norse, SpikingJelly, sinabs or Rockpool, or of several. It is not changed, and
            shares its parameters and buffers with the fused model.
        batch: an input as in training, or a pair with labels or a `DataLoader` of them; a few samples are compared.
        forward: `(model, batch)` that runs all time steps, if the model itself does not.
        time: which axis of a batch is time, for a model written for a single step; None for a static input.
        steps: how many steps a static input is shown for, for a model written for a single step.
        exact: whether a difference in the comparison is an error, or only a note in the report.

    Raises:
        FuseError: no population can run in a fused loop; the model does something that no loop over all steps can do
            (feedback between populations, a state that is edited between steps, backward within forward); or the
            fused model gives different results.
        WiringError: fluctua cannot see how the model runs over time.

    Example:
        >>> import fluctua, snntorch, torch
        >>> layers = nn.Linear(30, 20), snntorch.Leaky(beta=0.9, init_hidden=True)
        >>> x = (torch.rand(25, 8, 30) < 0.2).float()
        >>> fast = fluctua.fuse(nn.Sequential(*layers), x)
        >>> fast(x).shape
        torch.Size([25, 8, 20])
        >>> fast.report.fused
        ('1',)
    """
    batch = take(model, batch, KnownNeurons(), forward is None).batch
    populations = [
        Population(name, module, framework)
        for name, module in named_modules_of(model)
        if (framework := framework_of(module)) is not None and framework.package != "fluctua"
    ]
    populations += own_populations(model)
    if not populations:
        raise FuseError("no neuron of a known framework in the model: fluctua's own layers already run in fused loops")
    by_steps = {p.name: found for p in populations if isinstance(found := p.look(), str)}
    fused = tuple(p.name for p in populations if p.name not in by_steps)
    if not fused:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in by_steps.items())
        raise FuseError(f"none of the neurons can run in a fused loop ({reasons})")
    samples = 1 if time == 0 else 0
    runs = forward
    if forward is None:
        _, way = on_few(lambda few: over_time(model, few, KnownNeurons(), time, steps), batch, samples)
        # It does not bring the model to rest first.
        runs = partial(stepped, way) if isinstance(way, StepLoop) else None
    fast = FusedModel(model, populations, runs)
    shown, what, notes = compared(fast, batch, samples, exact)
    fast.__dict__["_shown"] = shown
    fast.__dict__["report"], fast.__dict__["given"] = FuseReport(fused, by_steps, what, notes), forward
    return fast


class FusedModel(nn.Module):
    """The result of `fuse`. Its parameters, buffers and children are the model's own, under the same names.

    So an optimiser of either trains both, and a `state_dict` of either fits both. It is as deterministic as the model,
    except for dropout masks, which use other random numbers.

    Attributes:
        unfused: the model.
        given: the function `forward` that `fuse` was given, if any.
        report: `fused` and `by_steps` name its neuron modules, `compared` and `notes` tell what the comparison of both
            showed.

    Example:
        >>> import fluctua, snntorch, torch
        >>> x = (torch.rand(25, 8, 30) < 0.2).float()
        >>> model = nn.Sequential(nn.Linear(30, 20), snntorch.Leaky(beta=0.9, init_hidden=True))
        >>> fast = fluctua.fuse(model, x)
        >>> fast.unfused is model, list(fast.state_dict()) == list(model.state_dict())
        (True, True)
    """

    unfused: nn.Module
    given: Forward | None
    report: FuseReport
    populations: list[Population]
    hearing: set[str]
    _forward: Forward | None
    _shown: dict[str, int]

    def __init__(self, model: nn.Module, populations: list[Population], forward: Forward | None) -> None:
        super().__init__()
        own = vars(self)
        own |= {name: vars(model)[name] for name in ("_parameters", "_buffers", "_modules")}
        own["_non_persistent_buffers_set"] = model._non_persistent_buffers_set
        own |= {"unfused": model, "training": model.training, "_shown": {}}
        own |= {"populations": populations, "hearing": set(), "_forward": forward}

    def train(self, mode: bool = True) -> "FusedModel":
        """As for any module; sets the mode of the model too."""
        self.unfused.train(mode)
        self.training = mode
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        with TURN, as_written(self.unfused):  # meanwhile its modules answer to this pass alone
            session = Session(self.unfused, self.populations, self._shown, self.hearing)
            answer = session.run(self.plain, *args, **kwargs)
            _settle(self.unfused)
            return answer

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output, without fused loops."""
        if self._forward is None:
            return self.unfused(*args, **kwargs)
        return self._forward(self.unfused, *args, **kwargs)

    def extra_repr(self) -> str:
        """For `print(model)`."""
        return f"{type(self.unfused).__name__} on fused loops"


def _settle(model: nn.Module) -> None:
    """Put tensors in the place of what modules of the model keep of the pass, where they are known: others keep all."""
    for module in modules_of(model):
        for holder in (vars(module), module._buffers, vars(module).get("_memories", {})):
            for name, value in list(holder.items()):
                if isinstance(value, Handle) and value.node.known(getattr(value, "step", None)):
                    holder[name] = value.actual
