"""A session at one moment: `Snapshot` for panels, `status.json` for other processes.

A snapshot is built on request and holds only values, so a panel can draw it at its own pace without delaying a feed.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from kalshilab.errors import SessionError
from kalshilab.market.model import Order, Settlement, Trade
from kalshilab.trade.events import Decision, Transition

__all__ = [
    "COUNTS",
    "MarketRow",
    "PositionRow",
    "RunStatus",
    "Snapshot",
    "Status",
    "UpcomingRow",
    "close_status",
    "empty_snapshot",
    "read_status",
    "write_status",
]

COUNTS = (
    "trades",
    "filtered",
    "tracked",
    "signals",
    "orders",
    "rejected",
    "fills",
    "settlements",
    "skipped",
    "rate_limited",
    "low_cash",
    "reentries",
    "reconnects",
    "gaps",
    "frames",
)
"""The names of a session's counters."""


class PositionRow(msgspec.Struct, frozen=True):
    """One open position: `size` without sign, in size units; money in money units; `value` at the bid of the outcome."""

    ticker: str
    outcome: str
    size: int
    cost: int
    value: int
    pnl: int
    close_ts: int


class MarketRow(msgspec.Struct, frozen=True):
    """One tracked market and the progress of its signal: prints, and for RLM the YES share and the drop (price units)."""

    ticker: str
    category: str
    status: str
    price: int
    n_trades: int
    yes_ratio: float | None
    drop: int | None


class UpcomingRow(msgspec.Struct, frozen=True):
    """One market that is listed and not open yet; `open_ts` in microseconds of exchange time, `opens_in_s` seconds."""

    ticker: str
    title: str
    category: str
    open_ts: int
    opens_in_s: float


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A session at one moment, in integer units: prices, sizes and money as inside the package.

    `now` is exchange time and `started` machine time, both in microseconds; `elapsed` is wall seconds.  `progress` is the
    fraction of the tape that has been played, or `None`.  `note` is the reason for which the strategy places no orders, or "".
    `strategies` holds "on", "paused" or "failed: " and the error, by name; `paused` is the reason for which no strategy
    places orders, or "".  `order_age_s` is the age of the oldest open order and `frame_age_s` that of the feed's last frame,
    in seconds, or `None`.  `error` is the error that ended the run, or "".
    """

    run_id: str
    venue: str
    strategy: str
    state: str
    stopped: str
    finished: bool
    now: int
    started: int
    elapsed: float
    counts: dict[str, int]
    progress: float | None
    cash: int
    portfolio_value: int
    pnl: int
    fees: int
    positions: list[PositionRow]
    open_orders: list[Order]
    trades: list[Trade]
    decisions: list[Decision]
    settlements: list[Settlement]
    transitions: list[Transition]
    markets: list[MarketRow]
    health: dict[str, str]
    messages: list[tuple[int, str]]
    note: str = ""
    strategies: dict[str, str] = {}
    paused: str = ""
    error: str = ""
    upcoming: list[UpcomingRow] = []
    active_markets: int = 0
    order_age_s: float | None = None
    frame_age_s: float | None = None
    snapshots: int = 0
    deltas: int = 0


def empty_snapshot(
    *,
    run_id: str,
    venue: str,
    strategy: str,
    state: str,
    stopped: str,
    finished: bool,
    started: int,
    elapsed: float,
) -> Snapshot:
    """Return the snapshot of a session whose parts do not exist yet; `started` in microseconds, `elapsed` in seconds."""
    return Snapshot(
        run_id=run_id, venue=venue, strategy=strategy, state=state, stopped=stopped, finished=finished, now=0,
        started=started, elapsed=elapsed, counts=dict.fromkeys(COUNTS, 0), progress=None, cash=0,
        portfolio_value=0, pnl=0, fees=0, positions=[], open_orders=[], trades=[], decisions=[],
        settlements=[], transitions=[], markets=[], health={}, messages=[],
    )  # fmt: skip


class RunStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `status.json`: `now` in microseconds, `elapsed` in wall seconds, money in whole cents.

    The fields with a default are missing in files of version 0.1.  `heartbeat` is the machine time of the writing in
    microseconds, and `interval_s` the seconds until the next one is due; the others are as in `Snapshot`.
    """

    run_id: str
    venue: str
    strategy: str
    state: str
    stopped: str
    finished: bool
    now: int
    elapsed: float
    progress: float | None
    counts: dict[str, int]
    cash_cents: int
    pnl_cents: int
    open_orders: int
    open_positions: int
    health: dict[str, str]
    note: str = ""
    heartbeat: int = 0
    interval_s: float = 0.5
    strategies: dict[str, str] = {}
    paused: str = ""
    error: str = ""
    upcoming: list[UpcomingRow] = []
    active_markets: int = 0
    order_age_s: float | None = None
    frame_age_s: float | None = None
    snapshots: int = 0
    deltas: int = 0
    api_url: str = ""
    ws_url: str = ""

    @property
    def unhealthy(self) -> dict[str, str]:
        """The parts that are not healthy, with their reasons."""
        return {part: text for part, text in self.health.items() if text != "healthy"}

    @property
    def healthy(self) -> bool:
        """Whether the session trades, or has ended without an error, and every part is healthy."""
        return self.state != "ERROR" and not self.error and not self.unhealthy


