"""A lockbox: the latest part of the data, held out and limited to three looks.

Data on which a rule was tuned give no valid p-value for it. The lockbox holds out the last 30 % of the events: `split`
returns the rest, and `open` is the only access to the held-out part. Each look is recorded in the registry *before* it
is taken, and uses up part of an error budget of 5 %: 3 % for the first, 1.5 % for the second and 0.5 % for the third
(alpha spending: Lan & DeMets 1983; a metered holdout: Dwork et al. 2015, "The reusable holdout"). For any choice of
looks, the probability that luck confirms a false claim is therefore at most 5 %. A fourth look is refused.

The boundary belongs to a family of hypotheses and is recorded with the first split. Events that are open at the
boundary, and those that start within the embargo after it, belong to neither side
(`kalshilab.edge.robustness.walk_forward`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec
import polars as pl

from kalshilab.clock import from_datetime, to_datetime
from kalshilab.edge.canonical_json import hash_of
from kalshilab.edge.prereg.append_log import JsonRecord
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.robustness.walk_forward import Split, boundaries, embargo_of, spans, split
from kalshilab.edge.schema import check_entries, settled
from kalshilab.errors import EdgeError, RegistryError
from kalshilab.lazy import renamed

__all__ = ["BUDGET", "Lockbox", "LockboxLook"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

BUDGET: Final = (0.03, 0.015, 0.005)
"""Significance levels of the first, second and third look; they add up to 5 %."""


class LockboxLook(msgspec.Struct, frozen=True):
    """One look into a lockbox, as recorded in the registry."""

    number: int
    """Number of the look, from 1."""
    alpha: float
    """Significance level of this look: the largest p-value that confirms the claim."""
    p: float | None
    """The p-value; None if the evaluation failed (the look is used up all the same)."""
    events: int
    """Number of settled events in the lockbox."""
    prereg_hash: str | None
    """Hash of the hypothesis that was tested; None if it was not named."""
    time: int
    """Time of the look in microseconds since 1970 (UTC)."""

    @property
    def confirmed(self) -> bool:
        """Whether the lockbox confirms the claim."""
        return self.p is not None and self.p <= self.alpha


class Lockbox:
    """The held-out part of a family's data.

    Args:
        registry: registry in which the looks are recorded.
        family: family of hypotheses whose looks are counted together.
        share: fraction of the events that are held out, from 0.25 to 0.5; the latest ones by start.
        boundary: start of the held-out part (with a time zone), instead of `share`.
        embargo: gap after the boundary whose events are dropped. None: that of
            `kalshilab.edge.robustness.walk_forward.embargo_of` for the entries of the first split.
        first_prints: columns `event, ts`, the first print of each event. None: an event starts with its first signal.

    Raises:
        RegistryError: the registry holds another boundary for the family.
        EdgeError: `share` is out of range.
    """

    def __init__(
        self,
        registry: Registry,
        family: str,
        share: float = 0.3,
        *,
        boundary: datetime | None = None,
        embargo: timedelta | None = None,
        first_prints: pl.DataFrame | None = None,
    ) -> None:
        if not 0.25 <= share <= 0.5:
            raise EdgeError(f"share must be from 0.25 to 0.5, got {share}; 0.3 is usual")
        self._registry, self.family, self._share = registry, family, share
        self._requested_boundary, self._embargo, self._first_prints = boundary, embargo, first_prints
        known = self._boundary()
        if boundary is not None and known is not None and known[0] != boundary:
            raise RegistryError(
                f"the lockbox of family {family} starts at {known[0]:%Y-%m-%d %H:%M} and cannot be moved to "
                f"{boundary:%Y-%m-%d %H:%M}; omit boundary="
            )

    def split(self, entries: pl.DataFrame) -> tuple[pl.DataFrame, datetime]:
        """Return the entries for training and the start of the lockbox.

        The first call fixes the boundary of the family; later calls use the same boundary for any entries.

        Args:
            entries: entries of the whole sample (`kalshilab.edge.ENTRIES_SCHEMA`).

        Raises:
            EdgeError: there are no entries from which to set a boundary, or no entry was settled before it.
        """
        check_entries(entries)

        def record(earlier: list[JsonRecord]) -> JsonRecord | None:
            if any(b["kind"] == "boundary" for b in earlier):
                return None
            boundary = self._requested_boundary
            if boundary is None:
                if entries.is_empty():
                    raise EdgeError(
                        "entries must not be empty to set the boundary of a lockbox; pass boundary="
                    )
                boundary = boundaries(spans(entries, self._first_prints)["start"], [1 - self._share])[0]
            embargo = embargo_of(entries) if self._embargo is None else self._embargo
            return {
                "kind": "boundary",
                "boundary": from_datetime(boundary),
                "embargo": embargo // timedelta(microseconds=1),
                "share": self._share,
            }

        self._registry.box(self.family, record)
        part = self._split(entries)
        if part.train.is_empty():
            raise EdgeError(
                f"no entry was settled before {part.boundary:%Y-%m-%d %H:%M}, the start of the lockbox of family "
                f"{self.family}; use a separate family for other data"
            )
        return part.train, part.boundary

    def outside(self, entries: pl.DataFrame) -> pl.DataFrame:
        """Return the entries outside the lockbox: those of `split`, or all of them before a boundary is set."""
        return entries if self._boundary() is None else self._split(check_entries(entries)).train

    def open(
        self,
        entries: pl.DataFrame,
        evaluate: Callable[[pl.DataFrame], float],
        *,
        prereg_hash: str | None = None,
    ) -> float:
        """Take a look: return the p-value of the held-out entries, to be compared with `looks()[-1].alpha`.

        The look is on disk before `evaluate` is called, and is used up even if that fails.

        Args:
            entries: entries of the whole sample; those outside the lockbox are ignored.
            evaluate: function of the settled entries in the lockbox that returns a one-sided p-value.
            prereg_hash: hash of the hypothesis that is tested.

        Raises:
            RegistryError: the budget is used up, `split` was not called, the hypothesis belongs to another family, or
                the result of `evaluate` is not a probability.
            EdgeError: the lockbox holds no settled entry.
        """
        if prereg_hash is not None and self._registry.hypothesis(prereg_hash).family != self.family:
            raise RegistryError(
                f"prereg_hash must name a hypothesis of family {self.family}, got {prereg_hash[:12]}… of another family"
            )
        inside = settled(self._split(entries).test)
        if inside.is_empty():
            raise EdgeError(
                f"the lockbox of family {self.family} holds no settled entry yet; no look was used up"
            )
        number = 0

        def look(earlier: list[JsonRecord]) -> JsonRecord:
            nonlocal number
            number = sum(b["kind"] == "look" for b in earlier) + 1
            if number > len(BUDGET):
                raise RegistryError(
                    f"the lockbox of family {self.family} was opened {len(BUDGET)} times and its budget of 5 % is used "
                    "up; only new data under a new family can confirm a claim"
                )
            return {
                "kind": "look", "number": number, "alpha": BUDGET[number - 1], "prereg_hash": prereg_hash,
                "events": inside["event"].n_unique(),
                "sample": hash_of([inside["fire"].to_list(), inside["ticker"].to_list(), inside["pnl"].to_list()]),
            }  # fmt: skip

        self._registry.box(self.family, look)
        p = float(evaluate(inside))
        if not 0 <= p <= 1 or math.isnan(p):
            raise RegistryError(
                f"look {number} of family {self.family}: evaluate() returned {p}, not a probability; "
                "this look has been used up"
            )
        self._registry.box(self.family, lambda _: {"kind": "result", "number": number, "p": p})
        return p

    def looks(self) -> list[LockboxLook]:
        """Return all looks that were taken, by any process."""
        records = self._registry.boxes(self.family)
        p = {r["number"]: float(r["p"]) for r in records if r["kind"] == "result"}
        return [
            LockboxLook(r["number"], r["alpha"], p.get(r["number"]), r["events"], r["prereg_hash"], r["time"])
            for r in records
            if r["kind"] == "look"
        ]

    @property
    def budget(self) -> tuple[float, ...]:
        """Significance levels of the remaining looks."""
        return BUDGET[len(self.looks()) :]

    def __repr__(self) -> str:
        known = self._boundary()
        since = "no boundary yet" if known is None else f"from {known[0]:%Y-%m-%d %H:%M}"
        return f"<Lockbox {self.family}: {since}, {len(self.budget)} looks left>"

    def _boundary(self) -> tuple[datetime, timedelta] | None:
        for record in self._registry.boxes(self.family):
            if record["kind"] == "boundary":
                return to_datetime(record["boundary"]), timedelta(microseconds=record["embargo"])
        return None

    def _split(self, entries: pl.DataFrame) -> Split:
        known = self._boundary()
        if known is None:
            raise RegistryError(
                f"family {self.family} has no boundary yet; call Lockbox.split first, which sets it"
            )
        return split(entries, known[0], embargo=known[1], first_prints=self._first_prints)
