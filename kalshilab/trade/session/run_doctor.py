"""Examination of a run's folder: what its journal holds, what was lost, and what the exchange confirms of it.

A damaged journal is rebuilt beside the old one, from the rows that are intact.  With the account at the exchange, the
rebuilt journal also gets what the exchange confirms: the run's orders, its outcomes, all fills of the account and the
payouts of its markets.  The exchange does not know fires and decisions, so an intent that was lost has the latest intact
fire of its market, or a fire at the time of the order.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from kalshilab.config.settings import Settings
from kalshilab.errors import JournalError
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.market.model import Balance, Fill, Order, Position, Settlement
from kalshilab.trade.core.orders import run_prefix
from kalshilab.trade.core.record.history import RunHistory
from kalshilab.trade.events import Decision, Fired, Intent, Outcome
from kalshilab.trade.orders.journal import Entry, Journal, entry_of, head_path
from kalshilab.trade.orders.journal_survey import (
    AddedEntry,
    JournalSurvey,
    rebuild_journal,
    survey_journal,
)

__all__ = [
    "ExchangeRecord",
    "RunExamination",
    "confirmed_entries",
    "examine_run",
    "read_exchange",
    "use_rebuilt",
]

REBUILT: Final = "journal.rebuilt.sqlite"
DAMAGED: Final = "journal.damaged.sqlite"


class ExchangeRecord(msgspec.Struct, frozen=True):
    """The account as the exchange lists it."""

    balance: Balance
    positions: list[Position]
    orders: list[Order]
    fills: list[Fill]
    settlements: list[Settlement]


class RunExamination(msgspec.Struct, frozen=True):
    """The result of an examination.

    Attributes:
        history: the run as the intact entries, and the added ones, describe it.
        entries: number of intact rows.
        damage: the sentence with which the journal is refused, or "".
        lost: the numbers of the rows that are damaged or missing.
        kinds: the kind of each damaged row where that can still be read, by number.
        rebuilt: the rebuilt journal, or None.
        added: number of entries that the exchange confirms and the intact rows lack, by kind.
        differences: what the rebuilt record has in another way than the exchange: a ticker or "cash", to (recorded,
            reported); None without the exchange.
    """

    history: RunHistory
    entries: int
    damage: str = ""
    lost: list[int] = []
    kinds: dict[int, str] = {}
    rebuilt: Path | None = None
    added: dict[str, int] = {}
    differences: dict[str, tuple[int, int]] | None = None


def examine_run(folder: Path, record: ExchangeRecord | None = None) -> RunExamination:
    """Examine the journal of a run, and rebuild it beside the old one if it is damaged.

    Args:
        folder: the folder of the run.
        record: the account as the exchange lists it, for a damaged journal.

    Raises:
        JournalError: there is no journal, or a damaged one of version 1.
    """
    path = folder / "journal.sqlite"
    history = RunHistory()
    try:
        with Journal.open(path) as journal:
            history.fold(journal)
            return RunExamination(history, len(journal) or history.entries)
    except JournalError as error:
        return _rebuild(path, record, str(error))


def _rebuild(path: Path, record: ExchangeRecord | None, damage: str) -> RunExamination:
    survey = survey_journal(path)
    intact, unreadable = _decoded(survey)
    added = [] if record is None else confirmed_entries(intact, record, path.parent.name)
    lost = sorted({*survey.lost, *unreadable})
    end, ts = (intact[-1].seq, intact[-1].ts) if intact else (0, 0)
    note = AddedEntry(end, ts, "note", {"what": "rebuilt", "lost": lost, "added": len(added)})
    rebuilt = path.with_name(REBUILT)
    rows = [row for row in survey.rows if row[0] not in unreadable]
    rebuild_journal(rebuilt, rows, [*added, note])
    history = RunHistory()
    with Journal.open(rebuilt) as journal:
        history.fold(journal)
    return RunExamination(
        history, len(rows), damage, lost, survey.kinds, rebuilt, Counter(entry.kind for entry in added),
        None if record is None else history.account.differences(record.positions, record.balance.cash),
    )  # fmt: skip


def _decoded(survey: JournalSurvey) -> tuple[list[Entry], set[int]]:
    """Return the entries of the intact rows, and the numbers of rows of an unknown form."""
    entries, unreadable = [], set()
    for row in survey.rows:
        try:
            entries.append(entry_of(row))
        except msgspec.DecodeError:
            unreadable.add(row[0])
    return entries, unreadable


async def read_exchange(settings: Settings) -> ExchangeRecord:
    """Read the whole account.

    Args:
        settings: the venue and its key.

    Raises:
        ApiError, ConnectionFailed: the exchange refuses the key, or cannot be reached.
    """
    async with DemoOrders(settings) as client:
        return ExchangeRecord(
            await client.balance(),
            await client.positions(),
            await client.list(),
            await client.fills(),
            await client.settlements(),
        )


def use_rebuilt(folder: Path) -> None:
    """Put the rebuilt journal in the place of the damaged one, which is kept under another name.

    Args:
        folder: the folder of the run; no session may be writing to it.

    Raises:
        JournalError: there is no rebuilt journal.
        OSError: a file cannot be renamed.
    """
    path, rebuilt, kept = (folder / name for name in ("journal.sqlite", REBUILT, DAMAGED))
    if not rebuilt.is_file():
        raise JournalError(f"{rebuilt}: no such journal")
    for old, new in ((path, kept), (rebuilt, path)):
        pairs = [
            (old.with_name(old.name + end), new.with_name(new.name + end)) for end in ("-wal", "-shm", "")
        ]
        for source, target in ((head_path(old), head_path(new)), *pairs):
            # A file that has no successor must not stay: a write-ahead log belongs to one database.
            target.unlink(missing_ok=True)
            if source.is_file():
                os.replace(source, target)  # noqa: PTH105


# What the exchange confirms


class _Places:
    """The places of added entries among the intact ones.

    The times of rows are those of the session's clock, which may have been off.  Prints, fills, orders and settlements carry
    the exchange's time, so an entry stands before the first of them that is later.

    Args:
        entries: the intact entries, in order.
    """

    def __init__(self, entries: list[Entry]) -> None:
        self._numbers: list[int] = []
        self._times: list[int] = []
        self.opening = 0
        self.of_intent: dict[str, int] = {}
        self.of_order: dict[str, int] = {}
        self._mentions: dict[str, int] = {}
        self.of_fills: Counter[str] = Counter()
        latest = 0
        for entry in entries:
            latest = max(latest, self._note(entry))
            self._numbers.append(entry.seq)
            self._times.append(latest)

    def _note(self, entry: Entry) -> int:
        """Note an entry, and return the exchange's time in it, or 0."""
        value = entry.value
        if entry.kind in ("decision", "fill", "order", "outcome"):
            for name in ("client_order_id", "order_id"):
                self._mentions.setdefault(getattr(value, name), entry.seq)
        match entry.kind:
            case "intent":
                self.of_intent[value.client_order_id] = entry.seq
            case "order":
                self.of_order[value.order_id] = entry.seq
                return int(value.updated_ts)
            case "fill":
                self.of_fills[value.ticker] = entry.seq
                return int(value.ts)
            case "fire" | "settlement":
                return int(value.ts)
            case "note" if value.get("what") == "account" and not self.opening:
                self.opening = entry.seq
        return 0

    def after(self, ts: int, *earliest: int) -> int:
        """Return the number of the row behind which an entry of an exchange time stands, at least behind `earliest`."""
        at = bisect_right(self._times, ts)
        return max(self._numbers[at - 1] if at else 0, self.opening, *earliest)

    def of_lost_intent(self, order: Order) -> int:
        """Return the number of the row behind which the intent of an order stands: before all that follows from it."""
        mentions = [self._mentions.get(name) for name in (order.client_order_id, order.order_id)]
        return min([self.after(order.created_ts - 1), *(seq - 1 for seq in mentions if seq is not None)])


