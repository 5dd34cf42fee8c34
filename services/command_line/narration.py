"""Events as lines for a person who watches: one short sentence each, with the style that it is shown in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from services.command_line.console import duration, shortened, when

Event = Mapping[str, Any]

# What a task ends with, and whether that is what was asked for.
TASK_ENDS = {"TaskCompleted": True, "TaskFailed": False, "TaskBlocked": False, "TaskCancelled": False}

GOOD, BAD, ODD, FAINT = "green", "red", "yellow", "dim"

_SENTENCES: dict[str, tuple[Callable[[Event], str], str]] = {
    "ProjectAdded": (lambda e: f"project added: {e['settings']['repository']['url']}", ""),
    "TaskSubmitted": (lambda e: f"task submitted: {e['specification']['title']}{_origin(e)}", ""),
    "RunRequested": (lambda e: f"{e['stage']}: attempt {e['attempt']} with agent {e['agent_name']}", "bold"),
    "RunRecorded": (lambda e: f"{e['stage']}: the agent is done", ""),
    "RunFailureRecorded": (lambda e: f"{e['stage']}: the attempt failed ({_cause(e)}){_retry(e)}", ODD),
    "CheckRequested": (lambda e: f"{e['stage']}: gate {e['kind']}{_of(e, 'command', ': ')}", "bold"),
    "GatePassed": (lambda e: f"{e['stage']}: gate passed{_of(e, 'summary', ': ')}", GOOD),
    "GateRefused": (lambda e: f"{e['stage']}: gate refused{_of(e, 'summary', ': ')}", BAD),
    "GateUnevaluated": (lambda e: f"{e['stage']}: the gate could not be checked{_of(e, 'summary', ': ')}", ODD),
    "ApprovalRequested": (lambda e: f"{e['stage']}: waits for approval", ODD),
    "StageApproved": (lambda e: f"{e['stage']}: approved{_of(e, 'by', ' by ')}", GOOD),
    "StageRejected": (lambda e: f"{e['stage']}: rejected: {e['reason']}", BAD),
    "StagePassed": (lambda e: f"{e['stage']}: passed", GOOD),
    "StageRolledBack": (lambda e: f"{e['stage']}: back to {e['to']}: {shortened(e['findings'])}", ODD),
    "QuestionAsked": (lambda e: f"question: {e['question']}", ODD),
    "QuestionAnswered": (lambda e: f"answered: {shortened(e['answer'])}", ""),
    "TaskCompleted": (lambda e: f"task completed{_of(e, 'summary', ': ')}", GOOD),
    "TaskFailed": (lambda e: f"task failed at {e['stage']} ({_cause(e)})", BAD),
    "TaskBlocked": (lambda e: f"task blocked at {e['stage']} ({_cause(e)})", BAD),
    "TaskCancelled": (lambda e: f"task cancelled{_of(e, 'reason', ': ')}", ODD),
    "TaskReopened": (lambda e: f"tried again: {', '.join(e['stages'])}", ""),
    "RunStarted": (lambda e: f"agent {e['agent_name']} begins on {e['host']}{_origin(e)}", ""),
    "RunResumed": (lambda e: f"resumed as epoch {e['epoch']}, after {e['after']}", ODD),
    "RunInterrupted": (lambda e: f"interrupted after {e['after']}", ODD),
    "RunDiverged": (lambda e: f"{e['kind']} diverged: expected {e['expected']}, found {e['found']}", BAD),
    "RunReconciled": (lambda e: f"{e['kind']} reconciled: {e['choice']}, chosen by {e['by']}", GOOD),
    "RunReconfigured": (lambda e: "goes on with what is configured now", ODD),
    "RunAbandoned": (lambda e: f"given up: its {e['kind']} had diverged", BAD),
    "DivergenceReported": (lambda e: f"the {e['kind']} has diverged; somebody has to choose what holds", ODD),
    "DivergenceResolved": (lambda e: f"chosen: {e['choice']}{_of(e, 'by', ' by ')}", GOOD),
    "ModelResponded": (lambda e: f"model, step {e['step']}{_of(e, 'text', ': ')}", ""),
    "ModelCallPostponed": (lambda e: f"the model's provider flinched ({_cause(e)}); the run waits", ODD),
    "ToolCallRequested": (lambda e: f"→ {e['tool']} {content(e['arguments'])}", ""),
    "ToolCallRefused": (lambda e: f"✗ refused: {shortened(e['detail'])}", ODD),
    "ToolCallStarted": (lambda e: f"… {e['tool']} started", FAINT),
    "ToolCallCompleted": (lambda e: f"← {e['tool']}{_exit(e)} {duration(e['duration_ms'])} {_result(e)}", FAINT),
    "ToolCallFailed": (lambda e: f"✗ {e['tool']}: {_cause(e)}", ODD),
    "ToolCallInterrupted": (lambda e: f"✗ {e['tool']} interrupted: {e['reason']}", ODD),
    "ToolCallUncertain": (lambda e: f"? {e['tool']} uncertain: {e['resolution']}", ODD),
    "AnswerReceived": (lambda e: f"answer received: {shortened(e['answer'])}", ""),
    "AgentReminded": (lambda e: "the agent stopped without submitting, and was reminded", ODD),
    "RunSucceeded": (lambda e: f"the agent submits: {shortened(e['summary'], 300)}", GOOD),
    "RunCrashed": (lambda e: f"the program ended with {_code(e)}{_of(e, 'detail', ': ')}", BAD),
    "RunTimedOut": (lambda e: f"ended: not done within {e['limit_seconds']:g} s", BAD),
    "RunFellSilent": (lambda e: f"ended: nothing was printed for {e['limit_seconds']:g} s", BAD),
    "RunOverBudget": (lambda e: f"ended: {e['used']:g} {e['budget']} used, of {e['limit']:g}", BAD),
    "RunRefused": (lambda e: f"the model's provider refuses this run ({_cause(e)})", BAD),
    "RunStarved": (lambda e: f"the model's provider flinched {e['failures']} times in a row ({_cause(e)})", BAD),
    "RunStalled": (lambda e: f"the agent stopped without submitting, in spite of being reminded: {e['detail']}", BAD),
    "RunUnprepared": (lambda e: f"ended before it began: no workspace ({e['cause']})", BAD),
    "RunCrashLooped": (lambda e: f"ended: its runner died {e['epochs']} times at the same step", BAD),
    "RunCancelled": (lambda e: f"run cancelled{_of(e, 'reason', ': ')}", ODD),
    "EnvironmentMoved": (lambda e: f"moved from host {e['from_host']} to {e['host']}", ODD),
    "EnvironmentPrepared": (lambda e: f"workspace ready at {e['base_branch']} {e['base_commit'][:10]}", FAINT),
    "EnvironmentPreparationFailed": (lambda e: f"no workspace: {_cause(e)}", BAD),
    "CallRequested": (lambda e: f"→ {e['tool']} {content(e['arguments'])}{_of(e, 'by', ', asked for by ')}", ""),
    "CheckpointBundled": (lambda e: f"checkpoint {e['checkpoint'][:10]} is kept beside the log", FAINT),
    "EnvironmentInspected": (lambda e: "workspace compared with the log", FAINT),
    "WorkspaceDiverged": (lambda e: f"{e['kind']} diverged: expected {e['expected']}, found {e['found']}", BAD),
    "WorkspaceReconciled": (lambda e: f"workspace settled: {e['choice']}", GOOD),
    "ReconciliationFailed": (lambda e: f"{e['choice']} could not be done: {_cause(e)}", BAD),
    "EnvironmentLost": (lambda e: f"workspace lost: {e['detail']}", BAD),
    "OrphanRemoved": (lambda e: f"orphaned {e['kind']} {e['name']} removed: {e['reason']}", ODD),
    "EnvironmentRemoved": (lambda e: "workspace removed", FAINT),
    "BranchPushed": (lambda e: f"pushed {e['branch']} {e['commit'][:10]}", GOOD),
    "BranchRefused": (lambda e: f"the remote did not take {e['branch']}: {shortened(e['detail'])}", BAD),
    "PullRequestOpened": (lambda e: f"pull request {e['head']} → {e['base']}{_size(e)}", GOOD),
    "PullRequestRevised": (lambda e: f"pull request revised{_size(e)}", ""),
    "PullRequestApproved": (lambda e: f"pull request approved by {e['by']}", GOOD),
    "PullRequestMerged": (lambda e: f"pull request merged as {e['commit'][:10]}", GOOD),
    "PullRequestMergeRefused": (lambda e: f"merge refused ({_cause(e)})", BAD),
    "PullRequestClosed": (lambda e: f"pull request closed{_of(e, 'reason', ': ')}", ODD),
    "SystemStarted": (lambda e: f"system of {e['compose_file']} is up: {_listed(e['services'], 'service')}", GOOD),
    "SystemObserved": (lambda e: f"system seen: {_services(e)}", FAINT),
    "SystemFoundUnhealthy": (lambda e: f"system not up: {e['service'] or e['compose_file']} {e['reason']}", BAD),
    "SystemStopped": (lambda e: f"system down: {e['reason']}", FAINT),
    "ExperimentRequested": (
        lambda e: (
            f"{'dry run' if e['dry_run'] else 'experiment'} on {e['target']}: {e['title']}{_of(e, 'by', ', by ')}"
        ),
        "bold",
    ),
    "ExperimentValidated": (lambda e: f"nothing stands against it; it may take until {_time(e['deadline'])}", FAINT),
    "ExperimentRefused": (lambda e: f"refused ({_cause(e)})", BAD),
    "SteadyStateProbed": (lambda e: f"steady state {e['phase']} the method: {_held(e['probes'])}", ""),
    "StepBegun": (lambda e: f"step {e['step'] or 0}: {e['name']}", "bold"),
    "StepEnded": (lambda e: f"step {e['step'] or 0} {_outcome(e)}{_of(e, 'detail', ': ')}", FAINT),
    "FaultIntended": (
        lambda e: (
            f"{Fields(e['fault'])['kind']} on {', '.join(e['containers'])}{_peers(e)} until {_time(e['ends_at'])}"
        ),
        ODD,
    ),
    "FaultInjected": (lambda e: f"{e['fault_id']} holds, after {e['seconds']:.1f} s", ODD),
    "FaultNotInjected": (lambda e: f"{e['fault_id']} could not be made so ({_cause(e)})", BAD),
    "FaultUndone": (lambda e: f"{e['fault_id']} is undone ({e['reason'] or 'ended'}), in {e['seconds']:.1f} s", GOOD),
    "FaultStuck": (lambda e: f"{e['fault_id']} is stuck: {shortened('; '.join(e['left']), 300)}", BAD),
    "SamplesRecorded": (lambda e: f"{e['probe']}: {e['failed'] or 0} of {e['count']} samples did not hold", FAINT),
    "GuardTripped": (lambda e: f"guard {_probed(e['probe'])}", BAD),
    "ExperimentResumed": (lambda e: f"gone on with by another process on {e['host']}", ODD),
    "AbortRequested": (lambda e: f"called off ({_cause(e)}){_of(e, 'by', ' by ')}", ODD),
    "RollbackPerformed": (lambda e: f"rollback {e['name']} {_outcome(e)}{_of(e, 'detail', ': ')}", ""),
    "RecoveryMeasured": (lambda e: f"steady again {e['seconds'] or 0:.1f} s after the last fault", GOOD),
    "ExperimentCompleted": (lambda e: f"everything held: {e['summary']}", GOOD),
    "ExperimentDeviated": (lambda e: f"something did not hold: {e['summary']}", BAD),
    "ExperimentAborted": (lambda e: f"ended early ({e['cause']}): {e['summary']}", ODD),
    "ChaosHalted": (lambda e: f"chaos is halted{_of(e, 'by', ' by ')}{_of(e, 'reason', ': ')}", ODD),
    "ChaosResumed": (lambda e: f"experiments may begin again{_of(e, 'by', ', says ')}", GOOD),
    "ChaosCapabilitiesFound": (lambda e: f"faults possible on {e['host']}: {_possible(e['faults'])}", FAINT),
    "DeliveryPlanned": (lambda e: f"notification by {e['channel']}: {shortened(e['title'])}", FAINT),
    "DeliveryAttemptRefused": (
        lambda e: f"notification did not arrive ({shortened(e['detail'])}); tried again at {_time(e['retry_at'])}",
        ODD,
    ),
    "DeliverySucceeded": (lambda e: f"notification delivered{_tries(e)}", FAINT),
    "DeliveryAbandoned": (lambda e: f"notification given up after {e['attempts']} attempts: {e['detail']}", BAD),
    "ProviderFaultCounted": (lambda e: f"a provider flinched at {e['run_id']} ({_cause(e)})", ODD),
    "FaultsForgotten": (lambda e: f"the provider answers {e['run_id']} again", FAINT),
    "BreakerOpened": (
        lambda e: (
            f"breaker open after {e['failures']} failures in a row ({_cause(e)}): "
            f"nothing uses the credential until {_time(e['until'])}"
        ),
        BAD,
    ),
    "ProbeStarted": (lambda e: f"{e['run_id']} probes the provider", ODD),
    "ProbeFailed": (lambda e: f"the provider still flinches ({_cause(e)}): open until {_time(e['until'])}", BAD),
    "BreakerClosed": (lambda e: "the provider answers: breaker closed", GOOD),
}


def sentence(event: Event) -> tuple[str, str]:
    """What the event says, and the style to say it in. Events of a newer gateway are told by their fields."""
    kind = event["type"]
    if kind in _SENTENCES:
        tell, style = _SENTENCES[kind]
        try:
            return tell(Fields(event)), style
        except (KeyError, TypeError, ValueError):
            pass  # A newer gateway may shape it otherwise: then its fields speak for themselves.
    rest = " ".join(f"{name}={shortened(str(value), 60)}" for name, value in event.items() if name != "type")
    return f"{kind} {rest}".strip(), BAD if kind.startswith("Run") else ""


class Fields(dict[str, Any]):
    """An event's fields. Those that hold their default are left out on the wire: they read as empty."""

    def __missing__(self, name: str) -> str:
        return ""


