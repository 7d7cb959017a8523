"""The exchange itself: no sockets, no clock of its own, no chance but its seed.

`step` plays the next thing that happens on the tape; the methods for orders do what a client asks at that
moment; whatever the public or the account should hear of goes to the hub.  The same tape, seed and calls give
the same bytes.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable
from typing import Final

import polars as pl

from kalshilab.clock import isoformat
from kalshilab.errors import ExchangeError
from kalshilab.exchange.background_flow import Background
from kalshilab.exchange.flows.background_quotes import Quotes
from kalshilab.exchange.flows.recorded_books import BookFrame
from kalshilab.exchange.flows.tape_flow import Flow, Source, Step
from kalshilab.exchange.market_lifecycle import Life
from kalshilab.exchange.orders.contract_choices import Choices
from kalshilab.exchange.orders.order_desk import OrderDesk
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.account import Account
from kalshilab.exchange.state.candles import Candles
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.exchange.state.listings import Listing, Listings, Top
from kalshilab.exchange.state.order_book import MarketBook, RestingOrder
from kalshilab.exchange.state.shadow_fills import ShadowFills
from kalshilab.exchange.state.trade_log import PRINTS_KEPT, PrintLog
from kalshilab.exchange.stream.hub import Hub
from kalshilab.kalshi.wire import stream as wire
from kalshilab.market.lifecycle import DETERMINED
from kalshilab.market.model import Trade
from kalshilab.units import PRICE, cents, dollars, format_price, format_size

__all__ = ["Exchange"]

DAY: Final = 86_400_000_000
FILLS: Final = FillModel()
CHOICES: Final = Choices()


_LIFE: Final = {
    "open": Life.opened,
    "pause": Life.paused,
    "resume": Life.resumed,
    "close": Life.closed,
    "determine": Life.determined,
    "settle": Life.settled,
}
"""What each step of a market's life is to the exchange."""
_BOOK: Final = {"book": Background.book, "level": Background.level, "blind": Background.blind}
"""What each step of a market's book is to the exchange."""