def confirmed_entries(
    intact: Iterable[Entry], record: ExchangeRecord, folder_name: str = ""
) -> list[AddedEntry]:
    """Return the entries that the exchange confirms and the intact rows of a journal lack.

    Args:
        intact: the intact entries, in order.
        record: the account as the exchange lists it.
        folder_name: the name of the run, if no intact entry has it.
    """
    entries = list(intact)
    past, places = RunHistory(), _Places(entries)
    past.fold(entries)
    prefix = run_prefix(past.run_id or folder_name)
    fills = list(_fills(past, places, record))
    return [
        *_orders(entries, past, places, record, prefix),
        *fills,
        *_settlements(entries, past, places, record, fills),
    ]


def _orders(
    entries: list[Entry], past: RunHistory, places: _Places, record: ExchangeRecord, prefix: str
) -> Iterable[AddedEntry]:
    concluded = {entry.key for entry in entries if entry.kind == "outcome"}
    latest = {entry.value.order_id: entry.value for entry in entries if entry.kind == "order"}
    decided = {e.value.client_order_id: e.value for e in entries if e.kind == "decision"}
    for order in sorted(record.orders, key=lambda order: order.created_ts):
        key = order.client_order_id
        if not key.startswith(prefix):
            continue
        created = places.of_intent.get(key) or places.of_lost_intent(order)
        if key not in past.keys:
            intent = _intent_of(order, entries, decided.get(key), past)
            yield AddedEntry(created, order.created_ts, "intent", intent, key)
        if key not in concluded:
            outcome = Outcome(
                client_order_id=key, ts=order.created_ts, kind="accepted", order_id=order.order_id, filled=order.filled,
                remaining=order.remaining,
            )  # fmt: skip
            yield AddedEntry(created, order.created_ts, "outcome", outcome, key)
        known = latest.get(order.order_id)
        if known is None or (known.filled, known.status) != (order.filled, order.status):
            updated = places.after(order.updated_ts, created, places.of_order.get(order.order_id, 0))
            yield AddedEntry(updated, order.updated_ts, "order", order)


