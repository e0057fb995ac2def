"""What an agent's state is: the `state=` argument of `run.agent` as plain data for a checkpoint, and back into place.

    AgentState("PPO", {"policy": policy, "w": weights, "eps": 0.1, "rng": rng})
    AgentState("SAC", agent)                          # an object with state_dict and load_state_dict
    AgentState("Q", save=agent.save, restore=agent.load)
    AgentState("BuyAndHold", stateless=True)

Restoring is all or nothing: everything is checked before anything is changed. Arrays, generators and containers keep
their identity, so every reference the program holds stays valid; numbers and text are replaced in the dict given.

A container inside the state is *parts* while it holds something live (an object, a generator, or an array, under a text
key or in a list or tuple): its keys must be those of the checkpoint. Otherwise it is *data*, such as a table that grows
while the agent learns, and gets the checkpoint's content; deques, sets and defaultdicts always are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np

from agents_adapter import rng, tensors
from journal.errors import EventRejected, ResumeImpossible

_Assignment = Callable[[], None]
_AS_BEFORE = "build the agent as in the run that is to go on, or start anew with resume='never'"


class AgentState:
    """How to take and to give back the state of the agent `agent`.

    One of `state`, `save` with `restore`, and `stateless` is given; with none of them the agent is recorded but cannot
    be resumed (`resumable` is False). Raises `EventRejected` for any other mix, and for a `state` that is not one.
    """

    def __init__(
        self,
        agent: str,
        state: Any = None,
        *,
        save: Callable[[], Any] | None = None,
        restore: Callable[[Any], Any] | None = None,
        stateless: bool = False,
    ) -> None:
        if (save is None) != (restore is None):
            given, missing = ("save", "restore") if restore is None else ("restore", "save")
            raise EventRejected(f"agent {agent!r} has {given}= but no {missing}=: give both")
        if (state is not None) + (save is not None) + bool(stateless) > 1:
            raise EventRejected(
                f"agent {agent!r} has more than one of state=, save= with restore=, stateless=True: give one"
            )
        if state is not None and not (_is_live(state) or type(state) in (dict, OrderedDict)):
            raise EventRejected(
                f"state= of agent {agent!r} is {state!r:.60}: give an object with state_dict and load_state_dict, a "
                "dict of such objects, arrays, numbers and generators, or save= and restore= functions"
            )
        self.agent = agent
        self._state = state
        self._save, self._restore = save, restore
        self.stateless = stateless
        """Was it said that there is no state to keep?"""
        self._live = _live_paths(state)

    @property
    def resumable(self) -> bool:
        """Was any of `state`, `save` and `restore`, `stateless` given?"""
        return self._state is not None or self._save is not None or self.stateless

    def capture(self) -> Any:
        """The state as plain data, of the same form as `state`; None where there is none.

        It may share memory with the agent: encode it before the agent goes on. What `save` or a `state_dict` raises
        passes through. Raises `EventRejected` where objects or generators came or went since the agent was declared:
        they can only be given back in place.
        """
        if self._save is not None:
            return self._save()
        live = _live_paths(self._state)
        if live != self._live:
            changed = sorted(live ^ self._live)[0]
            raise EventRejected(
                f"agent {self.agent!r}: {changed} {'came' if changed in live else 'went'} since run.agent, and a "
                "checkpoint gives objects back only in place: give all of them from the start, or save= and restore="
            )
        return _capture(self._state)

    def check(self, captured: Any) -> None:
        """Raises `ResumeImpossible` where `captured` does not fit this agent; changes nothing.

        What only `load_state_dict` or `restore` itself can judge is not seen here.
        """
        self._assignments(captured)

    def restore(self, captured: Any) -> None:
        """Give the agent the state that `capture` took.

        Raises `ResumeImpossible`, naming both sides: where shapes, dtypes, keys or kinds differ, nothing was changed;
        where a `load_state_dict` or `restore` raised, the message says what had been changed before.
        """
        loads, assignments = self._assignments(captured)
        loaded: list[str] = []
        for name, load in loads:
            try:
                load()
            except Exception as error:
                done = f"{', '.join(loaded)} had been restored before, " if loaded else ""
                why = " ".join(str(error).split())[:400]  # torch tells it in many lines.
                raise ResumeImpossible(
                    f"agent {self.agent!r}: {name} raised {type(error).__name__}: {why}; {done}it is not to be "
                    "trained on like that: mend it, or start anew with resume='never'"
                ) from error
            loaded.append(name)
        for assign in assignments:
            assign()

    def _assignments(self, captured: Any) -> tuple[list[tuple[str, _Assignment]], list[_Assignment]]:
        """What a restore has to do: the named calls that may raise, and then the assignments that cannot."""
        if not self.resumable:
            raise ResumeImpossible(
                f"agent {self.agent!r} was given no state, so it would go on untrained: add state= (or save= and "
                "restore=, or stateless=True if it learns nothing) to run.agent"
            )
        if self.stateless:
            if captured is not None:
                raise ResumeImpossible(
                    f"agent {self.agent!r} is stateless now, its checkpoint holds a state: give state= as before, "
                    "or start anew with resume='never'"
                )
            return [], []
        if captured is None and self._save is None:
            raise ResumeImpossible(
                f"agent {self.agent!r} was recorded without a state, there is nothing to restore: "
                "start anew with resume='never'"
            )
        if self._restore is not None:
            restore = self._restore
            return [("restore", lambda: restore(captured))], []
        plan = _Restoration(self.agent)
        plan.add(self._state, captured, "state", None)
        return plan.loads, plan.assignments


def _is_object(value: Any) -> bool:
    return callable(getattr(value, "state_dict", None)) and callable(getattr(value, "load_state_dict", None))


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or tensors.is_tensor(value)


def _is_live(value: Any) -> bool:
    """Does the program hold on to this very thing, so that it must be restored in place?"""
    return _is_object(value) or _is_array(value) or rng.is_rng(value) or _is_parts(value)


def _is_parts(value: Any) -> bool:
    kind = type(value)
    if kind in (list, tuple):
        return any(map(_is_live, value))
    if kind in (dict, OrderedDict):
        return any(_is_live(item) and (isinstance(key, str) or not _is_array(item)) for key, item in value.items())
    return False


def _capture(value: Any) -> Any:
    if _is_object(value):
        return value.state_dict()
    if rng.is_rng(value):
        return rng.capture(value)
    if type(value) in (list, tuple):
        return type(value)(map(_capture, value)) if _is_parts(value) else value
    if type(value) in (dict, OrderedDict):
        return {key: _capture(item) for key, item in value.items()}
    return value


def _live_paths(value: Any, path: str = "state") -> set[str]:
    """Where the objects and generators are: what only the program can make."""
    if _is_object(value) or rng.is_rng(value):
        return {path}
    found: set[str] = set()
    if _is_parts(value):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found |= _live_paths(item, f"{path}[{key!r}]")
    return found


class _Restoration:
    """Collects, while it checks, what a restore has to do."""

    def __init__(self, agent: str) -> None:
        self.agent = agent
        self.loads: list[tuple[str, _Assignment]] = []
        self.assignments: list[_Assignment] = []

    def add(self, live: Any, saved: Any, path: str, put: Callable[[Any], None] | None) -> None:
        """`live` is what the program has at `path`, `saved` what the checkpoint has; `put` replaces it there."""
        if _is_object(live):
            self._expect(not _is_array(saved), path, "an object with load_state_dict", saved)
            self.loads.append((f"{path}.load_state_dict", lambda: live.load_state_dict(saved)))
        elif rng.is_rng(live):
            rng.check(live, saved, f"agent {self.agent!r}: {path}")
            self.assignments.append(lambda: rng.restore(live, saved))
        elif _is_array(live):
            self._array(live, saved, path)
        elif path == "state" or _is_parts(live):
            self._parts(live, saved, path)
        else:
            self._data(live, saved, path, put)

    def _array(self, live: Any, saved: Any, path: str) -> None:
        tensor = tensors.is_tensor(live)
        same_kind = tensors.is_tensor(saved) if tensor else isinstance(saved, np.ndarray)
        self._expect(same_kind, path, "a tensor" if tensor else "an array", saved)
        if tuple(live.shape) != tuple(saved.shape) or live.dtype != saved.dtype:
            self._refuse(
                f"{path} has shape {tuple(live.shape)} and dtype {live.dtype}, in the checkpoint shape "
                f"{tuple(saved.shape)} and dtype {saved.dtype}"
            )
        if tensor:
            self.assignments.append(lambda: tensors.assign(live, saved))
        else:
            if not live.flags.writeable:
                self._refuse(f"{path} is a read-only array, which cannot be restored in place")
            self.assignments.append(lambda: np.copyto(live, saved))

    def _parts(self, live: Any, saved: Any, path: str) -> None:
        if isinstance(live, dict):
            self._expect(isinstance(saved, dict), path, "a dict", saved)
            self._same_keys(live, saved, path)
            for key, item in live.items():
                self.add(item, saved[key], f"{path}[{key!r}]", _putter(live, key))
        else:
            self._expect(isinstance(saved, type(live)), path, f"a {type(live).__name__}", saved)
            if len(live) != len(saved):
                self._refuse(f"{path} has {len(live)} items, in the checkpoint {len(saved)}")
            for i, item in enumerate(live):
                put = _putter(live, i) if isinstance(live, list) else None
                self.add(item, saved[i], f"{path}[{i}]", put)

    def _data(self, live: Any, saved: Any, path: str, put: Callable[[Any], None] | None) -> None:
        if isinstance(live, (dict, list, set, deque)):
            base = next(kind for kind in (dict, list, set, deque) if isinstance(live, kind))
            self._expect(isinstance(saved, base), path, f"a {base.__name__}", saved)
            if isinstance(live, dict):
                saved = self._keeping_arrays(live, saved, path)
            self.assignments.append(lambda: _refill(live, saved))
            return
        self._expect(not isinstance(saved, (np.ndarray, dict, list, set, deque)), path, _kind(live), saved)
        if put is not None:
            self.assignments.append(lambda: put(saved))
        elif live != saved:
            self._refuse(f"{path}, in a tuple, is {live!r:.60}, in the checkpoint {saved!r:.60}")

    def _keeping_arrays(self, live: dict[Any, Any], saved: dict[Any, Any], path: str) -> dict[Any, Any]:
        """`saved`, with the arrays that `live` has already, so that they keep their identity; they are assigned too."""
        kept = {key: item for key, item in live.items() if _is_array(item) and key in saved}
        for key, item in kept.items():
            self._array(item, saved[key], f"{path}[{key!r}]")
        return {**saved, **kept}

    def _same_keys(self, live: dict[Any, Any], saved: dict[Any, Any], path: str) -> None:
        missing = [repr(key) for key in live if key not in saved]
        extra = [repr(key) for key in saved if key not in live]
        if missing or extra:
            here = f" {', '.join(missing[:5])} only here" if missing else ""
            there = f" {', '.join(extra[:5])} only in the checkpoint" if extra else ""
            self._refuse(f"{path} has other keys than its checkpoint:{here}{' and' if here and there else ''}{there}")

    def _expect(self, good: bool, path: str, what: str, saved: Any) -> None:
        if not good:
            self._refuse(f"{path} is {what}, in the checkpoint it is {_kind(saved)}")

    def _refuse(self, difference: str) -> None:
        raise ResumeImpossible(f"agent {self.agent!r}: {difference}; nothing was restored: {_AS_BEFORE}")


def _putter(container: Any, key: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        container[key] = value

    return put


def _refill(container: Any, content: Any) -> None:
    container.clear()
    (container.extend if isinstance(container, (list, deque)) else container.update)(content)


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
