"""What travels between an app and its worker processes, without a process: what can't is an error that says so."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowrra import Task
from flowrra.exceptions import SerializationError, TaskImportError
from flowrra.executors.outcomes import RemoteTraceback
from flowrra.executors.processes import messages
from tests.core.cpu_tasks import FAILURES, RaisesWhenPickled, echo

# Others speak for them: raised out of a coroutine the first would mean something else than that a task has failed, and
# there is nothing to derive from in the last.
WITHOUT_CLASS = ("keyboard interrupt", "generator exit", "stop iteration", "local class", "final class")


class Stop(BaseException):
    pass


class Unreadable:
    """Its pickle can be written, and not be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _raise, ()


def _raise() -> None:
    raise Stop


class Locked(Stop):
    """No exception that a program expects, which can't be pickled."""

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


class LockedInterrupt(KeyboardInterrupt):
    def __init__(self) -> None:
        super().__init__("ctrl-c")
        self.lock = threading.Lock()


class SaysOtherwise(Exception):
    """Is another one once it has travelled."""

    def __init__(self, text: str = "unknown") -> None:
        super().__init__()
        self.text = text

    def __str__(self) -> str:
        return self.text

    def __reduce__(self) -> tuple[Any, ...]:
        return SaysOtherwise, ()


def sent(error: BaseException) -> BaseException:
    """The exception as it arrives."""
    try:
        raise error
    except BaseException as raised:
        payload = messages.encode_error(raised)
    with pytest.raises(BaseException) as caught:
        messages.decode_outcome(messages.ERROR + payload)
    return caught.value


class TestErrors:
    @pytest.mark.parametrize(("make", "text"), FAILURES.values(), ids=FAILURES)
    def test_arrive_by_name_and_text_with_their_traceback(self, make: Callable[[], BaseException], text: str) -> None:
        arrived = sent(make())
        assert type(arrived).__name__ == text.partition(":")[0]
        assert str(arrived) == text.partition(": ")[2]
        assert isinstance(arrived.__cause__, RemoteTraceback)
        assert "in sent" in arrived.__cause__.text
        assert isinstance(arrived, Exception) == isinstance(make(), Exception)
        assert not isinstance(arrived, messages.CONTROL_FLOW)

    @pytest.mark.parametrize("how", [how for how in FAILURES if how not in WITHOUT_CLASS])
    def test_are_still_of_their_class(self, how: str) -> None:
        made = FAILURES[how][0]()
        assert isinstance(sent(made), type(made))

    def test_that_nobody_expects_stay_such_even_if_they_can_not_travel(self) -> None:
        arrived = sent(Locked())
        assert isinstance(arrived, Stop)
        assert str(arrived) == "locked"

    def test_that_would_end_a_program_never_arrive_as_such(self) -> None:
        arrived = sent(LockedInterrupt())
        assert not isinstance(arrived, KeyboardInterrupt)
        assert (type(arrived).__name__, str(arrived)) == ("LockedInterrupt", "ctrl-c")

    def test_say_what_they_said(self) -> None:
        arrived = sent(SaysOtherwise("the text"))
        assert isinstance(arrived, SaysOtherwise)
        assert str(arrived) == "the text"

    def test_that_can_not_be_read_are_named(self) -> None:
        payload = pickle.dumps((Unreadable(), ("Odd", "text", None, True), "traceback"))
        with pytest.raises(SerializationError, match=r"its exception can't be read.*Stop"):
            messages.decode_outcome(messages.ERROR + payload)


class TestResults:
    def test_arrive(self) -> None:
        assert messages.decode_outcome(messages.RESULT + messages.encode_result({"a": (1,)})) == {"a": (1,)}

    def test_that_can_not_be_sent_are_named(self) -> None:
        with pytest.raises(SerializationError, match="its result, a lock, can't be sent back"):
            messages.encode_result(threading.Lock())

    def test_that_can_not_be_read_are_named(self) -> None:
        with pytest.raises(SerializationError, match=r"its result can't be read.*Stop"):
            messages.decode_outcome(messages.RESULT + messages.encode_result(Unreadable()))


def call_of(module: str, qualname: str, *args: Any) -> bytes:
    return pickle.dumps((module, qualname, Task("an-id", "work", args, {})))


class TestCalls:
    def test_arrive(self) -> None:
        function, task = messages.decode_call(messages.encode_call(echo, Task("an-id", "echo", (1,), {"a": 2})))
        assert (function, task.args, task.kwargs) == (echo, (1,), {"a": 2})

    @pytest.mark.parametrize("error", [ValueError, Stop])
    def test_name_the_arguments_that_can_not_be_sent(self, error: type[BaseException]) -> None:
        task = Task("an-id", "echo", (1, RaisesWhenPickled(error)), {"lock": threading.Lock(), "fine": 2})
        with pytest.raises(SerializationError, match=r"^argument 1, lock can't be sent"):
            messages.encode_call(echo, task)

    def test_whose_arguments_can_not_be_read_say_so(self) -> None:
        call = messages.encode_call(echo, Task("an-id", "echo", (FAILURES["two arguments"][0](),), {}))
        with pytest.raises(SerializationError, match="its arguments can't be read in the worker process: TypeError"):
            messages.decode_call(call)

    @pytest.mark.parametrize(
        ("module", "name"), [("no_such_module", "f"), ("tests.core.cpu_tasks", "no_such_task"), ("os.no_such", "f")]
    )
    def test_of_what_is_not_there_say_so(self, module: str, name: str) -> None:
        with pytest.raises(TaskImportError, match=f"Task 'work' can't be found in a worker process: .*'{name}'"):
            messages.decode_call(call_of(module, name))

    def test_of_a_module_that_misses_another_one_name_that(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / "flowrra_incomplete.py").write_text("import no_such_module\n")
        with pytest.raises(ModuleNotFoundError, match="no_such_module"):
            messages.decode_call(call_of("flowrra_incomplete", "f"))

    def test_of_what_can_not_be_called_say_so(self) -> None:
        with pytest.raises(TaskImportError, match="can't be called: 'PATIENCE'"):
            messages.decode_call(call_of("tests.core.cpu_tasks", "PATIENCE"))

    def test_of_a_method_are_found(self) -> None:
        assert messages.decode_call(call_of("pathlib", "Path.cwd"))[0] == Path.cwd