Status = RunStatus
"""The former name of `RunStatus`."""


def write_status(
    path: Path,
    shot: Snapshot,
    *,
    heartbeat: int = 0,
    interval_s: float = 0.5,
    api_url: str = "",
    ws_url: str = "",
) -> None:
    """Replace the status file atomically: a reader sees the old or the new one, never a mix.

    Args:
        path: the status file.
        shot: the session.
        heartbeat: machine time in microseconds.
        interval_s: seconds until the next writing is due.
        api_url: address of REST.
        ws_url: address of the WebSocket.
    """
    status = RunStatus(
        run_id=shot.run_id,
        venue=shot.venue,
        strategy=shot.strategy,
        state=shot.state,
        stopped=shot.stopped,
        finished=shot.finished,
        now=shot.now,
        elapsed=shot.elapsed,
        progress=shot.progress,
        counts=shot.counts,
        cash_cents=shot.cash // 10_000,
        pnl_cents=round(shot.pnl / 10_000),
        open_orders=len(shot.open_orders),
        open_positions=len(shot.positions),
        health=shot.health,
        note=shot.note,
        heartbeat=heartbeat,
        interval_s=interval_s,
        strategies=shot.strategies,
        paused=shot.paused,
        error=shot.error,
        upcoming=shot.upcoming,
        active_markets=shot.active_markets,
        order_age_s=shot.order_age_s,
        frame_age_s=shot.frame_age_s,
        snapshots=shot.snapshots,
        deltas=shot.deltas,
        api_url=api_url,
        ws_url=ws_url,
    )
    _replace_file(path, status)


def close_status(
    path: Path, run_id: str, venue: str, strategy: str, stopped: str, *, error: str = ""
) -> None:
    """Record the reason for the end of a run whose session could not: it was killed, or it never started.

    Args:
        path: the status file.
        run_id: the name of the run.
        venue: the name of the venue, if there is no status yet.
        strategy: the name of the strategy, if there is no status yet.
        stopped: the reason for the end, if the session gave none.
        error: the error that ended the run, or "".
    """
    status = read_status(path)
    if status is None:
        status = RunStatus(
            run_id=run_id, venue=venue, strategy=strategy, state="STARTUP", stopped="", finished=False, now=0,
            elapsed=0.0, progress=None, counts=dict.fromkeys(COUNTS, 0), cash_cents=0, pnl_cents=0, open_orders=0,
            open_positions=0, health={},
        )  # fmt: skip
    if not status.finished:
        _replace_file(
            path,
            msgspec.structs.replace(
                status, finished=True, stopped=status.stopped or stopped, error=status.error or error
            ),
        )


def _replace_file(path: Path, status: RunStatus) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(msgspec.json.encode(status))
    # os.replace is atomic on one file system, which a sibling always is.
    os.replace(scratch, path)  # noqa: PTH105


def read_status(path: Path) -> RunStatus | None:
    """Return the latest status of a run, or `None` before the first.

    Args:
        path: the status file.

    Raises:
        SessionError: the file is not a status file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunStatus)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise SessionError(f"{path}: not a status file ({error})") from None
