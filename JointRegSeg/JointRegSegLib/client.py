"""The side that talks to the worker process; it imports nothing but the standard library."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import Canceled, InputError, JointRegSegError, ModelError, OutputError

#: Lines of the worker's own log that are kept.
LOG_LINES = 500
_ERRORS = {kind.__name__: kind for kind in (InputError, ModelError, OutputError)}
_LIBRARY = Path(__file__).resolve().parents[1]

Event = dict[str, Any]


class WorkerError(JointRegSegError):
    """The worker process could not be started, ended by itself, or met a defect; ``details`` has what it printed."""

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class Worker:
    """A child process, started when first needed and kept; killed to cancel, and started anew for the next request.

    Nothing here blocks but `wait`: call `events` from a timer.

    Parameters
    ----------
    python : str
        Interpreter to run; in Slicer, ``PythonSlicer``.

    Attributes
    ----------
    device : str or None
        What the process computes on, once it has told.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self.log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self.device: str | None = None
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[Event] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._number = 0
        self._waiting: set[int] = set()

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process if there is none; it then tells by the event 'ready' that it takes requests at once.

        Raises
        ------
        WorkerError
            If the interpreter cannot be run.
        """
        if self.running:
            return
        self.close()
        path = os.pathsep.join([str(_LIBRARY), *filter(None, [os.environ.get("PYTHONPATH")])])
        # A session of its own: killing it takes everything that it started along, and Ctrl-C in a terminal spares it.
        apart = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        try:
            self._process = subprocess.Popen(
                [self.python, "-u", "-m", "JointRegSegLib.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                env={**os.environ, "PYTHONPATH": path},
                **apart,
            )
        except OSError as error:
            raise WorkerError(f"{self.python}: cannot be started ({error.strerror})") from None
        self._events = queue.Queue()
        self._waiting = set()
        self._threads = [
            threading.Thread(target=self._hear, args=(self._process, self._events), daemon=True),
            threading.Thread(target=self._keep, args=(self._process,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _hear(self, process: subprocess.Popen[str], events: queue.Queue[Event]) -> None:
        for line in process.stdout:
            try:
                events.put(json.loads(line))
            except ValueError:
                self.log.append(line.rstrip())
        events.put({"event": "ended", "code": process.wait()})

    def _keep(self, process: subprocess.Popen[str]) -> None:
        for line in process.stderr:
            self.log.append(line.rstrip())

    def submit(self, task: str, **request: Any) -> int:
        """Send a request (see `worker`) and return its number, which the events about it bear.

        Raises
        ------
        WorkerError
            If the process cannot be started.
        """
        self.start()
        self._number += 1
        self._waiting.add(self._number)
        try:
            self._process.stdin.write(json.dumps({"id": self._number, "task": task, **request}) + "\n")
            self._process.stdin.flush()
        except OSError:  # it has just ended: `events` tells so
            pass
        return self._number

    def events(self) -> list[Event]:
        """All events since the last call. If the process has ended, each open request gets an 'error' event."""
        out = []
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                if event["event"] == "ended":
                    out += [{"id": n, **self._end(event["code"])} for n in sorted(self._waiting)]
                    self._waiting.clear()
                else:
                    if event["event"] == "ready":
                        self.device = event["device"]
                    if event["event"] in ("result", "error"):
                        self._waiting.discard(event.get("id"))
                    out.append(event)
        return out

    def _end(self, code: int) -> Event:
        if code in (-signal.SIGKILL if hasattr(signal, "SIGKILL") else None, 137):
            reason = "it was killed, perhaps for lack of memory; close other programs or use smaller volumes"
        else:
            reason = f"exit code {code}; see the log"
        return {
            "event": "error",
            "kind": "WorkerError",
            "message": f"the computing process ended by itself ({reason})",
            "details": "\n".join(self.log),
        }

    def wait(
        self, number: int, progress: Callable[[str, float], bool | None] | None = None, timeout: float | None = None
    ) -> Event:
        """Block until a request's result is there; for scripts. ``progress`` may cancel by returning False.

        Raises
        ------
        InputError, ModelError, OutputError, WorkerError
            As the worker met them.
        Canceled
            If ``progress`` said so; the process is gone then.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            for event in self.events():
                if event.get("id") != number:
                    continue
                if event["event"] == "result":
                    return event
                if event["event"] == "error":
                    raise error_of(event)
                if progress and progress(event["stage"], event["fraction"]) is False:
                    self.kill()
                    raise Canceled
            if end is not None and time.monotonic() > end:
                self.kill()
                raise WorkerError(f"no answer within {timeout:g} s")
            time.sleep(0.01)

    def kill(self) -> None:
        """End the process and all that it started, now, whatever it is doing. Open requests are forgotten."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            if sys.platform == "win32":
                kill = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
                subprocess.run(kill, capture_output=True, check=False)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for thread in self._threads:  # they end with the process's streams
            thread.join(timeout=5)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        self._events = queue.Queue()
        self._waiting = set()

    close = kill

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def error_of(event: Event) -> JointRegSegError:
    """The exception that an 'error' event stands for."""
    kind = _ERRORS.get(event["kind"])
    return kind(event["message"]) if kind else WorkerError(event["message"], event.get("details", ""))
