"""Fault injection between a client and the exchange: named faults drawn from a seed.

A fault is due at an instant of exchange time and strikes at the next opportunity of its kind: a frame, a request
or a step of the tape. Some faults strike once. Others last for a while of exchange time, or for a number of
requests if that comes first, because exchange time may stand still. The same seed, tape and client calls give the
same faults.

    Faults(["disconnect", "storm_429"], seed=7)          # each about once a minute of exchange time
    Faults(schedule=random_schedule(7, 20))              # these twenty, within an hour, and nothing else

This module never touches a socket. `Faults.request` decides the effect on a request and `FrameFaults` the effect on
frames; the owner of the connection applies both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from kalshilab.deprecation import renamed_keywords
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.schedule import (
    FAULTS,
    Fault,
    Occurrences,
    check_names,
    fault_names,
    random_schedule,
)
from kalshilab.exchange.rest.params import Answer, Request, encode, nested
from kalshilab.exchange.state import serialize
from kalshilab.kalshi.wire.base import REST_PATH, UNREADABLE

__all__ = ["FAULTS", "Fault", "Faults", "RequestEffect", "fault_names", "random_schedule"]

ORDERS: Final = REST_PATH + "/portfolio/orders"
WRITES: Final = REST_PATH + "/portfolio/events/orders"
SKEW_MS: Final = 3_600_000
"""Milliseconds by which the exchange's clock is ahead during `clock_skew`."""
LASTING_REQUESTS: Final = (3, 20)
"""Range from which the number of requests affected by a lasting fault is drawn."""
STRUCK_KEPT: Final = 10_000
"""Number of past faults kept in `Faults.struck`."""
RANDOM: Final = "random"
RANDOM_FAULTS: Final = 100
"""Number of faults in a random schedule requested by name."""

JsonObject = dict[str, object]


class RequestEffect(NamedTuple):
    """Effect of the faults on one request.

    Attributes:
        reaches: whether the exchange carries the request out.
        answers: whether the client gets an answer; otherwise the connection dies.
        answer: an answer that replaces the exchange's; None means no replacement.
    """

    reaches: bool = True
    answers: bool = True
    answer: Answer | None = None


PASS: Final = RequestEffect()
UNAVAILABLE: Final = nested(503, "service_unavailable", "service unavailable")
TOO_MANY: Final = Answer(429, encode({"error": "too many requests"}))
_ONE_TIME_EFFECTS: Final = {
    "answer_lost_before": RequestEffect(reaches=False, answers=False),
    "answer_lost_after": RequestEffect(answers=False),
    "error_5xx_before": RequestEffect(reaches=False, answer=UNAVAILABLE),
    "error_5xx_after": RequestEffect(answer=UNAVAILABLE),
}


class _OrderTicker(msgspec.Struct):
    ticker: str = ""


_decode_ticker: Final = msgspec.json.Decoder(_OrderTicker).decode


