"""Numbered pieces of work, called slots, that processes share: each is done once, by whoever comes first.

A slot is worked on as a trial of an optuna study. Who takes a trial gets the next slot; a slot whose process died is
taken over by the first who waits for it. What a slot is about must follow from lower slots alone, and only they may be
waited for: then no two processes wait for each other, and results do not depend on how many there are.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bertcompress.search.workers import SILENCE_SECONDS, Workers

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, TrialState

POLL_SECONDS = 0.2
FACTS = "facts:"  # and the slot: a user attribute of the study
SLOT, WORKER, AGAIN, TOKEN = "slot", "worker", "again", "token"  # a trial's user attributes


@dataclass(frozen=True)
class Outcome:
    """What came of a slot.

    Attributes:
        value: higher is better; minus infinity where the work failed in itself.
        facts: JSON types, kept with it.
    """

    value: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class Lost(NamedTuple):
    """A slot that is done again: its trial's values, their ranges, and the work itself."""

    params: Mapping[str, Any]
    ranges: Mapping[str, BaseDistribution]
    work: Callable[[], Outcome]


class Board:
    """The slots of a study."""

    def __init__(self, study: Study, workers: Workers, again: Callable[[int], Lost]) -> None:
        """Take the study.

        Args:
            study: whose trials the slots are.
            workers: who is alive.
            again: what a slot is about that has been lost.
        """
        self.study, self.workers, self._again = study, workers, again

    def take(self) -> tuple[int, Any]:
        """Return the next slot that nobody has taken, and its trial."""
        trial = self.study.ask()
        trial.set_user_attr(WORKER, self.workers.me)
        slot = next(
            slot for slot, trials in self.trials().items() if any(each.number == trial.number for each in trials)
        )
        trial.set_user_attr(SLOT, slot)
        return slot, trial

    def trials(self) -> dict[int, list[FrozenTrial]]:
        """Return the trials of every slot that was ever taken, in the order in which they began."""
        found: dict[int, list[FrozenTrial]] = {}
        fresh = 0
        for trial in sorted(self.study.get_trials(deepcopy=False), key=lambda each: each.number):
            if AGAIN in trial.user_attrs:
                found.setdefault(trial.user_attrs[SLOT], []).append(trial)
                continue
            found.setdefault(fresh, []).append(trial)
            fresh += 1
        return found

    def results(self) -> dict[int, FrozenTrial]:
        """Return the finished trial of every slot that is done."""
        return _complete(self.trials())

    def settle(self, slots: Collection[int]) -> dict[int, FrozenTrial]:
        """Wait until these slots, which were all taken once, are done; do again what dead processes have left."""
        while True:
            trials = self.trials()
            done = _complete(trials)
            if all(slot in done for slot in slots):
                return {slot: done[slot] for slot in slots}
            open_slots = [slot for slot in trials if slot in slots and slot not in done]
            lost = [slot for slot in open_slots if not any(map(self._at_work, trials[slot]))]
            if lost:
                self._take_over(min(lost))
            else:
                time.sleep(POLL_SECONDS)

    def facts(self, slot: int) -> dict[str, Any]:
        """Return what was kept with a slot's value."""
        return dict(self.study.user_attrs.get(f"{FACTS}{slot}", {}))

    @contextlib.contextmanager
    def holding(self, number: int) -> Iterator[None]:
        """Free the slot of a trial if what is done inside breaks off, also by Ctrl-C: this process may live on."""
        from optuna.trial import TrialState

        try:
            yield
        except BaseException:
            self._tell(number, TrialState.FAIL)
            raise

    def keep(self, slot: int, number: int, outcome: Outcome) -> None:
        """Keep what came of a slot's trial."""
        self.study.set_user_attr(f"{FACTS}{slot}", dict(outcome.facts))
        self.study.tell(number, outcome.value)

    def drop(self, number: int) -> None:
        """Say that a trial was taken when nothing was left to do."""
        from optuna.trial import TrialState

        self._tell(number, TrialState.PRUNED)

    def _tell(self, number: int, state: TrialState) -> None:
        """End a trial, unless somebody else has ended it."""
        from optuna.exceptions import UpdateFinishedTrialError

        with contextlib.suppress(UpdateFinishedTrialError, ValueError):
            self.study.tell(number, state=state)

    def _at_work(self, trial: FrozenTrial) -> bool:
        """Return whether somebody works on a trial; one whose process is dead is marked as failed."""
        from optuna.trial import TrialState

        if trial.state.name != "RUNNING":
            return False
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # just begun, or its process died before it could write its name
            began = trial.datetime_start or datetime.min
            alive = datetime.now() - began < timedelta(seconds=SILENCE_SECONDS)
        else:
            alive = self.workers.alive(worker)
        if not alive:
            self._tell(trial.number, TrialState.FAIL)
        return alive

    def _take_over(self, slot: int) -> None:
        """Do a lost slot, unless somebody else takes it over in the same moment."""
        import optuna
        from optuna.trial import TrialState

        token = uuid.uuid4().hex
        lost = self._again(slot)
        marks = {AGAIN: True, SLOT: slot, WORKER: self.workers.me, TOKEN: token}
        params, distributions = dict(lost.params), dict(lost.ranges)
        running = TrialState.RUNNING
        self.study.add_trial(
            optuna.create_trial(state=running, params=params, distributions=distributions, user_attrs=marks)
        )
        trials = self.trials()[slot]
        mine = next(trial for trial in trials if trial.user_attrs.get(TOKEN) == token)
        first = next(trial for trial in trials if trial.state.name in ("RUNNING", "COMPLETE"))
        if first.number != mine.number:
            self._tell(mine.number, TrialState.FAIL)
            return
        with self.holding(mine.number):
            self.keep(slot, mine.number, lost.work())


def _complete(trials: Mapping[int, Sequence[FrozenTrial]]) -> dict[int, FrozenTrial]:
    """Return the finished trial of every slot that has one."""
    ended = {slot: [each for each in own if each.state.name == "COMPLETE"] for slot, own in trials.items()}
    return {slot: own[0] for slot, own in ended.items() if own}
