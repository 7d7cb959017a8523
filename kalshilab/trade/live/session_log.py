"""The log of a session: standard logging to `session.log` in the run's folder, as text or as one JSON object a line.

The logger is `kalshilab.<run>`, so a program can add handlers to it.  It writes the lines of the console, and what the
trader records: orders, fills, settlements and changes of state at INFO, decisions and fires at DEBUG.  No key enters it:
every record passes a filter that masks the keys of the settings, and anything in the form of a private key.

A log that cannot be written, because the disk is full for instance, does not disturb the session.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from kalshilab.clock import isoformat
from kalshilab.config.settings import Settings
from kalshilab.trade.core.messages import JournalRecord

__all__ = ["LOG_FILE", "Redaction", "SessionLog", "describe_record", "secrets_of"]

LOG_FILE: Final = "session.log"
MASK: Final = "***"
PRIVATE_KEY: Final = r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
SHORTEST: Final = 8
"""Characters of the shortest part of a key that is masked; a shorter one would mask ordinary words."""
LEVELS: Final = {
    "decision": logging.DEBUG,
    "fire": logging.DEBUG,
    "intent": logging.DEBUG,
    "order": logging.DEBUG,
}
"""The levels of records that are not logged at INFO."""


def secrets_of(settings: Settings) -> list[str]:
    """Return the texts of the settings that no log may contain: the id of the key, and the lines of the key itself."""
    keys = [] if settings.private_key is None else [settings.private_key.reveal()]
    if settings.private_key_path is not None:
        # A key that cannot be read cannot be logged either; the client reports the error.
        with suppress(OSError, UnicodeDecodeError):
            keys.append(Path(settings.private_key_path).expanduser().read_text(encoding="ascii"))
    lines = [line for key in keys for line in key.replace("\\n", "\n").splitlines()]
    long = [line.strip() for line in lines if len(line.strip()) >= SHORTEST and not line.startswith("-----")]
    return [settings.key_id, *long] if settings.key_id else long


class Redaction(logging.Filter):
    """A filter that masks secrets in each record, before any handler sees it.

    Args:
        secrets: the texts to mask; a short one is masked where it stands alone as a word.

    >>> Redaction(["hunter2", "k"]).mask("the token of k is hunter2hunter2")
    'the token of *** is hunter2hunter2'
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        super().__init__()
        # The longest first: a part of a secret must not keep the whole from being found.
        found = sorted({text for text in secrets if text}, key=len, reverse=True)
        parts = [
            re.escape(text) if len(text) >= SHORTEST else rf"(?<!\w){re.escape(text)}(?!\w)" for text in found
        ]
        self._secrets = re.compile("|".join([PRIVATE_KEY, *parts]), re.S)

    def mask(self, text: str) -> str:
        """Return a text without secrets."""
        return self._secrets.sub(MASK, text)

    def mask_all(self, value: Any) -> Any:
        """Return plain JSON without secrets in its texts."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, dict):
            return {self.mask_all(name): self.mask_all(part) for name, part in value.items()}
        return [self.mask_all(part) for part in value] if isinstance(value, list) else value

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record in place, its traceback and its additional fields included."""
        record.msg, record.args = self.mask(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = self.mask(logging.Formatter().formatException(record.exc_info))
            record.exc_info = None
        facts = getattr(record, "facts", None)
        if facts is not None:
            record.facts = self.mask_all(facts)
        return True


class _Text(logging.Formatter):
    """One line: time, level, message."""

    def format(self, record: logging.LogRecord) -> str:
        lines = [f"{isoformat(round(record.created * 1e6))} {record.levelname} {record.getMessage()}"]
        return "\n".join([*lines, *([record.exc_text] if record.exc_text else [])])


class _Json(logging.Formatter):
    """One JSON object: time, level, logger, message, and the facts of what is recorded."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": isoformat(round(record.created * 1e6)),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, key in (("facts", "facts"), ("exc_text", "traceback")):
            if getattr(record, name, None):
                line[key] = getattr(record, name)
        return msgspec.json.encode(line).decode()


class _File(logging.FileHandler):
    """A file that may fail; `trouble` is the error of the last attempt, or ""."""

    trouble = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.trouble = ""
        try:
            super().emit(record)
        except OSError as error:
            # Opening the file failed; errors of writing arrive in `handleError`.
            self.trouble = error.strerror or str(error)

    def close(self) -> None:
        # What a full disk has kept from being written is lost; the session has ended all the same.
        with suppress(OSError):
            super().close()

    def handleError(self, record: logging.LogRecord) -> None:
        self.trouble = "the log cannot be written"


class SessionLog:
    """The log of one session, open between `with` and its end.

    Args:
        run_dir: the folder of the run.
        settings: level, format, and the keys that must not appear.

    Attributes:
        logger: the logger `kalshilab.<run>`.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with SessionLog(folder, Settings(env={}, env_file=None)) as log:
    ...     log.console("feed: recovered")
    >>> (folder / "session.log").read_text().split()[1:]
    ['INFO', 'feed:', 'recovered']
    """

    def __init__(self, run_dir: Path, settings: Settings) -> None:
        # A dot in a name would make it the child of another logger.
        self.logger = logging.getLogger(f"kalshilab.{run_dir.name.replace('.', '_')}")
        self._redaction = Redaction(secrets_of(settings))
        self._handler = _File(run_dir / LOG_FILE, encoding="utf-8", delay=True)
        self._handler.setFormatter(_Json() if settings.log_format == "json" else _Text())
        self._level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = settings.log_level  # type: ignore[assignment]

    def __enter__(self) -> Self:
        self.logger.setLevel(self._level)
        self.logger.addFilter(self._redaction)
        # Records of child loggers pass the filters of this handler, but not those of this logger.
        self._handler.addFilter(self._redaction)
        self.logger.addHandler(self._handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.logger.removeHandler(self._handler)
        self.logger.removeFilter(self._redaction)
        self._handler.close()

    def console(self, text: str) -> None:
        """Log a line of the console; a line about a part that is degraded is a warning."""
        degraded = ": degraded" in text
        self.logger.log(logging.WARNING if degraded else logging.INFO, "%s", text)

    def record(self, record: JournalRecord) -> None:
        """Log what the trader records."""
        level = LEVELS.get(record.kind, logging.INFO)
        if self.logger.isEnabledFor(level):
            text, facts = describe_record(record)
            self.logger.log(level, "%s", text, extra={"facts": facts})

    @property
    def trouble(self) -> str:
        """The reason for which the last line could not be written, or ""."""
        return self._handler.trouble


def describe_record(record: JournalRecord) -> tuple[str, dict[str, Any]]:
    """Return a record of the trader as a line, and its facts as plain JSON.

    >>> describe_record(JournalRecord("note", {"what": "stop", "reason": "deadline"}))
    ('note stop reason=deadline', {'what': 'stop', 'reason': 'deadline'})
    """
    facts: dict[str, Any] = msgspec.to_builtins(record.value)
    shown = {name: value for name, value in facts.items() if value not in ("", None, {}, [])}
    head = [record.kind]
    if record.kind == "transition":
        return f"{facts['source']} -> {facts['target']}: {facts['reason']}", facts
    if record.kind == "note":
        head.append(str(shown.pop("what", "")))
    return " ".join([*head, *(f"{name}={value}" for name, value in shown.items())]), facts
