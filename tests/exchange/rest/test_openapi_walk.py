"""A random walk over the contract's paths, with values inside and outside its schemas.

No request causes a server error, and every body has the shape that the contract gives it.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

from scripted_day import Day

NOT_SERVED = (
    "/communications", "/api_keys", "/fcm", "/live_data", "/milestones", "/structured_targets", "/search",
    "/incentive_programs", "/multivariate_event_collections", "/events/multivariate", "/portfolio/intra_exchange",
    "/portfolio/subaccounts", "/portfolio/deposits", "/portfolio/withdrawals", "/portfolio/summary",
    "/portfolio/target_balance_allocation", "/account/api_usage_level", "/events/{event_ticker}/metadata",
    "/series/{series_ticker}/events/{ticker}/forecast_percentile_history",
)  # fmt: skip
"""Paths that the exchange leaves out, because paper trading does not need them."""
METHODS = ("get", "post", "put", "delete")


def resolved(document: dict[str, Any], node: Any) -> Any:
    """Return a schema or parameter with its references resolved, one level deep."""
    while isinstance(node, dict) and "$ref" in node:
        target = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        node = target
    return node


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Return method, path and operation of every served operation."""
    return [
        (method, path, item[method] | {"parameters": item.get("parameters", []) + item[method].get("parameters", [])})
        for path, item in document["paths"].items()
        if not path.startswith(NOT_SERVED)
        for method in METHODS
        if method in item
    ]  # fmt: skip


def test_the_walk_covers_most_of_the_contract(contract: Any) -> None:
    assert len(operations(contract.openapi)) >= 45


class Walker:
    """A generator of requests: mostly known names and values within the schema, and sometimes invalid ones."""

    def __init__(self, day: Day, document: dict[str, Any], seed: int) -> None:
        self.day, self.document, self.random = day, document, random.Random(seed)
        self.groups: list[str] = []

    def chance(self, of: float) -> bool:
        return self.random.random() < of

    def focus(self, path: str) -> None:
        """Choose the market and the order of a request, so that its parts mostly fit together."""
        ex = self.day.ex
        listings = list(ex.listings)
        archived = [x for x in listings if ex.archived(x)]
        pool = archived if path.startswith("/historical") and archived else listings[-40:]
        market = self.random.choice(pool)
        resting = ex.desk.resting()
        self.order = self.random.choice(resting).order_id if resting else "no-such-order"
        if "{order_id}" in path and resting:
            market = ex.listings.get(ex.desk.orders[self.order].ticker) or market
        self.about = {
            "event": market.facts.event,
            "series": market.facts.series,
            "ticker": market.facts.ticker,
        }
        self.others = [{k: getattr(x.facts, k) for k in self.about} for x in listings[-12:]]

    def known(self, name: str) -> list[str]:
        """Return values that exist on the exchange under this name."""
        if name in ("order_id", "order_ids"):
            return [*[self.order] * 8, *list(self.day.ex.desk.orders)[-1:], "no-such-order"]
        if name in ("order_group_id", "id"):
            return [*self.groups[-1:] * 8, *self.groups[-3:], "no-such-group"]
        kind = next((k for k in self.about if k in name), None)
        if kind is None:
            return []
        return [*[self.about[kind]] * 8, *(o[kind] for o in self.others[:2])]

    def value(self, name: str, schema: dict[str, Any], nonsense: bool) -> Any:
        """Return a value for a field or parameter."""
        schema = resolved(self.document, schema)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.value(name, self.random.choice(schema[key]), nonsense)
        if nonsense and self.chance(0.25):
            return self.random.choice(
                ["", "x", "-1", "1e9", 10**20, -(10**20), 0.5, None, [], {}, True, "\x00"]
            )
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "boolean":
            return self.chance(0.5)
        if name == "period_interval":
            return self.random.choice([1, 60, 60, 1440, 7])
        if name in ("subaccount", "exchange_index") and self.chance(0.9):
            return 0
        if kind == "integer":
            if "ts" in name or "time" in name:
                return self.day.ex.now // 1_000_000 + self.random.randint(-86_400, 86_400)
            low, high = schema.get("minimum", 0), schema.get("maximum", 60)
            return self.random.randint(low, high) if self.chance(0.9) else self.random.randint(-2, 1100)
        if kind == "number":
            return self.random.uniform(-10, 100)
        if kind == "array":
            return [self.value(name, schema["items"], False) for _ in range(self.random.randint(0, 3))]
        if kind == "object" or "properties" in schema:
            return self.object(schema, False)
        if known := self.known(name):
            return self.random.choice(known)
        if "price" in name or "dollars" in name:
            return f"{self.random.randint(-1, 101) / 100:.4f}"
        if "count" in name or "fp" in name or "reduce" in name or "limit" in name:
            return f"{self.random.randint(-1, 20)}.00"
        return "".join(self.random.choices("abcXYZ019-_ ", k=self.random.randint(0, 12)))

    def object(self, schema: dict[str, Any], nonsense: bool) -> dict[str, Any]:
        """Return a JSON object that follows a schema."""
        schema = resolved(self.document, schema)
        return {
            name: self.value(name, field, nonsense)
            for name, field in schema.get("properties", {}).items()
            if self.chance(0.97 if name in schema.get("required", ()) else 0.2)
        }

    def request(self, path: str, operation: dict[str, Any]) -> tuple[str, tuple[tuple[str, str], ...], bytes]:
        """Return a path, a query and a body."""
        nonsense = self.chance(0.2)
        self.focus(path)
        pairs: list[tuple[str, str]] = []
        for parameter in operation["parameters"]:
            parameter = resolved(self.document, parameter)
            name, schema = parameter["name"], parameter.get("schema", {})
            if parameter["in"] == "path":
                # In the paths of events the parameter is called ticker too.
                kind = "event_ticker" if name == "ticker" and "/events/{ticker}" in path else name
                path = path.replace("{" + name + "}", self.random.choice(self.known(kind)))
            elif parameter["in"] == "query" and self.chance(0.95 if parameter.get("required") else 0.15):
                value = self.value(name, schema, nonsense)
                values = value if isinstance(value, list) else [value]
                pairs += [(name, str(v).lower() if isinstance(v, bool) else str(v)) for v in values]
        body = b""
        content = resolved(self.document, operation.get("requestBody", {})).get("content", {})
        if "application/json" in content:
            body = json.dumps(self.object(content["application/json"]["schema"], nonsense)).encode()
            if nonsense and self.chance(0.3):
                body = self.random.choice(
                    [body[:-1], b"", b"[]", b"null", b"\xff", b'{"a":' * 50, b'{"a":' * 50_000]
                )
        return path, tuple(pairs), body


