"""What an agent is: the description that stands in the configuration file and, without secrets, in the log."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

TOKENS_A_PRICE = 1_000_000


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What one run may use; 0 means no limit. Folded from events, so that a resume never resets them."""

    steps: int = 200
    tokens: int = 0
    seconds: float = 1800.0
    idle_seconds: float = 600.0
    cost_usd: float = 0.0


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a model costs, in US dollars for a million tokens. ``cached_input_usd`` is for input that the provider read
    from its cache, ``cache_write_usd`` for input that it put there; where they are not given, that costs as any."""

    input_usd: float = 0.0
    output_usd: float = 0.0
    cached_input_usd: float | None = None
    cache_write_usd: float | None = None

    def cost_usd(self, *, input: int, output: int, cache_read: int = 0, cache_write: int = 0) -> float:
        """What an answer costs. ``input`` counts all of the input's tokens, those of the cache among them."""
        read_usd = self.input_usd if self.cached_input_usd is None else self.cached_input_usd
        write_usd = self.input_usd if self.cache_write_usd is None else self.cache_write_usd
        plain = input - cache_read - cache_write
        usd = plain * self.input_usd + cache_read * read_usd + cache_write * write_usd + output * self.output_usd
        return usd / TOKENS_A_PRICE


class CommandTool(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A tool of an agent's own: a command that is executed in the workspace, and whose output is the result.

    It gets the arguments of the call as a JSON object, on standard input and in the file ``$CAIRN_ARGUMENTS_FILE``;
    ``parameters`` is their JSON schema, for the model. ``$CAIRN_CALL_ID`` is the same for every execution of one call.

    ``effects`` is what it changes: ``none``, the ``workspace``, or the world outside (``external``). Where a crash
    leaves it unknown whether a call happened, the first is executed again, the second too, from the checkpoint before
    it, and of the third ``retry`` tells: ``idempotent`` (executed again), ``probe`` (the command ``probe`` is asked,
    with the same input: exit code 0 says that it happened, and what is printed is its result, 1 that it did not,
    anything else that nobody knows) or ``never`` (the agent is told).
    """

    description: str
    command: tuple[str, ...]
    parameters: dict[str, Any] = {}
    effects: Literal["none", "workspace", "external"] = "external"
    retry: Literal["never", "idempotent", "probe"] = "never"
    probe: tuple[str, ...] = ()
    timeout_seconds: float = 600.0


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
    ``tools`` are its own by name, beside those that every agent has.
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
    tools: dict[str, CommandTool] = {}


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
    ``secrets`` maps names of environment variables to references. ``session_file`` is where the program keeps its own
    record of the session, relative to the working copy or to its home (``~/``): it is compared with what it was after
    the program's last call before the program is started again. ``preflight`` are the arguments with which the workers
    try it now and then, without any work for it: it must end soon, with exit code 0, or 2 where it knows no such
    option. Where there are none it only has to be there.
    """

    command: tuple[str, ...]
    preflight: tuple[str, ...] = ("--version",)
    limits: Limits = Limits()
    secrets: dict[str, str] = {}
    session_file: str = ""


Agent = ModelAgent | ProgramAgent
