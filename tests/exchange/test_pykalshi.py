"""A client that is not ours against `kalshilab exchange`.

Install `pykalshi` beside kalshilab in an environment of its own to run this:

    python3 -m venv other && other/bin/pip install -e '.[test]' pykalshi
    other/bin/python -m pytest tests/exchange/test_pykalshi.py
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pykalshi = pytest.importorskip("pykalshi")


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    exchange = subprocess.Popen(
        [sys.executable, "-m", "kalshilab", "exchange", "--speed", "1", "--warm-up", "36"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert exchange.stdout is not None
    venue = json.loads(exchange.stdout.readline())
    made = pykalshi.KalshiClient(
        api_key_id=venue["key_id"], private_key_path=venue["private_key_path"], api_base=venue["rest"]
    )
    try:
        yield made
    finally:
        made.close()
        exchange.send_signal(signal.SIGINT)
        assert exchange.wait(10) == 0
        exchange.stdout.close()


def open_market(client: Any) -> Any:
    markets = client.get_markets(status=pykalshi.MarketStatus.OPEN, limit=100)
    assert len(markets) > 5
    return next(m for m in markets if float(m.yes_bid_dollars) > 0.10 and float(m.yes_ask_dollars) < 0.90)


def test_lists_markets_and_reads_a_book(client: Any) -> None:
    market = open_market(client)
    book = market.get_orderbook()
    assert float(book.best_yes_bid) == pytest.approx(float(market.yes_bid_dollars))


def test_places_and_cancels_an_order(client: Any) -> None:
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


def test_removed_paths_are_gone(client: Any) -> None:
    with pytest.raises(pykalshi.KalshiAPIError) as caught:
        client.post(
            "/portfolio/orders", {"ticker": "X", "action": "buy", "side": "yes", "count": 1, "yes_price": 50}
        )
    assert caught.value.status_code == 410
    assert "deprecated_v1_order_endpoint" in str(caught.value)
