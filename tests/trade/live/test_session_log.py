"""The log of a session: its lines, its levels, and the keys that never enter it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.config.settings import Settings
from kalshilab.trade.core.messages import JournalRecord
from kalshilab.trade.events import Decision, Transition
from kalshilab.trade.health import Health
from kalshilab.trade.live.session_log import Redaction, SessionLog, secrets_of

BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
PEM = f"-----BEGIN PRIVATE KEY-----\n{BODY}\n{BODY[::-1]}\n-----END PRIVATE KEY-----"
KEY_ID = "5f0c2a1e-aaaa-bbbb-cccc-1234567890ab"


def settings(**given: object) -> Settings:
    return Settings(env={}, env_file=None, **given)


def lines(folder: Path) -> list[str]:
    return (folder / "session.log").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Make a run folder whose name is that of no other test's logger."""
    run = tmp_path / f"{tmp_path.name}.run"
    run.mkdir()
    yield run


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_part_of_a_key_enters_a_log(log_format: str, folder: Path) -> None:
    file = folder / "key.pem"
    file.write_text(PEM.replace("M", "N"))
    given = settings(
        key_id=KEY_ID, private_key=PEM, private_key_path=str(file), log_level="DEBUG", log_format=log_format
    )
    with SessionLog(folder, given) as log:
        log.console(f"refused {KEY_ID}: {PEM}")
        log.record(
            JournalRecord("note", {"what": "error", "text": PEM, KEY_ID: [BODY, {"deep": BODY[::-1]}]})
        )
        log.logger.warning("arguments %s and %r", given.private_key, KEY_ID)
        log.logger.error("one line %s", BODY.replace("M", "N"))
        log.logger.getChild("feed").error("the child %s", KEY_ID)
        log.logger.info("another key -----BEGIN RSA PRIVATE KEY-----\nzzzz")
        try:
            raise ValueError(f"traceback {PEM}")
        except ValueError:
            log.logger.exception("failed")
    text = (folder / "session.log").read_text(encoding="utf-8")
    assert text.count("***") >= 8 and "traceback" in text and "the child" in text
    for secret in (KEY_ID, BODY, BODY[::-1], BODY.replace("M", "N"), "zzzz"):
        assert secret not in text
    if log_format == "json":
        assert all(json.loads(line) for line in text.splitlines())


def test_handlers_of_the_program_see_no_key_either(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with SessionLog(folder, settings(key_id=KEY_ID)) as log, caplog.at_level(logging.INFO):
        log.console(f"key {KEY_ID}")
    assert "key ***" in caplog.text and KEY_ID not in caplog.text


@given(
    parts=st.lists(st.text(alphabet="abc\n- {}\"'", max_size=6), max_size=6),
    secret=st.text(alphabet="abcXYZ", min_size=8),
)
def test_a_masked_text_never_contains_the_secret(parts: list[str], secret: str) -> None:
    assert secret not in Redaction([secret]).mask(secret.join(parts) + secret)


def test_a_short_key_id_is_masked_as_a_word() -> None:
    redaction = Redaction(secrets_of(settings(key_id="abc")))
    assert redaction.mask("abc in abcde, (abc)") == "*** in abcde, (***)"


def test_levels_decide_what_is_written(folder: Path) -> None:
    decision = Decision(
        ts=1, ticker="A", action="deferred", reason="spread", side="", price=0, size=0, yes_ratio=None, drop=None,
        client_order_id="", order_id="", strategy="rlm_no",
    )  # fmt: skip
    change = Transition(ts=1, wall=2, source="READY", target="ERROR", reason="feed: reset")
    for level in ("DEBUG", "INFO", "WARNING"):
        with SessionLog(folder, settings(log_level=level)) as log:
            log.record(JournalRecord("decision", decision))
            log.record(JournalRecord("transition", change))
            log.console("feed: degraded, silent")
    shown = [line.split(" ", 1)[1] for line in lines(folder)]
    assert shown == [
        "DEBUG decision ts=1 ticker=A action=deferred reason=spread price=0 size=0 strategy=rlm_no",
        "INFO READY -> ERROR: feed: reset",
        "WARNING feed: degraded, silent",
        "INFO READY -> ERROR: feed: reset",
        "WARNING feed: degraded, silent",
        "WARNING feed: degraded, silent",
    ]


def test_a_line_of_json_has_the_facts_of_a_record(folder: Path) -> None:
    with SessionLog(folder, settings(log_format="json")) as log:
        log.record(JournalRecord("note", {"what": "stop", "reason": "deadline"}))
    line = json.loads(lines(folder)[0])
    assert line["message"] == "note stop reason=deadline" and line["level"] == "INFO"
    assert line["facts"] == {"what": "stop", "reason": "deadline"}
    assert line["logger"] == f"kalshilab.{folder.name.replace('.', '_')}" and line["time"].endswith("Z")


def test_a_later_life_of_a_run_appends(folder: Path) -> None:
    for text in ("one", "two"):
        with SessionLog(folder, settings()) as log:
            log.console(text)
    assert [line.rsplit(" ", 1)[1] for line in lines(folder)] == ["one", "two"]
    assert log.logger.handlers == [] and log.logger.filters == []


def test_a_log_that_cannot_be_written_is_noted_and_disturbs_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "session.log").mkdir()
    with SessionLog(folder, settings()) as log:
        log.console("one")
        assert log.trouble == "Is a directory"
        (folder / "session.log").rmdir()
        log.console("two")
        assert log.trouble == ""
    assert len(lines(folder)) == 1 and capsys.readouterr().err == ""


def test_a_full_disk_disturbs_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    (folder / "session.log").symlink_to("/dev/full")
    with SessionLog(folder, settings()) as log:
        log.console("one")
        assert log.trouble == "the log cannot be written"
    assert capsys.readouterr().err == ""


def test_lines_of_the_console_reach_the_log(folder: Path, clock) -> None:  # type: ignore[no-untyped-def]
    health = Health(clock)
    with SessionLog(folder, settings()) as log:
        health.on_message = log.console
        health.degraded("feed", "silent")
        health.healthy("feed")
    assert [line.split(" ", 1)[1] for line in lines(folder)] == [
        "WARNING feed: degraded, silent",
        "INFO feed: recovered",
    ]
