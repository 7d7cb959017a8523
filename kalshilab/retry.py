"""Retry policy: whether a failed request is sent again, and after how long.

The one place that decides it, for REST reads (`kalshilab.kalshi.rest.client`) and for downloads
(`kalshilab.tape.ingest.download`).  It is below both and pure: it looks at the request's method, the attempt and the
error, and neither sends nor sleeps.

======================================= ======= =================
outcome                                 read    write
======================================= ======= =================
`ConnectionFailed`: nothing was sent    retry   raise
429                                     retry   raise
5xx, or no answer                       retry   raise, look it up
any other answer                        raise   raise
======================================= ======= =================

A write is never retried here, not even after an outcome that excludes a double order.  An order whose answer was lost
is looked up under its client order id (`DemoOrders.find`), and what follows from a refusal is the strategy's decision.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalshilab.errors import ApiError, ConnectionFailed

__all__ = ["RetryPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Number of attempts and the waits between them.

    The waits double from `first_wait_s` up to `longest_wait_s`.  A longer wait that the exchange asks for
    (`Retry-After`) is respected, up to `longest_wait_s`.

    Attributes:
        attempts: how often a read is sent at most, the first time included.
        first_wait_s: seconds before the second attempt.
        longest_wait_s: seconds that no wait exceeds.
        jitter: fraction by which a wait varies at random, both ways, so that clients do not return in step.
    """

    attempts: int
    first_wait_s: float
    longest_wait_s: float
    jitter: float = 0.0

    def wait_s(
        self, method: str, attempt: int, error: ApiError | ConnectionFailed, *, draw: float = 0.5
    ) -> float | None:
        """Return the seconds to wait before the request is sent again; None means: raise the error.

        >>> policy = RetryPolicy(attempts=3, first_wait_s=0.2, longest_wait_s=10)
        >>> refused = ConnectionFailed("http://x", "refused")
        >>> [policy.wait_s("GET", attempt, refused) for attempt in (1, 2, 3)]
        [0.2, 0.4, None]
        >>> [policy.wait_s(method, 1, refused) for method in ("POST", "DELETE")]
        [None, None]

        Args:
            method: the HTTP method of the request.
            attempt: the attempt that failed, from 1.
            error: its outcome.
            draw: a random number from [0, 1) for the jitter; 0.5 leaves the wait as it is.
        """
        retryable = isinstance(error, ConnectionFailed) or error.retryable
        if method != "GET" or not retryable or attempt >= self.attempts:
            return None
        wait = self.first_wait_s * 2.0 ** (attempt - 1) * (1 + self.jitter * (2 * draw - 1))
        asked = error.retry_after_s if isinstance(error, ApiError) else None
        return min(max(wait, asked or 0.0), self.longest_wait_s)
