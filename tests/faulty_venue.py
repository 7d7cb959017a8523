"""A served exchange that things go wrong with, a clock that does not wait, and a tape played step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.exchange import Exchange, Venue, serve
from kalshilab.exchange.faults.faults import Faults
from kalshilab.tape import sample


class Hurry(WallClock):
    """Machine time whose sleeps are a thousand times shorter."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1000)


class Steps:
    """A pace that plays as many steps as it is told to."""

    def __init__(self) -> None:
        self._leave = asyncio.Semaphore(0)
        self.asked = 0

    async def step(self, ts: int) -> None:
        self.asked += 1
        await self._leave.acquire()

    async def play(self, n: int) -> None:
        until = self.asked + n
        for _ in range(n):
            self._leave.release()
        async with asyncio.timeout(10):
            while self.asked < until:
                await asyncio.sleep(0)


@asynccontextmanager
async def faulty_venue(
    faults: Faults, *, prints: int = 3, seed: int = 0, fast: bool = False
) -> AsyncIterator[tuple[Venue, Steps, Settings]]:
    """The sample, served from its `prints`-th print on; its pace, and the settings of a client."""
    exchange = Exchange(*sample(), seed=seed)
    while exchange.prints_played < prints:
        exchange.step()
    steps = Steps()
    async with serve(exchange, pace=steps, key_kind="ed25519", faults=faults) as served:
        settings = Settings(
            env={},
            env_file=None,
            rest_url=served.rest,
            ws_url=served.ws,
            key_id=served.key_id,
            private_key_path=str(served.private_key_path),
            fast=fast,
        )
        yield served, steps, settings
