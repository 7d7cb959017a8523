"""The lifecycle of the listed markets: transitions, their side effects, and the messages that announce them.

Two parties move a market: the flow, by its steps, and an operator, by the methods named after the action.
Both use one table, `kalshilab.market.lifecycle.FOLLOWS`.  A transition that it forbids raises an error for
the operator and is skipped for the flow (a market that was closed early does not close again).  Where the
operator has moved a market's end, timers of exchange time do the rest: the close at the new time, then the
determination if the flow is already past it, then, `settle_after_us` later, the settlement.

================================ ============================================ ==========================
transition                       side effects                                 lifecycle channel
================================ ============================================ ==========================
initialized → active                                                          nothing
active → inactive                orders with `cancel_order_on_pause` go       `deactivated`
inactive → active                all resting orders are cancelled             `activated`
active, inactive → closed        resting orders are cancelled (CloseCancel)   nothing; `close_date_updated`
                                                                              before, where the time moved
closed → active (reopened)                                                    `close_date_updated`, `activated`
closed → determined              the settlement timer starts                  `determined`
determined → disputed            the settlement timer stops                   nothing
disputed → determined            the settlement timer restarts                nothing
determined, disputed → amended   the result is replaced; the settlement       nothing
                                 timer restarts
determined, amended → finalized  positions are paid out                       `settled`
================================ ============================================ ==========================

Two messages announce changes without a transition: `price_level_structure_updated` (`restructure`) and
`metadata_updated` (`describe`).

While trading or the whole exchange is paused, nothing trades: orders are refused, and prints of the flow are
skipped. Resting orders stay, except those with `cancel_order_on_pause`.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final, Literal, Protocol

from kalshilab.errors import ExchangeError, UnitError
from kalshilab.exchange.orders.desk_host import DisplayedBook
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.listings import Listing, Listings
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.lazy import renamed
from kalshilab.market.lifecycle import FOLLOWS
from kalshilab.units import PRICE, TickGrid, format_price

__all__ = ["MarketLifecycle"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

SECOND: Final = 1_000_000
Due = Literal["close", "determine", "settle"]
COMBINATIONS: Final = "KXMVE"
RESULTS: Final = {"yes": PRICE, "no": 0, "scalar": None}


class LifecycleHost(Protocol):
    """The part of the exchange that the market lifecycle uses."""

    now: int
    exchange_active: bool
    trading_active: bool
    account: Account
    hub: Hub
    listings: Listings

    @property
    def desk(self) -> OrderDesk:
        """The order desk, which cancels orders."""
        ...

    def displayed(self, listing: Listing) -> DisplayedBook | None:
        """Return the displayed book; None without a subscriber."""
        ...

    def publish_changes(self, listing: Listing, before: DisplayedBook | None) -> None:
        """Publish the difference between the displayed book `before` and now."""
        ...

    def publish_position(self, ticker: str) -> None:
        """Publish the account's position."""
        ...


