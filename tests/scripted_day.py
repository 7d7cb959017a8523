"""An exchange without a server, a signing client, and a stream connection."""

from __future__ import annotations

import json
from typing import Any

from kalshilab.exchange import Exchange
from kalshilab.exchange.rest.params import Request
from kalshilab.exchange.rest.router import RestRouter
from kalshilab.kalshi.auth import Signer, Verifier, generate_key
from kalshilab.kalshi.hosts import REST_PATH
from kalshilab.tape import sample

NOW = 1_795_329_000_000
"""Machine time in milliseconds, which stands still."""


class Day:
    """An exchange, a signed REST client and a connection that receives every message."""

    def __init__(self, **options: Any) -> None:
        tape, markets = sample()
        self.ex = Exchange(tape, markets, seed=1, **options)
        pem, public = generate_key("ed25519")
        self.signer = Signer.from_pem("key", pem.decode())
        self.side = RestRouter(self.ex, {"key": Verifier(public)}, lambda: NOW)
        self.connection = self.ex.hub.connect()
        self.frames: list[bytes] = []
        self.orders = 0
        self.positions: Any = None

    def call(
        self, method: str, path: str, body: dict[str, Any] | None = None, **query: str
    ) -> tuple[int, Any]:
        """Send a signed request with a JSON body; return the status and the decoded body of the response."""
        return self.send(method, path, tuple(query.items()), json.dumps(body).encode() if body else b"")

    def send(
        self, method: str, path: str, pairs: tuple[tuple[str, str], ...] = (), body: bytes = b""
    ) -> tuple[int, Any]:
        """Send a signed request with any query and body; return the status and the decoded body of the response."""
        headers = self.signer.headers(method, REST_PATH + path, NOW)
        answer = self.side.answer(Request(method, REST_PATH + path, dict(pairs), headers, body, pairs))
        return answer.status, json.loads(answer.body) if answer.body else None

    def command(self, **command: Any) -> None:
        self.connection.receive(json.dumps(command))

    def play(self, steps: int) -> None:
        for _ in range(steps):
            if not self.ex.step():
                break
        self.frames += self.connection.take()

    def order(self, ticker: str, **changes: Any) -> tuple[int, Any]:
        self.orders += 1
        body = {
            "ticker": ticker, "side": "bid", "count": "10.00", "price": "0.5000",
            "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
            "client_order_id": f"c{self.orders}",
        }  # fmt: skip
        return self.call("POST", "/portfolio/events/orders", body | changes)
