"""The paper session: public trades in, paper orders out, and a complete record of the run.

One WebSocket connection carries every channel, so a book, a print and a fill arrive in the order in which the exchange
sent them.  Events are handled synchronously as they arrive.  Anything that waits for an answer (a look-up, an order)
runs as a task that the session owns and counts, so the session knows when it is idle: the embedded exchange plays on
only then, and a stop waits for it.

How a session ends: the tape is over, the minutes are up, the stop file appears, the stop button is pressed, or the kernel
is interrupted.  Each of these sets the reason once, and the same steps follow in the same order: place no new order, wait
for those under way, cancel resting orders and check with the exchange that none is left, compare fills and positions with
the exchange's, write the report, close the journal.  Only a second interrupt skips these steps.
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
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.errors import JournalError, KalshilabError, SessionError
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.kalshi.stream.client import Stream
from kalshilab.kalshi.stream.events import PositionUpdate
from kalshilab.market.model import Fill, Order
from kalshilab.signals import Fire
from kalshilab.trade.events import Fired, Transition
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.markets.market_follower import CHANNELS, Follower
from kalshilab.trade.markets.tracker import Tracker
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.order_desk import Desk
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.orders.reconcile import Sync
from kalshilab.trade.session.connection import FeedConnection
from kalshilab.trade.session.pacing import Pacing
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.run_folder import Ending, name_run
from kalshilab.trade.session.snapshot import View
from kalshilab.trade.state_machine import Machine
from kalshilab.trade.status import COUNTS, Snapshot, empty_snapshot, write_status
from kalshilab.trade.strategies.strategies import make_strategy
from kalshilab.trade.tasks import Tasks, first_of
from kalshilab.trade.venues.venue import open_venue

__all__ = ["PaperSession", "Report"]

TICK_S = 0.5
"""Wall seconds between checks of the deadline, the stop file and time limits, and updates of the status file."""
SUBSCRIBED_WITHIN_S = 30.0
"""Wall seconds within which every channel must be confirmed."""
MAX_API_ERRORS = 5
"""Consecutive errors of the order client after which orders count as degraded."""


class PaperSession:
    """A paper-trading session on the venue of `settings`.

        async with PaperSession(Settings(minutes=2)) as session:
            session.show()                      # dashboard, in a notebook
            report = await session.run()        # until the tape ends, the minutes are up, or a stop

    `run` absorbs the first interrupt and still returns a `Report`.  An error after the session was ready is in
    `report.error`; `report.check()` raises it.

    Args:
        settings: the settings; default: those of the environment.
        run_dir: the folder for journal, status and report; default `settings.out`/<run id>.

    Raises (from `async with`):
        CredentialsMissing, KeyUnusable, HostRefused: the venue cannot be used with these settings.
        TapeError: the embedded venue cannot play the tape.
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
        # A session that was never run has ended as well, so that a watcher may stop.
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
        signal = self._strategy.signal
        self._journal.note(
            "start", run=self.run_id, venue=self.settings.venue, strategy=strategy, why=why,
            signal="" if signal is None else strategy_of(signal).identity,
        )  # fmt: skip
        self._health.log(why or f"strategy {strategy}")
        self._data = await self._stack.enter_async_context(MarketData(link.settings))
        self._orders = await self._stack.enter_async_context(DemoOrders(link.settings))
        self._stream = Stream.of(link.settings, clock=self._wall)
        self._stream.subscribe(*CHANNELS)
        self._execution = Execution(self._orders, self._journal, self._portfolio, self._clock, self._wall)

    def request_stop(self, reason: str) -> None:
        """Request a clean stop, from any thread or event loop; later requests have no effect.

        Args:
            reason: the reason, for the report.
        """
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._set_stop, reason)

    def _set_stop(self, reason: str) -> None:
        if not self._stopped:
            self._stopped = reason
            self._health.log(f"stopping: {reason}")
        self._stop.set()

    async def run(self) -> Report:
        """Trade until the session ends, then clean up and report.

        Raises:
            SessionError: the session has run before, or is not open.
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
            except Exception as error:  # noqa: BLE001 - raised below, outside the task group, unchanged
                failure = error
            try:
                await (self._finish() if failure is None else self._give_up(failure))
            except (JournalError, OSError) as error:
                # For instance, a full disk: the record is lost, but no order may be left resting.
                with suppress(*INCONCLUSIVE_ERRORS):
                    await self._execution.cancel_all()
                await self._tasks.stop_background()
                reason = (
                    str(error) if isinstance(error, JournalError) else f"{self.run_dir}: {error.strerror}"
                )
                self._finished, failure = True, failure or self._error or JournalError(reason)
        if failure is not None:
            raise failure
        return self.report

    async def _give_up(self, failure: Exception) -> None:
        """End a session that could not start; nothing was traded, so there is no report."""
        self._journal.note("error", error=type(failure).__name__, text=str(failure))
        await self._tasks.stop_background()
        self._set_stop(f"could not start: {failure}")
        self._finished = True
        self._running.to("SHUTDOWN", self._stopped)
        write_status(self.run_dir / "status.json", self.snapshot())

    def _wire(self) -> None:
        """Create the parts that need the task group."""
        s = self.settings
        tracker = Tracker(s.categories, s.tickers, s.max_markets, round(s.close_min_minutes * 60e6))
        assert self._machine is not None
        self._follower = Follower(
            data=self._data, stream=self._stream, tracker=tracker, strategy=self._strategy, clock=self._clock,
            tasks=self._tasks, health=self._health, counts=self._counts, on_fire=self._on_fire,
            on_settled=lambda t: self._tasks.work(f"settlement {t}", self._pay_out(t)),
            book_timeout_s=s.orderbook_timeout_s,
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
        self._pacing = Pacing(
            self._link,
            stream=self._stream,
            tasks=self._tasks,
            execution=self._execution,
            wall=self._wall,
            health=self._health,
        )
        self._connection = FeedConnection(
            machine=self._machine,
            tasks=self._tasks,
            follower=self._follower,
            sync=self._sync,
            orders=self._orders,
            health=self._health,
            counts=self._counts,
            stop=self._stop,
            pay_out=self._pay_out,
        )
        self._handlers: dict[type, Callable[..., None]] = {
            **self._follower.handlers,
            **self._connection.handlers,
            Fill: self._on_fill,
            Order: self._execution.on_order,
            PositionUpdate: lambda event: None,
        }

    async def _start(self) -> None:
        machine = self._running
        machine.to("ORDERBOOK_CONNECT", "feed")
        self._tasks.background("feed", self._stream.run(self._on_event))
        in_time = await first_of(
            self._connection.subscribed.wait(), self._stop.wait(), timeout_s=SUBSCRIBED_WITHIN_S
        )
        if self._error is not None:
            raise self._error
        if not in_time:
            status = self._health.parts.get("feed", "silent")
            raise SessionError(
                f"no subscription was confirmed within {SUBSCRIBED_WITHIN_S:g} s; the feed is {status}"
            )
        machine.to("TRADING_CLIENT_CONNECT", "account")
        await self._orders.balance()
        machine.to("KALSHI_DATA_SYNC", "account")
        await self._sync.start()
        await self._execution.recover()
        if self.settings.cleanup_on_startup:
            stale = await self._execution.cancel_stale()
            if stale:
                self._health.log(f"{stale} orders of an earlier run cancelled")
        if self.settings.discovery:
            await self._follower.discover()
            self._tasks.background(
                "discovery", self._follower.keep_discovering(self._wall, self.settings.discovery_interval_s)
            )
        self._sample()
        machine.to("READY", "all parts started")
        self._tasks.background("housekeeping", self._keep_house())
        self._tasks.background("sync", self._keep_in_sync())
        self._tasks.background("venue", self._link.trouble())
        self._pacing.start()
        if self._link.pace is not None:
            self._tasks.background("tape", self._stop_after_tape())

    async def _finish(self) -> None:
        """End the session in the fixed order of the module's docstring."""
        machine = self._running
        self._desk.closed = True
        self._pacing.hold()
        await self._tasks.idle()
        self._desk.expire_deferred()
        try:
            left = await self._execution.cancel_all()
            await self._pacing.settle_frames()
            await self._sync.compare(self._pay_out)
            if left:
                self._health.degraded("orders", f"{len(left)} orders still rest at the exchange")
        except INCONCLUSIVE_ERRORS as error:
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

    def _on_transition(self, change: Transition) -> None:
        self._journal.write("transition", change)

    def _on_task_error(self, name: str, error: Exception) -> None:
        """Stop cleanly after a part failed for good."""
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
        # The failure may be that of the journal itself; raised here, it would interrupt orders under way.
        with suppress(JournalError):
            self._journal.note("error", error=type(error).__name__, text=str(error))

    async def _stop_after_tape(self) -> None:
        await self._pacing.tape_ended()
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
            if self._execution.api_errors >= MAX_API_ERRORS:
                self._health.degraded("orders", f"{self._execution.api_errors} consecutive errors")
            else:
                self._health.healthy("orders")
            if machine.check_timeout() and machine.state == "SHUTDOWN":
                self._fail(SessionError(f"time limit exceeded: {machine.last_error}"))
            self._sample()
            write_status(self.run_dir / "status.json", self.snapshot())
            await self._wall.sleep(TICK_S)

    async def _keep_in_sync(self) -> None:
        """Fetch missed fills and pending settlements at intervals, whenever no order is in flight."""
        while True:
            await self._wall.sleep(self.settings.sync_interval_s)
            await self._execution.idle()
            try:
                await self._sync.fills()
                await self._pay_out()
            except INCONCLUSIVE_ERRORS as error:
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
        """Return the session at this moment; cheap enough for several calls a second."""
        if self._view is None:
            return empty_snapshot(
                run_id=self.run_id, venue=self.settings.venue, strategy=self.settings.strategy, state=self.state,
                stopped=self._stopped, finished=self._finished, started=self._started,
                elapsed=self._wall.monotonic() - self._began,
            )  # fmt: skip
        self._counts["frames"] = self._stream.frames_received
        return self._view.snapshot(stopped=self._stopped, finished=self._finished)

    def show(self) -> None:
        """Display the dashboard below the notebook cell; it follows the session until the end."""
        # notebook/ is above trade/ in the layers: only this call, made in a notebook, imports upwards.
        from kalshilab.notebook.session.dashboard import Dashboard

        Dashboard(self).show()

    def __repr__(self) -> str:
        return f"PaperSession({self.run_id}, {self.state})"
