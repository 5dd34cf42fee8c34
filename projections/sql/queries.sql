-- What readers ask. Lists are paged by the id (or position) of the last row seen; NULL begins at the beginning.

-- name: checkpoint
SELECT version, log_created_at, sequence FROM checkpoint

-- name: projects
SELECT
    project.*,
    (SELECT count(*) FROM tasks WHERE project_id = project.id) AS tasks,
    (
        SELECT count(*) FROM runs AS run JOIN tasks AS task ON task.id = run.task_id
        WHERE run.status IN ('pending', 'running', 'diverged') AND task.project_id = project.id AND task.ended_at IS NULL
    ) AS agents_running
FROM projects AS project
WHERE $1::text IS NULL OR project.id = $1
ORDER BY project.id

-- name: tasks
SELECT * FROM board
WHERE ($1::text IS NULL OR project_id = $1)
    AND ($2::text[] IS NULL OR status = ANY($2))
    AND ($3::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM tasks WHERE id = $3))
ORDER BY created_at DESC, id DESC
LIMIT $4

-- name: tasks_by_id
SELECT * FROM board WHERE id = ANY($1::text[])

-- name: task
SELECT board.*, task.specification, task.forked_from, task.pipeline, task.questions, task.divergences
FROM board JOIN tasks AS task ON task.id = board.id
WHERE board.id = $1

-- name: runs_of_task
SELECT * FROM runs WHERE task_id = $1 ORDER BY requested_at, id

-- name: runs
SELECT * FROM runs
WHERE ($1::text[] IS NULL OR status = ANY($1))
    AND ($2::text IS NULL OR (requested_at, id) < (SELECT requested_at, id FROM runs WHERE id = $2))
ORDER BY requested_at DESC, id DESC
LIMIT $3

-- name: run
SELECT * FROM runs WHERE id = $1

-- name: timeline
SELECT * FROM timeline WHERE run_id = $1 AND position > $2 ORDER BY position LIMIT $3

-- name: timeline_changes
SELECT * FROM timeline WHERE run_id = $1 AND changed > $2 ORDER BY position

-- name: call
SELECT
    call_id, sequence, state, moment(at) AS at, detail, duration_ms, exit_code, checkpoint,
    content(result, result_digest, result_bytes) AS result, output_bytes, truncated
FROM call_states WHERE call_id = $1 ORDER BY sequence DESC LIMIT 1

-- name: environments
SELECT * FROM environments
WHERE ($1::text IS NULL OR task_id = $1)
    AND ($2::text[] IS NULL OR status = ANY($2))
    AND ($3::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM environments WHERE id = $3))
ORDER BY created_at DESC, id DESC
LIMIT $4

-- name: environment
SELECT * FROM environments WHERE id = $1

-- name: pull_requests
SELECT
    id, task_id, repository_url, title, base, base_commit, head, head_commit, files_changed, lines_added,
    lines_removed, state, forge, approved_by, merge_commit, detail, opened_at, updated_at, sequence
FROM pull_requests
WHERE ($1::text[] IS NULL OR state = ANY($1))
    AND ($2::text IS NULL OR task_id = $2)
    AND ($3::text IS NULL OR (opened_at, id) < (SELECT opened_at, id FROM pull_requests WHERE id = $3))
ORDER BY opened_at DESC, id DESC
LIMIT $4

-- name: pull_request
SELECT * FROM pull_requests WHERE id = $1

-- name: deliveries
SELECT * FROM deliveries
WHERE ($1::text IS NULL OR channel = $1)
    AND ($2::text[] IS NULL OR status = ANY($2))
    AND ($3::text IS NULL OR (occurred_at, id) < (SELECT occurred_at, id FROM deliveries WHERE id = $3))
ORDER BY occurred_at DESC, id DESC
LIMIT $4

-- name: experiments
SELECT * FROM experiments
WHERE ($1::text IS NULL OR target = $1)
    AND ($2::text[] IS NULL OR status = ANY($2))
    AND ($3::text IS NULL OR (requested_at, id) < (SELECT requested_at, id FROM experiments WHERE id = $3))
ORDER BY requested_at DESC, id DESC
LIMIT $4

-- name: experiment
SELECT * FROM experiments WHERE id = $1

-- name: chaos
SELECT * FROM chaos ORDER BY host

-- name: tasks_by_status
SELECT status, count(*) AS tasks FROM board GROUP BY status ORDER BY status

-- name: agents_by_project
SELECT
    project.id, project.agents_at_once,
    count(run.id) FILTER (WHERE run.status IN ('running', 'diverged')) AS running,
    count(run.id) FILTER (WHERE run.status = 'pending') AS starting
FROM projects AS project
LEFT JOIN tasks AS task ON task.project_id = project.id AND task.ended_at IS NULL
LEFT JOIN runs AS run ON run.task_id = task.id AND run.status IN ('pending', 'running', 'diverged')
GROUP BY project.id, project.agents_at_once
ORDER BY project.id

-- name: breakers
SELECT * FROM breakers ORDER BY credential, id

-- name: recent_tasks
SELECT id, project_id, title, status, reason, agent, created_at, updated_at, ended_at
FROM board ORDER BY updated_at DESC, id LIMIT $1
