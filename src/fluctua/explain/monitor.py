"""The state of a network during training, in any loop."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from fluctua.network.facts import Population, population_currents, response
from fluctua.network.network import Network
from fluctua.network.run import parameters_of
from fluctua.state.measure import neuron_mean
from fluctua.theory.psp import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


SAMPLES = 8  # of the batch, from which the free potential is taken
FELT = 1e-4  # of the largest gradient in a population, from which a gradient counts as passed


class _Watched:
    """One population in one pass; it only holds what the model computes anyway, and its weights before the step."""

    only_watches = True  # so that fluctua's own passes silence its hooks

    def __init__(self, population: Population) -> None:
        self.population = population
        weights = [q.weight for q in population.pathways]
        self.before = [(w, w.detach().clone()) for w in weights if isinstance(w, nn.Parameter)]
        self.currents: list[tuple[Tensor, ...]] = []
        self.spikes: list[Tensor] = []
        self.felt: Tensor | None = None  # the largest gradient of each neuron's current [*N]
        self.handles = [
            population.module.register_forward_pre_hook(self._arriving, with_kwargs=True),
            population.emitter.register_forward_hook(self._emitted),
        ]

    def _arriving(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not torch.is_grad_enabled():
            return
        layout = self.population.layout
        given = layout.currents(module, args, kwargs, self.population.most)
        if not layout.stepwise:
            self.currents.clear()
            self.felt = None
        self.currents.append(tuple(layout.as_sequence(c.detach()) for c in given))
        for current in self.population.entering(given):
            if current.requires_grad:
                current.register_hook(self._feel)  # type: ignore[no-untyped-call]

    def _feel(self, gradient: Tensor) -> None:
        largest = torch.linalg.vector_norm(self.population.layout.as_sequence(gradient.detach()), math.inf, (0, 1))
        self.felt = largest if self.felt is None else torch.maximum(self.felt, largest)

    def _emitted(self, module: Any, args: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            emission = self.population.emission
            if not emission.stepwise:
                self.spikes.clear()
            self.spikes.append(emission.as_sequence(emission.spikes(module, output).detach()))

    def row(self, fired: Mapping[str, Tensor]) -> dict[str, Any]:
        """The numbers of the population after the step, from the spikes of all."""
        p, neuron = self.population, self.population.neuron
        spikes = fired[p.name]
        counts = spikes.sum((0, 1))
        arguments = [torch.cat(steps)[:, :SAMPLES] for steps in zip(*self.currents, strict=True)]
        inner = {name: other[:, :SAMPLES] for name, other in fired.items()}
        u = response(neuron, population_currents(p, arguments, inner)).flatten(2) + neuron.rest
        mask = torch.ones_like(u[..., 0])
        mean = neuron_mean(u, mask)
        temporal = float((neuron_mean(u**2, mask) - mean**2).clamp_min(0).mean().sqrt())
        theta, trials = neuron.threshold, math.prod(spikes.shape[:2])
        gradients = [w.grad for w, _ in self.before if w.grad is not None]
        moved = _norm([w - old for w, old in self.before]) / max(_norm([old for _, old in self.before]), 1e-30)
        row = {
            "population": p.name,
            "rate": None if theta is None else float(neuron.counted(counts).mean()) / (trials * neuron.kernel.dt),
            "silent": None if theta is None else float((counts == 0).double().mean()),
            "saturated": None if theta is None else float((mean > theta).double().mean()),
            "mu_u": float(mean.mean()),
            "sigma_u": temporal,
            "xi": None if theta is None or temporal == 0 else (theta - float(mean.mean())) / temporal,
            "gradient_norm": _norm(gradients) if gradients else None,
            "update_ratio": moved if self.before else None,
            "surrogate": None if self.felt is None or theta is None else _share_felt(self.felt),
        }
        return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in row.items()}


def _share_felt(felt: Tensor) -> float:
    return float((felt > FELT * felt.max()).double().mean()) if bool(felt.any()) else 0.0


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(sum((t.double().square().sum() for t in tensors), torch.zeros((), dtype=torch.float64)).sqrt())


Row = dict[str, Any]
FILE = "monitor.jsonl"


class Monitor:
    """Records the state of a network's populations, once every `every` optimiser steps, in any training loop.

    Enter it around the loop. It finds the populations in the first training pass of the model. Every `every` steps it
    observes one pass, its backward and its optimiser step; in all others it does not run. It adds nothing to the graph
    and changes no number, but while it looks fused layers run unfused, which may change their last bits. In distributed
    training it sees the samples of its own process; only the first process writes and logs.

    For every population and observed step, a row has `step`, `population`, `rate` (Hz, or spikes per step if no time
    step is known), `silent` and `saturated` (shares of neurons), `mu_u`, `sigma_u` and `xi`, `gradient_norm` of its
    weights, `update_ratio` (how far the step moved them, over their norm), and `surrogate`, the share of its neurons
    that pass a gradient. What concerns U is of the first 8 samples; its `sigma_u` is that of each neuron in time, as
    `sigma_temporal` of a report.

    Args:
        model: the model that the loop calls, of known neurons.
        every: optimiser steps between observations.
        out: folder of the rows, one line each in `monitor.jsonl`, to which a resumed run appends; None keeps them
            in memory.
        start: step at which the loop starts; default: after the last one in the folder.
        loggers: also get the numbers: a TensorBoard `SummaryWriter`, a W&B run, the `mlflow` module, a logger of
            Lightning, or any object with `add_scalar(name, value, step)`, `log_metrics(numbers, step)` or
            `log(numbers, step=)`.
        dt: time step in seconds, for frameworks that count time in steps.
        network: the network, if the loop calls parts of the model rather than the model itself.

    Raises:
        ValueError: an interval below 1.
        WiringError: from the first pass, see `fluctua.network.Network.of`.

    Example:
        >>> from fluctua.neurons import LI, LIF
        >>> model = nn.Sequential(nn.Linear(30, 20), LIF(), nn.Linear(20, 2), LI())
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> with Monitor(model, every=2) as monitor:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         model((torch.rand(50, 4, 30) < 0.1).float()).square().mean().backward()
        ...         _ = optimizer.step()
        >>> [(row["step"], row["population"]) for row in monitor.rows()]
        [(0, '1'), (0, '3'), (2, '1'), (2, '3')]
    """

    only_watches = True

    def __init__(
        self,
        model: nn.Module,
        every: int = 50,
        out: str | Path | None = None,
        *,
        start: int | None = None,
        loggers: Sequence[Any] = (),
        dt: float | None = None,
        network: Network | None = None,
    ) -> None:
        if not (number(every) >= 1 and every % 1 == 0):
            raise ValueError(f"every must be a whole number, at least 1, got {every!r}")
        self.model, self.every, self.dt = model, every, dt
        self.file = None if out is None else Path(out) / FILE
        self._loggers = [_sender(logger) for logger in loggers]
        self._network = network
        self._rows = [] if self.file is None else read_rows(self.file)
        self.begin_at(max((row["step"] for row in self._rows), default=-1) + 1 if start is None else start)
        self._watched: list[_Watched] = []
        self._entrance: RemovableHandle
        self._open = ExitStack()

    def __enter__(self) -> "Monitor":
        self._open.callback(register_optimizer_step_post_hook(self._after).remove)
        self._open.callback(self._look_away)
        if self._network is None:
            self._entrance = self.model.register_forward_pre_hook(self._called, with_kwargs=True)
            self._open.callback(self._entrance.remove)
        self._look()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def begin_at(self, step: int) -> "Monitor":
        """Continue from this optimiser step; rows of later steps are dropped, since these come again."""
        self.step, self._rows = step, [row for row in self._rows if row["step"] < step]
        return self

    def rows(self) -> list[Row]:
        """All rows, in order of step and population, as for `pandas.DataFrame(monitor.rows())`."""
        return [dict(row) for row in self._rows]

    def to_json(self, indent: int | None = None) -> str:
        """The rows as JSON."""
        return json.dumps(self._rows, indent=indent)

    def plot(self, number: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """A matplotlib figure: each number over the steps, one line per population.

        Args:
            number: only this number, such as `"xi"`; with `ax` the default is `"rate"`.
            ax: draw it into these axes.

        Raises:
            ValueError: a number that rows do not have.
        """
        from fluctua.explain.monitor_figure import plot_number, plot_rows

        return plot_rows(self._rows) if number is None and ax is None else plot_number(self._rows, number or "rate", ax)

    def callback(self) -> Any:
        """The monitor as a Lightning callback, with Lightning's step numbers:
        `Trainer(callbacks=[monitor.callback()])`.

        A run that Lightning resumes from a checkpoint continues from the checkpoint's step.
        """
        from lightning.pytorch import Callback

        opening = {"on_train_start": lambda _, trainer, *__: self.begin_at(trainer.global_step).__enter__()}
        closing = dict.fromkeys(("on_exception", "teardown"), lambda *_, **__: self.__exit__())
        return type("MonitorCallback", (Callback,), opening | closing)()

    def __str__(self) -> str:
        from fluctua.explain.monitor_figure import table_of

        return table_of(self._rows)

    def __repr__(self) -> str:
        seen = sorted({row["step"] for row in self._rows})
        where = "" if self.file is None else f", {self.file}"
        often = "step" if self.every == 1 else f"{self.every} steps"
        return f"<Monitor every {often}: {len(seen)} seen, up to step {seen[-1] if seen else '-'}{where}>"

    def _repr_html_(self) -> str:
        from fluctua.explain.monitor_figure import html_of

        return html_of(self._rows)

    # -- while it is open

    def _called(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the first pass that is due: find the populations."""
        if self.step % self.every == 0 and torch.is_grad_enabled():
            self._entrance.remove()
            self._network = _network_of(module, args, kwargs, self.dt)
            self._look()

    def _look(self) -> None:
        if self.step % self.every == 0 and self._network is not None:
            self._watched = [_Watched(p) for p in self._network.populations]

    def _seen(self) -> list[Row]:
        """The rows of this step; populations that did not run are left out."""
        seen = {w.population.name: w for w in self._watched if w.currents and w.spikes}
        with torch.no_grad():
            spikes = {name: torch.cat(w.spikes) for name, w in seen.items()}
            return [{"step": self.step, **w.row(spikes)} for w in seen.values()]

    def _look_away(self) -> None:
        for handle in (handle for watched in self._watched for handle in watched.handles):
            handle.remove()
        self._watched = []

    def _ours(self, optimizer: torch.optim.Optimizer) -> bool:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        return any(id(p) in held for p in parameters_of(self.model))

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not self._ours(optimizer):
            return
        if self._watched:
            self._keep(self._seen())
            self._look_away()
        self.step += 1
        self._look()

    def _keep(self, rows: list[Row]) -> None:
        self._rows += rows
        if torch.distributed.is_available() and torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        if self.file is not None:
            append_rows(self.file, rows)
        for row in rows:
            numbers = {f"{row['population']}/{name}": value for name, value in row.items() if isinstance(value, float)}
            for send in self._loggers:
                send(numbers, row["step"])


