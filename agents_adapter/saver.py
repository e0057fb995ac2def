"""The saver: one checkpoint, one rewind, for an agent or for a team's members together.

    save      state, vars, generators, passes → file → event               only between episodes
    resume    newest checkpoint that verifies → state and vars → Rewound   at run.agent
    settle    the same checkpoint once more, and the global generators     where the loop goes on

It restores twice on purpose: at `run.agent` a failure shows at once, and what the script does to the agent from there
to its loop (a first exploration rate, weights drawn) is undone before training goes on.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agents_adapter import resuming, rng
from agents_adapter.passes import Pass, Walking
from journal.errors import EventRejected, JournalFailed, ResumeImpossible
from journal.events import Phase, Rewound
from replay.resume import check
from replay.state import Checkpoint

if TYPE_CHECKING:
    from agents_adapter.plan import Plan
    from agents_adapter.run import Run
    from agents_adapter.state import AgentState
    from agents_adapter.track import Key, Track

_ANEW = "or start anew with resume='never'"
_ONE_OR_THE_OTHER = (
    "in one phase of a run, an agent either walks plans (episodes, evaluate) or has environments that follow one plan "
    "(PlanEnv)"
)
_PATIENCE = 5
"""How many times `checkpoint_every` may pass without a checkpoint before the user is told."""
_ITERATIONS = "/"
"""Stands beside the names of agents, which hold no '/'."""


@dataclass(slots=True)
class Kept:
    """A checkpoint's content as of an iteration's beginning, to be saved if resets follow, and nothing else."""

    seq: int
    """Of the next event, as long as nothing else is recorded."""
    content: dict[str, Any]
    unsettled: set[tuple[str, Phase, int]]
    """What was in the middle of something and was not reset since: agent, phase, env_index."""


class Saver:
    """Made by `run.agent` and `run.team`; `team` tells whether its checkpoints name members."""

    def __init__(
        self, run: Run, name: str, tracks: Sequence[Track], states: Sequence[AgentState], *, saves: bool, team: bool
    ) -> None:
        self.name = name
        self.saves = saves
        """Does it have a state to keep?"""
        self.tracks = tracks
        self._run = run
        self._states = states
        self._team = team
        self._passes: list[Pass] = []
        """Those that this attempt has come to, but for those inside another."""
        self._followed: dict[tuple[str, Phase], str] = {}
        """Agent and phase → hash of the plan that a PlanEnv follows there."""
        self._known: list[Pass] = []
        """Those that the restored checkpoint knows."""
        self._walked: list[Walking] = []
        """The pass that is walked now, and those inside it."""
        self._from: Checkpoint | None = None
        """What is to be restored once more, where the loop goes on."""
        self._saved = self._left_early = self._warned = self._in_vain = False
        self._kept: Kept | None = None
        self._since: Counter[str] = Counter()
        """Since the last save: episodes ended, by member, and iterations."""

    @property
    def walking(self) -> Walking | None:
        """The innermost pass that is being walked."""
        return self._walked[-1] if self._walked else None

    @property
    def over(self) -> bool:
        """Is nothing left to do, as far as can be seen? A learner that asked for no pass may have more to learn."""
        if self._walked or self._left_early or any(track.all_open() for track in self.tracks):
            return False
        return bool(self._passes or not self.saves)

    # -- going on ----------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Give the members the state in which the run goes on, if there is one. Raises `ResumeImpossible`."""
        run = self._run
        found = None
        if run.resumed is not None:
            found = self._from = self._goes_on()
            if found is not None:
                self._known = [Pass.from_payload(one) for one in self._restore(found)["passes"]]
                run.watch.rewound([track.name for track in self.tracks], found.seq)
                self._rewind(found)
                self._saved = True
                run.store.adopt(self.name, [one.path for one in self._checkpoints() if one.seq <= found.seq])
        if found is None and run.continue_from == "last" and self.saves:
            found = self._continue_last()
        for track in self.tracks:
            agent = run.state.agents.get(track.name)
            if agent is not None:
                back = next((one for one in agent.checkpoints if found is not None and one.seq == found.seq), None)
                track.place(agent.lineage if back is None else back.lineage, resumed=run.resumed is not None)

    def _goes_on(self) -> Checkpoint | None:
        """The checkpoint of the resumed run to go back to; None where the members have not begun, or have no state."""
        run, first = self._run, self.tracks[0].name
        assert run.resumed is not None
        begun = any(track.name in run.resumed.agents for track in self.tracks)
        point = run.state.resume(first) if first in run.state.agents else None
        checkpoint = None if point is None else point.checkpoint
        if checkpoint is not None and checkpoint.agent != self.name:
            raise ResumeImpossible(
                f"the checkpoint of {first} was saved by {checkpoint.agent}, not by {self.name}: name agents and teams "
                f"as before, {_ANEW}"
            )
        if self.saves:
            if checkpoint is None and (begun or (point is not None and point.damaged)):
                why = f": {'; '.join(point.damaged)}" if point is not None and point.damaged else ""
                raise ResumeImpossible(
                    f"run {run.id} has no good checkpoint of {self.name} to go on from{why}; "
                    f"bring one back from a copy, {_ANEW}"
                )
            return checkpoint
        for state in self._states:
            if not state.resumable and (begun or checkpoint is not None):
                raise ResumeImpossible(
                    f"run {run.id} cannot go on with {state.agent}, which has no state and would start untrained; add "
                    f"state= (or save= and restore=, or stateless=True if it learns nothing) to run.agent, {_ANEW}"
                )
        if checkpoint is not None:
            raise ResumeImpossible(f"{self.name} has a checkpoint in run {run.id}: give its state= as before, {_ANEW}")
        return None

    def _continue_last(self) -> Checkpoint | None:
        """In a new run, the agent's newest state of any earlier one; its environments and passes are new."""
        if not any(track.name in self._run.state.agents for track in self.tracks):
            return None
        good = [one for one in self._checkpoints() if one.agent == self.name]
        good = [one for one in good if check(self._run.log.storage, one) is None]
        if not good:
            raise ResumeImpossible(
                f"continue_from='last': the journal has no good checkpoint of {self.name}; leave it out to start fresh"
            )
        self._restore(good[-1], environments=False)
        agent = self._run.state.agents[self.tracks[0].name]
        if agent.effective != good[-1].lineage.effective:
            self._rewind(good[-1])
        return good[-1]

    def _checkpoints(self) -> list[Checkpoint]:
        agent = self._run.state.agents.get(self.tracks[0].name)
        return agent.checkpoints if agent is not None else []

    def _restore(self, checkpoint: Checkpoint, *, environments: bool = True) -> dict[str, Any]:
        """Into the members; returns the checkpoint's content. Raises `ResumeImpossible`."""
        content: dict[str, Any] = self._run.store.load(checkpoint.path, checkpoint.sha256)
        parts = self._parts(content, checkpoint.path)
        for state, part in zip(self._states, parts, strict=True):
            state.check(part["state"])
        for state, part in zip(self._states, parts, strict=True):
            state.restore(part["state"])
        for track, part in zip(self.tracks, parts, strict=True):
            track.vars.clear()
            track.vars.update(part["vars"])
            if environments:
                track.environments.expect(part["environments"])
        return content

    def _rewind(self, checkpoint: Checkpoint) -> None:
        """Record that what came after the checkpoint is superseded."""
        members = [track.name for track in self.tracks] if self._team else None
        self._run.recorder.append(
            Rewound(agent=self.name, to_seq=checkpoint.seq, members=members, path=checkpoint.path)
        )

    def _parts(self, content: Any, path: str) -> list[dict[str, Any]]:
        """Each member's part of a checkpoint."""
        try:
            parts = [content["members"][track.name] for track in self.tracks] if self._team else [content]
            for one in content["passes"]:
                Pass.from_payload(one)
            if all(map(_is_part, parts)) and isinstance(content["rng"], dict):
                return parts
        except (KeyError, TypeError, ValueError):
            pass
        names = ", ".join(track.name for track in self.tracks)
        raise ResumeImpossible(f"{path} is no checkpoint of {names}: name the agents as before, {_ANEW}")

    def settle(self) -> None:
        """Restore once more, if this is where the loop goes on."""
        if self._from is not None and len(self._passes) >= len(self._known):
            checkpoint, self._from = self._from, None
            rng.restore_global(self._restore(checkpoint)["rng"])

    # -- passes ------------------------------------------------------------------------------------------------------

    def begin(self, current: Pass, tracks: Sequence[Track], plan: Plan | None) -> Walking:
        """A pass begins: find its place, restore where it goes on, save checkpoint 0 where there is none yet.

        Raises `EventRejected` where these tracks are in the middle of such a pass, `ResumeImpossible` where it is not
        the pass that was walked here before.
        """
        self._run.check_open()
        for outer in self._walked:
            if outer.current.kind == current.kind != "loop" and set(outer.tracks) & set(tracks):
                raise EventRejected(f"{self.name} is in the middle of such a walk already: end it before the next one")
        if current.kind == "loop" and not self.saves:
            raise EventRejected(
                f"loop() of {self.name} resumes from its checkpoints: give run.agent a state=, {{}} if it has none"
            )
        walking = Walking(current, tracks, bool(self._walked), 0, False)
        if not walking.nested:
            self._place(walking, plan)
        self._walked.append(walking)
        try:
            self.settle()
            if not self._saved:
                self.save()
            if plan is not None:
                for track in tracks:
                    self._run.record_plan(track.name, walking.current.phase, plan)
        except BaseException:
            self._walked.remove(walking)
            raise
        return walking

    def _place(self, walking: Walking, plan: Plan | None) -> None:
        current, number = walking.current, len(self._passes)
        if number < len(self._known):
            known = self._known[number]
            self._check_same(known, current, plan)
            current.done, current.left = known.done, known.left
            walking.over = known.left or number + 1 < len(self._known)
        if plan is not None:
            before = [one.length for one in self._passes if (one.who, one.kind) == (current.who, current.kind)]
            walking.first = sum(before)
            if not self.saves:
                for track in walking.tracks:
                    self._check_recorded(track, current.phase, walking.first, plan)
            for track in walking.tracks:
                if (track.name, current.phase) in self._followed:
                    raise EventRejected(f"{track.name}: {_ONE_OR_THE_OTHER}")
        self._passes.append(current)

    def follow(self, track: Track, plan: Plan, phase: Phase) -> None:
        """A PlanEnv of `track` follows `plan`: record it. Raises `ResumeImpossible` where it was another."""
        if self._followed.get((track.name, phase)) == plan.hash:
            return
        if (track.name, phase) in self._followed or any(one.kind == phase for one in (*self._passes, *self._known)):
            raise EventRejected(f"{track.name}: {_ONE_OR_THE_OTHER}")
        self._check_recorded(track, phase, 0, plan)
        self._run.record_plan(track.name, phase, plan)
        self._followed[track.name, phase] = plan.hash

    def _check_same(self, known: Pass, current: Pass, plan: Plan | None) -> None:
        who = f"{self.name}: walk number {len(self._passes) + 1} of run {self._run.id}"
        if (known.who, known.kind) != (current.who, current.kind):
            resuming.refuse(who, [f"it was {_told(known)}, is {_told(current)}"], ["walk in the same order as before"])
        if plan is None and known.length != current.length:
            resuming.refuse(who, [f"its iterations were {known.length}, are {current.length}"], ["give that number"])
        if plan is not None and known.plan_hash != plan.hash:
            recorded = self._run.recorded_plans(self.tracks[0].name, current.phase).get(known.plan_hash or "")
            resuming.refuse_plan(recorded, str(known.plan_hash), plan, who)

    def _check_recorded(self, track: Track, phase: Phase, first: int, plan: Plan) -> None:
        """Without a checkpoint the log tells what was walked: finished entries of another plan are not this one's."""
        finished = track.finished[phase]
        if any(first + index in finished for index in range(len(plan))):
            recorded = self._run.recorded_plans(track.name, phase)
            if recorded and plan.hash not in recorded:
                last = next(reversed(recorded))
                resuming.refuse_plan(recorded[last], last, plan, f"{track.name}: run {self._run.id}")

    def leave(self, walking: Walking) -> None:
        """The pass is over, or the caller left it."""
        walking.current.left = True
        self._left_early |= not walking.whole
        self._walked.remove(walking)

    # -- saving ------------------------------------------------------------------------------------------------------

    def episodes_ended(self, track: Track, count: int) -> None:
        """Count them towards the next checkpoint."""
        self._since[track.name] += count

    def boundary(self, *, iteration: bool = False, last: bool = False) -> None:
        """Between two episodes or iterations: save if it is time to, and no episode is open. `last`: a pass is over."""
        if not self.saves:
            return
        if iteration:
            self._since[_ITERATIONS] += 1
        due = self._due()
        if not (due or last) or len(self._walked) > (0 if last else 1):
            return
        if not self._busy():
            if due or self._since:
                self.save()
        elif due:
            if iteration:
                self._keep()
            self._warn_of_none()

    def moved(self) -> bool:
        """Was anything recorded since `boundary` kept a content?"""
        return self._kept is None or self._kept.seq != self._run.log.next_seq

    def between(self, track: Track, places: Iterable[Key], moved: bool) -> None:
        """Before an environment is reset, its episodes ended: save checkpoint 0, and then as it is time to.

        In a loop, what was kept at the iteration's beginning is saved, if all that was in the middle of something has
        been reset since, and nothing else was recorded (`moved` tells that it was).
        """
        if not self._walked:
            track.resets.difference_update(places)
            if not self._busy():
                self.settle()
                if not self._saved or self._due():
                    self.save()
        elif self._kept is not None and not moved:
            self._kept.seq = self._run.log.next_seq
            self._kept.unsettled.difference_update((track.name, *place) for place in places)
            if not self._kept.unsettled:
                self._in_vain = False
                self._write(self._kept.content)

    def save(self) -> None:
        """Save a checkpoint; it is on disk, with its event, when this returns.

        What `save=` or a `state_dict` raises passes through, and then nothing was recorded.
        """
        if self.saves and self._run.recorder.failure is None:
            self._write(self._content())

    def _content(self) -> dict[str, Any]:
        """What a checkpoint holds, as of now."""
        parts = [
            {"state": state.capture(), "vars": track.vars, "environments": track.environments.capture()}
            for track, state in zip(self.tracks, self._states, strict=True)
        ]
        names = [track.name for track in self.tracks]
        content: dict[str, Any] = {"members": dict(zip(names, parts, strict=True))} if self._team else parts[0]
        content["passes"] = [one.to_payload() for one in self._passes]
        content["rng"] = rng.capture_global()
        return content

    def _write(self, content: dict[str, Any]) -> None:
        run, names = self._run, [track.name for track in self.tracks]
        self._kept = None
        try:
            episode = self.tracks[0].next_number["train"]
            run.store.save(run.log, self.name, episode, content, names if self._team else None)
        except JournalFailed as error:
            run.recorder.failed(error)
            return
        self._saved = True
        self._since.clear()

    def finish(self) -> None:
        """The run completes: keep what was done since the last save."""
        if self._since:
            self.save()

    def _busy(self) -> bool:
        """Is an episode open, or an environment reset for the next one?"""
        return any(track.open or track.resets for track in self.tracks)

    def _unsettled(self) -> set[tuple[str, Phase, int]]:
        """What is to be reset before anything can be saved."""
        return {(track.name, *place) for track in self.tracks for place in (*track.open, *track.resets)}

    def _keep(self) -> None:
        """Keep what would be saved. It costs a copy: where one was in vain, the next waits as a checkpoint would."""
        if self._kept is not None:
            self._kept, self._in_vain = None, True
        if not self._in_vain or self._since[_ITERATIONS] % self._run.checkpoint_every == 0:
            self._kept = Kept(self._run.log.next_seq, deepcopy(self._content()), self._unsettled())

    def _warn_of_none(self) -> None:
        missed = max(self._since.values(), default=0)
        if missed >= _PATIENCE * self._run.checkpoint_every and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.name}: no checkpoint could be saved for {missed} episodes or iterations: whenever one was due, "
                "an episode was open or its environment already reset; a resume does all of it again. Let each "
                "iteration begin with a reset of its environment",
                RuntimeWarning,
                stacklevel=2,
            )

    def _due(self) -> bool:
        return max(self._since.values(), default=0) >= self._run.checkpoint_every


def _is_part(part: Any) -> bool:
    """Is it what a checkpoint holds of a member? Of the state, the member itself says."""
    if not isinstance(part, dict) or "state" not in part or not isinstance(part["vars"], dict):
        return False
    environments = part["environments"]
    return isinstance(environments, list) and all(
        isinstance(captured, dict)
        and all(isinstance(path, str) and isinstance(one, dict) for path, one in captured.items())
        for captured in environments
    )


def _told(one: Pass) -> str:
    kind = {"train": "episodes()", "eval": "evaluate()", "loop": "loop()"}[one.kind]
    return kind if one.who is None else f"{kind} of {one.who}"
