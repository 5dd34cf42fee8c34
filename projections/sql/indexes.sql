-- Made after a rebuild has filled the tables: building an index once is cheaper than keeping it.

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
