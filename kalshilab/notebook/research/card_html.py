"""A report card as HTML: the verdict, what was claimed beside what is left, each line of it, the waterfall.

One pure function.  Names, notes and details may come from a notebook, a registry or a claim: each string goes
through `html.escape`.  Colours are those of the page where JupyterLab says them, and legible on light and dark
pages where nothing does; there is no script and nothing is loaded.  What a reader needs, badge, marks, columns
and bars, is styled in place: JupyterLab takes style sheets and drawings out of a notebook that somebody else has
run, as a committed one is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final, Protocol

import polars as pl

from kalshilab.edge.report.criteria import LABELS
from kalshilab.edge.schema import Criterion
from kalshilab.notebook.research.layout import colour_of
from kalshilab.notebook.research.tables import LEFT, RIGHT
from kalshilab.notebook.session.plots import GREY

__all__ = ["LIVE", "STYLE", "Shown", "card_html"]

STYLE: Final = """<style>
.klc{font-size:13px;line-height:1.4;max-width:960px;color:var(--jp-ui-font-color1,inherit)}
.klc p{margin:6px 0 10px}
.klc.klc table{table-layout:auto;border-collapse:collapse;width:100%;font-size:inherit;color:inherit;margin:0 0 12px;font-variant-numeric:tabular-nums}
.klc.klc th,.klc.klc td{padding:3px 8px;border-bottom:1px solid rgba(128,128,128,.25)}
.klc.klc tr:not(.first) td{background:none}
</style>"""
"""What only a trusted page shows; without it the card is the same with the page's own lines and distances.

