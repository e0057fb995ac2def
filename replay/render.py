"""Rendering for people: tables and words on a terminal, plain text elsewhere. What is shown is decided in `documents`.

Everything takes the JSON document of its verb, so that people and programs are told the same.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from replay.outlook import sparkline
from replay.progress import Progress, silent
from replay.totals import PHASES

Document = Mapping[str, Any]

_WIDTH_ELSEWHERE: Final = 200
"""Characters: a pipe or a file has no width, and a table there should not be broken."""
_GOOD: Final = frozenset({"clean", "comparable", "completed"})
_BAD: Final = frozenset({"corrupt", "not comparable", "failed", "crashed"})


class _Output(Console):
    def on_broken_pipe(self) -> None:
        """Whoever reads has gone (`| head`): the command line ends quietly."""
        raise BrokenPipeError


def console() -> Console:
    """Where people read: colours only on a terminal."""
    output = _Output(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not output.is_terminal:
        output.width = _WIDTH_ELSEWHERE
    return output


@contextmanager
def progress_bar(doing: str, *, quiet: bool, unit: str = "bytes") -> Iterator[Progress]:
    """A bar on standard error, on a terminal only; gone when the block ends."""
    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show_replay(out: Console, document: Document) -> None:
    """Runs, agents, and how to go on."""
    _say(out, f"{document['events']:,} events, the last one at {_time(document['last_time'])}")
    show_runs(out, document)
    agents = document["agents"]
    if agents:
        table = _table("agent", "episodes", "eval", "next episode", "checkpoint", "will be redone")
        for name, agent in agents.items():
            saved = agent["checkpoint"]
            table.add_row(
                Text(name),
                f"{agent['episodes']['train']:,}",
                f"{agent['episodes']['eval']:,}",
                f"{agent['next_episode']:,}",
                Text("none" if saved is None else saved["path"]),
                _redone(agent),
            )
        out.print(table)
    for agent in agents.values():
        for damaged in agent["damaged"]:
            _say(out, f"passed over: {damaged}", "yellow")
    if any(agent["run"] is not None for agent in agents.values()) and document["command"] and not document["live"]:
        _say(out, "to go on, start it again as it was started:")
        _say(out, f"  {document['command']}", "bold")


def show_dropped(out: Console, document: Document) -> None:
    """What every verb says of a journal whose history was dropped."""
    dropped = document.get("dropped")
    if dropped and "time" in dropped:
        told = f"the events 0 to {dropped['last_seq']} were dropped on {_time(dropped['time'])}: "
        _say(out, told + "totals and resume points hold them, nothing can look into them or check them again", "yellow")


def show_runs(out: Console, document: Document) -> None:
    """Each run with its attempts."""
    for run in document["runs"]:
        plans = {(plan["plan_hash"][:8], plan["length"]) for plan in run["plans"].values()}
        told = "".join(f", plan {digest} of {length:,}" for digest, length in sorted(plans))
        where = f", in {run['path']}" if "path" in run else ""
        told = f" {run['id']} {run['status']}, begun {_time(run['started'])}{told}{where}"
        out.print(_status("run ", run["status"], told), soft_wrap=True)
        for attempt in run["attempts"]:
            ended = f" until {_time(attempt['ended'])}" if attempt["ended"] else ""
            why = f": {attempt['error']}" if attempt["error"] else ""
            text = f" attempt {attempt['number']} {attempt['status']}, from {_time(attempt['started'])}{ended}{why}"
            out.print(_status("  ", attempt["status"], text), soft_wrap=True)
    if not document["runs"]:
        _say(out, "no run is recorded")


def show_totals(out: Console, document: Document) -> None:
    """One row per agent: what counts, and what was computed."""
    table = _table(
        "agent", "episodes", "steps", "reward", "NaN, inf", "time", "runs", "attempts", "spent episodes", "eval"
    )
    for name, agent in document["agents"].items():
        table.add_row(
            Text(name),
            f"{agent['total_episodes']:,}",
            f"{agent['total_steps']:,}",
            f"{agent['total_reward']:,.6g}",
            f"{agent['nan_rewards'] + agent['infinite_rewards']:,}",
            _duration(agent["total_training_time"]),
            f"{agent['runs']:,}",
            f"{agent['attempts']:,}",
            f"{agent['spent']['total_episodes']:,}",
            f"{agent['eval']['total_episodes']:,}",
        )
    out.print(table if document["agents"] else "no agent is recorded")


def show_trends(out: Console, document: Document, by: str | None = None) -> None:
    """Each agent's life in a line for each phase, and what can be said of it; with `by`, the rows."""
    for name, agent in document["agents"].items():
        more = agent["spent_episodes"] - agent["total_episodes"]
        told = f", and {more:,} more that were superseded, cut off or are open" if more else ""
        _say(out, f"{name} has seen {agent['total_episodes']:,} episodes in its life{told}", "bold")
        for phase in PHASES:
            if agent[phase]["life"]:
                _say(out, f"  {sparkline([one['mean'] for one in agent[phase]['life']])}  {agent[phase]['words']}")
        if agent["train"]["life"]:
            _say(out, "  training episodes include exploration; evaluate() measures what was learned alone")
        if by is not None:
            _trend_rows(out, agent["rows"], by, document["metric"])
    if not document["agents"]:
        _say(out, "no agent is recorded")
    if document["trends_since"]:
        _say(out, f"known from seq {document['trends_since']:,} on: the history before it was dropped", "yellow")


