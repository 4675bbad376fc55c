"""One task after the other in this process."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count

from blindharmony.study.engines.task import Outcome, Task, call, outcome


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
