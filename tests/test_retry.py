"""Retry policy: a table of method, outcome and attempt, and the waits between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ApiError, ConnectionFailed, OutcomeUnknown, RateLimited
from kalshilab.retry import RetryPolicy

POLICY = RetryPolicy(attempts=4, first_wait_s=0.2, longest_wait_s=10.0)
NOT_SENT = ConnectionFailed("http://x", "refused")
NO_ANSWER = ApiError("GET", "/p", 0, "no_answer", "reset", retryable=True)
BUSY = ApiError("GET", "/p", 503, "", "busy", retryable=True)
REFUSED = ApiError("GET", "/p", 400, "invalid", "no")
UNKNOWN = OutcomeUnknown("POST", "/p", 0, "reset")
LIMITED = RateLimited("GET", "/p")


@pytest.mark.parametrize(
    ("method", "attempt", "error", "wait_s"),
    [
        ("GET", 1, NOT_SENT, 0.2),
        ("GET", 2, NOT_SENT, 0.4),
        ("GET", 3, NOT_SENT, 0.8),
        ("GET", 4, NOT_SENT, None),
        ("GET", 1, NO_ANSWER, 0.2),
        ("GET", 4, NO_ANSWER, None),
        ("GET", 1, BUSY, 0.2),
        ("GET", 1, LIMITED, 0.2),
        ("GET", 1, RateLimited("GET", "/p", retry_after_s=3), 3.0),
        ("GET", 1, RateLimited("GET", "/p", retry_after_s=0.1), 0.2),
        ("GET", 1, RateLimited("GET", "/p", retry_after_s=86_400), 10.0),
        ("GET", 4, RateLimited("GET", "/p", retry_after_s=3), None),
        ("GET", 1, REFUSED, None),
        *(
            (method, attempt, error, None)
            for method in ("POST", "DELETE", "PUT")
            for attempt in (1, 2)
            for error in (NOT_SENT, LIMITED, UNKNOWN, REFUSED)
        ),
    ],
)
def test_the_policy_decides_by_method_attempt_and_outcome(
    method: str, attempt: int, error: ApiError | ConnectionFailed, wait_s: float | None
) -> None:
    assert POLICY.wait_s(method, attempt, error) == (None if wait_s is None else pytest.approx(wait_s))


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True))
def test_jitter_varies_a_wait_around_its_value_up_to_the_longest(attempt: int, draw: float) -> None:
    policy = RetryPolicy(attempts=100, first_wait_s=1.0, longest_wait_s=60.0, jitter=0.5)
    wait_s = policy.wait_s("GET", attempt, NOT_SENT, draw=draw)
    assert wait_s is not None
    assert min(0.5 * 2.0 ** (attempt - 1), 60.0) <= wait_s <= min(1.5 * 2.0 ** (attempt - 1), 60.0)
