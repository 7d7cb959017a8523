"""Venues of a session: a local exchange that plays a tape or mirrors a feed, or Kalshi's demo environment.

The local exchange plays a tape (*embedded*) or mirrors a real feed (*shadow*).  On both, session and exchange run in
lockstep: the exchange plays its next event only when the session has handled every frame of the previous one and has no
order under way (`Lockstep`).  An hour of tape therefore gives the same orders and fills whether it takes an hour or a
second, on a fast machine or a slow one.  The session's clock is then the clock of the exchange.
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
"""Wall seconds without progress after which missing frames count as lost with a connection."""


class Lockstep:
    """Pace of the exchange's flow: the next event waits until the session has caught up.

    The session sets `behind` to a function that returns whether it still has work, and calls `open` when it is ready for
    the first event.

    Args:
        clock: advanced to the time of each event just before it is played.
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
        """Wait until the next event may be played; the exchange calls this before each event of its flow.

        Args:
            ts: the event's exchange time in microseconds.
        """
        while True:
            if not self._gate.is_set():
                await self._gate.wait()
            if not self.behind():
                break
            # Each turn of the event loop moves the frames one step; there is no event to wait for.
            await asyncio.sleep(0)
        self.events += 1
        self._clock.advance(ts)


class FrameCount:
    """Count of the frames that the exchange has sent and the session has not handled yet.

    Frames under way on a lost connection never arrive.  After `STALL` seconds without progress they are written off;
    otherwise the lockstep would wait for them for ever.

    Args:
        sent: returns the number of frames sent.
    """

    def __init__(self, sent: Callable[[], int]) -> None:
        self._sent = sent
        self._lost = 0
        self._received, self._since = -1, 0.0

    def missing(self, received: int) -> int:
        """Return the number of frames sent but not handled, given the number received."""
        return max(self._sent() - self._lost - received, 0)

    def give_up_stalled(self, received: int, now: float) -> int:
        """Write off missing frames if none has arrived for `STALL` seconds.

        Args:
            received: the number of frames received.
            now: monotonic time in seconds.

        Returns:
            The number of frames written off.
        """
        missing = self.missing(received)
        # While nothing is missing the clock starts anew: a quiet feed is not a stalled one.
        if not missing or received != self._received:
            self._received, self._since = received, now
            return 0
        if now - self._since <= STALL:
            return 0
        self._lost += missing
        return missing


class VenueLink:
    """An open venue as the session uses it.

    Args:
        settings: the settings with the venue's addresses and key.
        clock: the venue's exchange time.
        pace: the lockstep of a local exchange; None: the venue has its own time.
        finished: set when the tape of a local exchange has ended.
        frames: the frame count of a local exchange.
        prints: the number of prints of the tape; 0 without a tape.
        feed: the feed behind a shadow venue.
    """

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
        """Wait until the feed behind the venue fails, and raise its error; return at once without such a feed."""
        if self.feed is not None:
            await self.feed.trouble()


def read_frames(settings: Settings) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read the tape and the markets of the settings: the bundled sample, or Parquet files in any known layout.

    Raises:
        TapeError: a file is missing or is not Parquet, or only one of the two is given.
    """
    if settings.tape is None and settings.markets is None:
        return sample()
    if settings.tape is None or settings.markets is None:
        lacking = "tape" if settings.tape is None else "markets"
        raise TapeError(f"tape and markets must be given together; {lacking} is missing")
    markets = to_markets(read_parquet(settings.markets), result_column=settings.result_column)
    return to_tape(read_parquet(settings.tape)), markets


def read_parquet(path: str, rows: int | None = None) -> pl.DataFrame:
    """Read a Parquet file.

    Args:
        path: the file; `~` is expanded.
        rows: read only the first rows; default all.

    Raises:
        TapeError: the file is missing or is not Parquet.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise TapeError(f"{path}: no such file")
    try:
        return pl.read_parquet(file, n_rows=rows)
    except pl.exceptions.PolarsError as error:
        raise TapeError(f"{path}: not a Parquet file ({str(error).splitlines()[0]})") from None


@asynccontextmanager
async def open_venue(settings: Settings, health: Health) -> AsyncIterator[VenueLink]:
    """Open the venue of the settings; on exit, everything started here has ended.

    Args:
        settings: the venue, its addresses and its key.
        health: receives the status of the feed behind a shadow venue.

    Raises:
        CredentialsMissing: the venue needs a key, and the settings have no key.
        TapeError: the embedded venue cannot play the tape.
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
        async with _serve_local(settings, exchange, prints=tape.height) as link:
            yield link
    elif settings.venue == "shadow":
        async with ShadowFeed(settings, health) as feed:
            exchange = Exchange(
                flow=feed.mirror,
                seed=settings.seed,
                balance_money_units=dollars(settings.balance),
                echo_trades=False,
            )
            async with _serve_local(settings.replace(speed="max"), exchange, feed=feed) as link:
                yield link
    else:
        rest, ws = hosts.defaults(settings.venue)
        filled = settings.replace(rest_url=settings.rest_url or rest, ws_url=settings.ws_url or ws)
        yield VenueLink(filled, WallClock())


@asynccontextmanager
async def _serve_local(
    settings: Settings, exchange: Exchange, *, prints: int = 0, feed: ShadowFeed | None = None
) -> AsyncIterator[VenueLink]:
    """Serve a local exchange in lockstep with the session."""
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
