"""The exchange's official Python clients, asynchronous and synchronous, against `kalshilab exchange`.

They validate every response against their models, so each returned value has the expected form.  Install them
beside kalshilab in a separate environment (Python 3.13 or later) to run this:

    python3.13 -m venv other && other/bin/pip install -e '.[test]' kalshi_python_async kalshi_python_sync
    other/bin/python -m pytest tests/exchange/test_official_clients.py
"""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

CLIENTS = ("kalshi_python_async", "kalshi_python_sync")


async def done(value: Any) -> Any:
    """Return the result of a call of either client."""
    return await value if inspect.isawaitable(value) else value


@asynccontextmanager
async def day(name: str, *arguments: str) -> AsyncIterator[Any]:
    """Run an exchange in another process; yield a client of the module `name`."""
    module = pytest.importorskip(name)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kalshilab", "exchange", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    venue = json.loads(await process.stdout.readline())
    configuration = module.Configuration(host=venue["rest"])
    configuration.api_key_id = venue["key_id"]
    configuration.private_key_pem = await asyncio.to_thread(Path(venue["private_key_path"]).read_text)
    client = module.KalshiClient(configuration)
    try:
        yield client
    finally:
        if inspect.iscoroutinefunction(getattr(client, "close", None)):
            await client.close()
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 60) == 0


async def busy_market(client: Any) -> Any:
    """Return an open market with quotes on both sides, away from 0 and 1."""
    listed = await done(client.get_markets(status="open", limit=200))
    return next(
        m for m in listed.markets if float(m.yes_bid_dollars) > 0.10 and float(m.yes_ask_dollars) < 0.90
    )


def order(market: Any, **changes: Any) -> dict[str, Any]:
    return {
        "ticker": market.ticker, "side": "bid", "count": "4.00", "price": "0.0200",
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    } | changes  # fmt: skip


@pytest.mark.parametrize("name", CLIENTS)
async def test_official_clients_read_public_data(name: str) -> None:
    async with day(name, "--warm-up", "36") as client:
        assert (await done(client.get_exchange_status())).trading_active
        assert (await done(client.get_exchange_schedule())).schedule
        assert (await done(client.get_user_data_timestamp())).as_of_time
        market = await busy_market(client)
        event = await done(client.get_event(market.event_ticker, with_nested_markets=True))
        series = event.event.series_ticker
        assert market.ticker in [m.ticker for m in event.event.markets]
        assert (await done(client.get_series(series))).series.ticker == series
        assert series in [s.ticker for s in (await done(client.get_series_list())).series]
        assert (await done(client.get_events(limit=20, status="open"))).events
        assert (await done(client.get_market(market.ticker))).market.ticker == market.ticker
        book = (await done(client.get_market_orderbook(market.ticker))).orderbook_fp
        assert book.yes_dollars and book.no_dollars
        assert len((await done(client.get_market_orderbooks(tickers=[market.ticker]))).orderbooks) == 1
        trades = (await done(client.get_trades(limit=100))).trades
        assert len(trades) == 100
        end = int(trades[0].created_time.timestamp())
        for minutes in (1, 60):
            candles = await done(
                client.get_market_candlesticks(series, market.ticker, end - 86_400, end, minutes)
            )
            assert candles.candlesticks
        assert (await done(client.get_historical_cutoff())).trades_created_ts
        assert await done(client.get_series_fee_changes())


@pytest.mark.parametrize("name", CLIENTS)
async def test_official_clients_manage_orders_and_groups(name: str) -> None:
    errors = pytest.importorskip(name).exceptions
    async with day(name, "--warm-up", "36") as client:
        market = await busy_market(client)
        before = (await done(client.get_balance())).balance
        group = (await done(client.create_order_group(contracts_limit=10))).order_group_id
        made = await done(
            client.create_order_v2(**order(market, client_order_id="day-1", order_group_id=group))
        )
        assert (made.fill_count, made.remaining_count) == ("0.00", "4.00")
        assert (await done(client.get_order_group(group))).orders == [made.order_id]
        assert (await done(client.get_order_groups())).order_groups[0].id == group
        with pytest.raises(errors.ApiException) as caught:
            await done(client.create_order_v2(**order(market, client_order_id="day-1")))
        assert caught.value.status == 409
        amended = await done(
            client.amend_order_v2(
                made.order_id, ticker=market.ticker, side="bid", price="0.0200", count="3.00"
            )
        )
        assert amended.remaining_count == "3.00"
        less = await done(client.decrease_order_v2(made.order_id, reduce_by="1.00"))
        assert less.remaining_count == "2.00"
        read = (await done(client.get_order(made.order_id))).order
        assert (read.status, read.remaining_count_fp) == ("resting", "2.00")
        assert float((await done(client.get_order_queue_position(made.order_id))).queue_position_fp) >= 0
        queued = await done(client.get_order_queue_positions(market_tickers=market.ticker))
        assert [q.order_id for q in queued.queue_positions] == [made.order_id]
        cancelled = await done(client.cancel_order_v2(made.order_id, market_ticker=market.ticker))
        assert cancelled.reduced_by == "2.00"
        batch = await done(client.batch_create_orders_v2(orders=[order(market), order(market)]))
        ids = [o.order_id for o in batch.orders]
        taken = await done(client.batch_cancel_orders_v2(orders=[{"order_id": i} for i in ids[:1]]))
        assert [o.reduced_by for o in taken.orders] == ["4.00"]
        await done(client.cancel_all_orders())
        assert not (await done(client.get_orders(status="resting"))).orders
        await done(client.update_order_group_limit(group, contracts_limit=20))
        await done(client.trigger_order_group(group))
        with pytest.raises(errors.ApiException):
            await done(client.create_order_v2(**order(market, order_group_id=group)))
        await done(client.reset_order_group(group))
        await done(client.delete_order_group(group))
        assert not (await done(client.get_order_groups())).order_groups
        assert (await done(client.get_balance())).balance == before
        assert (await done(client.get_account_api_limits())).usage_tier
        assert (await done(client.get_account_endpoint_costs())).default_cost == 10


@pytest.mark.parametrize("name", CLIENTS)
async def test_official_clients_receive_a_fill_and_a_settlement(name: str) -> None:
    async with day(name, "--speed", "4000", "--warm-up", "36") as client:
        market = await busy_market(client)
        made = await done(
            client.create_order_v2(
                **order(market, count="1.00", price="0.9900", time_in_force="immediate_or_cancel")
            )
        )
        assert made.fill_count == "1.00" and float(made.average_fill_price) < 0.99
        (fill,) = (await done(client.get_fills(order_id=made.order_id))).fills
        assert fill.is_taker and float(fill.fee_cost) > 0
        positions = (await done(client.get_positions())).market_positions
        assert [p.position_fp for p in positions if p.ticker == market.ticker] == ["1.00"]
        end = monotonic() + 60
        while not (settled := (await done(client.get_settlements())).settlements):
            assert monotonic() < end, "the market did not settle in time"
            await asyncio.sleep(0.1)
        assert settled[0].ticker == market.ticker
        assert settled[0].revenue in (0, 100)
