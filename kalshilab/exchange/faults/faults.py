"""What can go wrong between a client and the exchange: faults by name, drawn from a seed.

A fault is due at an instant of exchange time and strikes at the next opportunity: a frame, a request or a step
of the tape, whichever it is made for.  Some strike once; others last for a while of exchange time, or for a
number of requests if that comes first, because exchange time may stand still.  The same seed, tape and client
calls give the same faults.

    Faults(["disconnect", "storm_429"], seed=7)          # each about once a minute of exchange time
    Faults(schedule=random_schedule(7, 20))              # these twenty, within an hour, and nothing else

Nothing here touches a socket: `request` says what becomes of a request, `FrameFaults` what becomes of frames,
and whoever holds the connection carries it out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.schedule import FAULTS, Fault, Occurrences, fault_names, known, random_schedule
from kalshilab.exchange.rest.params import Answer, Request, encode, nested
from kalshilab.exchange.state import serialize
from kalshilab.kalshi.wire.base import REST_PATH, UNREADABLE

__all__ = ["FAULTS", "Action", "Fault", "Faults", "fault_names", "random_schedule"]

ORDERS: Final = REST_PATH + "/portfolio/orders"
WRITES: Final = REST_PATH + "/portfolio/events/orders"
SKEW_MS: Final = 3_600_000
PATIENCE: Final = (3, 20)
"""Requests a lasting fault strikes at most, drawn from this range."""
REMEMBERED: Final = 10_000
RANDOM: Final = "random"
RUN: Final = 100
"""Faults of a random schedule that a command line asks for."""


class Action(NamedTuple):
    """What becomes of a request.

    Attributes:
        reaches: whether the exchange carries it out.
        answers: whether an answer comes back; if not, the connection dies.
        answer: what comes back instead of the exchange's own answer.
    """

    reaches: bool = True
    answers: bool = True
    answer: Answer | None = None


PASS: Final = Action()
UNAVAILABLE: Final = nested(503, "service_unavailable", "service unavailable")
TOO_MANY: Final = Answer(429, encode({"error": "too many requests"}))
_ONCE: Final = {
    "answer_lost_before": Action(reaches=False, answers=False),
    "answer_lost_after": Action(answers=False),
    "error_5xx_before": Action(reaches=False, answer=UNAVAILABLE),
    "error_5xx_after": Action(answer=UNAVAILABLE),
}


class _Body(msgspec.Struct):
    ticker: str = ""


_ticker: Final = msgspec.json.Decoder(_Body).decode


class Faults:
    """The faults of one exchange.

    Args:
        names: faults that come again and again.
        seed: of when, how long and how much.
        schedule: faults that come once each, besides.
        every: mean microseconds of exchange time from one fault of a name to the next; 0: at each opportunity.
        length: mean microseconds that a lasting fault lasts.

    Attributes:
        struck: what has happened so far, newest last (the latest 10,000).

    Raises:
        ExchangeError: an unknown name.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        seed: int = 0,
        *,
        schedule: Iterable[Fault] = (),
        every: int = 60_000_000,
        length: int = 10_000_000,
    ) -> None:
        names, listed = tuple(names), tuple(schedule)
        known((*names, *(fault.name for fault in listed)))
        self.seed = seed
        self._named: dict[str, list[Occurrences]] = {}
        for name in FAULTS:
            sources = []
            if name in names:
                sources.append(Occurrences(name, seed, every, length, None))
            if any(fault.name == name for fault in listed):
                once = [fault for fault in listed if fault.name == name]
                sources.append(Occurrences(name, seed, every, length, once))
            if sources:
                self._named[name] = sources
        self.struck: deque[Fault] = deque(maxlen=REMEMBERED)
        self._exchange: Exchange | None = None
        self._before: dict[str, Any] = {}
        self._paused: dict[str, int] = {}

    @classmethod
    def named(cls, text: str, seed: int = 0, *, every: int = 60_000_000) -> Faults:
        """Faults as a command line names them: `NAME[,NAME…]`, or "random" for a schedule drawn from the seed.

        Args:
            every: mean microseconds of exchange time from one fault of a name to the next; a random schedule
                has as many faults, of all names together, for a hundred times as long.

        >>> Faults.named("disconnect,storm_429").names
        ('disconnect', 'storm_429')

        Raises:
            ExchangeError: an unknown name; the sentence lists the known ones.
        """
        if text.strip() == RANDOM:
            return cls(seed=seed, schedule=random_schedule(seed, RUN, over=RUN * every))
        return cls(fault_names(text), seed, every=every)

    def attach(self, exchange: Exchange) -> None:
        """Begin: times of the schedule count from the exchange's present.  A second call changes nothing."""
        if self._exchange is None:
            self._exchange = exchange
            for name, sources in self._named.items():
                for source in sources:
                    source.begin(exchange.now, name)

    @property
    def names(self) -> tuple[str, ...]:
        """Faults that can happen."""
        return tuple(self._named)

    # When

    def strikes(self, name: str) -> Fault | None:
        """The fault of this name that strikes now, if one does."""
        if self._exchange is None:
            return None
        for source in self._named.get(name, ()):
            fault = source.due(self._exchange.now)
            if fault is not None:
                self.struck.append(fault._replace(at=self._exchange.now))
                return fault
        return None

    def lasts(self, name: str) -> bool:
        """Whether a lasting fault strikes now; each call that it strikes uses some of its patience up."""
        sources = self._named.get(name)
        if not sources or self._exchange is None:
            return False
        first = sources[0]
        if self._exchange.now >= first.until or first.left <= 0:
            fault = self.strikes(name)
            if fault is None:
                return False
            first.until = self._exchange.now + max(fault.length, 1)
            first.left = first.draw.randint(*PATIENCE)
        first.left -= 1
        return True

    # Requests

    def request(self, request: Request) -> Action:
        """What becomes of a request that arrives now."""
        if not self._named or self._exchange is None:
            return PASS
        self.tick()
        if self.lasts("storm_429"):
            return Action(reaches=False, answer=TOO_MANY)
        if request.method == "GET" or not request.path.startswith(REST_PATH + "/portfolio/"):
            return PASS
        for name, action in _ONCE.items():
            if self.strikes(name) is not None:
                return action
        if request.method == "POST" and request.path == WRITES and "close_in_flight" in self._named:
            self._close_in_flight(request)
        if request.method == "DELETE" and request.path.startswith(WRITES) and self.lasts("stale_reads"):
            self._remember(self._exchange)
        return PASS

    def _remember(self, exchange: Exchange) -> None:
        """Keep how reads show the resting orders, before a cancel; what is kept already is older still."""
        for order in exchange.desk.resting():
            if order.order_id not in self._before:
                shown = msgspec.to_builtins(serialize.order(order, exchange.user_id))
                self._before[order.order_id] = shown

    def _close_in_flight(self, request: Request) -> None:
        try:
            ticker = _ticker(request.body).ticker
        except UNREADABLE:
            return  # the exchange answers such a body itself
        exchange = self._exchange
        listing = None if exchange is None else exchange.listings.get(ticker)
        # A market that does not trade cannot close; the fault waits for one that does.
        if exchange is None or listing is None or listing.status != "active":
            return
        if self.strikes("close_in_flight") is not None:
            exchange.life.close_early(ticker)

    def read(self, request: Request, answer: Answer) -> Answer:
        """The answer to a read as the client gets it."""
        if not self._before or answer.status != 200 or not request.path.startswith(ORDERS):
            return answer
        if not self._still_stale():
            self._before = {}
            return answer
        if request.path == ORDERS:
            return self._stale_page(request, answer)
        order = self._before.get(request.path[len(ORDERS) + 1 :])
        return answer if order is None else Answer(200, encode({"order": order}))

    def _still_stale(self) -> bool:
        assert self._exchange is not None
        first = self._named["stale_reads"][0]
        first.left -= 1
        return first.left >= 0 and self._exchange.now < first.until

    def _stale_page(self, request: Request, answer: Answer) -> Answer:
        page, query = msgspec.json.decode(answer.body), request.query
        status = query.get("status") or None
        before = self._before if status in (None, "resting") else {}
        shown = [
            before.get(order["order_id"], order)
            for order in page["orders"]
            if order["order_id"] in before or order["order_id"] not in self._before
        ]
        if status == "resting" and not query.get("cursor"):
            there = {order["order_id"] for order in shown}
            tickers = query["ticker"].split(",") if query.get("ticker") else None
            shown[:0] = [
                old
                for order_id, old in before.items()
                if order_id not in there and (tickers is None or old["ticker"] in tickers)
            ]
        return Answer(200, encode({**page, "orders": shown}))

    def skew_ms(self) -> int:
        """Milliseconds by which the exchange's clock is ahead."""
        if "clock_skew" not in self._named or not self.lasts("clock_skew"):
            return 0
        return SKEW_MS

    # Pauses

    def tick(self) -> None:
        """Begin and end pauses; called before each step of the tape and each request."""
        exchange = self._exchange
        if exchange is None:
            return
        for name in ("exchange_pause", "trading_pause"):
            until = self._paused.get(name)
            if until is not None and exchange.now >= until:
                self._resume(name)
            elif until is None and (fault := self.strikes(name)) is not None:
                self._paused[name] = exchange.now + fault.length
                if name == "exchange_pause":
                    exchange.life.pause_exchange()
                else:
                    exchange.life.pause_trading()

    def _resume(self, name: str) -> None:
        assert self._exchange is not None
        del self._paused[name]
        if name == "exchange_pause":
            self._exchange.life.resume_exchange()
        else:
            self._exchange.life.resume_trading()

    def finish(self) -> None:
        """The tape is over, so exchange time stands still: end whatever lasts."""
        for name in tuple(self._paused):
            self._resume(name)
        for sources in self._named.values():
            sources[0].until = 0
        self._before = {}

    def __repr__(self) -> str:
        return f"Faults({', '.join(self._named) or 'none'}; {len(self.struck)} struck)"
