"""The ``cairn.toml`` that ``cairn up`` writes where there is none: every setting, commented out, with what it means.

A test uncomments it and reads it with the settings' own types, so that it cannot name what does not exist.
"""

from __future__ import annotations

EXAMPLE = """\
# Settings of Cairn, read by every service when it starts: after a change, stop `cairn up` and start it again.
# What is commented out shows the default or an example. `cairn doctor` checks this file.
# A setting can also come from the environment: CAIRN_GATEWAY__PORT=9000 is [gateway] port.

# ---- Agents -------------------------------------------------------------------------------------------------------
# One section each; `cairn task submit PROJECT "…" --agent NAME` chooses one. There are two kinds:
#   model    the built-in loop over a model's API, with tools for shell and files
#   program  any command that edits the files in its working directory; its exit code is the result
# A key is a reference and never stands here itself: "env:NAME" (a variable in the environment of `cairn up`) or
# "file:PATH".

# [agents.claude]
# kind = "model"
# provider = "anthropic"            # the Messages API
# model = "claude-sonnet-4-5"
# key = "env:ANTHROPIC_API_KEY"
# base_url = ""                     # empty: the provider's own
# instructions = ""                 # added to what Cairn tells the model
# max_output_tokens = 8192          # in one answer
# price = { input_usd = 3.0, output_usd = 15.0, cached_input_usd = 0.3, cache_write_usd = 3.75 }   # a million tokens
# limits = { steps = 200, tokens = 0, seconds = 1800.0, idle_seconds = 600.0, cost_usd = 0.0 }   # 0: no limit

# [agents.claude.tools.deploy]        # a tool of its own: a command that gets the call's arguments as JSON on stdin
# description = "Deploy the branch to the test system."
# command = ["./deploy.sh"]
# parameters = { type = "object", properties = { version = { type = "string" } }, required = ["version"] }
# effects = "external"              # none, workspace or external: what a crash must not repeat by itself
# retry = "probe"                   # never, idempotent or probe: what follows where nobody knows if it happened
# probe = ["./is-deployed.sh"]      # exit code 0: it happened (what it prints is the result), 1: it did not
# timeout_seconds = 600.0

# [agents.local]
# kind = "model"
# provider = "openai"               # any API that speaks chat completions
# model = "qwen3-coder"
# base_url = "http://127.0.0.1:11434/v1"
# key = "env:LOCAL_MODEL_KEY"

# [agents.claude-code]
# kind = "program"
# command = ["claude", "--print", "--permission-mode", "acceptEdits", "{prompt}"]   # also in $CAIRN_PROMPT_FILE
# secrets = { ANTHROPIC_API_KEY = "env:ANTHROPIC_API_KEY" }   # variable the program sees = reference
# preflight = ["--version"]         # arguments with which workers try if it can be run; []: it only has to be there
# session_file = ""                 # its own record of the session: compared before it is started again
# limits = { seconds = 3600.0, idle_seconds = 600.0 }

# [agents.rehearsal]
# kind = "model"
# provider = "scripted"             # plays back the turns of a file: for trying things out without a model
# transcript = "transcript.json"

# ---- The rest -----------------------------------------------------------------------------------------------------

# [gateway]
# host = "127.0.0.1"                # where the HTTP API listens
# port = 8420
# max_body_bytes = 1048576
# outcome_timeout_seconds = 5.0     # how long a request waits for the outcome of its command before it answers 202

# [scheduling]
# agents_at_once = 10               # of all projects together
# retry_delay_seconds = 1.0
# reconcile_seconds = 5.0           # how often what should run is compared with what does
# transient_attempts = 5            # tries of a stage whose provider left its run without answers
# backoff_seconds = 10.0            # the first wait before that; it doubles
# breaker_failures = 3              # so many of them in a row and a credential is left alone
# breaker_seconds = 300.0           # for so long

# [worker]
# host = ""                         # this worker's name; empty: the host's
# agents_at_once = 64
# lease_seconds = 15.0              # how long a run waits for its runner to show life before another takes it
# preflight_seconds = 45.0          # how often the programs of agents are tried
# grace_seconds = 20.0              # what a process is given to end when it is asked to
# output_limit_bytes = 1073741824   # of one process

# [telemetry]
# otlp_endpoint = ""                # base URL of an OTLP/HTTP receiver; empty: no export
# log_level = "info"                # debug, info, warning, error
# log_format = "json"               # or console

# [webhooks.chat]                   # told about tasks that end, want input or are blocked
# url = "https://example.org/hooks/cairn"
# secret = "env:CAIRN_WEBHOOK_SECRET"
# events = []                       # names of event types; empty: all that notify
# allow_private_addresses = false
"""
