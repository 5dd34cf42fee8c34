"""What a Compose file may say, as data. What is not named here is refused: a key that a later version of Compose knows
may be as dangerous as any."""

from __future__ import annotations

# Passed on as they are. Those that need a look of their own are not here but in ``guard``.
SERVICE_KEYS = frozenset(
    {
        "cap_drop",
        "command",
        "cpu_period",
        "cpu_quota",
        "cpu_shares",
        "cpus",
        "cpuset",
        "depends_on",
        "dns",
        "dns_opt",
        "dns_search",
        "domainname",
        "entrypoint",
        "expose",
        "healthcheck",
        "hostname",
        "image",
        "init",
        "links",
        "mem_limit",
        "mem_reservation",
        "mem_swappiness",
        "memswap_limit",
        "pids_limit",
        "platform",
        "profiles",
        "pull_policy",
        "read_only",
        "restart",
        "shm_size",
        "stdin_open",
        "stop_grace_period",
        "stop_signal",
        "tmpfs",
        "tty",
        "ulimits",
        "user",
        "working_dir",
    }
)

# Without meaning here: what a person at a terminal would use, and a name that only one environment could have.
DROPPED_KEYS = frozenset({"annotations", "attach", "container_name", "develop"})

# Reach beyond the container: why, for whoever reads the refusal. The project can allow each by its name.
DANGEROUS_KEYS = {
    "cap_add": "capabilities beyond Docker's own reach the kernel that everything here shares",
    "cgroup": "the container would see the control groups of the host",
    "cgroup_parent": "the container would leave its own limits",
    "device_cgroup_rules": "devices of the host would be open to it",
    "devices": "devices of the host would be open to it",
    "group_add": "groups of the host open files of the host",
    "ipc": "it would share memory with others",
    "network_mode": "it would be in a network of others, the host's for example; name networks instead",
    "pid": "it would see and could end processes of others",
    "privileged": "it would be root of the host",
    "runtime": "another runtime has other walls",
    "security_opt": "it would change the walls around the container",
    "sysctls": "settings of the kernel",
    "userns_mode": "it would be in the users of the host",
    "uts": "it would share the name of the host",
    "volumes_from": "it would see volumes of others",
}

BUILD_KEYS = frozenset(
    {
        "additional_contexts",
        "args",
        "context",
        "dockerfile",
        "dockerfile_inline",
        "extra_hosts",
        "labels",
        "network",
        "no_cache",
        "platforms",
        "pull",
        "secrets",
        "shm_size",
        "target",
        "ulimits",
    }
)
# The names of images belong to the host, which others share.
BUILD_DROPPED_KEYS = frozenset({"cache_from", "tags"})

NETWORK_KEYS = frozenset({"attachable", "driver", "driver_opts", "external", "internal", "ipam", "labels", "name"})
VOLUME_KEYS = frozenset({"driver", "driver_opts", "external", "labels", "name"})
FILE_KEYS = frozenset({"content", "environment", "external", "file", "labels", "name"})
TOP_KEYS = frozenset({"configs", "name", "networks", "secrets", "services", "volumes"})

LOG_DRIVERS = ("json-file", "local", "none")
LOG_OPTIONS = {"max-size": "10m", "max-file": "2"}

# What a service gets that says nothing itself.
MEMORY_LIMIT_BYTES = 1024**3
CPUS = 1.0
PIDS = 512

SERVICES_LIMIT = 50
REPLICAS_LIMIT = 10
