"""History over REST: where the archive begins, and pages of public prints as columns.

The exchange keeps records younger than a *cutoff* in the live listings and older ones in the historical ones,
and a record is in one of the two.  Reading prints by the million as one object each is slow and, because such
an object names the taker's outcome, not possible for the few prints that do not say it.  So a page can also be
had as **columns**: plain lists of the texts the exchange sent, newest first, which a frame takes in at once
(`kalshilab.tape.ingest.trade_pages`).  Nothing is parsed, nothing is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from kalshilab.errors import ProtocolError
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import UNREADABLE
from kalshilab.lazy import renamed

__all__ = ["Columns", "HistoricalCutoff", "RawTradePage"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Columns = dict[str, list[str | None]]
"""A page of prints: `created_time`, `ticker`, `yes_price_dollars`, `count_fp`, `taker_outcome_side`, `trade_id`,
lists of one length; only a taker may be None."""


class HistoricalCutoff(msgspec.Struct, frozen=True):
    """Where the archive begins, in microseconds: older prints, settled markets and finished orders are only there."""

    trades: int
    markets: int
    orders: int

    @classmethod
    def of(cls, body: wire.CutoffBody) -> HistoricalCutoff:
        """From the exchange's answer."""
        return cls(
            wire.instant(body.trades_created_ts),
            wire.instant(body.market_settled_ts),
            wire.instant(body.orders_updated_ts),
        )


class _Print(msgspec.Struct, gc=False):
    """What a tape keeps of a print; the other fields are skipped unread."""

    trade_id: str
    ticker: str
    count_fp: str
    yes_price_dollars: str
    created_time: str
    taker_outcome_side: str | None = None
    taker_side: str | None = None


class RawTradePage(msgspec.Struct, gc=False):
    """A page of prints.

    >>> page = RawTradePage.decode(b'''{"cursor": "", "trades": [{"trade_id": "t", "ticker": "A-B-1",
    ...     "count_fp": "7.50", "yes_price_dollars": "0.4300", "no_price_dollars": "0.5700",
    ...     "taker_side": "yes", "created_time": "2026-11-22T14:03:11.609997Z"}]}''')
    >>> page.columns()["taker_outcome_side"], page.columns()["count_fp"]
    (['yes'], ['7.50'])
    """

    trades: list[_Print]
    cursor: str = ""

    @classmethod
    def decode(cls, body: bytes) -> RawTradePage:
        """From the JSON of an answer.

        Raises:
            ProtocolError: it is not a page of prints.
        """
        try:
            return _PAGE.decode(body)
        except UNREADABLE as error:
            raise ProtocolError(f"page of trades: {error}", body) from None

    def columns(self) -> Columns:
        """The page as columns, newest first, with the older name of the taker's outcome where the newer is absent."""
        rows = self.trades
        return {
            "created_time": [t.created_time for t in rows],
            "ticker": [t.ticker for t in rows],
            "yes_price_dollars": [t.yes_price_dollars for t in rows],
            "count_fp": [t.count_fp for t in rows],
            "taker_outcome_side": [t.taker_outcome_side or t.taker_side for t in rows],
            "trade_id": [t.trade_id for t in rows],
        }


_PAGE: Final = msgspec.json.Decoder(RawTradePage)
