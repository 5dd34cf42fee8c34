"""What must hold in the end, whatever happened: each checker reads the log and the world, and answers with violations.

They share no code with the services but the folds, and believe nothing that is not in the log or in the world.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from events.conversation import AssistantTurn, Conversation, Message, ToolResults
from events.envelope import Recorded
from events.environment import (
    ENVIRONMENT,
    BranchPushed,
    CallEnd,
    Environment,
    EnvironmentInspected,
    ToolCallCompleted,
    ToolCallStarted,
    ToolCallUncertain,
)
from events.names import branch_name
from events.run import (
    RUN,
    RUN_ENDS,
    ModelResponded,
    Run,
    RunCrashLooped,
    RunEnd,
    RunResumed,
    RunStarted,
    RunSucceeded,
    ToolCallRefused,
    ToolCallRequested,
)
from events.task import (
    CheckRequested,
    GatePassed,
    QuestionAnswered,
    RunFailureRecorded,
    RunRecorded,
    StageApproved,
    StagePassed,
)
from events.task_state import TASK, Running, Task
from tests.projections.tables import Tables
from tests.simulation.workspace_checkers import (
    checkpoints_are_kept,
    checkpoints_hold_what_calls_did,
    work_begins_from_that_of_dependencies,
)

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

Checker = Callable[["Seen"], Iterator[str]]
MAX_BARREN_EPOCHS = 5


class Seen:
    """A finished simulation: its log by entity, and the folds of what is in it."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.world = simulation.world
        log = simulation.network.memory.log
        self.records: list[Recorded] = log.between(0, len(log), ())
        self.by_entity: dict[tuple[str, str], list[Recorded]] = defaultdict(list)
        for record in self.records:
            self.by_entity[record.envelope.entity, record.envelope.entity_id].append(record)
        self.tasks: dict[str, Task] = self._folded(TASK)
        self.runs: dict[str, Run] = self._folded(RUN)
        self.environments: dict[str, Environment] = self._folded(ENVIRONMENT)

    def events(self, entity: str, id: str = "") -> Iterator[Any]:
        """The events of one entity, or of all of its kind, in order."""
        for record in self.by_entity[entity, id] if id else self.records:
            if record.envelope.entity == entity:
                yield from record.envelope.events

    def _folded(self, entity: Any) -> dict[str, Any]:
        return {
            id: entity.fold(id, [event for record in records for event in record.envelope.events])
            for (name, id), records in self.by_entity.items()
            if name == entity.name
        }


def check(simulation: Simulation) -> list[str]:
    """Every violation of every rule, each with the name of its checker."""
    seen = Seen(simulation)
    return [f"{checker.__name__}: {violation}" for checker in CHECKERS for violation in checker(seen)]


def no_task_is_lost(seen: Seen) -> Iterator[str]:
    """Every task ends as it was to end, or waits for another one that will not complete; exceptions have a cause."""
    simulation = seen.simulation
    never: set[str] = set()
    for assignment in simulation.workload.assignments:
        task = seen.tasks.get(assignment.id)
        if task is None:
            yield f"{assignment.key} was never submitted"
            continue
        if task.status != "completed":
            never.add(assignment.key)
        if never.intersection(assignment.depends_on) and task.status in ("queued", "cancelled"):
            continue
        if task.status == "cancelled" and task.id in simulation.people.cancelled:
            continue
        if task.status == "failed" and _lost_for_good(seen, task):
            continue
        if task.id in simulation.people.abandoned and getattr(task.ended, "cause", "") in ("abandoned", "diverged"):
            continue
        if task.status == "blocked" and (assignment.rejections or _reworked(seen, task)):
            continue
        if task.status != assignment.expected:
            yield f"{task.id} is {task.status}, not {assignment.expected}: {_position(task)}"


def _lost_for_good(seen: Seen, task: Task) -> bool:
    """Whether each failed attempt had a call that was lost with its host, or runners that kept dying."""
    failures = [event for event in seen.events("task", task.id) if isinstance(event, RunFailureRecorded)]
    lost = {event.run_id for event in seen.events("environment") if isinstance(event, ToolCallUncertain)}
    looped = {id for id, run in seen.runs.items() if isinstance(run.ended, RunCrashLooped)}
    return bool(failures) and all(event.run_id in lost | looped for event in failures)


def _reworked(seen: Seen, task: Task) -> bool:
    return any(state.rework for state in task.stages.values())


def _position(task: Task) -> str:
    return ", ".join(f"{name} {state.position}" for name, state in task.stages.items())


