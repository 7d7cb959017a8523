"""Property test: any sequence of prints and order actions keeps the invariants and the consistency of all views.

After each action: cash, positions at cost and fees add up to the deposit to the micro-dollar; no book is crossed;
the reserved cash is available; orders at one price fill in order of arrival.  At the end the REST view of orders,
fills and positions equals the stream's.
"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kalshilab.exchange import Exchange
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.rest.params import Request
from kalshilab.exchange.rest.portfolio import PortfolioRoutes
from kalshilab.exchange.state.account import gross
from kalshilab.tape.synth import Recipe, make
from kalshilab.units import dollars

Queue = dict[tuple[str, str, int], list[tuple[Any, int]]]
EXPECTED = {
    "insufficient_balance", "market_inactive", "fill_or_kill_insufficient_resting_volume", "invalid_order",
    "invalid_order_size", "exceeded_order_group_risk_limit", "order_group_not_found", "not_found",
}  # fmt: skip
"""Refusals that a valid client may receive."""
GROUPS = 3

recipe = Recipe(prints_log_median=float(np.log(40)), prints_log_sd=0.3, span_days=2.0)
TAPE, MARKETS = make(6, np.random.default_rng(8), recipe)
MARKETS = MARKETS.with_columns(pl.lit("quadratic_with_maker_fees").alias("fee_type"))


class Run:
    """A running exchange, a client of it, and a connection with all private channels."""

    def __init__(self, balance: int) -> None:
        self.ex = Exchange(TAPE, MARKETS, seed=3, balance_money_units=dollars(balance))
        self.routes = PortfolioRoutes(self.ex)
        self.connection = self.ex.hub.connect()
        channels = ["fill", "user_orders", "market_positions", "order_group_updates"]
        self.connection.receive(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": channels}}))
        self.groups: list[str] = []
        self.codes: Counter[str] = Counter()
        while not self.open():
            assert self.ex.step()

    def open(self) -> list[str]:
        return [
            x.facts.ticker for x in self.ex.listings if x.status == "active" and x.book.bids and x.book.asks
        ]

    def call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        """Send a request; return None for an expected refusal."""
        sent = b"" if body is None else json.dumps(body).encode()
        try:
            answer = self.routes.answer(Request(method, "", query, {}, sent), ["portfolio", *path.split("/")])
        except Refused as refused:
            assert refused.code in EXPECTED, refused
            self.codes[refused.code] += 1
            return None
        assert answer is not None and answer.status < 300
        return json.loads(answer.body) if answer.body else {}

    # Invariants

    def queues(self) -> Queue:
        """Return resting orders and their filled sizes, by market, side and price, in order of arrival."""
        collected: Queue = {}
        for listing in self.ex.listings:
            for order in listing.book.own:
                key = (order.ticker, order.side, order.price)
                collected.setdefault(key, []).append((order, order.filled))
        return collected

    def check(self) -> None:
        ex, account = self.ex, self.ex.account
        assert account.drift() == 0
        assert account.cash - account.reserved(ex.desk.resting()) >= 0
        assert (
            ex.desk._reserved.most
            == sum(map(gross, ex.desk.resting()))
            >= account.reserved(ex.desk.resting())
        )
        own = [o for x in ex.listings for o in x.book.own]
        assert {id(o) for o in own} == {id(o) for o in ex.desk.resting()}
        for order in own:
            assert order.status == "resting" and order.remaining > 0
        for listing in ex.listings:
            bid, ask = listing.book.best_bid(), listing.book.best_ask()
            assert bid is None or ask is None or bid < ask, listing.facts.ticker

    def step(self) -> bool:
        before = self.queues()
        more = self.ex.step()
        for queue in before.values():
            for (first, had), (later, later_had) in pairwise(queue):
                if later.filled > later_had:
                    assert first.remaining == 0 and first.filled >= had, (
                        "an order was filled before an earlier one at its price"
                    )
        self.check()
        return more

    # Actions

    def act(self, kind: str, *facts: Any) -> None:
        getattr(self, kind)(*facts)
        self.check()

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.step()

    def body(
        self, market: int, side: str, near: int, size: int, tif: str, stp: str, group: int
    ) -> dict[str, Any]:
        listings = list(self.ex.listings)
        listing = listings[market % len(listings)]
        middle = listing.book.best_bid() or 5_000
        price = min(max(middle // 100 + near, 1), 99)
        made: dict[str, Any] = {
            "ticker": listing.facts.ticker, "side": side, "price": f"{price / 100:.4f}", "count": f"{size / 100:.2f}",
            "time_in_force": tif, "self_trade_prevention_type": stp,
        }  # fmt: skip
        if group < len(self.groups):
            made["order_group_id"] = self.groups[group]
        return made

    def order(self, *facts: Any) -> None:
        self.call("POST", "events/orders", self.body(*facts))

    def post(self, *facts: Any) -> None:
        self.call("POST", "events/orders", self.body(*facts) | {"post_only": True})

    def reduce(self, *facts: Any) -> None:
        changes = {"reduce_only": True, "time_in_force": "immediate_or_cancel"}
        self.call("POST", "events/orders", self.body(*facts) | changes)

    def batch(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
        answer = self.call("POST", "events/orders/batched", {"orders": [self.body(*one), self.body(*other)]})
        assert len(answer["orders"]) == 2

    def pick(self, which: int) -> Any:
        resting = self.ex.desk.resting()
        return resting[which % len(resting)] if resting else None

    def cancel(self, which: int) -> None:
        order = self.pick(which)
        if order is not None:
            left = order.remaining
            answer = self.call("DELETE", f"events/orders/{order.order_id}")
            assert answer["reduced_by"] == f"{left / 100:.2f}"

    def cancel_two(self, which: int) -> None:
        items = [{"order_id": o.order_id} for o in (self.pick(which), self.pick(which + 1)) if o is not None]
        if items:
            answer = self.call("DELETE", "events/orders/batched", {"orders": items})
            assert [r["order_id"] for r in answer["orders"]] == [i["order_id"] for i in items]

    def cancel_all(self) -> None:
        assert self.call("DELETE", "events/orders") == {}
        assert not self.ex.desk.resting()

    def amend(self, which: int, near: int, more: int) -> None:
        order = self.pick(which)
        if order is None:
            return
        filled, size = order.filled, max(order.filled + order.remaining + more, 1)
        body = {
            "ticker": order.ticker, "side": order.side, "price": f"{min(max(order.price // 100 + near, 1), 99) / 100:.4f}",
            "count": f"{size / 100:.2f}", "updated_client_order_id": self.ex.new_id(),
        }  # fmt: skip
        answer = self.call("POST", f"events/orders/{order.order_id}/amend", body)
        if answer is not None and order.status == "resting":
            assert order.filled + order.remaining == order.initial == size
        if answer is not None and "fill_count" in answer:
            assert answer["fill_count"] == f"{(order.filled - filled) / 100:.2f}"

    def decrease(self, which: int, by: int) -> None:
        order = self.pick(which)
        if order is not None:
            left = max(order.remaining - by, 0)
            answer = self.call(
                "POST", f"events/orders/{order.order_id}/decrease", {"reduce_by": f"{by / 100:.2f}"}
            )
            assert answer["remaining_count"] == f"{left / 100:.2f}"

    def group(self, which: int, action: str, limit: int) -> None:
        size = {"contracts_limit_fp": f"{limit / 100:.2f}"}
        if len(self.groups) < GROUPS:
            self.groups.append(self.call("POST", "order_groups/create", size)["order_group_id"])
            return
        group = self.groups[which]
        if action == "delete":
            if self.call("DELETE", f"order_groups/{group}") is not None:
                assert not self.ex.desk.resting(group)
        else:
            self.call("PUT", f"order_groups/{group}/{action}", size if action == "limit" else {})
            if action == "trigger":
                assert not self.ex.desk.resting(group)

    # Views

    def everything(self, path: str, key: str, **query: str) -> list[dict[str, Any]]:
        collected: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.call("GET", path, limit="7", cursor=cursor, **query)
            collected += page[key]
            cursor = page["cursor"]
            if not cursor:
                return collected

    def compare(self) -> None:
        """Check that REST and stream agree."""
        streamed: dict[str, list[dict[str, Any]]] = {}
        for frame in map(json.loads, self.connection.take()):
            streamed.setdefault(frame["type"], []).append(frame["msg"])
        orders = {o["order_id"]: o for o in self.everything("orders", "orders")}
        last = {o["order_id"]: o for o in streamed.get("user_order", [])}
        alike = (
            "status", "client_order_id", "yes_price_dollars", "initial_count_fp", "fill_count_fp", "remaining_count_fp",
            "taker_fees_dollars", "maker_fees_dollars", "taker_fill_cost_dollars", "maker_fill_cost_dollars",
            "outcome_side", "last_update_time", "ticker",
        )  # fmt: skip
        assert {i: [o[f] for f in alike] for i, o in last.items()} == {
            i: [o[f] for f in alike] for i, o in orders.items()
        }
        assert len(orders) == len(self.ex.desk.orders) == len(self.ex.desk.log)
        fills = self.everything("fills", "fills")
        same = ("trade_id", "order_id", "count_fp", "yes_price_dollars", "fee_cost", "is_taker", "book_side")
        assert [[f[k] for k in same] for f in reversed(fills)] == [
            [f[k] for k in same] for f in streamed.get("fill", [])
        ]
        positions = self.everything("positions", "market_positions", settlement_status="all")
        latest = {p["market_ticker"]: p for p in streamed.get("market_position", [])}
        keys = ("position_fp", "realized_pnl_dollars", "fees_paid_dollars")
        assert {p["ticker"]: [p[k] for k in keys] for p in positions} == {
            t: [p[k] for k in keys] for t, p in latest.items()
        }
        for order_id, order in orders.items():
            own = [f for f in fills if f["order_id"] == order_id]
            assert cents(order["fill_count_fp"]) == sum(cents(f["count_fp"]) for f in own)
            paid = money(order["taker_fees_dollars"]) + money(order["maker_fees_dollars"])
            assert paid == sum(money(f["fee_cost"]) for f in own)
            assert all(money(f["fee_cost"]) >= 0 for f in own)
        resting = self.everything("orders", "orders", status="resting")
        assert {o["order_id"] for o in resting} == {o.order_id for o in self.ex.desk.resting()}
        queued = self.call("GET", "orders/queue_positions")["queue_positions"]
        assert {q["order_id"] for q in queued} == {o["order_id"] for o in resting}
        for frame in streamed.get("order_group_updates", []):
            assert ("contracts_limit_fp" in frame) == (frame["event_type"] in ("created", "limit_updated"))


def cents(text: str) -> int:
    return round(float(text) * 100)


def money(text: str) -> int:
    return round(float(text) * 1e6)


new = (
    st.integers(0, 5), st.sampled_from(["bid", "ask"]), st.integers(-6, 8), st.integers(1, 30_000),
    st.sampled_from(["good_till_canceled", "good_till_canceled", "immediate_or_cancel", "fill_or_kill"]),
    st.sampled_from(["taker_at_cross", "maker"]), st.integers(0, 2 * GROUPS),
)  # fmt: skip
resting_new = (*new[:4], st.just("good_till_canceled"), *new[5:])
actions = st.one_of(
    st.tuples(st.just("steps"), st.integers(1, 40)),
    st.tuples(st.just("order"), *new),
    st.tuples(st.just("order"), *resting_new),
    st.tuples(st.just("post"), *resting_new),
    st.tuples(st.just("reduce"), *new),
    st.tuples(st.just("batch"), st.tuples(*new), st.tuples(*new)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("cancel_two"), st.integers(0, 20)),
    st.tuples(st.just("cancel_all")),
    st.tuples(st.just("amend"), st.integers(0, 20), st.integers(-5, 5), st.integers(-10_000, 10_000)),
    st.tuples(st.just("decrease"), st.integers(0, 20), st.integers(1, 10_000)),
    st.tuples(
        st.just("group"), st.integers(0, GROUPS - 1), st.sampled_from(["trigger", "reset", "limit", "delete"]),
        st.integers(1, 40_000),
    ),
)  # fmt: skip
BUSY: list[tuple[Any, ...]] = [
    ("group", 0, "limit", 500), ("steps", 40),
    *[("order", m, side, near, 700, "good_till_canceled", "maker", 0)
      for m in range(6) for side in ("bid", "ask") for near in (0, 1)],
    ("steps", 40), ("group", 0, "reset", 1), ("amend", 0, 0, -100), ("amend", 1, 3, 500), ("steps", 40),
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(st.lists(actions, min_size=12, max_size=45), st.sampled_from([100, 1_000, 50_000]))
@example(BUSY, 50_000)
def test_any_sequence_of_actions_keeps_the_invariants(steps: list[tuple[Any, ...]], balance: int) -> None:
    run = Run(balance)
    for kind, *facts in steps:
        run.act(kind, *facts)
    run.compare()


@settings(max_examples=5, deadline=None)
@given(st.lists(actions, min_size=10, max_size=30))
def test_every_position_settles_in_the_end(steps: list[tuple[Any, ...]]) -> None:
    run = Run(50_000)
    for kind, *facts in steps:
        run.act(kind, *facts)
    while run.step():
        pass
    assert not any(h.size for h in run.ex.account.holdings.values())
    assert not run.ex.desk.resting()
    run.compare()
