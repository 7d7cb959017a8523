"""The interface of the exchange that the order desk uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kalshilab.exchange.orders.contract_choices import Choices
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.listings import Listing, Listings
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.exchange.stream.hub import Hub
from kalshilab.lazy import renamed

__all__ = ["DeskHost", "DisplayedBook"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

DisplayedBook = tuple[dict[int, int], dict[int, int]]
"""Displayed size by YES price: bids and asks."""


class DeskHost(Protocol):
    """The part of the exchange that the order desk uses."""

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
        """Return a new id."""
        ...

    def displayed(self, listing: Listing) -> DisplayedBook | None:
        """Return the displayed book; None without a subscriber."""
        ...

    def publish_changes(
        self, listing: Listing, before: DisplayedBook | None, cause: RestingOrder | None = None
    ) -> None:
        """Publish the difference between the displayed book `before` and now."""
        ...

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """Publish a public print."""
        ...

    def publish_position(self, ticker: str) -> None:
        """Publish the account's position."""
        ...
