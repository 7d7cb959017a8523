"""The same tape, seed and client calls give the same bytes, however the steps between the calls are bundled."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from scripted_day import Day

CHANNELS = ["trade", "ticker", "fill", "user_orders", "market_positions", "market_lifecycle_v2"]


def run(seed: int, bundle: int, **options: Any) -> bytes:
    """Return every byte the exchange sends over REST and WebSocket to a client that acts at random, by `seed`."""
    day, chance = Day(**options), random.Random(seed)
    sent: list[bytes] = []
    day.command(id=1, cmd="subscribe", params={"channels": CHANNELS})
    watched = False
    for act in range(120):
        left = chance.randint(20, 120)
        while left > 0:
            day.play(min(left, bundle))
            left -= bundle
        sent += day.frames
        day.frames.clear()
        active = [x for x in day.ex.listings if x.status == "active"]
        if not active:
            continue
        if not watched:
            tickers = [x.facts.ticker for x in active]
            day.command(id=2, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_tickers": tickers})  # fmt: skip
            watched = True
        ticker = chance.choice(active).facts.ticker
        answer: Any
        match act % 4:
            case 0 | 1:
                answer = day.order(
                    ticker,
                    side=chance.choice(["bid", "ask"]),
                    price=f"{chance.randint(2, 98) / 100:.4f}",
                    client_order_id=None,
                )
            case 2:
                answer = day.call("DELETE", "/portfolio/events/orders")
            case _:
                answer = day.call("GET", "/portfolio/orders", limit="20")
        sent.append(json.dumps(answer).encode())
    for path in ("balance", "fills", "settlements", "positions"):
        sent.append(json.dumps(day.call("GET", f"/portfolio/{path}")).encode())
    return b"\n".join(sent)


@pytest.mark.parametrize("seed", range(3))
def test_the_bytes_do_not_depend_on_how_steps_are_bundled(seed: int) -> None:
    once = run(seed, 1000)
    assert len(once) > 100_000
    assert run(seed, 1000) == once
    assert run(seed, 7) == once


def test_different_calls_give_different_bytes() -> None:
    assert run(0, 1000) != run(1, 1000)
