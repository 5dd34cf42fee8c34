"""How the model adapters name what goes wrong: passing or final, and why."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from services.agent_runner.adapters import open_model
from services.agent_runner.adapters.http import Http
from services.agent_runner.ports import ModelRefused, ModelUnavailable
from tests.model_examples import (
    OVER_HTTP,
    agent,
    request,
    resolve,
)
from tests.model_server import (
    Fault,
    ModelServer,
    Turn,
    dropped,
    insufficient_quota,
    overloaded,
    rate_limited,
    server_error,
    slow,
    spend_limit_reached,
)

pytestmark = pytest.mark.integration


TRANSIENT = {
    "rate limit": (rate_limited("7"), "rate-limited", 7.0),
    "rate limit without a time": (rate_limited(None), "rate-limited", None),
    "rate limit with nonsense for a time": (rate_limited("soon"), "rate-limited", None),
    "rate limit in milliseconds": (Fault(429, "", (("retry-after-ms", "250"),)), "rate-limited", 0.25),
    "overloaded": (overloaded(), "overloaded", None),
    "server error": (server_error(), "server-error", None),
    "gateway without a body": (Fault(502, "<html>Bad Gateway</html>"), "server-error", None),
    "unavailable": (Fault(503, "", (("retry-after", "3"),)), "overloaded", 3.0),
    "gateway timeout": (Fault(504, ""), "timeout", None),
    "no JSON": (Fault(200, "<html>a captive portal</html>"), "server-error", None),
    "some other JSON": (Fault(200, {"hello": "world"}), "server-error", None),
    "dropped connection": (dropped(), "network", None),
}


@pytest.mark.parametrize("name", TRANSIENT)
@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_the_provider_flinches(provider: str, name: str, http: Http, model_server: ModelServer) -> None:
    """A passing failure names its cause and the least time to wait, is not tried again here, and passes."""
    fault, cause, retry_after_seconds = TRANSIENT[name]
    model_server.add("", [Turn(text="Well again.", faults=(fault,))])
    model = open_model(agent(provider, model_server.url), resolve, http)

    with pytest.raises(ModelUnavailable) as caught:
        await model.respond(request())

    assert (cause, retry_after_seconds) == (caught.value.cause, caught.value.retry_after_seconds)
    assert model_server.url in str(caught.value)
    assert len(model_server.requests) == 1
    assert (await model.respond(request())).text == "Well again."


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_retry_after_may_be_a_date(provider: str, http: Http, model_server: ModelServer) -> None:
    """An HTTP date is turned into the seconds until then."""
    moment = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    model_server.add("", [Turn(faults=(rate_limited(moment),))])

    with pytest.raises(ModelUnavailable) as caught:
        await open_model(agent(provider, model_server.url), resolve, http).respond(request())

    assert 50 < (caught.value.retry_after_seconds or 0) <= 60


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_a_slow_answer_times_out(provider: str, model_server: ModelServer) -> None:
    """An answer that does not come in time is a passing failure."""
    model_server.add("", [Turn(text="late", faults=(slow(5.0),))])
    http = Http(read_timeout_seconds=0.2)

    with pytest.raises(ModelUnavailable) as caught:
        await open_model(agent(provider, model_server.url), resolve, http).respond(request())

    await http.close()
    assert caught.value.cause == "timeout"


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_nobody_listens(provider: str, http: Http) -> None:
    """A refused connection is the network's failure."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(ModelUnavailable) as caught:
        await open_model(agent(provider, url), resolve, http).respond(request())

    assert caught.value.cause == "network"


def error(status: int, type: str, message: str, code: str | None = None) -> Fault:
    return Fault(status, {"type": "error", "error": {"type": type, "message": message, "code": code}})


