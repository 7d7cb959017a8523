"""The last part of time, to be looked at three times in all.

Whoever tunes a rule on data has no p-value from these data.  The lockbox keeps the last 30 % of the events from him:
`split` hands out the rest, and `open` is the only way to what is inside.  Each look is written into the registry
*before* it is taken, and spends part of an error budget of 5 %: 3 % for the first, 1.5 % for the second, 0.5 % for
the third (a budget spent over looks: Lan & DeMets 1983; a metered holdout: Dwork et al. 2015, "The reusable
holdout").  So however the looks are chosen, the chance that luck confirms anything is at most 5 %.  There is no
fourth look.

The boundary is that of a family of hypotheses, and is written down with the first split.  Events open at the boundary
and those that begin within the embargo after it belong to neither side (`kalshilab.edge.robustness.walk_forward`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import polars as pl

from kalshilab.clock import from_datetime, to_datetime
from kalshilab.edge.canonical_json import hash_of
from kalshilab.edge.prereg.registry import Registry
from kalshilab.edge.robustness.walk_forward import Split, boundaries, embargo_of, spans, split
from kalshilab.edge.schema import check_entries, settled
from kalshilab.errors import EdgeError, RegistryError

__all__ = ["BUDGET", "Lockbox", "Look"]

BUDGET: Final = (0.03, 0.015, 0.005)
"""What a p-value may be at the first, second and third look; 5 % in all."""


class Look(msgspec.Struct, frozen=True):
    """One look into a lockbox, as the registry has it."""

    number: int
    """From 1."""
    alpha: float
    """What p may be."""
    p: float | None
    """What came out; None where the look was taken and nothing came of it (it is spent all the same)."""
    events: int
    """Events inside."""
    prereg_hash: str | None
    """The hypothesis it was taken for."""
    time: int
    """Microseconds since 1970 (UTC)."""

    @property
    def confirmed(self) -> bool:
        """Whether the lockbox confirms the claim."""
        return self.p is not None and self.p <= self.alpha


class Lockbox:
    """The held-out part of a family's data.

    Args:
        registry: where looks are written down.
        family: of hypotheses; its looks are counted together.
        share: of the events, in the order they began, that are held out: 0.25 to 0.5.
        boundary: where it begins (with a zone), instead of `share`.
        embargo: None is `kalshilab.edge.robustness.walk_forward.embargo_of` the entries of the first split.
        first_prints: columns `event, ts`: each event's first print; without it an event begins with its first fire.

    Raises:
        RegistryError: another boundary is written down for the family.
        EdgeError: the share is out of range.
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
            raise EdgeError(f"a lockbox of {share:.0%} of the events; 25 to 50 %, 30 % is usual")
        self._registry, self.family, self._share = registry, family, share
        self._wanted, self._embargo, self._first_prints = boundary, embargo, first_prints
        known = self._boundary()
        if boundary is not None and known is not None and known[0] != boundary:
            raise RegistryError(
                f"the lockbox of family {family} begins at {known[0]:%Y-%m-%d %H:%M} and cannot be moved to "
                f"{boundary:%Y-%m-%d %H:%M}; leave boundary= out"
            )

    def split(self, entries: pl.DataFrame) -> tuple[pl.DataFrame, datetime]:
        """What may be trained on, and where the lockbox begins.

        The first call fixes the boundary for the family; later ones keep to it, whatever the entries are.

        Args:
            entries: of the whole time (`kalshilab.edge.ENTRIES_SCHEMA`).

        Raises:
            EdgeError: no entries to set a boundary by, or none that are settled before it.
        """
        check_entries(entries)

        def record(before: list[dict[str, Any]]) -> dict[str, Any] | None:
            if any(b["kind"] == "boundary" for b in before):
                return None
            if self._wanted is None and entries.is_empty():
                raise EdgeError("no entries to set a lockbox by; give boundary=")
            wanted = self._wanted
            if wanted is None:
                wanted = boundaries(spans(entries, self._first_prints)["start"], [1 - self._share])[0]
            waits = embargo_of(entries) if self._embargo is None else self._embargo
            return {
                "kind": "boundary",
                "boundary": from_datetime(wanted),
                "embargo": waits // timedelta(microseconds=1),
                "share": self._share,
            }

        self._registry.box(self.family, record)
        part = self._split(entries)
        if part.train.is_empty():
            raise EdgeError(
                f"nothing was settled before {part.boundary:%Y-%m-%d %H:%M}, where the lockbox of family "
                f"{self.family} begins; other data need a family of their own"
            )
        return part.train, part.boundary

    def outside(self, entries: pl.DataFrame) -> pl.DataFrame:
        """The entries that may be looked at: those of `split`, or all of them while there is no boundary."""
        return entries if self._boundary() is None else self._split(check_entries(entries)).train

    def open(
        self,
        entries: pl.DataFrame,
        evaluate: Callable[[pl.DataFrame], float],
        *,
        prereg_hash: str | None = None,
    ) -> float:
        """Take a look: the p-value of what is inside, to be held against `looks()[-1].alpha`.

        The look is on the disk before `evaluate` is called, and is spent even if that fails.

        Args:
            entries: of the whole time; what stands outside is left out.
            evaluate: of the settled entries inside, a one-sided p-value.
            prereg_hash: the hypothesis it is taken for.

        Raises:
            RegistryError: the budget is spent; `split` was not called; the hypothesis is not of this family; what
                `evaluate` returned is no probability.
            EdgeError: nothing is inside.
        """
        if prereg_hash is not None and self._registry.hypothesis(prereg_hash).family != self.family:
            raise RegistryError(
                f"the hypothesis {prereg_hash[:12]}… is not of family {self.family}, whose lockbox this is"
            )
        inside = settled(self._split(entries).test)
        if inside.is_empty():
            raise EdgeError(
                f"nothing settled is in the lockbox of family {self.family} yet; no look was spent"
            )
        number = 0

        def look(before: list[dict[str, Any]]) -> dict[str, Any]:
            nonlocal number
            number = sum(b["kind"] == "look" for b in before) + 1
            if number > len(BUDGET):
                raise RegistryError(
                    f"the lockbox of family {self.family} was opened {len(BUDGET)} times and its budget of 5 % is spent; "
                    "only new data, under a new family, can confirm now"
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
                f"look {number} into the lockbox of {self.family}: {p} is no p-value; the look is spent"
            )
        self._registry.box(self.family, lambda _: {"kind": "result", "number": number, "p": p})
        return p

    def looks(self) -> list[Look]:
        """The looks that were taken, by anybody."""
        records = self._registry.boxes(self.family)
        came = {r["number"]: float(r["p"]) for r in records if r["kind"] == "result"}
        return [
            Look(r["number"], r["alpha"], came.get(r["number"]), r["events"], r["prereg_hash"], r["time"])
            for r in records
            if r["kind"] == "look"
        ]

    @property
    def budget(self) -> tuple[float, ...]:
        """What p may be at each of the looks that are left."""
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
                f"family {self.family} has no boundary yet; Lockbox.split hands out what to train on"
            )
        return split(entries, known[0], embargo=known[1], first_prints=self._first_prints)
