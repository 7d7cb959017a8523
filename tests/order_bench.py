"""One open market with a fixed book, and a client that orders in it."""

from __future__ import annotations

import json
from typing import Any

from scripted_day import Day

from kalshilab.units import TickGrid

BIDS = {4_000: 1_000, 3_900: 5_000}
ASKS = {4_400: 400, 4_500: 1_000}
"""YES prices and sizes: bids 10 at 0.40 and 50 at 0.39, asks 4 at 0.44 and 10 at 0.45."""


class Bench(Day):
    """An exchange paused at a moment when one market is open.

    Args:
        structure: price structure of the market.
        fee_type: fee type of the market.
        options: keyword arguments of the `Exchange`.
    """

    def __init__(
        self, structure: str = "linear_cent", fee_type: str = "quadratic_with_maker_fees", **options: Any
    ) -> None:
        super().__init__(**options)
        while not (ready := [x for x in self.ex.listings if x.status == "active" and x.book.best_ask()]):
            self.play(1)
        self.listing = ready[0]
        facts = self.listing.facts
        facts.grid, facts.structure = TickGrid.named(structure), structure
        facts.fee_type, facts.fee_multiplier = fee_type, 1.0
        self.ticker = facts.ticker
        self.set_book()
        self.path = "/portfolio/events/orders"

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, **query: str
    ) -> tuple[int, Any]:
        """Send a request like a `Day`, but send an empty object as a body too."""
        return self.send(
            method, path, tuple(query.items()), b"" if body is None else json.dumps(body).encode()
        )

    def set_book(self, bids: dict[int, int] | None = None, asks: dict[int, int] | None = None) -> None:
        """Replace the background; resting orders that it crosses are filled."""
        self.listing.book.clear()
        self.listing.book.requote(dict(BIDS if bids is None else bids), dict(ASKS if asks is None else asks))

    def make(self, **changes: Any) -> tuple[int, Any]:
        """Create an order, by default a bid for 10 at 0.40; None leaves a field out."""
        self.orders += 1
        body = {
            "ticker": self.ticker, "side": "bid", "count": "10.00", "price": "0.4000",
            "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
            "client_order_id": f"c{self.orders}",
        } | changes  # fmt: skip
        return self.call("POST", self.path, {k: v for k, v in body.items() if v is not None})

    def made(self, **changes: Any) -> str:
        """Create an order that is accepted; return its id."""
        status, answer = self.make(**changes)
        assert status == 201, answer
        return str(answer["order_id"])

    def one(self, order_id: str) -> dict[str, Any]:
        """Return an order as read over REST."""
        status, answer = self.call("GET", f"/portfolio/orders/{order_id}")
        assert status == 200
        return dict(answer["order"])

    def amend(self, order_id: str, **changes: Any) -> tuple[int, Any]:
        """Amend an order; fields not given stay as they are."""
        o = self.one(order_id)
        total = float(o["fill_count_fp"]) + float(o["remaining_count_fp"])
        body = {
            "ticker": o["ticker"], "side": o["book_side"], "price": o["yes_price_dollars"], "count": f"{total:.2f}",
        } | changes  # fmt: skip
        sent = {k: v for k, v in body.items() if v is not None}
        return self.call("POST", f"{self.path}/{order_id}/amend", sent)

    def decrease(self, order_id: str, **body: Any) -> tuple[int, Any]:
        return self.call("POST", f"{self.path}/{order_id}/decrease", body)

    def cancel(self, order_id: str, **query: str) -> tuple[int, Any]:
        return self.call("DELETE", f"{self.path}/{order_id}", **query)

    def group(self, limit: str = "10.00") -> str:
        """Create an order group; return its id."""
        status, answer = self.call("POST", "/portfolio/order_groups/create", {"contracts_limit_fp": limit})
        assert status == 201, answer
        return str(answer["order_group_id"])

    def prints(self, price: int, size: int, taker: str, after_us: int = 0) -> None:
        """Play a print `after_us` microseconds from now, with its fills."""
        self.ex.now += after_us
        for order, filled in self.listing.book.printed(price, size, taker):
            self.ex.desk.fill(
                self.listing, order, order.price, filled, is_taker=False, trade_id=self.ex.new_id()
            )
        self.ex.desk.settle_groups()

    def queue(self, order_id: str) -> str:
        """Return the queue position of an order."""
        status, answer = self.call("GET", f"/portfolio/orders/{order_id}/queue_position")
        assert status == 200
        return str(answer["queue_position_fp"])

    def received(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of one type received so far, in order."""
        self.frames += self.connection.take()
        return [f["msg"] for f in map(json.loads, self.frames) if f["type"] == kind]
