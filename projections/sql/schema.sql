-- The read models of one tenant. Every table stands in one PostgreSQL schema, which search_path names; nothing here
-- is qualified. A rebuild runs this file in a new schema, fills it and swaps (projections/schema.py).
--
-- There are no migrations: whoever changes this file or a fold raises VERSION in projections/schema.py, and the
-- projector rebuilds.
--
-- Two kinds of table:
--   entity tables (projects, tasks, breakers, runs, environments, pull_requests, deliveries, experiments, chaos): one
--     row an entity, replaced when it changes; `sequence` is the log sequence of the last decision that changed it;
--   append-only tables (entries, call_states): a row an event, never changed.
-- Queries read the views board and timeline, which put the two together.
--
-- Ids sort by bytes (COLLATE "C"): that is faster, and the same on every host. Text is '' where there is none, times
-- and numbers are NULL. JSON stands in json, not jsonb: jsonb cannot hold the NUL characters that programs print.

CREATE TABLE checkpoint (
    -- One row. `sequence`: the last decision folded. `log_created_at`: of the log that it was folded from.
    version        integer     NOT NULL,
    log_created_at timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE projects (
    id             text COLLATE "C" PRIMARY KEY,
    prefix         text        NOT NULL,
    repository_url text        NOT NULL,
    base_branch    text        NOT NULL,
    test_command   text        NOT NULL,
    agents_at_once integer     NOT NULL,
    pipeline       json        NOT NULL, -- events.pipeline.Pipeline
    settings       json        NOT NULL, -- events.project.ProjectSettings
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE tasks (
    id            text COLLATE "C" PRIMARY KEY,
    project_id    text COLLATE "C" NOT NULL,
    number        integer     NOT NULL,
    title         text        NOT NULL,
    -- queued, running, in_review, needs_input, diverged, completed, failed, blocked, cancelled (board adds pending)
    status        text COLLATE "C" NOT NULL,
    reason        text        NOT NULL, -- why it stands there, in a line for a person
    priority      integer     NOT NULL,
    depends_on    text[]      NOT NULL, -- ids of tasks
    agent         text        NOT NULL, -- of the last run, before the first one what the task asks for
    specification json        NOT NULL, -- events.task.TaskSpecification
    forked_from   json        NOT NULL, -- events.lineage.ForkedFrom, or null
    pipeline      json        NOT NULL, -- events.pipeline.Pipeline
    stages        json        NOT NULL, -- list of projections.task.StageView, in the pipeline's order
    questions     json        NOT NULL, -- list of events.task.Question
    divergences   json        NOT NULL, -- list of projections.task.DivergenceView
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    ended_at      timestamptz,
    sequence      bigint      NOT NULL,
    state         bytea       NOT NULL  -- MessagePack of events.task.Task, from which the fold goes on
);

CREATE TABLE breakers (
    id         text COLLATE "C" PRIMARY KEY,
    credential text        NOT NULL, -- which one it is for, for a person; no secret
    status     text COLLATE "C" NOT NULL, -- closed, open, half_open
    failures   integer     NOT NULL, -- in a row
    cause      text        NOT NULL, -- of the last failure
    detail     text        NOT NULL,
    until      timestamptz,          -- set while it is not closed
    probe      text        NOT NULL, -- the run that tries
    updated_at timestamptz NOT NULL,
    sequence   bigint      NOT NULL
);

CREATE TABLE runs (
    id             text COLLATE "C" PRIMARY KEY,
    task_id        text COLLATE "C" NOT NULL,
    stage          text        NOT NULL,
    attempt        integer     NOT NULL,
    environment_id text        NOT NULL,
    agent_name     text        NOT NULL,
    kind           text        NOT NULL, -- model, program
    model          text        NOT NULL,
    host           text        NOT NULL,
    runner         text        NOT NULL,
    epoch          integer     NOT NULL,
    status         text COLLATE "C" NOT NULL, -- pending, running, diverged, or a value of events.run.RUN_ENDS
    steps          integer     NOT NULL,
    input_tokens   bigint      NOT NULL,
    output_tokens  bigint      NOT NULL,
    cost_usd       double precision NOT NULL,
    retry_at       timestamptz,          -- set while it waits for its provider
    summary        text        NOT NULL, -- what the agent said at the end
    cause          text        NOT NULL, -- a slug, '' where it succeeded or goes on
    detail         text        NOT NULL,
    commit         text        NOT NULL, -- the checkpoint it ended with
    requested_at   timestamptz NOT NULL,
    started_at     timestamptz,
    ended_at       timestamptz,
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE environments (
    id             text COLLATE "C" PRIMARY KEY,
    task_id        text COLLATE "C" NOT NULL,
    host           text        NOT NULL,
    isolation      text        NOT NULL,
    workspace      text        NOT NULL,
    repository_url text        NOT NULL,
    base_branch    text        NOT NULL,
    base_commit    text        NOT NULL,
    checkpoint     text        NOT NULL, -- the last commit that holds the whole workspace
    status         text COLLATE "C" NOT NULL, -- preparing, ready, diverged, lost, failed, removed
    running_calls  text[]      NOT NULL, -- call ids
    detail         text        NOT NULL,
    project_id     text        NOT NULL, -- of an environment without a task
    made_by        text        NOT NULL, -- the person whose it is, '' where it is a task's
    system         json        NOT NULL, -- events.systems.System as it was seen last, or null
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE pull_requests (
    id             text COLLATE "C" PRIMARY KEY,
    task_id        text COLLATE "C" NOT NULL,
    repository_url text        NOT NULL,
    title          text        NOT NULL,
    description    text        NOT NULL,
    base           text        NOT NULL,
    base_commit    text        NOT NULL,
    head           text        NOT NULL, -- the branch
    head_commit    text        NOT NULL,
    diff           json        NOT NULL, -- events.content.Content: {"kind": "inline", "text"} or {"kind": "stored", "digest", "size_bytes"}
    files_changed  integer     NOT NULL,
    lines_added    integer     NOT NULL,
    lines_removed  integer     NOT NULL,
    state          text COLLATE "C" NOT NULL, -- open, approved, merged, closed
    forge          text        NOT NULL,
    approved_by    text        NOT NULL,
    merge_commit   text        NOT NULL,
    detail         text        NOT NULL, -- why a merge was refused, or the pull request closed
    opened_at      timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE deliveries (
    id             text COLLATE "C" PRIMARY KEY,
    rule           text        NOT NULL,
    channel        text COLLATE "C" NOT NULL, -- in_app, webhook
    receiver       text        NOT NULL,
    event_sequence bigint      NOT NULL, -- of the decision that it tells about
    event_type     text        NOT NULL,
    subject_entity text        NOT NULL,
    subject_id     text        NOT NULL,
    title          text        NOT NULL,
    body           text        NOT NULL,
    status         text COLLATE "C" NOT NULL, -- pending, delivered, abandoned
    attempts       integer     NOT NULL,
    retry_at       timestamptz,
    detail         text        NOT NULL,
    occurred_at    timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

CREATE TABLE experiments (
    id               text COLLATE "C" PRIMARY KEY,
    title            text        NOT NULL,
    target           text COLLATE "C" NOT NULL, -- an environment's id, or compose:NAME
    host             text        NOT NULL,
    reason           text        NOT NULL,
    requested_by     text        NOT NULL,
    run_id           text        NOT NULL, -- of the tool call that asked, '' where a person did
    call_id          text        NOT NULL,
    dry_run          boolean     NOT NULL,
    status           text COLLATE "C" NOT NULL, -- events.experiment.Experiment.status
    cause            text        NOT NULL, -- a slug, where it was aborted or refused
    summary          text        NOT NULL,
    findings         json        NOT NULL, -- list of events.experiment.Finding
    faults           json        NOT NULL, -- list of projections.experiment.FaultView
    recovery_seconds double precision,
    requested_at     timestamptz NOT NULL,
    ended_at         timestamptz,
    updated_at       timestamptz NOT NULL,
    sequence         bigint      NOT NULL
);

CREATE TABLE chaos (
    -- One row says whether chaos is halted (host is ''), one a host what can be done there.
    id             text COLLATE "C" PRIMARY KEY,
    host           text        NOT NULL,
    halted         boolean     NOT NULL,
    reason         text        NOT NULL,
    halted_by      text        NOT NULL,
    faults         json        NOT NULL, -- kind of fault → why the host cannot do it, '' where it can
    updated_at     timestamptz NOT NULL,
    sequence       bigint      NOT NULL
);

-- What a run did, in its order. `position` is the decision's sequence * 65536 + the event's index in the decision.
CREATE TABLE entries (
    run_id           text COLLATE "C" NOT NULL,
    position         bigint      NOT NULL,
    kind             text COLLATE "C" NOT NULL, -- model, tool, note
    -- of a model answer: the model; of a tool call: the tool; of a note: started, interrupted, resumed, diverged, reconciled,
    -- reconfigured, postponed, reminded, uncertain, succeeded, or how else it ended (a value of events.run.RUN_ENDS)
    name             text        NOT NULL,
    at               bigint      NOT NULL, -- microseconds since 1970: a third of the cost of copying in a timestamptz
    step             integer,
    call_id          text COLLATE "C",
    effects          text,
    arguments        text,                 -- a call's, where they are inline
    arguments_digest text,                 -- where they are stored
    arguments_bytes  bigint,
    text             text        NOT NULL, -- what the model said, what the note says
    stop_reason      text,
    input_tokens     bigint,
    output_tokens    bigint,
    cost_usd         double precision,
    duration_ms      bigint                -- of a model answer
);

-- What became of a call: a row for each thing that happened to it; the one with the highest sequence holds. Also for
-- gates' checks, which no run requested (call_id is then the check's id).
CREATE TABLE call_states (
    call_id       text COLLATE "C" NOT NULL,
    sequence      bigint      NOT NULL,
    state         text COLLATE "C" NOT NULL, -- requested, running, completed, failed, interrupted, uncertain, refused
    at            bigint      NOT NULL, -- microseconds since 1970
    detail        text        NOT NULL, -- of a failure, an interruption, an uncertainty or a refusal
    duration_ms   bigint,
    exit_code     bigint,
    checkpoint    text        NOT NULL, -- set where the workspace changed
    result        text,                 -- where it is inline
    result_digest text,                 -- where it is stored
    result_bytes  bigint,
    output_bytes  bigint,
    truncated     boolean     NOT NULL
);

-- Kept while a rebuild fills the tables: that is done by a processor which has nothing else to do then, and building
-- them at the end is waited for.
CREATE UNIQUE INDEX entries_key ON entries (run_id, position);
CREATE INDEX call_states_key ON call_states (call_id, sequence);
CREATE INDEX tasks_by_project ON tasks (project_id, number);
CREATE INDEX tasks_by_status ON tasks (status);
CREATE INDEX runs_by_task ON runs (task_id);
CREATE INDEX runs_by_status ON runs (status);
CREATE INDEX environments_by_task ON environments (task_id);
CREATE INDEX pull_requests_by_task ON pull_requests (task_id);
CREATE INDEX deliveries_by_time ON deliveries (occurred_at);
CREATE INDEX experiments_by_time ON experiments (requested_at);

-- Tasks as a board shows them. pending: queued, and a task it depends on is not completed.
CREATE VIEW board AS
SELECT
    task.id, task.project_id, task.number, task.title,
    CASE
        WHEN task.status = 'queued' AND EXISTS (
            SELECT 1 FROM unnest(task.depends_on) AS need (id) LEFT JOIN tasks AS other ON other.id = need.id
            WHERE other.status IS DISTINCT FROM 'completed'
        ) THEN 'pending'
        ELSE task.status
    END AS status,
    task.reason, task.priority, task.depends_on, task.agent, task.stages,
    coalesce(offer.head, '') AS branch,
    offer.id AS pull_request_id,
    offer.state AS pull_request_state,
    spent.runs, spent.input_tokens, spent.output_tokens, spent.cost_usd,
    task.created_at, task.updated_at, task.ended_at, task.sequence
FROM tasks AS task
LEFT JOIN LATERAL (
    SELECT id, head, state FROM pull_requests WHERE task_id = task.id ORDER BY opened_at DESC LIMIT 1
) AS offer ON true
CROSS JOIN LATERAL (
    SELECT
        count(*) AS runs,
        coalesce(sum(run.input_tokens), 0)::bigint AS input_tokens,
        coalesce(sum(run.output_tokens), 0)::bigint AS output_tokens,
        coalesce(sum(run.cost_usd), 0) AS cost_usd
    FROM runs AS run WHERE run.task_id = task.id
) AS spent;

CREATE FUNCTION content(inline text, digest text, size_bytes bigint) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    -- events.content.Content, or NULL
    SELECT CASE
        WHEN inline IS NOT NULL THEN json_build_object('kind', 'inline', 'text', inline)
        WHEN digest IS NOT NULL THEN json_build_object('kind', 'stored', 'digest', digest, 'size_bytes', size_bytes)
    END
$$;

CREATE FUNCTION moment(microseconds bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT timestamptz '1970-01-01 00:00:00+00' + microseconds * interval '1 microsecond'
$$;

-- A run's entries with where each call stands. state, tool, arguments, result … are NULL where they do not apply.
CREATE VIEW timeline AS
SELECT
    entry.run_id, entry.position, entry.position >> 16 AS sequence, entry.kind, entry.name, entry.step, entry.call_id,
    CASE WHEN entry.kind = 'tool' THEN entry.name END AS tool,
    entry.effects,
    content(entry.arguments, entry.arguments_digest, entry.arguments_bytes) AS arguments,
    CASE WHEN entry.kind = 'tool' THEN coalesce(latest.state, 'requested') END AS state,
    content(latest.result, latest.result_digest, latest.result_bytes) AS result,
    latest.exit_code,
    coalesce(latest.detail, '') AS detail,
    coalesce(latest.checkpoint, '') AS checkpoint,
    latest.output_bytes,
    coalesce(latest.truncated, false) AS truncated,
    entry.text, entry.stop_reason, entry.input_tokens, entry.output_tokens, entry.cost_usd,
    coalesce(entry.duration_ms, latest.duration_ms) AS duration_ms,
    moment(entry.at) AS requested_at,
    moment(begun.at) AS started_at,
    CASE WHEN latest.state IN ('completed', 'failed', 'interrupted', 'refused') THEN moment(latest.at) END AS ended_at,
    greatest(entry.position >> 16, latest.sequence) AS changed -- the sequence of the last decision that shows here
FROM entries AS entry
LEFT JOIN LATERAL (
    SELECT * FROM call_states AS call WHERE call.call_id = entry.call_id ORDER BY call.sequence DESC LIMIT 1
) AS latest ON entry.kind = 'tool'
LEFT JOIN LATERAL (
    SELECT call.at FROM call_states AS call
    WHERE call.call_id = entry.call_id AND call.state = 'running' ORDER BY call.sequence DESC LIMIT 1
) AS begun ON entry.kind = 'tool';
