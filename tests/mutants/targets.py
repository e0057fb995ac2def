"""Which modules are mutated, and with which tests: those that run in this process, on storage in memory, in seconds.

Tests that start processes of their own would try the module as it is, so they are left out.
"""

from __future__ import annotations

_LOG = ("tests/journal/test_recovery.py", "tests/journal/test_recovery_steps.py", "tests/journal/test_power_cuts.py")
_WRITING = (
    *("tests/journal/test_rounds.py", "tests/journal/test_promise_lines.py"),
    *("tests/journal/test_promise_steps.py", "tests/journal/test_writer.py", "tests/journal/test_failures.py"),
    *("tests/journal/test_spares.py", "tests/journal/test_reading.py"),
    *("tests/journal/test_context.py", "tests/journal/test_batch.py", "tests/journal/test_promise_interrupts.py"),
    *("tests/journal/test_reentrant.py", "tests/journal/test_given_back.py"),
)
_COMPACTING = (
    *("tests/replay/test_compaction.py", "tests/replay/test_compaction_recovery.py"),
    *("tests/replay/test_compaction_steps.py", "tests/replay/test_compaction_compares.py"),
    *("tests/replay/test_damaged_history.py", "tests/replay/test_dropping.py", "tests/replay/test_seen.py"),
)

TARGETS: dict[str, tuple[str, ...]] = {
    "journal.cell": (
        *("tests/journal/test_cells.py", "tests/journal/test_forged.py", "tests/journal/test_events.py"),
        *("tests/golden/test_golden.py", "tests/journal/test_writer.py", *_LOG),
    ),
    "journal.segment": (
        *("tests/journal/test_segment.py", "tests/journal/test_cells.py", "tests/golden/test_golden.py"),
        *("tests/journal/test_manifest.py", *_LOG, *_WRITING),
    ),
    "journal.recovery": (
        *_LOG,
        *("tests/journal/test_manifest.py", "tests/journal/test_spares.py", "tests/journal/test_forged.py"),
        *("tests/replay/test_damaged_history.py", "tests/replay/test_compaction_recovery.py"),
    ),
    "replay.compaction": _COMPACTING,
    "replay.intake": ("tests/replay/test_intake.py", *_COMPACTING),
    "agents_adapter.checkpoint": ("tests/agents_adapter/test_checkpoint.py",),
    "journal.appending": (
        *("tests/journal/test_appending.py", "tests/journal/test_forged.py", "tests/journal/test_events.py"),
        "tests/journal/test_alike.py",
        *("tests/journal/test_turn.py", *_WRITING, *_LOG),
    ),
    "journal.tail": (
        *("tests/journal/test_tail.py", "tests/journal/test_turn.py", "tests/journal/test_appending.py"),
        *("tests/journal/test_reentrant.py", "tests/journal/test_together.py", "tests/journal/test_together_turn.py"),
        *("tests/journal/test_rounds.py", "tests/journal/test_promise_interrupts.py", "tests/journal/test_spares.py"),
        *("tests/journal/test_failures.py", "tests/journal/test_given_back.py"),
    ),
    "journal.rewarding": (
        *("tests/journal/test_rewarding.py", "tests/journal/test_turn.py", "tests/journal/test_reentrant.py"),
        "tests/journal/test_given_back.py",
    ),
    "journal.episodes": (
        *("tests/journal/test_episodes.py", "tests/journal/test_reentrant.py", "tests/journal/test_given_back.py"),
    ),
    "journal.batching": (
        *("tests/journal/test_batching.py", "tests/journal/test_reentrant.py", "tests/journal/test_given_back.py"),
    ),
    "journal.together": (
        *("tests/journal/test_together.py", "tests/journal/test_together_turn.py", "tests/journal/test_reentrant.py"),
        "tests/journal/test_given_back.py",
    ),
    "journal.commit": (*_WRITING, *_LOG),
    "journal.sharing": ("tests/journal/test_sharing.py", "tests/journal/test_rounds.py"),
    "journal.chain": ("tests/journal/test_chain.py", "tests/golden/test_golden.py", *_LOG),
    "journal.early": ("tests/journal/test_early.py",),
    "journal.sealed": ("tests/journal/test_sealed.py", "tests/journal/test_early.py"),
    "journal.evidence": (*_LOG, "tests/journal/test_forged.py"),
    "journal.manifest": ("tests/journal/test_manifest.py", "tests/golden/test_golden.py", *_LOG),
    "journal.storage": ("tests/journal/test_disk.py", "tests/journal/test_storage_contract.py", *_LOG),
    "journal.storage.names": ("tests/journal/test_disk.py", "tests/journal/test_storage_contract.py"),
    "journal.storage.gathered": ("tests/journal/test_gathered.py",),
    "journal.storage.status": ("tests/journal/test_disk.py",),
    "journal.storage.disk": ("tests/journal/test_disk.py", "tests/journal/test_storage_contract.py"),
}
"""Module → test files. Those that a promise rests on; the others can be named on the command line with `--tests`."""
