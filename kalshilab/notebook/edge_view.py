"""A report card as HTML: the verdict, what was claimed beside what is left, each line of it, the waterfall.

One pure function.  Names, notes and details may come from a notebook, a registry or a claim: each string goes
through `html.escape`.  Colours are those of the page where JupyterLab says them, and legible on light and dark
pages where nothing does; there is no script and nothing is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any, Final, Protocol

import polars as pl

from kalshilab.edge.criteria import LABELS
from kalshilab.edge.model import Criterion
from kalshilab.notebook.edge_layout import colour_of
from kalshilab.notebook.plots import GREY

__all__ = ["LIVE", "STYLE", "Shown", "card_html"]

# The class stands twice where JupyterLab styles every table of an output: the more particular rule holds.
STYLE: Final = """<style>
.klc{font-size:13px;line-height:1.4;max-width:960px;color:var(--jp-ui-font-color1,inherit)}
.klc .v{display:inline-block;border-radius:4px;padding:2px 10px;color:#fff;font-weight:600;letter-spacing:.03em}
.klc .good{background:#1a8f4c}.klc .held{background:#9a6212}.klc .bad{background:#b83a31}
.klc p{margin:6px 0 10px}
.klc.klc table{table-layout:auto;border-collapse:collapse;width:100%;font-size:inherit;color:inherit;margin:0 0 12px;font-variant-numeric:tabular-nums}
.klc.klc th,.klc.klc td{padding:3px 8px;text-align:left;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25);background:none}
.klc th{font-weight:600;opacity:.75}.klc.klc .r{text-align:right;white-space:nowrap}.klc .d{opacity:.75}
.klc .y{color:#1a8f4c;font-weight:700}.klc .n{color:#c8453b;font-weight:700}
.klc.klc .first td{background:rgba(200,69,59,.12)}
.klc .step{min-width:150px}.klc.klc .bar{width:180px;padding:0}.klc svg{display:block}
</style>"""

LIVE: Final = Criterion(
    13, "live", "–", "paper trades confirm it", None, "", "judged on paper trades, not on history"
)
"""What stands on line 13 of a card that has none."""

TONES: Final = {LABELS[-1]: "good", "LIVE_CONFIRMED": "good", "PROVISIONAL": "held", "LIVE_WEAKER": "held"}
"""How a verdict is coloured; any other is bad."""

_MARKS: Final = {True: '<td class="y" title="passed">✓</td>', False: '<td class="n" title="failed">✗</td>'}
_OPEN: Final = '<td class="d" title="not examined">–</td>'
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
    tone = TONES.get(card.verdict, "bad")
    claim = "" if card.claim is None else f" <span class='d'>claimed {card.claim:+.2f} c</span>"
    return (
        f'{STYLE}<div class="klc"><span class="v {tone}">{escape(card.verdict)}</span>{claim}'
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
        shade = ' class="first"' if line is first else ""
        detail = f'<br><span class="d">{escape(line.detail)}</span>' if line.detail else ""
        rows.append(
            f'<tr{shade}><td class="r">{line.number}</td><td>{escape(line.name)}</td>'
            f"{_OPEN if line.passed is None else _MARKS[bool(line.passed)]}"
            f"<td>{escape(line.value)}{detail}</td><td class='d'>{escape(line.threshold)}</td></tr>"
        )
    return (
        "<table><thead><tr><th></th><th>criterion</th><th></th><th>found</th><th>passes when</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


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
        found = f"<b>{edge:+.2f}</b>" if _number(edge) else '<span class="d">not measured</span>'
        rows.append(
            f"<tr><td class='step'>{escape(row['step'])}</td><td class='bar'>{_bar(edge, lower, upper, low, scale, colour=colour)}</td>"
            f"<td class='r'>{found}</td><td class='r'>{interval}</td><td class='r'>{size}</td>"
            f"<td class='d'>{escape(row['note'] or '')}</td></tr>"
        )
    return (
        "<table><thead><tr><th>from the claim to what is left</th><th></th><th class='r'>cents a contract</th>"
        f"<th class='r'>95 %</th><th class='r'>n</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _bar(edge: Any, lower: Any, upper: Any, low: float, scale: float, *, colour: str) -> str:
    """The edge from zero on, with its interval as a line across, on the scale of the whole table."""

    def at(value: float) -> float:
        return round((value - low) * scale, 1)

    zero, parts = at(0.0), []
    if _number(edge):
        left, right = sorted((zero, at(edge)))
        parts.append(
            f'<rect x="{left}" y="4" width="{max(1.0, right - left):.1f}" height="10" fill="{colour}"/>'
        )
    if _number(lower) and _number(upper):
        parts.append(f'<path d="M{at(lower)} 9H{at(upper)}" stroke="{GREY}" stroke-width="2"/>')
    parts.append(f'<path d="M{zero} 0V18" stroke="{GREY}"/>')
    return f'<svg width="{_WIDTH}" height="18" aria-hidden="true">{"".join(parts)}</svg>'


def _number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
