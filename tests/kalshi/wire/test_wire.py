"""Wire format: the exchange's examples decode to our units and encode back unchanged."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ProtocolError, UnitError
from kalshilab.kalshi.wire import rest, stream
from kalshilab.units import PRICE, TickGrid, format_money, format_price, format_size

MARKET = (
    '{"market":{"ticker":"KXHIGHNY-26NOV22-B52.5","event_ticker":"KXHIGHNY-26NOV22","market_type":"binary","created_time":'
    '"2026-11-21T14:00:00Z","open_time":"2026-11-21T15:00:00Z","close_time":"2026-11-23T04:59:00Z","expected_expiration_time":'
    '"2026-11-23T15:00:00Z","settlement_timer_seconds":3600,"status":"active","yes_bid_dollars":"0.4200","yes_bid_size_fp":'
    '"13.00","yes_ask_dollars":"0.4400","no_bid_dollars":"0.5600","no_ask_dollars":"0.5800","last_price_dollars":"0.4300",'
    '"volume_fp":"18250.50","volume_24h_fp":"9120.00","open_interest_fp":"7400.25","notional_value_dollars":"1.0000","result":"",'
    '"can_close_early":true,"settlement_bounds_type":"default","strike_type":"between","floor_strike":52,"cap_strike":53,'
    '"price_level_structure":"deci_cent","price_ranges":[{"start":"0.0000","end":"1.0000","step":"0.0010"}],"exchange_index":0}}'
)
TRADE = (
    '{"trade_id":"d91b","ticker":"T","count_fp":"7.50","yes_price_dollars":"0.4300","no_price_dollars":"0.5700",'
    '"taker_outcome_side":"yes","taker_book_side":"bid","taker_side":"yes","created_time":"2026-11-22T14:03:11.609997Z","is_block_trade":false}'
)


def read(text: str, kind: type[Any]) -> Any:
    return msgspec.json.decode(text.encode(), type=kind)


def test_a_market_is_read_in_our_units() -> None:
    market = read(MARKET, rest.MarketResponse).market.to_model(series="KXHIGHNY", category="Climate")
    assert (market.ticker, market.event, market.series) == (
        "KXHIGHNY-26NOV22-B52.5",
        "KXHIGHNY-26NOV22",
        "KXHIGHNY",
    )
    assert (market.yes_bid, market.yes_ask, market.last_price) == (4200, 4400, 4300)
    assert (market.volume, market.volume_24h, market.open_interest) == (1_825_050, 912_000, 740_025)
    assert market.grid == TickGrid.named("deci_cent") and market.settlement is None and market.result == ""
    assert market.open_ts == rest.instant("2026-11-21T15:00:00Z") < market.close_ts < market.expected_close_ts


@pytest.mark.parametrize(
    ("result", "value", "settlement"),
    [("", None, None), (None, None, None), ("yes", None, PRICE), ("no", None, 0), ("yes", "1.0000", PRICE), ("no", "0.0000", 0),
     ("scalar", "0.3700", 3700)],
)  # fmt: skip
def test_the_settlement_of_a_market_is_its_value_or_follows_from_its_result(
    result: str | None, value: str | None, settlement: int | None
) -> None:
    market = rest.MarketBody(
        ticker="T", event_ticker="E", status="finalized", result=result, settlement_value_dollars=value
    )
    assert market.to_model().settlement == settlement


def test_a_market_with_only_the_required_fields_is_read() -> None:
    market = read(
        '{"ticker":"T","event_ticker":"E","status":"initialized","brand_new":[1,{}]}', rest.MarketBody
    ).to_model()
    assert (market.yes_bid, market.yes_ask, market.volume, market.close_ts) == (0, PRICE, 0, 0)


def test_a_trade_is_read_in_our_units() -> None:
    trade = read(TRADE, rest.TradeBody).to_model()
    assert (trade.price, trade.size, trade.taker, trade.ts) == (4300, 750, "yes", 1_795_356_191_609_997)


@pytest.mark.parametrize(
    ("fields", "taker"),
    [
        ({"taker_outcome_side": "no"}, "no"),
        ({"taker_side": "no"}, "no"),
        ({"taker_outcome_side": "yes", "taker_side": "no"}, "yes"),
    ],
)
def test_the_taker_is_read_from_the_newer_field_or_the_older_one(fields: dict[str, str], taker: str) -> None:
    base = msgspec.json.decode(TRADE)
    for name in ("taker_outcome_side", "taker_side", "taker_book_side"):
        base.pop(name, None)
    assert msgspec.convert(base | fields, rest.TradeBody).to_model().taker == taker


@pytest.mark.parametrize("side", [None, "", "unknown", "YES"])
def test_a_trade_without_a_taker_raises_protocol_error(side: str | None) -> None:
    base = msgspec.json.decode(TRADE) | {"taker_outcome_side": side, "taker_side": side}
    with pytest.raises(ProtocolError, match="must be yes or no"):
        msgspec.convert(base, rest.TradeBody).to_model()


@given(st.integers(0, PRICE), st.integers(1, 10**12), st.integers(0, 10**12))
def test_prices_sizes_and_fees_round_trip(price: int, size: int, fee: int) -> None:
    trade = rest.TradeBody(
        trade_id="t", ticker="T", count_fp=format_size(size), yes_price_dollars=format_price(price),
        no_price_dollars=format_price(PRICE - price), created_time="2026-11-22T06:30:00Z", taker_outcome_side="no",
    )  # fmt: skip
    model = read(msgspec.json.encode(trade).decode(), rest.TradeBody).to_model()
    assert (model.price, model.size) == (price, size)
    fill = rest.FillBody(
        trade_id="t", order_id="o", ticker="T", book_side="ask", outcome_side="no", count_fp=format_size(size),
        yes_price_dollars=format_price(price), no_price_dollars=format_price(PRICE - price), is_taker=False,
        fee_cost=format_money(fee), created_time="2026-11-22T06:30:00.000001Z",
    )  # fmt: skip
    got = read(msgspec.json.encode(fill).decode(), rest.FillBody).to_model()
    assert (got.price, got.size, got.fee, got.ts % 1_000_000) == (price, size, fee, 1)


@pytest.mark.parametrize("price", ["43", "1.5", "-0.1", "0.43001", "abc", ""])
def test_an_invalid_price_is_rejected(price: str) -> None:
    base = msgspec.json.decode(TRADE) | {"yes_price_dollars": price}
    with pytest.raises(UnitError):
        msgspec.convert(base, rest.TradeBody).to_model()


def test_a_number_in_place_of_a_string_is_rejected() -> None:
    base = msgspec.json.decode(TRADE) | {"yes_price_dollars": 0.43}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(base, rest.TradeBody)


@pytest.mark.parametrize(
    ("text", "us"),
    [("2026-11-22T06:30:00Z", 1795329000000000), ("2026-11-22T06:30:00.9Z", 1795329000900000), ("2026-11-22T06:30:00.900001Z", 1795329000900001),
     ("2026-11-22T01:30:00-05:00", 1795329000000000), ("2026-11-22T06:30:00.164956123Z", 1795329000164956), ("", 0), (None, 0)],
)  # fmt: skip
def test_times_are_read_in_microseconds(text: str | None, us: int) -> None:
    assert rest.instant(text) == us


@pytest.mark.parametrize("text", ["soon", "2026-11-22T06:30:00", "2026-13-01T00:00:00Z", "1795329000"])
def test_an_invalid_time_is_rejected(text: str) -> None:
    with pytest.raises(ProtocolError, match="invalid time"):
        rest.instant(text)


def test_a_balance_without_dollars_uses_its_cents() -> None:
    balance = rest.BalanceBody(balance=9801, portfolio_value=198, updated_ts=1)
    assert balance.to_model().cash == 98_010_000
    full = read(
        '{"balance":9801,"balance_dollars":"98.0186","portfolio_value":198,"updated_ts":1781159348,'
        '"balance_breakdown":[{"exchange_index":0,"balance":"98.0186"}]}',
        rest.BalanceBody,
    )
    assert (
        full.to_model().cash == 98_018_600
        and read(msgspec.json.encode(full).decode(), rest.BalanceBody) == full
    )


def test_positions_of_markets_and_events_are_read() -> None:
    text = (
        '{"cursor":"","market_positions":[{"ticker":"T","exchange_index":0,"position_fp":"3.00","total_traded_dollars":"2.500000",'
        '"market_exposure_dollars":"2.500000","realized_pnl_dollars":"0.000000","fees_paid_dollars":"0.018900","last_updated_ts":'
        '"2026-11-22T06:29:30.165032Z"}],"event_positions":[{"event_ticker":"E","total_cost_dollars":"2.500000","total_cost_shares_fp":'
        '"3.00","event_exposure_dollars":"2.500000","realized_pnl_dollars":"0.000000","fees_paid_dollars":"0.018900"}]}'
    )
    page = read(text, rest.PositionPage)
    (position,) = (p.to_model() for p in page.market_positions)
    assert (position.ticker, position.size, position.cost, position.fees) == ("T", 300, 2_500_000, 18_900)
    assert msgspec.json.decode(msgspec.json.encode(page)) == msgspec.json.decode(text)


def test_an_order_omits_absent_fields() -> None:
    body = rest.CreateOrder(
        ticker="T", side="bid", count="1.00", price="0.4300", time_in_force="good_till_canceled",
        self_trade_prevention_type="taker_at_cross", client_order_id="c",
    )  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(body)).keys() == {
        "ticker", "side", "count", "price", "time_in_force", "self_trade_prevention_type", "client_order_id",
    }  # fmt: skip
    answer = rest.CreateOrderResponse(order_id="o", fill_count="0.00", remaining_count="1.00", ts_ms=1)
    assert b"average" not in msgspec.json.encode(answer)


def test_an_empty_order_book_encodes_two_empty_lists() -> None:
    book = read('{"orderbook_fp":{}}', rest.OrderbookResponse).orderbook_fp
    assert (book.yes_dollars, book.no_dollars) == ([], [])
    assert msgspec.json.encode(rest.Orderbook()) == b'{"yes_dollars":[],"no_dollars":[]}'


def test_a_scalar_settlement_without_a_value_uses_the_revenue() -> None:
    settlement = rest.SettlementBody(
        ticker="T", event_ticker="E", market_result="scalar", yes_count_fp="2.00", yes_total_cost_dollars="1.000000",
        no_count_fp="0.00", no_total_cost_dollars="0.000000", revenue=74, settled_time="2026-11-23T16:10:45Z", fee_cost="0",
    )  # fmt: skip
    assert settlement.to_model().settlement == 3700


COMMANDS = [
    ('{"cmd":"subscribe","id":1,"params":{"channels":["trade"]}}', stream.Command(cmd="subscribe", id=1, params=stream.CommandParams(channels=["trade"]))),
    ('{"cmd":"list_subscriptions","id":3}', stream.Command(cmd="list_subscriptions", id=3)),
    ('{"cmd":"unsubscribe","id":2,"params":{"sids":[1,2]}}', stream.Command(cmd="unsubscribe", id=2, params=stream.CommandParams(sids=[1, 2]))),
]  # fmt: skip


@pytest.mark.parametrize(("text", "command"), COMMANDS, ids=[c.cmd for _, c in COMMANDS])
def test_commands_encode_and_decode_alike(text: str, command: stream.Command) -> None:
    assert msgspec.json.encode(command).decode() == text
    assert read(text, stream.Command) == command


@pytest.mark.parametrize(
    "kind",
    [getattr(stream, n) for n in stream.__all__ if n not in ("Command", "CommandParams")],
    ids=lambda k: k.__name__,
)
def test_stream_messages_ignore_unknown_fields(kind: type[msgspec.Struct]) -> None:
    required = {
        f.name: True if f.type == "bool" or f.type is bool else "0"
        for f in msgspec.structs.fields(kind)
        if f.required
    }
    plain = msgspec.convert(required, kind)
    assert msgspec.convert(required | {"brand_new": {"a": [1]}}, kind) == plain
    assert msgspec.json.decode(msgspec.json.encode(plain), type=kind) == plain