def content(value: Any, limit: int = 160) -> str:
    """Content of the API in a line."""
    if not isinstance(value, Mapping):
        return shortened(str(value or ""), limit)
    if value.get("kind") == "stored":
        return f"[{value.get('size_bytes')} bytes, {str(value.get('digest'))[:12]}]"
    return shortened(str(value.get("text") or ""), limit)


def _cause(event: Event) -> str:
    return ": ".join(part for part in (event["cause"], shortened(event["detail"])) if part)


def _origin(event: Event) -> str:
    source = event["forked_from"]
    return f" (goes on from {source['run_id']} at {source['sequence']})" if source else ""


def _retry(event: Event) -> str:
    return "; tried again" if event["retry_at"] else ""


def _of(event: Event, name: str, before: str) -> str:
    return f"{before}{shortened(event[name], 200)}" if event[name] else ""


def _exit(event: Event) -> str:
    code = event["exit_code"]
    return f" exit {code}" if code not in ("", None, 0) else ""


def _code(event: Event) -> str:
    return "no exit code" if event["exit_code"] in ("", None) else f"exit code {event['exit_code']}"


def _tries(event: Event) -> str:
    return f" at attempt {event['attempt']}" if event["attempt"] > 1 else ""


def _result(event: Event) -> str:
    return content(event["content"])


def _services(event: Event) -> str:
    return ", ".join(f"{item['service']} {item['status']}" for item in event["services"])


def _listed(items: Sequence[Event], name: str) -> str:
    return ", ".join(item[name] for item in items)


def _time(moment: str) -> str:
    return when(moment)[11:]


def _peers(event: Event) -> str:
    return f" towards {', '.join(event['peers'])}" if event["peers"] else ""


def _outcome(event: Event) -> str:
    return "done" if event["succeeded"] else "failed"


def _probed(probe: Event) -> str:
    probe = Fields(probe)
    return f"{probe['name']} did not hold{_of(probe, 'detail', ': ')}"


def _held(probes: Sequence[Event]) -> str:
    failed = [_probed(probe) for probe in probes if not probe.get("held")]
    return "; ".join(failed) or "all probes hold"


def _possible(faults: Mapping[str, str]) -> str:
    possible = [kind for kind, why in faults.items() if not why]
    return ", ".join(possible) or "none"


def _size(event: Event) -> str:
    return f" (+{event['lines_added'] or 0} −{event['lines_removed'] or 0} in {event['files_changed'] or 0} files)"
