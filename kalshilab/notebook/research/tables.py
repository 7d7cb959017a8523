"""Result tables: every row, full texts, no types and no quotes.

A polars frame shows ten rows and thirty characters of a text, which suits exploration and not a result.  `table`
shows a whole frame, `claimed` a published edge beside its audited figure, and `board` one row per report card.  The
HTML has inline styles, because JupyterLab removes style sheets from an untrusted notebook, such as a committed one.
Texts may come from anywhere, so each passes through `html.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final, Protocol

import polars as pl

from kalshilab.edge.report import claims as published
from kalshilab.edge.report.claims import Claims
from kalshilab.lazy import renamed

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["LEFT", "MAX_ROWS", "RIGHT", "CardSummary", "Table", "board", "claimed", "table"]

MAX_ROWS: Final = 200
"""Maximum number of rows shown; the caption states how many there are."""

SHORT: Final = 18
"""Longest text that is kept on one line, in characters."""

LEFT: Final = "text-align:left;vertical-align:top"
RIGHT: Final = "text-align:right;vertical-align:top;white-space:nowrap"
"""Styles of cells: `LEFT` of texts, `RIGHT` of numbers."""


class CardSummary(Protocol):
    """The part of a report card that a board shows."""

    @property
    def name(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    def summary(self) -> dict[str, Any]: ...


class Table:
    """A whole frame as a table: HTML in a notebook, text elsewhere.

    Attributes:
        frame: the frame behind the table.
    """

    def __init__(self, frame: pl.DataFrame, *, digits: int = 2) -> None:
        self.frame, self._digits = frame, digits

    def __repr__(self) -> str:
        with pl.Config(
            tbl_rows=MAX_ROWS,
            tbl_cols=-1,
            fmt_str_lengths=1_000,
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
            float_precision=self._digits,
        ):
            return str(self.frame)

    def _repr_html_(self) -> str:
        styles = [RIGHT if dtype.is_numeric() else LEFT for dtype in self.frame.dtypes]
        head = "".join(
            f'<th style="{style}">{escape(name)}</th>'
            for name, style in zip(self.frame.columns, styles, strict=True)
        )
        rows = "".join(
            "<tr>"
            + "".join(
                _cell(_formatted(value, self._digits), style)
                for value, style in zip(row, styles, strict=True)
            )
            + "</tr>"
            for row in self.frame.head(MAX_ROWS).iter_rows()
        )
        more = f"<p>{MAX_ROWS:,} of {self.frame.height:,} rows</p>" if self.frame.height > MAX_ROWS else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def table(frame: pl.DataFrame, *, digits: int = 2) -> Table:
    """Show a whole frame, with floats rounded to `digits` and nulls as dashes.

    >>> html = table(pl.DataFrame({"signal": ["a < b"], "net": [-2.624]}))._repr_html_()
    >>> "a &lt; b</td>" in html, ">-2.62</td>" in html
    (True, True)
    """
    return Table(frame, digits=digits)


def claimed(*names: str, claims: Claims | None = None) -> Table:
    """Show published edges beside their audited figures: `edge, claimed, audited, its method on fair markets, why`.

    Args:
        names: ids of claims (`kalshilab.edge.report.claims`); without names, all claims.
        claims: the claims to show; default those shipped with the library.

    Raises:
        EdgeError: if a name is not the id of a claim.

    >>> claimed("yes_80_90").frame["claimed", "audited"].row(0)
    ('+5.10 c', '-6.20 c when the system measured it again, before fee and spread')
    """
    known = published.load() if claims is None else claims
    rows = []
    for name in names or [c.id for c in known.claim]:
        claim, audit = known.get(name), known.audited(name)
        audited = "never measured after costs, as of the moment it fires"
        if audit is not None:
            audited = f"{audit[0]:+.2f} c {audit[1]}"
            if claim.audited is None:
                audited += " (of the rule it is a setting of)"
            if claim.audited_excess is not None:
                audited += f"; {claim.audited_excess:+.2f} c against markets of like price"
        rows.append(
            {
                "edge": claim.name,
                "claimed": f"{claim.claimed:+.2f} c"
                + ("" if claim.measure == "edge" else f" ({claim.measure})"),
                "audited": audited,
                "its method on fair markets": "" if claim.fair is None else f"{claim.fair:+.2f} c",
                "why": claim.reason,
            }
        )
    return Table(pl.DataFrame(rows))


def board(cards: Sequence[CardSummary] | Mapping[str, CardSummary]) -> Table:
    """Show one row per report card: the verdict, the line that determined it, the sample, the net edge and its power.

    `net` is in cents a fire with its 95 % interval, where a fire without a fill counts 0.  `detectable` is the smallest
    edge that this number of entries could detect, in the same unit.

    Args:
        cards: report cards in order; a mapping gives each a shorter name than that of its signal.
    """
    rows = []
    named = cards.items() if isinstance(cards, Mapping) else [(card.name, card) for card in cards]
    for name, card in named:
        summary = card.summary()
        bounds = summary.get("lower"), summary.get("upper")
        rows.append(
            {
                "signal": name,
                "verdict": card.verdict,
                "first line that fails": summary.get("failed") or "",
                "fires": summary.get("fires"),
                "bought": summary.get("filled"),
                "events": summary.get("events"),
                "net": summary.get("net"),
                "95 %": "" if None in bounds else f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]",
                "detectable": summary.get("mde"),
            }
        )
    kinds = dict.fromkeys(("fires", "bought", "events"), pl.Int64)
    return Table(pl.DataFrame(rows, schema_overrides={**kinds, "net": pl.Float64, "detectable": pl.Float64}))


def _cell(text: str, style: str) -> str:
    line = ";white-space:nowrap" if len(text) <= SHORT and "nowrap" not in style else ""
    return f'<td style="{style}{line}">{escape(text)}</td>'


def _formatted(value: object, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{digits}f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    return str(value)
