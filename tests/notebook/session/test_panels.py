"""Panels: their content, and that no external text becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from kalshilab.config.settings import Settings
from kalshilab.market.model import Order, Trade
from kalshilab.notebook.session import panels
from kalshilab.trade.events import Decision
from kalshilab.trade.status import COUNTS, MarketRow, PositionRow, Snapshot

SETTINGS = Settings(env={}, env_file=None)
Shot = Callable[..., Snapshot]
EVIL = '"><script>alert(1)</script><img src=x onerror=y>&amp;'


class Balanced(HTMLParser):
    """Parser that checks that tags nest and collects their names."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def empty(shot: Shot) -> Snapshot:
    return shot(
        state="STARTUP", now=0, elapsed=0.0, counts={}, progress=None, cash=0, portfolio_value=0, pnl=0, fees=0,
        positions=[], trades=[], decisions=[], settlements=[], transitions=[], markets=[], health={}, messages=[],
    )  # fmt: skip


@pytest.mark.parametrize("name", panels.PANELS)
def test_every_panel_is_well_formed_with_and_without_content(name: str, shot: Shot) -> None:
    for one in (shot(), empty(shot)):
        html = panels.PANELS[name](one, SETTINGS)
        parser = Balanced()
        parser.feed(html)
        parser.close()
        assert parser.open == [] and html.startswith(f'<div class="kl kl-{name}">')


@pytest.mark.parametrize("name", panels.PANELS)
def test_external_text_never_becomes_markup(name: str, shot: Shot) -> None:
    one = shot()
    evil = shot(
        run_id=EVIL, venue=EVIL, strategy=EVIL, state=EVIL, stopped=EVIL,
        positions=[PositionRow(EVIL, EVIL, 1, 1, 1, 1, 0)],
        trades=[Trade(1, EVIL, 1, 1, EVIL)],
        decisions=[Decision(ts=1, ticker=EVIL, action="skipped", reason=EVIL, order_id=EVIL)],
        settlements=[type(s)(**{f: getattr(s, f) for f in s.__struct_fields__} | {"ticker": EVIL, "result": EVIL})
                     for s in one.settlements],
        transitions=[type(t)(ts=1, wall=1, source=EVIL, target=EVIL, reason=EVIL) for t in one.transitions],
        markets=[MarketRow(EVIL, EVIL, EVIL, 1, 1, 1.0, 1)],
        health={EVIL: EVIL},
        messages=[(1, EVIL)],
    )  # fmt: skip
    parser = Balanced()
    parser.feed(panels.PANELS[name](evil, SETTINGS))
    assert parser.seen.isdisjoint({"script", "img"})


def test_the_failure_of_the_dashboard_is_shown_as_text(shot: Shot) -> None:
    html = panels.console(shot(), SETTINGS, failure=EVIL)
    assert "<script" not in html and "&lt;script" in html


def test_the_header_shows_run_state_and_progress(shot: Shot) -> None:
    html = panels.header(shot(), SETTINGS)
    text = text_of(html)
    assert "READY" in text and "20260101T000000Z" in text and "2026-01-01 00:00:00 UTC" in text
    assert "width:25.0%" in html and "low cash" not in text
    assert "width" not in panels.header(shot(progress=None), SETTINGS)


def test_the_header_shows_why_the_session_cannot_trade(shot: Shot) -> None:
    html = panels.header(shot(note='set policy="module:name"'), SETTINGS)
    assert "set policy=&quot;module:name&quot;" in html
    assert "policy" not in panels.header(shot(), SETTINGS)


def test_the_header_distinguishes_stopping_from_stopped_and_warns_of_low_cash(shot: Shot) -> None:
    assert "stopping: stop button" in panels.header(shot(stopped="stop button"), SETTINGS)
    done = shot(stopped="tape ended", finished=True, state="SHUTDOWN")
    assert "stopped: tape ended" in panels.header(done, SETTINGS)
    assert "low cash" in panels.header(shot(cash=99_999_999), SETTINGS)
    # Cash is 0 until the account is known, which is not low cash.
    assert "low cash" not in panels.header(shot(cash=0, state="KALSHI_DATA_SYNC"), SETTINGS)


