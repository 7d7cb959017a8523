"""Hosts: orders reach only demo hosts and loopback, however an address is spelt or redirected."""

from __future__ import annotations

import asyncio
import ipaddress

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError, HostRefused, KalshilabError
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.rest.client import MarketData, Rest
from kalshilab.kalshi.rest.orders import DemoOrders, OrderRequest
from kalshilab.kalshi.wire import rest as wire

PATH = "/trade-api/v2"
PROD = "api.elections.kalshi.com"
DEMO = "demo-api.kalshi.co"

PRODUCTION = [
    f"https://{PROD}{PATH}",
    f"https://external-api.kalshi.com{PATH}",
    f"http://{PROD}{PATH}",
    f"HTTPS://{PROD}{PATH}",
    f"https://{PROD.upper()}{PATH}",
    f"https://Api.Elections.Kalshi.Com{PATH}",
    f"https://{PROD}:443{PATH}",
    f"https://{PROD}:8443{PATH}",
    f"https://{PROD}:{PATH}",
    f"https://{PROD}.{PATH}",
    f"https://{PROD}..{PATH}",
    f"https://user@{PROD}{PATH}",
    f"https://user:pw@{PROD}{PATH}",
    f"https://:@{PROD}{PATH}",
    f"https://{DEMO}@{PROD}{PATH}",
    f"https://{DEMO}:443@{PROD}{PATH}",
    f"https://{DEMO}%40{PROD}{PATH}",
    f"https://{DEMO}\\@{PROD}{PATH}",
    f"https://{PROD}\\@{DEMO}{PATH}",
    f"https://{PROD}\\.{DEMO}{PATH}",
    f"https://127.0.0.1@{PROD}{PATH}",
    f"https://localhost:80@{PROD}{PATH}",
    f"https://{PROD}#@{DEMO}{PATH}",
    f"https://{PROD}?@{DEMO}{PATH}",
    f"https://{PROD}/@{DEMO}{PATH}",
    f"https://{PROD};@{DEMO}{PATH}",
    f"https://www.kalshi.com{PATH}",
    f"https://kalshi.com{PATH}",
    f"https://trading-api.kalshi.com{PATH}",
    f"wss://{PROD}/trade-api/ws/v2",
    "wss://external-api-ws.kalshi.com/trade-api/ws/v2",
    f"https://xn--{PROD}{PATH}",
    f"https://{PROD}%2e{PATH}",
    f"https://%61pi.elections.kalshi.com{PATH}",
    f"//{PROD}{PATH}",
    f"{PROD}{PATH}",
    f"https:/{PROD}{PATH}",
    f"https:///{PROD}{PATH}",
    f"https:{PROD}{PATH}",
    f"https://[{PROD}]{PATH}",
]
LOOKALIKES = [
    f"https://{DEMO}.evil.com{PATH}",
    f"https://evil.com/{DEMO}{PATH}",
    f"https://evil.com?{DEMO}{PATH}",
    f"https://evil.com#{DEMO}{PATH}",
    f"https://evil-{DEMO}{PATH}",
    f"https://x.{DEMO}{PATH}",
    f"https://demo-api.kalshi.com{PATH}",
    f"https://demo-api.kalshi.co.{PATH}",
    f"https://demo-api.kalshi.c%6f{PATH}",
    f"https://demo-api.kalshi。co{PATH}",
    f"https://demo\u2010api.kalshi.co{PATH}",
    f"https://demo-\u0430pi.kalshi.co{PATH}",
    f"https://demo-api.\u212aalshi.co{PATH}",
    f"https://demo-api.kalsh\u0131.co{PATH}",
    f"https://\uff44emo-api.kalshi.co{PATH}",
    f"https://demo-api.kalshi.co\u200b{PATH}",
    f"https://demo-api.kalshi.co\u00ad{PATH}",
    f"https://demo-api.kalshi.co\uff0f{PATH}",
    f"https://demo-api.kalshi.co\uff20evil.com{PATH}",
    f"https://xn--demo-pi-9fg.kalshi.co{PATH}",
    f"https://demo-api.kalshi.co\t{PATH}",
    f"https://demo-api\n.kalshi.co{PATH}",
    f"https://demo-api.kalshi.co\r\nHost: {PROD}{PATH}",
    f" https://demo-api.kalshi.co{PATH}",
    f"https://demo-api.kalshi.co {PATH}",
    f"https://demo-api.kalshi.co\x00{PATH}",
    f"https://demo-api.kalshi.co\x7f{PATH}",
    f"https://demo-api.kalshi.co{PATH}?host={PROD}",
    f"https://demo-api.kalshi.co{PATH}#{PROD}",
    f"https://user@demo-api.kalshi.co{PATH}",
    f"https://demo-api.kalshi.co:8443{PATH}",
    f"https://demo-api.kalshi.co:443{PATH}",
    f"https://demo-api.kalshi.co:{PATH}",
    f"https://demo-api.kalshi.co:99999{PATH}",
    f"https://demo-api.kalshi.co:x{PATH}",
    f"http://demo-api.kalshi.co{PATH}",
    f"ftp://demo-api.kalshi.co{PATH}",
    f"file://demo-api.kalshi.co{PATH}",
]
NUMBERS = [
    "http://0.0.0.0:8000", "http://0:8000", "http://[::]:8000", "http://127.1", "http://127.0.1", "http://2130706433",
    "http://0x7f000001", "http://0x7f.0.0.1", "http://0177.0.0.1", "http://017700000001", "http://127.0.0.01",
    "http://127.0.0.1.", "http://127.0.0.1.evil.com", "http://127.0.0.1@evil.com", "http://10.0.0.1", "http://192.168.1.5",
    "http://172.16.0.1", "http://169.254.169.254", "http://100.64.0.1", "http://8.8.8.8", "http://[::1%25lo]", "http://[::1",
    "http://[::2]", "http://[fe80::1]", "http://[::ffff:8.8.8.8]", "http://[64:ff9b::7f00:1]", "http://[fd00::1]",
    "http://localhost.", "http://localhost.evil.com", "http://xlocalhost", "http://localhost%2eevil.com", "http://loc\u0430lhost",
    "http://\u2460\u2461\u2466.0.0.1", "http://127\u30020.0.1", "http://127.0.0.1\\.evil.com", "http://127.0.0.1%00.evil.com",
    "ftp://127.0.0.1", "file:///127.0.0.1", "javascript:alert(1)", "", "/", "http://", "https://", "demo", "localhost:8000",
]  # fmt: skip
REFUSED = [*PRODUCTION, *LOOKALIKES, *NUMBERS]

