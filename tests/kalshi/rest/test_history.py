"""Historical records over REST: the cutoff, trades as values and as columns, and invalid pages."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
import pytest

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import ProtocolError
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.rest.history import HistoricalCutoff, RawTradePage
from kalshilab.market.model import Trade

BASE = "http://127.0.0.1:9/trade-api/v2"


def trade(n: int, **changes: Any) -> dict[str, Any]:
    return {
        "trade_id": f"t{n}", "ticker": "A-B-1", "count_fp": "7.50", "yes_price_dollars": "0.4300",
        "no_price_dollars": "0.5700", "taker_outcome_side": "yes", "taker_book_side": "bid", "taker_side": "yes",
        "created_time": f"2026-11-22T14:03:{n:02d}.5Z", "is_block_trade": False,
    } | changes  # fmt: skip


class Pager(httpx.AsyncBaseTransport):
    """Answers by path and cursor; every request is recorded."""

    def __init__(self, **bodies: dict[str, Any]) -> None:
        self.bodies, self.seen = bodies, list[httpx.URL]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request.url)
        name = request.url.path.removeprefix("/trade-api/v2/").replace("/", "_")
        body = self.bodies[name + request.url.params.get("cursor", "")]
        return httpx.Response(200, content=msgspec.json.encode(body))


def data(**bodies: dict[str, Any]) -> tuple[MarketData, Pager]:
    pager = Pager(**bodies)
    settings = Settings(env={}, env_file=None, rest_url=BASE)
    return MarketData(settings, clock=WallClock(), transport=pager), pager


async def test_the_cutoff_is_read_in_microseconds() -> None:
    client, _ = data(
        historical_cutoff={
            "market_settled_ts": "1970-01-01T00:00:02Z",
            "trades_created_ts": "1970-01-01T00:00:01.5Z",
            "orders_updated_ts": "1970-01-01T00:00:03Z",
        }
    )
    async with client:
        assert await client.cutoff() == HistoricalCutoff(
            trades=1_500_000, markets=2_000_000, orders=3_000_000
        )


@pytest.mark.parametrize("historical", [False, True])
async def test_columns_of_all_pages_keep_the_exchanges_texts(historical: bool) -> None:
    name = "historical_trades" if historical else "markets_trades"
    last = trade(1)
    del last["taker_outcome_side"], last["taker_book_side"]
    unknown = {k: v for k, v in trade(2).items() if not k.startswith("taker")}
    client, pager = data(
        **{
            name: {"trades": [trade(4), trade(3, taker_outcome_side="no")], "cursor": "x"},
            name + "x": {"trades": [unknown, last], "cursor": ""},
        }
    )
    async with client:
        pages = [p async for p in client.trade_columns(historical=historical, ticker="A-B-1", min_ts=0)]
    assert [p["trade_id"] for p in pages] == [["t4", "t3"], ["t2", "t1"]]
    assert [p["taker_outcome_side"] for p in pages] == [["yes", "no"], [None, "yes"]]
    assert pages[0]["created_time"][0] == "2026-11-22T14:03:04.5Z"
    assert (pages[0]["count_fp"], pages[0]["yes_price_dollars"]) == (["7.50"] * 2, ["0.4300"] * 2)
    asked = [dict(u.params) for u in pager.seen]
    assert asked[0] == {"limit": "1000", "ticker": "A-B-1", "min_ts": "0"}
    assert asked[1] == asked[0] | {"cursor": "x"}


async def test_archived_trades_and_markets_are_read_as_values() -> None:
    market = {"ticker": "A-B-1", "event_ticker": "A-B", "status": "finalized", "result": "no",
              "price_level_structure": "deci_cent"}  # fmt: skip
    client, pager = data(
        historical_trades={"trades": [trade(4)], "cursor": ""},
        historical_markets={"markets": [market], "cursor": ""},
        series={"series": [{"ticker": "A", "category": "Climate", "fee_multiplier": 0.5}]},
    )
    async with client:
        prints = [t async for page in client.historical_trades(max_ts=9) for t in page]
        (found,) = await client.historical_markets(tickers="A-B-1,C")
        (series,) = await client.all_series()
    assert prints == [Trade(1795356184500000, "A-B-1", 4300, 750, "yes", "t4")]
    assert (found.event, found.result, found.settlement, found.price_structure) == (
        "A-B",
        "no",
        0,
        "deci_cent",
    )
    assert (series.ticker, series.category, series.fee_multiplier) == ("A", "Climate", 0.5)
    assert pager.seen[1].params["tickers"] == "A-B-1,C"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"trades":[{}]}', b'{"trades":[{"trade_id":1}]}', b'{"cursor":""}', b'{"trades":"\xff"}']
)  # fmt: skip
async def test_a_body_that_is_not_a_page_raises_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        RawTradePage.decode(body)


async def test_a_repeated_cursor_raises_protocol_error() -> None:
    page = {"trades": [trade(1)], "cursor": "x"}
    client, _ = data(markets_trades=page, markets_tradesx=page)
    async with client:
        with pytest.raises(ProtocolError, match="same cursor twice"):
            async for _ in client.trade_columns():
                pass
