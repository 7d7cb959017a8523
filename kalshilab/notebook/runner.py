"""Unattended runs of the live notebook: papermill in this process, with a kernel of the same interpreter.

Every request to end a run early starts with the stop file that the session in the kernel polls.  The session
cleans up, the remaining cells run, papermill saves the notebook, and the exit code is 0.  Requests escalate:

* the first SIGINT or SIGTERM creates the stop file;
* the second, or `grace_s` seconds without an end, interrupts the kernel, which a session also treats as a stop;
* the third, or another `grace_s` seconds, kills the kernel; only what papermill has saved by then remains.

The kernel runs in a separate process group, so Ctrl-C in a terminal reaches only this process.  Paths and keys
must not be written into the output notebook; they reach the kernel through its environment.
"""

from __future__ import annotations

import asyncio
import json
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
from kalshilab.config.readers import text_of
from kalshilab.config.settings import Settings
from kalshilab.config.sources import ORIGINS_VARIABLE
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import SessionError, UsageError
from kalshilab.notebook.results import read_results
from kalshilab.trade.session.run_folder import RUN_VARIABLE, claim_run, resumable
from kalshilab.trade.status import Status, close_status, read_status

__all__ = ["PARAMETERS", "LiveResult", "LiveRun", "live_notebook"]

PARAMETERS: Final = (
    "venue", "strategy", "minutes", "speed", "categories", "min_trades", "min_drop", "yes_threshold", "contracts",
    "seed",
)  # fmt: skip
"""Settings that are passed to the live notebook as parameters where they differ from the default."""

NOT_PASSED: Final = {"out", "stop_file", "key_id", "private_key", "private_key_path"}
"""Settings that are not passed on: those that the run sets itself, and keys, which the kernel reads where this process did."""


class LiveResult:
    """A finished run.

    Attributes:
        run_id: name of the run, and of its folder.
        run_dir: folder of the run.
        notebook: path of the saved notebook.
        journal: path of the journal.
        results: values that the notebook recorded, by name.
        error: the exception that ended the notebook, or an empty string.
    """

    def __init__(self, run_id: str, run_dir: Path, results: Mapping[str, Any], error: str = "") -> None:
        self.run_id, self.run_dir = run_id, run_dir
        self.notebook = run_dir / "live_paper.ipynb"
        self.journal = run_dir / "journal.sqlite"
        self.results, self.error = dict(results), error


