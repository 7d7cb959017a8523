"""The report card of a validation: an immutable record of what was judged, how, and what came out.

`kalshilab.validate` makes it.  Everything drawn or printed is computed before: a card holds frames, and its
figures only show them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import polars as pl

from kalshilab.edge.live.monitor import LiveState, monitor
from kalshilab.edge.report.criteria import verdict_live
from kalshilab.edge.schema import Criterion
from kalshilab.errors import EdgeError

__all__ = ["FIGURES", "Card"]

FIGURES: Final = (
    "waterfall",
    "equity",
    "calibration",
    "buckets",
    "heatmap",
    "latency",
    "categories",
    "concentration",
    "live",
    "markouts",
)
"""Figures that a card may have; those whose frame is missing were not measured."""


_BESIDE: Final = ("as_of_fire", "deflated_sharpe", "look_ahead_gap", "look_ahead_gap_se", "net_marked")
"""Numbers of the waterfall and of checks: on the card, and no part of what is recorded of it."""


class Card(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What `kalshilab.validate` found.  Edges are cents a contract.

    Cards are equal if their JSON and their entries are.
    """

    name: str
    """The signal and its parameters."""
    verdict: str
    """One of `kalshilab.edge.report.criteria.LABELS`."""
    header: str
    """The verdict in one sentence."""
    criteria: tuple[Criterion, ...]
    """The lines in order; the first that fails gives the verdict."""
    claim: float | None
    """The edge that was claimed for it."""
    numbers: dict[str, Any]
    """What was measured, by name."""
    spec: dict[str, Any]
    """What was judged: signal, parameters, entry rule, costs, and the hashes of code and specification."""
    data: dict[str, Any]
    """On what: hash, rows, markets and span of the tape."""
    seed: int
    version: str
    """Of kalshilab."""
    frames: dict[str, pl.DataFrame]
    """The frames behind the figures, `entries` (what was judged) and `pool` (what it was compared with)."""
    grid: tuple[str, ...] = ()
    """The parameters that vary in `frames["heatmap"]`."""
    trials_from: str = ""
    """Where the number of trials comes from: this process's registry, a registry file, or `trials=`."""

    @property
    def waterfall(self) -> pl.DataFrame:
        """From the claim to what is left, step by step: `step, edge, lower, upper, n, note`."""
        return self.frames["waterfall"]

    @property
    def entries(self) -> pl.DataFrame:
        """The entries that were judged (`kalshilab.edge.ENTRIES_SCHEMA`)."""
        return self.frames["entries"]

    def figure(self, name: str = "waterfall") -> Any:
        """One of `FIGURES`, as a `plotly.graph_objects.Figure`.

        Raises:
            EdgeError: no such figure, or one that was not measured for this card.
        """
        if name not in FIGURES:
            raise EdgeError(f"{name!r} is no figure of a card: {', '.join(FIGURES)}")
        if name not in self.frames:
            have = ", ".join(f for f in FIGURES if f in self.frames)
            raise EdgeError(f"{name}: not measured for this card, which has {have}")
        # Late: research without drawing needs no plotly.
        import kalshilab.notebook.research.figures as edge_plots

        frame = self.frames[name]
        if name == "live":
            return edge_plots.live(frame, (self.numbers["lower"], self.numbers["upper"]))[0]
        return getattr(edge_plots, name)(frame)[0]

    def with_live(self, entries: pl.DataFrame | LiveState, **how: Any) -> Card:
        """The card with line 13: what paper trades say of what was validated.

        They are held against the lower end of the validated interval.  Trades that refute the edge, or that show
        its decay, are the verdict of a card that stood at VALID or PROVISIONAL; trades that confirm it are that of a
        VALID one, and change no other: what was not shown then is not shown by them alone.

        Args:
            entries: of paper trades (`kl.paper_entries`), all of them from the first day on; or what
                `kalshilab.edge.monitor` said of them.
            how: of `kalshilab.edge.monitor`: horizon, streams, as_of, …

        >>> import kalshilab as kl
        >>> from kalshilab.edge import simulated_entries
        >>> card = kl.validate(kl.signals.Rlm(min_trades=15), *kl.sample())
        >>> paper, _ = simulated_entries.entries(2_000, edge=8.0, hold=0.3, days=700, seed=2)
        >>> after = card.with_live(paper)
        >>> card.verdict, after.verdict, after.criterion(13).label
        ('INSUFFICIENT', 'INSUFFICIENT', 'LIVE_CONFIRMED')

        Raises:
            EdgeError: nothing was validated that could be held against them; these are no entries.
        """
        lower = self.numbers.get("lower")
        if lower is None:
            raise EdgeError(f"{self.name}: {self.verdict}, and no interval to hold live trades against")
        state = entries if isinstance(entries, LiveState) else monitor(entries, lower, **how)
        lines = (*(line for line in self.criteria if line.number != 13), state.criterion())
        verdict = verdict_live(lines)
        return msgspec.structs.replace(
            self,
            criteria=lines,
            verdict=verdict,
            header=f"{self.header.removesuffix('.')}; live: {state.state}, {state.reason.removesuffix('.')}.",
            numbers=self.numbers | {"live": state.state, "live_edge": state.edge, "live_n": state.n},
            frames=self.frames | {"live": state.frame},
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Card):
            return NotImplemented
        return self.to_json() == other.to_json() and self.entries.equals(other.entries)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def criterion(self, number: int) -> Criterion:
        """The line with a number.

        Raises:
            EdgeError: the card has no such line.
        """
        for line in self.criteria:
            if line.number == number:
                return line
        more = "; line 13 comes of with_live" if number == 13 else ""
        raise EdgeError(f"{self.name}: no line {number} among {len(self.criteria)}{more}")

    def summary(self) -> dict[str, Any]:
        """The numbers that a notebook records: verdict, first failing line, edges in cents rounded to a
        thousandth, counts.
        """
        failed = next((c for c in self.criteria if c.passed is False), None)
        kept = {
            "verdict": self.verdict,
            "failed": None if failed is None else f"{failed.number} {failed.name}",
            "claim": self.claim,
            **self.numbers,
        }
        return {key: _plain(value, 3) for key, value in kept.items() if key not in _BESIDE}

    def to_json(self) -> str:
        """The card without its long frames, as indented JSON with sorted keys: the same card, the same text."""
        short = (
            "waterfall",
            "buckets",
            "calibration",
            "latency",
            "heatmap",
            "categories",
            "blocks",
            "placebos",
        )
        whole = {
            "name": self.name,
            "verdict": self.verdict,
            "header": self.header,
            "claim": self.claim,
            "criteria": [msgspec.to_builtins(line) for line in self.criteria],
            "numbers": self.numbers,
            "spec": self.spec,
            "data": self.data,
            "seed": self.seed,
            "trials_from": self.trials_from,
            "version": self.version,
            "frames": {name: self.frames[name].to_dicts() for name in short if name in self.frames},
        }
        return json.dumps(_plain(whole, 6), indent=1, sort_keys=True, ensure_ascii=False)

    def save(self, folder: str | Path) -> Path:
        """Write the card as JSON into a folder; the file is named by the specification and the data."""
        path = Path(folder, f"{self.spec['signal']}-{self.spec['hash'][:8]}-{self.data['hash'][:8]}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json() + "\n", encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"<Card {self.verdict}: {self.header}>"

    def _repr_html_(self) -> str:
        # Late, as for figures.
        from kalshilab.notebook.research.card_html import card_html

        return card_html(self)


def _plain(value: Any, digits: int) -> Any:
    """A value as JSON has it; floats rounded, what is no number null."""
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, digits) for v in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value