def one_epoch_at_a_time(seen: Seen) -> Iterator[str]:
    """Epochs go up by one, each decision of a run is made by the runner that holds it, and nothing follows its end."""
    for (entity, id), records in seen.by_entity.items():
        if entity != RUN.name:
            continue
        epoch, holder, ended = 0, "", False
        for record in records:
            if ended:
                yield f"{id} goes on after its end at {record.sequence}"
            for event in record.envelope.events:
                if isinstance(event, RunStarted | RunResumed):
                    if event.epoch != epoch + 1 or isinstance(event, RunStarted) != (epoch == 0):
                        yield f"{id} has epoch {event.epoch} after {epoch} at {record.sequence}"
                    epoch, holder = event.epoch, event.runner
                ended = ended or isinstance(event, RunEnd)
            if record.envelope.actor != holder and not isinstance(record.envelope.events[0], RunCrashLooped):
                yield f"{id}: {record.envelope.actor} decided at {record.sequence}, though {holder} holds it"


def every_decision_is_made_once(seen: Seen) -> Iterator[str]:
    """No decision stands twice in the log, and what can happen once has not happened twice."""
    ids = Counter(
        (record.envelope.entity, record.envelope.entity_id, record.envelope.id)
        for record in seen.records
        # An inspection says what it finds as often as it is asked.
        if not isinstance(record.envelope.events[0], EnvironmentInspected)
    )
    for key, count in ids.items():
        if count > 1:
            yield f"{key} stands {count} times in the log"
    once: Counter[tuple[str, ...]] = Counter()
    for record in seen.records:
        for event in record.envelope.events:
            if isinstance(event, CallEnd):
                once["call ended", event.call_id] += 1
            elif isinstance(event, ToolCallStarted):
                once["call started", event.call_id] += 1
            elif isinstance(event, ToolCallRequested):
                once["call requested", event.call_id] += 1
            elif isinstance(event, ModelResponded):
                once["answer", record.envelope.entity_id, str(event.step)] += 1
            elif isinstance(event, RunRecorded | RunFailureRecorded):
                once["run recorded", event.run_id] += 1
            elif isinstance(event, CheckRequested | GatePassed):
                once[type(event).__name__, event.check_id] += 1
            elif isinstance(event, QuestionAnswered):
                once["answered", event.call_id] += 1
    for key, count in once.items():
        if count > 1:
            yield f"{' '.join(key)} {count} times"


def what_was_acknowledged_is_there(seen: Seen) -> Iterator[str]:
    at = {record.sequence: record.envelope.id for record in seen.records}
    for sequence, id in seen.simulation.network.acknowledged:
        if at.get(sequence) != id:
            yield f"decision {id} was acknowledged as {sequence}, where {at.get(sequence)} stands"


def the_model_saw_what_the_log_tells(seen: Seen) -> Iterator[str]:
    """Each conversation that a model was shown is a beginning of the one that the log folds to, and well-formed."""
    stages = {
        (run.started.task_id, run.started.stage, run.started.attempt): run for run in seen.runs.values() if run.started
    }
    for assignment in seen.simulation.workload.assignments:
        for (stage, attempt, turn), conversations in assignment.seen.items():
            ids = (assignment.id, *assignment.forks)
            runs = [run for id in ids if (run := stages.get((id, stage, attempt))) is not None]
            told = [_conversation(seen, run) for run in runs]
            for shown in conversations:
                if not any(conversation[: len(shown)] == shown for conversation in told):
                    last = [conversation[len(shown) - 1 : len(shown)] for conversation in told]
                    yield f"{ids} {stage} {attempt} turn {turn}: the model saw {shown[-1]}, the log tells {last}"
                yield from (f"{assignment.id} {stage} {attempt}: {problem}" for problem in _malformed(shown))


def _conversation(seen: Seen, run: Run) -> list[Message]:
    assert run.started is not None
    conversation = Conversation()
    fork = run.started.forked_from
    if fork is not None:
        _apply(seen, conversation, fork.run_id, fork.environment_id, fork.sequence)
    _apply(seen, conversation, run.id, run.started.environment_id, len(seen.records))
    return conversation.messages


def _apply(seen: Seen, conversation: Conversation, run: str, environment: str, until: int) -> None:
    own = [*seen.by_entity[RUN.name, run], *seen.by_entity[ENVIRONMENT.name, environment]]
    for record in sorted(own, key=lambda record: record.sequence):
        if record.sequence <= until:
            for event in record.envelope.events:
                conversation.apply(event)


def _malformed(messages: list[Message]) -> Iterator[str]:
    for number, message in enumerate(messages):
        after = messages[number + 1] if number + 1 < len(messages) else None
        if isinstance(message, AssistantTurn) and message.calls:
            asked = [call.call_id for call in message.calls]
            answered = [result.call_id for result in after.results] if isinstance(after, ToolResults) else None
            if asked != answered:
                yield f"the calls {asked} are followed by {answered}"


