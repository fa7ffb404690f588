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
#: Seconds for which a window may stand still while a process ends.
UNFELT = 0.03
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

    ``starts`` counts the processes, each of which knows nothing of the last one; ``log`` has the last lines printed.

    Several may use one worker: each request has its own answers. Nothing here blocks but `wait`: call `events` from a
    timer.

    Parameters
    ----------
    python : str
        Interpreter to run; in Slicer, ``PythonSlicer``.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self.python = python
        self.log: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        self.starts = 0
        self._device: str | None = None
        self._process: subprocess.Popen[str] | None = None
        self._heard: queue.Queue[Event] = queue.Queue()
        self._threads: list[threading.Thread] = []
        self._burials: list[threading.Thread] = []
        self._number = 0
        self._open: dict[int, list[Event]] = {}

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self._process is not None and self._process.poll() is None

    @property
    def device(self) -> str | None:
        """What the process computes on, once it has told."""
        self._sort()
        return self._device

    def start(self) -> None:
        """Start the process if there is none; it then tells by the event 'ready' that it takes requests at once.

        Raises
        ------
        WorkerError
            If the interpreter cannot be run.
        """
        if self.running:
            return
        self.kill()
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
        self.starts += 1
        self._heard = queue.Queue()
        keeper = threading.Thread(target=self._keep, args=(self._process,), daemon=True)
        hearer = threading.Thread(target=self._hear, args=(self._process, self._heard, keeper), daemon=True)
        self._threads = [keeper, hearer]
        for thread in self._threads:
            thread.start()

    def _hear(self, process: subprocess.Popen[str], heard: queue.Queue[Event], keeper: threading.Thread) -> None:
        for line in process.stdout:
            try:
                heard.put(json.loads(line))
            except ValueError:
                self.log.append(line.rstrip())
        code = process.wait()
        keeper.join(1)  # last words are part of why it ended; whatever it started may hold the stream longer
        heard.put({"event": "ended", "code": code})

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
        self._open[self._number] = []
        try:
            line = json.dumps({"id": self._number, "task": task, **request}, default=_plain)
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:  # it has just ended: `events` tells so
            pass
        return self._number

    def events(self, number: int) -> list[Event]:
        """What has been told about a request since the last call; the last is its 'result' or 'error'.

        If the process has ended, every open request gets an 'error'.
        """
        self._sort()
        if number not in self._open:
            return []
        found = self._open[number]
        if found and found[-1]["event"] in ("result", "error"):
            del self._open[number]
        else:
            self._open[number] = []
        return found

    def _sort(self) -> None:
        """What was heard, to the requests that it is about."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._heard.get_nowait()
                if event["event"] == "ready":
                    self._device = event["device"]
                elif event["event"] == "ended":
                    self._fail(self._end(event["code"]))
                elif event.get("id") in self._open:
                    self._open[event["id"]].append(event)

    def _fail(self, error: Event) -> None:
        """Give an error to all requests that have no answer yet."""
        for number, found in self._open.items():
            if not found or found[-1]["event"] not in ("result", "error"):
                found.append({"id": number, **error})

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
        try:
            while True:
                for event in self.events(number):
                    if event["event"] == "result":
                        return event
                    if event["event"] == "error":
                        raise error_of(event)
                    if progress and progress(event["stage"], event["fraction"]) is False:
                        raise Canceled
                if end is not None and time.monotonic() > end:
                    raise WorkerError(f"no answer within {timeout:g} s")
                time.sleep(0.01)
        except BaseException:  # of ``progress``, or an interrupt: nobody will take the answer
            self.cancel(number)
            raise

    def cancel(self, number: int, wait: bool = True) -> None:
        """End a request by ending the process; others that are open get an error. One that is done is no matter.

        For ``wait`` see `kill`.
        """
        if number in self._open:
            del self._open[number]
            self.kill(wait)

    def kill(self, wait: bool = True) -> None:
        """End the process and all that it started, now, whatever it is doing. Open requests get an error.

        Until the system has taken its memory back a tenth of a second passes; without ``wait`` most of it is left to
        a thread.
        """
        self._sort()
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            if sys.platform == "win32":
                kill = ["taskkill", "/PID", str(process.pid), "/T", "/F"]
                # Without a console, which would flash up over Slicer's window.
                subprocess.run(kill, capture_output=True, check=False, creationflags=subprocess.CREATE_NO_WINDOW)
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        burial = threading.Thread(target=_bury, args=(process, self._threads), daemon=True)
        burial.start()
        burial.join(None if wait else UNFELT)
        self._burials = [other for other in (*self._burials, burial) if other.is_alive()]
        self._heard = queue.Queue()
        message = "the computing process was ended, for another request was canceled; try again"
        self._fail({"event": "error", "kind": "WorkerError", "message": message})

    def close(self) -> None:
        """End the process; nobody waits for answers any more."""
        self._open.clear()
        self.kill()
        for burial in self._burials:
            burial.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _bury(process: subprocess.Popen[str], threads: list[threading.Thread]) -> None:
    """Wait until a process that was ended is gone, and with it those who listened to it."""
    process.wait()
    for thread in threads:  # they end with the process's streams
        thread.join(timeout=5)
    for stream in (process.stdin, process.stdout, process.stderr):
        with contextlib.suppress(OSError):
            stream.close()


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays, and paths, as JSON has them."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def error_of(event: Event) -> JointRegSegError:
    """The exception that an 'error' event stands for."""
    kind = _ERRORS.get(event["kind"])
    if kind is None:
        return WorkerError(event["message"], event.get("details", ""))
    return kind(event["message"], event.get("option"))
