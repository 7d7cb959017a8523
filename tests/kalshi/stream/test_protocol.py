"""Stream protocol without sockets: lost frames are detected, and no book is built across a gap.

Every frame recorded from the exchange decodes.
"""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_talk import Talk, delta, snapshot

from kalshilab.errors import ProtocolError
from kalshilab.kalshi.stream.protocol import (
    BookDelta,
    BookSnapshot,
    EventLifecycle,
    FeedGap,
    Lifecycle,
    PositionUpdate,
    Rejected,
    StreamProtocol,
    Ticker,
)
from kalshilab.market.book import Book
from kalshilab.market.model import Fill, Order, Trade
from kalshilab.units import PRICE, format_price, format_size

# Decoding


EXAMPLES: list[tuple[str, Any]] = [
    (
        '{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"M","market_id":"9b","clock":41,"yes_dollars_fp":'
        '[["0.4100","10.00"],["0.4200","13.00"]],"no_dollars_fp":[["0.5600","17.00"]]}}',
        BookSnapshot("M", [(4100, 1000), (4200, 1300)], [(5600, 1700)]),
    ),
    ('{"type":"orderbook_snapshot","sid":1,"seq":1,"msg":{"market_ticker":"M"}}', BookSnapshot("M", [], [])),
    (
        '{"type":"orderbook_delta","sid":1,"seq":2,"msg":{"market_ticker":"M","clock":4,"price_dollars":"0.5600","delta_fp":"-4.00",'
        '"side":"no","client_order_id":"8c35","subaccount":0,"ts":"2026-11-22T06:30:00.900Z","ts_ms":1795329000900}}',
        BookDelta("M", "no", 5600, -400, 1_795_329_000_900_000, "8c35"),
    ),
    (
        '{"type":"ticker","sid":3,"msg":{"market_id":"9b","market_ticker":"M","price_dollars":"0.4400","yes_bid_dollars":"0.4200",'
        '"yes_ask_dollars":"0.4400","volume_fp":"18254.50","open_interest_fp":"7404.25","dollar_volume":9127,"ts":1795329000,"ts_ms":1795329000900}}',
        Ticker("M", 4400, 4200, 4400, 1_825_450, 740_425, 1_795_329_000_900_000),
    ),
    (
        '{"type":"trade","sid":2,"seq":1,"msg":{"trade_id":"d91b","market_ticker":"M","yes_price_dollars":"0.4400","no_price_dollars":'
        '"0.5600","count_fp":"4.00","taker_side":"yes","taker_outcome_side":"yes","is_block_trade":false,"ts":1795329000,"ts_ms":1795329000900}}',
        Trade(1_795_329_000_900_000, "M", 4400, 400, "yes", "d91b"),
    ),
    (
        '{"type":"trade","sid":2,"msg":{"market_ticker":"M","yes_price":44,"yes_price_dollars":"0.440","count":4,"count_fp":"4.00","taker_side":"no","ts":1769000000}}',
        Trade(1_769_000_000_000_000, "M", 4400, 400, "no", ""),
    ),
    (
        '{"type":"fill","sid":5,"msg":{"trade_id":"d91b","order_id":"3b23","client_order_id":"8c35","market_ticker":"M","is_taker":true,"side":'
        '"yes","action":"buy","outcome_side":"yes","book_side":"bid","yes_price_dollars":"0.4400","count_fp":"4.00","fee_cost":"0.069000",'
        '"post_position_fp":"-4.00","ts":1795329000,"ts_ms":1795329000900,"subaccount":0}}',
        Fill(trade_id="d91b", order_id="3b23", ticker="M", side="bid", price=4400, size=400, fee=69_000, is_taker=True,
             ts=1_795_329_000_900_000, client_order_id="8c35", position=-400),
    ),
    (
        '{"type":"user_order","sid":6,"msg":{"order_id":"3b23","user_id":"f5","client_order_id":"8c35","ticker":"M","status":"resting","side":"yes",'
        '"is_yes":true,"outcome_side":"yes","book_side":"bid","yes_price_dollars":"0.4400","initial_count_fp":"10.00","fill_count_fp":"4.00",'
        '"remaining_count_fp":"6.00","taker_fees_dollars":"0.069000","maker_fees_dollars":"0.000001","created_ts_ms":1795329000900,'
        '"last_updated_ts_ms":1795329000901,"last_update_reason":"Trade","subaccount_number":0}}',
        Order(order_id="3b23", ticker="M", side="bid", price=4400, status="resting", initial=1000, filled=400, remaining=600,
              client_order_id="8c35", fees=69_001, created_ts=1_795_329_000_900_000, updated_ts=1_795_329_000_901_000, reason="Trade"),
    ),
    (
        '{"type":"market_position","sid":9,"msg":{"user_id":"f5","market_ticker":"M","position_fp":"-4.00","position_cost_dollars":"1.7600",'
        '"realized_pnl_dollars":"-0.0100","fees_paid_dollars":"0.0690","position_fee_cost_dollars":"0.0690","volume_fp":"4.00"}}',
        PositionUpdate("M", -400, 1_760_000, -10_000, 69_000),
    ),
    (
        '{"type":"event_lifecycle","sid":4,"seq":9,"msg":{"event_ticker":"E","title":"High?","subtitle":"On Nov 22","series_ticker":"S","strike_date":1795323600}}',
        EventLifecycle("E", "S", "High?"),
    ),
    ('{"id":6,"type":"error","sending_ts_ms":1,"msg":{"code":7,"msg":"Unknown subscription ID"}}', Rejected(7, "Unknown subscription ID", 6)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "event"), EXAMPLES, ids=lambda v: type(v).__name__ if not isinstance(v, str) else ""
)
def test_a_frame_becomes_an_event_in_our_units(frame: str, event: Any) -> None:
    for form in (frame, frame.encode(), (frame + "\n").encode()):
        talk = Talk()
        talk.protocol.receive(form)
        assert talk.events == [event]


