"""The table of what clients may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowrra_exporter.web.parameters import ID, TEXT, TIME, Parameter, one_of, whole

_MAX_SHOWN = 100


@dataclass(frozen=True)
class Action:
    """Something that clients may do.

    Attributes:
        name: Its name in paths.
        method: The method of the Management API.
        label: What stands on its button.
        done: The sentence when it's done, of its parameters, and ``answer``, what the method answered.
        parameters: What has to be said with it.
        unchanged: The sentence when the method answers False: there was nothing to do.
        is_refusal: Whether that means that it couldn't be done, rather than that it was so already.
        destroys: Whether what it does can't be undone.
    """

    name: str
    method: str
    label: str
    done: str
    parameters: tuple[Parameter, ...]
    unchanged: str = ""
    is_refusal: bool = True
    destroys: bool = False

    def sentence(self, arguments: Mapping[str, Any], answer: Any) -> str:
        """What became of it."""
        known = dict.fromkeys(("answer", "done", "left"), "not known") | dict(arguments)
        known |= answer if isinstance(answer, Mapping) else {"answer": answer}
        text = self.unchanged if answer is False else self.done
        return text.format_map({name: str(value)[:_MAX_SHOWN] for name, value in known.items()})


def has_changed(answer: Any) -> bool:
    """Whether there was something to do, by what the method answered: False says that there wasn't, and so does that
    none of many tasks was meant."""
    return answer is not False and not (isinstance(answer, Mapping) and answer.get("done") == 0)


_TASK = Parameter("task_id", ID, "The id of the task", required=True)
_QUEUE = Parameter("queue", TEXT, "The name of the queue", required=True)
_NAME = Parameter("task_name", TEXT, "The name that the tasks are registered under", required=True)
_SCHEDULE = Parameter("schedule_id", ID, "The id of the schedule", required=True)
_WORKER = Parameter("worker", TEXT, "The id of the worker; without it, the process that answers")
_LIMIT = Parameter("limit", whole(1, 100_000), "How many tasks at most", default=1000)
_DEAD = (
    Parameter("name", TEXT, "Tasks of this name alone"),
    Parameter("reason", TEXT, "Tasks alone whose reason contains this text"),
    _LIMIT,
)
_UNFINISHED = (
    Parameter("status", one_of("pending", "retrying", "running"), "Tasks of this status alone"),
    Parameter("name", TEXT, "Tasks of this name alone"),
    Parameter("queue", TEXT, "Tasks of this queue alone"),
    Parameter("since", TIME, "Tasks alone that were submitted then or later"),
    Parameter("until", TIME, "Tasks alone that were submitted before"),
    Parameter("worker", TEXT, "Tasks alone whose latest attempt this worker runs, or ran"),
    _LIMIT,
)

ACTIONS_BY_NAME: Mapping[str, Action] = {
    action.name: action
    for action in (
        Action(
            "cancel-task",
            "cancel_task",
            "Cancel",
            "Task {task_id} was cancelled",
            (_TASK,),
            "Task {task_id} can't be cancelled: it has come to its end, or nothing is known of it",
            destroys=True,
        ),
        Action("retry-task", "retry_task", "Retry", "Task {task_id} runs anew as {answer}", (_TASK,)),
        Action(
            "requeue-dead-task",
            "requeue_dead_task",
            "Requeue",
            "Task {task_id} is pending again",
            (_TASK,),
            "No dead task has the id {task_id}, or it is being run anew",
        ),
        Action(
            "delete-dead-task",
            "delete_dead_task",
            "Delete",
            "Task {task_id} is no longer among the dead tasks",
            (_TASK,),
            "No dead task has the id {task_id}",
            destroys=True,
        ),
        Action(
            "requeue-dead-tasks",
            "requeue_dead_tasks",
            "Requeue all",
            "Dead tasks that are pending again: {done}; left: {left}",
            _DEAD,
        ),
        Action(
            "delete-dead-tasks",
            "delete_dead_tasks",
            "Delete all",
            "Dead tasks that were deleted: {done}; left: {left}",
            _DEAD,
            destroys=True,
        ),
        Action(
            "cancel-tasks",
            "cancel_tasks",
            "Cancel all",
            "Tasks that were cancelled: {done}; left: {left}",
            _UNFINISHED,
            destroys=True,
        ),
        Action(
            "purge-queue",
            "purge_queue",
            "Purge",
            "Tasks of queue {queue} that were cancelled: {done}; left: {left}",
            (_QUEUE, Parameter("name", TEXT, "Tasks of this name alone"), _LIMIT),
            destroys=True,
        ),
        Action(
            "pause-queue",
            "pause_queue",
            "Pause",
            "Queue {queue} is paused",
            (_QUEUE,),
            "Queue {queue} was paused already",
            is_refusal=False,
        ),
        Action(
            "resume-queue",
            "resume_queue",
            "Resume",
            "Queue {queue} goes on",
            (_QUEUE,),
            "Queue {queue} was not paused",
            is_refusal=False,
        ),
        Action(
            "pause-task",
            "pause_task",
            "Pause",
            "Tasks of {task_name} are paused",
            (_NAME,),
            "Tasks of {task_name} were paused already",
            is_refusal=False,
        ),
        Action(
            "resume-task",
            "resume_task",
            "Resume",
            "Tasks of {task_name} go on",
            (_NAME,),
            "Tasks of {task_name} were not paused",
            is_refusal=False,
        ),
        Action(
            "resize-workers",
            "resize_workers",
            "Resize",
            "Workers that were told to have {n} {executor} slots: {answer}",
            (
                Parameter("executor", one_of("io", "cpu"), "The kind of tasks", required=True),
                Parameter("n", whole(1, 10_000), "The slots of each worker", required=True),
                Parameter("worker", TEXT, "The id of the worker, or all; without it, the process that answers"),
            ),
        ),
        Action(
            "drain-worker",
            "drain_worker",
            "Drain",
            "The worker begins no more tasks",
            (_WORKER,),
            "The worker drained already",
            is_refusal=False,
        ),
        Action(
            "resume-worker",
            "resume_worker",
            "Resume",
            "The worker begins tasks again",
            (_WORKER,),
            "The worker did not drain",
            is_refusal=False,
        ),
        Action(
            "run-schedule",
            "trigger_schedule",
            "Run now",
            "Schedule {schedule_id} was run, as task {answer}",
            (_SCHEDULE,),
        ),
        Action(
            "enable-schedule",
            "enable_schedule",
            "Enable",
            "Schedule {schedule_id} is enabled",
            (_SCHEDULE,),
        ),
        Action(
            "disable-schedule",
            "disable_schedule",
            "Disable",
            "Schedule {schedule_id} is disabled",
            (_SCHEDULE,),
        ),
    )
}
