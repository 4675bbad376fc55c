"""A task and its outcome; one after another in this process.

A piece of work and what became of it: plain words and numbers, so that it can travel anywhere.

One task after the other in this process.
"""

from __future__ import annotations

import heapq
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from itertools import count
from threading import Lock
from typing import Any, Protocol

from blindharmony.errors import out_of_memory, reportable

# Inside one process one task at a time: thread counts and ITK settings belong to the whole process.
_ONE = Lock()


@dataclass(frozen=True)
class Task:
    """A function, named, and what it is called with.

    Attributes:
        name: Unique among the tasks of a run.
        function: ``module:function``; it takes one mapping and returns JSON.
        arguments: JSON.
        priority: Smaller comes first.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 0


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: The task.
        value: What the function returned, None if it failed.
        error: One line, None if it did not fail.
        kind: Type of the error.
        lost: The worker died; the same task may succeed elsewhere.
    """

    task: Task
    value: Any = None
    error: str | None = None
    kind: str = ""
    lost: bool = False


class Engine(Protocol):
    """Takes tasks, gives them back when they are finished, in any order."""

    def submit(self, task: Task) -> None:
        """Accept a task; also while :meth:`finished` is being read."""

    def finished(self) -> Iterator[Outcome]:
        """Every task's outcome, until none is left."""

    def close(self) -> None:
        """Stop at once, whatever is going on."""


def call(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Call a named function; what it raises becomes part of the answer.

    Example:
        >>> call("builtins:sorted", [3, 1])
        {'value': [1, 3]}
        >>> call("builtins:len", 3)["kind"]
        'TypeError'
    """
    try:
        module, name = function.split(":")
        work: Callable[[Any], Any] = getattr(import_module(module), name)
        with _ONE:
            return {"value": work(arguments)}
    except Exception as error:
        if out_of_memory(error):
            return {"error": "not enough memory; use fewer processes or a larger machine", "kind": "MemoryError"}
        return {"error": str(reportable(error)), "kind": type(error).__name__, "detail": traceback.format_exc()}


def outcome(task: Task, answer: Mapping[str, Any]) -> Outcome:
    """A task and the answer of :func:`call`."""
    return Outcome(task, answer.get("value"), answer.get("error"), answer.get("kind", ""))


class Waiting:
    """Tasks in the order in which they are due: by priority, then as they came.

    Example:
        >>> waiting = Waiting()
        >>> for name, priority in (("a", 2), ("b", 1), ("c", 1)):
        ...     waiting.put(Task(name, "", {}, priority))
        >>> [waiting.take().name for _ in range(len(waiting))]
        ['b', 'c', 'a']
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Task]] = []
        self._count = count()

    def put(self, task: Task) -> None:
        """Add a task."""
        heapq.heappush(self._heap, (task.priority, next(self._count), task))

    def take(self) -> Task:
        """The task that is due next."""
        return heapq.heappop(self._heap)[2]

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)


class SerialEngine:
    """The engine without workers."""

    def __init__(self) -> None:
        self._waiting = Waiting()

    def submit(self, task: Task) -> None:
        """Accept a task."""
        self._waiting.put(task)

    def finished(self) -> Iterator[Outcome]:
        """Do and yield them."""
        while len(self._waiting):
            task = self._waiting.take()
            yield outcome(task, call(task.function, task.arguments))

    def close(self) -> None:
        """Forget what has not begun."""
        self._waiting.clear()
