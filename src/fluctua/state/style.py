"""One look for every figure: colours that the colour-blind can tell apart (Okabe & Ito), quiet axes."""

from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GREY = "#CC79A7", "#56B4E9", "#222222", "#7F7F7F"


@contextmanager
def style() -> Iterator[None]:
    """The look, inside the block only."""
    try:
        import matplotlib as mpl
        from cycler import cycler
    except ImportError as error:
        raise ImportError('a figure needs matplotlib, which is missing: pip install "fluctua[train]"') from error

    look: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 150,
    }
    with mpl.rc_context(look):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """A figure that pyplot does not know, but a notebook shows. Call it within `style()`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    figure._repr_png_ = partial(as_png, figure)  # type: ignore[attr-defined]
    return figure


def lay_out(figure: "Figure") -> None:
    """Give everything in a finished figure its place. Call it within `style()`, or the texts have another size."""
    figure.get_layout_engine().execute(figure)  # type: ignore[union-attr]


@contextmanager
def as_laid_out(figure: "Figure") -> Iterator[None]:
    """Inside the block everything stays where `lay_out` put it: to place it again takes longer than to draw it."""
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def as_png(figure: "Figure") -> bytes:
    """The figure as PNG."""
    written = BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def as_html(figure: "Figure", alt: str) -> str:
    """A figure that is laid out as an HTML image, on white on dark pages too; `alt` describes it."""
    with as_laid_out(figure):
        data = b64encode(as_png(figure)).decode()
    return f'<img style="max-width:100%" alt="{escape(alt)}" src="data:image/png;base64,{data}">'
