"""How every figure looks: one palette, one size of type, one way onto the disk.

Figures are made with matplotlib's objects and the Agg canvas, never with pyplot: pyplot keeps every figure alive in a
global register, which a sweep of hundreds of runs in one process would fill.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from uqbench.files import make_directory, write_safely

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe & Ito (2008), distinct under every common colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, LIGHT_GREY = "#6E6E6E", "#C4C4C4"
CYCLE = (BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE)  # not yellow, too light for a line; black is for means

COLUMN, TEXT = 3.4, 6.8  # widths in inches of one column and of both, as in most two-column papers

_RC: Any = {  # matplotlib's stubs want a literal of all its keys
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "legend.fontsize": 7.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "figure.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.frameon": False,
    "legend.handlelength": 1.6,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """The house style for what is drawn inside; the caller's settings are put back."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, owned by nobody but the caller."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, stem: Path, formats: Sequence[str] = ("png",), dpi: int = 150) -> list[Path]:
    """Writes ``<stem>.<format>`` for each format, under a temporary name first so that no half picture is ever read."""
    make_directory(stem.parent)
    paths = [stem.parent / f"{stem.name}.{each}" for each in formats]
    with style():
        for path, each in zip(paths, formats, strict=True):
            write_safely(path, partial(figure.savefig, format=each, dpi=dpi))
    return paths
