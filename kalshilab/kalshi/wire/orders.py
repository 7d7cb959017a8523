"""REST bodies of order writes (V2) and of order groups.

Prices are YES prices in dollars, counts are contracts, both as strings.  A field whose default is None may be
left out; requests may also say `null`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kalshilab.kalshi.wire.base import Wire
from kalshilab.lazy import renamed

__all__ = [
    "AmendOrder",
    "AmendOrderResponse",
    "BatchCancel",
    "BatchCancelItem",
    "BatchCancelResponse",
    "BatchCancelResult",
    "BatchCreate",
    "BatchCreateResponse",
    "BatchCreateResult",
    "CancelOrderResponse",
    "CreateGroup",
    "CreateGroupResponse",
    "CreateOrder",
    "CreateOrderResponse",
    "DecreaseOrder",
    "DecreaseOrderResponse",
    "GroupLimit",
    "ItemError",
    "OrderGroupBody",
    "OrderGroupList",
    "OrderGroupResponse",
    "QueuePosition",
    "QueuePositionList",
    "QueuePositionResponse",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class CreateOrder(Wire, frozen=True):
    """The body of an order; `price` is the YES price, `side` "bid" or "ask"."""

    ticker: str
    side: str
    count: str
    price: str
    time_in_force: str
    self_trade_prevention_type: str
    client_order_id: str | None = None
    expiration_time: int | None = None
    post_only: bool | None = False
    reduce_only: bool | None = False
    cancel_order_on_pause: bool | None = False
    order_group_id: str | None = None
    subaccount: int | None = 0
    exchange_index: int | None = None


class CreateOrderResponse(Wire, frozen=True):
    """What a new order came to; averages are per contract, only where something was filled."""

    order_id: str
    fill_count: str
    remaining_count: str
    ts_ms: int
    client_order_id: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


class CancelOrderResponse(Wire, frozen=True):
    """What a cancel took off."""

    order_id: str
    reduced_by: str
    ts_ms: int
    client_order_id: str | None = None


class AmendOrder(Wire, frozen=True):
    """An amend: `count` is what is filled already plus what shall rest."""

    ticker: str
    side: str
    price: str
    count: str
    client_order_id: str | None = None
    updated_client_order_id: str | None = None
    expiration_time: int | None = None
    exchange_index: int | None = None


class AmendOrderResponse(Wire, frozen=True):
    """Counts only where the amend filled something or changed what rests."""

    order_id: str
    ts_ms: int
    client_order_id: str | None = None
    remaining_count: str | None = None
    fill_count: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


class DecreaseOrder(Wire, frozen=True):
    """A decrease: exactly one of `reduce_by` and `reduce_to`."""

    reduce_by: str | None = None
    reduce_to: str | None = None
    exchange_index: int | None = None
    market_ticker: str | None = None


class DecreaseOrderResponse(Wire, frozen=True):
    order_id: str
    remaining_count: str
    ts_ms: int
    client_order_id: str | None = None


class ItemError(Wire, frozen=True):
    """Why one order of a batch was refused."""

    code: str
    message: str
    details: str | None = None


class BatchCreate(Wire, frozen=True):
    """Orders, each read on its own: one that lacks a field does not spoil the others."""

    orders: list[msgspec.Raw]


class BatchCreateResult(Wire, frozen=True):
    """One order's outcome: `error`, or the fields of a `CreateOrderResponse`."""

    order_id: str | None = None
    client_order_id: str | None = None
    fill_count: str | None = None
    remaining_count: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None
    ts_ms: int | None = None
    error: ItemError | None = None


class BatchCreateResponse(Wire, frozen=True):
    orders: list[BatchCreateResult]


class BatchCancelItem(Wire, frozen=True):
    order_id: str
    subaccount: int | None = None
    exchange_index: int | None = None
    market_ticker: str | None = None


class BatchCancel(Wire, frozen=True):
    """Orders to cancel, each read on its own."""

    orders: list[msgspec.Raw]


class BatchCancelResult(Wire, frozen=True):
    """One cancel's outcome; `reduced_by` is "0.00" beside an error."""

    order_id: str
    reduced_by: str
    client_order_id: str | None = None
    ts_ms: int | None = None
    error: ItemError | None = None


class BatchCancelResponse(Wire, frozen=True):
    orders: list[BatchCancelResult]


class QueuePosition(Wire, frozen=True):
    """Contracts that must trade before this order does."""

    order_id: str
    market_ticker: str
    queue_position_fp: str


class QueuePositionList(Wire, frozen=True):
    queue_positions: list[QueuePosition]


class QueuePositionResponse(Wire, frozen=True):
    queue_position_fp: str


class CreateGroup(Wire, frozen=True):
    """A group's limit, in whole contracts or as a count string; where both stand they must agree."""

    contracts_limit: int | None = None
    contracts_limit_fp: str | None = None
    subaccount: int | None = None
    exchange_index: int | None = None


class CreateGroupResponse(Wire, frozen=True, omit_defaults=False):
    order_group_id: str
    subaccount: int = 0
    exchange_index: int = 0


class GroupLimit(Wire, frozen=True):
    contracts_limit: int | None = None
    contracts_limit_fp: str | None = None


class OrderGroupBody(Wire, frozen=True, omit_defaults=False):
    id: str
    contracts_limit_fp: str
    is_auto_cancel_enabled: bool = True
    exchange_index: int = 0


class OrderGroupList(Wire, frozen=True):
    order_groups: list[OrderGroupBody]


class OrderGroupResponse(Wire, frozen=True, omit_defaults=False):
    """One group; `orders` are the ids of those of its orders that rest."""

    orders: list[str]
    contracts_limit_fp: str
    is_auto_cancel_enabled: bool = True
    exchange_index: int = 0
