"""The command `status`: the state of a run once, for people, scripts and monitors."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalshilab.cli.terminal.options import Subparsers
from kalshilab.cli.terminal.progress import relative_path
from kalshilab.clock import WallClock, isoformat
from kalshilab.config.settings import Settings
from kalshilab.units import show_dollars

if TYPE_CHECKING:
    from kalshilab.trade.live.lease import Holder
    from kalshilab.trade.session.run_folder import RunLife
    from kalshilab.trade.status import RunStatus

__all__ = ["add_parser", "payload"]


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "status",
        help="show the state of a run once; exit code 1 if it is unhealthy",
        description="Print the state of a run. Returns 1 if its session is in ERROR, is silent or dead, has lost a part "
        "without which it cannot trade, or has ended with an error.",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="?", default="latest", help='the run\'s folder, its name, or "latest" (default)'
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the state; return 1 if the run is unhealthy."""
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.live.lease import holder_of_run
    from kalshilab.trade.session.run_folder import find_run, life_of_run
    from kalshilab.trade.status import read_status

    folder, now = find_run(options.run, Path(Settings().out)), WallClock().now()
    status = read_status(folder / "status.json")
    life = life_of_run(folder, status, now)
    facts = payload(folder, status, life, holder_of_run(folder), now)
    print(json.dumps(facts) if options.json else "\n".join(_lines(facts)))
    return 0 if facts["healthy"] else 1


def payload(
    folder: Path, status: RunStatus | None, life: RunLife, holder: Holder | None, now: int
) -> dict[str, Any]:
    """Return the state of a run as a JSON object: money in whole cents, durations in seconds, instants in ISO 8601.

    `status` is "healthy"; "degraded" if a part is, without which a session can trade; "starting", "ended"; or a reason
    for which `healthy` is false: "unhealthy", "error", "silent" or "dead".

    Args:
        folder: the folder of the run.
        status: its latest status, or None before the first.
        life: the state of its session.
        holder: its process, if there is one.
        now: machine time in microseconds.
    """
    facts: dict[str, Any] = {
        "run_id": folder.name,
        "run_dir": str(folder.resolve()),
        "running": life in ("starting", "running"),
        "life": life,
        "pid": None if holder is None else holder.pid,
        "host": None if holder is None else holder.host,
    }
    if status is None:
        return facts | {"healthy": life != "dead", "status": life, "state": "STARTUP", "uptime": 0.0}
    age_s = round((now - status.heartbeat) / 1e6, 3) if status.heartbeat else None
    word = _word(status, life, age_s)
    counts = status.counts
    return facts | {
        "healthy": word in ("healthy", "degraded", "starting", "ended"),
        "status": word,
        "state": status.state,
        "uptime": round(status.elapsed, 3),
        "environment": status.venue,
        "markets": counts.get("tracked", 0),
        "components": {
            part: {"healthy": text == "healthy", "detail": text} for part, text in status.health.items()
        },
        "metrics": {
            "uptime": round(status.elapsed, 3),
            "state": status.state,
            "markets_connected": status.active_markets,
            "snapshots_received": status.snapshots,
            "deltas_received": status.deltas,
            "frames_received": counts.get("frames", 0),
            "api_url": status.api_url,
            "ws_url": status.ws_url,
            "heartbeat_age": age_s,
            "frame_age": status.frame_age_s,
            "oldest_order_age": status.order_age_s,
        },
        "trading_mode": "paper",
        "trading_strategy": status.strategy,
        "strategies": status.strategies,
        "paused": status.paused,
        "note": status.note,
        "stopped": status.stopped,
        "error": status.error,
        "heartbeat": isoformat(status.heartbeat) if status.heartbeat else None,
        "exchange_time": isoformat(status.now) if status.now else None,
        "progress": status.progress,
        "counts": counts,
        "cash_cents": status.cash_cents,
        "pnl_cents": status.pnl_cents,
        "open_orders": status.open_orders,
        "open_positions": status.open_positions,
        "upcoming": [
            {"ticker": row.ticker, "title": row.title, "category": row.category, "open_time": isoformat(row.open_ts),
             "countdown_seconds": round(row.opens_in_s)}
            for row in status.upcoming
        ],
    }  # fmt: skip


def _word(status: RunStatus, life: RunLife, age_s: float | None) -> str:
    """Return the state of a run in one word."""
    from kalshilab.trade.core.states import CRITICAL
    from kalshilab.trade.session.run_folder import SILENT_S

    if life == "dead":
        return "dead"
    if status.error:
        return "error"
    if life == "ended":
        return "ended"
    if age_s is not None and age_s > max(SILENT_S, 3 * status.interval_s):
        return "silent"
    if status.state == "ERROR" or not status.unhealthy.keys().isdisjoint(CRITICAL):
        return "unhealthy"
    return "degraded" if status.unhealthy else "healthy"


def _lines(facts: dict[str, Any]) -> list[str]:
    """Return the state as lines for people."""
    process = "" if facts["pid"] is None else f", process {facts['pid']} on {facts['host']}"
    lines = [f"{relative_path(Path(facts['run_dir']))}: {facts['status']}{process}"]
    if "counts" not in facts:
        return [*lines, "  no status yet"]
    counts, metrics = facts["counts"], facts["metrics"]
    age = metrics["heartbeat_age"]
    lines += [
        f"  {facts['state']} on {facts['environment']} after {facts['uptime']:.0f} s"
        + ("" if age is None else f", status {age:.1f} s old"),
        f"  {metrics['markets_connected']} markets, {counts.get('trades', 0):,} trades, {counts.get('signals', 0)} signals, "
        f"{counts.get('orders', 0)} orders, {counts.get('fills', 0)} fills",
        f"  cash {show_dollars(facts['cash_cents'] * 10_000)}, P&L {show_dollars(facts['pnl_cents'] * 10_000)}, "
        f"{facts['open_orders']} open orders, {facts['open_positions']} positions",
    ]
    lines += [f"  strategy {name}: {text}" for name, text in facts["strategies"].items()]
    lines += [f"  {name}: {facts[name]}" for name in ("paused", "note", "error", "stopped") if facts[name]]
    lines += [
        f"  {part}: {fact['detail']}" for part, fact in facts["components"].items() if not fact["healthy"]
    ]
    lines += [f"  {row['ticker']} opens in {row['countdown_seconds']:,} s" for row in facts["upcoming"]]
    return lines
