"""Self-contained HTML pages of tables and figures, and JSON files with the same numbers."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STYLE = (
    "body{font-family:sans-serif;max-width:76em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}p.note{color:#666}p.origin{color:#666;font-size:smaller}"
    "@media print{@page{size:A4 landscape;margin:1.2cm}body{max-width:none;margin:0}h2{break-after:avoid}"
    "table,img{break-inside:avoid}img{max-height:17cm;display:block}}"
)


@dataclass(frozen=True)
class Section:
    """A heading, a table with the column titles `head`, notes below it, and figures."""

    title: str
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    figures: Sequence[Any] = ()


def number(value: float) -> str:
    """A number with four digits, or a dash if it is not finite."""
    return "-" if not math.isfinite(value) else f"{value:.4g}"


def write_page(path: Path, title: str, sections: Sequence[Section], about: Mapping[str, str] | None = None) -> Path:
    """Write a page as one file that contains its figures, with a line `about` its subject; returns its path."""
    parts = [f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"]
    parts.append(f"<style>{STYLE}</style></head><body><h1>{html.escape(title)}</h1>")
    if about:
        parts.append(f"<p class='origin'>{html.escape(', '.join(f'{name} {value}' for name, value in about.items()))}</p>")
    for section in sections:
        parts.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.rows:
            cells = [_row(section.head, "th"), *(_row(row, "td") for row in section.rows)]
            parts.append(f"<table>{''.join(cells)}</table>")
        parts += [f"<p class='note'>{html.escape(note)}</p>" for note in section.notes]
        parts += [
            f"<img alt='{html.escape(section.title)}' src='data:image/png;base64,{_png(figure)}'>" for figure in section.figures
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*parts, "</body></html>", ""]), encoding="utf-8")
    return path


def write_record(path: Path, record: dict[str, Any]) -> Path:
    """Write numbers as JSON, with null for those that are not finite; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(record), indent=1) + "\n", encoding="utf-8")
    return path


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _png(figure: Any) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(stream.getvalue()).decode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
