"""A report card as HTML: the verdict, the claimed and the measured edge, every criterion, and the waterfall.

One pure function.  Names, notes and details may come from a notebook, a registry or a claim, so each string passes
through `html.escape`.  Colours follow JupyterLab's theme, and stay legible on light and dark pages elsewhere.  The
HTML has no script and loads nothing.  Badge, marks, columns and bars are styled inline, because JupyterLab removes
style sheets and drawings from an untrusted notebook, such as a committed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

import polars as pl

from kalshilab.edge.report.criteria import LABELS
from kalshilab.edge.schema import Criterion
from kalshilab.lazy import renamed
from kalshilab.notebook.research.layout import colour_of
from kalshilab.notebook.research.tables import LEFT, RIGHT
from kalshilab.notebook.session.plots import GREY

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["LIVE", "STYLE", "CardView", "card_html"]

STYLE: Final = """<style>
.klc{font-size:13px;line-height:1.4;max-width:960px;color:var(--jp-ui-font-color1,inherit)}
.klc p{margin:6px 0 10px}
.klc.klc table{table-layout:auto;border-collapse:collapse;width:100%;font-size:inherit;color:inherit;margin:0 0 12px;font-variant-numeric:tabular-nums}
.klc.klc th,.klc.klc td{padding:3px 8px;border-bottom:1px solid rgba(128,128,128,.25)}
.klc.klc tr:not(.first) td{background:none}
</style>"""
"""The style sheet, which only a trusted page applies; without it the card keeps the page's borders and spacing.

The class is doubled where JupyterLab styles every table of an output, so that this rule is the more specific one.
"""

LIVE: Final = Criterion(
    13, "live", "–", "paper trades confirm it", None, "", "judged on paper trades, not on history"
)
"""Line 13 of a card that has not been compared with paper trades."""

_GOOD, _CAUTION, _BAD = "#1a8f4c", "#9a6212", "#b83a31"
TONES: Final = {LABELS[-1]: _GOOD, "LIVE_CONFIRMED": _GOOD, "PROVISIONAL": _CAUTION, "LIVE_WEAKER": _CAUTION}
"""The colour of a verdict; any other verdict has the colour of a failure."""

_FAINT: Final = "opacity:.75"
_FIRST: Final = ";background-color:rgba(200,69,59,.12)"
_MARKS: Final = {
    True: ("✓", f";font-weight:700;color:{_GOOD}"),
    False: ("✗", ";font-weight:700;color:#c8453b"),
    None: ("–", f";{_FAINT}"),
}
_WIDTH: Final = 180
"""Width of the widest bar, in pixels."""


class CardView(Protocol):
    """The part of a report card that is shown as HTML."""

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


def card_html(card: CardView) -> str:
    """Return a report card as an HTML fragment.

    The first failed line, which determined the verdict, is shaded.  Line 13 shows "–" until paper trades have been
    judged.
    """
    tone = TONES.get(card.verdict, _BAD)
    badge = f"background-color:{tone};color:#fff;font-weight:600;padding:2px 10px;border-radius:4px"
    claim = "" if card.claim is None else f' &nbsp;<span style="{_FAINT}">claimed {card.claim:+.2f} c</span>'
    return (
        f'{STYLE}<div class="klc"><span style="{badge}">{escape(card.verdict)}</span>{claim}'
        f"<p>{escape(card.header)}</p>{_criteria(card)}{_waterfall(card.waterfall)}</div>"
    )


def _criteria(card: CardView) -> str:
    lines = list(card.criteria)
    if all(line.number != LIVE.number for line in lines):
        lines.append(LIVE)
    # Line 2 only caps a verdict; it determined this one if no other line did.
    failed = [line for line in lines if line.passed is False]
    first = next((line for line in failed if line.label == card.verdict), None)
    rows = []
    for line in lines:
        shade, css = (_FIRST, ' class="first"') if line is first else ("", "")
        mark, colour = _MARKS[line.passed]
        detail = f'<br><span style="{_FAINT}">{escape(line.detail)}</span>' if line.detail else ""
        rows.append(
            f'<tr{css}><td style="{RIGHT}{shade}">{line.number}</td>'
            f'<td style="{LEFT}{shade}">{escape(line.name)}</td>'
            f'<td style="{LEFT}{shade}{colour}">{mark}</td>'
            f'<td style="{LEFT}{shade}">{escape(line.value)}{detail}</td>'
            f'<td style="{LEFT}{shade};{_FAINT}">{escape(line.threshold)}</td></tr>'
        )
    heads = _heads((RIGHT, ""), (LEFT, "criterion"), (LEFT, ""), (LEFT, "measured"), (LEFT, "passes when"))
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
        estimate = f"<b>{edge:+.2f}</b>" if _number(edge) else f'<span style="{_FAINT}">not measured</span>'
        rows.append(
            f'<tr><td style="{LEFT};min-width:150px">{escape(row["step"])}</td>'
            f'<td style="{LEFT};width:{_WIDTH}px">{_bar(edge, lower, upper, low, scale, colour=colour)}</td>'
            f'<td style="{RIGHT}">{estimate}</td><td style="{RIGHT}">{interval}</td><td style="{RIGHT}">{size}</td>'
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


def _bar(
    edge: float | None, lower: float | None, upper: float | None, low: float, scale: float, *, colour: str
) -> str:
    """Draw an edge as a bar from zero, with its interval as a line below, on the scale of the whole table.

    The border at the left or right end of the bar marks zero.
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


def _number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
