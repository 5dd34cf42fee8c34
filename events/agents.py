"""What an agent is: the description that stands in the configuration file and, without secrets, in the log."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one run may use; 0 means no limit. Folded from events, so that a resume never resets them."""

    steps: int = 200
    tokens: int = 0
    seconds: float = 1800.0
    idle_seconds: float = 600.0
    cost_usd: float = 0.0


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs, in US dollars for a million tokens."""

    input_usd: float = 0.0
    output_usd: float = 0.0


class ModelAgent(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag="model",
    tag_field="kind",
):
    """The built-in loop over a model.

    ``provider`` is ``anthropic`` (Messages API), ``openai`` (any chat-completions API) or ``scripted`` (the turns
    of the file ``transcript``). ``key`` is a reference such as ``env:NAME`` or ``file:PATH``, never a secret.
    """

    provider: str
    model: str = ""
    base_url: str = ""
    key: str = ""
    transcript: str = ""
    instructions: str = ""
    max_output_tokens: int = 8192
    price: Price = Price()
    limits: Limits = Limits()
    secrets: dict[str, str] = {}


class ProgramAgent(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag="program",
    tag_field="kind",
):
    """Any command as an agent: its output is the log, its exit code the result.

    The prompt is in the file named by ``$CAIRN_PROMPT_FILE`` and, where an argument is ``{prompt}``, in its place.
    ``secrets`` maps names of environment variables to references.
    """

    command: tuple[str, ...]
    limits: Limits = Limits()
    secrets: dict[str, str] = {}


Agent = ModelAgent | ProgramAgent
