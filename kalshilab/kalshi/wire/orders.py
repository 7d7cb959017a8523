"""REST bodies of order writes (V2) and of order groups.

Prices are YES prices in dollars and counts are contracts, both as strings.  An optional field may be
omitted; in requests it may also be `null`.
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
    """Request for an order; `price` is the YES price, `side` "bid" or "ask"."""

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
    """State of a new order; the averages are per contract and absent if nothing was filled."""

    order_id: str
    fill_count: str
    remaining_count: str
    ts_ms: int
    client_order_id: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


class CancelOrderResponse(Wire, frozen=True):
    """Contracts that a cancel removed."""

    order_id: str
    reduced_by: str
    ts_ms: int
    client_order_id: str | None = None


class AmendOrder(Wire, frozen=True):
    """Request to amend an order; `count` is the filled size plus the size to rest."""

    ticker: str
    side: str
    price: str
    count: str
    client_order_id: str | None = None
    updated_client_order_id: str | None = None
    expiration_time: int | None = None
    exchange_index: int | None = None


class AmendOrderResponse(Wire, frozen=True):
    """State of an amended order; counts are absent if neither fills nor the resting size changed."""

    order_id: str
    ts_ms: int
    client_order_id: str | None = None
    remaining_count: str | None = None
    fill_count: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


class DecreaseOrder(Wire, frozen=True):
    """Request to decrease an order, by exactly one of `reduce_by` and `reduce_to`."""

    reduce_by: str | None = None
    reduce_to: str | None = None
    exchange_index: int | None = None
    market_ticker: str | None = None


class DecreaseOrderResponse(Wire, frozen=True):
    """State of a decreased order."""

    order_id: str
    remaining_count: str
    ts_ms: int
    client_order_id: str | None = None


class ItemError(Wire, frozen=True):
    """Reason for which one order of a batch was refused."""

    code: str
    message: str
    details: str | None = None


class BatchCreate(Wire, frozen=True):
    """Orders of a batch; each is decoded separately, so an invalid one does not affect the others."""

    orders: list[msgspec.Raw]


class BatchCreateResult(Wire, frozen=True):
    """Result of one order of a batch: `error`, or the fields of a `CreateOrderResponse`."""

    order_id: str | None = None
    client_order_id: str | None = None
    fill_count: str | None = None
    remaining_count: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None
    ts_ms: int | None = None
    error: ItemError | None = None


class BatchCreateResponse(Wire, frozen=True):
    """Results of a batch of orders, in the order of the request."""

    orders: list[BatchCreateResult]


class BatchCancelItem(Wire, frozen=True):
    """One order to cancel in a batch."""

    order_id: str
    subaccount: int | None = None
    exchange_index: int | None = None
    market_ticker: str | None = None


class BatchCancel(Wire, frozen=True):
    """Orders to cancel; each is decoded separately."""

    orders: list[msgspec.Raw]


class BatchCancelResult(Wire, frozen=True):
    """Result of one cancel of a batch; with an error, `reduced_by` is "0.00"."""

    order_id: str
    reduced_by: str
    client_order_id: str | None = None
    ts_ms: int | None = None
    error: ItemError | None = None


class BatchCancelResponse(Wire, frozen=True):
    """Results of a batch of cancels, in the order of the request."""

    orders: list[BatchCancelResult]


class QueuePosition(Wire, frozen=True):
    """Contracts ahead of an order in the queue at its price."""

    order_id: str
    market_ticker: str
    queue_position_fp: str


class QueuePositionList(Wire, frozen=True):
    """Queue positions of the resting orders."""

    queue_positions: list[QueuePosition]


class QueuePositionResponse(Wire, frozen=True):
    """Queue position of one order."""

    queue_position_fp: str


class CreateGroup(Wire, frozen=True):
    """Request for an order group; its limit is in whole contracts or a count string, and both must agree."""

    contracts_limit: int | None = None
    contracts_limit_fp: str | None = None
    subaccount: int | None = None
    exchange_index: int | None = None


class CreateGroupResponse(Wire, frozen=True, omit_defaults=False):
    """Id of a new order group."""

    order_group_id: str
    subaccount: int = 0
    exchange_index: int = 0


class GroupLimit(Wire, frozen=True):
    """Request to change a group's limit."""

    contracts_limit: int | None = None
    contracts_limit_fp: str | None = None


class OrderGroupBody(Wire, frozen=True, omit_defaults=False):
    """An order group in a listing."""

    id: str
    contracts_limit_fp: str
    is_auto_cancel_enabled: bool = True
    exchange_index: int = 0


class OrderGroupList(Wire, frozen=True):
    """The account's order groups."""

    order_groups: list[OrderGroupBody]


class OrderGroupResponse(Wire, frozen=True, omit_defaults=False):
    """One order group; `orders` are the ids of its resting orders."""

    orders: list[str]
    contracts_limit_fp: str
    is_auto_cancel_enabled: bool = True
    exchange_index: int = 0