def test_the_session_panel_shows_the_account(shot: Shot) -> None:
    resting = Order(
        order_id="o", ticker="K", side="ask", price=1, status="resting", initial=1, filled=0, remaining=1
    )
    text = text_of(panels.session(shot(open_orders=[resting]), SETTINGS))
    for part in ("$9,900.50", "$110.00", "$10,010.50", "+$10.50 (0.1 %)", "$0.42", "orders resting 1"):
        assert part in text


def test_the_processing_panel_shows_counts_and_rates(shot: Shot) -> None:
    text = text_of(panels.processing(shot(), SETTINGS))
    for part in (
        "trades seen 2,000",
        "filtered 500",
        "filter rate 25.0 %",
        "markets tracked 1,500",
        "trades a second 20",
        "flow live",
    ):
        assert part in text
    quiet = shot(trades=[Trade(shot().now - 11_000_000, "K", 1, 1, "no")])
    assert "flow quiet" in text_of(panels.processing(quiet, SETTINGS))


def test_each_counter_of_a_session_is_on_a_panel(shot: Shot) -> None:
    for i, name in enumerate(COUNTS):
        one = shot(counts=dict.fromkeys(COUNTS, 0) | {name: 7_770_001 + i})
        assert any(f"{7_770_001 + i:,}" in panel(one, SETTINGS) for panel in panels.PANELS.values()), name


def test_decisions_are_listed_newest_first_with_their_reasons(shot: Shot) -> None:
    text = text_of(panels.decisions(shot(), SETTINGS))
    assert text.index("skipped") < text.index("placed")
    for part in ("spread 12¢", "43¢", "50", "80%", "7¢", "01234567", "5 s ago"):
        assert part in text
    assert "0123456789" not in text


def test_positions_are_totalled_by_outcome_and_show_their_close(shot: Shot) -> None:
    text = text_of(panels.positions(shot(), SETTINGS))
    assert "YES 10 for $6.00, now $4.00 (-$2.00)" in text
    assert "NO 50 for $30.00, now $35.00 (+$5.00)" in text
    for part in ("60¢", "70¢", "16.7 %", "2 h 5 min", "settling"):
        assert part in text


def test_the_title_of_settlements_is_their_total(shot: Shot) -> None:
    text = text_of(panels.settlements(shot(), SETTINGS))
    assert "Settlements: +$19.65 in the last 1" in text and "$50.00" in text


def test_markets_show_which_conditions_of_the_signal_are_met(shot: Shot) -> None:
    text = text_of(panels.markets(shot(), SETTINGS))
    assert "30 of 25" in text and "●●●" in text and text.count("●") == 3


def test_a_market_at_the_threshold_does_not_meet_the_condition(shot: Shot) -> None:
    at = shot(markets=[MarketRow("K", "c", "active", 1, 25, 0.70, 500)])
    assert panels.markets(at, SETTINGS).count("●") == 2


def test_the_system_panel_shows_health_and_the_console_the_newest_lines_first(shot: Shot) -> None:
    text = text_of(panels.system(shot(), SETTINGS))
    assert "degraded: 5 errors in a row" in text and "READY all parts started" in text
    many = shot(messages=[(shot().now + i * 1_000_000, f"line {i}.") for i in range(200)])
    console = panels.console(many, SETTINGS)
    assert console.index("line 199.") < console.index("line 198.") and "line 1." not in console


def test_panels_stay_small(shot: Shot) -> None:
    one = shot(
        markets=shot().markets * 15, trades=shot().trades * 20, decisions=shot().decisions * 10,
        messages=[(shot().now, "x" * 100)] * 200,
    )  # fmt: skip
    assert sum(len(panel(one, SETTINGS)) for panel in panels.PANELS.values()) < 40_000


def test_the_sparkline_of_equal_values_is_a_flat_line() -> None:
    svg = panels.sparkline([5.0, 5.0, 5.0])
    assert svg.count("118.0") == 3
