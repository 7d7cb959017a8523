"""Fee terms of a market at a moment: its series' terms, an event override, or a temporary waiver.

An event override takes precedence over the series, field by field; an override with neither field is
removed.  A market's waiver means no fee until an instant (exclusive).  Orders reserve cash by the terms
without the waiver, because it may end while they rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ConfigError
from kalshilab.exchange.flows.tape_flow import MarketFacts
from kalshilab.kalshi.wire.stream import EventFeeUpdate
from kalshilab.market.fees import FEE_TYPES

__all__ = ["FeeTerms", "Tariff"]


class FeeTerms(NamedTuple):
    """A fee type of `kalshilab.market.fees` and its multiplier."""

    fee_type: str
    multiplier: float


class Tariff:
    """Fee overrides and waivers; every other field comes from the market's facts.

    Args:
        publish: called when an event's override changes.
    """

    def __init__(self, publish: Callable[[EventFeeUpdate], None]) -> None:
        self._publish = publish
        self._overrides: dict[str, tuple[str | None, float | None]] = {}
        self._waivers: dict[str, int] = {}

    def override(self, event: str, fee_type: str | None = None, multiplier: float | None = None) -> None:
        """Override the fee terms of an event's series; None for both fields ends the override.

        Args:
            event: event ticker.
            fee_type: fee type; None keeps the series' type.
            multiplier: fee multiplier; None keeps the series' multiplier.

        Raises:
            ConfigError: a fee type without a formula, or a multiplier out of range.
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
        """Return an event's overriding fee type and multiplier, each None where the series' applies."""
        return self._overrides.get(event, (None, None))

    @renamed_keywords(until="until_us")
    def waive(self, ticker: str, until_us: int) -> None:
        """Waive the fees of a market until an instant in microseconds; 0 ends a waiver."""
        if until_us:
            self._waivers[ticker] = until_us
        else:
            self._waivers.pop(ticker, None)

    def waived_until(self, ticker: str) -> int:
        """Return the end of a market's fee waiver in microseconds; 0 if it never had one."""
        return self._waivers.get(ticker, 0)

    def terms(self, facts: MarketFacts, now: int | None = None) -> FeeTerms:
        """Return the fee terms of a fill at `now` in microseconds; None ignores waivers."""
        fee_type, multiplier = self._overrides.get(facts.event, (None, None))
        if now is not None and now < self._waivers.get(facts.ticker, 0):
            multiplier = 0.0
        return FeeTerms(
            facts.fee_type if fee_type is None else fee_type,
            facts.fee_multiplier if multiplier is None else multiplier,
        )

    def __repr__(self) -> str:
        return f"Tariff({len(self._overrides)} overrides, {len(self._waivers)} waivers)"
