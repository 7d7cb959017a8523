"""The life of the listed markets: who moves it, what each step does, and what the public hears of it.

Two move a market: the flow, by its own steps, and an operator, by the methods named after what they do.  Both
go through one table, `kalshilab.market.lifecycle.FOLLOWS`; what it does not allow is refused to the operator and
left out where the flow asks for it (a market that was closed early does not close again).  Where the operator
has moved a market's end, timers of exchange time bring about the rest: the close he set, then the determination
if the flow has passed it over, then, `settle_after` later, the settlement.

================================ ============================================ ==========================
transition                       what else happens                            heard on the lifecycle channel
================================ ============================================ ==========================
initialized → active                                                          nothing
active → inactive                orders with `cancel_order_on_pause` go       `deactivated`
inactive → active                all resting orders are cancelled             `activated`
active, inactive → closed        resting orders are cancelled (CloseCancel)   nothing; `close_date_updated`
                                                                              before, where the time moved
closed → active (reopened)                                                    `close_date_updated`, `activated`
closed → determined              the settlement timer starts                  `determined`
determined → disputed            the settlement timer stops                   nothing
disputed → determined            it starts again                              nothing
determined, disputed → amended   a result takes the other's place; it starts  nothing
                                 again
determined, amended → finalized  positions are paid out                       `settled`
================================ ============================================ ==========================

No transition, and told as well: `price_level_structure_updated` (`restructure`), `metadata_updated` (`describe`).

While trading is paused, or the whole exchange, nothing trades: no order is taken, and prints of the flow do
not happen.  Resting orders stay, but for those that asked to be cancelled.
"""

from __future__ import annotations

import heapq
from typing import Any, Final, Literal, Protocol

from kalshilab.errors import ExchangeError, UnitError
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.listings import Listing, Listings
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.market.lifecycle import FOLLOWS
from kalshilab.units import PRICE, TickGrid, format_price

__all__ = ["Life"]

SECOND: Final = 1_000_000
Due = Literal["close", "determine", "settle"]
COMBINATIONS: Final = "KXMVE"
RESULTS: Final = {"yes": PRICE, "no": 0, "scalar": None}


class Floor(Protocol):
    """What the life of markets needs of the exchange."""

    now: int
    exchange_active: bool
    trading_active: bool
    account: Account
    hub: Hub
    listings: Listings

    @property
    def desk(self) -> OrderDesk:
        """Where orders are cancelled."""
        ...

    def displayed(self, listing: Listing) -> Any:
        """The displayed book, if anybody watches it."""
        ...

    def publish_changes(self, listing: Listing, before: Any) -> None:
        """Tell how the displayed book differs from before."""
        ...

    def publish_position(self, ticker: str) -> None:
        """Tell of the account's position."""
        ...


