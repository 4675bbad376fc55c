"""A piece of work, what becomes of it, and the engine that does one after the other in this process.

Work is a frozen model with everything it needs in its fields and a method :meth:`Work.do`; what it gives back is a
frozen model too, an :class:`Answer`. Both travel between processes and machines as lines of JSON (:func:`packed`,
:func:`unpacked`), so nothing is pickled. A line of work names its type, and that module is imported where the work is
done: whoever hands it out need not load what it computes with.

While it works it may say how far it is (:class:`Progress`); it ends with its answer or with a :class:`Failure`, which
has a code for programs beside the words for people.
"""

from __future__ import annotations

import heapq
import json
import math
import os
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from threading import Lock
from typing import Annotated, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, JsonValue, PlainSerializer

from blindharmony.errors import BlindHarmonyError, ErrorCode, InputError, TimeLimitError, reportable

#: A path as a field of work: names that are no text survive the way through JSON.
FilePath = Annotated[Path, PlainSerializer(lambda path: os.fspath(path))]
#: Called with what is being done and the share of it that is done, from 0 to 1.
Tell = Callable[[str, float], None]


class Message(BaseModel):
    """Something that travels between processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(Message):
    """What a piece of work gives back; empty if its result is a file."""


class Progress(Message):
    """How far a piece of work is.

    Attributes:
        stage: What is being done, in words.
        share: Of the whole, from 0 to 1.
    """

    stage: str
    share: float


class Failure(Message):
    """Why a piece of work has no answer.

    Attributes:
        code: What kind of thing went wrong.
        what: What is wrong, in a few plain words.
        remedy: What can be done about it.
        line: The whole message, one line, with the file it is about.
    """

    code: ErrorCode
    what: str
    remedy: str = ""
    line: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Of anything that was raised."""
        reported = reportable(error)
        return cls(code=reported.code, what=reported.what, remedy=reported.remedy, line=str(reported))

    def error(self, path: Path | None = None) -> BlindHarmonyError:
        """The error that it was.

        Example:
            >>> failure = Failure(code=ErrorCode.OUTPUT, what="exists already", line="")
            >>> type(failure.error(Path("a.nii"))).__name__
            'OutputError'
        """
        kinds: list[type[BlindHarmonyError]] = [BlindHarmonyError]
        kind: type[BlindHarmonyError] = InputError
        while kinds:
            one = kinds.pop()
            kinds += one.__subclasses__()
            if "code" in vars(one) and one.code is self.code:
                kind = one
        return kind(self.what, remedy=self.remedy, path=path)


class Work(Message, ABC):
    """A piece of work: all that it needs, and how it is done. It may be done twice without harm.

    Attributes:
        answers: The type of its answer.

    Example:
        >>> from blindharmony.study.work import FitScanner
        >>> FitScanner.kind()
        'blindharmony.study.work:FitScanner'
    """

    answers: ClassVar[type[Answer]] = Answer

    @classmethod
    def kind(cls) -> str:
        """Where the type is found: ``module:name``."""
        return f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def do(self, tell: Tell) -> Answer:
        """Do it.

        Args:
            tell: Says how far it is.

        Raises:
            BlindHarmonyError: With what the user can do about it.
        """


def packed(work: Work) -> bytes:
    """Work as a line of JSON."""
    return json.dumps({"kind": work.kind(), "work": work.model_dump(mode="json")}).encode() + b"\n"


def unpacked(line: bytes) -> Work:
    """Work from a line of JSON; its module is imported.

    Raises:
        ValueError: If this is no work.
    """
    content = json.loads(line)
    module, _, name = str(content["kind"]).partition(":")
    kind = getattr(import_module(module), name, None)
    if not (isinstance(kind, type) and issubclass(kind, Work)):
        raise ValueError(f"{content['kind']} is no kind of work")
    return kind.model_validate(content["work"])


Reply = Progress | Answer | Failure


class _Line(Message):
    progress: Progress | None = None
    failure: Failure | None = None
    answer: JsonValue = None


def packed_reply(reply: Reply) -> bytes:
    """A reply as a line of JSON."""
    name = {Progress: "progress", Failure: "failure"}.get(type(reply), "answer")
    return json.dumps({name: reply.model_dump(mode="json", exclude_unset=True)}).encode() + b"\n"


