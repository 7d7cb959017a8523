"""Tables show a result completely, as text and never as markup."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from kalshilab.edge.report import claims
from kalshilab.errors import EdgeError
from kalshilab.notebook.research.tables import MAX_ROWS, board, claimed, table


class Judged:
    """A card with a fixed summary."""

    def __init__(self, name: str, **summary: Any) -> None:
        self.name, self.verdict, self._summary = name, "UNPROVEN", summary

    def summary(self) -> dict[str, Any]:
        return self._summary


def test_a_table_shows_every_row_in_full() -> None:
    long = "x" * 300
    frame = pl.DataFrame({"name": [f"{long}{k}" for k in range(60)], "n": range(60)})
    html, text = table(frame)._repr_html_(), repr(table(frame))
    assert html.count("<tr>") == 61 and all(f">{long}{k}<" in html for k in range(60))
    assert text.count("x") == 60 * 300 and "…" not in text and "…" not in html


def test_a_long_table_states_how_many_rows_it_shows() -> None:
    html = table(pl.DataFrame({"n": range(MAX_ROWS + 5)}))._repr_html_()
    assert html.count("<tr>") == MAX_ROWS + 1 and f"{MAX_ROWS} of {MAX_ROWS + 5} rows" in html


def test_values_are_formatted_for_people() -> None:
    row = {
        "float": 1234.567, "count": 12_345, "nothing": None, "good": True, "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
    }  # fmt: skip
    cells = re.findall(r"<td[^>]*>(.*?)</td>", table(pl.DataFrame([row]))._repr_html_())
    assert cells == ["1,234.57", "12,345", "–", "yes", "2026-01-02 03:00:00"]


def test_text_is_never_markup() -> None:
    evil = "<img src=x onerror=alert(1)>"
    html = table(pl.DataFrame({evil: [evil]}))._repr_html_()
    assert "<img" not in html and html.count("&lt;img") == 2


def test_every_claim_is_shown_with_its_audit() -> None:
    every = claimed()
    known = claims.load().claim
    assert every.frame.height == len(known) and all(every.frame["audited"]) and all(every.frame["why"])
    [left] = claimed("rlm_no").frame["audited"]
    assert left.startswith("+0.43 c after the fee, before the spread") and "-1.15 c against" in left
    [never] = claimed("whale_fade").frame["audited"]
    assert never.startswith("never measured")
    with pytest.raises(EdgeError, match="rlm_nope"):
        claimed("rlm_nope")


def test_a_board_has_one_row_per_card_and_null_for_a_missing_number() -> None:
    cards = [
            Judged("rlm", failed="5 net edge", fires=9, filled=4, events=4, net=-1.234, lower=-3.0, upper=0.5, mde=2.0),
            Judged("steam", failed="3 sample", fires=0, filled=0, events=0, net=None, lower=None, upper=None, mde=None),
    ]  # fmt: skip
    frame = board(cards).frame
    assert board({"mine": cards[0]}).frame.row(0)[1:] == frame.row(0)[1:]
    assert frame["95 %"].to_list() == ["[-3.00, +0.50]", ""]
    assert frame["net"].to_list() == [-1.234, None] and frame["first line that fails"][1] == "3 sample"
    assert frame.schema["detectable"] == pl.Float64
