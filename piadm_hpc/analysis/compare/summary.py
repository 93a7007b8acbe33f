"""Table, files and figure of a comparison of methods."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drawing.style import FAINT, OWN, SECOND, literal, styled
from ..scores import counted
from .benchmark import Benchmark, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS: dict[str, tuple[str, Callable[[Row], bool]]] = {
    "piadm_hpc, parallel": (OWN, lambda row: row.method.startswith("piadm_hpc")),
    "other parallel methods": (SECOND, lambda row: row.setting != "-" and not row.method.startswith("piadm_hpc")),
    "step by step": (FAINT, lambda row: row.setting == "-" and not row.method.startswith("piadm_hpc")),
}
"""Kinds of methods in the legend, with their colours."""

HEAD = ("method", "chain", "steps", "setting", "rounds", "most", "fewest", "calls", "error", "seconds")


def table(rows: Sequence[Row], ranks: Sequence[int]) -> str:
    """The table as plain text, one line per method; the last columns are projected seconds per sample on P accelerators."""
    lines = [(*HEAD, *(f"on {count}" for count in ranks))]
    for row in rows:
        cells = (row.method, row.chain, f"{row.steps}", row.setting, f"{row.rounds:g}", f"{row.most_rounds}")
        fewest = "-" if row.fewest is None else f"{row.fewest:g}"
        costs = (f"{row.calls:g}", f"{row.error:.2g}", f"{row.seconds:.3g}")
        lines.append((*cells, fewest, *costs, *(f"{row.projected[count]:.3g}" for count in ranks)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)


def write(folder: Path, benchmark: Benchmark, rows: Sequence[Row], ranks: Sequence[int]) -> list[Path]:
    """Write compare.json and compare.csv into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    task = benchmark.task
    record = {
        "model": task.name,
        "kind": "sde" if benchmark.sde else "ode",
        "tol": benchmark.tol,
        "samples": task.samples,
        "device": task.device,
        "reference_error": benchmark.floor(),
        "rows": [asdict(row) for row in rows],
    }
    written = [folder / "compare.json", folder / "compare.csv"]
    written[0].write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    with open(written[1], "w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow([*HEAD, *(f"projected_seconds_{count}" for count in ranks)])
        lines.writerows([_cells(row, ranks) for row in rows])
    return written


def _cells(row: Row, ranks: Sequence[int]) -> list[Any]:
    values = [getattr(row, {"most": "most_rounds"}.get(name, name)) for name in HEAD]
    return [*values, *(row.projected[count] for count in ranks)]


def draw(path: Path, benchmark: Benchmark, rows: Sequence[Row], ranks: Sequence[int]) -> Path:
    """Draw rounds, calls and projected seconds of every method, fewest rounds on top. Raises PlotError without matplotlib."""
    with styled():
        from matplotlib import rc_context
        from matplotlib.figure import Figure

        with rc_context({"svg.fonttype": "none"}):  # text is kept as text, so that the file is small
            figure = Figure(figsize=(11.5, 0.34 * len(rows) + 2.2), layout="constrained")
            left, right = figure.subplots(1, 2, sharey=True)
            ordered = sorted(rows, key=lambda row: (row.rounds, row.calls), reverse=True)
            places = range(len(ordered))
            _rounds(left, ordered)
            left.set_yticks(places, [row.method for row in ordered])
            left.set_title(f"{literal(benchmark.task.name)}, {'SDE' if benchmark.sde else 'ODE'}, error {benchmark.tol:g}")
            for count, mark in zip(ranks, "o^sDv", strict=False):
                label = counted(count, "accelerator")
                right.plot([row.projected[count] for row in ordered], places, mark, markersize=4.5, label=label)
            right.set(xscale="log", xlabel="projected seconds a sample")
            right.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
            handles, labels = left.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8.5)
            figure.savefig(path)
    return path


def _rounds(axis: Axes, rows: Sequence[Row]) -> None:
    """Rounds as bars by kind of method, calls as ticks, and rounds with hindsight as dots."""
    places = list(range(len(rows)))
    for label, (colour, belongs) in KINDS.items():
        chosen = [place for place in places if belongs(rows[place])]
        if chosen:
            axis.barh(chosen, [rows[place].rounds for place in chosen], color=colour, height=0.62, label=label)
    axis.plot([row.calls for row in rows], places, "|", color="#333333", markersize=9, label="calls of the network")
    known = [(row.fewest, place) for place, row in zip(places, rows, strict=True) if row.fewest and row.setting != "-"]
    if known:
        axis.plot(*zip(*known, strict=True), ".", color="#333333", markersize=5, label="rounds of the smallest depth that does")
    for place, row in zip(places, rows, strict=True):
        axis.annotate(f"  {row.rounds:g}", (max(row.rounds, row.fewest or 0), place), va="center", fontsize=8)
    axis.set(xscale="log", xlabel="rounds a sample", xlim=(1, None))
