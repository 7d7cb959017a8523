"""Every kind of response about orders, groups, fills and positions validates against the contract."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from order_bench import Bench

ORDERS = "/portfolio/events/orders"
ONE = f"{ORDERS}/{{order_id}}"
GROUPS = "/portfolio/order_groups"
GROUP = f"{GROUPS}/{{order_group_id}}"
PAYLOADS = {
    "fill": "fillPayload",
    "user_order": "userOrderPayload",
    "market_position": "marketPositionPayload",
    "order_group_updates": "orderGroupUpdatesPayload",
    "event_fee_update": "eventFeeUpdatePayload",
    "orderbook_delta": "orderbookDeltaPayload",
}


class Checked(Bench):
    """A bench that validates every response against the contract."""

    def __init__(self, contract: Any) -> None:
        super().__init__()
        self.contract = contract
        self.seen: Counter[tuple[str, str, int]] = Counter()

    def send(
        self, method: str, path: str, pairs: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> tuple[int, Any]:
        status, answer = super().send(method, path, pairs, body)
        template = self.template(path)
        self.seen[method, template, status] += 1
        if status < 300 and answer is not None:
            self.contract.body(method, template, status, answer)
        return status, answer

    def template(self, path: str) -> str:
        """Return the contract's path of a called path."""
        if path in self.contract.openapi["paths"]:
            return path
        parts = path.split("/")
        return next(
            t
            for t in self.contract.openapi["paths"]
            if len(t.split("/")) == len(parts)
            and all(a == b or a.startswith("{") for a, b in zip(t.split("/"), parts, strict=True))
        )


def test_every_response_about_orders_matches_the_contract(contract: Any) -> None:
    b = Checked(contract)
    channels = ["fill", "user_orders", "market_positions", "order_group_updates", "market_lifecycle_v2"]
    b.command(id=1, cmd="subscribe", params={"channels": channels})
    b.command(id=2, cmd="subscribe", params={"channels": ["orderbook_delta"], "market_tickers": [b.ticker]})
    group = b.group("30.00")
    later = b.ex.now // 1_000_000 + 60
    first = b.made(order_group_id=group, expiration_time=later)
    second, third = b.made(), b.made(side="ask", price="0.4600", cancel_order_on_pause=True)
    b.made(price="0.4400")
    b.make(time_in_force="immediate_or_cancel")
    b.amend(first, count="9.00")
    b.amend(second, price="0.4500", count="20.00")
    b.amend(second, expiration_time=later)
    b.decrease(third, reduce_to="4.00")
    b.call("GET", f"/portfolio/orders/{first}")
    b.queue(first)
    b.call("GET", "/portfolio/orders/queue_positions")
    b.prints(4_600, 100, "yes")
    batch = [
        {"ticker": b.ticker, "side": "bid", "count": "1.00", "price": price, "time_in_force": "good_till_canceled",
         "self_trade_prevention_type": "maker"}
        for price in ("0.1000", "0.1001", "0.4700")
    ]  # fmt: skip
    made = b.call("POST", f"{ORDERS}/batched", {"orders": batch})[1]["orders"]
    items = [{"order_id": made[0]["order_id"]}, {"order_id": "x"}]
    b.call("DELETE", f"{ORDERS}/batched", {"orders": items})
    b.cancel(first)
    for path in ("orders", "fills", "positions", "balance", "settlements"):
        b.call("GET", f"/portfolio/{path}")
    b.call("GET", GROUPS)
    b.call("GET", f"{GROUPS}/{group}")
    b.call("PUT", f"{GROUPS}/{group}/limit", {"contracts_limit": 40})
    b.call("PUT", f"{GROUPS}/{group}/trigger", {})
    b.call("PUT", f"{GROUPS}/{group}/reset", {})
    b.call("DELETE", f"{GROUPS}/{group}")
    b.call("DELETE", ORDERS)
    b.ex.desk.tariff.override(b.listing.facts.event, multiplier=0.5)
    b.ex.desk.tariff.override(b.listing.facts.event)
    facts = b.listing.facts
    b.listing.status = "finalized"
    b.ex.account.settle(facts.ticker, facts.event, "yes", 10_000, b.ex.now)
    b.call("GET", "/portfolio/settlements")
    b.call("GET", "/portfolio/positions", settlement_status="all")
    for path in ("fills", "orders", "positions"):
        b.call("GET", f"/historical/{path}")
    assert {(m, p) for m, p, status in b.seen if status < 300} == {
        ("POST", ORDERS), ("DELETE", ORDERS), ("DELETE", ONE), ("POST", f"{ONE}/amend"), ("POST", f"{ONE}/decrease"),
        ("POST", f"{ORDERS}/batched"), ("DELETE", f"{ORDERS}/batched"), ("GET", "/portfolio/orders"),
        ("GET", "/portfolio/orders/{order_id}"), ("GET", "/portfolio/orders/{order_id}/queue_position"),
        ("GET", "/portfolio/orders/queue_positions"), ("GET", "/portfolio/fills"), ("GET", "/portfolio/positions"),
        ("GET", "/portfolio/balance"), ("GET", "/portfolio/settlements"), ("GET", GROUPS), ("GET", GROUP),
        ("POST", f"{GROUPS}/create"), ("DELETE", GROUP), ("PUT", f"{GROUP}/reset"), ("PUT", f"{GROUP}/trigger"),
        ("PUT", f"{GROUP}/limit"), ("GET", "/historical/fills"), ("GET", "/historical/orders"),
        ("GET", "/historical/positions"),
    }  # fmt: skip
    counts: Counter[str] = Counter()
    for raw in [*b.frames, *b.connection.take()]:
        frame = json.loads(raw)
        if frame["type"] in PAYLOADS:
            counts[frame["type"]] += 1
            contract.frame(PAYLOADS[frame["type"]], frame)
    assert set(counts) == set(PAYLOADS)