def read_rows(file: Path) -> list[Row]:
    """The rows of a file, each step once, as last written; an incomplete last line is left out."""
    found: dict[tuple[int, str], Row] = {}
    for line in file.read_text("utf-8", "replace").splitlines() if file.is_file() else ():
        with suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            found[row["step"], row["population"]] = row
    return sorted(found.values(), key=lambda row: row["step"])


def append_rows(file: Path, rows: Sequence[Row]) -> None:
    """Append rows to a file, on new lines even after an incomplete one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+") as opened:
        cut = opened.tell() and not file.read_text().endswith("\n")
        opened.write("\n" * bool(cut) + "".join(f"{json.dumps(row)}\n" for row in rows))


def _network_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dt: float | None) -> Network:
    """The network traced from a call of the model, repeated if a call is one time step."""

    def once(model: nn.Module, batch: Any) -> Any:
        return model(*args, **kwargs)

    def twice(model: nn.Module, batch: Any) -> Any:
        return [model(*args, **kwargs), model(*args, **kwargs)]

    found = Network.of(model, torch.zeros(1), forward=once, dt=dt)
    stepwise = any(p.layout.stepwise and p.calls == 1 for p in found.populations)
    return Network.of(model, torch.zeros(1), forward=twice, dt=dt) if stepwise else found


def _send_each(logger: Any, numbers: dict[str, float], step: int) -> None:
    for name, value in numbers.items():
        logger.add_scalar(name, value, step)


def _sender(logger: Any) -> Callable[[dict[str, float], int], None]:
    """The function that sends numbers to a logger."""
    if hasattr(logger, "add_scalar"):
        return partial(_send_each, logger)
    if take := getattr(logger, "log_metrics", None) or getattr(logger, "log", None):
        return lambda numbers, step: take(numbers, step=step)
    raise ValueError(
        f"{type(logger).__name__} is not a logger: it has none of add_scalar, log_metrics and log; give a "
        "SummaryWriter, a W&B run, the mlflow module or a logger of Lightning"
    )
