"""REST client: failures map to errors, reads are retried and writes never, and listings are read to their end."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import (
    ApiError,
    ConnectionFailed,
    KalshilabError,
    OutcomeUnknown,
    ProtocolError,
    RateLimited,
)
from kalshilab.kalshi.auth import Signer, Verifier, generate_key
from kalshilab.kalshi.rest.api_errors import api_error
from kalshilab.kalshi.rest.client import READ_RETRY, MarketData, Rest, pages
from kalshilab.kalshi.rest.rate_limits import AccountLimits
from kalshilab.kalshi.rest.transport import Reply
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.model import Trade

BASE = "http://127.0.0.1:9/trade-api/v2"
BODY = wire.PriceRange(start="0", end="1", step="1")
Answer = httpx.Response | Exception
Handler = Callable[[httpx.Request], Answer]


class NoWait(WallClock):
    """A machine clock on which sleeping takes no time and is recorded."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


class Script(httpx.AsyncBaseTransport):
    """Answers from a list; the last answer is repeated."""

    def __init__(self, *answers: Answer | Handler) -> None:
        self.answers, self.seen = list(answers), list[httpx.Request]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        # A response can be read once, so each request gets a new one.
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


def ok(**body: object) -> httpx.Response:
    return httpx.Response(200, content=msgspec.json.encode(body))


def bad(status: int, body: object = None) -> httpx.Response:
    return httpx.Response(
        status, content=body if isinstance(body, bytes) else msgspec.json.encode(body or {})
    )


def client(*answers: Answer | Handler, **more: object) -> tuple[Rest, Script, NoWait]:
    script, clock = Script(*answers), NoWait()
    more.setdefault("purpose", "orders")
    return Rest(BASE, clock=clock, transport=script, **more), script, clock  # type: ignore[arg-type]


# Errors


SHAPES = [
    ({"error": {"code": "invalid_order", "message": "invalid order", "details": "post only cross"}}, "invalid_order", "invalid order", "post only cross"),
    ({"error": {"code": "not_found", "message": "not found"}}, "not_found", "not found", ""),
    ({"code": "bad_request", "message": "bad request", "details": "price: string expected"}, "bad_request", "bad request", "price: string expected"),
    ({"msg": "limit must be at most 1000"}, "", "limit must be at most 1000", ""),
    ({"error": "order_already_exists"}, "order_already_exists", "", ""),
    ({"error": {"code": "not_found", "message": "m", "service": "x"}, "more": [1]}, "not_found", "m", ""),
    ({}, "", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("body", "code", "message", "details"), SHAPES)
@pytest.mark.parametrize("method", ["get", "post", "delete"])
async def test_every_shape_of_an_error_body_is_read(
    body: dict[str, object], code: str, message: str, details: str, method: str
) -> None:
    rest, script, _ = client(bad(400, body))
    call = {
        "get": lambda: rest.get("/p?x=1", dict),
        "post": lambda: rest.post("/p", dict, BODY),
        "delete": lambda: rest.delete("/p", dict),
    }
    async with rest:
        with pytest.raises(ApiError) as caught:
            await call[method]()
    error = caught.value
    assert (error.code, error.message, error.details) == (code, message, details)
    assert (error.status, error.method, error.path, error.retryable) == (400, method.upper(), "/p", False)
    assert type(error) is ApiError and len(script.seen) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": "order_already_exists", "message": "m", "details": None}},
        {"error": {"code": "order_already_exists", "message": "m", "details": {"order_id": "o1"}}},
        {"code": "order_already_exists", "message": "m", "details": ["x"]},
        {"error": {"code": "order_already_exists", "message": "m", "status": 409}},
    ],
)
async def test_a_code_is_read_from_bodies_with_other_fields(body: dict[str, object]) -> None:
    rest, _, _ = client(bad(409, body))
    async with rest:
        with pytest.raises(ApiError) as caught:
            await rest.post("/p", dict, BODY)
    assert caught.value.code == "order_already_exists"


@given(st.binary(max_size=300) | st.recursive(st.none() | st.booleans() | st.text() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.sampled_from(["error", "code", "message", "details", "msg"]), s)).map(msgspec.json.encode),
       st.integers(400, 599), st.sampled_from(["GET", "POST", "DELETE"]))  # fmt: skip
def test_any_error_body_becomes_an_api_error(content: bytes, status: int, method: str) -> None:
    error = api_error(method, "/p", Reply(status, "", content))
    assert error.status == status and str(error)
    assert isinstance(error, RateLimited) == (status == 429)
    assert isinstance(error, OutcomeUnknown) == (status >= 500 and method != "GET")


