"""Discovery of markets that are open before a session begins."""

from __future__ import annotations

import asyncio

import polars as pl

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.exchange import Exchange, serve
from kalshilab.signals import rlm
from kalshilab.tape import sample
from kalshilab.tape.schema import with_codes
from kalshilab.trade.session.session import PaperSession


async def test_without_a_closing_limit_markets_past_their_close_are_followed(
    settings: Settings,
) -> None:
    """By this machine's clock, every market of the sample has closed."""
    exchange = Exchange(*sample(), echo_trades=False)
    while exchange.prints_played < 5_000:
        exchange.step()
    opened = sum(x.status == "active" for x in exchange.listings)
    async with serve(exchange, speed=1e-3) as venue:
        demo = settings.replace(
            venue="demo", rest_url=venue.rest, ws_url=venue.ws, key_id=venue.key_id,
            private_key_path=str(venue.private_key_path), minutes=0.005,
        )  # fmt: skip
        for close_min, followed, message in (
            (10.0, 0, "discovery: the exchange lists no open market that closes after "),
            (0.0, opened, f"discovery: {opened} markets followed"),
        ):
            async with PaperSession(demo.replace(close_min_minutes=close_min)) as session:
                report = await asyncio.wait_for(session.run(), 100)
                assert any(text.startswith(message) for _, text in session.snapshot().messages)
            assert report.counts["tracked"] == followed


async def test_open_markets_are_discovered_and_followed(settings: Settings) -> None:
    """A third of the tape is over before the session connects to an exchange that runs independently."""
    tape, markets = sample()
    # Shifted to the present: on an external venue, a session uses the machine's clock.
    shift = pl.duration(microseconds=WallClock().now() - int(tape["ts"][5_000].timestamp() * 1e6))
    tape = tape.with_columns(pl.col("ts") + shift)
    markets = markets.with_columns(pl.col("open_ts", "close_ts", "expected_close_ts", "settled_ts") + shift)
    exchange = Exchange(tape, markets, echo_trades=False)
    while exchange.prints_played < 5_000:
        exchange.step()
    opened = {x.facts.ticker for x in exchange.listings if x.status == "active"}
    assert len(opened) > 20
    async with serve(exchange, speed=1e-3) as venue:
        demo = settings.replace(
            venue="demo", rest_url=venue.rest, ws_url=venue.ws, key_id=venue.key_id,
            private_key_path=str(venue.private_key_path), close_min_minutes=0, sync_interval_s=1, max_orders=1_000,
        )  # fmt: skip
        async with PaperSession(demo) as session:
            running = asyncio.ensure_future(session.run())
            while session.state != "READY":
                await asyncio.sleep(0.02)
            assert session.snapshot().counts["tracked"] == len(opened)
            first = exchange.prints_played
            for _ in range(4_000):
                exchange.step()
                if exchange.prints_played % 10 == 0:
                    await asyncio.sleep(0)
            seen = exchange.prints_played - first
            while session.snapshot().counts["trades"] < seen:
                await asyncio.sleep(0.02)
            session.request_stop("enough")
            report = await asyncio.wait_for(running, 100)
    assert report.stopped == "enough"
    assert report.counts["account_differences"] == 0
    later = tape.slice(first, seen)
    known = with_codes(later.filter(pl.col("ticker").is_in(opened)))
    expected = rlm(known.select(tape.columns))
    fires = (
        report.raw("signals")
        .unique("ticker", keep="first", maintain_order=True)
        .filter(pl.col("ticker").is_in(opened))
    )
    columns = ["ticker", "n_trades", "yes_ratio", "drop", "first_price"]
    assert fires.select(columns).rows() == expected.select(columns).rows()
