"""Synchronous calls inside a running loop; each patch is tried in a process of its own, as it stays applied."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap

import pytest

from kalshilab.errors import SessionError
from kalshilab.notebook.loop import enable_sync, run_sync


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_in_a_script_there_is_nothing_to_patch() -> None:
    assert enable_sync() is False

    async def answer() -> int:
        return 42

    assert run_sync(answer()) == 42


@pytest.mark.parametrize("hidden", ["", "nest_asyncio2"])
def test_nested_in_a_running_loop(hidden: str) -> None:
    out = python(f"""
        import asyncio, sys
        if {hidden!r}: sys.modules[{hidden!r}] = None
        from kalshilab.notebook.loop import enable_sync, run_sync
        ticks = 0
        async def tick():
            global ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)
        async def inner():
            async with asyncio.timeout(5):
                await asyncio.sleep(0.05)
            return "inner"
        async def cell():
            task = asyncio.create_task(tick())
            await asyncio.sleep(0)
            before = ticks
            result = run_sync(inner())
            assert enable_sync() and enable_sync()
            result += run_sync(inner())
            assert ticks > before + 3, "background tasks stood still"
            task.cancel()
            return result
        print(asyncio.run(cell()))
    """)
    assert out == "innerinner"


def test_importing_patches_nothing() -> None:
    out = python("""
        import sys
        import kalshilab.notebook.loop
        print([m for m in sys.modules if m.startswith("nest_asyncio")])
    """)
    assert out == "[]"


class ForeignLoop:
    """Stands for a loop that is not asyncio's own."""


async def test_a_foreign_loop_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "get_running_loop", ForeignLoop)
    with pytest.raises(SessionError, match=r"ForeignLoop cannot be made re-entrant: use `await`"):
        enable_sync()


async def test_a_refused_coroutine_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "get_running_loop", ForeignLoop)
    coro = asyncio.sleep(1)
    with pytest.raises(SessionError):
        run_sync(coro)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coro.send(None)


async def test_no_patch_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio2", None)
    monkeypatch.setitem(sys.modules, "nest_asyncio", None)
    with pytest.raises(SessionError, match="neither nest_asyncio2 nor nest_asyncio is installed"):
        enable_sync()
