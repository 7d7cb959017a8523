"""The part of the command `doctor` that checks the journal of a run, and rebuilds a damaged one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kalshilab.cli.terminal.progress import relative_path
from kalshilab.clock import to_datetime
from kalshilab.config.settings import Settings
from kalshilab.market.model import outcome_price
from kalshilab.units import show_dollars

if TYPE_CHECKING:
    from kalshilab.trade.events import Intent
    from kalshilab.trade.session.run_doctor import ExchangeRecord, RunExamination

__all__ = ["check_run", "spans"]

MOST: Final = 12
"""Orders and spans of rows that are printed."""


def check_run(folder: Path, settings: Settings, *, repair: bool) -> int:
    """Print what the journal of a run holds and what was lost; return 1 if it is damaged and was not repaired.

    Args:
        folder: the folder of the run.
        settings: with the venue demo, its exchange confirms what a damaged journal lacks.
        repair: whether to put a rebuilt journal in place.

    Raises:
        SessionError: the journal is to be repaired while a session writes to it.
    """
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.live.lease import RunLock
    from kalshilab.trade.session.run_doctor import examine_run, read_exchange, use_rebuilt

    with RunLock(folder) if repair else nullcontext():
        found = examine_run(folder)
        record: ExchangeRecord | None = None
        if found.damage and settings.venue == "demo":
            settings.require_credentials()
            record = asyncio.run(read_exchange(settings))
            found = examine_run(folder, record)
        print("\n".join(_lines(folder, found)))
        if not found.damage:
            return 0
        if not repair:
            print(f"to use the rebuilt journal, run: kalshilab doctor {relative_path(folder)} --repair")
            return 1
        use_rebuilt(folder)
        print("the rebuilt journal is in use; the damaged one is kept as journal.damaged.sqlite")
        return 0


def _lines(folder: Path, found: RunExamination) -> Iterator[str]:
    from kalshilab.trade.session.history_view import end_of_history

    past = found.history
    end = end_of_history(past, folder)
    yield f"{relative_path(folder)}: {found.entries:,} intact entries, state {past.state}, {end}"
    if found.damage:
        yield f"  error: {found.damage.partition('; run: ')[0]}"
        yield from _loss(found)
    else:
        yield "  no damage: every row is as it was written"
    if past.opened:
        yield f"  cash {show_dollars(past.account.cash)}, {_counted(past.account.total.open, 'open position')}"
    else:
        yield "  the opening of the account is not recorded, so cash and profit are not known"
    resting = sum(bool(life.remaining and life.order_id) for life in past.orders.live.values())
    if resting:
        yield f"  resting at the last report: {_counted(resting, 'order')}"
    yield from _unresolved(list(past.unresolved.values()))


def _unresolved(intents: list[Intent]) -> Iterator[str]:
    if not intents:
        yield "  every order has a known outcome"
        return
    yield f"  without a known outcome: {_counted(len(intents), 'order')}; kalshilab live --resume looks them up:"
    for intent in intents[:MOST]:
        outcome = "yes" if intent.side == "bid" else "no"
        cents = outcome_price(intent.price, outcome) / 100
        size = intent.size / 100
        yield (
            f"    {to_datetime(intent.ts):%Y-%m-%d %H:%M:%S} {intent.ticker}: buy {size:g} {outcome.upper()} "
            f"at {cents:g} cents ({intent.client_order_id})"
        )
    if len(intents) > MOST:
        yield f"    … and {len(intents) - MOST:,} more"


def _loss(found: RunExamination) -> Iterator[str]:
    shown = list(spans(found.lost))
    rows = ", ".join(shown[:MOST]) + (f" and {len(shown) - MOST:,} more spans" if len(shown) > MOST else "")
    if found.lost:
        yield f"  lost: {_counted(len(found.lost), 'row')} ({rows})"
    else:
        yield "  lost: nothing; every row could be read around the damage"
    for kind in sorted(set(found.kinds.values())):
        numbers = [seq for seq, name in found.kinds.items() if name == kind]
        yield f"    of the kind {kind}: {', '.join(spans(sorted(numbers)))}"
    if found.rebuilt is not None:
        yield f"  written: {relative_path(found.rebuilt)} with the intact rows"
    if found.differences is None:
        yield "  the exchange was not asked; with --venue demo and the account's key, it confirms what is lost"
        return
    added = ", ".join(f"{count} {kind}" for kind, count in sorted(found.added.items()))
    yield f"  added, as the exchange confirms: {added or 'nothing'}"
    if not found.differences:
        yield "  the rebuilt record is that of the exchange's account"
    for name, (recorded, reported) in found.differences.items():
        unit = 1_000_000 if name == "cash" else 100
        yield f"  {name}: the rebuilt record has {recorded / unit:g}, the exchange {reported / unit:g}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def spans(numbers: Iterable[int]) -> Iterator[str]:
    """Yield ascending numbers as spans.

    >>> list(spans([3, 7, 8, 9]))
    ['3', '7 to 9']
    """
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        yield str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}"
