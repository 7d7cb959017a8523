"""A card as HTML: it is complete, it shows claim and measurement, and no text of it becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import msgspec
import polars as pl
import pytest

from kalshilab.edge.report import claims, criteria
from kalshilab.edge.schema import Criterion
from kalshilab.notebook.research.card_html import LIVE, card_html


class Audit(msgspec.Struct):
    """Result of an audit."""

    name: str
    passed: bool
    detail: str = ""


class Shown(msgspec.Struct):
    """The part of a card that the view reads."""

    verdict: str
    header: str
    criteria: tuple[Criterion, ...]
    claim: float | None
    waterfall: pl.DataFrame


def lines(*, upper: float = 2.4, audited: bool = True) -> tuple[Criterion, ...]:
    return (
        criteria.look_ahead([Audit("prefix invariance", audited, "row 7 <script>alert(1)</script>")]),
        criteria.data(fill_rate=0.8, censored=0.05, unmatched=0),
        criteria.sample(events=1_684, days=60, losses=500, mde=2.9),
        criteria.direction(-1.2, upper),
        criteria.net_edge(p=0.04, trials=100, lower=-1.1, mde=2.9, resamples=1999),
        *(criteria.unexamined(k, "too little is left") for k in range(6, 13)),
    )


def shown(**changes: Any) -> Shown:
    shown_lines = changes.pop("criteria", lines())
    card = Shown(
        verdict=criteria.verdict_of(shown_lines),
        header="RLM_NO: claimed +17.4 c; net +0.4 c",
        criteria=shown_lines,
        claim=17.38,
        waterfall=claims.load().waterfall("rlm_no"),
    )
    return msgspec.structs.replace(card, **changes)


class Reader(HTMLParser):
    """Parser that collects rows of cells as text and the tags seen, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag != "br":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.rows and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_the_thirteen_lines_are_in_order_with_their_marks() -> None:
    rows = [row for row in read(card_html(shown())).rows if row and row[0].isdigit()]
    assert [row[0] for row in rows] == [str(k) for k in range(1, 14)]
    assert [row[2] for row in rows] == ["✓", "✗", "✓", "✓", "✗", *"––––––––"]
    for line, row in zip(lines(), rows, strict=False):
        assert row[1] == line.name and row[3] == line.value + line.detail and row[4] == line.threshold


def test_a_live_line_of_the_card_is_shown_in_its_place() -> None:
    live = msgspec.structs.replace(LIVE, value="LIVE_CONFIRMED", passed=True)
    rows = [row for row in read(card_html(shown(criteria=(*lines(), live)))).rows if row and row[0].isdigit()]
    assert len(rows) == 13 and rows[-1][2:4] == ["✓", "LIVE_CONFIRMED" + LIVE.detail]


def test_the_line_that_determined_the_verdict_is_shaded() -> None:
    def shaded(card: Shown) -> list[str]:
        return re.findall(r'<tr class="first"><td style="[^"]*">(\d+)</td>', card_html(card))

    # Line 2 failed too, but it only caps a verdict.
    assert shaded(shown()) == ["5"]
    assert shaded(shown(criteria=lines(upper=-0.5))) == ["4"]
    assert shaded(shown(criteria=lines(audited=False))) == ["1"]
    assert shaded(shown(criteria=lines()[:2])) == ["2"]
    assert shaded(shown(criteria=())) == []


def test_claim_and_waterfall_are_shown_with_the_verdict() -> None:
    html = card_html(shown())
    rows = read(html).rows
    assert "UNPROVEN" in html and "claimed +17.38 c" in html and "RLM_NO: claimed +17.4 c; net +0.4 c" in html
    steps = [row for row in rows if len(row) == 6][1:]
    assert [row[2] for row in steps] == ["+17.38", "+3.02", "+1.97", "+0.43", "-1.15"]
    assert steps[2][3:5] == ["[+0.25, +3.96]", "1,684"] and "8 of 19" in steps[4][5]
    assert "claimed" not in card_html(
        shown(claim=None, header="net", waterfall=claims.load().waterfall("rlm_no")[1:])
    )


def bars(html: str) -> list[tuple[float, float]]:
    """Return the start and the width of each bar in pixels."""
    places = re.findall(r"margin-left:([\d.]+)px;width:([\d.]+)px;height:10px", html)
    return [(float(x), float(w)) for x, w in places]


def test_bars_stay_in_their_column_and_end_at_the_edge() -> None:
    drawn = bars(card_html(shown()))
    scale = 180 / (17.38 + 1.15)
    zero = pytest.approx(1.15 * scale, abs=0.2)
    assert len(drawn) == 5 and all(x >= 0 and x + w <= 180.1 for x, w in drawn)
    assert drawn[0] == (zero, pytest.approx(17.38 * scale, abs=0.2))
    assert drawn[4] == (0, zero)


def test_an_interval_is_drawn_below_its_bar() -> None:
    html = card_html(shown())
    [(left, width)] = re.findall(r"margin-left:([\d.]+)px;width:([\d.]+)px;height:2px", html)
    scale = 180 / (17.38 + 1.15)
    assert float(left) == pytest.approx((0.25 + 1.15) * scale, abs=0.2)
    assert float(width) == pytest.approx((3.96 - 0.25) * scale, abs=0.2)


def test_a_step_that_was_not_measured_has_neither_number_nor_bar() -> None:
    html = card_html(shown(waterfall=claims.load().waterfall("whale_fade")))
    assert "not measured" in html and [w > 0 for _, w in bars(html)] == [True, False]
    assert "from the claim" not in card_html(shown(waterfall=claims.load().waterfall("whale_fade").clear()))


@pytest.mark.parametrize("verdict", criteria.LABELS)
def test_only_valid_is_green(verdict: str) -> None:
    [tone] = re.findall(r'<span style="background-color:(#\w+)', card_html(shown(verdict=verdict)))
    assert (tone == "#1a8f4c") == (verdict == "VALID") and (tone == "#9a6212") == (verdict == "PROVISIONAL")


def test_text_is_never_markup_and_nothing_is_loaded() -> None:
    evil = "<img src=x onerror=alert(1)>&\"'"
    fall = (
        claims.load().waterfall("rlm_no").with_columns(pl.lit(evil).alias("step"), pl.lit(evil).alias("note"))
    )
    bad = Criterion(1, evil, evil, evil, False, evil, evil)
    html = card_html(Shown(evil, evil, (bad,), 1.0, fall))
    reader = read(html)
    assert reader.tags <= {"style", "div", "span", "p", "table", "thead", "tbody", "tr", "th", "td", "br", "b"}  # fmt: skip
    assert html.count("&lt;img") == 2 + 4 + 2 * fall.height
    assert "http" not in html and "url(" not in html and len(html) < 20_000


def test_badge_marks_columns_and_bars_do_not_need_the_style_sheet() -> None:
    # JupyterLab keeps only the inline styles of an untrusted notebook.
    html = re.sub(r"<style>.*?</style>", "", card_html(shown()), flags=re.DOTALL)
    assert not re.search(r"<t[dh]>", html) and html.count("text-align:left") > 60
    assert re.search(r"background-color:#\w+;color:#fff", html) and html.count("height:10px") == 5


def test_a_card_is_legible_without_a_theme() -> None:
    html = card_html(shown())
    # Text takes the colour of JupyterLab's theme, otherwise of the page; no background is painted under it.
    assert "color:var(--jp-ui-font-color1,inherit)" in html and "background:none" in html
    assert not re.search(r"background:#(?!1a8f4c|9a6212|b83a31)", html)
