"""The command line: `fluctua demo`, `inspect`, `diagnose`, `train` and more; what they do is in `fluctua.lab`."""

import sys
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import typer
    from typer import Option
    from typer.core import TyperGroup
except ImportError:
    sys.exit('fluctua: the command line needs typer: pip install "fluctua[train]"')

if TYPE_CHECKING:
    from rich.console import Console


class _Commands(TyperGroup):
    """Commands that say on Ctrl-C how to go on; typer would end in silence."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"fluctua: {_in_options(interrupt) or 'interrupted'}", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Spiking neural networks in the fluctuation-driven regime, from the first step of training on.",
)


class Model(StrEnum):
    """Networks of `fluctua.lab.networks.NETWORKS`, whose import would make `--help` slow."""

    fc = "fc"
    recurrent = "recurrent"
    modern = "modern"
    modern_adaptive = "modern-adaptive"
    shd_conv = "shd-conv"
    shd_conv_deep = "shd-conv-deep"
    audio_conv = "audio-conv"
    dale = "dale"
    dale_lognormal = "dale-lognormal"
    residual = "residual"
    cifar10_conv_shallow = "cifar10-conv-shallow"
    cifar10_conv = "cifar10-conv"
    dvs_conv = "dvs-conv"
    dvs_conv_deep = "dvs-conv-deep"
    residual_conv = "residual-conv"


class Method(StrEnum):
    """Initialisers of `fluctua.lab.networks.LABELS`, likewise."""

    measured = "measured"
    poisson = "poisson"
    kaiming = "kaiming"
    kaiming_relu = "kaiming-relu"
    kaiming_folded = "kaiming-folded"
    xavier = "xavier"
    torch = "torch"
    ding = "ding"
    micheli = "micheli"
    spikeinit = "spikeinit"
    spikeinit_sim = "spikeinit-sim"
    tdbn = "tdbn"
    lsuv = "lsuv"
    ei_init = "ei-init"


class Recipe(StrEnum):
    """Recipes of `fluctua.lab.recipes.RECIPES`, likewise."""

    plain = "plain"
    paper = "paper"
    modern = "modern"


@app.command()
def demo(
    out: Annotated[Path, Option(help="Folder of the results; a demo stopped half-way goes on from there.")] = Path(
        "runs/demo"
    ),
    minutes: Annotated[float, Option(min=0.05, help="Limit for the training of all three networks together.")] = 5.0,
) -> None:
    """Compare Kaiming, the paper's formula and measured + balanced weights on one task; about two minutes."""
    from fluctua.lab.demo import run_demo

    try:
        run_demo(out, _console(), minutes=minutes)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the demo was interrupted: the same command goes on where it was") from None


Where = Annotated[
    str,
    typer.Argument(
        metavar="FILE.py:FUNCTION",
        help="A function that returns (model, batch), (model, batch, labels) or a dictionary of arguments.",
    ),
]
Json = Annotated[bool, Option("--json", help="Print JSON instead of text.")]


@app.command()
def inspect(
    where: Where,
    json: Json = False,
    plot: Annotated[Path | None, Option(help="Write the figure to this file too.")] = None,
) -> None:
    """Show the state of a model on a batch, population by population."""
    import fluctua
    from fluctua.lab.look import arguments_from

    given = arguments_from(where)
    labels, loss = given.pop("labels", None), given.pop("loss", None)
    if loss is not None:
        given["loss"] = loss if labels is None else lambda output: loss(output, labels)
    report = fluctua.inspect(**given)
    typer.echo(report.to_json(indent=2)) if json else _console().print(report)
    if plot is not None:
        report.plot().savefig(plot)


@app.command()
def diagnose(where: Where, json: Json = False) -> None:
    """Say why a model does not learn, and what mends it; exit status 1 where something serious is found."""
    from json import dumps

    import fluctua
    from fluctua.lab.look import arguments_from

    found = fluctua.diagnose(**arguments_from(where))
    typer.echo(dumps(found.rows(), indent=2) if json else str(found))
    raise typer.Exit(1 if found.serious else 0)


