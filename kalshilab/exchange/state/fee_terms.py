"""Which fee terms hold for a market at a moment: its series', its event's where they differ, or none for a while.

An event override wins over the series, field by field; both absent means none.  A market's waiver means no
fee at all until its instant, which is not part of it.  Orders bind cash by the terms without the waiver: it
may end while they rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kalshilab.errors import ConfigError
from kalshilab.exchange.flows.tape_flow import MarketFacts
from kalshilab.kalshi.wire.stream import EventFeeUpdate
from kalshilab.market.fees import FEE_TYPES

__all__ = ["FeeTerms", "Tariff"]


class FeeTerms(NamedTuple):
    """A fee type of `kalshilab.market.fees` and the multiplier."""

    fee_type: str
    multiplier: float


class Tariff:
    """Overrides and waivers; what they do not name is as the market's facts say.

    Args:
        publish: told when an event's override changes.
    """

    def __init__(self, publish: Callable[[EventFeeUpdate], None]) -> None:
        self._publish = publish
        self._overrides: dict[str, tuple[str | None, float | None]] = {}
        self._waivers: dict[str, int] = {}

    def override(self, event: str, fee_type: str | None = None, multiplier: float | None = None) -> None:
        """Set what holds for an event instead of its series' terms; both None ends it.

        Raises:
            ConfigError: a fee type without a formula, or a multiplier below zero.
        """
        if fee_type is not None and fee_type not in FEE_TYPES:
            raise ConfigError("fee_type", fee_type, "one of " + ", ".join(FEE_TYPES))
        if multiplier is not None and not 0 <= multiplier < 100:
            raise ConfigError("fee_multiplier", multiplier, "a number from 0 to below 100")
        if fee_type is None and multiplier is None:
            self._overrides.pop(event, None)
        else:
            self._overrides[event] = (fee_type, multiplier)
        self._publish(
            EventFeeUpdate(event_ticker=event, fee_type_override=fee_type, fee_multiplier_override=multiplier)
        )

    def overridden(self, event: str) -> tuple[str | None, float | None]:
        """An event's fee type and multiplier where they differ from its series', else None."""
        return self._overrides.get(event, (None, None))

    def waive(self, ticker: str, until: int) -> None:
        """No fees in a market until an instant in microseconds; 0 ends a waiver."""
        if until:
            self._waivers[ticker] = until
        else:
            self._waivers.pop(ticker, None)

    def waived_until(self, ticker: str) -> int:
        """When a market's fees begin, in microseconds; 0 where they were never waived."""
        return self._waivers.get(ticker, 0)

    def terms(self, facts: MarketFacts, now: int | None = None) -> FeeTerms:
        """What holds for a fill at `now` in microseconds; None: what holds without a waiver."""
        fee_type, multiplier = self._overrides.get(facts.event, (None, None))
        if now is not None and now < self._waivers.get(facts.ticker, 0):
            multiplier = 0.0
        return FeeTerms(
            facts.fee_type if fee_type is None else fee_type,
            facts.fee_multiplier if multiplier is None else multiplier,
        )

    def __repr__(self) -> str:
        return f"Tariff({len(self._overrides)} overrides, {len(self._waivers)} waivers)"
