"""Tables as a reader wants them: every row, whole texts, no types and no quotes.

A frame shows ten rows and thirty characters of a text, which is right for exploring and wrong for a result.
`table` shows a frame whole, `claimed` a published edge beside its audited figure, `board` a row a card.  What is
built is HTML whose styles stand in the cells: JupyterLab takes style sheets out of a notebook that somebody else
has run, and a committed notebook is one.  Texts may come from anywhere; each goes through `html.escape`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final, Protocol

import polars as pl

from kalshilab.edge.report import claims as published
from kalshilab.edge.report.claims import Claims

__all__ = ["LEFT", "MOST", "RIGHT", "Judged", "Table", "board", "claimed", "table"]

MOST: Final = 200
"""Rows of a table at most; the caption says how many there were."""

SHORT: Final = 18
"""Letters of a text that stays in one line."""

LEFT: Final = "text-align:left;vertical-align:top"
RIGHT: Final = "text-align:right;vertical-align:top;white-space:nowrap"
"""Styles of a cell: of texts, and of numbers."""


class Judged(Protocol):
    """What a board needs of a report card."""

    @property
    def name(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    def summary(self) -> dict[str, Any]: ...


class Table:
    """A frame shown whole: HTML in a notebook, text elsewhere.  `frame` is what it was made of."""

    def __init__(self, frame: pl.DataFrame, *, digits: int = 2) -> None:
        self.frame, self._digits = frame, digits

    def __repr__(self) -> str:
        with pl.Config(
            tbl_rows=MOST,
            tbl_cols=-1,
            fmt_str_lengths=1_000,
            tbl_hide_dataframe_shape=True,
            tbl_hide_column_data_types=True,
            float_precision=self._digits,
        ):
            return str(self.frame)

    def _repr_html_(self) -> str:
        numbers = [kind.is_numeric() for kind in self.frame.dtypes]
        styles = [RIGHT if number else LEFT for number in numbers]
        head = "".join(
            f'<th style="{style}">{escape(name)}</th>'
            for name, style in zip(self.frame.columns, styles, strict=True)
        )
        rows = "".join(
            "<tr>"
            + "".join(
                _cell(_shown(value, self._digits), style) for value, style in zip(row, styles, strict=True)
            )
            + "</tr>"
            for row in self.frame.head(MOST).iter_rows()
        )
        more = f"<p>{MOST:,} of {self.frame.height:,} rows</p>" if self.frame.height > MOST else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{more}"


def table(frame: pl.DataFrame, *, digits: int = 2) -> Table:
    """A frame shown whole; floats with so many digits, what is null as a dash.

    >>> html = table(pl.DataFrame({"signal": ["a < b"], "net": [-2.624]}))._repr_html_()
    >>> "a &lt; b</td>" in html, ">-2.62</td>" in html
    (True, True)
    """
    return Table(frame, digits=digits)


def claimed(*names: str, claims: Claims | None = None) -> Table:
    """Published edges beside what an audit left of each: `edge, claimed, audited, on fair markets, why`.

    Args:
        names: ids of claims (`kalshilab.edge.report.claims`); none: all of them.
        claims: default those shipped with the library.

    Raises:
        EdgeError: there is no claim of that id.

    >>> claimed("yes_80_90").frame["claimed", "audited"].row(0)
    ('+5.10 c', '-6.20 c when the system measured it again, before fee and spread')
    """
    known = published.load() if claims is None else claims
    rows = []
    for name in names or [c.id for c in known.claim]:
        found, left = known.get(name), known.audited(name)
        audited = "never measured after costs, as of the moment it fires"
        if left is not None:
            audited = f"{left[0]:+.2f} c {left[1]}"
            if found.audited is None:
                audited += " (of the rule it is a setting of)"
            if found.audited_excess is not None:
                audited += f"; {found.audited_excess:+.2f} c against markets of like price"
        rows.append(
            {
                "edge": found.name,
                "claimed": f"{found.claimed:+.2f} c"
                + ("" if found.measure == "edge" else f" ({found.measure})"),
                "audited": audited,
                "its method on fair markets": "" if found.fair is None else f"{found.fair:+.2f} c",
                "why": found.reason,
            }
        )
    return Table(pl.DataFrame(rows))


def board(cards: Sequence[Judged] | Mapping[str, Judged]) -> Table:
    """Report cards, a row each: the verdict, the line that gave it, what was bought, what it earned and could show.

    Args:
        cards: in order; with names of their own, if the signals' are too long.

    `net` is cents a fire with its 95 % interval, a fire without a fill counting as nothing; `detectable` is the
    smallest edge that so many entries could show, in the same unit.
    """
    rows = []
    named = cards.items() if isinstance(cards, Mapping) else [(card.name, card) for card in cards]
    for name, card in named:
        found = card.summary()
        bounds = found.get("lower"), found.get("upper")
        rows.append(
            {
                "signal": name,
                "verdict": card.verdict,
                "first line that fails": found.get("failed") or "",
                "fires": found.get("fires"),
                "bought": found.get("filled"),
                "events": found.get("events"),
                "net": found.get("net"),
                "95 %": "" if None in bounds else f"[{bounds[0]:+.2f}, {bounds[1]:+.2f}]",
                "detectable": found.get("mde"),
            }
        )
    kinds = dict.fromkeys(("fires", "bought", "events"), pl.Int64)
    return Table(pl.DataFrame(rows, schema_overrides={**kinds, "net": pl.Float64, "detectable": pl.Float64}))


def _cell(text: str, style: str) -> str:
    line = ";white-space:nowrap" if len(text) <= SHORT and "nowrap" not in style else ""
    return f'<td style="{style}{line}">{escape(text)}</td>'


def _shown(value: Any, digits: int) -> str:
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