def error_shape(status: int, body: Any) -> bool:
    """Return whether a body has one of the exchange's four error shapes."""
    if not isinstance(body, dict):
        return False
    error = body.get("error")
    if isinstance(error, dict):
        return {"code", "message"} <= error.keys() <= {"code", "message", "details"}
    if isinstance(error, str):
        return status == 429 and body == {"error": "too many requests"}
    return body.keys() == {"msg"} or {"code", "message"} <= body.keys() <= {"code", "message", "details"}


def test_a_long_walk_has_no_server_error_and_every_operation_succeeds(contract: Any) -> None:
    """Send ten thousand requests over two exchange days; every served operation succeeds at least once."""
    served = operations(contract.openapi)
    seen: dict[tuple[str, str], set[int]] = {(m, p): set() for m, p, _ in served}
    # Operations that create orders and groups are drawn more often than those that remove them.
    makers = {("post", "/portfolio/events/orders"), ("post", "/portfolio/order_groups/create")}
    drawn = [*served, *[o for o in served if o[:2] in makers] * 4]
    validated: Counter[tuple[str, str]] = Counter()
    for seed in range(2):
        day = Day(archive_after_us=86_400_000_000)
        day.play(6_000)
        walker = Walker(day, contract.openapi, seed)
        for _ in range(5_000):
            method, path, operation = walker.random.choice(drawn)
            made, pairs, body = walker.request(path, operation)
            status, answer = day.send(method.upper(), made, pairs, body)
            day.play(walker.random.randint(0, 1))
            seen[method, path].add(status)
            note = (method, made, pairs, body, status, answer)
            assert status < 500, note
            if status < 300:
                validated[method, path] += 1
                if answer is not None and validated[method, path] <= 25:
                    contract.body(method, path, status, answer)
                if path == "/portfolio/order_groups/create":
                    walker.groups.append(answer["order_group_id"])
            else:
                assert error_shape(status, answer), note
                assert (answer.get("error") or {}).get("message") != "no such path", note
    never = sorted(f"{m} {p}" for (m, p), statuses in seen.items() if not any(s < 300 for s in statuses))
    assert not never, f"operations without a success: {never}"