PERMANENT = [
    ("anthropic", spend_limit_reached(), "spend-limit"),
    ("anthropic", error(429, "rate_limit_error", "m", "enforced_spend_limit_reached"), "spend-limit"),
    ("anthropic", error(402, "billing_error", "pay"), "spend-limit"),
    (
        "anthropic",
        error(400, "invalid_request_error", "You have reached your specified API usage limits."),
        "spend-limit",
    ),
    ("anthropic", error(400, "invalid_request_error", "prompt is too long: 2 > 1"), "context-too-long"),
    ("anthropic", error(413, "request_too_large", "too large"), "context-too-long"),
    ("anthropic", error(403, "permission_error", "no"), "bad-credentials"),
    ("anthropic", error(400, "invalid_request_error", "tools.0: the quota of timeouts"), "request-invalid"),
    ("anthropic", Fault(404, "<html>nginx</html>"), "model-not-found"),
    ("anthropic", Fault(301, "", (("location", "http://elsewhere/"),)), "request-invalid"),
    ("openai", insufficient_quota(), "spend-limit"),
    ("openai", error(429, "insufficient_quota", "m", "project_spend_limit_exceeded"), "spend-limit"),
    ("openai", error(400, "invalid_request_error", "m", "context_length_exceeded"), "context-too-long"),
    (
        "openai",
        Fault(
            400,
            {"object": "error", "type": "BadRequestError", "message": "The maximum context length is 8", "code": 400},
        ),
        "context-too-long",
    ),
    ("openai", error(403, "invalid_request_error", "country"), "bad-credentials"),
    ("openai", Fault(200, {"error": {"message": "no credits", "code": 402}}), "spend-limit"),
    ("openai", Fault(400, {"error": "model is required"}), "request-invalid"),
    ("openai", error(400, "invalid_request_error", "a rate limit of timeouts"), "request-invalid"),
]


@pytest.mark.parametrize(("provider", "fault", "slug"), PERMANENT)
async def test_the_provider_refuses(
    provider: str, fault: Fault, slug: str, http: Http, model_server: ModelServer
) -> None:
    """A refusal that would be repeated is final; typed errors decide, ordinary words do not."""
    model_server.add("", [Turn(faults=(fault,))])

    with pytest.raises(ModelRefused) as caught:
        await open_model(agent(provider, model_server.url), resolve, http).respond(request())

    assert slug == caught.value.slug


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_a_wrong_key(provider: str, http: Http, model_server: ModelServer) -> None:
    """The server does not know the key: final, with advice, and without the key in the message."""
    with pytest.raises(ModelRefused) as caught:
        await open_model(agent(provider, model_server.url), lambda _: "sk-wrong-key", http).respond(request())

    assert caught.value.slug == "bad-credentials"
    assert "sk-wrong-key" not in str(caught.value)
    assert "Check the agent's key" in str(caught.value)


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_an_unknown_model(provider: str, http: Http, model_server: ModelServer) -> None:
    """A model that the provider does not have is final, and named."""
    with pytest.raises(ModelRefused) as caught:
        await open_model(agent(provider, model_server.url, model="gtp-9"), resolve, http).respond(request())

    assert caught.value.slug == "model-not-found"
    assert "gtp-9" in str(caught.value)


@pytest.mark.parametrize("provider", OVER_HTTP)
async def test_a_path_that_is_not_there(provider: str, http: Http, model_server: ModelServer) -> None:
    """A base URL that leads to another page says which address was tried."""
    with pytest.raises(ModelRefused, match="/nowhere/"):
        await open_model(
            agent(provider, model_server.url, base_url=f"{model_server.url}/nowhere"), resolve, http
        ).respond(request())


@pytest.mark.parametrize("base_url", ["localhost:1234", "ftp://example.org", "http://[::1"])
async def test_a_base_url_that_is_none(base_url: str, http: Http) -> None:
    """What is no HTTP address is not tried again."""
    with pytest.raises(ModelRefused) as caught:
        await open_model(agent("openai", "", base_url=base_url), resolve, http).respond(request())

    assert caught.value.slug == "request-invalid"


async def test_an_answer_without_a_choice(http: Http, model_server: ModelServer) -> None:
    """A completion that holds nothing is a failure of the server, not an empty answer."""
    model_server.add("", [Turn(faults=(Fault(200, {"choices": []}),))])

    with pytest.raises(ModelUnavailable):
        await open_model(agent("openai", model_server.url), resolve, http).respond(request())