LIFE: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"event_type": "created", "open_ts": 10, "close_ts": 20, "additional_metadata": {"event_ticker": "E", "title": "x", "floor_strike": 52, "can_close_early": True}},
     {"ts": 10_000_000, "event": "E", "open_ts": 10_000_000, "close_ts": 20_000_000, "settlement": None}),
    ({"event_type": "activated", "is_deactivated": False}, {"ts": 0, "close_ts": 0}),
    ({"event_type": "deactivated", "is_deactivated": True}, {"ts": 0}),
    ({"event_type": "close_date_updated", "close_ts": 30}, {"close_ts": 30_000_000}),
    ({"event_type": "determined", "result": "yes", "determination_ts": 40, "settlement_value": "1.0000"}, {"ts": 40_000_000, "result": "yes", "settlement": PRICE}),
    ({"event_type": "determined", "result": "no", "determination_ts": 40}, {"result": "no", "settlement": 0}),
    ({"event_type": "determined", "result": "scalar", "determination_ts": 40, "settlement_value": "0.3700"}, {"settlement": 3700}),
    ({"event_type": "settled", "settled_ts": 50}, {"ts": 50_000_000, "settlement": None}),
    ({"event_type": "price_level_structure_updated", "price_level_structure": "deci_cent", "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}]}, {}),
    ({"event_type": "metadata_updated", "strike_type": "between", "floor_strike": 52.5, "custom_strike": {"a": 1}}, {}),
    ({"event_type": "a_new_kind", "new": [1]}, {}),
]  # fmt: skip


@pytest.mark.parametrize(("msg", "facts"), LIFE, ids=[m["event_type"] for m, _ in LIFE])
def test_lifecycle_messages_become_events(msg: dict[str, Any], facts: dict[str, Any]) -> None:
    (event,) = Talk().hear(type="market_lifecycle_v2", sid=4, seq=1, msg={"market_ticker": "M", **msg})
    assert isinstance(event, Lifecycle) and (event.kind, event.ticker) == (msg["event_type"], "M")
    assert {name: getattr(event, name) for name in facts} == facts


@pytest.mark.parametrize(
    "frame",
    ['{"id":4,"type":"ok","sid":1,"seq":17,"msg":{"market_tickers":["A"]}}', '{"id":3,"type":"ok","msg":[{"channel":"trade","sid":2}]}',
     '{"id":2,"type":"unsubscribed","sid":2,"seq":7}', '{"type":"ok","market_tickers":["A"]}'],
)  # fmt: skip
def test_confirmations_without_content_emit_no_event(frame: str) -> None:
    talk = Talk()
    talk.protocol.receive(frame)
    assert talk.events == [] and talk.protocol.unknown == 0


def test_an_unknown_type_is_counted_and_ignored() -> None:
    talk = Talk()
    assert talk.hear(type="brand_new", sid=1, msg={"a": 1}) == []
    assert talk.protocol.unknown == 1


BROKEN = [
    "", "\n", "nonsense", "[1]", "null", "5", "{}", '{"type":5}', '{"sid":1}', '{"type":"trade"}', '{"type":"trade","msg":null}',
    '{"type":"trade","msg":{}}', '{"type":"trade","msg":{"market_ticker":"M"}}', '{"type":"fill","sid":"x"}',
    '{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"M","yes_price_dollars":"2","count_fp":"1.00","taker_side":"yes"}}',
    '{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"M","yes_price_dollars":"0.4","count_fp":"x","taker_side":"yes"}}',
    '{"type":"orderbook_delta","sid":1,"seq":1}', b"\xff\xfe",
    pytest.param(
        b'{"type":"trade","msg":{"market_ticker":"\xff"}}',
    ),
]  # fmt: skip


@pytest.mark.parametrize("frame", BROKEN, ids=ascii)
def test_an_invalid_frame_raises_protocol_error(frame: str | bytes) -> None:
    with pytest.raises(ProtocolError):
        Talk().protocol.receive(frame)


@given(
    st.binary(max_size=80)
    | st.text(max_size=80)
    | st.sampled_from([e for e, _ in EXAMPLES]).flatmap(lambda e: st.integers(0, len(e)).map(lambda n: e[:n]))
)
def test_any_frame_is_decoded_or_raises_protocol_error(frame: bytes | str) -> None:
    try:
        Talk().protocol.receive(frame)
    except ProtocolError as error:
        assert len(error.excerpt) <= 120


@pytest.mark.parametrize("taker", [{}, {"taker_side": ""}, {"taker_outcome_side": "unknown"}])
def test_a_trade_without_a_taker_is_dropped_and_counted(taker: dict[str, str]) -> None:
    talk = Talk()
    try:
        events = talk.hear(
            type="trade",
            sid=1,
            seq=1,
            msg={"market_ticker": "M", "yes_price_dollars": "0.4", "count_fp": "1", **taker},
        )
    except ProtocolError:
        return
    assert events == []


def test_a_delta_without_a_side_raises_protocol_error() -> None:
    with pytest.raises(ProtocolError):
        Talk().hear(**delta(1, 1, side="maybe"))


@pytest.mark.parametrize(
    "msg",
    [{"event_type": "created", "open_ts": None}, {"event_type": "determined", "settlement_value": None}],
)
def test_null_means_absent(msg: dict[str, Any]) -> None:
    assert len(Talk().hear(type="market_lifecycle_v2", sid=4, seq=1, msg={"market_ticker": "M", **msg})) == 1


def test_an_error_of_the_handler_is_not_a_protocol_error() -> None:
    def handler(event: Any) -> None:
        event.no_such_field  # noqa: B018

    with pytest.raises(AttributeError):
        StreamProtocol(handler).receive(EXAMPLES[0][0])


# Sequence


def test_a_gap_is_reported_and_new_snapshots_are_requested() -> None:
    talk = Talk().subscribed("orderbook_delta", 1, "A", "B")
    assert [type(e) for e in talk.hear(**snapshot(1, 1, "A"))] == [BookSnapshot]
    assert [type(e) for e in talk.hear(**snapshot(1, 2, "B"))] == [BookSnapshot]
    assert len(talk.hear(**delta(1, 3))) == 1
    assert talk.hear(**delta(1, 6)) == [FeedGap(1, "orderbook_delta", ("A", "B"), 4, 6)]
    (ask,) = talk.commands()
    assert ask["params"] == {"sids": [1], "action": "get_snapshot", "market_tickers": ["A", "B"]}
    assert talk.hear(**delta(1, 7)) == [] and talk.hear(**delta(1, 8, "B")) == []
    assert len(talk.hear(**snapshot(1, 9, "A"))) == 1
    assert len(talk.hear(**delta(1, 10, "A"))) == 1 and talk.hear(**delta(1, 11, "B")) == []


def test_a_gap_of_trades_is_reported() -> None:
    talk = Talk().subscribed("trade", 2)
    trade = {"market_ticker": "M", "yes_price_dollars": "0.4", "count_fp": "1", "taker_side": "yes"}
    assert len(talk.hear(type="trade", sid=2, seq=1, msg=trade)) == 1
    gap, again = talk.hear(type="trade", sid=2, seq=3, msg=trade)
    assert gap == FeedGap(2, "trade", (), 2, 3) and isinstance(again, Trade)
    assert talk.commands() == []


def test_channels_without_a_sequence_have_no_gaps() -> None:
    talk = Talk().subscribed("ticker", 3)
    for _ in range(3):
        (event,) = talk.hear(type="ticker", sid=3, msg={"market_ticker": "M"})
        assert isinstance(event, Ticker)


@given(st.lists(st.tuples(st.integers(1, 3), st.booleans()), max_size=60))
def test_a_gap_is_reported_exactly_when_frames_are_missing(steps: list[tuple[int, bool]]) -> None:
    talk = Talk()
    sent, due = {}, {}
    for sid in (1, 2, 3):
        talk.subscribed(
            "orderbook_delta" if sid == 1 else f"channel_{sid}", sid, *(("A",) if sid == 1 else ())
        )
        sent[sid], due[sid] = 0, 1
    for sid, lost in steps:
        sent[sid] += 1
        if lost:
            continue
        frame = snapshot(sid, sent[sid]) if sid == 1 else {"type": "ok", "sid": sid, "seq": sent[sid]}
        gaps = [e for e in talk.hear(**frame) if isinstance(e, FeedGap)]
        assert [(g.sid, g.expected, g.got) for g in gaps] == (
            [(sid, due[sid], sent[sid])] if due[sid] != sent[sid] else []
        )
        due[sid] = sent[sid] + 1


def test_a_gap_before_an_unknown_type_is_reported() -> None:
    talk = Talk().subscribed("market_lifecycle_v2", 4)
    talk.hear(type="market_lifecycle_v2", sid=4, seq=1, msg={"market_ticker": "M", "event_type": "activated"})
    events = talk.hear(type="event_fee_update", sid=4, seq=5, msg={})
    events += talk.hear(
        type="market_lifecycle_v2", sid=4, seq=6, msg={"market_ticker": "M", "event_type": "activated"}
    )
    assert [type(e) for e in events].count(FeedGap) == 1


class Venue:
    """Order books of an exchange, sent over a connection that may lose frames."""

    def __init__(self, tickers: list[str]) -> None:
        self.books: dict[str, dict[str, dict[int, int]]] = {t: {"yes": {}, "no": {}} for t in tickers}
        self.seq = 0

    def _next(self) -> int:
        self.seq += 1
        return self.seq

    def change(self, ticker: str, side: str, price: int, amount: int) -> dict[str, Any]:
        level = self.books[ticker][side]
        amount = max(amount, -level.get(price, 0))
        level[price] = level.get(price, 0) + amount
        if not level[price]:
            del level[price]
        return delta(1, self._next(), ticker, format_size(amount), format_price(price), side)

    def answer(self, command: dict[str, Any]) -> list[dict[str, Any]]:
        frames = []
        for ticker in command["params"]["market_tickers"]:
            sides = {
                f"{side}_dollars_fp": [[format_price(p), format_size(s)] for p, s in levels.items()]
                for side, levels in self.books[ticker].items()
                if levels
            }
            frames.append(snapshot(1, self._next(), ticker, **sides))
        return frames


@settings(deadline=None)
@given(st.data())
def test_no_delta_is_applied_across_a_gap_and_all_books_recover(data: st.DataObject) -> None:
    tickers = ["A", "B", "C"]
    venue, books, talk = (
        Venue(tickers),
        {t: Book() for t in tickers},
        Talk().subscribed("orderbook_delta", 1, "A", "B", "C"),
    )
    stale: set[str] = set()

    def deliver(frame: dict[str, Any]) -> None:
        for event in talk.hear(**frame):
            if isinstance(event, BookSnapshot):
                books[event.ticker].load(event.yes, event.no)
                stale.discard(event.ticker)
            elif isinstance(event, BookDelta):
                # Never a BookError: a delta is emitted only for a book that is complete.
                books[event.ticker].apply(event.side, event.price, event.delta)
                assert event.ticker not in stale
            elif isinstance(event, FeedGap):
                stale.update(event.tickers)

    for frame in venue.answer(talk.sent[0]):
        deliver(frame)
    pending: list[dict[str, Any]] = []
    for _ in range(data.draw(st.integers(0, 40))):
        ticker, side = data.draw(st.sampled_from(tickers)), data.draw(st.sampled_from(["yes", "no"]))
        frames = [
            venue.change(
                ticker, side, data.draw(st.integers(40, 44)) * 100, data.draw(st.integers(-300, 300))
            )
        ]
        if data.draw(st.booleans()):
            for command in pending:
                frames += venue.answer(command)
            pending = []
        for frame in frames:
            if data.draw(st.integers(0, 4)):
                deliver(frame)
        pending += [c for c in talk.commands() if c["params"]["action"] == "get_snapshot"]
    # No more losses: one more frame reveals the last one, and the snapshots repair it.
    deliver(venue.change("A", "yes", 100, 1))
    for _ in range(3):
        pending += talk.commands()
        for command in pending:
            for frame in venue.answer(command):
                deliver(frame)
        pending = []
    for ticker in tickers:
        for side in ("yes", "no"):
            assert dict(books[ticker].levels(side)) == venue.books[ticker][side]


# Recorded frames


@pytest.mark.parametrize(
    ("name", "count"), [("orderbook_frames_verbatim.jsonl", 269), ("btc15m_frames.jsonl.gz", 40_000)]
)
def test_every_recorded_frame_decodes(shared: Path, name: str, count: int) -> None:
    path = shared / "data" / "ws" / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    content = path.read_bytes()
    lines = (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines()
    books: dict[str, Book] = {}
    plain: dict[str, dict[str, dict[int, int]]] = {}
    seen: Counter[str] = Counter()

    def handle(event: Any) -> None:
        seen[type(event).__name__] += 1
        if isinstance(event, BookSnapshot):
            books.setdefault(event.ticker, Book()).load(event.yes, event.no)
            plain[event.ticker] = {"yes": dict(event.yes), "no": dict(event.no)}
        elif isinstance(event, BookDelta):
            books[event.ticker].apply(event.side, event.price, event.delta)  # BookError below zero
            levels = plain[event.ticker][event.side]
            levels[event.price] = levels.get(event.price, 0) + event.delta
            if not levels[event.price]:
                del levels[event.price]
            assert books[event.ticker].size_at(event.side, event.price) >= 0

    protocol = StreamProtocol(handle)
    decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
    frames = 0
    for line in lines:
        protocol.receive(bytes(decode(line)["frame"]))
        frames += 1
    assert frames == count and protocol.unknown == 0
    assert seen["BookSnapshot"] and seen["BookDelta"] > 200 and not seen["FeedGap"]
    for ticker, book in books.items():
        for side in ("yes", "no"):
            assert dict(book.levels(side)) == plain[ticker][side]
            assert all(size > 0 and 0 < price < PRICE for price, size in book.levels(side))