class Faults:
    """The faults of one exchange.

    Args:
        names: recurring faults.
        seed: source of randomness for times, durations and extents.
        schedule: additional faults that strike once each.
        every_us: mean microseconds of exchange time between two strikes of a recurring fault; 0 strikes at each
            opportunity.
        length_us: mean duration of a lasting fault, in microseconds of exchange time.

    Attributes:
        struck: the faults that have struck, newest last (the latest 10,000), with exchange time in `at_us`.

    Raises:
        ExchangeError: a name is unknown.
    """

    @renamed_keywords(every="every_us", length="length_us")
    def __init__(
        self,
        names: Iterable[str] = (),
        seed: int = 0,
        *,
        schedule: Iterable[Fault] = (),
        every_us: int = 60_000_000,
        length_us: int = 10_000_000,
    ) -> None:
        names, scheduled = tuple(names), tuple(schedule)
        check_names((*names, *(fault.name for fault in scheduled)))
        self.seed = seed
        self._named: dict[str, list[Occurrences]] = {}
        for name in FAULTS:
            sources = []
            if name in names:
                sources.append(Occurrences(name, seed, every_us, length_us, None))
            if any(fault.name == name for fault in scheduled):
                once = [fault for fault in scheduled if fault.name == name]
                sources.append(Occurrences(name, seed, every_us, length_us, once))
            if sources:
                self._named[name] = sources
        self.struck: deque[Fault] = deque(maxlen=STRUCK_KEPT)
        self._exchange: Exchange | None = None
        self._stale_orders: dict[str, JsonObject] = {}
        self._paused_until: dict[str, int] = {}

    @classmethod
    @renamed_keywords(every="every_us")
    def named(cls, text: str, seed: int = 0, *, every_us: int = 60_000_000) -> Faults:
        """Return the faults that a command line names: `NAME[,NAME…]`, or "random" for a schedule from the seed.

        Args:
            text: fault names between commas, or "random".
            seed: source of randomness.
            every_us: mean microseconds of exchange time between two strikes of a name; a random schedule has one
                fault, of any name, per `every_us`, and ends after 100 of them.

        >>> Faults.named("disconnect,storm_429").names
        ('disconnect', 'storm_429')

        Raises:
            ExchangeError: a name is unknown; the message lists the known ones.
        """
        if text.strip() == RANDOM:
            schedule = random_schedule(seed, RANDOM_FAULTS, over_us=RANDOM_FAULTS * every_us)
            return cls(seed=seed, schedule=schedule)
        return cls(fault_names(text), seed, every_us=every_us)

    def attach(self, exchange: Exchange) -> None:
        """Start the schedule at the exchange's present time; a second call has no effect."""
        if self._exchange is None:
            self._exchange = exchange
            for name, sources in self._named.items():
                for source in sources:
                    source.begin(exchange.now, name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the faults that can strike."""
        return tuple(self._named)

    # Timing

    def strikes(self, name: str) -> Fault | None:
        """Return the fault of this name that strikes now and record it; None if it is not due."""
        if self._exchange is None:
            return None
        for source in self._named.get(name, ()):
            fault = source.due(self._exchange.now)
            if fault is not None:
                self.struck.append(fault._replace(at_us=self._exchange.now))
                return fault
        return None

    def lasts(self, name: str) -> bool:
        """Return whether a lasting fault affects this request; each True counts against its number of requests."""
        sources = self._named.get(name)
        if not sources or self._exchange is None:
            return False
        first = sources[0]
        if self._exchange.now >= first.until or first.left <= 0:
            fault = self.strikes(name)
            if fault is None:
                return False
            first.until = self._exchange.now + max(fault.length_us, 1)
            first.left = first.draw.randint(*LASTING_REQUESTS)
        first.left -= 1
        return True

    # Requests

    def request(self, request: Request) -> RequestEffect:
        """Return the effect of the faults on a request that arrives now."""
        if not self._named or self._exchange is None:
            return PASS
        self.tick()
        if self.lasts("storm_429"):
            return RequestEffect(reaches=False, answer=TOO_MANY)
        if request.method == "GET" or not request.path.startswith(REST_PATH + "/portfolio/"):
            return PASS
        for name, effect in _ONE_TIME_EFFECTS.items():
            if self.strikes(name) is not None:
                return effect
        if request.method == "POST" and request.path == WRITES and "close_in_flight" in self._named:
            self._close_in_flight(request)
        if request.method == "DELETE" and request.path.startswith(WRITES) and self.lasts("stale_reads"):
            self._remember_resting(self._exchange)
        return PASS

    def _remember_resting(self, exchange: Exchange) -> None:
        """Store the resting orders as reads show them before a cancel; older stored versions stay."""
        for order in exchange.desk.resting():
            if order.order_id not in self._stale_orders:
                shown: JsonObject = msgspec.to_builtins(serialize.order(order, exchange.user_id))
                self._stale_orders[order.order_id] = shown

    def _close_in_flight(self, request: Request) -> None:
        try:
            ticker = _decode_ticker(request.body).ticker
        except UNREADABLE:
            return  # the exchange rejects the body itself
        exchange = self._exchange
        listing = None if exchange is None else exchange.listings.get(ticker)
        # Only an active market can close; until an order names one, the fault waits.
        if exchange is None or listing is None or listing.status != "active":
            return
        if self.strikes("close_in_flight") is not None:
            exchange.life.close_early(ticker)

    def read(self, request: Request, answer: Answer) -> Answer:
        """Return the answer to a read as the client gets it, stale during `stale_reads`."""
        if not self._stale_orders or answer.status != 200 or not request.path.startswith(ORDERS):
            return answer
        if not self._still_stale():
            self._stale_orders = {}
            return answer
        if request.path == ORDERS:
            return self._stale_page(request, answer)
        order = self._stale_orders.get(request.path[len(ORDERS) + 1 :])
        return answer if order is None else Answer(200, encode({"order": order}))

    def _still_stale(self) -> bool:
        assert self._exchange is not None
        first = self._named["stale_reads"][0]
        first.left -= 1
        return first.left >= 0 and self._exchange.now < first.until

    def _stale_page(self, request: Request, answer: Answer) -> Answer:
        page, query = msgspec.json.decode(answer.body), request.query
        status = query.get("status") or None
        stale = self._stale_orders if status in (None, "resting") else {}
        shown: list[JsonObject] = [
            stale.get(order["order_id"], order)
            for order in page["orders"]
            if order["order_id"] in stale or order["order_id"] not in self._stale_orders
        ]
        if status == "resting" and not query.get("cursor"):
            listed = {order["order_id"] for order in shown}
            tickers = query["ticker"].split(",") if query.get("ticker") else None
            shown[:0] = [
                order
                for order_id, order in stale.items()
                if order_id not in listed and (tickers is None or order["ticker"] in tickers)
            ]
        return Answer(200, encode({**page, "orders": shown}))

    def skew_ms(self) -> int:
        """Return the milliseconds by which the exchange's clock is ahead."""
        if "clock_skew" not in self._named or not self.lasts("clock_skew"):
            return 0
        return SKEW_MS

    # Pauses

    def tick(self) -> None:
        """Start and end pauses; call it before each step of the tape and each request."""
        exchange = self._exchange
        if exchange is None:
            return
        for name in ("exchange_pause", "trading_pause"):
            until = self._paused_until.get(name)
            if until is not None and exchange.now >= until:
                self._resume(name)
            elif until is None and (fault := self.strikes(name)) is not None:
                self._paused_until[name] = exchange.now + fault.length_us
                if name == "exchange_pause":
                    exchange.life.pause_exchange()
                else:
                    exchange.life.pause_trading()

    def _resume(self, name: str) -> None:
        assert self._exchange is not None
        del self._paused_until[name]
        if name == "exchange_pause":
            self._exchange.life.resume_exchange()
        else:
            self._exchange.life.resume_trading()

    def finish(self) -> None:
        """End all lasting faults, because exchange time stands still after the end of the tape."""
        for name in tuple(self._paused_until):
            self._resume(name)
        for sources in self._named.values():
            sources[0].until = 0
        self._stale_orders = {}

    def __repr__(self) -> str:
        return f"Faults({', '.join(self._named) or 'none'}; {len(self.struck)} struck)"
