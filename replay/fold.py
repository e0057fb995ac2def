"""The fold: `fold(state, batch) -> state`. Everything that affects the state is here.

Rewards, which are nearly all events, are summed by arrays (`replay.rewards`); the rare ones are taken in one by one,
in order. For every split of the log, fold(all) == fold(tail, from=fold(head)): what a batch leaves unfinished is
carried in the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

from journal import cell
from journal.errors import CorruptJournal
from journal.events import INTEGER_MAX, kind_name
from replay.batch import Batch
from replay.episodes import entry_of, rewind_of
from replay.rewards import Rewards
from replay.seen import SeenBars, SeenList, see, whole
from replay.state import Active, Agent, Attempt, Checkpoint, Lineage, OpenEpisode, Plan, Run, State
from replay.totals import PHASES, Phase
from replay.trends import of_phases


def fold(state: State, batch: Batch) -> State:
    """Take in the events of `batch`, which must follow the last one taken in. Changes `state` and returns it.

    Raises `CorruptJournal` for an event whose fields make no sense, as no writer of ours leaves them; the state is of
    no use then.
    """
    if not len(batch):
        return state
    _Fold(state, batch).run()
    state.events += len(batch)
    state.last_seq = int(batch.at("seq", len(batch) - 1))
    state.last_time_ns = max(state.last_time_ns, batch.latest_ns)
    return state


class _Fold(Rewards):
    """One batch, in three passes: which episode each reward belongs to, the sums, then everything else in order.

    A rule is called in the first pass; there it meets its agents (their order is that of the events, however they are
    split into batches), opens and closes episodes, and nothing else. What it returns is called
    in the third, when the sums of all episodes that ended are complete.
    """

    def run(self) -> None:
        """Take in the batch. Raises `CorruptJournal`, see `fold`."""
        self._row = 0
        try:
            self._take_in()
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            seq, kind = int(self.batch.at("seq", self._row)), kind_name(int(self.batch.at("kind", self._row)))
            reason = f"the {kind} of seq {seq} makes no sense: {' '.join(str(error).split())[:200]}"
            raise CorruptJournal(self.batch.path, self.batch.offset(seq), seq, reason) from error

    def _take_in(self) -> None:
        finish: list[tuple[int, Callable[[], None]]] = []
        start = 0
        for row in [*self.batch.rare().tolist(), len(self.batch)]:
            if start < row:
                self.assign(start, row)
            if row < len(self.batch):
                self._row = row
                rule = _RULES.get(int(self.batch.at("kind", row)))
                if rule is not None:
                    finish.append((row, rule(self, row)))
            start = row + 1
        self.sum()
        for self._row, finish_one in finish:
            finish_one()

    def _time(self, row: int) -> int:
        return int(self.batch.at("time_ns", row))

    def _current(self) -> Run | None:
        return self.state.runs.get(self.state.current_run or "")

    def _touch(self, row: int) -> Agent:
        """The row's agent, noted as part of the current run and attempt."""
        agent = self.agent_at(row)
        agent.last_updated_ns = max(agent.last_updated_ns, self._time(row))
        run = self._current()
        if run is not None:
            if agent.name not in run.agents:
                run.agents.append(agent.name)
            if (not agent.runs or agent.runs[-1] != run.id) and run.id not in agent.runs:
                agent.runs.append(run.id)
            attempt = f"{run.id}#{run.attempts[-1].number if run.attempts else 0}"
            if agent.last_attempt != attempt:
                agent.attempts += 1
                agent.last_attempt = attempt
        return agent

    # -- rules -------------------------------------------------------------------------------------------------------

    def run_started(self, row: int) -> Callable[[], None]:
        """A new run: finished entries are the run's, so they start anew; totals go on."""
        cut = self._cut(self.state.agents.values())

        def finish() -> None:
            cut()
            fields = self.batch.fields(row)
            run = Run(str(fields.get("run")), dict(fields.get("config") or {}), self._time(row))
            self.state.runs[run.id] = run
            self.state.current_run = run.id
            for agent in self.state.agents.values():
                agent.lineage.finished = Lineage().finished

        return finish

    def run_ended(self, row: int) -> Callable[[], None]:
        """The current run's last event."""
        cut = self._cut(self.state.agents.values())

        def finish() -> None:
            cut()
            fields = self.batch.fields(row)
            run = self.state.runs.get(str(fields.get("run")))
            if run is not None:
                run.status = str(fields.get("status", "completed"))
                run.ended_ns = self._time(row)
            self.state.current_run = None

        return finish

    def attempt_started(self, row: int) -> Callable[[], None]:
        """A process took up a run: episodes still open were another process's."""
        cut = self._cut(self.state.agents.values())

        def finish() -> None:
            cut()
            fields = self.batch.fields(row)
            run = self.state.runs.get(str(fields.get("run")))
            if run is None:
                return
            self.state.current_run = run.id
            run.attempts.append(
                Attempt(
                    whole(fields.get("attempt", 0)),
                    whole(fields.get("pid", 0)),
                    [str(one) for one in fields.get("argv") or ()],
                    str(fields.get("cwd", "")),
                    _text(fields.get("code")),
                    _text(fields.get("git_commit")),
                    fields.get("git_dirty"),
                    dict(fields.get("versions") or {}),
                    str(fields.get("host", "")),
                    self._time(row),
                )
            )

        return finish

    def attempt_ended(self, row: int) -> Callable[[], None]:
        """The process let go: what it left open is cut."""
        cut = self._cut(self.state.agents.values())

        def finish() -> None:
            cut()
            fields = self.batch.fields(row)
            run = self.state.runs.get(str(fields.get("run")))
            for attempt in run.attempts if run is not None else ():
                if attempt.number == fields.get("attempt") and attempt.ended_ns is None:
                    attempt.status = str(fields.get("status"))
                    attempt.error = _text(fields.get("error"))
                    attempt.ended_ns = self._time(row)

        return finish

    def episode_started(self, row: int) -> Callable[[], None]:
        """Opens it; one that was still open in this sub-environment was left by a process that is gone."""
        fields = self.batch.fields(row)
        agent, phase, env_index = self.agent_at(row), self.phase_at(row), int(self.batch.at("env_index", row))
        now, now_ns = float(self.batch.at("value", row)), self._time(row)
        left = agent.open.pop((phase, env_index), None)
        agent.open[phase, env_index] = OpenEpisode(
            int(self.batch.at("episode", row)), entry_of(fields), fields.get("seed"), now_ns, now_ns
        )

        def finish() -> None:
            self._touch(row)
            if left is not None:
                _let_go(agent, phase, [left], self.state.current_run)
            _clock(agent, phase, now, now_ns, +1, self.state.current_run)

        return finish

    def episode_ended(self, row: int) -> Callable[[], None]:
        """Closes it: from now on it is effective."""
        agent, phase = self.agent_at(row), self.phase_at(row)
        episode = self.open_at(row)
        if episode is None:
            return _nothing  # An end without a start says nothing about steps.
        del agent.open[phase, int(self.batch.at("env_index", row))]

        def finish() -> None:
            self._touch(row)
            _clock(agent, phase, float(self.batch.at("value", row)), self._time(row), -1, self.state.current_run)
            agent.spent_closed[phase].add_episode(*episode.figures())
            metrics = self.batch.fields(row).get("metrics")
            episode.count_in(agent.trends[phase], self.state.current_run, self._time(row), metrics)
            lineage = agent.lineage
            lineage.effective[phase].add_episode(*episode.figures())
            lineage.next_episode[phase] = max(lineage.next_episode[phase], episode.episode + 1)
            if episode.entry is not None:
                lineage.finished[phase].add(episode.entry)
            key = f"{self.state.current_run or ''}/{phase}"
            lineage.ended[key] = lineage.ended.get(key, 0) + 1
            if episode.bars:
                seen = agent.bars.setdefault(key, SeenList())
                seen.extend(episode.bars)
                lineage.bars[key] = len(seen)

        return finish

    def bars_seen(self, row: int) -> Callable[[], None]:
        """Belongs to the open episode, and counts when that ends; what was shown replaces what was only claimed."""
        fields = self.batch.fields(row)
        episode = self.open_at(row)
        if episode is not None:
            see(episode.bars, SeenBars.of(episode.episode, episode.entry, fields))
        return partial(self._noted, row)

    def checkpoint_saved(self, row: int) -> Callable[[], None]:
        """Keeps the lineage of every member as it is now, to go back to."""
        fields = self.batch.fields(row)
        saver = self.batch.name(int(self.batch.at("agent", row)))
        agents = [self.named(str(name)) for name in fields.get("members") or (saver,)]

        def finish() -> None:
            retired = set(fields.get("retired") or ())
            for agent in agents:
                agent.last_updated_ns = max(agent.last_updated_ns, self._time(row))
                checkpoint = Checkpoint(
                    int(self.batch.at("seq", row)),
                    saver,
                    str(fields.get("path")),
                    str(fields.get("sha256")),
                    whole(fields.get("size", 0)),
                    int(self.batch.at("episode", row)),
                    self._time(row),
                    self.state.current_run,
                    agent.lineage.copy(),
                    agent.trends,
                )
                agent.trends = of_phases()
                agent.checkpoints.append(checkpoint)
                if retired:
                    agent.checkpoints = _without(retired, agent.checkpoints)

        return finish

    def rewound(self, row: int) -> Callable[[], None]:
        """What came after the checkpoint is superseded: spent, not effective."""
        saver = self.batch.name(int(self.batch.at("agent", row)))
        names, to_seq = rewind_of(self.batch.fields(row), saver)
        agents = [self.named(name) for name in names]
        cut = self._cut(agents)

        def finish() -> None:
            cut()
            for agent in agents:
                agent.last_updated_ns = max(agent.last_updated_ns, self._time(row))
                found = [i for i, one in enumerate(agent.checkpoints) if one.seq == to_seq]
                if not found:
                    continue
                agent.rewinds += 1
                left = [one.trends for one in agent.checkpoints[found[0] + 1 :]]
                for phase in PHASES:
                    for trends in (*left, agent.trends):
                        agent.superseded[phase].merge(trends[phase])
                agent.trends = of_phases()
                agent.checkpoints = agent.checkpoints[: found[0] + 1]
                agent.lineage = agent.checkpoints[-1].lineage.copy()
                if agent.checkpoints[-1].run != self.state.current_run:
                    agent.lineage.finished = Lineage().finished
                for key, seen in agent.bars.items():
                    seen.cut(agent.lineage.bars.get(key, 0))

        return finish

    def plan_recorded(self, row: int) -> Callable[[], None]:
        """The plan of an agent in a run and phase."""
        self.agent_at(row)
        return partial(self._planned, row)

    def metric_logged(self, row: int) -> Callable[[], None]:
        """Only a sign of life."""
        self.agent_at(row)
        return partial(self._noted, row)

    def _planned(self, row: int) -> None:
        fields = self.batch.fields(row)
        agent, run = self._touch(row), self._current()
        if run is not None:
            run.plans[f"{agent.name}/{self.phase_at(row)}"] = Plan(
                str(fields.get("plan_hash")),
                whole(fields.get("length", 0)),
                fields.get("entries"),
                _text(fields.get("path")),
            )

    def _noted(self, row: int) -> None:
        self._touch(row)

    def _cut(self, agents: Iterable[Agent]) -> Callable[[], None]:
        """Open episodes whose process is gone, or that a rewind left: spent, never effective."""
        left = [(agent, list(agent.open.items())) for agent in agents if agent.open]
        for agent, _ in left:
            agent.open.clear()

        def finish() -> None:
            for agent, episodes in left:
                for phase in PHASES:
                    gone = [episode for (one, _), episode in episodes if one == phase]
                    _let_go(agent, phase, gone, self.state.current_run)

        return finish


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _nothing() -> None:
    pass


