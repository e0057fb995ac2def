"""The run: `start` opens the journal, recovers it, and goes on with the unfinished run or begins a new one.

    start ─▶ attempt ─┬─ run.finish(), or the end of `with`             completed: the run is done
                      ├─ the program's end, with nothing left to do      completed
                      ├─ Ctrl-C, SIGTERM, SIGHUP, an earlier exit        interrupted ┐
                      ├─ an exception                                    failed      ├ the next start goes on
                      └─ nothing: kill -9, a power cut                   crashed     ┘ (noted by that start)

However the attempt ends, but for the last, everything is synced and the journal is closed when it has.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Self

import journal
import replay
from agents_adapter import plans, resuming
from agents_adapter.checkpoint import CheckpointStore
from agents_adapter.compacting import MOMENTS, Compact, compact_if_possible, prepare
from agents_adapter.plan import Plan
from agents_adapter.provenance import Provenance
from agents_adapter.recorder import OnFailure, Recorder
from agents_adapter.saver import Saver
from agents_adapter.signals import Signals
from agents_adapter.state import AgentState
from agents_adapter.track import Team, Track
from agents_adapter.watch import OnDivergence, Watch
from journal.errors import EventRejected, JournalClosed, JournalError, NotAJournal
from journal.events import (
    AttemptEnded,
    AttemptStarted,
    Phase,
    RunEnded,
    RunStarted,
    check_count,
    check_name,
    check_tolerance,
    pack,
    unpack,
)
from journal.writer import Sync
from replay.state import Run as PastRun
from replay.state import State

Status = Literal["completed", "interrupted", "failed"]

_RUNNING: Final[dict[str, Run]] = {}
"""Real path of a journal → the run that this process records in it."""


def start(
    dir: str | os.PathLike[str],
    config: Mapping[str, Any] | None = None,
    *,
    resume: resuming.Resume = "auto",
    on_failure: OnFailure = "raise",
    shard: str | None = None,
    checkpoint_every: int = 10,
    keep: int = 3,
    sync: Sync = "group",
    seeding: Literal["episode"] | None = None,
    continue_from: Literal["last"] | None = None,
    code: str | None = None,
    compact: Compact = "manual",
    on_divergence: OnDivergence = "warn",
    tolerance: float | None = None,
) -> Run:
    """Open the journal in `dir` (made if there is none), and go on with its unfinished run or begin a new one.

    An unfinished run is resumed where `config` and the main script (`code`: its SHA-256, or any text of yours) are as
    they were; else `ResumeImpossible` names each difference. `resume="must"` refuses to begin a new run, `"never"` to
    go on. `on_failure="warn"`: where the journal fails during the training, warn once and train on unrecorded.
    `shard`: a journal of its own below `dir`, for processes side by side. A checkpoint is saved every
    `checkpoint_every` episodes, the newest `keep` of an agent stay. `sync` as in `journal.open`. `seeding="episode"`
    seeds Python's and numpy's global generators at each episode's start; otherwise nothing is ever seeded.
    `continue_from="last"`: in a new run, agents start from their last checkpoint. `compact="end"` turns the log into
    history when the run has completed, `"open"` before it is opened here, `"manual"` leaves that to `journal compact`;
    where it fails, that is one warning. `on_divergence`: where an episode that is done again after a resume has other
    rewards than the first time, on the same bars and with the same seed, `"warn"` once for each agent, `"raise"`
    `Diverged` at the episode's end, or `"ignore"` it. `tolerance`: observed bars are also hashed after rounding to
    multiples of it, for `journal compare --tolerance`. A run that this process already records in `dir` is ended first.

    On disk when it returns: what was there before, recovered. Raises `EventRejected` for a bad argument,
    `ResumeImpossible`, `JournalLocked`, `NotAJournal`, `CorruptJournal`, `UnsupportedFormat`, `JournalFailed`.
    """
    _check("resume", resume, ("auto", "must", "never"))
    _check("on_failure", on_failure, ("raise", "warn"))
    _check("seeding", seeding, (None, "episode"))
    _check("continue_from", continue_from, (None, "last"))
    _check("compact", compact, MOMENTS)
    _check("on_divergence", on_divergence, ("warn", "raise", "ignore"))
    for name, number in (("checkpoint_every", checkpoint_every), ("keep", keep)):
        check_count(number, name)
        if not number:
            raise EventRejected(f"{name} is 0: give a number of 1 or more")
    if tolerance is not None:
        tolerance = tolerance * 1.0 if type(tolerance) is int else tolerance
        check_tolerance(tolerance, "tolerance")
    if code is not None and not isinstance(code, str):
        raise EventRejected(f"code is {code!r:.80}: give a text that names this version of the training code")
    plain_config = _plain_config(config)
    directory = _directory(dir, shard)
    previous = _RUNNING.get(os.path.realpath(directory))
    if previous is not None:
        try:
            previous.end()
        except JournalError:
            pass  # What it could not write any more, the recovery that follows puts in order.
    provenance = Provenance.capture(code)
    if compact == "open":
        compact_if_possible(directory, directory)
    elif compact == "end":
        prepare()
    log = journal.open(directory, sync=sync)
    try:
        state = replay.load(log.storage)
        resumed = resuming.decide(state, plain_config, provenance.code, resume, log.storage.name)
        run = Run(
            log,
            state,
            resumed,
            store=CheckpointStore(log.storage, keep=keep),
            on_failure=on_failure,
            checkpoint_every=int(checkpoint_every),
            seeding=seeding,
            continue_from=continue_from,
            compact_at_end=compact == "end",
            on_divergence=on_divergence,
            tolerance=tolerance,
        )
        run.begin(plain_config, provenance)
    except BaseException:
        log.close()
        raise
    return run


class Run:
    """A training that is being recorded. Made by `start`; as a context manager it ends itself."""

    def __init__(
        self,
        log: journal.Log,
        state: State,
        resumed: PastRun | None,
        *,
        store: CheckpointStore,
        on_failure: OnFailure,
        checkpoint_every: int,
        seeding: Literal["episode"] | None,
        continue_from: Literal["last"] | None,
        compact_at_end: bool,
        on_divergence: OnDivergence,
        tolerance: float | None,
    ) -> None:
        self.log = log
        """The low level: `run.log.append`, `run.log.sync`, `run.log.promised`."""
        self.state = state
        """What the journal held at the start."""
        self.resumed = resumed
        """The run as it was found, where it goes on; None for a new one."""
        self.id = _new_id() if resumed is None else resumed.id
        self.attempt = 0 if resumed is None else len(resumed.attempts)
        self.recorder = Recorder(log, on_failure)
        self.watch = Watch(log, self.id, on_divergence)
        self.store = store
        self.checkpoint_every = checkpoint_every
        self.seeding = seeding
        self.continue_from = continue_from
        self.tolerance = tolerance
        self._compact_at_end = compact_at_end
        self.tracks: dict[str, Track] = {}
        """By the agents' names in the journal."""
        self._savers: dict[str, Saver] = {}
        self._plans = {} if resumed is None else {key: plan.plan_hash for key, plan in resumed.plans.items()}
        self._signals = Signals()
        self._pid = os.getpid()
        self._attempt_open = False
        self._ended = False
        # What was in flight before the training is not its failure.
        self._errors_before = (sys.exception(), getattr(sys, "last_value", None))

    def begin(self, config: dict[str, Any], provenance: Provenance) -> None:
        """Record the start; from here on the attempt is to be ended."""
        last = next(reversed(self.state.runs.values()), None)
        for attempt in last.attempts if last is not None and last.status == "unfinished" else []:
            if attempt.status == "running" and last is not None:
                self.log.append(AttemptEnded(run=last.id, attempt=attempt.number, status="crashed"))
        if self.resumed is None:
            self.log.append(RunStarted(run=self.id, config=config))
        self.log.append(AttemptStarted(run=self.id, attempt=self.attempt, **provenance.as_fields()))
        self._attempt_open = True
        _RUNNING[os.path.realpath(self.log.storage.name)] = self
        atexit.register(self._at_exit)
        named = {one.path for agent in self.state.agents.values() for one in agent.checkpoints}
        self.store.sweep(named)
        self._signals.install()

    # -- agents ------------------------------------------------------------------------------------------------------

    def agent(
        self,
        name: str,
        state: Any = None,
        *,
        save: Callable[[], Any] | None = None,
        restore: Callable[[Any], Any] | None = None,
        stateless: bool = False,
        replicate: int = 0,
    ) -> Track:
        """The track of agent `name`; where the run goes on, the agent is restored when this returns.

        `state` is an object with `state_dict` and `load_state_dict`, or a dict of such objects, arrays, numbers and
        generators; or give `save` and `restore` functions; or `stateless=True` for what learns nothing. Restoring
        happens again where its loop goes on. `replicate` tells repetitions (seeds) of one agent apart.

        Raises `EventRejected` for a bad name, a second agent of one name or a bad state, `ResumeImpossible` where the
        run goes on and this agent cannot (the message names the argument), `JournalClosed`, `JournalFailed`.
        """
        check_name(name, "agent")
        check_count(replicate, "replicate")
        full = f"{name}#{replicate}" if replicate else name
        agent_state = AgentState(full, state, save=save, restore=restore, stateless=stateless)
        return self._add(full, [full], [agent_state], saves=agent_state.resumable and not stateless, team=False)[0]

    def team(self, name: str, members: Mapping[str, Any]) -> Team:
        """Agents that are saved and rewound together: `members` maps each name to its state, as `run.agent` takes it.

        Raises as `agent` does.
        """
        check_name(name, "team")
        if not members:
            raise EventRejected(f"team {name!r} has no members: give a dict, name → state")
        for member, state in members.items():
            check_name(member, "member")
            if state is None or member == name:
                raise EventRejected(
                    f"member {member!r} of team {name!r}: give a state, and a name that is not the team's"
                )
        states = [AgentState(member, state) for member, state in members.items()]
        tracks = self._add(name, list(members), states, saves=True, team=True)
        return Team(self._savers[name], tracks)

    def _add(
        self, name: str, members: list[str], states: list[AgentState], *, saves: bool, team: bool
    ) -> tuple[Track, ...]:
        self.check_open()
        for taken in {name, *members}:
            if taken in self.tracks or taken in self._savers:
                raise EventRejected(f"{taken!r} is in this run already: use its track, or replicate= for a repetition")
        tracks = tuple(Track(self, member) for member in members)
        saver = Saver(self, name, tracks, states, saves=saves, team=team)
        for track in tracks:
            track.saver = saver
        saver.resume()
        self._savers[name] = saver
        self.tracks.update((track.name, track) for track in tracks)
        return tracks

    # -- the end -----------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """The training is done: end open episodes, save what is not saved yet, end the run, close the journal.

        While an exception is being handled, or after a signal came, the attempt ends as failed or interrupted instead
        and the run can be resumed; so it does, with a warning, where an agent of the resumed run was left out. Calling
        it again is fine. Raises `JournalFailed`, and what saving an agent raises.
        """
        status, error = self._outcome(sys.exception())
        left = [] if status is not None or self._ended else self._left_out()
        self._end("interrupted" if left else status or "completed", error)
        if left:
            warnings.warn(
                f"run {self.id} stays unfinished: this attempt has not taken up {', '.join(left)}, which belong to it; "
                "start again with them, or with resume='never' to leave them",
                RuntimeWarning,
                stacklevel=2,
            )

    def _left_out(self) -> list[str]:
        """Agents of the resumed run that nobody asked for."""
        return [name for name in (self.resumed.agents if self.resumed else ()) if name not in self.tracks]

    def end(self) -> None:
        """End the attempt, not the run: interrupted, or failed where an exception is the reason. Twice is fine."""
        self._end_unless_told("interrupted")

    def _at_exit(self) -> None:
        """The program ended without `finish`. By itself, with nothing left to do: then the run is completed."""
        over = bool(self._savers) and not self._left_out() and all(saver.over for saver in self._savers.values())
        self._end_unless_told("completed" if over else "interrupted", exiting=True)

    def _end_unless_told(self, otherwise: Status, *, exiting: bool = False) -> None:
        # `last_value`: what ended the main program, or a notebook's cell.
        status, error = self._outcome(sys.exception(), getattr(sys, "last_value", None))
        self._end(otherwise if status is None else status, error, exiting=exiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
            return
        try:
            self._end(*self._told(error))
        except JournalError as failed:
            error.add_note(f"and the journal could not be closed: {failed}")

    def _end(self, status: Status, error: str | None, *, exiting: bool = False) -> None:
        if self._ended or os.getpid() != self._pid:
            return  # A forked child has no part in its parent's run.
        try:
            if status == "completed" and self.recorder.failure is None:
                try:
                    self._complete()
                except BaseException as trouble:
                    status, error = self._told(trouble)
                    raise
        finally:
            try:
                self._record_end(status, error)
            finally:
                self._let_go()
        if self._compact_at_end and status == "completed" and self.recorder.failure is None:
            # At the program's exit no thread can be started any more, so nothing is drawn then.
            compact_if_possible(self.log.storage, self.log.storage.name, quiet=exiting)

    def _complete(self) -> None:
        """Nothing is left open or unsaved."""
        for track in self.tracks.values():
            for episode in track.all_open():
                episode.end()
        for saver in self._savers.values():
            saver.finish()

    def _record_end(self, status: Status, error: str | None) -> None:
        if self.recorder.failure is not None:
            status, error = "failed", f"the journal failed: {self.recorder.failure}"[:1000]
        try:
            if self._attempt_open:
                self.log.append(AttemptEnded(run=self.id, attempt=self.attempt, status=status, error=error))
                self._attempt_open = False
            if status == "completed":
                self.log.append(RunEnded(run=self.id))
        except JournalError as failed:
            # The log is beyond use; closing it says so. The next start notes the attempt as crashed.
            if not isinstance(failed, (JournalClosed, journal.JournalFailed)):
                raise

    def _let_go(self) -> None:
        """Close the log and put everything back; the log first, so that what was recorded is promised."""
        try:
            self.log.close()
        except journal.JournalFailed as failed:
            self.recorder.failed(failed)
        finally:
            self._ended = True
            self._signals.restore()
            atexit.unregister(self._at_exit)
            key = os.path.realpath(self.log.storage.name)
            if _RUNNING.get(key) is self:
                del _RUNNING[key]

    def _outcome(self, *errors: BaseException | None) -> tuple[Status | None, str | None]:
        """Why the training stops here: a signal, an exception; None where nothing speaks against its being done."""
        for error in errors:
            if error is not None and all(error is not before for before in self._errors_before):
                return self._told(error)
        if self._signals.noted is not None:
            return "interrupted", self._signals.noted.name
        return None, None

    def _told(self, error: BaseException) -> tuple[Status, str | None]:
        if self._signals.noted is not None:
            return "interrupted", self._signals.noted.name
        if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit)):
            return "interrupted", type(error).__name__
        return "failed", f"{type(error).__name__}: {error}"[:1000]

    def check_open(self) -> None:
        """Raises `JournalClosed` after the run's end."""
        if self._ended or self.log.closed:
            raise JournalClosed(f"run {self.id} has ended; start the next one with agents_adapter.start")

    # -- plans -------------------------------------------------------------------------------------------------------

    def record_plan(self, agent: str, phase: Phase, plan: Plan) -> None:
        """Record the plan, unless it is the one recorded last."""
        key = f"{agent}/{phase}"
        if self._plans.get(key) != plan.hash:
            plans.record(self.recorder, agent, phase, plan)
            self._plans[key] = plan.hash

    def recorded_plans(self, agent: str, phase: Phase) -> dict[str, plans.Entries | None]:
        """Hash → entries of the plans that the agent walked in this run, oldest first."""
        return plans.recorded(self.log.storage, self.id, agent, phase)

    def __repr__(self) -> str:
        return f"<Run {self.id}, attempt {self.attempt}, {self.log.storage.name}>"


def _new_id() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


def _check(name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        raise EventRejected(f"{name} is {value!r:.80}: use {' or '.join(map(repr, known))}")


def _plain_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """The config as the log gives it back, so that the two can be compared."""
    if config is not None and not isinstance(config, Mapping):
        raise EventRejected(f"config is {config!r:.80}: give a dict")
    plain: dict[str, Any] = unpack(pack(dict(config or {}), "config"))
    return plain


def _directory(dir: str | os.PathLike[str], shard: str | None) -> str:
    root = os.fspath(dir)
    if shard is None:
        return root
    check_name(shard, "shard")
    if os.path.lexists(os.path.join(root, "journal.json")):
        raise NotAJournal(f"{root}: is a journal itself; give a directory that holds only shards")
    return os.path.join(root, shard)
