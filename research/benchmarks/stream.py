"""Frame to typed event without a socket, against a bare msgspec decode; and deltas into a book."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter

import msgspec

from kalshilab.kalshi.events import BookDelta
from kalshilab.kalshi.protocol import StreamProtocol
from kalshilab.market.book import Book


def made(n: int = 40_000) -> list[bytes]:
    return [
        json.dumps(
            {
                "type": "orderbook_delta", "sid": 1, "seq": i + 1, "sending_ts_ms": 1_795_329_000_101,
                "msg": {
                    "market_ticker": "KXHIGHNY-26NOV22-B52.5", "market_id": "9b0f6b43-5b68-4f9f-9f02-9a2d1b8ac1a1",
                    "clock": i, "price_dollars": f"0.{4000 + i % 500:04d}", "delta_fp": f"{1 + i % 90}.00", "side": "yes",
                    "ts_ms": 1_795_329_000_900,
                },
            }
        ).encode()
        for i in range(n)
    ]  # fmt: skip


def rate(work: object, n: int) -> float:
    fastest = float("inf")
    for _ in range(5):
        began = perf_counter()
        work()  # type: ignore[operator]
        fastest = min(fastest, perf_counter() - began)
    return n / fastest / 1e6


def main() -> None:
    if len(sys.argv) > 1:
        lines = Path(sys.argv[1]).read_text().splitlines()
        frames = [json.dumps(json.loads(line)["frame"]).encode() for line in lines]
    else:
        frames = made()
    decoder = msgspec.json.Decoder()

    def bare() -> None:
        for frame in frames:
            decoder.decode(frame)

    def typed() -> None:
        protocol = StreamProtocol(lambda event: None)
        for frame in frames:
            protocol.receive(frame)

    floor, ours = rate(bare, len(frames)), rate(typed, len(frames))
    print(
        f"frame to typed event: {ours:.2f} M/s, {ours / floor:.2f} x a bare untyped decode ({floor:.2f} M/s)"
    )
    deltas: list[BookDelta] = []
    protocol = StreamProtocol(lambda e: deltas.append(e) if isinstance(e, BookDelta) else None)
    for frame in frames:
        protocol.receive(frame)
    changes = [(e.side, e.price, abs(e.delta)) for e in deltas]

    def book() -> None:
        b = Book()
        apply = b.apply
        for side, price, delta in changes:
            apply(side, price, delta)
            _ = b.best_yes_bid

    def dictionary() -> None:
        d: dict[int, int] = {}
        for _, price, delta in changes:
            d[price] = d.get(price, 0) + delta

    mine, plain = rate(book, len(changes)), rate(dictionary, len(changes))
    print(
        f"delta applied and best bid read: {mine:.2f} M/s, {mine / plain:.2f} x a bare dict ({plain:.2f} M/s)"
    )


if __name__ == "__main__":
    main()