def calls_are_repeated_by_their_policy_only(seen: Seen) -> Iterator[str]:
    """A call is begun once, and once more for each time that the log says so. What it did outside, it did as often
    as its tool allows. No call is begun again after its end."""
    for id in seen.world.finished_before:
        yield f"{id} was executed again after its end"
    allowed: Counter[str] = Counter()
    for event in seen.events("environment"):
        if isinstance(event, ToolCallUncertain) and event.resolution in ("execute-again", "restore-and-execute-again"):
            allowed[event.call_id] += 1
    asked = {event.call_id: event for event in seen.events("run") if isinstance(event, ToolCallRequested)}
    paths = seen.simulation.observed.call_of_path
    for name, count in seen.world.executions.items():
        id = paths.get(name, name)
        if count > 1 + allowed[id]:
            yield f"{id} was executed {count} times; the log allows {1 + allowed[id]}"
    for id, count in seen.world.effects.items():
        call = asked.get(id)
        if call is not None and call.effects == "external" and call.retry != "idempotent" and count > 1:
            yield f"{id} ({call.retry}) had its effect {count} times"
    ended = {event.call_id: event for event in seen.events("environment") if isinstance(event, CallEnd)}
    for id, call in asked.items():
        end = ended.get(id)
        was_process = isinstance(end, ToolCallCompleted) and call.tool in ("shell", "program")
        if was_process and not seen.world.executions[id]:
            yield f"{id} is completed and was never executed"


def nothing_is_left_over(seen: Seen) -> Iterator[str]:
    """Ended tasks have no workspaces, ended calls no programs; nobody holds a lease of an ended run."""
    for host in seen.world.hosts.values():
        for id in host.workspaces:
            task = seen.tasks.get(id.rpartition("-")[0])
            if task is None or task.status in ("completed", "cancelled"):
                yield f"workspace {id} is left on {host.name}, though its task is {task.status if task else 'unknown'}"
        for programs in host.programs.values():
            for program in programs.values():
                if program.running:
                    yield f"program {program.id} still runs on {host.name}"
    for id, run in seen.runs.items():
        if run.started is None:
            continue
        task = seen.tasks[run.started.task_id]
        if run.ended is None and task.ended is not None:
            yield f"run {id} goes on, though its task is {task.status}"
    for command in seen.simulation.network.memory.source._commands.values():
        yield f"a command is left on {command.subject} after {command.deliveries} deliveries"


def read_models_are_the_fold(seen: Seen) -> Iterator[str]:
    """What the projector wrote, in however many batches and lives, is what folding all of the log at once gives."""
    database = seen.simulation.database
    if database.sequence != len(seen.records):
        yield f"the read models stand at {database.sequence}, the log at {len(seen.records)}"
        return
    anew = Tables()
    anew.write(seen.records)
    for table, rows in anew.rows.items():
        found = database.tables.rows[table]
        for id in sorted(set(rows) | set(found)):
            if rows.get(id) != found.get(id):
                yield f"{table} {id} reads {found.get(id)}, folded anew {rows.get(id)}"
    if database.tables.entries != anew.entries:
        yield f"there are {len(database.tables.entries)} entries, folded anew {len(anew.entries)}"
    if database.tables.call_states != anew.call_states:
        yield f"there are {len(database.tables.call_states)} states of calls, folded anew {len(anew.call_states)}"


def limits_are_kept(seen: Seen) -> Iterator[str]:
    """At no point of the log run more agents than allowed."""
    workload = seen.simulation.workload
    limit = min(workload.agents_at_once, workload.project_agents_at_once)
    running: dict[str, int] = {}
    tasks: dict[str, Task] = {}
    for record in seen.records:
        if record.envelope.entity == TASK.name:
            id = record.envelope.entity_id
            tasks[id] = TASK.fold_onto(tasks.get(id) or TASK.initial(id), record.envelope.events)
            positions = [] if tasks[id].ended else [state.position for state in tasks[id].stages.values()]
            running[id] = sum(isinstance(position, Running) for position in positions)
            if sum(running.values()) > limit:
                yield f"{sum(running.values())} agents run at {record.sequence}; {limit} may"