The class stands twice where JupyterLab styles every table of an output: the more particular rule holds.
"""

LIVE: Final = Criterion(
    13, "live", "–", "paper trades confirm it", None, "", "judged on paper trades, not on history"
)
"""What stands on line 13 of a card that has none."""

_GOOD, _HELD, _BAD = "#1a8f4c", "#9a6212", "#b83a31"
TONES: Final = {LABELS[-1]: _GOOD, "LIVE_CONFIRMED": _GOOD, "PROVISIONAL": _HELD, "LIVE_WEAKER": _HELD}
"""The colour of a verdict; any other is bad."""

_FAINT: Final = "opacity:.75"
_FIRST: Final = ";background-color:rgba(200,69,59,.12)"
_MARKS: Final = {
    True: ("✓", f";font-weight:700;color:{_GOOD}"),
    False: ("✗", ";font-weight:700;color:#c8453b"),
    None: ("–", f";{_FAINT}"),
}
_WIDTH: Final = 180


class Shown(Protocol):
    """What a card has to have to be shown."""

    @property
    def verdict(self) -> str: ...
    @property
    def header(self) -> str: ...
    @property
    def criteria(self) -> Sequence[Criterion]: ...
    @property
    def claim(self) -> float | None: ...
    @property
    def waterfall(self) -> pl.DataFrame: ...


def card_html(card: Shown) -> str:
    """The card as a piece of HTML.

    The first line that failed, which gave the verdict, is shaded.  Line 13 stands there with "–" until paper trades
    have been judged.
    """
    tone = TONES.get(card.verdict, _BAD)
    badge = f"background-color:{tone};color:#fff;font-weight:600;padding:2px 10px;border-radius:4px"
    claim = "" if card.claim is None else f' &nbsp;<span style="{_FAINT}">claimed {card.claim:+.2f} c</span>'
    return (
        f'{STYLE}<div class="klc"><span style="{badge}">{escape(card.verdict)}</span>{claim}'
        f"<p>{escape(card.header)}</p>{_criteria(card)}{_waterfall(card.waterfall)}</div>"
    )


def _criteria(card: Shown) -> str:
    lines = list(card.criteria)
    if all(line.number != LIVE.number for line in lines):
        lines.append(LIVE)
    # Line 2 only caps a verdict; it gave this one if no other line did.
    failed = [line for line in lines if line.passed is False]
    first = next((line for line in failed if line.label == card.verdict), None)
    rows = []
    for line in lines:
        shade, own = (_FIRST, ' class="first"') if line is first else ("", "")
        mark, colour = _MARKS[line.passed]
        detail = f'<br><span style="{_FAINT}">{escape(line.detail)}</span>' if line.detail else ""
        rows.append(
            f'<tr{own}><td style="{RIGHT}{shade}">{line.number}</td>'
            f'<td style="{LEFT}{shade}">{escape(line.name)}</td>'
            f'<td style="{LEFT}{shade}{colour}">{mark}</td>'
            f'<td style="{LEFT}{shade}">{escape(line.value)}{detail}</td>'
            f'<td style="{LEFT}{shade};{_FAINT}">{escape(line.threshold)}</td></tr>'
        )
    heads = _heads((RIGHT, ""), (LEFT, "criterion"), (LEFT, ""), (LEFT, "found"), (LEFT, "passes when"))
    return f"<table>{heads}<tbody>{''.join(rows)}</tbody></table>"


def _heads(*columns: tuple[str, str]) -> str:
    cells = "".join(f'<th style="{style}">{escape(text)}</th>' for style, text in columns)
    return f"<thead><tr>{cells}</tr></thead>"


def _waterfall(frame: pl.DataFrame) -> str:
    if frame.is_empty():
        return ""
    columns = ("edge", "lower", "upper")
    seen = [v for name in columns for v in frame[name].to_list() if _number(v)]
    low, high = min([0.0, *seen]), max([0.0, *seen])
    scale = _WIDTH / (high - low or 1.0)
    rows = []
    for row in frame.iter_rows(named=True):
        edge, lower, upper = (row[name] for name in columns)
        both = _number(lower) and _number(upper)
        interval = f"[{lower:+.2f}, {upper:+.2f}]" if both else ""
        size = f"{row['n']:,}" if row["n"] is not None else ""
        colour = colour_of(row["step"], edge or 0.0, row["note"] or "")
        found = f"<b>{edge:+.2f}</b>" if _number(edge) else f'<span style="{_FAINT}">not measured</span>'
        rows.append(
            f'<tr><td style="{LEFT};min-width:150px">{escape(row["step"])}</td>'
            f'<td style="{LEFT};width:{_WIDTH}px">{_bar(edge, lower, upper, low, scale, colour=colour)}</td>'
            f'<td style="{RIGHT}">{found}</td><td style="{RIGHT}">{interval}</td><td style="{RIGHT}">{size}</td>'
            f'<td style="{LEFT};{_FAINT}">{escape(row["note"] or "")}</td></tr>'
        )
    heads = _heads(
        (LEFT, "from the claim to what is left"),
        (LEFT, ""),
        (RIGHT, "cents a contract"),
        (RIGHT, "95 %"),
        (RIGHT, "n"),
        (LEFT, ""),
    )
    return f"<table>{heads}<tbody>{''.join(rows)}</tbody></table>"


def _bar(edge: Any, lower: Any, upper: Any, low: float, scale: float, *, colour: str) -> str:
    """The edge from zero on with its interval as a line below, on the scale of the whole table.

    The border, at the bar's left or right end, is zero.
    """

    def block(left: float, right: float, look: str) -> str:
        start, width = round((left - low) * scale, 1), round((right - left) * scale, 1)
        return f'<div style="margin-left:{start}px;width:{width}px;{look}"></div>'

    left, right = sorted((0.0, edge)) if _number(edge) else (0.0, 0.0)
    side = "right" if left < 0 else "left"
    parts = [block(left, right, f"height:10px;background-color:{colour};border-{side}:1px solid {GREY}")]
    if _number(lower) and _number(upper):
        parts.append(block(lower, upper, f"height:2px;background-color:{GREY}"))
    return f'<div style="width:{_WIDTH + 1}px;padding-top:4px">{"".join(parts)}</div>'


def _number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