def _intent_of(order: Order, entries: list[Entry], decision: Decision | None, past: RunHistory) -> Intent:
    """Return the intent of an order whose own was lost."""
    names = sorted({entry.value.strategy for entry in entries if entry.kind == "intent"})
    strategy = decision.strategy if decision is not None else names[0] if len(names) == 1 else ""
    fires: list[Fired] = [
        entry.value
        for entry in entries
        if entry.kind == "fire" and entry.value.ticker == order.ticker and entry.value.ts <= order.created_ts
    ]
    fire = fires[-1] if fires else Fired(0, order.created_ts, order.ticker, order.outcome, order.price, 0)
    return Intent(
        client_order_id=order.client_order_id, ts=order.created_ts, ticker=order.ticker, side=order.side,
        price=order.price, size=order.initial, fire=fire, strategy=strategy,
    )  # fmt: skip


def _fills(past: RunHistory, places: _Places, record: ExchangeRecord) -> Iterable[AddedEntry]:
    """Yield lost fills; without the opening of the account, it is not known which belong to the record."""
    if not past.opened:
        return
    orders = {order.order_id: order for order in record.orders}
    for fill in sorted(record.fills, key=lambda fill: fill.ts):
        if fill.ts < past.oldest or past.account.knows(fill):
            continue
        order = orders.get(fill.order_id)
        earliest = 0
        if order is not None:
            earliest = places.of_intent.get(order.client_order_id) or places.of_lost_intent(order)
            # The listing does not name the client order id, by which the fill finds its order before the id is known.
            fill = msgspec.structs.replace(fill, client_order_id=order.client_order_id)
        place = places.after(fill.ts, earliest)
        yield AddedEntry(place, fill.ts, "fill", fill, f"{fill.trade_id}|{fill.order_id}")


def _settlements(
    entries: list[Entry],
    past: RunHistory,
    places: _Places,
    record: ExchangeRecord,
    fills: list[AddedEntry],
) -> Iterable[AddedEntry]:
    """Yield lost payouts of markets that the record has held: nothing is traded after a settlement."""
    last: Counter[str] = Counter(places.of_fills)
    for added in fills:
        assert isinstance(added.value, Fill)
        last[added.value.ticker] = max(last[added.value.ticker], added.after)
    held = past.account.total.holdings.keys() | last.keys()
    paid = {(e.value.ticker, e.value.ts) for e in entries if e.kind == "settlement"}
    for settlement in record.settlements if past.opened else ():
        ticker = settlement.ticker
        if ticker in held and (ticker, settlement.ts) not in paid:
            place = places.after(settlement.ts, last[ticker])
            yield AddedEntry(place, settlement.ts, "settlement", settlement, f"{ticker}|{settlement.ts}")
