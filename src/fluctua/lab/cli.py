"""The command line: `fluctua demo`, `inspect`, `diagnose`, `train` and more; the work is done in `fluctua.lab`.

Heavy modules are imported only once a command can start: help, completion and typos are answered at once.
"""

import sys
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from typer import Option
    from typer.core import TyperGroup
except ImportError:
    sys.exit('fluctua: the command line needs typer: pip install "fluctua[train]"')

from fluctua.lab.choices import Experiment, Loss, Method, Model, Recipe, Schedule, in_order

if TYPE_CHECKING:
    from rich.console import Console


class _Commands(TyperGroup):
    """Commands that say on Ctrl-C how to resume; typer would say nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"fluctua: {_in_options(interrupt) or 'interrupted'}", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def fluctua(
    version: Annotated[
        bool, Option("--version", metavar="", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Bring spiking neural networks into the fluctuation-driven regime, and train them."""


Where = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py:FUNCTION",
        help="A function that returns (model, batch), (model, batch, labels) or a dict of arguments.",
    ),
]
Json = Annotated[bool, Option("--json", metavar="", help="Print the result as JSON, all else to stderr.")]
AsJson = Annotated[bool, Option("--json", metavar="", help="Print JSON instead of text.")]


@app.command()
def demo(
    out: Annotated[Path, Option(metavar="FOLDER", help="Where the results go.")] = Path("runs/demo"),
    minutes: Annotated[
        float, Option(min=0.05, metavar="MINUTES", help="Limit for the training of all three networks together.")
    ] = 5.0,
    json: Json = False,
) -> None:
    """Compare three initialisations on one task: about two minutes.

    Interrupted, the same command resumes where it stopped.
    """
    console = _console(json)
    console.print(f"Demo: three initial states of one network; results go to {out}", soft_wrap=True, markup=False)
    from fluctua.lab.demo import run_demo

    try:
        with _stdout_kept_for(json):
            run_demo(out, console, minutes=minutes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the demo was interrupted: the same command resumes where it stopped") from None
    if json:
        from fluctua.lab.results.table import csv_as_json

        typer.echo(csv_as_json((out / "results.csv").read_text(encoding="utf-8")))


@app.command()
def inspect(
    where: Where,
    json: AsJson = False,
    plot: Annotated[Path | None, Option(metavar="FILE", help="Also write the figure to this file.")] = None,
) -> None:
    """Show the state of your model on a batch, population by population."""
    from fluctua.lab.look import arguments_from, file_and_function

    file_and_function(where)  # a typo is reported before torch is loaded
    import fluctua

    given = arguments_from(where)
    labels, loss = given.pop("labels", None), given.pop("loss", None)
    if loss is not None:
        given["loss"] = loss if labels is None else lambda output: loss(output, labels)
    report = fluctua.inspect(**given)
    typer.echo(report.to_json(indent=2)) if json else _console().print(report)
    if plot is not None:
        from fluctua.state.style import as_laid_out

        figure = report.plot()
        with as_laid_out(figure):
            figure.savefig(plot)


@app.command()
def diagnose(where: Where, json: AsJson = False) -> None:
    """Say why your model does not learn, and the line that fixes it.

    The exit status is 1 if something serious is found, so you can use it in CI.
    """
    from json import dumps

    from fluctua.lab.look import arguments_from, file_and_function

    file_and_function(where)
    import fluctua

    found = fluctua.diagnose(**arguments_from(where))
    typer.echo(dumps(found.rows(), indent=2) if json else str(found))
    raise typer.Exit(1 if found.serious else 0)


_data, _network, _start, _training, _run = (
    partial(Option, rich_help_panel=panel, show_default=False)
    for panel in ("Data", "Network", "Initial state", "Training", "Run")
)


@app.command(
    epilog=f"[b]Networks[/b]: {in_order(Model)}. [b]Methods[/b]: {in_order(Method)}. [b]Losses[/b]: {in_order(Loss)}."
)
def train(
    ctx: typer.Context,
    data: Annotated[Path | None, _data(metavar="PATH", help="A data set: see docs/data.md.")] = None,
    test: Annotated[Path | None, _data(metavar="FILE", help="Test file, if separate.")] = None,
    dt: Annotated[float, _data(metavar="SECONDS", help="Time step: 2e-3.")] = 2e-3,
    duration: Annotated[float | None, _data(metavar="SECONDS", help="Length of a trial.")] = None,
    pool: Annotated[int, _data(min=1, metavar="N", help="Number of channels to merge.")] = 1,
    augment: Annotated[bool | None, _data("--augment/--no-augment", metavar="", help="Shift training samples.")] = None,
    model: Annotated[Model | None, _network(metavar="NAME", help="One of those below; default: fc.")] = None,
    width: Annotated[int | None, _network(min=1, metavar="N", help="Neurons in a layer, or first filters.")] = None,
    depth: Annotated[int | None, _network(min=1, metavar="N", help="Hidden layers, or residual blocks.")] = None,
    method: Annotated[Method, _start(metavar="NAME", help="Initialiser, see below; default: measured.")] = (
        Method.measured
    ),
    xi: Annotated[float | None, _start(metavar="XI", help="Target: distance to threshold in sigma_U (1).")] = None,
    rate: Annotated[float | None, _start(metavar="HZ", help="Target: firing rate, instead of xi.")] = None,
    nu: Annotated[float | None, _start(metavar="HZ", help="Input rate for poisson; default: measured.")] = None,
    recipe: Annotated[Recipe, _training(metavar="NAME", help="plain (default), paper or modern.")] = Recipe.plain,
    epochs: Annotated[int, _training(min=1, metavar="N", help="Passes over the data: 20.")] = 20,
    batch_size: Annotated[int | None, _training(min=1, metavar="N", help="128, or 16 images.")] = None,
    lr: Annotated[float | None, _training(metavar="LR", help="Peak learning rate: 5e-3 (modern: 1e-2).")] = None,
    schedule: Annotated[Schedule | None, _training(metavar="NAME", help="constant (modern: cosine).")] = None,
    warmup: Annotated[float | None, _training(min=0, metavar="N", help="Epochs in which lr rises: 0.")] = None,
    loss: Annotated[Loss | None, _training(metavar="NAME", help="max_over_time (modern: sum_of_softmax).")] = None,
    optimizer: Annotated[str | None, _training(metavar="NAME", help="adam (paper: smorms3, modern: adamw).")] = None,
    weight_decay: Annotated[float | None, _training(min=0, metavar="X", help="0 (modern: 1e-2).")] = None,
    out: Annotated[Path, _run(metavar="FOLDER", help="Where the run is kept: runs/train.")] = Path("runs/train"),
    resume: Annotated[bool, _run("--resume", metavar="", help="Resume the run in --out, with its settings.")] = False,
    minutes: Annotated[float | None, _run(metavar="MINUTES", help="Limit for the training.")] = None,
    seed: Annotated[int, _run(metavar="N", help="Same seed, same result.")] = 0,
    monitor: Annotated[int, _run(min=0, metavar="N", help="Record the state every N steps: 50; 0: never.")] = 50,
    json: Annotated[bool, _run("--json", metavar="", help="Print the result as JSON.")] = False,
) -> None:
    """Initialise and train a network on a data set; show its state before and after."""
    if data is None and not resume:
        ctx.fail("Missing option '--data': only --resume works without it.")
    if data is not None and not data.exists():
        raise FileNotFoundError(
            f"{data} does not exist: give the path of a data set, or get one with "
            "python -m fluctua.lab.data.fetch shd FOLDER"
        )
    console = _console(json)
    task = "Resuming" if data is None else f"Training on {data}"
    console.print(f"{task}; the run is kept in {out}", soft_wrap=True, markup=False)
    from fluctua.lab.train_file import FileSettings, train_file
    from fluctua.theory import Target

    settings = FileSettings(
        recipe=recipe.value,
        model=None if model is None else model.value,
        method=method.value,
        target=Target(xi=xi, rate=rate),
        nu=nu,
        width=width,
        depth=depth,
        dt=dt,
        duration=duration,
        pool=pool,
        augment=augment,
        epochs=epochs,
        lr=lr,
        loss=None if loss is None else loss.value,
        optimizer=optimizer,
        weight_decay=weight_decay,
        schedule=None if schedule is None else schedule.value,
        warmup=warmup,
        batch_size=batch_size,
        seed=seed,
        minutes=minutes,
        monitor=monitor,
    )
    with _stdout_kept_for(json):
        result = train_file(data, test, out, console, settings, resume=resume, said=_said(ctx))
    if json:
        from json import dumps

        facts = {"out": str(out), "best_epoch": result.best_epoch, "epochs": len(result.history), "test": result.test}
        typer.echo(dumps({**facts, "seconds": result.seconds, "history": result.history}, indent=2))


def _said(ctx: typer.Context) -> set[str]:
    """Names of the settings given on the command line."""
    said = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    target = {"target"} if said & {"xi", "rate"} else set[str]()
    return said - {"data", "test", "out", "resume", "json", "xi", "rate"} | target


def _experiments(incomplete: str) -> list[str]:
    return [name for name in Experiment if name.startswith(incomplete)]


@app.command(epilog=f"Experiments: {in_order(Experiment)}.")
def reproduce(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="One of those below; paper: all of the paper's.",
            show_default=False,
            autocompletion=_experiments,
        ),
    ] = None,
    show: Annotated[bool, Option("--list", metavar="", help="List all experiments with their times.")] = False,
    small: Annotated[bool, Option("--small", metavar="", help="A version that takes minutes on two cores.")] = False,
    seeds: Annotated[int, Option(min=1, metavar="N", help="Runs of each setting.")] = 3,
    data: Annotated[
        Path | None, Option(metavar="FOLDER", help="Where the data files are: see --list.", show_default=False)
    ] = None,
    only: Annotated[
        list[str] | None,
        Option(metavar="AXIS=VALUE", help="Part of the grid: AXIS=VALUE,VALUE.", show_default=False),
    ] = None,
    out: Annotated[Path, Option(metavar="FOLDER", help="Results: one folder per experiment.")] = Path("runs"),
    workers: Annotated[
        int | None, Option(min=1, metavar="N", help="Processes; default: one per core.", show_default=False)
    ] = None,
    scheduler: Annotated[
        str | None, Option(metavar="ADDRESS", help="Dask scheduler, to run on a cluster.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Run an experiment; print and write its table, and draw its figure.

    Interrupted, the same command resumes where it stopped.
    """
    console = _console(json)
    if show or name is None:
        console.print("Experiments, and how long they take on this machine:")
        from fluctua.lab.catalogue import catalogue, listed

        if json:
            from json import dumps

            typer.echo(dumps(listed(seeds), indent=2))
        else:
            console.print(catalogue(seeds))
        return
    if name not in set(Experiment):
        raise ValueError(f"unknown experiment {name!r}: choose one of {in_order(Experiment)}")
    console.print(
        f"{name}{' (small)' * small}, {seeds} seed{'s' * (seeds > 1)}; results go to {out}",
        soft_wrap=True,
        markup=False,
    )
    from fluctua.lab.reproduce import SweepOptions, study_named
    from fluctua.lab.reproduce import reproduce as do
    from fluctua.lab.sweeps.runner_dask import dask_cluster
    from fluctua.lab.sweeps.runner_local import local_processes

    backend = local_processes(workers) if scheduler is None else dask_cluster(scheduler)
    options = SweepOptions(seeds, out, backend, console, data, only or ())
    if name == "paper":
        from fluctua.lab.paper import as_json, reproduce_paper

        text = as_json(reproduce_paper(options, small=small))
    else:
        from fluctua.lab.results.table import csv_as_json

        table, *_ = do(f"{name}-small" if small else name, study_named(name, small=small), options)
        text = csv_as_json(table.read_text(encoding="utf-8"))
    if json:
        typer.echo(text)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where `fluctua reproduce` or `fluctua train` wrote.")
    ] = Path("runs"),
) -> None:
    """Build one HTML page of all results in a folder.

    It opens from disk, offline.
    """
    from fluctua.lab.results.page import report as build

    typer.echo(f"Written: {build(folder)}")


@app.command()
def version() -> None:
    """Print the version."""
    import fluctua

    typer.echo(fluctua.__version__)


def main() -> None:
    """Entry point of the `fluctua` command: an expected failure is one sentence and exit status 1, not a traceback."""
    extra = ("rich", "lightning", "matplotlib", "h5py", "safetensors", "scipy", "pandas", "jinja2", "joblib")
    if missing := [name for name in extra if find_spec(name) is None]:
        sys.exit(f'fluctua: the command line needs {", ".join(missing)}: pip install "fluctua[train]"')
    try:
        app(prog_name="fluctua")
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"fluctua: {_in_options(error)}")


def _in_options(error: BaseException) -> str:
    """A message written for callers in Python, in the words of the command line; or what the system says of a file."""
    said = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        said = f"cannot use {error.filename} ({error.strerror})"
    return " ".join(said.splitlines()).replace("resume=True", "--resume").replace("another out_dir", "another --out")


def _stdout_kept_for(json: bool) -> AbstractContextManager[Any]:
    """Redirect progress bars, which write to stdout whatever the console."""
    return redirect_stdout(sys.stderr) if json else nullcontext()


def _console(json: bool = False) -> "Console":
    """A console that leaves stdout to JSON; wide enough for tables even if the output is a file."""
    from rich.console import Console

    console = Console(highlight=False, stderr=json)
    return console if console.is_terminal else Console(highlight=False, stderr=json, width=110)
