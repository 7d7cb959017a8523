"""Metrics of a session in the text format of Prometheus: a file that a collector reads, such as that of node_exporter.

Every metric has the labels `run` and `venue`.  Counters end in `_total`; amounts are dollars and durations seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

from kalshilab.fs import TEMPORARY
from kalshilab.trade.status import Snapshot

__all__ = ["METRICS_FILE", "metrics_text", "write_metrics"]

METRICS_FILE: Final = "metrics.prom"
MONEY: Final = 1_000_000
"""Money units in a dollar."""

Sample: TypeAlias = tuple[str, str, str, dict[str, str], float]
"""Name, type, help, labels beside those of every metric, and value."""


def metrics_text(shot: Snapshot) -> str:
    """Return a session at one moment in the text format of Prometheus.

    >>> from kalshilab.trade.status import empty_snapshot
    >>> shot = empty_snapshot(run_id="r", venue="demo", strategy="hold", state="READY", stopped="", finished=False,
    ...                       started=0, elapsed=1.5)
    >>> for line in metrics_text(shot).splitlines()[:3]: print(line)
    # HELP kalshilab_session The session; the state is a label.
    # TYPE kalshilab_session gauge
    kalshilab_session{run="r",venue="demo",state="READY",strategy="hold"} 1
    """
    lines: list[str] = []
    described = ""
    common = {"run": shot.run_id, "venue": shot.venue}
    for name, kind, text, labels, value in _samples(shot):
        if name != described:
            lines += [f"# HELP kalshilab_{name} {text}", f"# TYPE kalshilab_{name} {kind}"]
            described = name
        shown = ",".join(f'{key}="{_escaped(label)}"' for key, label in (common | labels).items())
        lines.append(f"kalshilab_{name}{{{shown}}} {value:.15g}")
    return "\n".join(lines) + "\n"


def _samples(shot: Snapshot) -> Iterator[Sample]:
    """Yield the samples of a session; those of one metric follow each other."""
    facts = {"state": shot.state, "strategy": shot.strategy}
    yield "session", "gauge", "The session; the state is a label.", facts, 1
    for name, value in (
        ("finished", shot.finished),
        ("failed", bool(shot.error)),
        ("paused", bool(shot.paused)),
    ):
        yield name, "gauge", f"Whether the session is {name}.", {}, value
    for name, count in sorted(shot.counts.items()):
        yield f"{name}_total", "counter", f"Number of {name.replace('_', ' ')}.", {}, count
    amounts = {"cash": shot.cash, "positions": shot.portfolio_value, "profit": shot.pnl, "fees": shot.fees}
    for name, amount in amounts.items():
        yield f"{name}_dollars", "gauge", f"Dollars of {name}.", {}, amount / MONEY
    numbers = {
        "open_orders": len(shot.open_orders),
        "open_positions": len(shot.positions),
        "active_markets": shot.active_markets,
        "upcoming_markets": len(shot.upcoming),
    }
    for name, number in numbers.items():
        yield name, "gauge", f"Number of {name.replace('_', ' ')}.", {}, number
    yield "elapsed_seconds", "gauge", "Seconds since the start of the session.", {}, shot.elapsed
    for name, age_s in (("oldest_order", shot.order_age_s), ("last_frame", shot.frame_age_s)):
        if age_s is not None:
            yield f"{name}_age_seconds", "gauge", f"Age of the {name.replace('_', ' ')}.", {}, age_s
    if shot.progress is not None:
        yield "progress_ratio", "gauge", "Share of the tape that has been played.", {}, shot.progress
    for part, text in sorted(shot.health.items()):
        yield (
            "part_healthy",
            "gauge",
            "Whether a part of the session is healthy.",
            {"part": part},
            text == "healthy",
        )
    for name, text in shot.strategies.items():
        yield "strategy_on", "gauge", "Whether a strategy may place orders.", {"strategy": name}, text == "on"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def write_metrics(run_dir: Path, shot: Snapshot) -> None:
    """Replace the metrics file of a run atomically: a collector reads the old or the new one, never a mix.

    Raises:
        OSError: the file cannot be written.
    """
    path = run_dir / METRICS_FILE
    temporary = path.with_name(path.name + TEMPORARY)
    temporary.write_text(metrics_text(shot), encoding="utf-8")
    # os.replace is atomic on one file system, which a sibling always is.
    os.replace(temporary, path)  # noqa: PTH105