def _without(retired: set[str], checkpoints: list[Checkpoint]) -> list[Checkpoint]:
    """Those that stay; what led to one that does not, leads to the next. The last one stays."""
    for one, after in pairwise(checkpoints):
        if one.path in retired:
            for phase in PHASES:
                one.trends[phase].merge(after.trends[phase])
            after.trends = one.trends
    return [*(one for one in checkpoints[:-1] if one.path not in retired), checkpoints[-1]]


def _let_go(agent: Agent, phase: Phase, episodes: list[OpenEpisode], run: str | None) -> None:
    """Spend episodes that will not end. Nobody read the clock when they broke off: wall time serves there."""
    for episode in episodes:
        agent.spent_closed[phase].add_episode(*episode.figures())
        episode.count_in(agent.superseded[phase], run, episode.last_ns)
    active = agent.active.get(phase)
    if active is None or not episodes:
        return
    last_ns = max(episode.last_ns for episode in episodes)
    unclocked = max(0, last_ns - active.wall_ns)
    agent.spent_closed[phase].time_ns += unclocked
    agent.superseded[phase].add_time(run or "", last_ns, unclocked)
    count = active.open - len(episodes)
    if count > 0:
        agent.active[phase] = active._replace(wall_ns=max(active.wall_ns, last_ns), open=count)
    else:
        del agent.active[phase]