ALLOWED = [
    f"https://demo-api.kalshi.co{PATH}",
    f"https://external-api.demo.kalshi.co{PATH}",
    f"HTTPS://demo-api.kalshi.co{PATH}",
    f"http://127.0.0.1:8080{PATH}",
    f"https://127.0.0.1{PATH}",
    f"http://127.9.8.7:1{PATH}",
    f"http://localhost:8080{PATH}",
    f"http://LocalHost:8080{PATH}",
    f"http://[::1]:8080{PATH}",
    f"http://[0:0:0:0:0:0:0:1]:8080{PATH}",
    "http://127.0.0.1:8080",
]


@pytest.fixture(scope="module")
def key() -> str:
    return generate_key("ed25519")[0].decode()


def settings(url: str, key: str, **more: object) -> Settings:
    return Settings(env={}, env_file=None, venue="demo", rest_url=url, key_id="k", private_key=key, **more)


def test_at_least_a_hundred_distinct_addresses_are_refused() -> None:
    assert len(set(REFUSED)) == len(REFUSED) >= 100


@pytest.mark.parametrize("url", REFUSED, ids=ascii)
def test_other_hosts_are_refused_for_orders(url: str) -> None:
    with pytest.raises(HostRefused) as caught:
        hosts.check(url, "orders")
    assert caught.value.purpose == "orders" and caught.value.reason


