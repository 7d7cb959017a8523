"""A served exchange with faults, a fast clock, and a tape played step by step."""

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
    """A pace that plays a given number of steps.

    Attributes:
        asked: number of steps that the tape has asked to play.
    """

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)
        self.asked = 0

    async def step(self, ts: int) -> None:
        self.asked += 1
        await self._permits.acquire()

    async def play(self, n: int) -> None:
        """Play `n` steps and return when the tape asks for the next one."""
        until = self.asked + n
        for _ in range(n):
            self._permits.release()
        async with asyncio.timeout(60):
            while self.asked < until:
                await asyncio.sleep(0)


@asynccontextmanager
async def faulty_venue(
    faults: Faults, *, prints: int = 3, seed: int = 0, fast: bool = False
) -> AsyncIterator[tuple[Venue, Steps, Settings]]:
    """Serve the sample from its `prints`-th print on; yield the venue, its pace and a client's settings."""
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