@app.command()
def train(
    ctx: typer.Context,
    data: Annotated[
        Path | None,
        Option(
            help="Training file in the layout of SHD, such as shd_train.h5, or a folder of SHD or SSC; for models of "
            "images the folder or tar file of N-MNIST or DVS128 Gesture, or the folder cifar-10-batches-py."
        ),
    ] = None,
    test: Annotated[Path | None, Option(help="Test file; default: a tenth of the training file.")] = None,
    out: Annotated[Path, Option(help="Folder of the run.")] = Path("runs/train"),
    recipe: Annotated[
        Recipe,
        Option(help="What is trained how, unless options below say otherwise: with Adam; the paper's; for accuracy."),
    ] = Recipe.plain,
    model: Annotated[
        Model | None, Option(help="Network: the last five are for images. Default: fc, or modern by that recipe.")
    ] = None,
    method: Annotated[Method, Option(help="Initialisation.")] = Method.measured,
    xi: Annotated[float | None, Option(help="Target: distance from threshold in sigma_U (default 1).")] = None,
    rate: Annotated[float | None, Option(help="Target: firing rate in Hz, instead of xi.")] = None,
    nu: Annotated[float | None, Option(help="Rate of all afferents in Hz for poisson, instead of the data's.")] = None,
    width: Annotated[
        int | None, Option(min=1, help="Neurons in a hidden layer, or filters in the first; default: the model's.")
    ] = None,
    depth: Annotated[int | None, Option(min=1, help="Hidden layers or residual blocks; default: the model's.")] = None,
    epochs: Annotated[int, Option(min=1)] = 20,
    lr: Annotated[float | None, Option(help="Largest learning rate. Default: 5e-3; modern: 1e-2.")] = None,
    loss: Annotated[
        str | None, Option(help="Name of the loss. Default: max_over_time; modern: sum_of_softmax.")
    ] = None,
    optimizer: Annotated[
        str | None, Option(help="Name of the optimiser. Default: adam; paper: smorms3; modern: adamw.")
    ] = None,
    weight_decay: Annotated[float | None, Option(min=0, help="Default: none; modern: 1e-2.")] = None,
    schedule: Annotated[
        str | None, Option(help="Of the learning rate: constant (default), or cosine (modern).")
    ] = None,
    warmup: Annotated[float | None, Option(min=0, help="Epochs in which the learning rate rises; default: 0.")] = None,
    batch_size: Annotated[int | None, Option(min=1, help="Default: 128, or 16 images.")] = None,
    dt: Annotated[float, Option(help="Time step in seconds.")] = 2e-3,
    duration: Annotated[
        float | None,
        Option(help="Length of a trial in seconds; default: 0.7, N-MNIST 0.3, DVS128 Gesture 1, CIFAR-10 0.5."),
    ] = None,
    pool: Annotated[int, Option(min=1, help="Merge so many neighbouring channels.")] = 1,
    augment: Annotated[
        bool | None, Option("--augment/--no-augment", help="Shift the training samples. Default: no; modern: yes.")
    ] = None,
    minutes: Annotated[float | None, Option(help="Limit for the training.")] = None,
    seed: Annotated[int, Option(help="Same seed, same result.")] = 0,
    resume: Annotated[
        bool, Option("--resume", help="Go on with the run in the folder, which knows data and settings.")
    ] = False,
) -> None:
    """Initialise and train a network on spike trains or images, and show its state before and after."""
    from fluctua.lab.train_file import FileSettings, train_file
    from fluctua.theory import Target

    if data is None and not resume:
        ctx.fail("Missing option '--data', which only --resume does without.")
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
        loss=loss,
        optimizer=optimizer,
        weight_decay=weight_decay,
        schedule=schedule,
        warmup=warmup,
        batch_size=batch_size,
        seed=seed,
        minutes=minutes,
    )
    train_file(data, test, out, _console(), settings, resume=resume, said=_said(ctx))


def _said(ctx: typer.Context) -> set[str]:
    """Names of the settings that the command line has, and not by default."""
    said = {name for name in ctx.params if str(ctx.get_parameter_source(name)).endswith("COMMANDLINE")}
    target = {"target"} if said & {"xi", "rate"} else set[str]()
    return said - {"data", "test", "out", "resume", "xi", "rate"} | target


@app.command()
def reproduce(
    name: Annotated[str | None, typer.Argument(help="Experiment: see --list.", show_default=False)] = None,
    show: Annotated[bool, Option("--list", help="Show all experiments, with the time that they take.")] = False,
    small: Annotated[bool, Option("--small", help="A version of minutes on two cores.")] = False,
    seeds: Annotated[int, Option(min=1, help="Runs of each setting.")] = 3,
    data: Annotated[Path | None, Option(help="Folder of the data files, where an experiment reads some.")] = None,
    only: Annotated[
        list[str] | None,
        Option(help="Do a part of the grid: AXIS=VALUE, or AXIS=VALUE,VALUE; may be repeated.", show_default=False),
    ] = None,
    out: Annotated[Path, Option(help="Folder of the results, one folder in it for each experiment.")] = Path("runs"),
    workers: Annotated[
        int | None, Option(min=1, help="Processes on this machine; default: one per core.", show_default=False)
    ] = None,
    scheduler: Annotated[
        str | None, Option(help="Address of a Dask scheduler, whose workers do the runs instead.", show_default=False)
    ] = None,
) -> None:
    """Do an experiment, and write its table and figure; interrupted, the same command goes on where it was."""
    from fluctua.lab.reproduce import catalogue, study_named
    from fluctua.lab.reproduce import reproduce as do
    from fluctua.lab.sweeps.runner_dask import dask_cluster
    from fluctua.lab.sweeps.runner_local import local_processes

    if show or name is None:
        _console().print(catalogue(seeds))
        return
    study = study_named(name, small=small)
    backend = local_processes(workers) if scheduler is None else dask_cluster(scheduler)
    folder = f"{name}-small" if small else name
    do(folder, study, seeds=seeds, data=data, out=out, backend=backend, console=_console(), wanted=only or ())


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="What `fluctua reproduce` wrote to.")] = Path("runs")) -> None:
    """Build one HTML page of all results and figures of a folder; it opens from disk, without a network."""
    from fluctua.lab.results.page import report as build

    typer.echo(f"Written: {build(folder)}")


@app.command()
def version() -> None:
    """Print the version."""
    import fluctua

    typer.echo(fluctua.__version__)


def main() -> None:
    """Entry point of the `fluctua` command: an expected failure is one sentence and exit status 1, no traceback."""
    extra = ("rich", "lightning", "matplotlib", "h5py", "safetensors", "scipy", "pandas", "jinja2", "joblib")
    if missing := [name for name in extra if find_spec(name) is None]:
        sys.exit(f'fluctua: the command line needs {", ".join(missing)}: pip install "fluctua[train]"')
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"fluctua: {_in_options(error)}")


def _in_options(error: BaseException) -> str:
    """A message written for callers in Python, in the words of the command line."""
    return str(error).replace("resume=True", "--resume").replace("another out_dir", "another --out")


def _console() -> "Console":
    """A console wide enough for the tables even where the output is a file."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=110)
