"""Requests to a running session by file: taken once and in order; what is not a request is reported, and no error."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import SessionError
from kalshilab.trade.core.messages import Operate
from kalshilab.trade.live.control_file import (
    ACTIONS,
    format_request,
    parse_request,
    send_request,
    take_requests,
)

texts = st.text(max_size=40)
requests = st.one_of(
    st.builds(Operate, st.sampled_from(["pause", "resume"]), texts, texts),
    st.builds(Operate, st.sampled_from(ACTIONS), texts),
)


@given(request=requests)
def test_a_request_is_read_as_it_was_written(request: Operate) -> None:
    assert parse_request(format_request(request)) == request


@given(data=st.binary(max_size=200))
def test_any_content_is_a_request_or_a_session_error(data: bytes) -> None:
    try:
        assert parse_request(data).action in ACTIONS
    except SessionError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a JSON object"),
        ("[]", "must be a JSON object"),
        ('{"action": "pau', "must be a JSON object"),
        ("{}", "action must be one of pause, resume, flatten, stop, kill, got None"),
        ('{"action": 5}', "got 5"),
        ('{"action": "stop", "why": 1}', "action, reason and strategy only, got why"),
        ('{"action": "stop", "reason": 1}', "must be texts, got 1"),
        ('{"action": "stop", "strategy": "a"}', "with pause or resume only, got 'stop'"),
    ],
)
def test_a_file_that_is_not_a_request_has_a_reason(text: str, message: str) -> None:
    with pytest.raises(SessionError, match=message):
        parse_request(text.encode())


def test_a_run_without_requests_has_an_empty_list(tmp_path: Path) -> None:
    assert take_requests(tmp_path) == []
    send_request(tmp_path, Operate("pause"))
    assert take_requests(tmp_path) and take_requests(tmp_path) == []
    assert take_requests(tmp_path / "gone") == []


def test_requests_of_many_writers_are_each_taken_once_and_in_order(tmp_path: Path) -> None:
    def write(n: int) -> Path:
        return send_request(tmp_path, Operate("pause", str(n)))

    with ThreadPoolExecutor(8) as pool:
        files = list(pool.map(write, range(200)))
    expected = [int(file.stem) for file in files]
    taken = take_requests(tmp_path)
    assert len(set(files)) == 200 and not list((tmp_path / "control").iterdir())
    by_name = sorted(range(200), key=lambda n: expected[n])
    assert [int(request.reason) for request in taken] == by_name


def test_names_are_ordered_as_numbers_and_other_names_come_first(tmp_path: Path) -> None:
    folder = tmp_path / "control"
    folder.mkdir()
    for name in ("10", "9", "now"):
        (folder / f"{name}.json").write_bytes(format_request(Operate("pause", name)))
    assert [request.reason for request in take_requests(tmp_path)] == ["now", "9", "10"]


def test_a_half_written_file_is_left_for_a_moment_and_then_reported_once(tmp_path: Path) -> None:
    folder, lines = tmp_path / "control", list[str]()
    folder.mkdir()
    file = folder / "1.json"
    file.write_text('{"action": ')
    assert take_requests(tmp_path, lines.append) == [] and file.exists() and not lines
    os.utime(file, (1e9, 1e9))
    assert take_requests(tmp_path, lines.append) == [] == take_requests(tmp_path, lines.append)
    assert len(lines) == 1 and lines[0].startswith("1.json ignored: a request must be a JSON object")
    assert [path.name for path in folder.iterdir()] == ["1.json.refused"]


def test_a_half_written_file_is_taken_when_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "control").mkdir()
    file = tmp_path / "control" / "1.json"
    file.write_text('{"action": "stop"')
    take_requests(tmp_path)
    file.write_text('{"action": "stop"}')
    assert take_requests(tmp_path) == [Operate("stop")]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    folder, lines = tmp_path / "control", list[str]()
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "5-77.tmp").write_text("{")
    (folder / "sub.json").mkdir()
    (folder / "large.json").write_bytes(b" " * 20_000)
    os.utime(folder / "large.json", (1e9, 1e9))
    send_request(tmp_path, Operate("kill"))
    assert take_requests(tmp_path, lines.append) == [Operate("kill")]
    assert sorted(lines) == [
        "large.json ignored: a request must have at most 16,384 bytes",
        "sub.json: Is a directory",
    ]
    assert (folder / "notes.txt").exists() and (folder / "5-77.tmp").exists()


def test_a_folder_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "control").write_text("")
    lines: list[str] = []
    assert take_requests(tmp_path, lines.append) == [] and "Not a directory" in lines[0]
