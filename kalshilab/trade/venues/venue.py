"""Where a session trades: an exchange it starts itself, or Kalshi's demo environment.

The exchange of its own plays a tape (*embedded*) or mirrors a real feed (*shadow*).

On either the session and the exchange keep step.  The exchange plays its next event only when
the session has handled every frame of the one before and has no order under way (`Lockstep`), so an hour of
tape gives the same orders and fills whether it takes an hour or a second, on a fast machine or a slow one.
The session's clock then *is* the exchange's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import polars as pl

from kalshilab.clock import Clock, SimClock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import TapeError
from kalshilab.exchange import Exchange, serve
from kalshilab.kalshi import hosts
from kalshilab.tape import sample, to_markets, to_tape
from kalshilab.trade.health import Health
from kalshilab.trade.venues.shadow import ShadowFeed
from kalshilab.units import dollars

__all__ = ["FrameCount", "Lockstep", "VenueLink", "open_venue", "read_frames"]

STALL = 5.0
"""Wall seconds without progress after which a count of frames is taken anew: frames died with a connection."""


class Lockstep:
    """Lets the exchange's flow go on only when the session has caught up.

    Args:
        clock: moved to the time of each event just before it is played.

    The session sets `behind` to a function that says whether it still has work, and calls `open` when it is
    ready for the first event.
    """

    def __init__(self, clock: SimClock) -> None:
        self._clock = clock
        self._gate = asyncio.Event()
        self.behind: Callable[[], bool] = lambda: False
        self.events = 0

    def open(self) -> None:
        """Let the flow run."""
        self._gate.set()

    def hold(self) -> None:
        """Stop the flow before its next event."""
        self._gate.clear()

    async def step(self, ts: int) -> None:
        """Called by the exchange before each event of its flow; returns when the event may be played."""
        while True:
            if not self._gate.is_set():
                await self._gate.wait()
            if not self.behind():
                break
            # One turn of the loop moves a frame one hop further; there is nothing to wait on but that.
            await asyncio.sleep(0)
        self.events += 1
        self._clock.advance(ts)


class FrameCount:
    """Frames the exchange has handed to connections, against those the session has handled.

    Frames that were under way when a connection died never come; after `STALL` seconds without progress they
    are written off, or the lockstep would wait for them for ever.
    """

    def __init__(self, sent: Callable[[], int]) -> None:
        self._sent = sent
        self._gone = 0
        self._received, self._since = -1, 0.0

    def missing(self, received: int) -> int:
        """Frames sent and not yet handled."""
        return max(self._sent() - self._gone - received, 0)

    def give_up_stalled(self, received: int, now: float) -> int:
        """Write off missing frames if none has come for `STALL` seconds; how many.  `now` is monotonic."""
        if received != self._received:
            self._received, self._since = received, now
        elif now - self._since > STALL:
            missing = self.missing(received)
            self._gone += missing
            return missing
        return 0


class VenueLink:
    """An open venue, as the session sees it."""

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        *,
        pace: Lockstep | None = None,
        finished: asyncio.Event | None = None,
        frames: FrameCount | None = None,
        prints: int = 0,
        feed: ShadowFeed | None = None,
    ) -> None:
        self.settings, self.clock = settings, clock
        self.pace, self.finished, self.frames, self.prints = pace, finished, frames, prints
        self.feed = feed

    async def trouble(self) -> None:
        """Wait until what stands behind the venue cannot go on, and raise why; return where nothing does."""
        if self.feed is not None:
            await self.feed.trouble()


def read_frames(settings: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tape and markets that the settings name: the bundled sample, or Parquet files in any known layout.

    Raises:
        TapeError: a file is missing or is not Parquet, or only one of the two is named.
    """
    if settings.tape is None and settings.markets is None:
        return sample()
    if settings.tape is None or settings.markets is None:
        lacking = "tape" if settings.tape is None else "markets"
        raise TapeError(f"a tape and its markets go together: {lacking} is not given")
    markets = to_markets(read_parquet(settings.markets), result_column=settings.result_column)
    return to_tape(read_parquet(settings.tape)), markets


def read_parquet(path: str, rows: int | None = None) -> pl.DataFrame:
    """A Parquet file, or its first `rows` rows.

    Raises:
        TapeError: it is missing, or is not Parquet.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise TapeError(f"{path}: no such file")
    try:
        return pl.read_parquet(file, n_rows=rows)
    except pl.exceptions.PolarsError as error:
        raise TapeError(
            f"{path}: not a Parquet file that can be read ({str(error).splitlines()[0]})"
        ) from None


@asynccontextmanager
async def open_venue(settings: Settings, health: Health) -> AsyncIterator[VenueLink]:
    """Start or name the venue of `settings`; on leaving, what was started here has ended.

    Args:
        health: told how the feed behind a shadow venue is doing.

    Raises:
        CredentialsMissing: a venue that needs a key was given none.
        TapeError: the embedded venue cannot play what it was given.
        HostRefused, ApiError, ConnectionFailed, FeedLost: the shadow venue's source cannot be used.
    """
    settings.require_credentials()
    if settings.venue == "embedded":
        tape, markets = read_frames(settings)
        exchange = Exchange(
            tape,
            markets,
            seed=settings.seed,
            balance_money_units=dollars(settings.balance),
            echo_trades=False,
        )
        async with _own(settings, exchange, prints=tape.height) as link:
            yield link
    elif settings.venue == "shadow":
        async with ShadowFeed(settings, health) as feed:
            exchange = Exchange(
                flow=feed.mirror,
                seed=settings.seed,
                balance_money_units=dollars(settings.balance),
                echo_trades=False,
            )
            async with _own(settings.replace(speed="max"), exchange, feed=feed) as link:
                yield link
    else:
        rest, ws = hosts.defaults(settings.venue)
        filled = settings.replace(rest_url=settings.rest_url or rest, ws_url=settings.ws_url or ws)
        yield VenueLink(filled, WallClock())


@asynccontextmanager
async def _own(
    settings: Settings, exchange: Exchange, *, prints: int = 0, feed: ShadowFeed | None = None
) -> AsyncIterator[VenueLink]:
    """Serve an exchange of our own, in step with the session."""
    clock = SimClock(exchange.now)
    pace = Lockstep(clock)
    more = None if feed is None else feed.more
    async with serve(exchange, speed=settings.speed, pace=pace, more=more) as venue:
        filled = settings.replace(
            venue="embedded",
            rest_url=venue.rest,
            ws_url=venue.ws,
            key_id=venue.key_id,
            private_key=None,
            private_key_path=str(venue.private_key_path),
        )
        yield VenueLink(
            filled,
            clock,
            pace=pace,
            finished=venue.finished,
            frames=FrameCount(lambda: venue.frames_sent),
            prints=prints,
            feed=feed,
        )