def _clock(agent: Agent, phase: Phase, now: float, wall_ns: int, change: int, run: str | None) -> None:
    """Count the time since the last start or end, if an episode was open in between; overlapping ones count once."""
    active = agent.active.get(phase, Active(now, wall_ns, 0))
    if now > active.since:
        elapsed = round((now - active.since) * 1e9)
        if elapsed > INTEGER_MAX:
            raise ValueError(f"its clock went on by {elapsed / 1e9:g} seconds")
        agent.spent_closed[phase].time_ns += elapsed
        agent.lineage.effective[phase].time_ns += elapsed
        agent.trends[phase].add_time(run or "", wall_ns, elapsed)
    if active.open + change > 0:
        # Of the wall clock the newest time counts: where it went back, nothing that broke off takes longer for that.
        agent.active[phase] = Active(now, max(wall_ns, active.wall_ns), active.open + change)
    else:
        agent.active.pop(phase, None)


_RULES: dict[int, Callable[[_Fold, int], Callable[[], None]]] = {
    cell.RUN_STARTED: _Fold.run_started,
    cell.RUN_ENDED: _Fold.run_ended,
    cell.ATTEMPT_STARTED: _Fold.attempt_started,
    cell.ATTEMPT_ENDED: _Fold.attempt_ended,
    cell.EPISODE_STARTED: _Fold.episode_started,
    cell.EPISODE_ENDED: _Fold.episode_ended,
    cell.BARS_SEEN: _Fold.bars_seen,
    cell.CHECKPOINT_SAVED: _Fold.checkpoint_saved,
    cell.REWOUND: _Fold.rewound,
    cell.PLAN_RECORDED: _Fold.plan_recorded,
    cell.METRIC_LOGGED: _Fold.metric_logged,
}
