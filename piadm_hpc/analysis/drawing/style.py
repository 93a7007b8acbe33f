"""The style that all figures share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
WIDTH = 13.33
"""Inches, the width of a slide."""

OWN, PALE, SECOND = "#c0392b", "#e2b4ad", "#2c5f8a"
REAL, FAINT, MISSING = "#1f1f1f", "#8a8a8a", "#d4d4d4"
STYLE: dict[Any, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text in a PDF stays text that can be searched and edited
    "savefig.dpi": 160,
}


class PlotError(ValueError):
    """matplotlib is not installed."""


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, and restore the user's own settings; raises PlotError without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise PlotError("no figure was drawn, because matplotlib is not installed: pip install 'piadm_hpc[plot]'") from None
    with mpl.rc_context(STYLE):
        yield


def drawn(draw: Callable[P, Figure], *args: P.args, **kwargs: P.kwargs) -> list[Figure]:
    """The figure that a function draws, alone in a list, which is empty if matplotlib is not installed."""
    try:
        return [draw(*args, **kwargs)]
    except PlotError:
        return []


def entitle(figure: Figure, title: str, note: str = "") -> None:
    """Put a title above a figure, and a note below it if there is one."""
    figure.suptitle(literal(title), x=0.01, ha="left", fontsize=13, fontweight="bold")
    if note:
        figure.supxlabel(literal(note), x=0.01, ha="left", fontsize=7.5, color=FAINT)


def literal(text: str) -> str:
    """Escape what matplotlib would take for the beginning of TeX; outside of it an underscore or a caret means nothing."""
    return text.replace("$", r"\$")