@pytest.mark.parametrize("status", [200, 400, 502])
async def test_a_body_that_is_not_utf_8_raises_a_kalshilab_error(status: int) -> None:
    rest, _, _ = client(bad(status, b'{"code":"\xff"}'))
    async with rest:
        with pytest.raises(KalshilabError):
            await rest.post("/p", wire.ErrorBody, BODY)


async def test_429_on_a_write_raises_rate_limited_and_is_not_retried() -> None:
    rest, script, clock = client(bad(429, {"error": "too many requests"}))
    async with rest:
        for write in (lambda: rest.post("/p", dict, BODY), lambda: rest.delete("/p", dict)):
            with pytest.raises(RateLimited) as caught:
                await write()
            assert caught.value.retryable and caught.value.status == 429
    assert len(script.seen) == 2 and clock.slept == []


# Retries


PASSING: list[Answer] = [
    bad(500), bad(503, {"msg": "maintenance"}), bad(429, {"error": "too many requests"}), httpx.ReadTimeout("slow"),
    httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.ReadError("reset"), httpx.RemoteProtocolError("cut"),
    httpx.PoolTimeout("full"),
]  # fmt: skip


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
async def test_a_read_is_retried_with_growing_waits(trouble: Answer) -> None:
    rest, script, clock = client(trouble, trouble, ok(x=1))
    async with rest:
        assert await rest.get("/p", dict) == {"x": 1}
    assert len(script.seen) == 3
    assert 0.1 <= clock.slept[0] <= 0.3 and 0.2 <= clock.slept[1] <= 0.6


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
async def test_a_read_gives_up_after_the_last_attempt(trouble: Answer) -> None:
    rest, script, clock = client(trouble)
    async with rest:
        with pytest.raises(KalshilabError) as caught:
            await rest.get("/p", dict)
    assert len(script.seen) == READ_RETRY.attempts and len(clock.slept) == READ_RETRY.attempts - 1
    assert isinstance(caught.value, ApiError | ConnectionFailed) and not isinstance(
        caught.value, OutcomeUnknown
    )


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "wait_s"),
    [("3", 3.0), ("86400", READ_RETRY.longest_wait_s), ("Wed, 21 Oct 2026 07:28:00 GMT", 0)],
)
async def test_a_read_waits_as_long_as_retry_after_asks(status: int, header: str, wait_s: float) -> None:
    busy = httpx.Response(status, headers={"Retry-After": header}, content=b"{}")
    rest, script, clock = client(busy, ok(x=1))
    async with rest:
        assert await rest.get("/p", dict) == {"x": 1}
    assert len(script.seen) == 2
    assert clock.slept == [wait_s] if wait_s else clock.slept[0] <= 0.3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410])
async def test_a_refused_read_is_not_retried(status: int) -> None:
    rest, script, _ = client(bad(status, {"error": {"code": "c", "message": "m"}}))
    async with rest:
        with pytest.raises(ApiError):
            await rest.get("/p", dict)
    assert len(script.seen) == 1


