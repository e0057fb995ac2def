"""The story: one plan is trained twice, in one go and with a kill in between; both must end equal to the last bit."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import replay
from agents_adapter.demo.attempt import Attempt, DemoFailed, run_attempt
from agents_adapter.demo.learners import LEARNERS
from agents_adapter.demo.market import EPISODE_BARS, load_bars
from agents_adapter.demo.proof import Career, careers, is_beginning
from agents_adapter.demo.train import PASSES

KILLED_AFTER: Final = 0.51
"""Of all episodes: one agent has finished then, one is in the middle, one is still to come."""
INTERRUPTED_AFTER: Final = 0.33
"""Of all episodes, in the attempt that goes on: the last agent is in the middle then."""
_BLOCKS: Final = "▁▂▃▄▅▆▇█"

Careers = dict[str, Career]


def tell(
    directory: str | None = None,
    *,
    keep: bool = False,
    as_json: bool = False,
    passes: int = PASSES,
) -> int:
    """Do it all, and print it: 0 if all is equal and every verb of the command line content, else 1.

    The journals are in `directory`, new or empty, and stay; without one in a temporary one, that goes unless `keep`.
    Raises `DemoFailed` where a training ends otherwise than it should, and what `load_bars` raises.
    """
    bars = len(load_bars())
    with ExitStack() as cleaning:
        if directory is not None:
            place = Path(directory)
            if place.exists() and not (place.is_dir() and not any(place.iterdir())):
                raise DemoFailed(f"{directory} is not an empty directory; give a new one")
        elif keep:
            place = Path(tempfile.mkdtemp(prefix="journal-demo-"))
        else:
            place = Path(cleaning.enter_context(tempfile.TemporaryDirectory(prefix="journal-demo-")))
        story = Story(place, bars, passes, quiet=as_json)
        story.tell()
        kept = directory is not None or keep
        if as_json:
            print(json.dumps(story.as_document() | {"directory": str(place) if kept else None}))
        elif kept:
            story.say(f"Both journals are in {escape(str(place))}.")
        else:
            story.say("To look into both journals afterwards: --keep")
    return 1 if story.findings else 0


class Story:
    """One telling, into the directory `place`; `quiet` says nothing and gathers it for `as_document`."""

    def __init__(self, place: Path, bars: int, passes: int, *, quiet: bool) -> None:
        self.uninterrupted, self.interrupted = place / "uninterrupted", place / "interrupted"
        self.bars, self.passes = bars, passes
        self.windows = bars // EPISODE_BARS
        self.episodes = self.windows * passes * len(LEARNERS)
        self.findings: list[str] = []
        """What is not as it should be, in words."""
        self.verbs: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []
        self.lives: tuple[Careers, Careers] = {}, {}
        """Of the uninterrupted and the interrupted training."""
        self.redone = 0
        """Episodes that were trained twice."""
        self.seconds = 0.0
        self._quiet = quiet
        self._console = Console(quiet=quiet, highlight=False, soft_wrap=True)
        self._chapters = 0

    def say(self, text: str) -> None:
        """Print `text`, with rich's markup."""
        self._console.print(text)

    def tell(self) -> None:
        """From the first training to the verdict."""
        began = time.perf_counter()
        self.say(
            f"[bold]Three agents learn to trade EURUSD on {self.bars:,} real hourly bars, and get killed.[/]\n"
            f"The year is cut into {self.windows} windows and traded {self.passes} times: {self.windows * self.passes} "
            f"episodes for each of {', '.join(LEARNERS)}."
        )

        self._chapter("The plan, trained in one go")
        whole = self._train(self.uninterrupted)
        self.say(
            f"{whole.episodes} episodes in {whole.seconds:.1f} s, every step recorded. The next one must equal this."
        )

        self._chapter("The same plan, and kill -9 half-way")
        killed = self._train(self.interrupted, KILLED_AFTER, signal.SIGKILL)
        self.say(
            f"SIGKILL after {killed.episodes} of {self.episodes} episodes, in the middle of one: no handler ran, "
            "nothing was saved at the last moment.\nWithout a journal all of it is gone. With one:"
        )
        self._verb("verify")
        self._verb("replay")
        self._nothing_was_lost(killed)
        promise = replay.verify(self.interrupted).head

        self._chapter("The same command again, and Ctrl-C")
        stopped = self._train(self.interrupted, INTERRUPTED_AFTER, signal.SIGINT)
        self.say(f"The training went on where the journal ends. After {stopped.episodes} more episodes: Ctrl-C.")

        self._chapter("The same command again, to the end")
        last = self._train(self.interrupted)
        self.say(f"{last.episodes} more episodes. What the journal now tells:")
        for verb in ("runs", "verify", "compare", "totals"):
            self._verb(verb)

        self._chapter("Compacted into Parquet, and verified again")
        self._verb("compact")
        self.say("\nDoes what was promised before the kill still hold?")
        self._verb("verify", "--deep", "--expect", f"{promise.seq}:{promise.chain}")

        self._chapter("Equal to the last bit?")
        self.lives = (
            careers(self.uninterrupted, whole.learned, self.windows),
            careers(self.interrupted, last.learned, self.windows),
        )
        self._compare()
        self._show_learning()
        self.redone = _redone(self.interrupted)
        self.seconds = time.perf_counter() - began
        self._judge()

    def as_document(self) -> dict[str, Any]:
        """All of it for machines."""
        whole, interrupted = self.lives
        return {
            "schema": 1,
            "verdict": "different" if self.findings else "equal",
            "findings": self.findings,
            "seconds": round(self.seconds, 2),
            "plan": {"episodes": self.windows * self.passes, "windows": self.windows, "passes": self.passes},
            "bars": self.bars,
            "redone_episodes": self.redone,
            "attempts": self.attempts,
            "uninterrupted": {name: asdict(life) for name, life in whole.items()},
            "interrupted": {name: asdict(life) for name, life in interrupted.items()},
            "verbs": self.verbs,
        }

    def _chapter(self, title: str) -> None:
        self._chapters += 1
        self.say(f"\n[bold cyan]{self._chapters}  {title}[/]")

    def _train(self, journal: Path, share: float = 1.0, blow: signal.Signals | None = None) -> Attempt:
        """One attempt, to its end or, with a `blow`, for this share of all episodes."""
        after = int(share * self.episodes)
        with self._progress(after) as advance:
            stop = None if blow is None else (after, blow)
            attempt = run_attempt(journal, self.passes, stop=stop, each_episode=advance)
        self.attempts.append(
            {
                "journal": journal.name,
                "episodes": attempt.episodes,
                "seconds": round(attempt.seconds, 2),
                "ended_by": blow.name if blow else None,
            }
        )
        return attempt

    @contextmanager
    def _progress(self, episodes: int) -> Iterator[Callable[[], None]]:
        """A bar of so many episodes, on a terminal; gives what moves it on."""
        with Progress(console=self._console, transient=True, disable=not self._console.is_terminal) as bar:
            task = bar.add_task("training", total=episodes)
            yield lambda: bar.advance(task)

    def _verb(self, verb: str, *options: str) -> None:
        """Run `journal VERB` on the interrupted journal, as a user would."""
        words = [verb, str(self.interrupted), *options]
        command = [sys.executable, "-m", "replay", *words]
        self.say(f"\n[bold]$ journal {escape(shlex.join(words))}[/]")
        sys.stdout.flush()
        if self._quiet:
            command.append("--json")
        done = subprocess.run(command, stdout=subprocess.PIPE if self._quiet else None, text=True)
        document = json.loads(done.stdout) if done.stdout else None
        self.verbs.append({"verb": verb, "exit_code": done.returncode, "document": document})
        if done.returncode:
            self.findings.append(f"journal {shlex.join(words)} ended with {done.returncode}")

    def _nothing_was_lost(self, killed: Attempt) -> None:
        agents = replay.load(self.interrupted).agents.values()
        ended = sum(agent.effective["train"].episodes for agent in agents)
        inside = sum(episode.steps for agent in agents for episode in agent.open.values())
        if ended < killed.episodes:
            self.findings.append(f"the killed training reported {killed.episodes} episodes, its journal holds {ended}")
        if not is_beginning(self.interrupted, self.uninterrupted):
            self.findings.append("the killed training's steps are not the first ones of the uninterrupted training")
        self.say(
            f"\nAll {killed.episodes} episodes that the dead process had reported are there, and {inside} steps of the "
            "one it died in:\neach of them, to the last bit, as in the uninterrupted training."
        )

    def _compare(self) -> None:
        whole, interrupted = self.lives
        table = Table("agent", box=None, pad_edge=False)
        for title in ("episodes", "steps", "reward %", "exam %", "rewards", "weights", ""):
            table.add_column(title, justify="right", no_wrap=True)
        for name in LEARNERS:
            if name not in whole or name not in interrupted:
                self.findings.append(f"{name} is not in both journals")
                continue
            # Two trainings that did nothing would be equal, too.
            if whole[name].learned is None or whole[name].episodes != self.windows * self.passes:
                self.findings.append(f"{name} did not carry out its plan")
            different = whole[name].differences(interrupted[name])
            self.findings += [f"{name}: not equal in {what}" for what in different]
            table.add_row(name, *_figures(whole[name]), "")
            table.add_row(
                "  interrupted", *_figures(interrupted[name]), "[red]different[/]" if different else "[green]equal[/]"
            )
        self._console.print(table)
        self.say("[dim]rewards, weights: SHA-256 over each single reward, and over what the agent has learned[/]")

    def _show_learning(self) -> None:
        self.say(
            "\nPercent of each pass over the year, first to last (on the bars they train on: learning, not profit)"
        )
        for name, life in self.lives[1].items():
            self.say(f"  {name:<15}{life.passes[0]:+6.1f} {_curve(life.passes)} {life.passes[-1]:+.1f}")

    def _judge(self) -> None:
        if self.findings:
            self.say("\n[bold red]Not as it should be:[/]")
            for finding in self.findings:
                self.say(f"  {escape(finding)}")
            return
        self.say(
            "\n[bold green]Equal: every episode, every step, every reward, every learned weight.[/]\n"
            f"kill -9 and Ctrl-C have cost {self.redone} of {self.episodes} episodes, trained twice, and nothing else. "
            f"({self.seconds:.0f} s)"
        )


def _redone(journal: Path) -> int:
    agents = replay.load(journal).agents.values()
    return sum(agent.spent["train"].episodes - agent.effective["train"].episodes for agent in agents)


def _figures(life: Career) -> list[str]:
    return [
        f"{life.episodes:,}",
        f"{life.steps:,}",
        f"{life.reward:+.3f}",
        f"{life.exam:+.3f}",
        life.rewards[:8],
        life.learned.weights[:8] if life.learned else "unknown",
    ]


def _curve(values: tuple[float, ...]) -> str:
    """The values as a row of bars."""
    low, high = min(values), max(values)
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * (value - low) / ((high - low) or 1.0))] for value in values)
