"""Errors: the tree matches its drawing, and each error builds its sentence from the facts it holds."""

from __future__ import annotations

import pickle
import re

import pytest

from kalshilab import errors


def drawn() -> dict[str, str]:
    """Return class -> parent, as the tree in the module docstring shows them."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(\s{2,}|$)", line)
        if match:
            depth = len(match.group(1)) // 4
            del path[depth:]
            if path:
                parents[match.group(2)] = path[-1]
            path.append(match.group(2))
    return parents


def test_every_class_is_drawn_and_derives_as_drawn() -> None:
    parents = drawn()
    assert parents.keys() | {"KalshilabError"} == set(errors.__all__)
    for name, parent in parents.items():
        assert getattr(errors, name).__bases__[0] is getattr(errors, parent), name


def test_every_error_of_the_module_is_public() -> None:
    here = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert here == set(errors.__all__) and errors.__all__ == sorted(errors.__all__)
    assert all(getattr(errors, n).__doc__ for n in here)


EXAMPLES: list[tuple[errors.KalshilabError, dict[str, object], list[str]]] = [
    (
        errors.ConfigError("RLM_MIN_TRADES", "soon", "a whole number", "environment"),
        {"name": "RLM_MIN_TRADES", "value": "soon", "allowed": "a whole number", "source": "environment"},
        ["RLM_MIN_TRADES must be a whole number, got 'soon' (environment)"],
    ),
    (
        errors.EnvFileError(".env", 7, "cannot be read"),
        {"path": ".env", "line": 7, "reason": "cannot be read", "value": None, "source": ".env, line 7"},
        [".env, line 7", "cannot be read", "NAME=VALUE"],
    ),
    (
        errors.CredentialsMissing("demo", ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH")),
        {
            "venue": "demo",
            "missing": ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH"),
            "name": "KALSHI_API_KEY_ID",
        },
        ["demo", "KALSHI_API_KEY_ID and KALSHI_PRIVATE_KEY_PATH", "embedded"],
    ),
    (
        errors.UnitError("price", "1.5", "from 0 to 1 dollar"),
        {"what": "price", "value": "1.5"},
        ["price must be from 0 to 1 dollar, got '1.5'"],
    ),
    (
        errors.LakeError("lake", "lake/x.parquet", "is missing"),
        {"path": "lake", "file": "lake/x.parquet", "reason": "is missing", "run": "kalshilab doctor lake"},
        ["lake/x.parquet: is missing", "run: kalshilab doctor lake"],
    ),
    (
        errors.TapeError("must not be null", column="taker", row=3, value="x"),
        {"column": "taker", "row": 3, "value": "x", "reason": "must not be null"},
        ["column 'taker'", "row 3", "'x'", "must not be null"],
    ),
    (
        errors.SignalError("rlm", "min_trades", 0, "1 or more"),
        {"signal": "rlm", "parameter": "min_trades", "value": 0, "allowed": "1 or more"},
        ["rlm: min_trades must be 1 or more, got 0"],
    ),
    (
        errors.HostRefused("https://evil.com", "orders", "not on the list"),
        {"url": "https://evil.com", "purpose": "orders", "reason": "not on the list"},
        ["https://evil.com", "orders", "not on the list"],
    ),
    (errors.KeyUnusable("key.pem", "is encrypted"), {"origin": "key.pem"}, ["key.pem", "is encrypted"]),
    (
        errors.ApiError("POST", "/p", 400, "invalid_order", "invalid_order", "post only cross"),
        {"method": "POST", "path": "/p", "status": 400, "code": "invalid_order", "retryable": False},
        ["POST /p -> 400 invalid_order: post only cross"],
    ),
    (errors.ApiError("GET", "/p", 0), {"status": 0}, ["GET /p -> no answer"]),
    (errors.RateLimited("GET", "/p"), {"status": 429, "retryable": True}, ["429"]),
    (
        errors.OutcomeUnknown("POST", "/p", 0, "timed out"),
        {"status": 0, "retryable": False, "code": "outcome_unknown"},
        ["POST /p", "timed out"],
    ),
    (errors.ConnectionFailed("http://x", "refused"), {"url": "http://x"}, ["http://x", "refused"]),
    (errors.ProtocolError("odd", b"\xff{" + b"x" * 500), {"reason": "odd"}, ["odd"]),
    (errors.SequenceGap(3, 7, 9), {"sid": 3, "expected": 7, "got": 9}, ["sid 3", "7", "9", "snapshot"]),
    (errors.FeedLost("ws://x", 10, "closed"), {"url": "ws://x", "attempts": 10}, ["ws://x", "10", "closed"]),
    (
        errors.IllegalTransition("READY", "STARTUP", ("ACTING", "SHUTDOWN")),
        {"current": "READY", "wanted": "STARTUP", "allowed": ("ACTING", "SHUTDOWN")},
        ["READY -> STARTUP", "ACTING, SHUTDOWN"],
    ),
]


@pytest.mark.parametrize(("error", "facts", "words"), EXAMPLES, ids=lambda v: type(v).__name__)
def test_an_error_holds_its_facts_and_states_them(
    error: errors.KalshilabError, facts: dict[str, object], words: list[str]
) -> None:
    assert {name: getattr(error, name) for name in facts} == facts
    for word in words:
        assert word in str(error)


@pytest.mark.parametrize("error", [e for e, _, _ in EXAMPLES], ids=[type(e).__name__ for e, _, _ in EXAMPLES])
def test_facts_and_sentence_survive_pickling(error: errors.KalshilabError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_errors_without_facts_take_one_sentence() -> None:
    with_facts = {type(error) for error, _, _ in EXAMPLES}
    plain = {getattr(errors, n) for n in errors.__all__} - with_facts
    assert {c.__name__ for c in plain} == {
        "BookError", "EdgeError", "ExchangeError", "JournalError", "KalshilabError", "RegistryError", "SessionError",
        "StreamError", "UsageError",
    }  # fmt: skip
    for cls in plain:
        assert str(cls("a sentence")) == "a sentence"


def test_a_protocol_error_keeps_the_first_120_characters_of_a_frame() -> None:
    assert len(errors.ProtocolError("odd", "x" * 500).excerpt) == 120


def test_unit_tape_signal_and_book_errors_are_value_errors() -> None:
    for cls in (errors.UnitError, errors.TapeError, errors.SignalError, errors.BookError):
        assert issubclass(cls, ValueError)
