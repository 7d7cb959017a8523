"""Examination of a run's folder: what its journal holds, what was lost, and what the exchange confirms of it.

A damaged journal is rebuilt beside the old one, from the rows that are intact.  With the account at the exchange, the
rebuilt journal also gets what the exchange confirms: the run's orders, its outcomes, all fills of the account and the
payouts of its markets.  The exchange does not know fires and decisions, so an intent that was lost has the latest intact
fire of its market, or a fire at the time of the order.
"""

from __future__ import annotations

import os
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
    note = AddedEntry(
        intact[-1].ts if intact else 0, "note", {"what": "rebuilt", "lost": lost, "added": len(added)}
    )
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
    past = RunHistory()
    past.fold(entries)
    return [
        *_orders(entries, past, record, run_prefix(past.run_id or folder_name)),
        *_fills(entries, past, record),
    ]


def _orders(
    entries: list[Entry], past: RunHistory, record: ExchangeRecord, prefix: str
) -> Iterable[AddedEntry]:
    concluded = {entry.key for entry in entries if entry.kind == "outcome"}
    latest = {entry.value.order_id: entry.value for entry in entries if entry.kind == "order"}
    sent = _times_of_intents(entries)
    decided = {e.value.client_order_id: e.value for e in entries if e.kind == "decision"}
    for order in record.orders:
        key = order.client_order_id
        if not key.startswith(prefix):
            continue
        if key not in past.keys:
            intent = _intent_of(order, entries, decided.get(key), past)
            yield AddedEntry(order.created_ts, "intent", intent, key)
        if key not in concluded:
            ts = max(order.created_ts, sent.get(key, 0))
            outcome = Outcome(
                client_order_id=key, ts=ts, kind="accepted", order_id=order.order_id, filled=order.filled,
                remaining=order.remaining,
            )  # fmt: skip
            yield AddedEntry(ts, "outcome", outcome, key)
        known = latest.get(order.order_id)
        if known is None or (known.filled, known.status) != (order.filled, order.status):
            yield AddedEntry(max(order.updated_ts, order.created_ts, sent.get(key, 0)), "order", order)


def _times_of_intents(entries: list[Entry]) -> dict[str, int]:
    """Return the times of the intact intents: the exchange's clock may be behind, but an order follows its intent."""
    return {str(entry.key): entry.ts for entry in entries if entry.kind == "intent"}


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


def _fills(entries: list[Entry], past: RunHistory, record: ExchangeRecord) -> Iterable[AddedEntry]:
    """Yield lost fills and payouts; without the opening of the account, it is not known which belong to the record."""
    if not past.opened:
        return
    opened = next(e.ts for e in entries if e.kind == "note" and e.value.get("what") == "account")
    fills = [fill for fill in record.fills if fill.ts >= past.oldest and not past.account.knows(fill)]
    sent = _times_of_intents(entries)
    keys = {order.order_id: order.client_order_id for order in record.orders}
    for fill in fills:
        ts = max(fill.ts, sent.get(keys.get(fill.order_id, ""), 0))
        yield AddedEntry(ts, "fill", fill, f"{fill.trade_id}|{fill.order_id}")
    held = past.account.total.holdings.keys() | {fill.ticker for fill in fills}
    paid = {(e.value.ticker, e.value.ts) for e in entries if e.kind == "settlement"}
    for settlement in record.settlements:
        lacking = (settlement.ticker, settlement.ts) not in paid and settlement.ts >= opened
        if settlement.ticker in held and lacking:
            yield AddedEntry(settlement.ts, "settlement", settlement, f"{settlement.ticker}|{settlement.ts}")
