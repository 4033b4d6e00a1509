"""Which processes work on a study, and which of them are dead.

A process writes a sign of life into the study every few seconds. On its own machine it is dead when the system says so;
on another one when its sign has not changed for a while, by the clock of the one who looks, so that clocks need not
agree.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from optuna import Study

logger = logging.getLogger(__name__)
SIGN_SECONDS = 10.0  # between two signs of life
SILENCE_SECONDS = 120.0  # without one, after which a process of another machine is taken for dead
_PREFIX = "alive:"


def this_machine() -> str:
    """Return a name of this machine that no other of a search should have."""
    return f"{platform.node()}-{uuid.getnode():012x}"


def this_worker() -> str:
    """Return a name of this process that none before or after it has: machine, process number and start."""
    pid = os.getpid()
    return f"{this_machine()}/{pid}/{psutil.Process(pid).create_time():.2f}"


class Workers:
    """The processes of a study; a context in which this one gives signs of life."""

    def __init__(self, study: Study) -> None:
        """Look at the study; nothing is written yet."""
        self.study, self.me = study, this_worker()
        self._seen: dict[str, tuple[float, float]] = {}  # of other machines: the last sign, and when it was new here
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> Workers:
        """Begin to give signs of life."""
        self._sign()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give no more."""
        self._over.set()
        self._thread.join()

    def alive(self, worker: str) -> bool:
        """Return whether a process may still be at work."""
        machine, pid, started = worker.rsplit("/", 2)
        if machine == this_machine():
            return _runs(int(pid), float(started))
        sign, now = float(self.study.user_attrs.get(_PREFIX + worker, 0.0)), time.monotonic()
        last, since = self._seen.setdefault(worker, (sign, now))
        if sign != last:
            self._seen[worker] = (sign, now)
            return True
        return now - since < SILENCE_SECONDS

    def _sign(self) -> None:
        self.study.set_user_attr(_PREFIX + self.me, time.time())

    def _live(self) -> None:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        while not self._over.wait(SIGN_SECONDS):
            try:
                self._sign()
            except (
                OptunaError,
                SQLAlchemyError,
            ):  # a storage out of reach for a moment must not end the work that is under way
                logger.warning("the search's storage could not be reached; trying again", exc_info=True)


def _runs(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
