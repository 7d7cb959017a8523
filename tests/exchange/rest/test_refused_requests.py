"""Refusals before a request is processed: the exact bodies of the four 401 answers and of the 429."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from scripted_day import NOW, Day

from kalshilab.clock import SimClock
from kalshilab.exchange.rest.params import Request
from kalshilab.exchange.rest.rate_limits import RateLimiter
from kalshilab.exchange.rest.router import WINDOW_MS, RestRouter
from kalshilab.exchange.server.server import serve
from kalshilab.kalshi.auth import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, Signer, Verifier, generate_key
from kalshilab.kalshi.hosts import REST_PATH

PATH = REST_PATH + "/portfolio/balance"
WRONG = {"code": "authentication_error", "message": "authentication_error"}


def signed(day: Day, *, at: int = NOW, path: str = PATH, method: str = "GET") -> dict[str, str]:
    return dict(day.signer.headers(method, path, at))


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "no headers": (
        lambda day: {},
        {"code": "signature_is_missing_from_headers", "message": "signature is missing from headers"},
    ),
    "no signature": (
        lambda day: {k: v for k, v in signed(day).items() if k != SIGNATURE_HEADER},
        {"code": "signature_is_missing_from_headers", "message": "signature is missing from headers"},
    ),
    "too early": (
        lambda day: signed(day, at=NOW - WINDOW_MS - 1),
        {"code": "header_timestamp_expired", "message": "header timestamp expired"},
    ),
    "too late": (
        lambda day: signed(day, at=NOW + WINDOW_MS + 1),
        {"code": "header_timestamp_expired", "message": "header timestamp expired"},
    ),
    "an invalid time": (
        lambda day: signed(day) | {TIME_HEADER: "soon"},
        {"code": "header_timestamp_expired", "message": "header timestamp expired"},
    ),
    "an unknown key": (lambda day: signed(day) | {KEY_HEADER: "another"}, WRONG | {"details": "NOT_FOUND"}),
    "another path's signature": (
        lambda day: signed(day, path=PATH + "s"),
        WRONG | {"details": "INCORRECT_API_KEY_SIGNATURE"},
    ),
    "another method's signature": (
        lambda day: signed(day, method="POST"),
        WRONG | {"details": "INCORRECT_API_KEY_SIGNATURE"},
    ),
    "another time's signature": (
        lambda day: signed(day) | {TIME_HEADER: str(NOW + 1)},
        WRONG | {"details": "INCORRECT_API_KEY_SIGNATURE"},
    ),
    "an invalid signature": (
        lambda day: signed(day) | {SIGNATURE_HEADER: "%%%"},
        WRONG | {"details": "INCORRECT_API_KEY_SIGNATURE"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_an_invalid_signature_is_answered_401_with_the_reason(name: str) -> None:
    day = Day()
    headers, error = CASES[name]
    answer = day.side.answer(Request("GET", PATH, {}, headers(day)))
    assert (answer.status, json.loads(answer.body)) == (401, {"error": error})


@pytest.mark.parametrize("offset", [-WINDOW_MS, 0, WINDOW_MS])
def test_the_signature_window_is_inclusive(offset: int) -> None:
    day = Day()
    assert day.side.answer(Request("GET", PATH, {}, signed(day, at=NOW + offset))).status == 200


def test_an_empty_bucket_is_answered_429_until_it_refills() -> None:
    day, now = Day(), [0]
    pem, public = generate_key("ed25519")
    signer = Signer.from_pem("key", pem.decode())
    side = RestRouter(
        day.ex, {"key": Verifier(public)}, lambda: NOW, limits=RateLimiter("basic", lambda: now[0])
    )

    def read() -> tuple[int, bytes]:
        path = REST_PATH + "/portfolio/orders"
        answer = side.answer(Request("GET", path, {}, signer.headers("GET", path, NOW)))
        return answer.status, answer.body

    statuses = [read()[0] for _ in range(61)]
    assert statuses == [200] * 60 + [429], "600 tokens at 10 per read"
    assert read()[1] == b'{"error":"too many requests"}'
    now[0] += 1_000_000
    assert [read()[0] for _ in range(21)] == [200] * 20 + [429], "200 tokens refill per second"


async def test_a_429_has_no_retry_header() -> None:
    day = Day()
    # The clock stands still, so that no token refills on a slow machine.
    async with (
        serve(day.ex, tier="basic", key_kind="ed25519", clock=SimClock()) as venue,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        for _ in range(60):
            assert (await client.get(f"{venue.rest}/exchange/status")).status_code == 200
        answer = await client.get(f"{venue.rest}/exchange/status")
        assert (answer.status_code, answer.content) == (429, b'{"error":"too many requests"}')
        assert not {h for h in answer.headers if h.startswith(("retry", "x-ratelimit"))}
