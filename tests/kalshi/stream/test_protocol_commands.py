"""Commands of the stream protocol: they match the specification, and each is sent once and in a valid order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from stream_talk import Talk

from kalshilab.kalshi.stream.protocol import Rejected


@pytest.fixture(scope="module")
def schemas(shared: Path) -> dict[str, Draft202012Validator]:
    yaml = pytest.importorskip("yaml")
    with (shared / "specs" / "asyncapi.yaml").open(encoding="utf-8") as file:
        components = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["components"]
    names = {
        "subscribe": "subscribeCommandPayload",
        "update_subscription": "updateSubscriptionCommandPayload",
    }
    made = {}
    for cmd, name in names.items():
        params = components["schemas"][name]["properties"]["params"]["properties"]
        made[cmd] = Draft202012Validator(
            {
                "allOf": [{"$ref": f"#/components/schemas/{name}"}],
                "properties": {"params": {"propertyNames": {"enum": sorted(params)}}},
                "propertyNames": {"enum": ["cmd", "id", "params"]},
                "components": components,
            }
        )
    return made


TICKERS = st.lists(st.sampled_from(["A-1", "B-2", "C-3"]), max_size=3, unique=True)
CHANNELS = [
    "orderbook_delta",
    "trade",
    "ticker",
    "fill",
    "user_orders",
    "market_positions",
    "market_lifecycle_v2",
]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["subscribe", "add", "delete", "snapshot", "confirm"]),
            st.sampled_from(CHANNELS),
            TICKERS,
        ),
        max_size=25,
    )
)
def test_every_command_matches_the_specification(
    schemas: dict[str, Draft202012Validator], steps: list[tuple[str, str, list[str]]]
) -> None:
    talk = Talk()
    open_: list[dict[str, Any]] = []
    for step, channel, tickers in steps:
        if step == "subscribe":
            talk.protocol.subscribe([channel], tickers)
        elif step == "add":
            talk.protocol.add_markets(channel, tickers)
        elif step == "delete":
            talk.protocol.delete_markets(channel, tickers)
        elif step == "snapshot":
            talk.protocol.get_snapshot(tickers)
        elif open_:
            asked = open_.pop(0)
            for n, name in enumerate(asked["params"]["channels"]):
                talk.hear(
                    id=asked["id"], type="subscribed", msg={"channel": name, "sid": 100 * asked["id"] + n}
                )
        new = talk.commands()
        open_ += [c for c in new if c["cmd"] == "subscribe"]
        for command in new:
            schemas[command["cmd"]].validate(command)
            assert command["params"].get("market_tickers") != []
    assert [c["id"] for c in talk.sent] == list(range(1, len(talk.sent) + 1))


def test_each_command_is_returned_once() -> None:
    talk = Talk()
    talk.protocol.subscribe(["trade", "fill"])
    assert talk.protocol.has_commands and len(talk.commands()) == 1
    assert not talk.protocol.has_commands and talk.commands() == []


def test_markets_added_before_the_confirmation_are_requested_after_it() -> None:
    talk = Talk()
    talk.protocol.add_markets("orderbook_delta", ["A"])
    talk.protocol.add_markets("orderbook_delta", ["B", "C"])
    (first,) = talk.commands()
    assert first["params"] == {
        "channels": ["orderbook_delta"],
        "market_tickers": ["A"],
        "skip_ticker_ack": True,
    }
    talk.hear(id=1, type="subscribed", msg={"channel": "orderbook_delta", "sid": 7})
    (second,) = talk.commands()
    assert second["params"] == {"sids": [7], "action": "add_markets", "market_tickers": ["B", "C"]}
    talk.protocol.delete_markets("orderbook_delta", ["A", "Z"])
    (third,) = talk.commands()
    assert third["params"] == {"sids": [7], "action": "delete_markets", "market_tickers": ["A"]}


def test_a_refused_subscription_can_be_requested_again() -> None:
    talk = Talk()
    talk.protocol.add_markets("orderbook_delta", ["A"])
    talk.commands()
    assert talk.hear(id=1, type="error", msg={"code": 8, "msg": "Unknown channel name"}) == [
        Rejected(8, "Unknown channel name", 1)
    ]
    talk.protocol.add_markets("orderbook_delta", ["A"])
    assert [c["cmd"] for c in talk.commands()] == ["subscribe"]


def test_deleting_markets_before_any_subscription_has_no_effect() -> None:
    talk = Talk()
    talk.protocol.delete_markets("orderbook_delta", ["A"])
    talk.protocol.add_markets("orderbook_delta", ["B"])
    assert [c["cmd"] for c in talk.commands()] == ["subscribe"]


def test_a_delete_before_the_confirmation_is_sent_after_it() -> None:
    talk = Talk()
    talk.protocol.add_markets("orderbook_delta", ["A", "B"])
    talk.commands()
    talk.protocol.delete_markets("orderbook_delta", ["A"])
    talk.hear(id=1, type="subscribed", msg={"channel": "orderbook_delta", "sid": 7})
    assert ["A"] in [c["params"].get("market_tickers") for c in talk.commands()]


@pytest.mark.parametrize("channel", ["trade", "ticker"])
def test_markets_of_every_channel_can_be_deleted(channel: str) -> None:
    talk = Talk().subscribed(channel, 2, "A", "B")
    talk.protocol.delete_markets(channel, ["A"])
    assert [c["params"]["action"] for c in talk.commands()] == ["delete_markets"]