def _trend_rows(out: Console, rows: Sequence[Document], by: str, metric: str) -> None:
    columns = [f"{what}_reward" if metric == "reward" else f"{metric}_{what}" for what in ("mean", "min", "max")]
    table = _table("phase", by, "episodes", "steps", f"mean {metric}", "min", "max", "spent episodes")
    key = next((name for name in ("run", "instrument", "day", "first_episode") if rows and name in rows[0]), by)
    for row in rows:
        figures = ("" if row.get(name) is None or row[name] != row[name] else f"{row[name]:,.6g}" for name in columns)
        table.add_row(
            row["phase"],
            Text(str(row[key]) or "none"),
            f"{row['total_episodes']:,}",
            f"{row['total_steps']:,}",
            *figures,
            f"{row['spent_total_episodes']:,}",
        )
    out.print(table)


def _duration(seconds: float) -> str:
    """To three digits, in the unit that people would say."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.3g} {unit}"
    return f"{seconds:.3g} s"


def show_verify(out: Console, document: Document) -> None:
    """The verdict, where it rests, and every finding."""
    head, torn = document["head"], document["torn"]
    told = f" {document['status']}: {document['events']:,} events, promised up to seq {head['seq']}"
    out.print(_status("", document["status"], told + (", a writer is at work" if document["live"] else "")))
    if document["unread"]:
        _say(out, f"  {len(document['unread'])} history files were not read: --deep checks them, --expect proves them")
    if head["chain"] and not document["findings"]:
        _say(out, f"  note this receipt, and --expect proves it later: {head['seq']}:{head['chain']}")
    if torn["bytes"] or torn["reason"]:
        _say(
            out,
            f"  torn tail of {torn['bytes']:,} bytes, {torn['events']:,} whole events ({torn['reason']}): "
            "never promised; the next start keeps it in quarantine/ and goes on",
            "yellow",
        )
    for path in torn["quarantine"]:
        _say(out, f"  kept from an earlier torn tail: {path}")
    for finding in document["findings"]:
        place = f"{finding['file']}, byte {finding['offset']:,}, seq {finding['seq']}"
        _say(out, f"  {place}: {finding['reason']}", "red")


def show_merged_verify(out: Console, document: Document) -> None:
    """The worst of several verdicts."""
    out.print(
        _status(
            "",
            document["status"],
            f" {document['status']}: {document['events']:,} events in {document['journals']:,} journals",
        )
    )


def show_compare(out: Console, document: Document) -> None:
    """The verdict, why, and the first differences."""
    out.print(_status("", document["verdict"], f" {document['verdict']}: {document['reason']}"), soft_wrap=True)
    if document["differences"]:
        table = _table("phase", "episode", "agent", "bars", "content", "other agent", "bars", "content")
        for difference in document["differences"]:
            table.add_row(
                difference["phase"], str(difference["index"]), *_bars(difference), *_bars(difference["other"])
            )
        out.print(table)
    if document.get("results"):
        _show_results(out, document["results"])


def _show_results(out: Console, results: Document) -> None:
    for note in results["notes"]:
        _say(out, f"  {note}", "yellow")
    table = _table("agent", "replicates", f"mean {results['metric']}", "interquartile mean", "95 %")
    for one in results["standings"]:
        table.add_row(
            one["agent"],
            str(one["replicates"]),
            f"{one['mean']:,.6g}",
            f"{one['iqm']['value']:,.6g}",
            _span(one["iqm"]),
        )
    out.print(table)
    if not results["contests"]:
        return  # Replicates of one agent: there is nobody to hold it against.
    table = _table("pair", "difference", "95 %", "P(improvement)", "p (Holm)", "better")
    for one in results["contests"]:
        table.add_row(
            f"{one['agent']} − {one['other']}",
            f"{one['difference']['value']:+,.6g}",
            _span(one["difference"]),
            f"{one['improvement']:.0%}",
            "not asked" if one["p"] is None else f"{one['p']:.3g}",
            one["better"] or ("nobody" if one["p"] is not None else "not asked"),
        )
    out.print(table)


def _span(interval: Document) -> str:
    return f"{interval['low']:,.6g} to {interval['high']:,.6g}"


def show_diverge(out: Console, document: Document) -> None:
    """The verdict, and each episode that is not what it was."""
    rewinds, compared, diverged = document["rewinds"], document["compared"], document["diverged"]
    dropped = document["rewinds_dropped"]
    if not rewinds:
        _say(out, "no agent ever went back to a checkpoint: nothing was done twice")
        return
    told = f"{compared:,} episodes were done again after {rewinds:,} rewinds"
    if diverged:
        out.print(_status("", "failed", f" {told}, {diverged:,} of them with other rewards"), soft_wrap=True)
    elif dropped:
        known = f"{compared:,} episodes, each as before" if compared else "none"
        told = f" not provable: of what was done again after {rewinds:,} rewinds, what can be compared is {known}"
        out.print(_status("", "not provable", told), soft_wrap=True)
    else:
        out.print(_status("", "clean", f" {told}, each as before as far as both went"), soft_wrap=True)
    if dropped:
        lost = f"  {dropped:,} of the rewinds went back into events that were dropped: what was done again after them "
        _say(out, lost + "can no longer be compared, only in a copy that was made before", "yellow")
    if document["other"]:
        _say(out, f"  {document['other']:,} more had other bars or another seed, and were not compared", "yellow")
    for finding in document["findings"]:
        _say(out, f"  {finding['words']}", "red")
    if diverged > len(document["findings"]):
        _say(out, f"  and {diverged - len(document['findings']):,} more", "red")


def show_diff(out: Console, document: Document) -> None:
    """The verdict; what only one has; the episodes of each agent, counted; and what differs, in words."""
    verdict = document["verdict"]
    why = {
        "equal": "the same runs, agents, plans and episodes, bit by bit",
        "different": "not the same training",
        "not provable": "nothing that can be read differs, but history was dropped",
    }
    style = {"equal": "clean", "different": "failed", "not provable": "not provable"}
    out.print(_status("", style[verdict], f" {verdict}: {why[verdict]}"), soft_wrap=True)
    for which in ("a", "b"):
        _say(out, f"  {which.upper()} is {document[which]}")
        for what in ("agents", "runs"):
            if document[what][which]:
                _say(out, f"  only {which.upper()} has the {what} {', '.join(document[what][which])}", "red")
    table = _table(
        "agent", "phase", "the same", "other rewards", "another task", "unfinished", "only in A", "only in B"
    )
    for row in document["episodes"]:
        counts = [f"{row[name]:,}" for name in ("same", "rewards", "task", "unfinished")]
        table.add_row(Text(row["agent"]), row["phase"], *counts, *(_numbers(row, which) for which in ("a", "b")))
    if document["episodes"]:
        out.print(table)
    for told in (*document["settings"], *document["findings"]):
        _say(out, f"  {told['words']}", "red")
    named = Counter(finding["kind"] for finding in document["findings"])
    for kind in ("rewards", "task", "unfinished"):
        more = sum(row[kind] for row in document["episodes"]) - named[kind]
        if more:
            _say(out, f"  and {more:,} more episodes of the kind “{kind}”", "red")
    for which, events in document["dropped"].items():
        lost = sum(row["unreadable"][which] for row in document["episodes"])
        if events:
            told = (
                f"  {which.upper()}: the events 0 to {events - 1} were dropped; {lost:,} of its episodes were in them "
            )
            _say(out, told + "and can no longer be compared, only in a copy that was made before", "yellow")


def _numbers(row: Document, which: str) -> str:
    """How many episodes only one of two journals has, and the first of their numbers."""
    pairs = row["numbers"][which]
    told = [f"{first}" if first == last else f"{first}–{last}" for first, last in pairs[:3]]
    count = row["only"][which]
    return f"{count:,}: {', '.join(told)}{', …' if len(pairs) > 3 else ''}" if count else "0"


def show_info(out: Console, document: Document) -> None:
    """Name and value, one per line."""
    writing = document["writing"]
    how = f"by {writing['by']} on {writing['file_system']}" if writing else "unknown"
    rows = {
        "journal": document["journal"],
        "format": f"{document['format']} (training-journal {document['version']})",
        "written now": "yes" if document["live"] else "no",
        "events": f"{document['events']:,}, of which {document['compacted_events']:,} are compacted",
        "promised": f"{document['head']['seq']}:{document['head']['chain']}",
        "unfinished run": document["run"] or "none",
        **{name: f"{found['count']:,} files, {found['bytes']:,} bytes" for name, found in document["files"].items()},
        "all together": f"{document['bytes']:,} bytes",
        "written how": how,
    }
    for name, value in rows.items():
        _say(out, f"{name:<15} {value}")
    if writing and writing["network"]:
        _say(out, "a network file system: its locks and syncs may promise less than a local disk's", "yellow")


def show_merged_info(out: Console, document: Document) -> None:
    """What several journals hold, and what they take."""
    told = f"{document['journals']:,} journals, {document['events']:,} events, {document['bytes']:,} bytes"
    _say(out, told + (", and one is written now" if document["live"] else ""))


def show_compact(out: Console, document: Document) -> None:
    """What was compacted, or would be."""
    if not document["segments"] and not document["snapshot"]:
        _say(out, "nothing to compact")
        if not document["dropped"]["files"]:
            return
    else:
        would = "would become" if document["dry_run"] else "became"
        _say(out, f"{document['segments']:,} segments {would} {', '.join(document['history'])}")
    _say(out, f"  {document['bytes_before']:,} bytes before, {document['bytes_after']:,} after")
    if document["snapshot"]:
        _say(out, f"  snapshot: {document['snapshot']}")
    dropped = document["dropped"]
    if dropped["files"]:
        would = "would be" if document["dry_run"] else "were"
        _say(
            out,
            f"  {dropped['events']:,} events {would} dropped: {len(dropped['files']):,} history files, "
            f"{dropped['bytes']:,} bytes; the totals stay",
            "yellow",
        )


def show_copy(out: Console, document: Document) -> None:
    """What is in the copy."""
    head = document["head"]
    _say(out, f"{document['events']:,} events and {document['checkpoints']:,} checkpoints are in {document['target']}")
    _say(out, f"  promised up to {head['seq']}:{head['chain']}")
    for damaged in document["damaged"]:
        _say(out, f"  not copied: {damaged}", "red")


def _say(out: Console, text: str, style: str = "") -> None:
    out.print(Text(text, style=style), soft_wrap=True)


def _status(before: str, status: str, after: str) -> Text:
    """`after` with a sign whose colour tells the status."""
    sign, style = ("✓", "green") if status in _GOOD else ("✗", "red") if status in _BAD else ("•", "yellow")
    return Text.assemble(before, (sign, style), after)


def show_bench(out: Console, document: Document) -> None:
    """Events per second at each level, and the ratio to the limit that is named."""
    machine = document["machine"]
    _say(out, f"{machine['cores']} × {machine['cpu']}, {machine['file_system']}, load {machine['load']}")
    table = _table("", "survives", "events/s", "ns/event", "CPU ns", "time ratio", "CPU ratio", "of")
    for place, row in enumerate(document["levels"]):
        reference = row["name"] == row["reference"]
        if reference and place:
            table.add_section()
        spread = f"{row['wall_ratio']:.2f} ({min(row['wall_ratios']):.2f}–{max(row['wall_ratios']):.2f})"
        table.add_row(
            Text(row["name"], "" if row["limit"] else "bold"),
            Text(row["survives"]),
            f"{row['events_per_second']:,.0f}",
            f"{row['wall_ns']:,.1f}",
            f"{row['cpu_ns']:,.1f}",
            "1" if reference else spread,
            "1" if reference else f"{row['cpu_ratio']:.2f}",
            Text("" if reference else row["reference"]),
        )
    out.print(table)
    _say(out, "below 1 is faster; the median of five rounds and their range. Limits have no lock, clock or checksum.")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    words = {"agent", "other agent", "checkpoint", "will be redone", "phase", "bars", "content", "", "survives", "of"}
    for column in columns:
        table.add_column(column, justify="left" if column in words else "right", overflow="fold")
    return table


def _redone(agent: Document) -> str:
    if agent["run"] is None:
        return "nothing: no run is unfinished"
    return f"{agent['redo_episodes']:,} episodes, {agent['redo_steps']:,} steps"


def _bars(side: Document) -> Sequence[Text]:
    if side["instrument"] is None:
        return Text(side["agent"]), Text("none"), Text("")
    place = f"{side['instrument']} {side['timeframe']} [{side['start']}, {side['stop']})"
    return Text(side["agent"]), Text(place), Text((side["content_hash"] or side["source"])[:12])


def _time(text: str | None) -> str:
    """An ISO time to the second."""
    return "never" if text is None else text[:19].replace("T", " ")
