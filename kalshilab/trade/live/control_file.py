"""Control of a running session by files: one request in each file of the folder `control` of its run.

    RUN/control/1790000000000000.json    {"action": "pause", "reason": "news", "strategy": "rlm_no"}

A request is complete as soon as its name ends in `.json`: `send_request` writes it under another name first.  The session
reads the requests in the order of their names, which are times, and removes each of them; so a file that is gone was
taken.  A file that a person is still writing is left for a moment; one that stays unreadable is renamed, and reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from kalshilab.clock import WallClock
from kalshilab.errors import SessionError
from kalshilab.fs import TEMPORARY
from kalshilab.trade.core.messages import Operate

__all__ = ["ACTIONS", "format_request", "parse_request", "send_request", "take_requests"]

ACTIONS: Final = ("pause", "resume", "flatten", "stop", "kill")
FOLDER: Final = "control"
REFUSED: Final = ".refused"
"""Suffix of the name of a file that is not a request."""
MAX_BYTES: Final = 16_384
"""The largest file that is read."""
HALF_WRITTEN_S: Final = 2.0
"""Seconds since its last change for which an unreadable file may still be completed."""


def parse_request(data: bytes) -> Operate:
    """Return the request of a file's content.

    Args:
        data: a JSON object with "action", and optionally "reason" and "strategy".

    >>> parse_request(b'{"action": "pause", "strategy": "rlm_no"}')
    Operate(action='pause', reason='', strategy='rlm_no')
    >>> parse_request(b'{"action": "halt"}')
    Traceback (most recent call last):
    kalshilab.errors.SessionError: action must be one of pause, resume, flatten, stop, kill, got 'halt'

    Raises:
        SessionError: it is not a request.
    """
    try:
        facts = msgspec.json.decode(data, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SessionError(f"a request must be a JSON object ({error})") from None
    unknown = facts.keys() - {"action", "reason", "strategy"}
    if unknown:
        raise SessionError(
            f"a request must have action, reason and strategy only, got {', '.join(sorted(unknown))}"
        )
    return make_request(facts.get("action"), facts.get("reason") or "", facts.get("strategy") or "")


def make_request(action: object, reason: object = "", strategy: object = "") -> Operate:
    """Return a request of its parts.

    Raises:
        SessionError: a part is not allowed.
    """
    if action not in ACTIONS:
        raise SessionError(f"action must be one of {', '.join(ACTIONS)}, got {action!r}")
    if not isinstance(reason, str) or not isinstance(strategy, str):
        raise SessionError(f"reason and strategy must be texts, got {reason!r} and {strategy!r}")
    if strategy and action not in ("pause", "resume"):
        raise SessionError(f"strategy must be given with pause or resume only, got {action!r}")
    return Operate(action, reason, strategy)


def format_request(request: Operate) -> bytes:
    """Return the content of a request's file; `parse_request` reads it."""
    facts = {"action": request.action, "reason": request.reason, "strategy": request.strategy}
    return msgspec.json.encode({name: value for name, value in facts.items() if value})


def send_request(run_dir: Path, request: Operate) -> Path:
    """Leave a request for the session of a run, and return its file, which is gone once the session has taken it.

    >>> import tempfile
    >>> run = Path(tempfile.mkdtemp())
    >>> file = send_request(run, Operate("pause", "news"))
    >>> take_requests(run), file.exists()
    ([Operate(action='pause', reason='news', strategy='')], False)

    Raises:
        OSError: the file cannot be written.
    """
    folder = run_dir / FOLDER
    folder.mkdir(exist_ok=True)
    number = WallClock().now()
    temporary = folder / f"{number}-{os.getpid()}{TEMPORARY}"
    temporary.write_bytes(format_request(request))
    try:
        while True:
            # A link never replaces the request of another process at the same microsecond.
            file = folder / f"{number}.json"
            with suppress(FileExistsError):
                file.hardlink_to(temporary)
                return file
            number += 1
    finally:
        temporary.unlink()


def take_requests(run_dir: Path, report: Callable[[str], object] = lambda text: None) -> list[Operate]:
    """Return the requests that were left for the session of a run, in their order, and remove their files.

    Args:
        run_dir: the folder of the run.
        report: called with a line about each file that is not a request, and about a folder that cannot be read.
    """
    folder = run_dir / FOLDER
    try:
        files = [file for file in folder.iterdir() if file.suffix == ".json"]
    except FileNotFoundError:
        return []
    except OSError as error:
        report(f"{folder}: {error.strerror}")
        return []
    taken = (_take(file, report) for file in sorted(files, key=_order))
    return [request for request in taken if request is not None]


def _order(file: Path) -> tuple[int, str]:
    stem = file.stem
    return (int(stem) if stem.isascii() and stem.isdigit() else 0), stem


def _take(file: Path, report: Callable[[str], object]) -> Operate | None:
    """Return the request of one file and remove the file; None if it is not a request, or not yet."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        changed_s = file.stat().st_mtime
        if len(data) > MAX_BYTES:
            raise SessionError(f"a request must have at most {MAX_BYTES:,} bytes")
        request = parse_request(data)
        file.unlink()
    except SessionError as error:
        if WallClock().now() / 1e6 - changed_s > HALF_WRITTEN_S:
            _refuse(file, str(error), report)
        return None
    except FileNotFoundError:
        return None
    except OSError as error:
        report(f"{file.name}: {error.strerror}")
        return None
    return request


def _refuse(file: Path, reason: str, report: Callable[[str], object]) -> None:
    """Rename a file that is not a request, so that it is reported once."""
    report(f"{file.name} ignored: {reason}")
    try:
        file.rename(file.with_name(file.name + REFUSED))
    except OSError as error:
        report(f"{file.name}: {error.strerror}")