@pytest.mark.parametrize(
    "trouble",
    [bad(500), bad(502, b"<html>bad gateway"), bad(503), bad(504), httpx.ReadTimeout("slow"), httpx.WriteTimeout("slow"),
     httpx.ReadError("reset"), httpx.WriteError("reset"), httpx.RemoteProtocolError("server went away")],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("method", ["post", "delete"])
async def test_a_write_without_an_answer_is_sent_once_and_its_outcome_is_unknown(
    trouble: Answer, method: str
) -> None:
    rest, script, clock = client(trouble)
    async with rest:
        with pytest.raises(OutcomeUnknown) as caught:
            await (rest.post("/p", dict, BODY) if method == "post" else rest.delete("/p", dict))
    assert not caught.value.retryable
    assert len(script.seen) == 1 and clock.slept == []


@pytest.mark.parametrize(
    "trouble",
    [httpx.ConnectError("refused"), httpx.ConnectTimeout("slow"), httpx.PoolTimeout("full")],
    ids=repr,
)
async def test_a_write_that_was_not_sent_raises_connection_failed(trouble: Exception) -> None:
    rest, script, _ = client(trouble)
    async with rest:
        with pytest.raises(ConnectionFailed) as caught:
            await rest.post("/p", dict, BODY)
    assert caught.value.url == BASE and len(script.seen) == 1


@pytest.mark.parametrize("content", [b"", b"not json", b'{"order_id": 5}', b"[]", b"<html>"])
async def test_a_read_with_an_unreadable_answer_raises_protocol_error(content: bytes) -> None:
    rest, _, _ = client(httpx.Response(200, content=content))
    async with rest:
        with pytest.raises(ProtocolError):
            await rest.get("/p", wire.CreateOrderResponse)


@pytest.mark.parametrize("content", [b"", b'{"order_id": "o1", "fill_co', b"<html>"])
async def test_a_write_with_an_unreadable_answer_has_an_unknown_outcome(content: bytes) -> None:
    rest, _, _ = client(httpx.Response(201, content=content))
    async with rest:
        with pytest.raises(OutcomeUnknown):
            await rest.post("/p", wire.CreateOrderResponse, BODY)


async def test_an_unreachable_host_raises_connection_failed() -> None:
    rest = Rest("http://127.0.0.1:9/trade-api/v2", purpose="orders", clock=NoWait())
    async with rest:
        with pytest.raises(ConnectionFailed):
            await rest.post("/p", dict, BODY)


# What is sent


async def test_the_request_is_signed_over_its_path_without_query() -> None:
    pem, public = generate_key("ed25519")
    script = Script(ok())
    async with Rest(BASE, Signer.from_pem("k", pem.decode()), purpose="orders", transport=script) as rest:
        await rest.get("/portfolio/orders", dict, {"limit": 5, "ticker": "A,B", "none": None, "flag": True})
        await rest.post("/portfolio/events/orders", dict, BODY)
    read, write = script.seen
    assert dict(read.url.params) == {"limit": "5", "ticker": "A,B", "flag": "true"}
    for request in (read, write):
        headers = {k.upper(): v for k, v in request.headers.items()}
        assert Verifier(public).verify(headers, request.method, request.url.path)
    assert write.headers["content-type"] == "application/json"
    assert msgspec.json.decode(write.content) == {"start": "0", "end": "1", "step": "1"}


async def test_an_unsigned_client_sends_no_key() -> None:
    rest, script, _ = client(ok())
    async with rest:
        await rest.get("/p", dict)
    assert not [h for h in script.seen[0].headers if "kalshi" in h.lower()]


async def test_the_clients_own_buckets_are_used() -> None:
    clock = NoWait()
    limits = AccountLimits(clock)
    async with Rest(BASE, purpose="orders", clock=clock, limits=limits, transport=Script(ok())) as rest:
        await rest.get("/p", dict)
        await rest.post("/p", dict, BODY)
        await rest.delete("/p", dict)
    assert limits.read.tokens == pytest.approx(590, abs=5) and limits.write.tokens == pytest.approx(88, abs=5)


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://10.255.255.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://10.255.255.1:1")
    async with Rest(BASE, purpose="orders", clock=NoWait()) as rest:
        with pytest.raises(ConnectionFailed, match=r"cannot reach http://127\.0\.0\.1:9"):
            await rest.post("/p", dict, BODY)


# Pages


def listing(n: int, cursors: list[str]) -> Handler:
    def answer(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor", "")
        page = 0 if not cursor else cursors.index(cursor) + 1
        trade = {
            "trade_id": f"{page}-{n}", "ticker": "T", "count_fp": "1.00", "yes_price_dollars": "0.4300",
            "no_price_dollars": "0.5700", "created_time": "2026-11-22T06:30:00Z", "taker_outcome_side": "yes",
        }  # fmt: skip
        return ok(trades=[trade] * n, cursor=cursors[page] if page < len(cursors) else "")

    return answer


@pytest.mark.parametrize(("n", "cursors"), [(1, []), (3, ["a", "b", "c"]), (0, []), (0, ["a"])])
async def test_pages_are_followed_to_the_end(n: int, cursors: list[str]) -> None:
    rest, script, _ = client(listing(n, cursors))
    async with rest:
        found = [len(p.trades) async for p in pages(rest, "/t", wire.TradePage, {"ticker": "T"}, limit=7)]
    assert found == [n] * (len(cursors) + 1)
    assert [r.url.params.get("cursor") for r in script.seen] == [None, *cursors]
    assert all(r.url.params["limit"] == "7" and r.url.params["ticker"] == "T" for r in script.seen)


@pytest.mark.parametrize("cursors", [["a", "a"], ["a", "b", "a"]])
async def test_a_repeated_cursor_raises_protocol_error(cursors: list[str]) -> None:
    answers = [ok(trades=[], cursor=c) for c in cursors]
    rest, script, _ = client(*answers)
    async with rest:
        with pytest.raises(ProtocolError, match="same cursor twice"):
            async for _page in pages(rest, "/t", wire.TradePage, {}, limit=7):
                pass
    assert len(script.seen) == len(cursors)


async def test_a_page_that_fails_once_is_read_again() -> None:
    rest, script, _ = client(ok(trades=[], cursor="a"), bad(500), ok(trades=[], cursor=""))
    async with rest:
        assert len([p async for p in pages(rest, "/t", wire.TradePage, {}, limit=7)]) == 2
    assert [r.url.params.get("cursor") for r in script.seen] == [None, "a", "a"]


# Market data


MARKET = {
    "ticker": "KXHIGHNY-26NOV22-B52.5", "event_ticker": "KXHIGHNY-26NOV22", "status": "active", "yes_bid_dollars": "0.4200",
    "yes_ask_dollars": "0.4400", "close_time": "2026-11-23T04:59:00Z",
}  # fmt: skip


def data(*answers: Answer | Handler) -> tuple[MarketData, Script]:
    script = Script(*answers)
    settings = Settings(env={}, env_file=None, rest_url=BASE)
    return MarketData(settings, clock=NoWait(), transport=script), script


async def test_public_data_are_read_and_converted() -> None:
    client_, script = data(
        ok(exchange_active=True, trading_active=False),
        ok(market=MARKET),
        ok(markets=[MARKET], cursor=""),
        ok(event={"event_ticker": "E", "series_ticker": "S", "markets": [MARKET]}),
        ok(events=[{"event_ticker": "E", "series_ticker": "S"}], cursor=""),
        ok(series={"ticker": "S", "category": "Climate", "fee_multiplier": 0.5}),
        ok(
            orderbook_fp={
                "yes_dollars": [["0.4100", "10.00"], ["0.4200", "13.00"]],
                "no_dollars": [["0.5600", "1.50"]],
            }
        ),
    )
    async with client_ as d:
        status = await d.status()
        assert status.exchange_active and not status.trading_active
        market = await d.market("KXHIGHNY-26NOV22-B52.5")
        assert (market.yes_bid, market.yes_ask, market.event) == (4200, 4400, "KXHIGHNY-26NOV22")
        assert await d.markets(status="open", tickers="A,B") == [market]
        assert (await d.event("E")).markets is not None
        assert [e.event_ticker for e in await d.events(status="open")] == ["E"]
        assert (await d.series("S")).fee_multiplier == 0.5
        assert await d.orderbook("T", depth=5) == ([(4200, 1300), (4100, 1000)], [(5600, 150)])
    paths = [r.url.path.removeprefix("/trade-api/v2") for r in script.seen]
    assert paths == ["/exchange/status", "/markets/KXHIGHNY-26NOV22-B52.5", "/markets", "/events/E", "/events", "/series/S", "/markets/T/orderbook"]  # fmt: skip
    assert (
        script.seen[2].url.params["status"] == "open"
        and script.seen[3].url.params["with_nested_markets"] == "true"
    )


async def test_trades_are_yielded_page_by_page() -> None:
    client_, _ = data(listing(2, ["a"]))
    async with client_ as d:
        found = [page async for page in d.trades(ticker="T", min_ts=1)]
    assert [len(p) for p in found] == [2, 2]
    assert found[0][0] == Trade(1_795_329_000_000_000, "T", 4300, 100, "yes", "0-2")


async def test_an_unknown_market_is_an_error_with_its_status() -> None:
    client_, _ = data(bad(404, {"error": {"code": "not_found", "message": "not found"}}))
    async with client_ as d:
        with pytest.raises(ApiError) as caught:
            await d.market("X")
    assert caught.value.status == 404 and caught.value.path == "/markets/X"


@pytest.mark.parametrize("ticker", ["A?limit=1", "A#b", "../portfolio/balance", ".."])
async def test_a_ticker_stays_one_segment_of_the_path(ticker: str) -> None:
    client_, script = data(ok(market=MARKET))
    async with client_ as d:
        try:
            await d.market(ticker)
        except KalshilabError:
            return
    raw = script.seen[0].url.raw_path.decode()
    assert (
        raw.startswith("/trade-api/v2/markets/")
        and raw.count("/") == 4
        and "?" not in raw
        and not raw.endswith("/A")
    )
