"""A third-party client, `pykalshi`, against `kalshilab exchange`.

Install `pykalshi` beside kalshilab in a separate environment to run this:

    python3 -m venv other && other/bin/pip install -e '.[test]' pykalshi
    other/bin/python -m pytest tests/exchange/test_pykalshi.py
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import pytest

pykalshi = pytest.importorskip("pykalshi")


@contextmanager
def exchange(*arguments: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Run an exchange in another process that exits cleanly on Ctrl-C; yield a `pykalshi` client of it."""
    with subprocess.Popen(
        [sys.executable, "-m", "kalshilab", "exchange", *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        venue = json.loads(process.stdout.readline())
        made = pykalshi.KalshiClient(
            api_key_id=venue["key_id"], private_key_path=venue["private_key_path"], api_base=venue["rest"]
        )
        try:
            yield made, venue
        finally:
            made.close()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def venue() -> Iterator[tuple[Any, dict[str, Any]]]:
    with exchange("--speed", "1", "--warm-up", "36") as made:
        yield made


@pytest.fixture(scope="module")
def client(venue: tuple[Any, dict[str, Any]]) -> Any:
    return venue[0]


def open_market(client: Any) -> Any:
    markets = client.get_markets(status=pykalshi.MarketStatus.OPEN, limit=100)
    assert len(markets) > 5
    return next(m for m in markets if float(m.yes_bid_dollars) > 0.10 and float(m.yes_ask_dollars) < 0.90)


def test_pykalshi_lists_markets_and_reads_a_book(client: Any) -> None:
    market = open_market(client)
    book = market.get_orderbook()
    assert float(book.best_yes_bid) == pytest.approx(float(market.yes_bid_dollars))


def test_pykalshi_places_and_cancels_an_order(client: Any) -> None:
    market = open_market(client)
    before = client.portfolio.get_balance().balance
    order = client.portfolio.place_order(
        market.ticker, pykalshi.Action.BUY, pykalshi.Side.YES, count_fp="2.00", yes_price_dollars="0.0100"
    )
    resting = client.portfolio.get_orders(status=pykalshi.OrderStatus.RESTING)
    assert [o.order_id for o in resting] == [order.order_id]
    client.portfolio.cancel_order(order.order_id)
    assert not client.portfolio.get_orders(status=pykalshi.OrderStatus.RESTING)
    assert client.portfolio.get_balance().balance == before


def test_a_removed_path_is_answered_410(client: Any) -> None:
    with pytest.raises(pykalshi.KalshiAPIError) as caught:
        client.post(
            "/portfolio/orders", {"ticker": "X", "action": "buy", "side": "yes", "count": 1, "yes_price": 50}
        )
    assert caught.value.status_code == 410
    assert "deprecated_v1_order_endpoint" in str(caught.value)


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    """Wait until a condition holds; return its value."""
    end = monotonic() + timeout_s
    while not (value := condition()):
        assert monotonic() < end, "the condition did not hold in time"
        sleep(0.05)
    return value


def test_pykalshi_reads_public_data(client: Any) -> None:
    assert client.exchange.is_trading()
    assert client.exchange.get_schedule()
    client.exchange.get_user_data_timestamp()
    market = open_market(client)
    event = market.get_event()
    assert event is not None and event.event_ticker == market.event_ticker
    assert client.get_series(event.series_ticker).ticker == event.series_ticker
    trades = client.get_trades(limit=50)
    assert len(trades) == 50
    printed = next(t for t in trades)
    end = int(printed.created_time.timestamp()) if hasattr(printed.created_time, "timestamp") else None
    if end is not None:
        candles = client.get_market(printed.ticker).get_candlesticks(end - 86_400, end + 3_600)
        assert candles.candlesticks
    assert client.history.get_cutoff()


def test_pykalshi_amends_and_decreases_orders_and_sends_batches(client: Any) -> None:
    market = open_market(client)
    order = client.portfolio.place_order(
        market.ticker, pykalshi.Action.BUY, pykalshi.Side.YES, count_fp="5.00", yes_price_dollars="0.0100"
    )
    assert float(client.portfolio.get_queue_position(order.order_id).queue_position_fp) >= 0
    amended = order.amend(count_fp="4.00", yes_price_dollars="0.0200")
    assert (float(amended.remaining_count_fp), float(amended.yes_price_dollars)) == (4.0, 0.02)
    assert float(order.decrease("1.00").remaining_count_fp) == 3.0
    order.cancel()
    placed = client.portfolio.batch_place_orders(
        [
            {
                "ticker": market.ticker, "action": "buy", "side": "yes", "count_fp": "1.00",
                "yes_price_dollars": f"0.0{cents}00",
            }
            for cents in (1, 2)
        ]
    )  # fmt: skip
    assert len(placed) == 2
    client.portfolio.batch_cancel_orders([o.order_id for o in placed])
    assert not client.portfolio.get_orders(status=pykalshi.OrderStatus.RESTING)


def test_pykalshi_manages_an_order_group(client: Any) -> None:
    group = client.portfolio.create_order_group("10.00")
    name = group.order_group_id if hasattr(group, "order_group_id") else group.id
    client.portfolio.place_order(
        open_market(client).ticker, pykalshi.Action.BUY, pykalshi.Side.YES, count_fp="1.00",
        yes_price_dollars="0.0100", order_group_id=name,
    )  # fmt: skip
    assert len(client.portfolio.get_orders(status=pykalshi.OrderStatus.RESTING)) == 1
    client.portfolio.update_order_group_limit(name, "20.00")
    client.portfolio.trigger_order_group(name)
    assert not client.portfolio.get_orders(status=pykalshi.OrderStatus.RESTING)
    client.portfolio.reset_order_group(name)
    assert client.portfolio.get_order_group(name)
    assert client.portfolio.get_order_groups()


def test_pykalshi_streams_a_fill_and_receives_a_settlement() -> None:
    with exchange("--speed", "4000", "--warm-up", "36") as (client, venue):
        feed = client.feed()
        feed._ws_url = venue["ws"]
        received: dict[str, list[Any]] = {}
        market = open_market(client)
        for channel in (
            "ticker",
            "trade",
            "orderbook_delta",
            "fill",
            "market_positions",
            "market_lifecycle_v2",
        ):
            feed.on(channel, received.setdefault(channel, []).append)
            of_market = channel == "orderbook_delta"
            feed.subscribe(channel, **({"market_ticker": market.ticker} if of_market else {}))
        feed.start()
        try:
            until(lambda: received["orderbook_delta"])
            book = market.get_orderbook()
            ask = 1 - float(book.best_no_bid)
            client.portfolio.place_order(
                market.ticker, pykalshi.Action.BUY, pykalshi.Side.YES, count_fp="1.00", yes_price_dollars=f"{min(ask + 0.05, 0.99):.4f}",
            )  # fmt: skip
            (fill,) = until(lambda: received["fill"])
            assert fill.market_ticker == market.ticker
            assert client.portfolio.get_fills()[0].ticker == market.ticker
            until(lambda: received["market_positions"])
            settlement = until(client.portfolio.get_settlements)[0]
            assert settlement.ticker == market.ticker
            assert received["trade"] and received["ticker"] and received["market_lifecycle_v2"]
            assert feed.reconnect_count == 0
        finally:
            feed.stop()
