"""Synchronous calls inside a running loop; each patch runs in a separate process, because it stays applied."""

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
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_script_has_no_loop_to_patch() -> None:
    assert enable_sync() is False

    async def answer() -> int:
        return 42

    assert run_sync(answer()) == 42


@pytest.mark.parametrize("hidden", ["", "nest_asyncio2"])
def test_run_sync_nests_in_a_running_loop(hidden: str) -> None:
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
            # The background task must run while this one is awaited.
            enough = ticks + 3
            async with asyncio.timeout(60):
                while ticks < enough:
                    await asyncio.sleep(0.001)
            return "inner"
        async def cell():
            task = asyncio.create_task(tick())
            await asyncio.sleep(0)
            result = run_sync(inner())
            assert enable_sync() and enable_sync()
            result += run_sync(inner())
            task.cancel()
            return result
        print(asyncio.run(cell()))
    """)
    assert out == "innerinner"


def test_importing_the_module_patches_nothing() -> None:
    out = python("""
        import sys
        import kalshilab.notebook.loop
        print([m for m in sys.modules if m.startswith("nest_asyncio")])
    """)
    assert out == "[]"


class ForeignLoop:
    """Stand-in for an event loop that is not asyncio's."""


async def test_a_foreign_loop_cannot_be_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "get_running_loop", ForeignLoop)
    with pytest.raises(SessionError, match=r"ForeignLoop cannot be made re-entrant; use `await`"):
        enable_sync()


async def test_a_coroutine_that_cannot_run_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "get_running_loop", ForeignLoop)
    coro = asyncio.sleep(1)
    with pytest.raises(SessionError):
        run_sync(coro)
    with pytest.raises(RuntimeError, match="cannot reuse"):
        coro.send(None)


async def test_a_missing_patch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nest_asyncio2", None)
    monkeypatch.setitem(sys.modules, "nest_asyncio", None)
    with pytest.raises(SessionError, match="neither nest_asyncio2 nor nest_asyncio is installed"):
        enable_sync()
