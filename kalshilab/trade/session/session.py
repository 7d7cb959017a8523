"""The paper session: public trades in, paper orders out, and a complete record of the run.

Everything that decides is the `Trader` of `kalshilab.trade.core`; the `Driver` gives it frames, answers and time, and
carries out its commands.  This module opens the venue, the clients and the journal around them, and closes them again.

How a session ends: the tape is over, the minutes are up, the stop file appears, the stop button is pressed, or the kernel
is interrupted.  Each of these sets the reason once, and the trader closes: it places no new order, resolves those under
way, cancels what rests, compares its record with the exchange's account, and ends within 30 seconds even if the exchange does not
answer.  Then the report is written and the journal closed.  Only a second interrupt skips these steps.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from kalshilab.clock import Clock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import FeedLost, JournalError, KalshilabError, ProtocolError, SessionError
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.kalshi.stream.client import Stream
from kalshilab.market.model import Market
from kalshilab.trade.core.exposure import TraderRules
from kalshilab.trade.core.messages import Ended, Operate
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.live.control_file import ACTIONS, take_requests
from kalshilab.trade.live.driver import Driver, session_error
from kalshilab.trade.live.exchange_clock import ExchangeClock
from kalshilab.trade.live.lease import RunLock, lease_account
from kalshilab.trade.live.run_files import RunFiles
from kalshilab.trade.live.upcoming import UpcomingMarkets
from kalshilab.trade.live.venue_requests import VenueRequests, refuses_key
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session import trader_view as view
from kalshilab.trade.session.plans import Plan, identity_of, planned, planned_of_settings
from kalshilab.trade.session.provenance import changed, provenance_of
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.run_folder import Ending, name_run, resumable
from kalshilab.trade.status import Snapshot, empty_snapshot
from kalshilab.trade.tasks import Tasks
from kalshilab.trade.venues.venue import open_venue

__all__ = ["PaperSession", "Report"]

TICK_S: Final = 0.25
"""Wall seconds between ticks of the trader, and checks of the deadline, the stop file and requests by file."""
REOPEN_S: Final = 5.0
"""Wall seconds before a feed that spoke another protocol is opened again."""
REFUSALS: Final = 2
"""Refusals of the key in a row after which a session that never was connected gives up."""
END_WITHIN_S: Final = 30.0
"""Wall seconds after a stop within which the session ends."""


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
        strategies: strategies that trade side by side, as for `kl.backtest`; default: those of the settings.

    `PaperSession.resume` continues a run whose session was killed.

    Raises (from `async with`):
        CredentialsMissing, KeyUnusable, HostRefused: the venue cannot be used with these settings.
        TapeError: the embedded venue cannot play the tape.
        SessionError: another session writes to the run's folder.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        run_dir: Path | None = None,
        strategies: Plan | list[Plan] | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self._plans = (
            planned_of_settings(self.settings) if strategies is None else planned(strategies, self.settings)
        )
        self._identity = identity_of(self._plans)
        self._wall: Clock = WallClock()
        self._started = self._wall.now()
        self._began = self._wall.monotonic()
        self.run_id, self.run_dir = name_run(self.settings, run_dir, self._started)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._stopped = ""
        self._finished = False
        self._error: KalshilabError | None = None
        self._fatal: Exception | None = None
        self._stack = AsyncExitStack()
        self._health = Health(self._wall)
        self._files = RunFiles(self.run_dir, self.settings, self._health, self._wall)
        self._trader: Trader | None = None
        self._driver: Driver | None = None
        self._refusals = 0
        # A runner that names the run of a session names one that exists only to have it continued.
        self._resumed = run_dir is None and (self.run_dir / "journal.sqlite").is_file()

    @classmethod
    def resume(
        cls,
        run: str | Path,
        settings: Settings | None = None,
        *,
        strategies: Plan | list[Plan] | None = None,
    ) -> Self:
        """Return a session that continues a run: counts, account and profit are those of all its lives.

        Orders whose outcome the earlier session did not learn are looked up; the fills and settlements since are added.
        Signals start without prints.

        Args:
            run: the folder of the run, or its id in `settings.out`.
            settings: the settings; default: those of the environment.
            strategies: as for the constructor.

        Raises:
            SessionError: there is no such run, it has ended, or its exchange ended with the session.
            JournalError: its journal is damaged.
        """
        settings = settings or Settings()
        folder = resumable(run, settings)
        session = cls(settings, run_dir=folder, strategies=strategies)
        session._resumed = True
        return session

    # Life

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A session that was never run has ended as well, so that a watcher may stop.
        self._finished = True
        await self._stack.aclose()

    async def _open(self) -> None:
        if not self._resumed and (self.run_dir / "journal.sqlite").is_file():
            raise SessionError(
                f"{self.run_dir} must be a new folder, got the folder of a run; PaperSession.resume continues it"
            )
        self._stack.enter_context(RunLock(self.run_dir))
        self._stack.enter_context(self._files)
        link = self._link = await self._stack.enter_async_context(open_venue(self.settings, self._health))
        self._files.addresses = (link.settings.rest_url or "", link.settings.ws_url or "")
        self._clock = ExchangeClock(self._wall) if link.pace is None else link.clock
        self._journal = Journal.create(self.run_dir / "journal.sqlite", self._clock, self._wall)
        self._stack.callback(self._journal.close)
        earlier = self._earlier_provenance() if self._resumed else {}
        self._provenance = provenance_of(self.settings, self._plans)
        self._journal.note(
            "resume" if self._resumed else "start", run=self.run_id, venue=self.settings.venue, strategy=self._identity.names,
            why=self._identity.why, signal=self._identity.signals, provenance=self._provenance,
        )  # fmt: skip
        if earlier and (differences := changed(earlier, self._provenance)):
            self._health.log(f"changed since the run was started: {', '.join(differences)}")
        self._health.log(self._identity.why or f"strategy {self._identity.names}")
        self._data = await self._stack.enter_async_context(MarketData(link.settings))
        self._orders = await self._stack.enter_async_context(DemoOrders(link.settings))
        self._stream = Stream.of(link.settings, clock=self._wall)
        self._upcoming = UpcomingMarkets(
            self._data, self.settings, clock=self._clock, wall=self._wall, health=self._health
        )
        # On an embedded exchange, time passes as fast as the tape plays; ages in machine time mean nothing there.
        rules = TraderRules.of(self.settings, real_time=self.settings.venue != "embedded")
        trader = Trader(rules, self._plans, self.run_id)
        if self._resumed:
            trader.restore(self._journal)
            self._health.log(f"run {self.run_id} goes on")
        self._trader = trader
        lease = lease_account(self.settings, self.run_id, self._health.log)
        if lease is not None:
            self._stack.callback(lease.release)

    def _earlier_provenance(self) -> dict[str, Any]:
        notes = self._journal.values("note")
        return next(
            (n.get("provenance") or {} for n in reversed(notes) if n["what"] in ("start", "resume")), {}
        )

    def request_stop(self, reason: str) -> None:
        """Request a clean stop, from any thread or event loop; later requests have no effect.

        Args:
            reason: the reason, for the report.
        """
        self.operate("stop", reason)

    def operate(self, action: str, reason: str = "", *, strategy: str = "") -> None:
        """Pause, resume, flatten, stop or kill the session, from any thread or event loop.

        Args:
            action: as in `kalshilab.trade.core.messages.Operate`.
            reason: the reason, for the record.
            strategy: limits pause and resume to one strategy; default all.

        Raises:
            SessionError: the action is unknown.
        """
        if action not in ACTIONS:
            raise SessionError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        loop.call_soon_threadsafe(self._on_operate, Operate(action, reason, strategy))  # type: ignore[arg-type]

    def _on_operate(self, event: Operate) -> None:
        if event.action in ("stop", "kill"):
            self._set_stop(event.reason or event.action)
        elif self._driver is not None:
            self._driver.deliver(event)

    def _set_stop(self, reason: str) -> None:
        if not self._stopped:
            self._stopped = reason or "stop"
            self._health.log(f"stopping: {self._stopped}")
        self._stop.set()

    async def run(self) -> Report:
        """Trade until the session ends, then clean up and report.

        Raises:
            SessionError: the session has run before, or is not open, or the exchange refuses the key.
            JournalError: the record could not be written, for instance because the disk is full.
        """
        if self._trader is None or self._finished or self._driver is not None:
            raise SessionError("a PaperSession runs once, inside `async with`")
        async with asyncio.TaskGroup() as group:
            self._tasks = Tasks(group, self._on_task_error)
            self._wire(self._trader)
            await self._until(self._stop)
            await self._close()
        if self._fatal is not None:
            raise self._fatal
        return self.report

    async def _until(self, event: asyncio.Event) -> None:
        """Wait for an event; the first interrupt asks for a clean stop, and a second one is raised."""
        try:
            await event.wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._stop.is_set() or task is None:
                raise
            task.uncancel()
            self._set_stop("interrupted")

    def _wire(self, trader: Trader) -> None:
        """Start everything that needs the task group."""
        link = self._link
        driver = self._driver = Driver(
            trader, stream=self._stream, requests=VenueRequests(self._data, self._orders), journal=self._journal,
            clock=self._clock, wall=self._wall, tasks=self._tasks, health=self._health, frames=link.frames,
            book_timeout_s=self.settings.orderbook_timeout_s,
        )  # fmt: skip
        driver.on_disconnected, driver.on_error = self._on_disconnected, self._on_task_error
        driver.on_record = self._files.record
        driver.tick()
        self._tasks.background("feed", self._keep_feed(driver))
        self._tasks.background("housekeeping", self._keep_house(driver))
        self._tasks.background("venue", link.trouble())
        if self.settings.venue != "embedded" and self.settings.discovery:
            self._tasks.background("upcoming", self._upcoming.keep())
        if link.pace is not None:
            link.pace.behind = driver.is_behind
            self._tasks.background("tape", self._play(driver))

    # The end

    async def _close(self) -> None:
        """End the session: the trader closes, then the report is written."""
        driver, trader = self._driver, self._trader
        assert driver is not None and trader is not None
        if self._link.pace is not None:
            self._link.pace.hold()
        if self._fatal is None:
            await self._close_trader(driver)
        await self._tasks.stop_background()
        await self._tasks.cancel_work()
        self._finished = True
        self._error = self._error or _shortcoming(trader)
        try:
            if trader.opened or self._fatal is None:
                self._write_report(trader)
            self._files.write(self.snapshot())
        except (JournalError, OSError) as error:
            failure = error if isinstance(error, JournalError) else JournalError(f"{self.run_dir}: {error}")
            self._fatal = self._fatal or driver.journal_error or failure
        if driver.journal_error is not None:
            self._fatal = self._fatal or driver.journal_error

    async def _close_trader(self, driver: Driver) -> None:
        """Let the trader close; if it cannot, cancel the run's resting orders directly."""
        try:
            driver.deliver(Operate("stop", self._stopped))
            async with asyncio.timeout(END_WITHIN_S):
                await driver.finished.wait()
        except Exception as error:  # noqa: BLE001 - after any failure, no order may be left resting
            self._fail(session_error("closing", error))
            await self._cancel_own()

    async def _cancel_own(self) -> None:
        """Cancel the resting orders of this run without the trader."""
        assert self._trader is not None
        with suppress(*INCONCLUSIVE_ERRORS, TimeoutError):
            async with asyncio.timeout(END_WITHIN_S):
                for order in await self._orders.list(status="resting"):
                    if order.client_order_id.startswith(self._trader.prefix):
                        await self._orders.cancel(order.order_id, ticker=order.ticker)

    def _write_report(self, trader: Trader) -> None:
        if self._error is not None:
            with suppress(JournalError):
                self._journal.note("error", error=type(self._error).__name__, text=str(self._error))
        self.report = Report.build(
            self._journal,
            run_id=self.run_id,
            state=trader.state,
            stopped=self._stopped,
            counts=view.final_counts(trader),
            positions=view.position_rows(trader),
            equity=trader.equity,
            markets=self._markets(trader),
            columns=view.signal_columns(trader),
            error=self._error,
            provenance=self._provenance,
        )
        self.report.save()

    def _markets(self, trader: Trader) -> list[Market]:
        """Return the markets that the run followed, also those that the trader has forgotten since they ended."""
        known = {market.ticker: market for market in view.followed_markets(trader)}
        recorded = {market.ticker: market for market in self._journal.values("market")}
        return [*known.values(), *(m for ticker, m in recorded.items() if trader.markets.get(ticker) is None)]

    # Errors

    def _on_task_error(self, name: str, error: Exception) -> None:
        """Stop cleanly after a part failed for good."""
        self._fail(session_error(name, error))

    def _fail(self, error: KalshilabError) -> None:
        if self._error is None:
            self._error = error
        self._set_stop(f"{type(error).__name__}: {error}")

    def _give_up(self, error: KalshilabError) -> None:
        """End a session that could not start; nothing was traded, so there is no report."""
        self._fatal = self._fatal or error
        with suppress(JournalError):
            self._journal.note("error", error=type(error).__name__, text=str(error))
        self._set_stop(f"could not start: {error}")

    def _on_disconnected(self) -> None:
        assert self._driver is not None
        if not self._driver.connected.is_set():
            self._tasks.background("account", self._check_key())

    async def _check_key(self) -> None:
        """Find out whether the exchange refuses the key; the page of a proxy does not count."""
        error = await refuses_key(self._orders)
        self._refusals = self._refusals + 1 if error is not None else 0
        if error is not None and self._refusals >= REFUSALS:
            self._give_up(
                SessionError(f"the exchange refuses the key ({error}); check it with: kalshilab doctor")
            )

    # Background

    async def _keep_feed(self, driver: Driver) -> None:
        """Read the feed for ever; an exchange that speaks another protocol for a while is waited out."""
        while True:
            try:
                await self._stream.run(driver.on_event)
            except ProtocolError as error:
                driver.feed_failed(str(error))
                await self._wall.sleep(REOPEN_S)
            except FeedLost as error:
                driver.feed_failed(str(error))
                raise

    async def _play(self, driver: Driver) -> None:
        """Let a local exchange play its tape, once the session is ready, until its end."""
        assert self._link.pace is not None and self._link.finished is not None and self._trader is not None
        while not self._trader.states.may_trade or driver.is_behind():
            await self._wall.sleep(0.01)
        self._link.pace.open()
        await self._link.finished.wait()
        while driver.is_behind():
            await self._wall.sleep(0.01)
        driver.deliver(Ended())
        self._set_stop("tape ended")

    async def _keep_house(self, driver: Driver) -> None:
        ending = Ending(self.settings, self._wall, self._began)
        while True:
            driver.tick()
            for request in take_requests(self.run_dir, self._health.log):
                self._on_operate(request)
            reason = ending.due() or driver.trader.stopped
            if reason and not self._stopped:
                self._on_end_due(driver, reason)
            self._files.keep(self.snapshot)
            await self._wall.sleep(TICK_S)

    def _on_end_due(self, driver: Driver, reason: str) -> None:
        if driver.journal_error is None and driver.trader.stopped:
            # The trader ended by itself: an outage or a fault lasted too long.
            self._fail(SessionError(reason))
        self._set_stop(reason)

    # Views

    @property
    def state(self) -> str:
        """The session's state."""
        return "STARTUP" if self._trader is None else self._trader.state

    def snapshot(self) -> Snapshot:
        """Return the session at this moment; cheap enough for several calls a second."""
        elapsed = self._wall.monotonic() - self._began
        if self._trader is None:
            return empty_snapshot(
                run_id=self.run_id, venue=self.settings.venue, strategy=self._identity.names, state=self.state,
                stopped=self._stopped, finished=self._finished, started=self._started, elapsed=elapsed,
            )  # fmt: skip
        return view.snapshot_of(
            self._trader,
            venue=self.settings.venue,
            note=self._identity.why,
            prints=self._link.prints,
            started=self._started,
            elapsed=elapsed,
            now=self._clock.now(),
            wall_offset=self._wall.now() - round(self._wall.monotonic() * 1e6),
            stopped=self._stopped,
            finished=self._finished,
            frames=self._stream.frames_received,
            health=self._health.parts,
            messages=self._health.messages,
            error="" if (error := self._error or self._fatal) is None else f"{type(error).__name__}: {error}",
            frame_age_s=(self._wall.now() - last) / 1e6 if (last := self._stream.last_frame) else None,
            upcoming=self._upcoming.rows(),
        )

    def show(self) -> None:
        """Display the dashboard below the notebook cell; it follows the session until the end."""
        # notebook/ is above trade/ in the layers: only this call, made in a notebook, imports upwards.
        from kalshilab.notebook.session.dashboard import Dashboard

        Dashboard(self).show()

    def __repr__(self) -> str:
        return f"PaperSession({self.run_id}, {self.state})"


def _shortcoming(trader: Trader) -> SessionError | None:
    """Return what a session that has ended without an error lacks, or None."""
    if trader.opened and trader.finished is not None and not trader.compared_at_end:
        state = trader.health.parts.get("account", "healthy")
        reason = "no reading was complete in time" if state == "healthy" else state
        return SessionError(f"the account could not be compared at the end: {reason}")
    broken = next((run for run in trader.strategies if run.failed), None)
    return None if broken is None else SessionError(f"strategy {broken.name}: {broken.failed}")
