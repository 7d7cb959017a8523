"""The paper session: public trades in, paper orders out, and a record that can be trusted.

One WebSocket connection carries every channel, so that a book, a print and a fill arrive in the order in
which the exchange sent them.  Events are handled synchronously as they arrive; whatever must wait for an
answer (a look-up, an order) runs as a task that the session owns and counts, so that it knows when it is
idle: the embedded exchange plays on only then, and a stop waits for it.

How a session ends.  The tape is over, the minutes are up, the stop file appears, the stop button is pressed,
or the kernel is interrupted: each sets the reason once, and then the same few things happen in the same
order: no new order, wait for those under way, cancel what rests and ask the exchange whether any is left,
compare fills and positions with the exchange's, write the report, close the journal.  Only a second interrupt
cuts this short.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from kalshilab.clock import Clock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import JournalError, KalshilabError, SessionError
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.kalshi.stream.client import Connected, Disconnected, Stream
from kalshilab.kalshi.stream.events import PositionUpdate, Rejected, Subscribed
from kalshilab.market.model import Fill, Order
from kalshilab.signals import Fire
from kalshilab.trade.events import Fired, Transition
from kalshilab.trade.health import NO_WORD, Health
from kalshilab.trade.markets.market_follower import CHANNELS, Follower
from kalshilab.trade.markets.tracker import Tracker
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.order_desk import Desk
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.orders.reconcile import Sync, raise_if_refused
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.run_folder import Ending, name_run
from kalshilab.trade.session.snapshot import View
from kalshilab.trade.state_machine import Machine
from kalshilab.trade.status import COUNTS, Snapshot, empty_snapshot, write_status
from kalshilab.trade.strategies.strategies import make_strategy
from kalshilab.trade.tasks import Tasks, first_of
from kalshilab.trade.venues.venue import open_venue

__all__ = ["PaperSession", "Report"]

TICK = 0.5
"""Wall seconds between looks at the deadline, the stop file, time-outs and the status file."""


class PaperSession:
    """A paper-trading session on the venue of `settings`.

        async with PaperSession(Settings(minutes=2)) as session:
            session.show()                      # dashboard, in a notebook
            report = await session.run()        # until the tape ends, the minutes are up, or a stop

    `run` absorbs the first interrupt and returns a `Report` all the same; what went wrong after the session
    was ready is in `report.error` (`report.check()` raises it).

    Args:
        settings: see `Settings`.
        run_dir: where journal, status and report go; default `settings.out`/<run id>.

    Raises (from `async with`):
        CredentialsMissing, KeyUnusable, HostRefused: the venue cannot be used with these settings.
        TapeError: the embedded venue cannot play what it was given.
    """

    def __init__(self, settings: Settings | None = None, *, run_dir: Path | None = None) -> None:
        self.settings = settings or Settings()
        self._strategy = make_strategy(self.settings)
        self._wall: Clock = WallClock()
        self._started = self._wall.now()
        self._began = self._wall.monotonic()
        self.run_id, self.run_dir = name_run(self.settings, run_dir, self._started)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stopped = ""
        self._finished = False
        self._error: KalshilabError | None = None
        self._stack = AsyncExitStack()
        self._counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self._view: View | None = None
        self._health = Health(self._wall)
        self._portfolio = Portfolio()
        self._machine: Machine | None = None
        self._opened = False

    # Life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        self._opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A session that was never run is over as well: whoever watches it may stop.
        self._finished = True
        await self._stack.aclose()

    async def _open(self) -> None:
        link = self._link = await self._stack.enter_async_context(open_venue(self.settings, self._health))
        self._clock = link.clock
        self._journal = Journal.create(self.run_dir / "journal.sqlite", self._clock, self._wall)
        self._stack.callback(self._journal.close)
        self._machine = Machine(self._clock, self._wall, self._on_transition)
        self._machine.to("INITIALIZING", "start")
        strategy, why = self.settings.strategy, self._strategy.why
        self._journal.note("start", run=self.run_id, venue=self.settings.venue, strategy=strategy, why=why)
        self._health.say(why or f"strategy {strategy}")
        self._data = await self._stack.enter_async_context(MarketData(link.settings))
        self._orders = await self._stack.enter_async_context(DemoOrders(link.settings))
        self._stream = Stream.of(link.settings, clock=self._wall)
        self._stream.subscribe(*CHANNELS)
        self._execution = Execution(self._orders, self._journal, self._portfolio, self._clock, self._wall)

    def request_stop(self, reason: str) -> None:
        """Ask for a clean stop.  May be called from any thread or event loop, and more than once."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._set_stop, reason)

    def _set_stop(self, reason: str) -> None:
        if not self._stopped:
            self._stopped = reason
            self._health.say(f"stopping: {reason}")
        self._stop.set()

    async def run(self) -> Report:
        """Trade until something ends it, then tidy up and report.

        Raises:
            SessionError: run twice, or outside `async with`.
            ApiError, ConnectionFailed, FeedLost: the venue could not be reached at the start.
        """
        if not self._opened or self._finished:
            raise SessionError("a PaperSession runs once, inside `async with`")
        failure: Exception | None = None
        async with asyncio.TaskGroup() as group:
            self._tasks = Tasks(group, self._on_task_error)
            self._wire()
            try:
                await self._start()
                await self._stop.wait()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
                self._set_stop("interrupted")
            except Exception as error:  # noqa: BLE001 - raised below, outside the group, as itself
                failure = error
            try:
                await (self._finish() if failure is None else self._give_up(failure))
            except (JournalError, OSError) as error:
                # A full disk, for instance: there is no record, but nothing may be left resting for that.
                with suppress(*NO_WORD):
                    await self._execution.cancel_all()
                await self._tasks.stop_background()
                words = str(error) if isinstance(error, JournalError) else f"{self.run_dir}: {error.strerror}"
                self._finished, failure = True, failure or self._error or JournalError(words)
        if failure is not None:
            raise failure
        return self.report

    async def _give_up(self, failure: Exception) -> None:
        """The session could not start: nothing was traded, so there is nothing to report."""
        self._journal.note("error", error=type(failure).__name__, text=str(failure))
        await self._tasks.stop_background()
        self._set_stop(f"could not start: {failure}")
        self._finished = True
        self._running.to("SHUTDOWN", self._stopped)
        write_status(self.run_dir / "status.json", self.snapshot())

    def _wire(self) -> None:
        """Make the parts that need the task group."""
        s = self.settings
        tracker = Tracker(s.categories, s.tickers, s.max_markets, round(s.close_min_minutes * 60e6))
        assert self._machine is not None
        self._follower = Follower(
            data=self._data, stream=self._stream, tracker=tracker, strategy=self._strategy, clock=self._clock,
            tasks=self._tasks, health=self._health, counts=self._counts, on_fire=self._on_fire,
            on_settled=lambda t: self._tasks.work(f"settlement {t}", self._pay_out(t)),
            book_timeout=s.orderbook_timeout_s,
        )  # fmt: skip
        self._desk = Desk(
            s,
            run_id=self.run_id,
            follower=self._follower,
            execution=self._execution,
            portfolio=self._portfolio,
            machine=self._machine,
            journal=self._journal,
            clock=self._clock,
            health=self._health,
            counts=self._counts,
        )
        self._view = View(
            run_id=self.run_id,
            venue=s.venue,
            prints=self._link.prints,
            started=self._started,
            began=self._began,
            clock=self._clock,
            wall=self._wall,
            machine=self._machine,
            follower=self._follower,
            desk=self._desk,
            execution=self._execution,
            portfolio=self._portfolio,
            health=self._health,
            counts=self._counts,
        )
        self._sync = Sync(
            self._orders,
            execution=self._execution,
            portfolio=self._portfolio,
            journal=self._journal,
            health=self._health,
            clock=self._clock,
            since=self._clock.now(),
            on_change=self._sample,
        )
        self._handlers: dict[type, Callable[..., None]] = self._follower.handlers | {
            Fill: self._on_fill,
            Order: self._execution.on_order,
            PositionUpdate: lambda event: None,
            Connected: self._on_connected,
            Disconnected: self._on_disconnected,
            Subscribed: self._on_subscribed,
            Rejected: lambda e: self._health.say(f"feed: command refused, {e.message} (code {e.code})"),
        }
        self._ready_channels: set[str] = set()
        self._subscribed = asyncio.Event()

    async def _start(self) -> None:
        machine = self._running
        machine.to("ORDERBOOK_CONNECT", "feed")
        self._tasks.background("feed", self._stream.run(self._on_event))
        in_time = await first_of(self._subscribed.wait(), self._stop.wait(), timeout=30.0)
        if self._error is not None:
            raise self._error
        if not in_time:
            why = self._health.parts.get("feed", "silent")
            raise SessionError(f"no subscription was confirmed within 30 s; the feed is {why}")
        machine.to("TRADING_CLIENT_CONNECT", "account")
        await self._orders.balance()
        machine.to("KALSHI_DATA_SYNC", "account")
        await self._sync.start()
        await self._execution.recover()
        if self.settings.cleanup_on_startup:
            stale = await self._execution.cancel_stale()
            if stale:
                self._health.say(f"{stale} orders of an earlier run cancelled")
        if self.settings.discovery:
            await self._follower.discover()
            self._tasks.background(
                "discovery", self._follower.keep_discovering(self._wall, self.settings.discovery_interval_s)
            )
        self._sample()
        machine.to("READY", "all parts started")
        self._tasks.background("housekeeping", self._keep_house())
        self._tasks.background("sync", self._sync_on())
        self._tasks.background("venue", self._link.trouble())
        if self._link.pace is not None:
            self._link.pace.behind = self._behind
            self._link.pace.open()
            self._tasks.background("tape", self._until_tape_ends())

    async def _finish(self) -> None:
        """The end, in its fixed order; see the module's docstring."""
        machine = self._running
        self._desk.closed = True
        if self._link.pace is not None:
            self._link.pace.hold()
        await self._tasks.idle()
        self._desk.let_go()
        try:
            left = await self._execution.cancel_all()
            await self._settle_frames()
            await self._sync.compare(self._pay_out)
            if left:
                self._health.degraded("orders", f"{len(left)} orders still rest at the exchange")
        except NO_WORD as error:
            left = list(self._execution.open.values())
            self._fail(error)
        self._counts["left_resting"] = len(left)
        self._sample()
        await self._tasks.stop_background()
        machine.to("SHUTDOWN", self._stopped)
        self._journal.note("end", stopped=self._stopped, counts=dict(self._counts))
        self._finished = True
        assert self._view is not None
        shot = self.snapshot()
        self.report = self._view.report(
            self._journal, shot, differences=len(self._sync.differences), error=self._error
        )
        self.report.save()
        write_status(self.run_dir / "status.json", shot)

    async def _settle_frames(self) -> None:
        """Let frames under way arrive, so that the last fills are counted from the stream."""
        for _ in range(20):
            if self._behind():
                await self._wall.sleep(0.05)

    # Events

    def _on_event(self, event: object) -> None:
        handler = self._handlers.get(type(event))
        if handler is None:
            self._counts["unhandled"] += 1
            return
        handler(event)
        self._retry_deferred()

    def _retry_deferred(self) -> None:
        if self._desk.due():
            self._tasks.work("deferred fires", self._desk.retry())

    def _on_fire(self, fire: Fire) -> None:
        self._counts["signals"] += 1
        self._journal.write("fire", Fired.of(fire))
        self._tasks.work(f"fire {fire.ticker}", self._desk.act(fire))

    async def _pay_out(self, *tickers: str) -> None:
        paid = await self._sync.settlements(*tickers)
        assert self._view is not None
        self._view.settlements.extend(paid)
        self._counts["settlements"] += len(paid)

    def _on_fill(self, fill: Fill) -> None:
        if self._execution.on_fill(fill):
            self._counts["fills"] += 1
            self._sample()

    def _on_connected(self, event: Connected) -> None:
        self._health.healthy("feed")
        if event.attempt > 1:
            self._counts["reconnects"] += 1

    def _on_subscribed(self, event: Subscribed) -> None:
        self._ready_channels.add(event.channel)
        if self._ready_channels.issuperset(CHANNELS):
            self._subscribed.set()
            if self._running.state == "ERROR":
                self._tasks.work("resume", self._resume())

    async def _resume(self) -> None:
        """After a reconnect: what happened meanwhile, then READY again."""
        # It may be lost again meanwhile.
        while self._running.state == "ERROR" and self._ready_channels.issuperset(CHANNELS):
            try:
                await self._sync.compare(self._pay_out)
            except NO_WORD as error:
                self._health.degraded("account", str(error))
                if await first_of(self._stop.wait(), timeout=1.0):
                    return
            else:
                if self._running.state == "ERROR" and self._ready_channels.issuperset(CHANNELS):
                    self._running.to("READY", "feed is back")

    def _on_disconnected(self, event: Disconnected) -> None:
        self._ready_channels.clear()
        self._follower.on_disconnect()
        self._health.degraded("feed", event.reason)
        if not self._subscribed.is_set():
            self._tasks.background("account", raise_if_refused(self._orders))
        if self._running.may_trade:
            self._running.to("ERROR", f"feed lost: {event.reason}")

    def _on_transition(self, change: Transition) -> None:
        self._journal.write("transition", change)

    def _on_task_error(self, name: str, error: Exception) -> None:
        """A part failed for good: stop cleanly and say what it was."""
        if isinstance(error, KalshilabError):
            self._fail(error)
        else:
            wrapped = SessionError(f"{name}: {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            self._fail(wrapped)

    def _fail(self, error: KalshilabError) -> None:
        if self._error is None:
            self._error = error
        self._set_stop(f"{type(error).__name__}: {error}")
        # A journal that cannot be written may be what failed; raised here it would cut off orders under way.
        with suppress(JournalError):
            self._journal.note("error", error=type(error).__name__, text=str(error))

    # Keeping step with the embedded exchange

    def _behind(self) -> bool:
        """Whether something the exchange sent, or something we do about it, is not finished."""
        if self._tasks.working or self._execution.in_flight:
            return True
        frames = self._link.frames
        if frames is None or not frames.missing(self._stream.frames_received):
            return False
        gone = frames.give_up_stalled(self._stream.frames_received, self._wall.monotonic())
        if gone:
            self._health.say(f"{gone} frames died with a connection")
        return not gone

    async def _until_tape_ends(self) -> None:
        assert self._link.finished is not None
        await self._link.finished.wait()
        while self._behind():
            await self._wall.sleep(0.01)
        self._set_stop("tape ended")

    # Background

    async def _keep_house(self) -> None:
        machine = self._running
        ending = Ending(self.settings, self._wall, self._began)
        while not self._stop.is_set():
            reason = ending.due()
            if reason:
                self._set_stop(reason)
            self._retry_deferred()
            if self._execution.api_errors >= 5:
                self._health.degraded("orders", f"{self._execution.api_errors} errors in a row")
            else:
                self._health.healthy("orders")
            if machine.check_timeout() and machine.state == "SHUTDOWN":
                self._fail(SessionError(f"gave up: {machine.last_error}"))
            self._sample()
            write_status(self.run_dir / "status.json", self.snapshot())
            await self._wall.sleep(TICK)

    async def _sync_on(self) -> None:
        """Compare with the exchange at intervals, when nothing is under way that would show as a difference."""
        while True:
            await self._wall.sleep(self.settings.sync_interval_s)
            await self._execution.idle()
            try:
                await self._sync.fills()
                await self._pay_out()
            except NO_WORD as error:
                self._health.degraded("account", str(error))

    def _sample(self) -> None:
        if self._view is not None:
            self._view.sample()

    @property
    def _running(self) -> Machine:
        """The state machine of an open session."""
        assert self._machine is not None
        return self._machine

    # Views

    @property
    def state(self) -> str:
        """The session's state."""
        return "STARTUP" if self._machine is None else self._machine.state

    def snapshot(self) -> Snapshot:
        """The session at this moment.  Cheap enough for several calls a second."""
        if self._view is None:
            return empty_snapshot(
                run_id=self.run_id, venue=self.settings.venue, strategy=self.settings.strategy, state=self.state,
                stopped=self._stopped, finished=self._finished, started=self._started,
                elapsed=self._wall.monotonic() - self._began,
            )  # fmt: skip
        self._counts["frames"] = self._stream.frames_received
        return self._view.snapshot(stopped=self._stopped, finished=self._finished)

    def show(self) -> None:
        """Display the dashboard below the cell; it follows the session until the end."""
        # notebook/ stands above trade/: only this call, made in a notebook, reaches up.
        from kalshilab.notebook.session.dashboard import Dashboard

        Dashboard(self).show()

    def __repr__(self) -> str:
        return f"PaperSession({self.run_id}, {self.state})"
