"""Running the live notebook unattended: papermill in this process, a kernel of this very interpreter.

Every way to end a run early ends in the same place, the stop file that the session in the kernel looks for:
the session tidies up, the cells after it run, papermill saves, exit code 0.

* first SIGINT or SIGTERM: the stop file is made;
* second, or `grace` seconds without an end: the kernel is interrupted, which a session takes for a stop too;
* third, or another `grace` seconds: the kernel is killed; what papermill has saved by then is what there is.

The kernel runs in a process group of its own, so Ctrl-C in a terminal reaches only this process.  What must
not be written into the output notebook, paths and keys, goes to the kernel through its environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import nbformat
import papermill
import zmq
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbformat.reader import NotJSONError
from papermill.exceptions import PapermillExecutionError

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError, UsageError
from kalshilab.notebook.results import read_results
from kalshilab.trade.session.run_folder import RUN_VARIABLE, claim_run
from kalshilab.trade.status import Status, close_status, read_status

__all__ = ["PARAMETERS", "LiveResult", "LiveRun", "live_notebook"]

PARAMETERS: Final = (
    "venue", "strategy", "minutes", "speed", "categories", "min_trades", "min_drop", "yes_threshold", "contracts",
    "seed",
)  # fmt: skip
"""Settings that the live notebook takes as parameters, where they are not the default."""

THROUGH_ENVIRONMENT: Final = (
    "tape", "markets", "result_column", "signal", "policy", "whale_min_value", "whale_max_leverage", "whale_top",
    "whale_window_s", "yes8090_low", "yes8090_high", "yes8090_contracts", "yes8090_tier_a_contracts",
)  # fmt: skip
"""Settings that reach it through the environment alone."""


class LiveResult:
    """A finished run: its folder, the saved notebook, the journal, and what the notebook recorded."""

    def __init__(self, run_id: str, run_dir: Path, results: Mapping[str, Any], error: str = "") -> None:
        self.run_id, self.run_dir = run_id, run_dir
        self.notebook = run_dir / "live_paper.ipynb"
        self.journal = run_dir / "journal.sqlite"
        self.results, self.error = dict(results), error


def live_notebook() -> Path:
    """The live notebook: of the checkout this package stands in, else the copy shipped with it.

    Raises:
        UsageError: neither is there.
    """
    package = Path(__file__).resolve().parents[1]
    for path in (
        package.parent / "notebooks" / "live_paper.ipynb",
        package / "notebook" / "live_paper.ipynb",
    ):
        if path.is_file():
            return path
    raise UsageError("live_paper.ipynb is missing from this installation; install kalshilab again")


class LiveRun:
    """One unattended run of a notebook that holds a session.

    Args:
        settings: what the session is told; checked already.
        notebook: the notebook; default the live notebook.
        on_status: called about twice a second with the session's status while it runs.
        grace: seconds between asking, interrupting and killing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        notebook: Path | None = None,
        on_status: Callable[[Status], None] | None = None,
        grace: float = 30.0,
    ) -> None:
        self.settings, self._notebook = settings, notebook or live_notebook()
        self._on_status, self._grace = on_status, grace
        self._wall = WallClock()
        self.run_id, self.run_dir = claim_run(Path(settings.out).resolve(), self._wall.now())
        self._stop_file = Path(settings.stop_file).resolve() if settings.stop_file else self.run_dir / "stop"
        self._kernels: list[AsyncKernelManager] = []
        self._asked = 0
        self._reason = ""
        self._asked_at = 0.0
        self._acted = 0

    def run(self) -> LiveResult:
        """Run to the end.  Takes SIGINT and SIGTERM meanwhile if this is the main thread.

        Raises:
            SessionError: papermill itself failed; a failure inside the notebook is in `LiveResult.error`.
        """
        outcome: list[BaseException] = []
        worker = threading.Thread(target=self._execute, args=(outcome,), name="papermill", daemon=True)
        with self._signals():
            worker.start()
            while worker.is_alive():
                worker.join(0.25)
                self._press()
                if self._on_status is not None:
                    status = read_status(self.run_dir / "status.json")
                    if status is not None:
                        self._on_status(status)
        if self._stop_file.parent == self.run_dir:
            self._stop_file.unlink(missing_ok=True)
        output = self.run_dir / "live_paper.ipynb"
        results: dict[str, Any] = {}
        if output.is_file():
            # On a full disk it is cut off; what papermill says of that is the better sentence.
            with suppress(OSError, NotJSONError):
                _forget_paths(output)
                results = read_results(output)
        error = _words(outcome[0]) if outcome else ""
        # A kernel that died, or a cell that failed before there was a session, leaves nobody else to say so.
        given = self.settings
        with suppress(OSError, SessionError):
            close_status(
                self.run_dir / "status.json", self.run_id, given.venue, given.strategy, error or "ended"
            )
        if outcome and not isinstance(outcome[0], PapermillExecutionError):
            raise SessionError(f"the notebook could not be run: {outcome[0]}") from outcome[0]
        return LiveResult(self.run_id, self.run_dir, results, error)

    def ask_to_stop(self, reason: str = "asked to stop") -> None:
        """Count one request to end; each further one is more insistent."""
        self._asked += 1
        self._reason = self._reason or reason
        self._asked_at = self._wall.monotonic()

    def _execute(self, outcome: list[BaseException]) -> None:
        given = self.settings.as_dict()
        defaults = {name: f.default for name, f in Settings.__dataclass_fields__.items()}
        parameters = {n: _plain(given[n]) for n in PARAMETERS if given[n] != defaults[n]}
        # The client of the kernel makes a loop for this thread and leaves it open; made here, it can be closed.
        loop = ensure_event_loop()
        try:
            papermill.execute_notebook(
                str(self._notebook),
                str(self.run_dir / "live_paper.ipynb"),
                parameters=parameters,
                kernel_name="python3",
                language="python",
                kernel_manager_class=self._manager(),
                progress_bar=False,
                autosave_cell_every=30,
                request_save_on_cell_execute=True,
                store_widget_state=False,
                start_timeout=120,
            )
        except BaseException as error:  # noqa: BLE001 - crosses a thread; the main thread tells which it was
            outcome.append(error)
        finally:
            loop.close()
            asyncio.set_event_loop(None)

    def _manager(self) -> type[AsyncKernelManager]:
        """A kernel manager that starts this interpreter with this run's environment, whatever is installed
        under the name "python3".
        """
        environment = {
            RUN_VARIABLE: self.run_id,
            "KALSHILAB_OUT": str(self.run_dir.parent),
            "KALSHILAB_STOP_FILE": str(self._stop_file),
        }
        # Parameters too: one left at its default is not in the notebook, and a variable that the kernel inherits,
        # or a .env, would say otherwise.
        for name in PARAMETERS + THROUGH_ENVIRONMENT:
            value = _plain(getattr(self.settings, name))
            environment[f"KALSHILAB_{name.upper()}"] = "" if value is None else str(value)
        spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env=environment,
            metadata={"supported_encryption": "curve"} if _encrypts() else {},
        )
        kernels = self._kernels

        class OwnInterpreter(AsyncKernelManager):
            """Starts `spec`."""

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                if _encrypts():
                    self.transport_encryption = "required"
                kernels.append(self)

            @property
            def kernel_spec(self) -> KernelSpec:
                return spec

        return OwnInterpreter

    def _press(self) -> None:
        """Do what the requests so far, or the time since, call for: ask, interrupt, kill."""
        if not self._asked:
            return
        if self._acted and self._wall.monotonic() - self._asked_at > self._grace:
            self.ask_to_stop()
        if self._acted >= self._asked:
            return
        self._acted += 1
        if self._acted == 1:
            self._stop_file.write_text(self._reason)
        else:
            self._signal_kernel(signal.SIGINT if self._acted == 2 else signal.SIGKILL)

    def _signal_kernel(self, number: int) -> None:
        for manager in self._kernels:
            pid = getattr(manager.provisioner, "pid", None)
            if pid:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    continue

    @contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.ask_to_stop(signal.Signals(number).name)

        before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _encrypts() -> bool:
    """Whether kernel and client can encrypt what they tell each other; older versions of either cannot."""
    ends = (AsyncKernelManager, "transport_encryption"), (IPKernelApp, "curve_secretkey")
    return zmq.has("curve") and all(name in end.class_trait_names() for end, name in ends)


def _forget_paths(path: Path) -> None:
    """Shorten the paths papermill writes into a notebook's metadata to file names: a notebook is passed on."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    facts = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path"):
        if facts.get(name):
            facts[name] = Path(facts[name]).name
    # Beside it first: what is saved must not be lost to a disk that fills up.
    scratch = path.with_suffix(".tmp")
    nbformat.write(notebook, scratch)  # type: ignore[no-untyped-call]
    scratch.replace(path)


def _plain(value: Any) -> Any:
    """A setting as a parameter a notebook can hold."""
    return ",".join(value) if isinstance(value, tuple) else value


def _words(error: BaseException) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue} (cell {error.exec_count})"
    return str(error)
