"""Orders over loopback: this client against the exchange's official one, sequential and many in flight.

    python research/benchmarks/orders.py [--orders 1500] [--flight 32] [--rounds 3] [--key ed25519,rsa]

Both use the same exchange, in a separate process, with the same key, in turns; the fastest round of each counts.  The
floor is a bare httpx client that sends the same requests, signed in advance.  The official client
(`kalshi_python_async`, Python 3.13 or later) is measured if it is installed, and this client also with the extra `fast`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from time import perf_counter, time_ns
from typing import Any

import httpx
from exchange import exchange_process

import kalshilab as kl
from kalshilab.kalshi.auth import Signer
from kalshilab.kalshi.rest.orders import OrderRequest

ORDERS = "/trade-api/v2/portfolio/events/orders"
Send = Callable[[int], Awaitable[Any]]


async def rate(send: Send, count: int, flight: int) -> float:
    """Return orders per second, with `flight` of them in flight."""
    numbers = iter(range(count))

    async def lane() -> None:
        for number in numbers:
            await send(number)

    began = perf_counter()
    await asyncio.gather(*(lane() for _ in range(flight)))
    return count / (perf_counter() - began)


class Names:
    """A source of client order ids and markets that differ from order to order, over all rounds."""

    def __init__(self, tickers: list[str]) -> None:
        self._tickers, self._used = tickers, 0

    def next(self) -> tuple[str, str]:
        self._used += 1
        return f"order-{self._used}", self._tickers[self._used % len(self._tickers)]


def wire(names: Names) -> dict[str, str]:
    name, ticker = names.next()
    return {
        "ticker": ticker, "client_order_id": name, "side": "bid", "count": "1.00", "price": "0.0100",
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip


async def bare(facts: dict[str, Any], names: Names, count: int, flight: int) -> float:
    signer = Signer.from_pem(facts["key_id"], Path(facts["key"]))
    requests = []
    async with httpx.AsyncClient(
        trust_env=False, limits=httpx.Limits(max_connections=flight, max_keepalive_connections=flight)
    ) as client:
        for _ in range(count):
            headers = signer.headers("POST", ORDERS, time_ns() // 1_000_000)
            headers["Content-Type"] = "application/json"
            body = json.dumps(wire(names))
            root = facts["rest"].removesuffix("/trade-api/v2")
            requests.append(client.build_request("POST", root + ORDERS, headers=headers, content=body))

        async def send(number: int) -> None:
            answer = await client.send(requests[number])
            assert answer.status_code == 201, answer.content

        return await rate(send, count, flight)


async def ours(facts: dict[str, Any], names: Names, count: int, flight: int, *, fast: bool = False) -> float:
    settings = kl.Settings(
        env={}, env_file=None, rest_url=facts["rest"], key_id=facts["key_id"], private_key_path=facts["key"],
        fast=fast,
    )  # fmt: skip
    async with kl.DemoOrders(settings) as client:

        async def send(number: int) -> None:
            name, ticker = names.next()
            await client.create(
                OrderRequest(ticker=ticker, side="bid", price=100, size=100, client_order_id=name)
            )

        return await rate(send, count, flight)


async def official(facts: dict[str, Any], names: Names, count: int, flight: int) -> float:
    module = importlib.import_module("kalshi_python_async")
    configuration = module.Configuration(host=facts["rest"])
    configuration.api_key_id = facts["key_id"]
    configuration.private_key_pem = await asyncio.to_thread(Path(facts["key"]).read_text)
    client = module.KalshiClient(configuration)

    async def send(number: int) -> None:
        await client.create_order_v2(**wire(names))

    try:
        return await rate(send, count, flight)
    finally:
        await client.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--orders", type=int, default=1_500)
    parser.add_argument("--flight", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--key", default="ed25519,rsa")
    options = parser.parse_args()
    clients: dict[str, Any] = {"bare httpx": bare, "kalshilab": ours}
    if importlib.util.find_spec("aiohttp") is not None:
        clients["kalshilab, fast"] = partial(ours, fast=True)
    if importlib.util.find_spec("kalshi_python_async") is None:
        print("kalshi_python_async is not installed: the official client is not measured")
    else:
        clients["kalshi_python_async"] = official
    for key in options.key.split(","):
        for flight in (1, options.flight):
            best = dict.fromkeys(clients, 0.0)
            with exchange_process("--each", "40", "--hold", "--key", key) as (_, facts):
                names = Names(facts["tickers"])
                for _ in range(options.rounds):
                    for name, work in clients.items():
                        best[name] = max(best[name], asyncio.run(work(facts, names, options.orders, flight)))
            floors = {name: found for name, found in best.items() if not name.startswith("kalshilab")}
            for name, mine in best.items():
                if name not in floors:
                    against = ", ".join(f"{mine / found:.2f} x {other}" for other, found in floors.items())
                    print(f"{key}, {flight} in flight: {name} {mine:,.0f} orders/s: {against}")
            print("  " + ", ".join(f"{name} {found:,.0f}/s" for name, found in floors.items()))


if __name__ == "__main__":
    main()
