"""Table, files and figure of a comparison of methods."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..drawing.style import FAINT, OWN, SECOND, STYLE, PlotError, literal
from .benchmark import Benchmark, Row

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
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise PlotError("figures need matplotlib: pip install matplotlib") from error
    ordered = sorted(rows, key=lambda row: (row.rounds, row.calls), reverse=True)
    names, places = [row.method for row in ordered], range(len(ordered))
    with rc_context({**STYLE, "svg.fonttype": "none"}):  # text stays text, which keeps the file small
        figure = Figure(figsize=(10.5, 0.34 * len(ordered) + 1.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        colours = [OWN if row.method.startswith("ours") else SECOND if row.setting != "-" else FAINT for row in ordered]
        left.barh(places, [row.rounds for row in ordered], color=colours, height=0.62)
        left.plot([row.calls for row in ordered], places, "|", color="#333333", markersize=9)
        known = [(row.fewest, place) for place, row in zip(places, ordered, strict=True) if row.fewest and row.setting != "-"]
        left.plot(*zip(*known, strict=True) if known else ([], []), ".", color="#333333", markersize=5)
        for place, row in zip(places, ordered, strict=True):
            left.annotate(f"  {row.rounds:g}", (max(row.rounds, row.fewest or 0), place), va="center", fontsize=8)
        left.set_yticks(places, names)
        dots = ", with hindsight (dots)" if known else ""
        left.set(xscale="log", xlabel=f"rounds a sample (bars){dots}, and calls (ticks)", xlim=(1, None))
        left.set_title(f"{literal(benchmark.task.name)}, {'SDE' if benchmark.sde else 'ODE'}, error {benchmark.tol:g}")
        for count, mark in zip(ranks, "o^sDv", strict=False):
            label = f"{count} accelerator" + ("s" if count > 1 else "")
            right.plot([row.projected[count] for row in ordered], places, mark, markersize=4.5, label=label)
        right.set(xscale="log", xlabel="projected seconds a sample")
        right.legend(fontsize=8)
        figure.savefig(path)
    return path
