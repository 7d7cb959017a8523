"""The report card of a validation: an immutable record of the hypothesis, the data, the criteria and the verdict.

`kalshilab.validate` returns it. A card holds computed numbers and frames; its figures and its HTML only display them.
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
from kalshilab.edge.lookahead.strategy import identity_of
from kalshilab.edge.report.confirmation import DataIdentity
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
"""Figures that a card may have; a figure whose frame is missing was not measured."""


_UNRECORDED: Final = ("as_of_fire", "deflated_sharpe", "look_ahead_gap", "look_ahead_gap_se", "net_marked")
"""Numbers of the waterfall and of checks: they are on the card, but not in its summary."""


class Card(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Report card of `kalshilab.validate`. Edges are in cents per contract.

    Cards are equal if their JSON and their entries are equal.
    """

    name: str
    """Name and parameters of the signal."""
    verdict: str
    """Verdict: one of `kalshilab.edge.report.criteria.LABELS`, or with line 13 a label of live trading."""
    header: str
    """The verdict in one sentence."""
    criteria: tuple[Criterion, ...]
    """Lines in order; the first that fails gives the verdict."""
    claim: float | None
    """Claimed edge; None without a claim."""
    numbers: dict[str, Any]
    """Measured numbers by name."""
    spec: dict[str, Any]
    """Signal, parameters, entry rule and costs, with the hashes of code and specification."""
    data: DataIdentity
    """Hash, rows, markets and span of the data."""
    seed: int
    """Seed of everything random."""
    version: str
    """Version of kalshilab."""
    frames: dict[str, pl.DataFrame]
    """Frames of the figures, `entries` (those judged) and `pool` (those they were compared with)."""
    grid: tuple[str, ...] = ()
    """Parameters that vary in `frames["heatmap"]`."""
    trials_from: str = ""
    """Source of the number of trials: this process's registry, a registry file, or `trials=`."""

    @property
    def waterfall(self) -> pl.DataFrame:
        """Steps from the claim to the audited edge: `step, edge, lower, upper, n, note`."""
        return self.frames["waterfall"]

    @property
    def entries(self) -> pl.DataFrame:
        """Entries that were judged (`kalshilab.edge.ENTRIES_SCHEMA`)."""
        return self.frames["entries"]

    def figure(self, name: str = "waterfall") -> Any:
        """Return one of `FIGURES` as a `plotly.graph_objects.Figure`.

        Raises:
            EdgeError: the figure is unknown, or was not measured for this card.
        """
        if name not in FIGURES:
            raise EdgeError(f"unknown figure {name!r}; choose from {', '.join(FIGURES)}")
        if name not in self.frames:
            measured = ", ".join(f for f in FIGURES if f in self.frames)
            raise EdgeError(f"figure {name!r} was not measured for this card; choose from {measured}")
        # Imported here, since research without figures does not need plotly.
        import kalshilab.notebook.research.figures as edge_plots

        frame = self.frames[name]
        if name == "live":
            return edge_plots.live(frame, (self.numbers["lower"], self.numbers["upper"]))[0]
        return getattr(edge_plots, name)(frame)[0]

    def with_live(self, entries: pl.DataFrame | LiveState, **how: Any) -> Card:
        """Return the card with line 13, which compares paper trades with the validated edge.

        The paper trades are compared with the lower end of the validated interval. If they refute the edge, or show
        that it decays, this becomes the verdict of a VALID or PROVISIONAL card. If they confirm the edge, this becomes
        the verdict of a VALID card only: paper trades alone cannot make up for a line that failed.

        Args:
            entries: entries of all paper trades from the first day on (`kl.paper_entries`), or the state that
                `kalshilab.edge.monitor` returned for them.  A column `signal`, which names what fired, must name the
                signal of this card; entries without this column are taken as they are.
            how: arguments of `kalshilab.edge.monitor`, such as its horizon, `streams` and `as_of`.

        >>> import kalshilab as kl
        >>> from kalshilab.edge import simulated_entries
        >>> card = kl.validate(kl.signals.Rlm(min_trades=15), *kl.sample())
        >>> paper, _ = simulated_entries.entries(2_000, edge=8.0, hold_days=0.3, days=700, seed=2)
        >>> after = card.with_live(paper)
        >>> card.verdict, after.verdict, after.criterion(13).label
        ('INSUFFICIENT', 'INSUFFICIENT', 'LIVE_CONFIRMED')

        Raises:
            EdgeError: the card has no interval to compare with, or `entries` lacks columns of entries, or they are the
                trades of another signal.
        """
        lower = self.numbers.get("lower")
        if lower is None:
            raise EdgeError(
                f"{self.name}: the card must have an interval to compare live trades with, got {self.verdict}"
            )
        if not isinstance(entries, LiveState):
            self._check_signal(entries)
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

    def _check_signal(self, entries: pl.DataFrame) -> None:
        """Check that paper trades are those of the card's signal."""
        if "signal" not in entries.columns or entries.is_empty():
            return
        own = identity_of(self.spec["signal"], self.spec["parameters"], self.spec["code"])
        for traded in entries["signal"].unique(maintain_order=True):
            if traded is None:
                raise EdgeError(
                    "entries must name the signal that traded, got a run of an older version; "
                    'entries.drop("signal") takes them as trades of this signal'
                )
            if traded != own:
                raise EdgeError(f"entries must be trades of {own}, got trades of {traded}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Card):
            return NotImplemented
        return self.to_json() == other.to_json() and self.entries.equals(other.entries)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def criterion(self, number: int) -> Criterion:
        """Return the line with a number.

        Raises:
            EdgeError: the card does not have this line.
        """
        for line in self.criteria:
            if line.number == number:
                return line
        numbers = f"{self.criteria[0].number} to {self.criteria[-1].number}"
        hint = "; with_live adds line 13" if number == 13 else ""
        raise EdgeError(f"{self.name}: number must be a line of the card, {numbers}, got {number}{hint}")

    def summary(self) -> dict[str, Any]:
        """Return the numbers that a notebook records: verdict, first failing line, counts, edges in cents.

        Numbers are rounded to three decimals.
        """
        failed = next((c for c in self.criteria if c.passed is False), None)
        recorded = {
            "verdict": self.verdict,
            "failed": None if failed is None else f"{failed.number} {failed.name}",
            "claim": self.claim,
            **self.numbers,
        }
        return {key: _plain(value, 3) for key, value in recorded.items() if key not in _UNRECORDED}

    def to_json(self) -> str:
        """Return the card without its long frames, as indented JSON with sorted keys; equal cards have equal JSON."""
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
        """Write the card as JSON into a folder and return the path, whose name has the signal and both hashes."""
        path = Path(folder, f"{self.spec['signal']}-{self.spec['hash'][:8]}-{self.data['hash'][:8]}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json() + "\n", encoding="utf-8")
        return path

    def __repr__(self) -> str:
        return f"<Card {self.verdict}: {self.header}>"

    def _repr_html_(self) -> str:
        # Imported here, as for figures.
        from kalshilab.notebook.research.card_html import card_html

        return card_html(self)


def _plain(value: object, digits: int) -> object:
    """Return a value that JSON can encode: floats rounded, NaN and infinity as None."""
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v, digits) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, digits) for v in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    return value