def unpacked_reply(work: Work, line: bytes) -> Reply:
    """A reply to a piece of work from a line of JSON.

    Raises:
        ValueError: If the line is none.
    """
    try:
        content = _Line.model_validate(json.loads(line))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if content.progress or content.failure:
        return content.progress or content.failure  # type: ignore[return-value]
    return work.answers.model_validate(content.answer)


def overdue(seconds: float) -> Failure:
    """Of work that was ended because its time was up.

    Example:
        >>> overdue(90).line
        'it did not end within 1.5 min and was left out; run the same command again to try once more'
    """
    what = f"it did not end within {seconds / 60:.3g} min and was left out"
    return Failure.of(TimeLimitError(what, remedy="run the same command again to try once more"))


# Inside one process one task at a time: thread counts and ITK settings belong to the whole process.
_ONE = Lock()


def done(work: Work, tell: Tell = lambda stage, share: None) -> Answer | Failure:
    """Do a piece of work; what it raises becomes a failure, and the traceback goes to standard error.

    Example:
        >>> class Half(Work):
        ...     number: int
        ...     def do(self, tell):
        ...         raise ValueError(f"{self.number} is odd")
        >>> done(Half(number=3)).code
        <ErrorCode.INTERNAL: 'internal error'>
    """
    try:
        with _ONE:
            answer = work.do(tell)
        if not isinstance(answer, work.answers):
            raise TypeError(f"{work.kind()} gave {type(answer).__name__}, not {work.answers.__name__}")
    except Exception as error:
        failure = Failure.of(error)
        if failure.code is ErrorCode.INTERNAL:
            traceback.print_exc()
        return failure
    return answer


def done_line(line: bytes, tell: Tell = lambda stage, share: None) -> bytes:
    """The same from line to line, for workers in other processes and on other machines."""
    try:
        return packed_reply(done(unpacked(line), tell))
    except Exception as error:  # no work, a module that is not there, an answer that is no JSON
        traceback.print_exc()
        return packed_reply(Failure.of(error))


@dataclass(frozen=True)
class Task:
    """A piece of work in the queue of an engine.

    Attributes:
        name: Unique among the tasks of a run.
        work: What is to be done.
        priority: Smaller comes first.
        seconds: How long it may take, where the engine has workers that it can end.
    """

    name: str
    work: Work
    priority: int = 0
    seconds: float = math.inf


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        task: The task.
        answer: What it gave back, None if it failed.
        failure: Why it failed, None if it did not.
        seconds: How long it took, where a worker of this machine did it.
    """

    task: Task
    answer: Answer | None = None
    failure: Failure | None = None
    seconds: float = math.nan

    @classmethod
    def of(cls, task: Task, end: Answer | Failure, seconds: float = math.nan) -> Outcome:
        """Of a task and how it ended."""
        return cls(task, None, end, seconds) if isinstance(end, Failure) else cls(task, end, None, seconds)

    @property
    def lost(self) -> bool:
        """Whether the worker died: the same task may succeed elsewhere."""
        return self.failure is not None and self.failure.code is ErrorCode.KILLED


class Engine(Protocol):
    """Takes tasks, gives them back when they are finished, in any order."""

    def submit(self, task: Task) -> None:
        """Accept a task; also while :meth:`finished` is being read."""

    def finished(self) -> Iterator[Outcome]:
        """Every task's outcome, until none is left."""

    def close(self) -> None:
        """Stop at once, whatever is going on."""


class Waiting:
    """Tasks in the order in which they are due: by priority, then as they came."""

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
    """The engine without workers: one task after the other, in this process."""

    def __init__(self) -> None:
        self._waiting = Waiting()

    def submit(self, task: Task) -> None:
        """Accept a task."""
        self._waiting.put(task)

    def finished(self) -> Iterator[Outcome]:
        """Do and yield them."""
        while len(self._waiting):
            task = self._waiting.take()
            yield Outcome.of(task, done(task.work))

    def close(self) -> None:
        """Forget what has not begun."""
        self._waiting.clear()
