"""What ended an agent program: its provider, as it told of it, or something else."""

from __future__ import annotations

import json

import pytest

from services.agent_runner.causes import LOG_END_CHARACTERS, classify

OVERLOADED = (
    'API Error: 529 {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}'
)
SPEND = (
    'API Error: 429 {"type":"error","error":{"type":"rate_limit_error","message":"monthly spend limit",'
    '"details":{"error_code":"enforced_spend_limit_reached"}}}'
)


def result(**fields: object) -> str:
    return json.dumps({"type": "result", "subtype": "success", **fields})


@pytest.mark.parametrize(
    ("log", "cause"),
    [
        (result(is_error=True, api_error_status=529, result=OVERLOADED), "overloaded"),
        (result(is_error=True, api_error_status=429, result="Rate limited"), "rate-limited"),
        (result(is_error=True, api_error_status=429, result=SPEND), "spend-limit"),
        (result(is_error=True, api_error_status=401, result="Invalid API key"), "bad-credentials"),
        ('{"type":"turn.failed","error":{"message":"gave up, last status: 429 Too Many"}}', "rate-limited"),
        ('{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}', "overloaded"),
        ('{"type":"error","error":{"type":"error","code":"insufficient_quota","message":"no"}}', "spend-limit"),
        (OVERLOADED, "overloaded"),
        (f"working\n{OVERLOADED}\nstopped.", "overloaded"),
        (SPEND, "spend-limit"),
        ("openai.RateLimitError: Error code: 429 - {'error': {'code': 'insufficient_quota'}}", "spend-limit"),
        ("x, last status: 429 Too Many Requests", "rate-limited"),
        ("Error code: 503 - busy", "overloaded"),
        ("Error code: 500 - oh", "server-error"),
    ],
)  # fmt: skip
def test_error_of_the_provider_is_told(log: str, cause: str) -> None:
    """The typed error decides, the status where there is none."""
    found = classify(f"some output\n{log}\n")
    assert found is not None
    assert found.cause == cause


@pytest.mark.parametrize(
    "log",
    [
        "",
        "E   TimeoutError: test_timeout exceeded its quota of 429 ms",
        "the rate limit is tested: 529 passed, 1 failed: overloaded_error",
        result(is_error=True, result="I could not find the file", num_turns=3),
        result(is_error=False, result=OVERLOADED),
        f"{OVERLOADED}\n{result(is_error=True, result='I gave up: the tests time out.')}",
        '{"type":"turn.failed","error":{"message":"the sandbox refused the command"}}',
        "API Error: 400 {\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\"}}",
        OVERLOADED + "\n" + "x" * LOG_END_CHARACTERS,
    ],
)  # fmt: skip
def test_anything_else_is_the_programs_own_affair(log: str) -> None:
    """Words do not count, nor what a typed last line does not say, nor what lies before the end of the log."""
    assert classify(log) is None


def test_only_what_time_mends_is_transient() -> None:
    """Neither a spend limit nor bad credentials are."""
    transient = {log: classify(log).is_transient for log in (OVERLOADED, SPEND)}  # type: ignore[union-attr]
    assert transient == {OVERLOADED: True, SPEND: False}
