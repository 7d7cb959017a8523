"""Refusals that come before a request is looked at: the four 401 bodies, and the 429, to the letter."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from scripted_day import NOW, Day

from kalshilab.exchange.rest.params import Request
from kalshilab.exchange.rest.rate_limits import Limits
from kalshilab.exchange.rest.router import WINDOW_MS, RestSide
from kalshilab.exchange.server.server import serve
from kalshilab.kalshi.auth import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, Signer, Verifier, generate_key
from kalshilab.kalshi.hosts import REST_PATH

PATH = REST_PATH + "/portfolio/balance"
WRONG = {"code": "authentication_error", "message": "authentication_error"}


def signed(day: Day, *, at: int = NOW, path: str = PATH, method: str = "GET") -> dict[str, str]:
    return dict(day.signer.headers(method, path, at))


CASES: dict[str, tuple[Any, dict[str, str]]] = {
    "nothing": (
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
    "a time that is none": (
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
    "rubbish": (
        lambda day: signed(day) | {SIGNATURE_HEADER: "%%%"},
        WRONG | {"details": "INCORRECT_API_KEY_SIGNATURE"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_401(name: str) -> None:
    import json

    day = Day()
    headers, error = CASES[name]
    answer = day.side.answer(Request("GET", PATH, {}, headers(day)))
    assert (answer.status, json.loads(answer.body)) == (401, {"error": error})


@pytest.mark.parametrize("offset", [-WINDOW_MS, 0, WINDOW_MS])
def test_within_the_window(offset: int) -> None:
    day = Day()
    assert day.side.answer(Request("GET", PATH, {}, signed(day, at=NOW + offset))).status == 200


def test_a_bucket_runs_dry_and_fills_again() -> None:
    day, now = Day(), [0]
    pem, public = generate_key("ed25519")
    signer = Signer.from_pem("key", pem.decode())
    side = RestSide(day.ex, {"key": Verifier(public)}, lambda: NOW, limits=Limits("basic", lambda: now[0]))

    def read() -> tuple[int, bytes]:
        path = REST_PATH + "/portfolio/orders"
        answer = side.answer(Request("GET", path, {}, signer.headers("GET", path, NOW)))
        return answer.status, answer.body

    statuses = [read()[0] for _ in range(61)]
    assert statuses == [200] * 60 + [429], "600 tokens, 10 a read"
    assert read()[1] == b'{"error":"too many requests"}'
    now[0] += 1_000_000
    assert [read()[0] for _ in range(21)] == [200] * 20 + [429], "200 a second come back"


async def test_a_429_on_the_wire_says_no_more() -> None:
    day = Day()
    async with serve(day.ex, tier="basic") as venue, httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            answer = await client.get(f"{venue.rest}/exchange/status")
            if answer.status_code != 200:
                break
        assert (answer.status_code, answer.content) == (429, b'{"error":"too many requests"}')
        assert not {h for h in answer.headers if h.startswith(("retry", "x-ratelimit"))}
