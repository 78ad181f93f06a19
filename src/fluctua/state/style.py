"""One look for every figure: colours that the colour-blind can tell apart (Okabe & Ito), quiet axes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)


@contextmanager
def style() -> Iterator[None]:
    """The look, inside the block only."""
    import matplotlib as mpl
    from cycler import cycler

    look: dict[Any, Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK]),
        "axes.titlesize": 10,
        "axes.labelsize": 9,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "legend.fontsize": 8,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": 110,
        "savefig.dpi": 150,
    }
    with mpl.rc_context(look):
        yield
