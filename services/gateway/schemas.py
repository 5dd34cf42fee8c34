"""The bodies of commands, checked strictly, with an example each for OpenAPI and its readers.

What a field means in the domain stands with the commands in ``events``; the rules that need the state (names that are
taken, dependencies, pipelines) are the deciders', whose rejections come back as problems.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from events import agents, experiment, pipeline, project, pull_request, sandboxes, task


def _printable(text: str) -> str:
    """A NUL can stand in no argument of a program and in no text of a database."""
    if "\x00" in text:
        message = "must not contain NUL characters"
        raise ValueError(message)
    return text


def _pipeline(raw: Any) -> pipeline.Pipeline:
    try:
        return msgspec.convert(raw, pipeline.Pipeline)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from error


def _inlined_schema(kind: Any) -> dict[str, Any]:
    """The JSON schema of a msgspec type with its references resolved, to stand inside another document."""
    (root,), components = msgspec.json.schema_components([kind])

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if reference is not None:
                return resolve(components[reference.rpartition("/")[2]])
            # A discriminator's mapping would point at what is no longer there.
            return {key: resolve(value) for key, value in node.items() if key != "discriminator"}
        return [resolve(item) for item in node] if isinstance(node, list) else node

    resolved: dict[str, Any] = resolve(root)
    return resolved


Text = Annotated[str, AfterValidator(_printable)]
Word = Annotated[str, AfterValidator(_printable), Field(min_length=1)]
PipelineBody = Annotated[
    pipeline.Pipeline, PlainValidator(_pipeline), WithJsonSchema(_inlined_schema(pipeline.Pipeline))
]


# As large as a number may be in JetStream's and PostgreSQL's sequences.
LARGEST_SEQUENCE = 2**63 - 1
Sequence = Annotated[int, Path(ge=1, le=LARGEST_SEQUENCE)]


class Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


def _example(**fields: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [fields]})


class RepositoryBody(Body):
    url: Word = Field(description="A path on the worker's host or a URL that git understands.")
    base_branch: Text = Field("", description="Empty: the repository's own default branch.")


class SandboxBody(Body):
    image: str = Field("", description="A name, or `dockerfile[:PATH]`; else the dev container's, else the worker's.")
    network: Literal["none", "services", "outward"] = "outward"
    allowed_hosts: list[Word] = Field(["*"], description="Names, *.DOMAIN, or * for every public address.")
    cpus: float = Field(0, ge=0, allow_inf_nan=False)
    memory_mb: int = Field(0, ge=0)
    pids: int = Field(0, ge=0)

    def sandbox(self) -> sandboxes.Sandbox:
        return sandboxes.Sandbox(
            image=self.image,
            network=self.network,
            allowed_hosts=tuple(self.allowed_hosts),
            cpus=self.cpus,
            memory_mb=self.memory_mb,
            pids=self.pids,
        )


class AddProject(Body):
    model_config = _example(
        name="shop", repository={"url": "/srv/git/shop.git"}, test_command="python -m pytest -q", agents_at_once=3
    )
    name: Word
    repository: RepositoryBody
    test_command: Text = ""
    prefix: Text = Field("", description="First part of the ids of its tasks; the project's name where it is empty.")
    agents_at_once: int = Field(3, ge=1, le=5)
    max_attempts: int = Field(2, ge=1)
    pipeline: PipelineBody | None = Field(None, description="The built-in `development` where it is left out.")
    roles: dict[Word, Word] = Field({}, description="Role of a pipeline → name of an agent.")
    secrets: dict[Word, Word] = Field({}, description="Name of a variable → reference, never a secret itself.")
    isolation: Literal["", "container", "worktree"] = Field(
        "", description="Where its agents work; what the worker has where it is empty."
    )
    sandbox: SandboxBody | None = Field(None, description="What its containers are made of.")
    on_divergence: Literal["ask", "restore", "accept", "abandon"] = Field(
        "ask", description="What follows where a run finds the world other than the log tells it."
    )

    compose_allow: list[Word] = Field(
        [], description="What Compose files of the project may ask for all the same: privileged, cap_add, host-paths …"
    )

    def command(self) -> project.AddProject:
        return project.AddProject(
            settings=project.ProjectSettings(
                repository=project.Repository(url=self.repository.url, base_branch=self.repository.base_branch),
                prefix=self.prefix or self.name,
                test_command=self.test_command,
                agents_at_once=self.agents_at_once,
                max_attempts=self.max_attempts,
                pipeline=self.pipeline or pipeline.DEVELOPMENT,
                roles=self.roles,
                secrets=self.secrets,
                isolation=self.isolation,
                sandbox=sandboxes.Sandbox() if self.sandbox is None else self.sandbox.sandbox(),
                on_divergence=self.on_divergence,
                compose_allow=tuple(self.compose_allow),
            )
        )


class BudgetBody(Body):
    """What one run may use; 0 means no limit."""

    steps: int = Field(agents.Limits().steps, ge=0)
    tokens: int = Field(0, ge=0)
    seconds: float = Field(agents.Limits().seconds, ge=0, allow_inf_nan=False)
    idle_seconds: float = Field(agents.Limits().idle_seconds, ge=0, allow_inf_nan=False)
    cost_usd: float = Field(0.0, ge=0, allow_inf_nan=False)


class SubmitTask(Body):
    model_config = _example(
        title="Totals ignore the discount",
        description="`total()` in cart.py forgets the discount of the last item.",
        acceptance_criteria=["test_discount passes"],
        target_files=["cart.py"],
        priority=5,
        depends_on=["shop-1"],
        agent="coder",
        budget={"steps": 80, "cost_usd": 2.5},
    )
    title: Word
    description: Text = ""
    acceptance_criteria: list[Text] = []
    target_files: list[Text] = []
    test_command: Text = Field("", description="The project's where it is empty.")
    priority: int = Field(0, ge=-1_000_000, le=1_000_000, description="Higher goes first.")
    depends_on: list[Text] = Field([], description="Ids of tasks of the same project.")
    agent: Text = Field("", description="The one that the project's roles name where it is empty.")
    budget: BudgetBody | None = None

    def command(self, project_name: str) -> task.SubmitTask:
        return task.SubmitTask(
            specification=task.TaskSpecification(
                project=project_name,
                title=self.title,
                description=self.description,
                acceptance_criteria=tuple(self.acceptance_criteria),
                target_files=tuple(self.target_files),
                test_command=self.test_command,
                priority=self.priority,
                depends_on=tuple(self.depends_on),
                agent=self.agent,
                budget=agents.Limits(**self.budget.model_dump()) if self.budget else None,
            )
        )


class Reason(Body):
    model_config = _example(reason="The feature was dropped.")
    reason: Text = ""


class ForkRun(Body):
    model_config = _example(at=4711, prompt="Use the decimal module instead of floats.", agent="")
    at: int = Field(ge=1, le=LARGEST_SEQUENCE, description="The sequence of the log up to which the run is taken over.")
    prompt: Text = Field("", description="Said to the agent after the conversation up to there.")
    agent: Text = Field("", description="The one that the task had where it is empty.")

    def command(self, run_id: str) -> task.ForkRun:
        return task.ForkRun(run_id=run_id, sequence=self.at, prompt=self.prompt, agent=self.agent)


class RequiredReason(Body):
    model_config = _example(reason="The error message must name the file.")
    reason: Word


class Answer(Body):
    model_config = _example(answer="Use the staging database.", call_id="shop-7-development-1-c3")
    answer: Text
    call_id: Text = Field("", description="May be left out where only one question is open.")

    def command(self) -> task.AnswerQuestion:
        return task.AnswerQuestion(answer=self.answer, call_id=self.call_id)


class Choice(Body):
    model_config = _example(choice="restore", run_id="shop-7-development-1")
    choice: Literal["restore", "accept", "fork", "abandon"] = Field(
        description="What holds: what the log tells, what was found, neither (a new run goes on), or nothing."
    )
    run_id: Text = Field("", description="May be left out where only one run of the task has diverged.")

    def command(self) -> task.ResolveDivergence:
        return task.ResolveDivergence(choice=self.choice, run_id=self.run_id)


class Comment(Body):
    model_config = _example(comment="Looks right.")
    comment: Text = ""

    def command(self) -> pull_request.ApprovePullRequest:
        return pull_request.ApprovePullRequest(comment=self.comment)


class RunExperiment(Body):
    model_config = _example(
        target="shop-7-test",
        document={
            "title": "A worker is killed",
            "steady-state-hypothesis": {
                "title": "The API answers",
                "probes": [
                    {
                        "type": "probe",
                        "name": "health",
                        "tolerance": 200,
                        "provider": {"type": "http", "url": "http://${api:8080}/health"},
                    }
                ],
            },
            "method": [
                {
                    "type": "action",
                    "name": "kill a worker",
                    "provider": {
                        "type": "fault",
                        "kind": "kill_service",
                        "service": "worker-1",
                        "duration_seconds": 10,
                    },
                }
            ],
        },
        reason="Before the release",
    )
    target: Word = Field(description="An environment's id, or compose:NAME of a project that the host allows.")
    document: Word | dict[str, Any] = Field(description="The experiment: an object, or JSON or YAML as text.")
    reason: Text = ""
    dry_run: bool = Field(False, description="Only check it, and find its containers.")
    host: Text = Field("", description="Of a compose:NAME target, where there are several hosts.")

    def command(self) -> experiment.RunExperiment:
        document = self.document
        return experiment.RunExperiment(
            document=document if isinstance(document, str) else msgspec.json.encode(document).decode(),
            target=self.target,
            reason=self.reason,
            dry_run=self.dry_run,
        )


class CreateEnvironment(Body):
    model_config = _example(project="shop", base_branch="main")
    project: Word
    base_branch: Text = Field("", description="The project's where it is empty.")


class EnvironmentCall(Body):
    model_config = _example(tool="compose_exec", arguments={"service": "api", "command": "ls"})
    tool: Word = Field(description="Any tool that agents have: compose_up, compose_status, shell …")
    arguments: dict[str, Any] = {}