# Settings reject blank text, and strip white space around an address.
@pytest.mark.parametrize("url", [u for u in REFUSED if u.strip() == u and u], ids=ascii)
def test_an_order_client_for_a_refused_host_cannot_be_constructed(url: str, key: str) -> None:
    with pytest.raises(HostRefused):
        DemoOrders(settings(url, key))


@pytest.mark.parametrize("url", [PRODUCTION[0], LOOKALIKES[0], NUMBERS[0]])
def test_the_environment_cannot_redirect_an_order_client(
    url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("KALSHI_API_URL", "KALSHILAB_REST_URL"):
        s = Settings(env={name: url}, env_file=None, venue="demo", key_id="k", private_key=key)
        with pytest.raises(HostRefused):
            DemoOrders(s)
    monkeypatch.setenv("KALSHI_API_URL", url)
    monkeypatch.setenv("HTTPS_PROXY", f"http://{PROD}:80")
    with pytest.raises(HostRefused):
        DemoOrders(Settings(env_file=None, venue="demo", key_id="k", private_key=key))


def test_the_host_is_checked_before_the_key_is_read() -> None:
    s = Settings(
        env={}, env_file=None, venue="demo", rest_url=PRODUCTION[0], key_id="k", private_key_path="/no/such"
    )
    with pytest.raises(HostRefused):
        DemoOrders(s)


@pytest.mark.parametrize("url", REFUSED, ids=ascii)
def test_a_rest_client_for_orders_to_a_refused_host_cannot_be_constructed(url: str) -> None:
    with pytest.raises(HostRefused):
        Rest(url, purpose="orders")


@pytest.mark.parametrize("url", ALLOWED)
async def test_demo_and_loopback_are_allowed_for_orders(url: str, key: str) -> None:
    assert httpx.URL(hosts.check(url, "orders")) == httpx.URL(url)
    hosts.check(url, "data")
    async with DemoOrders(settings(url, key)):
        pass


@pytest.mark.parametrize("url", [f"https://{PROD}{PATH}", f"https://external-api.kalshi.com{PATH}"])
async def test_production_is_allowed_for_data(url: str) -> None:
    assert hosts.check(url, "data") == url
    async with MarketData(Settings(env={}, env_file=None, venue="demo", rest_url=url)):
        pass


@pytest.mark.parametrize(
    "url",
    [
        u
        for u in REFUSED
        if u not in (PRODUCTION[0], PRODUCTION[1], f"HTTPS://{PROD}{PATH}", *PRODUCTION[29:31])
    ],
    ids=ascii,
)
def test_production_is_allowed_only_in_its_plain_spelling(url: str) -> None:
    if url in (f"https://{PROD}/@{DEMO}{PATH}",):
        assert httpx.URL(hosts.check(url, "data")).host == PROD  # a path, odd as it is
        return
    with pytest.raises(HostRefused):
        hosts.check(url, "data")


@given(st.text(max_size=30))
def test_an_accepted_address_leads_to_the_host_it_names(text: str) -> None:
    known = {
        DEMO,
        "external-api.demo.kalshi.co",
        "external-api-ws.demo.kalshi.co",
        "localhost",
        "127.0.0.1",
        "::1",
    }
    for url in (
        text,
        f"https://{text}",
        f"https://{DEMO}{text}",
        f"https://{text}{DEMO}",
        f"http://127.0.0.1{text}",
    ):
        try:
            address = hosts.check(url, "orders")
        except HostRefused:
            continue
        parsed = httpx.URL(address)
        assert parsed.host in known or ipaddress.ip_address(parsed.host).is_loopback
        assert not parsed.userinfo


def test_an_error_does_not_repeat_user_info() -> None:
    with pytest.raises(HostRefused) as caught:
        hosts.check(f"https://me:secret@{PROD}{PATH}", "data")
    assert "secret" not in str(caught.value) and "secret" not in caught.value.url


def test_each_venue_has_its_default_addresses() -> None:
    rest, ws = hosts.defaults("demo")
    assert hosts.check(rest, "orders") == rest and hosts.check(ws, "orders") == ws
    for venue in ("embedded", "production", ""):
        with pytest.raises(ConfigError):
            hosts.defaults(venue)


# Redirects and paths: the requests of an existing client


class Wire(httpx.AsyncBaseTransport):
    """A transport that answers every request with one response and records it."""

    def __init__(self, status: int = 200, location: str = "", body: bytes = b"{}") -> None:
        self.seen: list[httpx.Request] = []
        self._answer = (status, {"location": location} if location else {}, body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        status, headers, body = self._answer
        return httpx.Response(status, headers=headers, content=body)


ORDER = OrderRequest(ticker="T", side="bid", price=4300, size=100, client_order_id="c1")


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "target", [f"https://{PROD}{PATH}/portfolio/events/orders", "//evil.com/", "/elsewhere", ""]
)
async def test_a_redirect_is_refused_and_not_followed(status: int, target: str, key: str) -> None:
    wire_ = Wire(status, target)
    async with DemoOrders(settings(ALLOWED[0], key), transport=wire_) as orders:
        calls = [
            lambda: orders.create(ORDER), lambda: orders.cancel("o1", ticker="T"), orders.cancel_all,
            orders.balance, lambda: orders.get("o1"), orders.list, lambda: orders.find("c1", "T"),
        ]  # fmt: skip
        for n, call in enumerate(calls, 1):
            with pytest.raises(HostRefused):
                await asyncio.wait_for(call(), 5)
            assert len(wire_.seen) == n
    assert {r.url.host for r in wire_.seen} == {DEMO}


async def test_a_redirect_of_a_public_read_is_refused() -> None:
    wire_ = Wire(302, "https://evil.com/")
    async with MarketData(Settings(env={}, env_file=None, venue="demo"), transport=wire_) as data:
        with pytest.raises(HostRefused):
            await data.market("T")
    assert len(wire_.seen) == 1


ELSEWHERE = [
    "//evil.com/x", "@evil.com/x", "@evil.com", "https://evil.com/x", f"https://{PROD}{PATH}/portfolio", ".evil.com/x",
    ":80@evil.com/", "\\@evil.com", "/../../..//evil.com", "/x?y=https://evil.com", "#@evil.com", "%40evil.com", "\t//evil.com",
]  # fmt: skip


@pytest.mark.parametrize(
    "base",
    [
        "https://demo-api.kalshi.co",
        f"https://demo-api.kalshi.co{PATH}",
        "http://127.0.0.1:8000",
        f"http://[::1]:80{PATH}",
    ],
)
@pytest.mark.parametrize("path", ELSEWHERE, ids=ascii)
async def test_no_path_leads_to_another_host(base: str, path: str, key: str) -> None:
    wire_ = Wire(body=b"{}")
    signer = Signer.from_pem("k", key)
    home = httpx.URL(base)
    async with Rest(base, signer, purpose="orders", transport=wire_) as rest:
        for call in (
            lambda: rest.get(path, dict),
            lambda: rest.post(path, dict, wire.PriceRange(start="0", end="1", step="1")),
            lambda: rest.delete(path, dict),
        ):
            try:
                await call()
            except (KalshilabError, httpx.InvalidURL):
                continue
    assert all((r.url.host, r.url.port) == (home.host, home.port) for r in wire_.seen)


@pytest.mark.parametrize("base", [f"https://{PROD}{PATH}", ALLOWED[0], ALLOWED[3]])
async def test_a_data_client_cannot_write(base: str, key: str) -> None:
    wire_ = Wire()
    async with Rest(base, Signer.from_pem("k", key), transport=wire_) as rest:
        with pytest.raises(HostRefused, match="read-only"):
            await rest.post("/portfolio/events/orders", dict, ORDER.body())
        with pytest.raises(HostRefused, match="read-only"):
            await rest.delete("/portfolio/events/orders/o1", dict)
        assert wire_.seen == []
        await rest.get("/markets", dict)
    assert [r.method for r in wire_.seen] == ["GET"]
