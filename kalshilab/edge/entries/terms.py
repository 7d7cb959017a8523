"""The terms on which entries are made, as one value."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Final, Literal, Self

import msgspec
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.signals.engine.compiled_signal import plain

__all__ = ["RULES", "EntryTerms", "Rule", "terms_of"]

Rule = Literal["print", "mid", "next_print", "book", "maker"]
RULES: Final[tuple[Rule, ...]] = ("print", "mid", "next_print", "book", "maker")
_RENAMED: Final = {
    "latency": "latency_s",
    "window": "window_s",
    "half_spread": "half_spread_cents",
    "limit": "limit_cents",
}
_HALF_DOLLAR: Final = 50


class EntryTerms(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Terms on which fires become entries; `enter` and `validate` accept one, or its fields as keywords.

    >>> EntryTerms(latency_s=5).window_s
    1800.0
    >>> EntryTerms(latency_s=-1)
    Traceback (most recent call last):
    ...
    kalshilab.errors.EdgeError: latency_s must be a number of seconds >= 0, got -1

    Raises:
        EdgeError: a value is out of range or of another type.
    """

    rule: Rule = "next_print"
    """Entry rule, which sets the price; `kalshilab.edge.entries.rules` describes the rules."""
    latency_s: float = 2.0
    """Seconds from a fire until an order can trade, exclusive: a print at exactly that time cannot fill it."""
    window_s: float = 1800.0
    """Seconds after the latency within which the print must come, inclusive, or during which a quote rests."""
    contracts: int = 10
    """Size of an order in contracts; the rounding of its fee depends on it."""
    schedule: FeeSchedule | None = None
    """Fees by series and date; None: `FeeSchedule()`."""
    half_spread_cents: float | None = None
    """Half the spread in cents, for `mid`; None: estimated from the tape."""
    books: pl.DataFrame | None = None
    """Recorded quotes, for the rules "book" and "maker" (`kalshilab.edge.entries.book_taker`)."""
    limit_cents: float | None = None
    """For the rule "book": cents that our side may cost above the price of the firing print; None: no limit."""
    ticks: int = 0
    """Steps of the market's price grid added to each price paid; whole cents where the grid is unknown."""
    per_market: int | None = 1
    """Fires kept per market, the first ones; None: all."""
    per_event: int | None = None
    """Fires kept per event, the first ones; None: all."""
    exclusive: bool | Collection[str] | None = None
    """Events of which at most one market settles YES: their tickers, or True for all."""
    both_sides: bool = False
    """Keep fires of both sides of an event."""
    extremes: bool = False
    """Keep fires where the outcome is nearly certain: at 98 cents and more, at 2 cents and less, or after the expected
    close."""

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise EdgeError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}")
        self._check("latency_s", 0, "a number of seconds >= 0")
        self._check("window_s", 0, "a number of seconds > 0", above=True)
        self._check("contracts", 1, "a whole number >= 1", whole=True)
        self._check("ticks", 0, "a whole number >= 0", whole=True)
        self._check("half_spread_cents", 0, "a number of cents from 0 to 50", below=_HALF_DOLLAR)
        self._check("limit_cents", float("-inf"), "a number of cents")
        self._check("per_market", 1, "a whole number >= 1, or None", whole=True)
        self._check("per_event", 1, "a whole number >= 1, or None", whole=True)

    def _check(
        self,
        name: str,
        least: float,
        rule: str,
        *,
        whole: bool = False,
        above: bool = False,
        below: float = float("inf"),
    ) -> None:
        value = getattr(self, name)
        if value is None and name in _OPTIONAL:
            return
        number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not number or not (value > least if above else value >= least) or not value < below:
            raise EdgeError(f"{name} must be {rule}, got {value!r}")

    def but(self, **changes: object) -> Self:
        """Return these terms with some fields changed.

        Raises:
            EdgeError: a field does not exist, or its value is out of range.
        """
        return terms_of("EntryTerms", self, changes, stacklevel=3)  # type: ignore[return-value]


_OPTIONAL: Final = ("half_spread_cents", "limit_cents", "per_market", "per_event")


def terms_of(
    function: str, terms: EntryTerms | None, changes: Mapping[str, object], *, stacklevel: int = 3
) -> EntryTerms:
    """Return terms with changes given as keywords; the names of version 0.1 are accepted and warn.

    Args:
        function: the public function that was called, for messages.
        terms: the terms to start from; None: the defaults.
        changes: fields of `EntryTerms` by name.
        stacklevel: of the warning, so that it points at the caller of `function`.

    Raises:
        EdgeError: a keyword is not a field of `EntryTerms`, or its value is out of range.
    """
    given = {}
    for name, value in changes.items():
        new = _RENAMED.get(name, name)
        if new != name:
            warnings.warn(
                f"{function}(): the keyword {name!r} is now {new!r}",
                DeprecationWarning,
                stacklevel=stacklevel,
            )
        if new not in EntryTerms.__struct_fields__:
            known = ", ".join(EntryTerms.__struct_fields__)
            raise EdgeError(f"{function}() has no argument {name!r}; the terms of entries are {known}")
        if new in given:
            raise EdgeError(f"{function}() got both {name!r} and {new!r}; use {new!r}")
        given[new] = plain(value)
    if terms is None:
        return EntryTerms(**given)
    return msgspec.structs.replace(terms, **given) if given else terms
