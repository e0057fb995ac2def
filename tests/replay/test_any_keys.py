"""Keys of maps may be of any kind that msgpack knows, also mixed: what is said of such events is said all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import journal
from replay import diff, load
from replay.compare import compare
from replay.results import results

KEYS = {1: 2, "a": 3, b"x": [4], None: float("nan")}


def recorded(place: Path, params: dict[str, Any], metrics: dict[Any, Any], config: dict[Any, Any]) -> Path:
    """Two agents on the same bars; what is given is the second one's."""
    with journal.open(place, sync="close") as log:
        log.append(journal.RunStarted(run="r", config=config))
        for agent, told in (("A", {}), ("B", params)):
            log.append(journal.EpisodeStarted(agent=agent, episode=0, params=told))
            log.append(
                journal.BarsSeen(
                    agent=agent,
                    episode=0,
                    instrument="X",
                    timeframe="H1",
                    start=0,
                    stop=3,
                    content_hash=bytes(16),
                    source="observed",
                )
            )
            log.append(journal.EpisodeEnded(agent=agent, episode=0, reason="terminated", metrics=metrics))
        log.append(journal.RunEnded(run="r"))
    return place


def test_other_params_are_named(tmp_path: Path) -> None:
    """`journal compare` and `diff` ended in a TypeError."""
    one = recorded(tmp_path / "one", KEYS, {}, {})
    found = compare(load(one))
    assert found.verdict == "not comparable" and '{"1": 2, "78": [4], "None": null, "a": 3}' in found.reason
    other = recorded(tmp_path / "other", {}, {}, {"conditions": {**KEYS}})
    told = diff(one, other)
    assert told.verdict == "different"
    assert '"78": [4]' in told.findings[0].as_words() and '"78": [4]' in told.settings[0].as_words()


def test_a_metric_that_is_not_there_is_named_beside_those_that_are(tmp_path: Path) -> None:
    """It ended in a TypeError."""
    found = compare(load(recorded(tmp_path / "one", {}, {5: 1.0, b"y": 2.0}, {})))
    with pytest.raises(journal.NotComparable, match=r"'sharpe' has none in train episode 0 of A: .*there: reward, 5, "):
        results(found, 2, "sharpe")
