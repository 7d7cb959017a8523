"""Questions on which the exchange's documents and its clients disagree, and the answers used here.

Open questions that change behaviour rather than wording are arguments elsewhere: the allowed clock skew of a
signature (`serve`) and the fill model (`FillModel`).
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
    """Answers to the open questions of the exchange's contract.

    Args:
        market_closed: refusal of an order in a market that does not trade; clients have also seen 409, and
            `MARKET_INACTIVE` and `market_not_active`.
        trading_paused: refusal of an order while trading is paused everywhere; one report has status 400.
        group_boundary: whether an order group triggers when its limit is "reached" or only when it is
            "exceeded".

    >>> Choices(market_closed=(409, "MARKET_INACTIVE")).market_closed.status
    409

    Raises:
        ExchangeError: an unknown boundary, or a status outside 400 to 499.
    """

    market_closed: Refusal = Refusal(400, "market_inactive")
    trading_paused: Refusal = Refusal(409, "trading_is_paused")
    group_boundary: Boundary = "reached"

    def __post_init__(self) -> None:
        if self.group_boundary not in ("reached", "exceeded"):
            raise ExchangeError(
                f"group_boundary must be 'reached' or 'exceeded', got {self.group_boundary!r}"
            )
        for name in ("market_closed", "trading_paused"):
            refusal = Refusal(*getattr(self, name))
            if not 400 <= refusal.status < 500:
                raise ExchangeError(
                    f"{name} must be a status from 400 to 499 and a code, got {tuple(refusal)}"
                )
            object.__setattr__(self, name, refusal)
