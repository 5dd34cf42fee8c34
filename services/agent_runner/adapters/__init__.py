"""The models that the built-in loop can talk to, chosen by an agent's ``provider`` and imported only then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from events.agents import ModelAgent
from events.errors import CairnError
from services.agent_runner.adapters.http import Http
from services.agent_runner.ports import Model, ModelRefused

PROVIDERS = ("anthropic", "openai", "scripted")


def open_model(agent: ModelAgent, resolve_secret: Callable[[str], str], http: Http) -> Model:
    """The model that ``agent`` names; ``http`` holds the connections of all models, and is closed by its owner.

    ``resolve_secret`` gives the secret that a reference such as ``env:NAME`` stands for. Raises ``ModelRefused``
    where the description cannot be used; the message says what to correct.
    """
    if agent.provider == "scripted":
        return _scripted(agent)
    if agent.provider not in PROVIDERS:
        message = f"there is no provider {agent.provider!r}: use {', '.join(PROVIDERS[:-1])} or {PROVIDERS[-1]}."
        raise ModelRefused(message, slug="request-invalid")
    if not agent.model:
        message = f'the agent names no model: add model = "…" as {agent.provider} calls it.'
        raise ModelRefused(message, slug="model-not-found")
    key = _key(agent, resolve_secret)
    if agent.provider == "anthropic":
        from services.agent_runner.adapters.anthropic import AnthropicModel

        return AnthropicModel(http, model=agent.model, key=key, base_url=agent.base_url)
    from services.agent_runner.adapters.openai import OpenAIModel

    return OpenAIModel(http, model=agent.model, key=key, base_url=agent.base_url)


def _scripted(agent: ModelAgent) -> Model:
    from services.agent_runner.adapters.scripted import ScriptedModel

    if not agent.transcript:
        message = 'a scripted agent needs a transcript: add transcript = "PATH".'
        raise ModelRefused(message, slug="request-invalid")
    return ScriptedModel(Path(agent.transcript).absolute())


def _key(agent: ModelAgent, resolve_secret: Callable[[str], str]) -> str:
    if not agent.key:
        if agent.base_url:
            return ""
        message = f'the agent has no key for {agent.provider}: add key = "env:NAME" or "file:PATH".'
        raise ModelRefused(message, slug="bad-credentials")
    try:
        key = resolve_secret(agent.key).strip()
    except CairnError as error:
        raise ModelRefused(str(error), slug="bad-credentials") from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        message = f"what {agent.key} stands for is no key: it is empty or has blanks or odd characters in it."
        raise ModelRefused(message, slug="bad-credentials")
    return key