def live_notebook() -> Path:
    """Return the path of the live notebook: that of the checkout, otherwise the copy shipped with the package.

    Raises:
        UsageError: if neither exists.
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
        settings: validated settings of the session.
        notebook: path of the notebook; default the live notebook.
        on_status: callback for the session's status, about four times a second while the session runs.
        grace_s: seconds between the stop request, the interrupt and the kill.
        resume: the folder or the id of a run that was killed, to continue it; default a new run.  The notebook of its last
            life is kept under another name.

    Raises:
        SessionError: the run cannot be continued.
        UsageError: no folder for the run can be created.
    """

    @renamed_keywords(grace="grace_s")
    def __init__(
        self,
        settings: Settings,
        *,
        notebook: Path | None = None,
        on_status: Callable[[Status], None] | None = None,
        grace_s: float = 30.0,
        resume: str | Path | None = None,
    ) -> None:
        self.settings, self._notebook = settings, notebook or live_notebook()
        self._on_status, self._grace_s = on_status, grace_s
        self._wall = WallClock()
        if resume is None:
            self.run_id, self.run_dir = claim_run(Path(settings.out).resolve(), self._wall.now())
        else:
            self.run_dir = resumable(resume, settings).resolve()
            self.run_id = self.run_dir.name
            _keep_notebook(self.run_dir)
        self._stop_file = Path(settings.stop_file).resolve() if settings.stop_file else self.run_dir / "stop"
        self._kernels: list[AsyncKernelManager] = []
        self._stop_requests = 0
        self._reason = ""
        self._last_request_s = 0.0
        self._stop_steps_taken = 0

    def run(self) -> LiveResult:
        """Run the notebook to its end; in the main thread, handle SIGINT and SIGTERM until then.

        Raises:
            SessionError: if papermill itself failed; a failure inside the notebook is in `LiveResult.error`.
        """
        outcome: list[BaseException] = []
        worker = threading.Thread(target=self._execute, args=(outcome,), name="papermill", daemon=True)
        with self._signals():
            worker.start()
            while worker.is_alive():
                worker.join(0.25)
                self._escalate()
                if self._on_status is not None:
                    status = read_status(self.run_dir / "status.json")
                    if status is not None:
                        self._on_status(status)
        if self._stop_file.parent == self.run_dir:
            self._stop_file.unlink(missing_ok=True)
        output = self.run_dir / "live_paper.ipynb"
        results: dict[str, Any] = {}
        if output.is_file():
            # A full disk truncates the file; papermill's own error describes that better.
            with suppress(OSError, NotJSONError):
                _shorten_paths(output)
                results = read_results(output)
        error = _error_text(outcome[0]) if outcome else ""
        # If the kernel died, or a cell failed before the session started, nothing else closes the status file.
        settings = self.settings
        with suppress(OSError, SessionError):
            close_status(
                self.run_dir / "status.json", self.run_id, settings.venue, ", ".join(settings.strategy_names),
                error or "ended", error=error,
            )  # fmt: skip
        if outcome and not isinstance(outcome[0], PapermillExecutionError):
            raise SessionError(f"the notebook could not be run: {outcome[0]}") from outcome[0]
        return LiveResult(self.run_id, self.run_dir, results, error)

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked for the end of the run."""
        return self._stop_requests > 0

    def ask_to_stop(self, reason: str = "asked to stop") -> None:
        """Request the end of the run; each further request escalates."""
        self._stop_requests += 1
        self._reason = self._reason or reason
        self._last_request_s = self._wall.monotonic()

    def _execute(self, outcome: list[BaseException]) -> None:
        chosen = self.settings.as_dict()
        defaults = {name: f.default for name, f in Settings.__dataclass_fields__.items()}
        parameters = {n: _plain(chosen[n]) for n in PARAMETERS if chosen[n] != defaults[n]}
        if self.settings.strategies:
            parameters.pop("strategy", None)
        # The kernel's client would create a loop for this thread and leave it open; this one can be closed.
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
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            outcome.append(error)
        finally:
            loop.close()
            asyncio.set_event_loop(None)

    def _manager(self) -> type[AsyncKernelManager]:
        """Return a kernel manager that starts this interpreter with the environment of this run.

        The kernel spec installed as "python3" may belong to another interpreter; it is not used.
        """
        environment = {
            RUN_VARIABLE: self.run_id,
            "KALSHILAB_OUT": str(self.run_dir.parent),
            "KALSHILAB_STOP_FILE": str(self._stop_file),
        }
        # Parameters too: one left at its default is not written into the notebook, and an inherited variable or a
        # .env file would override it.
        for name, value in self.settings.as_dict().items():
            if name not in NOT_PASSED:
                environment[f"KALSHILAB_{name.upper()}"] = text_of(value)
        passed = {n: origin for n, origin in self.settings.origins.items() if n not in NOT_PASSED}
        environment[ORIGINS_VARIABLE] = json.dumps(passed)
        spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env=environment,
            metadata={"supported_encryption": "curve"} if _encrypts() else {},
        )
        kernels = self._kernels

        class OwnInterpreter(AsyncKernelManager):
            """A kernel manager that starts `spec`."""

            def __init__(self, **options: Any) -> None:
                super().__init__(**options)
                if _encrypts():
                    self.transport_encryption = "required"
                kernels.append(self)

            @property
            def kernel_spec(self) -> KernelSpec:
                return spec

        return OwnInterpreter

    def _escalate(self) -> None:
        """Take the next step that the requests, or the time since the last one, call for: stop file, interrupt, kill."""
        if not self._stop_requests:
            return
        if self._stop_steps_taken and self._wall.monotonic() - self._last_request_s > self._grace_s:
            self.ask_to_stop()
        if self._stop_steps_taken >= self._stop_requests:
            return
        self._stop_steps_taken += 1
        if self._stop_steps_taken == 1:
            self._stop_file.write_text(self._reason)
        else:
            self._signal_kernel(signal.SIGINT if self._stop_steps_taken == 2 else signal.SIGKILL)

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


def _keep_notebook(run_dir: Path) -> None:
    """Rename the notebook of an earlier life, and remove the request that ended it."""
    (run_dir / "stop").unlink(missing_ok=True)
    notebook = run_dir / "live_paper.ipynb"
    if notebook.is_file():
        life = len(list(run_dir.glob("live_paper*.ipynb")))
        notebook.rename(run_dir / f"live_paper-{life}.ipynb")


def _encrypts() -> bool:
    """Return whether both kernel and client can encrypt their messages; older versions cannot."""
    ends = (AsyncKernelManager, "transport_encryption"), (IPKernelApp, "curve_secretkey")
    return zmq.has("curve") and all(name in end.class_trait_names() for end, name in ends)


def _shorten_paths(path: Path) -> None:
    """Shorten the paths in papermill's metadata to file names, since a notebook may be shared."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    facts = notebook.metadata.get("papermill", {})
    for name in ("input_path", "output_path"):
        if facts.get(name):
            facts[name] = Path(facts[name]).name
    # Write to a temporary file first, so that a full disk cannot destroy the saved notebook.
    scratch = path.with_suffix(".tmp")
    nbformat.write(notebook, scratch)  # type: ignore[no-untyped-call]
    scratch.replace(path)


def _plain(value: object) -> object:
    """Return a setting as a parameter that a notebook can hold."""
    return ",".join(value) if isinstance(value, tuple) else value


def _error_text(error: BaseException) -> str:
    if isinstance(error, PapermillExecutionError):
        return f"{error.ename}: {error.evalue} (cell {error.exec_count})"
    return str(error)
