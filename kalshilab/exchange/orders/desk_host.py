"""What the order desk needs of the exchange it stands in."""

from __future__ import annotations

from typing import Protocol

from kalshilab.exchange.orders.contract_choices import Choices
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.listings import Listing, Listings
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.exchange.stream.hub import Hub

__all__ = ["Floor", "Shown"]

Shown = tuple[dict[int, int], dict[int, int]]
"""Displayed size by YES price, bids and asks."""


class Floor(Protocol):
    """The exchange, as the desk sees it."""

    now: int
    user_id: str
    echo_trades: bool
    exchange_active: bool
    trading_active: bool
    choices: Choices
    account: Account
    hub: Hub
    listings: Listings

    def new_id(self) -> str:
        """A fresh id."""
        ...

    def displayed(self, listing: Listing) -> Shown | None:
        """The displayed book, if anybody watches it."""
        ...

    def publish_changes(
        self, listing: Listing, before: Shown | None, cause: RestingOrder | None = None
    ) -> None:
        """Tell how the displayed book differs from before."""
        ...

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Tell of a public print."""
        ...

    def publish_position(self, ticker: str) -> None:
        """Tell of the account's position."""
        ...