def gates_advance_by_answers_only(seen: Seen) -> Iterator[str]:
    """A gate passes after its check did in the world, an approval is a person's, a stage passes after both."""
    passed_checks: set[str] = set()
    pushed: dict[str, str] = {}
    requested: dict[tuple[str, str], str] = {}
    passed: set[tuple[str, str, str]] = set()
    approved: set[tuple[str, str]] = set()
    for record in seen.records:
        id = record.envelope.entity_id
        for event in record.envelope.events:
            if isinstance(event, ToolCallCompleted) and event.exit_code == 0:
                passed_checks.add(event.call_id)
            elif isinstance(event, BranchPushed):
                pushed[event.check_id] = event.commit
            elif isinstance(event, CheckRequested):
                requested[id, event.stage] = event.check_id
            elif isinstance(event, GatePassed):
                if event.check_id not in passed_checks and event.check_id not in pushed:
                    yield f"{id}: gate of {event.stage} passed at {record.sequence} without {event.check_id}"
                passed.add((id, event.stage, event.check_id))
            elif isinstance(event, StageApproved):
                if (id, event.stage) not in seen.simulation.people.approved:
                    yield f"{id}: {event.stage} was approved by nobody"
                approved.add((id, event.stage))
            elif isinstance(event, StagePassed):
                stage = seen.simulation.workload.pipeline.stage(event.stage)
                if stage.gate is not None and (id, stage.name, requested.get((id, stage.name), "")) not in passed:
                    yield f"{id}: {stage.name} passed at {record.sequence} without its gate"
                if stage.approval and (id, stage.name) not in approved:
                    yield f"{id}: {stage.name} passed at {record.sequence} without approval"
                approved.discard((id, stage.name))
    for id, task in seen.tasks.items():
        if task.status == "completed" and seen.simulation.workload.publishes:
            branch = seen.world.branches.get(branch_name(id))
            if branch is None or seen.world.commits[branch].get("verdict") != "good":
                yield f"{id} is completed; its branch on the remote is {branch}"


def every_run_ends_for_a_reason(seen: Seen) -> Iterator[str]:
    """A run that does not succeed was cancelled, lost its program with its host, or its runners kept dying."""
    barren: Counter[str] = Counter()
    lost = {event.run_id for event in seen.events("environment") if isinstance(event, ToolCallUncertain)}
    for record in seen.records:
        if record.envelope.entity != RUN.name:
            continue
        id = record.envelope.entity_id
        for event in record.envelope.events:
            if isinstance(event, RunResumed):
                barren[id] += 1
            elif not isinstance(event, RunEnd | ToolCallRefused):
                barren[id] = 0
            if isinstance(event, RunEnd):
                task = seen.tasks[id.rpartition("-")[0].rpartition("-")[0]]
                excused = {
                    "succeeded": True,
                    "abandoned": task.id in seen.simulation.people.abandoned,
                    "crashed": id in lost or task.id in seen.simulation.people.cancelled,
                    "unprepared": seen.simulation.bundled and getattr(event, "cause", "") == "checkpoint-missing",
                    "crash_looped": barren[id] >= MAX_BARREN_EPOCHS,
                    "cancelled": task.ended is not None or not isinstance(seen.runs[id].ended, RunSucceeded),
                }
                if not excused.get(RUN_ENDS[type(event)], False):
                    yield f"{id} ended as {RUN_ENDS[type(event)]}: {event}"


def nothing_unexpected_happened(seen: Seen) -> Iterator[str]:
    """No exception that nobody expects, no dead letter, no webhook that was not delivered."""
    yield from seen.simulation.bugs
    for letter in seen.simulation.network.memory.dead_letters._letters.values():
        yield f"dead letter: {letter.subject} {letter.reason}: {letter.detail}"
    for kind, outcome in seen.simulation.people.outcomes:
        if not outcome.accepted and outcome.slug not in EXPECTED_REFUSALS.get(kind, ()):
            yield f"{kind} was refused: {outcome.slug} {outcome.message}"


EXPECTED_REFUSALS = {
    "CancelTask": ("task-ended",),
    "AnswerQuestion": ("no-open-question",),
    "ApproveStage": ("not-awaiting-approval",),
    "RejectStage": ("not-awaiting-approval",),
    "ResolveDivergence": ("no-open-divergence",),
}

CHECKERS: tuple[Checker, ...] = (
    no_task_is_lost,
    one_epoch_at_a_time,
    every_decision_is_made_once,
    what_was_acknowledged_is_there,
    the_model_saw_what_the_log_tells,
    calls_are_repeated_by_their_policy_only,
    checkpoints_hold_what_calls_did,
    nothing_is_left_over,
    checkpoints_are_kept,
    work_begins_from_that_of_dependencies,
    read_models_are_the_fold,
    limits_are_kept,
    gates_advance_by_answers_only,
    every_run_ends_for_a_reason,
    nothing_unexpected_happened,
)