class MarketLifecycle:
    """Owner of the markets' statuses.

    Args:
        exchange: the exchange that lists the markets.
        settle_after_us: microseconds from determination to settlement where the flow gives no settlement time.

    >>> import kalshilab as kl
    >>> ex = kl.Exchange(*kl.sample())
    >>> while not (active := [x for x in ex.listings if x.status == "active"]):
    ...     _ = ex.step()
    >>> ticker = active[0].facts.ticker
    >>> ex.life.close_early(ticker)
    >>> ex.life.determine(ticker, "yes")
    >>> ex.advance(ex.now + 3_600_000_000)
    >>> ex.listings.get(ticker).status
    'finalized'
    """

    def __init__(self, exchange: LifecycleHost, settle_after_us: int) -> None:
        self._ex, self._settle_after_us = exchange, settle_after_us
        self._timers: list[tuple[int, int, str, Due]] = []
        self._valid: dict[tuple[str, Due], int] = {}
        self._sequence = 0

    # Timers

    @property
    def next_ts(self) -> int | None:
        """Exchange time of the next timer in microseconds; None if no timer runs."""
        while (
            self._timers and self._valid.get((self._timers[0][2], self._timers[0][3])) != self._timers[0][1]
        ):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run_timer(self) -> None:
        """Run the next timer and set exchange time to it."""
        assert self.next_ts is not None
        ts, _, ticker, due = heapq.heappop(self._timers)
        del self._valid[ticker, due]
        listing = self._ex.listings.get(ticker)
        if listing is None:
            return
        self._ex.now = max(self._ex.now, ts)
        if due == "close":
            self._close(listing)
            facts = listing.facts
            if facts.result and facts.determined <= self._ex.now:
                self._start(ticker, "determine", SECOND)
        elif due == "determine":
            self._determine(listing)
        else:
            self._settle(listing)

    def _start(self, ticker: str, due: Due, after_us: int) -> None:
        self._sequence += 1
        self._valid[ticker, due] = self._sequence
        heapq.heappush(self._timers, (self._ex.now + after_us, self._sequence, ticker, due))

    def _stop(self, ticker: str, due: Due) -> None:
        self._valid.pop((ticker, due), None)

    # The flow's steps; those that a market's status forbids are skipped

    def created(self, listing: Listing) -> None:
        """List a market and announce it."""
        facts = listing.facts
        if self._ex.listings.add(listing):
            self._ex.hub.publish(
                _channel(facts.ticker),
                b"event_lifecycle",
                facts.ticker,
                wire.EventLifecycleMessage(
                    event_ticker=facts.event,
                    title=facts.title,
                    series_ticker=facts.series,
                    collateral_return_type="",
                ),
            )
        title = facts.title or facts.ticker
        self._publish(
            listing,
            "created",
            open_ts=facts.open // SECOND,
            close_ts=listing.close_ts // SECOND,
            price_level_structure=facts.structure,
            price_ranges=serialize.price_ranges(listing),
            exchange_index=0,
            additional_metadata=wire.LifecycleMetadata(
                event_ticker=facts.event,
                name=title,
                title=title,
                yes_sub_title=title,
                no_sub_title=title,
                rules_primary="A market of a recorded or synthetic tape.",
                rules_secondary="",
                can_close_early=True,
                expected_expiration_ts=facts.announced_close // SECOND,
            ),
        )

    def opened(self, listing: Listing) -> None:
        """Open a market at its opening time."""
        if listing.status == "initialized":
            listing.status = "active"

    def paused(self, listing: Listing) -> None:
        """Deactivate a market for the flow."""
        if self._allows(listing, "inactive"):
            self._deactivate(listing)

    def resumed(self, listing: Listing) -> None:
        """Activate a market again for the flow."""
        if listing.status == "inactive":
            self._activate(listing)

    def closed(self, listing: Listing) -> None:
        """Close a market at the flow's closing time; a later time set by the operator takes precedence."""
        if (listing.facts.ticker, "close") in self._valid or not self._allows(listing, "closed"):
            return
        if listing.close_ts != listing.facts.close:
            self._move_close(listing, listing.facts.close)
        self._close(listing)

    def determined(self, listing: Listing) -> None:
        """Record the flow's result; a market that is still open is determined after its close."""
        listing.facts.determined = min(listing.facts.determined, self._ex.now)
        if listing.status == "closed":
            self._determine(listing, timed=False)

    def settled(self, listing: Listing) -> None:
        """Settle a market at the flow's time; a running settlement timer or a dispute takes precedence."""
        if (listing.facts.ticker, "settle") not in self._valid and listing.status in (
            "determined",
            "amended",
        ):
            self._settle(listing)

    # The operator

    def pause(self, ticker: str) -> None:
        """Deactivate a market.

        Raises:
            ExchangeError: the market is unknown or its status forbids it; this holds for every operator
                method.
        """
        self._deactivate(self._listing(ticker, "inactive"))

    def resume(self, ticker: str) -> None:
        """Activate a deactivated market; all orders that rest in it are cancelled."""
        listing = self._listing(ticker, "active")
        if listing.status != "inactive":
            raise ExchangeError(f"cannot resume {ticker}: it is {listing.status}, not inactive")
        self._activate(listing)

    def move_close(self, ticker: str, close_ts: int) -> None:
        """Set another closing time, in microseconds, for an open market."""
        listing = self._listing(ticker, "closed")
        if close_ts <= self._ex.now:
            raise ExchangeError(
                f"{ticker}: close_ts must be > the exchange time {self._ex.now}, got {close_ts}; close_early closes now"
            )
        self._move_close(listing, close_ts)
        self._start(ticker, "close", close_ts - self._ex.now)

    def close_early(self, ticker: str) -> None:
        """Close a market now."""
        listing = self._listing(ticker, "closed")
        self._stop(ticker, "close")
        self._move_close(listing, self._ex.now)
        self._close(listing)

    def reopen(self, ticker: str, close_ts: int) -> None:
        """Reopen a closed market by moving its closing time into the future."""
        listing = self._listing(ticker, "active")
        if listing.status != "closed":
            raise ExchangeError(f"cannot reopen {ticker}: it is {listing.status}, not closed")
        if close_ts <= self._ex.now:
            raise ExchangeError(
                f"{ticker}: close_ts must be > the exchange time {self._ex.now}, got {close_ts}"
            )
        self._move_close(listing, close_ts)
        self._activate(listing)
        self._start(ticker, "close", close_ts - self._ex.now)

    def determine(self, ticker: str, result: str, settlement: int | None = None) -> None:
        """Determine a closed market: "yes", "no", or "scalar" with the settlement of YES in price units."""
        listing = self._listing(ticker, "determined")
        if listing.status != "closed":
            raise ExchangeError(
                f"cannot determine {ticker}: it is {listing.status}, not closed; amend changes a result"
            )
        self._set_result(listing, result, settlement)
        self._determine(listing)

    def dispute(self, ticker: str) -> None:
        """Dispute a result: the market does not settle before it is amended or upheld."""
        listing = self._listing(ticker, "disputed")
        listing.status = "disputed"
        self._stop(ticker, "settle")

    def uphold(self, ticker: str) -> None:
        """End a dispute and keep the result."""
        listing = self._listing(ticker, "determined")
        if listing.status != "disputed":
            raise ExchangeError(f"cannot uphold {ticker}: it is {listing.status}, not disputed")
        listing.status = "determined"
        self._start(ticker, "settle", self._settle_after_us)

    def amend(self, ticker: str, result: str, settlement: int | None = None) -> None:
        """Replace the result of a market."""
        listing = self._listing(ticker, "amended")
        self._set_result(listing, result, settlement)
        listing.status = "amended"
        self._start(ticker, "settle", self._settle_after_us)

    def restructure(self, ticker: str, structure: str) -> None:
        """Give a market another price grid; orders that rest off the grid stay.

        Raises:
            ExchangeError: the market or the structure is unknown.
        """
        listing = self._known(ticker)
        try:
            listing.facts.grid = TickGrid.named(structure)
        except UnitError as error:
            raise ExchangeError(f"{ticker}: invalid price structure: {error}") from None
        listing.facts.structure = structure
        self._publish(
            listing,
            "price_level_structure_updated",
            price_level_structure=structure,
            price_ranges=serialize.price_ranges(listing),
        )

    def describe(self, ticker: str, yes_sub_title: str) -> None:
        """Correct the description of YES; the market's rules, prices and orders do not change.

        Raises:
            ExchangeError: the market is unknown, or `yes_sub_title` is blank.
        """
        listing = self._known(ticker)
        if not yes_sub_title.strip():
            raise ExchangeError(f"{ticker}: yes_sub_title must not be blank")
        listing.facts.title = yes_sub_title
        self._publish(listing, "metadata_updated", yes_sub_title=yes_sub_title)

    def pause_trading(self) -> None:
        """Pause trading everywhere: orders are refused, cancels are accepted."""
        self._ex.trading_active = False
        self._ex.desk.halt()

    def resume_trading(self) -> None:
        """Resume trading after a pause of trading or of the exchange."""
        self._ex.exchange_active = self._ex.trading_active = True

    def pause_exchange(self) -> None:
        """Pause the exchange: orders and cancels are refused."""
        self._ex.desk.halt()
        self._ex.exchange_active = self._ex.trading_active = False

    def resume_exchange(self) -> None:
        """Resume the exchange after a pause of the exchange or of trading."""
        self.resume_trading()

    # Transitions

    def _known(self, ticker: str) -> Listing:
        listing = self._ex.listings.get(ticker)
        if listing is None:
            raise ExchangeError(f"{ticker} is not listed")
        return listing

    def _listing(self, ticker: str, target: str) -> Listing:
        listing = self._known(ticker)
        if not self._allows(listing, target):
            allowed = ", ".join(FOLLOWS[listing.status]) or "nothing"
            raise ExchangeError(
                f"{ticker} is {listing.status} and cannot become {target}; allowed: {allowed}"
            )
        return listing

    @staticmethod
    def _allows(listing: Listing, target: str) -> bool:
        return target in FOLLOWS[listing.status]

    def _set_result(self, listing: Listing, result: str, settlement: int | None) -> None:
        if result not in RESULTS:
            raise ExchangeError(f"result must be one of {', '.join(RESULTS)}, got {result!r}")
        value = RESULTS[result] if settlement is None else settlement
        if value is None or not 0 <= value <= PRICE or (result != "scalar" and value != RESULTS[result]):
            rule = f"from 0 to {PRICE}" if result == "scalar" else "omitted"
            raise ExchangeError(f"settlement must be {rule} for result {result!r}, got {settlement}")
        listing.facts.result, listing.facts.settlement = result, value

    def _deactivate(self, listing: Listing) -> None:
        listing.status = "inactive"
        self._publish(listing, "deactivated", is_deactivated=True)
        self._ex.desk.halt(listing)

    def _activate(self, listing: Listing) -> None:
        before = self._ex.displayed(listing)
        self._ex.desk.cancel_market(listing, "HaltCancel")
        listing.status = "active"
        self._publish(listing, "activated", is_deactivated=False)
        self._ex.publish_changes(listing, before)

    def _move_close(self, listing: Listing, close_ts: int) -> None:
        listing.close_ts = close_ts
        self._publish(listing, "close_date_updated", close_ts=close_ts // SECOND)

    def _close(self, listing: Listing) -> None:
        before = self._ex.displayed(listing)
        listing.status = "closed"
        listing.book.clear()
        self._ex.desk.cancel_market(listing, "CloseCancel")
        self._ex.publish_changes(listing, before)

    def _determine(self, listing: Listing, *, timed: bool = True) -> None:
        facts = listing.facts
        listing.status = "determined"
        facts.determined = self._ex.now
        self._publish(
            listing,
            "determined",
            result=facts.result,
            determination_ts=self._ex.now // SECOND,
            settlement_value=format_price(facts.settlement),
        )
        self._stop(facts.ticker, "determine")
        if timed:
            self._start(facts.ticker, "settle", self._settle_after_us)

    def _settle(self, listing: Listing) -> None:
        facts = listing.facts
        listing.status = "finalized"
        facts.settled = self._ex.now
        self._stop(facts.ticker, "settle")
        record = self._ex.account.settle(
            facts.ticker, facts.event, facts.result, facts.settlement, self._ex.now
        )
        if record is not None:
            self._ex.publish_position(facts.ticker)
        self._publish(listing, "settled", settled_ts=self._ex.now // SECOND)

    def _publish(self, listing: Listing, kind: str, **facts: object) -> None:
        ticker, listing.updated = listing.facts.ticker, self._ex.now
        body = wire.LifecycleMessage(market_ticker=ticker, event_type=kind, **facts)  # type: ignore[arg-type]
        channel = _channel(ticker)
        self._ex.hub.publish(channel, channel.encode(), ticker, body)


def _channel(ticker: str) -> str:
    """Return the lifecycle channel of a market; combinations use a separate channel."""
    return "multivariate_market_lifecycle" if ticker.startswith(COMBINATIONS) else "market_lifecycle_v2"
