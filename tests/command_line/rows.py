"""Rows as the gateway answers them."""

from __future__ import annotations

from typing import Any

TIME = "2026-05-01T12:00:00Z"


def task_row(id: str = "shop-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "project_id": "shop",
        "number": 1,
        "title": "Totals ignore the discount",
        "status": "completed",
        "reason": "",
        "priority": 0,
        "depends_on": [],
        "agent": "coder",
        "stages": [
            {"name": "development", "status": "passed", "attempt": 1, "gate": "", "cause": "", "findings": ""},
            {"name": "test", "status": "passed", "attempt": 0, "gate": "tests", "cause": "", "findings": ""},
        ],
        "branch": "cairn/shop-1",
        "pull_request_id": "shop-1",
        "pull_request_state": "open",
        "specification": {"project": "shop", "title": "Totals ignore the discount"},
        "questions": [],
        "run_list": [run_row()],
        "created_at": TIME,
        "updated_at": TIME,
        "ended_at": TIME,
        **changes,
    }


def run_row(id: str = "shop-1-development-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "status": "succeeded",
        "agent_name": "coder",
        "steps": 3,
        "input_tokens": 100,
        "output_tokens": 20,
        "cost_usd": 0.01,
        "detail": "",
        "summary": "mended",
        "requested_at": TIME,
        **changes,
    }


def pull_request_row(id: str = "shop-1", **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "task_id": id,
        "title": "Totals ignore the discount",
        "description": "What was done.",
        "state": "open",
        "approved_by": "",
        "head": "cairn/shop-1",
        "base": "main",
        "repository_url": "/srv/shop",
        "head_commit": "a" * 40,
        "merge_commit": "",
        "lines_added": 3,
        "lines_removed": 1,
        "files_changed": 1,
        "detail": "",
        "opened_at": TIME,
        "updated_at": TIME,
        **changes,
    }


def accepted(id: str, sequence: int = 7, **changes: Any) -> dict[str, Any]:
    return {
        "id": id,
        "entity": "task",
        "entity_id": id,
        "outcome": "accepted",
        "sequence": sequence,
        "events": [],
        "command_id": "c",
        **changes,
    }
