"""Independent tasks on several processes or computers, by Dask; who works on them may die in the middle.

Dask (`distributed`) is optional: it is imported when it is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from . import device
from .errors import Canceled, InputError, JointRegSegError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

#: What a process of a local cluster should have at least: with fewer threads each case takes long, and cases whose
#: memory does not suffice end each other.
THREADS, MEMORY = 4, 8 * 2**30
#: Seconds to wait for a scheduler's answer, and for tasks to notice that they are not wanted any more.
PATIENCE, GRACE = 10, 15

Tasks = Mapping[Hashable, tuple]
Work = Callable[..., Any]


def suitable_workers(device_name: str = "auto") -> int:
    """How many processes serve best on this computer.

    One on a GPU, which a single case keeps busy and whose memory several would share. On the CPU one for every
    `THREADS` cores and `MEMORY` bytes: reading, writing and drawing leave cores idle that another case can use, but a
    case that waits for memory helps nobody. One, too, where Dask is not installed.
    """
    if find_spec("distributed") is None or device.choose(device_name).type != "cpu":
        return 1
    from dask.system import CPU_COUNT  # which knows the limits of a container, as does the next
    from distributed.system import MEMORY_LIMIT

    return max(1, min(CPU_COUNT // THREADS, MEMORY_LIMIT // MEMORY))


@contextmanager
def compute(
    work: Work, tasks: Tasks, workers: int = 1, scheduler: str | None = None
) -> Iterator[Iterator[tuple[Hashable, Any | JointRegSegError]]]:
    """Within this context, each task's key and ``work(*task, progress=progress)``, as they are ready.

    A task whose process dies is begun anew in another one. Leaving the context stops all tasks: those not begun are
    dropped, the others end at their next report to ``progress``.

    Parameters
    ----------
    work : callable
        A function of a module, which the other processes import.
    tasks : mapping of tuples
        Arguments of ``work``, by key: strings, numbers, paths and dictionaries of them.
    workers : int
        Processes of a cluster on this computer, which share its cores.
    scheduler : str, optional
        Address of a running Dask scheduler, whose workers are used instead.

    Yields
    ------
    key, answer
        The answer is a `JointRegSegError` where there is none: the task raised an exception, or the processes that
        worked on it died more often than Dask's setting ``distributed.scheduler.allowed-failures`` allows.

    Raises
    ------
    InputError
        If Dask is not installed, or the scheduler does not answer (any more).
    """
    if find_spec("distributed") is None:
        raise InputError("--workers and --scheduler need the package 'distributed': pip install 'jointregseg[cluster]'")
    with _client(workers, scheduler) as client, closing(_answers(client, work, tasks, scheduler)) as answers:
        yield answers


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Client]:
    from distributed import Client

    # What it has to say about lost workers is told with the tasks that they had.
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if scheduler is None:
        with _local(workers) as cluster, Client(cluster, set_as_default=False) as client:
            yield client
        return
    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, TypeError, ValueError) as error:  # no answer, no certificate, no address
        raise InputError(
            f"--scheduler {scheduler}: no Dask scheduler answers there ({_first_line(error)}); "
            "start 'dask scheduler' and give the address that it prints"
        ) from None
    with client:
        if not client.nthreads():
            print(f"jointregseg: {scheduler} has no workers yet; waiting for 'dask worker'", file=sys.stderr)
        yield client


@contextmanager
def _local(workers: int) -> Iterator[LocalCluster]:
    import dask
    from dask.system import CPU_COUNT
    from distributed import LocalCluster

    threads = max(1, CPU_COUNT // workers)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            **dict.fromkeys(names, threads),
        },
        # A worker has one task in hand, so that its death is not held against one that waited.
        "distributed.scheduler.worker-saturation": 1.0,
    }
    environment = dict(os.environ)
    try:
        with (
            dask.config.set(settings),
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,  # of Dask; those of torch are set above
                memory_limit=0,  # a share for each would end a case although the others leave memory free
                dashboard_address=None,
                security=True,  # others on this computer could send code to an open port
                silence_logs=logging.CRITICAL,
                preload=[*dask.config.get("distributed.worker.preload"), __name__],
            ) as cluster,
        ):
            yield cluster
    finally:
        # Dask sets the number of threads here as well, where a second cluster would find it.
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


def dask_setup(worker: Any) -> None:
    """Called by Dask in each process of a local cluster: Ctrl-C, which a terminal sends to all, is for the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _answers(client: Client, work: Work, tasks: Tasks, scheduler: str | None) -> Iterator[tuple[Hashable, Any]]:
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError

    run = uuid4().hex
    pending: dict[Future, Hashable] = {}

    def ready(keys: list[Hashable]) -> Iterator[tuple[Hashable, Any]]:
        pending.update(
            {client.submit(_task, run, work, tasks[k], key=f"jointregseg-{uuid4().hex}", pure=False): k for k in keys}
        )
        for future in as_completed(list(pending), loop=client.loop):
            key = pending.pop(future)
            try:
                answer = future.result()
            except KilledWorker:
                answer = JointRegSegError(
                    "every process that worked on it was killed; it may need more memory than there is"
                )
            except FutureCancelledError:
                pending.clear()  # there is nobody whom to tell that they are not wanted any more
                raise InputError(
                    f"--scheduler {scheduler}: was lost; start it and give the same command again to go on"
                ) from None
            except Exception as error:  # as when a worker lacks this library: the others may have it
                answer = JointRegSegError(f"{type(error).__name__}: {_first_line(error)}")
            del future  # as long as it is there, Dask would do the task again when its worker dies
            yield key, answer

    try:
        suspects = []
        for key, answer in ready(list(tasks)):
            if isinstance(answer, JointRegSegError):
                suspects.append(key)
            else:
                yield key, answer
        # Dask blames all tasks that a dead process had, of which at most one killed it: alone, each shows which.
        for key in suspects:
            yield from ready([key])
    finally:
        if pending:
            with suppress(OSError):  # the scheduler has gone, and its workers with it
                client.cancel(list(pending))
                client.run(_stop, run, GRACE, on_error="ignore")


#: In a worker: the runs that have been stopped, and the run of each task in hand.
_stopped: set[str] = set()
_in_hand: list[str] = []
#: Torch's random numbers belong to the process, and its threads to all cores: one task at a time.
_turn = threading.Lock()


def _task(run: str, work: Work, arguments: tuple) -> Any:
    def progress(stage: str, fraction: float) -> bool:
        return run not in _stopped

    _in_hand.append(run)
    try:
        with _turn:
            return work(*arguments, progress=progress)
    except Canceled:
        return None  # nobody waits for it
    finally:
        _in_hand.remove(run)


async def _stop(run: str, grace: float) -> None:
    """In a worker: stop the tasks of a run and wait until they have cleaned up, ``grace`` seconds at most."""
    _stopped.add(run)
    deadline = time.monotonic() + grace
    while run in _in_hand and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