class Exchange:
    """A local exchange that plays a tape.

    Args:
        tape, markets: what is played; see `kalshilab.tape`.
        flow: what is played in their stead: a `Synthetic`, a `Mirror`, or any flow.
        frames: recorded books that go with the tape; see `kalshilab.exchange.flows.recorded_books`.
        fills: how orders are filled; see `kalshilab.exchange.state.fill_model`.
        seed: of order ids and of whatever else is drawn.
        balance: money units in the one account.
        spread: price units between the background's best bid and ask.
        depth: background levels each side.
        echo_trades: whether a client's own fills are published as public trades too, as on the real exchange.
            A session that must see exactly the recorded prints turns this off.
        settle_after: microseconds from determination to settlement where the table gives no time.
        archive_after: microseconds after which prints, and settled markets, leave the live listings for the
            historical ones; see `cutoff`.
        choices: what the exchange's documents leave open; see `kalshilab.exchange.orders.contract_choices`.
        form: "2026-01" for the messages and bodies of January 2026; see `kalshilab.exchange.stream.format_2026_01`.
        prints_kept: public prints remembered in all, live and historical; the oldest are forgotten.

    >>> import kalshilab as kl
    >>> ex = Exchange(*kl.sample(), seed=0)
    >>> ex.step(), len(ex.listings)
    (True, 1)

    Raises:
        TapeError, ExchangeError: what is to be played cannot be.
    """

    def __init__(
        self,
        tape: pl.DataFrame | None = None,
        markets: pl.DataFrame | None = None,
        *,
        flow: Source | None = None,
        frames: Iterable[BookFrame] = (),
        fills: FillModel = FILLS,
        seed: int = 0,
        balance: int = dollars(10_000),
        spread: int = cents(2),
        depth: int = 2,
        echo_trades: bool = True,
        settle_after: int = 3_600_000_000,
        archive_after: int = 60 * DAY,
        prints_kept: int = PRINTS_KEPT,
        choices: Choices = CHOICES,
        form: str = "",
    ) -> None:
        if archive_after < 0:
            raise ExchangeError(f"archive_after {archive_after}: not below zero")
        if balance <= 0 or spread <= 0 or depth < 1:
            raise ExchangeError(f"balance {balance}, spread {spread} and depth {depth} must be above zero")
        if flow is None:
            if tape is None or markets is None:
                raise ExchangeError("nothing to play: give a tape and its markets, or a flow")
            flow = Flow(tape, markets, settle_after=settle_after, frames=frames)
        elif tape is not None or markets is not None:
            raise ExchangeError("a tape and a flow: give one of them")
        self.flow: Final = flow
        self.fills: Final = fills
        self.shadows: Final = ShadowFills(fills.mode)
        self.now = (self.flow.next_ts or 0) - 1
        self.prints_played = 0
        self.listings = Listings()
        self.account = Account(balance)
        self.hub = Hub(self, form)
        self._random = random.Random(seed)
        self.user_id = self.new_id()
        self.choices = choices
        self.desk: Final = OrderDesk(self)
        self.life: Final = Life(self, settle_after)
        self.echo_trades = echo_trades
        self.exchange_active = self.trading_active = True
        self._spread, self._depth = spread, depth
        self._world = Background(self)
        self._printing = False
        self._pending: dict[int, Listing] = {}
        self.prints: Final = PrintLog(prints_kept)
        self.candles: Final = Candles()
        self._archive_after = archive_after

    def new_id(self) -> str:
        """A fresh id in the form of the exchange's."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    # The flow

    def next_ts(self) -> int | None:
        """Exchange time of the next step, in microseconds: the flow's, or a timer's; None when there is none."""
        flow, timer = self.flow.next_ts, self.life.next_ts
        if flow is None or timer is None:
            return timer if flow is None else flow
        return min(flow, timer)

    def step(self) -> bool:
        """Play the next step; False when there is none."""
        timer, flow = self.life.next_ts, self.flow.next_ts
        if timer is not None and (flow is None or timer <= flow):
            self.now = max(self.now, timer)
            self.desk.expire()
            self.life.run_timer()
        else:
            step = self.flow.take()
            if step is None:
                return False
            self.now = max(self.now, step.ts)
            self.desk.expire()
            self._play(step)
        self.desk.settle_groups()
        return True

    def advance(self, ts: int) -> None:
        """Let exchange time pass up to `ts`, microseconds, and happen what happens until then (inclusive).

        Raises:
            ExchangeError: time does not run backwards.
        """
        if ts < self.now:
            raise ExchangeError(f"{ts} has passed; it is {self.now}")
        while (due := self.next_ts()) is not None and due <= ts:
            self.step()
        self.now = ts
        self.desk.expire()
        self.desk.settle_groups()

    def _play(self, step: Step) -> None:
        kind = step.kind
        if kind == "create":
            facts = self.flow.facts[step.market]
            quotes = Quotes(facts.grid, self._spread, self._depth)
            book = MarketBook(self.fills, self.shadows, mirrored=facts.mirrored)
            listing = self._pending[step.market] = Listing(facts, quotes, book)
            self.life.created(listing)
            return
        if kind == "retire":
            ticker = self.flow.facts[step.market].ticker
            self.listings.retire(ticker)
            self.candles.forget(ticker)
            return
        if kind == "time":
            return
        listing = self._pending[step.market]
        if kind in _LIFE:
            _LIFE[kind](self.life, listing)
            if kind == "settle":
                del self._pending[step.market]
        elif kind == "print":
            # In a market that the operator has closed, or while all are paused, nothing trades.
            if listing.status == "active" and self.trading_active:
                self._printing = True
                self._world.print(listing, step)
                self._see_quotes(listing)
                self._printing = False
        elif listing.status in ("initialized", "active", "inactive"):
            _BOOK[kind](self._world, listing, step)
            self._see_quotes(listing)

    # Telling

    def displayed(self, listing: Listing) -> tuple[dict[int, int], dict[int, int]] | None:
        """Both sides of the displayed book, if anybody watches it; for `publish_changes`."""
        return self._world.displayed(listing)

    def publish_changes(
        self,
        listing: Listing,
        before: tuple[dict[int, int], dict[int, int]] | None,
        cause: RestingOrder | None = None,
    ) -> None:
        """Send the differences between the displayed book then and now, a level a message."""
        self._world.publish_changes(listing, before, cause)
        self._see_quotes(listing)

    def _see_quotes(self, listing: Listing) -> None:
        """The best quotes may have changed."""
        book, ticker = listing.book, listing.facts.ticker
        bid, ask = book.best_bid(), book.best_ask()
        self.candles.quoted(ticker, self.now, bid, ask)
        # A print makes the book fit before it happens, and the ticker message that follows it tells of both.
        if self._printing or not self.hub.wanted("ticker", ticker):
            return
        top = _top(listing, bid, ask)
        if listing.told != top:
            self._publish_ticker(listing, top)

    def shadow_fills(self) -> pl.DataFrame:
        """Every order that rested, with what each fill model has made of it by now: `ShadowFills.frame`."""
        return self.shadows.frame()

    def publish_trade(self, listing: Listing, price: int, size: int, taker: str, trade_id: str) -> None:
        """A public print: the trade, and the ticker that follows from it."""
        listing.last_price, listing.last_size = price, size
        listing.volume += size
        ticker = listing.facts.ticker
        self.prints.append(Trade(self.now, ticker, price, size, taker, trade_id))
        self.candles.printed(ticker, self.now, price, size)
        if self.hub.wanted("trade", ticker):
            self.hub.publish(
                "trade",
                b"trade",
                ticker,
                wire.TradeMessage(
                    trade_id=trade_id,
                    market_ticker=ticker,
                    yes_price_dollars=format_price(price),
                    no_price_dollars=format_price(PRICE - price),
                    count_fp=format_size(size),
                    taker_side=taker,
                    taker_outcome_side=taker,
                    taker_book_side="bid" if taker == "yes" else "ask",
                    ts=self.now // 1_000_000,
                    ts_ms=self.now // 1000,
                    ts_us=self.now,
                ),
            )
        if self.hub.wanted("ticker", ticker):
            book = listing.book
            self._publish_ticker(listing, _top(listing, book.best_bid(), book.best_ask()))

    def _publish_ticker(self, listing: Listing, top: Top) -> None:
        listing.told = top
        self.hub.publish("ticker", b"ticker", listing.facts.ticker, self._ticker(listing, top))

    def publish_position(self, ticker: str) -> None:
        """The account's position in a market."""
        holding = self.account.holding(ticker)
        volume = self.account.volume.get(ticker, 0)
        body = serialize.position_message(ticker, holding, volume, self.user_id)
        self.hub.publish("market_positions", b"market_position", ticker, body)

    # What the hub asks

    def now_ms(self) -> int:
        """Exchange time in milliseconds."""
        return self.now // 1000

    def snapshot(self, ticker: str) -> wire.OrderbookSnapshot | None:
        """A listed market's book as the `orderbook_delta` channel begins with it."""
        listing = self.listings.get(ticker)
        if listing is None:
            return None
        shown = serialize.book(listing)
        return wire.OrderbookSnapshot(
            market_ticker=ticker,
            market_id=serialize.market_id(ticker),
            clock=listing.clock,
            yes_dollars_fp=shown.yes_dollars,
            no_dollars_fp=shown.no_dollars,
        )

    def ticker_named(self, market_id: str) -> str | None:
        """The ticker of the listed market with this id, or None."""
        return next(
            (x.facts.ticker for x in self.listings if serialize.market_id(x.facts.ticker) == market_id), None
        )

    def ticker_body(self, ticker: str) -> wire.TickerMessage | None:
        """A listed market's top of book."""
        listing = self.listings.get(ticker)
        if listing is None:
            return None
        book = listing.book
        return self._ticker(listing, _top(listing, book.best_bid(), book.best_ask()))

    def _ticker(self, listing: Listing, top: Top) -> wire.TickerMessage:
        ticker = listing.facts.ticker
        bid, bid_size, ask, ask_size = top
        return wire.TickerMessage(
            market_ticker=ticker,
            market_id=serialize.market_id(ticker),
            price_dollars=format_price(listing.last_price),
            yes_bid_dollars=format_price(bid or 0),
            yes_ask_dollars=format_price(PRICE if ask is None else ask),
            yes_bid_size_fp=format_size(bid_size),
            yes_ask_size_fp=format_size(ask_size),
            last_trade_size_fp=format_size(listing.last_size),
            volume_fp=format_size(listing.volume),
            open_interest_fp=format_size(listing.volume // 2),
            dollar_volume=listing.volume // 100,
            dollar_open_interest=listing.volume // 200,
            ts=self.now // 1_000_000,
            ts_ms=self.now // 1000,
            time=isoformat(self.now),
        )

    @property
    def cutoff(self) -> int:
        """Where the archive begins, in microseconds: a UTC midnight, `archive_after` or up to a day more ago.

        Prints before it, and markets settled before it, are in the historical listings and in no live one.
        """
        return max((self.now - self._archive_after) // DAY * DAY, 0)

    def archived(self, listing: Listing) -> bool:
        """Whether a market has left the live listings."""
        return listing.status == "finalized" and listing.facts.settled < self.cutoff

    def marks(self) -> dict[str, int]:
        """YES prices of listed markets: what YES paid once determined, else the last print."""
        return {
            x.facts.ticker: x.facts.settlement if x.status in DETERMINED else x.last_price
            for x in self.listings
        }

    def __repr__(self) -> str:
        return f"Exchange({len(self.listings)} markets listed, {self.prints_played:,} of {self.flow.prints:,} prints)"


def _top(listing: Listing, bid: int | None, ask: int | None) -> Top:
    """The best quotes and their sizes."""
    size_at = listing.book.size_at
    return (
        bid,
        0 if bid is None else size_at("bid", bid),
        ask,
        0 if ask is None else size_at("ask", ask),
    )
