"""A paper session over loopback: prints a second, and from a print's frame to its order on the wire."""

from __future__ import annotations

import asyncio
import tempfile
from time import perf_counter

import numpy as np

import kalshilab as kl
from kalshilab.exchange import Exchange


def core() -> float:
    """Prints a second of the exchange alone, nobody listening."""
    exchange = Exchange(*kl.sample())
    began = perf_counter()
    while exchange.step():
        pass
    return exchange.prints_played / (perf_counter() - began)


async def session(folder: str) -> tuple[float, list[float]]:
    latencies: list[float] = []
    wall = kl.WallClock()
    settings = kl.Settings(env={}, env_file=None, out=folder, categories=("all",))
    async with kl.PaperSession(settings) as running:
        send = running._orders.create

        async def timed(request: object) -> object:
            latencies.append((wall.now() - running._stream.last_frame) / 1000)
            return await send(request)

        running._orders.create = timed
        began = perf_counter()
        report = await running.run()
        taken = perf_counter() - began
    return report.counts["trades"] / taken, latencies


def main() -> None:
    kl.signals.rlm(kl.sample()[0])
    floor = core()
    with tempfile.TemporaryDirectory() as folder:
        rate, latencies = asyncio.run(session(folder))
    print(f"exchange alone: {floor:,.0f} prints/s; session in lockstep over loopback: {rate:,.0f} prints/s, "
          f"{rate / floor:.3f} x")  # fmt: skip
    p50, p99 = np.percentile(latencies, [50, 99])
    print(
        f"print's frame to order handed to the client: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({len(latencies)} orders)"
    )


if __name__ == "__main__":
    main()
