"""What the exchange's own documents and those who use it do not agree on, and what is taken to be so here.

What is left open and is no matter of words is an argument elsewhere: how far a signature's time may be off
(`serve`), how orders fill (`FillModel`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from kalshilab.errors import ExchangeError

__all__ = ["Boundary", "Choices", "Refusal"]

Boundary = Literal["reached", "exceeded"]


class Refusal(NamedTuple):
    """HTTP status and code of an error."""

    status: int
    code: str


@dataclass(frozen=True, slots=True)
class Choices:
    """The open questions of the contract, answered.

    Args:
        market_closed: how an order in a market that does not trade is refused; clients have also seen 409, and
            `MARKET_INACTIVE` and `market_not_active`.
        trading_paused: how an order is refused while trading is paused everywhere; one report says 400.
        group_boundary: whether an order group triggers when its limit is "reached" or only when it is "exceeded".

    >>> Choices(market_closed=(409, "MARKET_INACTIVE")).market_closed.status
    409

    Raises:
        ExchangeError: no such boundary, or a status that is no refusal.
    """

    market_closed: Refusal = Refusal(400, "market_inactive")
    trading_paused: Refusal = Refusal(409, "trading_is_paused")
    group_boundary: Boundary = "reached"

    def __post_init__(self) -> None:
        if self.group_boundary not in ("reached", "exceeded"):
            raise ExchangeError(f'group_boundary {self.group_boundary!r}: "reached" or "exceeded"')
        for name in ("market_closed", "trading_paused"):
            refusal = Refusal(*getattr(self, name))
            if not 400 <= refusal.status < 500:
                raise ExchangeError(f"{name} {tuple(refusal)}: a status from 400 to 499 and a code")
            object.__setattr__(self, name, refusal)