class Life:
    """Owner of the markets' statuses.

    Args:
        settle_after: microseconds from a determination to the settlement, where the flow does not say.

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

    def __init__(self, exchange: Floor, settle_after: int) -> None:
        self._ex, self._settle_after = exchange, settle_after
        self._timers: list[tuple[int, int, str, Due]] = []
        self._valid: dict[tuple[str, Due], int] = {}
        self._set = 0

    # Timers

    @property
    def next_ts(self) -> int | None:
        """When the next timer is due, in microseconds of exchange time; None while none runs."""
        while (
            self._timers and self._valid.get((self._timers[0][2], self._timers[0][3])) != self._timers[0][1]
        ):
            heapq.heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def run_timer(self) -> None:
        """Do what the next timer is for; exchange time is its."""
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

    def _start(self, ticker: str, due: Due, after: int) -> None:
        self._set += 1
        self._valid[ticker, due] = self._set
        heapq.heappush(self._timers, (self._ex.now + after, self._set, ticker, due))

    def _stop(self, ticker: str, due: Due) -> None:
        self._valid.pop((ticker, due), None)

    # The flow's steps: what a market's status does not allow is left out

    def created(self, listing: Listing) -> None:
        """A market has been listed."""
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
        self._say(
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
                rules_primary="A market of a recorded or made tape.",
                rules_secondary="",
                can_close_early=True,
                expected_expiration_ts=facts.announced_close // SECOND,
            ),
        )

    def opened(self, listing: Listing) -> None:
        """Its opening time has come."""
        if listing.status == "initialized":
            listing.status = "active"

    def paused(self, listing: Listing) -> None:
        """The flow deactivates it."""
        if self._may(listing, "inactive"):
            self._deactivate(listing)

    def resumed(self, listing: Listing) -> None:
        """The flow activates it again."""
        if listing.status == "inactive":
            self._activate(listing)

    def closed(self, listing: Listing) -> None:
        """The flow's closing time has come; a later one that the operator has set holds instead."""
        if (listing.facts.ticker, "close") in self._valid or not self._may(listing, "closed"):
            return
        if listing.close_ts != listing.facts.close:
            self._move_close(listing, listing.facts.close)
        self._close(listing)

    def determined(self, listing: Listing) -> None:
        """The flow knows the result; a market still open is determined after its close."""
        listing.facts.determined = min(listing.facts.determined, self._ex.now)
        if listing.status == "closed":
            self._determine(listing, timed=False)

    def settled(self, listing: Listing) -> None:
        """The flow's time of settlement; a timer that runs holds instead, and so does a dispute."""
        if (listing.facts.ticker, "settle") not in self._valid and listing.status in (
            "determined",
            "amended",
        ):
            self._settle(listing)

    # The operator

    def pause(self, ticker: str) -> None:
        """Deactivate a market.

        Raises:
            ExchangeError: unknown, or its status does not allow it; so for all methods of the operator.
        """
        self._deactivate(self._listing(ticker, "inactive"))

    def resume(self, ticker: str) -> None:
        """Activate a deactivated market; all orders that rest in it are cancelled."""
        listing = self._listing(ticker, "active")
        if listing.status != "inactive":
            raise ExchangeError(f"{ticker} is {listing.status}, not inactive: nothing to resume")
        self._activate(listing)

    def move_close(self, ticker: str, close_ts: int) -> None:
        """Set another closing time, in microseconds, for an open market."""
        listing = self._listing(ticker, "closed")
        if close_ts <= self._ex.now:
            raise ExchangeError(f"{ticker}: closing time {close_ts} has passed; close_early closes now")
        self._move_close(listing, close_ts)
        self._start(ticker, "close", close_ts - self._ex.now)

    def close_early(self, ticker: str) -> None:
        """Close a market now."""
        listing = self._listing(ticker, "closed")
        self._stop(ticker, "close")
        self._move_close(listing, self._ex.now)
        self._close(listing)

    def reopen(self, ticker: str, close_ts: int) -> None:
        """Move the closing time of a closed market into the future, which opens it again."""
        listing = self._listing(ticker, "active")
        if listing.status != "closed":
            raise ExchangeError(f"{ticker} is {listing.status}, not closed: nothing to reopen")
        if close_ts <= self._ex.now:
            raise ExchangeError(f"{ticker}: closing time {close_ts} has passed")
        self._move_close(listing, close_ts)
        self._activate(listing)
        self._start(ticker, "close", close_ts - self._ex.now)

    def determine(self, ticker: str, result: str, settlement: int | None = None) -> None:
        """Determine a closed market: "yes", "no", or "scalar" with what YES is paid, in price units."""
        listing = self._listing(ticker, "determined")
        if listing.status != "closed":
            raise ExchangeError(f"{ticker} is {listing.status}, not closed; amend changes a result")
        self._rule(listing, result, settlement)
        self._determine(listing)

    def dispute(self, ticker: str) -> None:
        """Dispute a result: it is not settled before it is amended or upheld."""
        listing = self._listing(ticker, "disputed")
        listing.status = "disputed"
        self._stop(ticker, "settle")

    def uphold(self, ticker: str) -> None:
        """End a dispute with the result as it was."""
        listing = self._listing(ticker, "determined")
        if listing.status != "disputed":
            raise ExchangeError(f"{ticker} is {listing.status}, not disputed: nothing to uphold")
        listing.status = "determined"
        self._start(ticker, "settle", self._settle_after)

    def amend(self, ticker: str, result: str, settlement: int | None = None) -> None:
        """Put another result in the place of the one there is."""
        listing = self._listing(ticker, "amended")
        self._rule(listing, result, settlement)
        listing.status = "amended"
        self._start(ticker, "settle", self._settle_after)

    def restructure(self, ticker: str, structure: str) -> None:
        """Give a market another grid of prices; orders that rest off it stay.

        Raises:
            ExchangeError: unknown, or no such structure.
        """
        listing = self._known(ticker)
        try:
            listing.facts.grid = TickGrid.named(structure)
        except UnitError as error:
            raise ExchangeError(f"{ticker} cannot have another grid: {error}") from None
        listing.facts.structure = structure
        self._say(
            listing,
            "price_level_structure_updated",
            price_level_structure=structure,
            price_ranges=serialize.price_ranges(listing),
        )

    def describe(self, ticker: str, yes_sub_title: str) -> None:
        """Correct what a market says that YES means; its rules, prices and orders stay as they are.

        Raises:
            ExchangeError: unknown, or no text.
        """
        listing = self._known(ticker)
        if not yes_sub_title.strip():
            raise ExchangeError(f"{ticker}: a market must say what YES means")
        listing.facts.title = yes_sub_title
        self._say(listing, "metadata_updated", yes_sub_title=yes_sub_title)

    def pause_trading(self) -> None:
        """Pause trading everywhere: orders are refused, cancels are not."""
        self._ex.trading_active = False
        self._ex.desk.halt()

    def resume_trading(self) -> None:
        """End a pause of trading, and one of the exchange."""
        self._ex.exchange_active = self._ex.trading_active = True

    def pause_exchange(self) -> None:
        """Pause the exchange: neither orders nor cancels."""
        self._ex.desk.halt()
        self._ex.exchange_active = self._ex.trading_active = False

    def resume_exchange(self) -> None:
        """End a pause of the exchange, and one of trading."""
        self.resume_trading()

    # What each step does

    def _known(self, ticker: str) -> Listing:
        listing = self._ex.listings.get(ticker)
        if listing is None:
            raise ExchangeError(f"{ticker} is not listed")
        return listing

    def _listing(self, ticker: str, target: str) -> Listing:
        listing = self._known(ticker)
        if not self._may(listing, target):
            allowed = ", ".join(FOLLOWS[listing.status]) or "nothing"
            raise ExchangeError(f"{ticker} is {listing.status}: {allowed} may follow, not {target}")
        return listing

    @staticmethod
    def _may(listing: Listing, target: str) -> bool:
        return target in FOLLOWS[listing.status]

    def _rule(self, listing: Listing, result: str, settlement: int | None) -> None:
        if result not in RESULTS:
            raise ExchangeError(f"result {result!r}: one of {', '.join(RESULTS)}")
        value = RESULTS[result] if settlement is None else settlement
        if value is None or not 0 <= value <= PRICE or (result != "scalar" and value != RESULTS[result]):
            raise ExchangeError(f"result {result} with settlement {settlement}: 0 to {PRICE} for scalar, else none")  # fmt: skip
        listing.facts.result, listing.facts.settlement = result, value

    def _deactivate(self, listing: Listing) -> None:
        listing.status = "inactive"
        self._say(listing, "deactivated", is_deactivated=True)
        self._ex.desk.halt(listing)

    def _activate(self, listing: Listing) -> None:
        before = self._ex.displayed(listing)
        self._ex.desk.cancel_market(listing, "HaltCancel")
        listing.status = "active"
        self._say(listing, "activated", is_deactivated=False)
        self._ex.publish_changes(listing, before)

    def _move_close(self, listing: Listing, close_ts: int) -> None:
        listing.close_ts = close_ts
        self._say(listing, "close_date_updated", close_ts=close_ts // SECOND)

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
        self._say(
            listing,
            "determined",
            result=facts.result,
            determination_ts=self._ex.now // SECOND,
            settlement_value=format_price(facts.settlement),
        )
        self._stop(facts.ticker, "determine")
        if timed:
            self._start(facts.ticker, "settle", self._settle_after)

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
        self._say(listing, "settled", settled_ts=self._ex.now // SECOND)

    def _say(self, listing: Listing, kind: str, **facts: object) -> None:
        ticker, listing.updated = listing.facts.ticker, self._ex.now
        body = wire.LifecycleMessage(market_ticker=ticker, event_type=kind, **facts)  # type: ignore[arg-type]
        channel = _channel(ticker)
        self._ex.hub.publish(channel, channel.encode(), ticker, body)


def _channel(ticker: str) -> str:
    """Where a market's life is told: combinations have a channel of their own."""
    return "multivariate_market_lifecycle" if ticker.startswith(COMBINATIONS) else "market_lifecycle_v2"
