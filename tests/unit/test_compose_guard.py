"""What Compose files may ask for: each dangerous thing is refused with its key, its service and the reason."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from events.systems import ALLOWABLE
from services.environment_manager.compose import guard, rules, sources
from services.environment_manager.compose.refusal import raise_if_refused
from services.environment_manager.tools import ToolRefused


def check(
    workspace: Path, service: dict[str, Any] | None = None, allowed: tuple[str, ...] = (), **top: Any
) -> guard.Checked:
    model = {"name": "p", "services": {"api": {"image": "x", **(service or {})}}, **top}
    return guard.check(
        model,
        compose_file="compose.yaml",
        workspace=workspace,
        project="p",
        labels={"cairn.environment": "e"},
        variables=("TOKEN",),
        allowed=allowed,
        choose_port=lambda service, target, protocol: 20_000 + target,
    )


def refusal(workspace: Path, service: dict[str, Any] | None = None, **top: Any) -> str:
    with pytest.raises(ToolRefused) as caught:
        check(workspace, service, **top)
    assert caught.value.cause == "compose-refused"
    return str(caught.value)


DANGEROUS: list[tuple[str, dict[str, Any]]] = [
    ("privileged", {"privileged": True}),
    ("network_mode", {"network_mode": "host"}),
    ("network_mode", {"network_mode": "container:other"}),
    ("pid", {"pid": "host"}),
    ("ipc", {"ipc": "host"}),
    ("uts", {"uts": "host"}),
    ("cgroup", {"cgroup": "host"}),
    ("cgroup_parent", {"cgroup_parent": "/"}),
    ("userns_mode", {"userns_mode": "host"}),
    ("devices", {"devices": [{"source": "/dev/sda", "target": "/dev/sda"}]}),
    ("device_cgroup_rules", {"device_cgroup_rules": ["c 1:3 mr"]}),
    ("sysctls", {"sysctls": {"kernel.shmmax": "1"}}),
    ("volumes_from", {"volumes_from": ["container:other"]}),
    ("cap_add", {"cap_add": ["SYS_ADMIN"]}),
    ("security_opt", {"security_opt": ["seccomp=unconfined"]}),
    ("group_add", {"group_add": ["docker"]}),
    ("runtime", {"runtime": "other"}),
    ("oom_score_adj", {"oom_score_adj": -1000}),
    ("provider", {"provider": {"type": "awesomecloud"}}),
    ("post_start", {"post_start": [{"command": "ls", "privileged": True}]}),
    ("credential_spec", {"credential_spec": {"file": "x"}}),
    ("extra_hosts", {"extra_hosts": ["host=host-gateway"]}),
    ("ports", {"ports": [{"target": 80, "published": "80", "host_ip": "0.0.0.0"}]}),
    ("ports", {"ports": [{"target": 80, "published": "80", "host_ip": "192.0.2.1"}]}),
    ("labels", {"labels": {"cairn.environment": "another"}}),
    ("labels", {"labels": {"com.docker.compose.project": "another"}}),
    ("replicas", {"scale": 1000}),
    ("replicas", {"deploy": {"replicas": 1000}}),
    ("deploy.resources.reservations.devices", {"deploy": {"resources": {"reservations": {"devices": [{}]}}}}),
    ("logging", {"logging": {"driver": "syslog", "options": {"syslog-address": "udp://192.0.2.1"}}}),
    ("networks", {"networks": {"default": {"ipv4_address": "172.16.0.2"}}}),
    ("volumes", {"volumes": [{"type": "bind", "source": "/etc", "target": "/e"}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": "/var/run/docker.sock", "target": "/s"}]}),
    ("volumes", {"volumes": [{"type": "npipe", "source": "x", "target": "/s"}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": "SOCKET", "target": "/s"}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": "LINK", "target": "/s"}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": ".git", "target": "/s"}]}),
    ("volumes", {"volumes": [{"type": "bind", "source": ".", "target": "/s", "bind": {"propagation": "shared"}}]}),
    ("build.context", {"build": {"context": "/etc"}}),
    ("build.context", {"build": {"context": "https://example.com/repository.git"}}),
    ("build.context", {"build": {"context": "LINK"}}),
    ("build.dockerfile", {"build": {"context": ".", "dockerfile": "../Dockerfile"}}),
    ("build.additional_contexts", {"build": {"context": ".", "additional_contexts": {"x": "/etc"}}}),
    ("build.network", {"build": {"context": ".", "network": "host"}}),
    ("build.ssh", {"build": {"context": ".", "ssh": ["default"]}}),
    ("build.privileged", {"build": {"context": ".", "privileged": True}}),
    ("build.entitlements", {"build": {"context": ".", "entitlements": ["security.insecure"]}}),
    ("build.cache_to", {"build": {"context": ".", "cache_to": ["type=local,dest=/etc"]}}),
]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """With a link out of it, and a socket in it."""
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "LINK").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "SOCKET"))
    return root


@pytest.mark.parametrize(("key", "service"), DANGEROUS)
def test_dangerous_key_is_refused(workspace: Path, key: str, service: dict[str, Any]) -> None:
    """With the service that has it, and a reason."""
    line = refusal(workspace, service).splitlines()[1]
    assert line.startswith(f"- service api: {key}: ")
    assert len(line) > len(f"- service api: {key}: ") + 10


@pytest.mark.parametrize(
    ("key", "top"),
    [
        ("volumes.data.driver_opts", {"volumes": {"data": {"driver_opts": {"type": "none", "device": "/etc"}}}}),
        ("volumes.data.external", {"volumes": {"data": {"external": True, "name": "others"}}}),
        ("volumes.data.driver", {"volumes": {"data": {"driver": "nfs"}}}),
        ("networks.back.external", {"networks": {"back": {"external": True, "name": "host"}}}),
        ("networks.back.driver", {"networks": {"back": {"driver": "macvlan"}}}),
        ("networks.back.driver_opts", {"networks": {"back": {"driver_opts": {"parent": "eth0"}}}}),
        ("networks.back.ipam", {"networks": {"back": {"ipam": {"config": [{"subnet": "10.0.0.0/8"}]}}}}),
        ("networks.back.enable_ipv6", {"networks": {"back": {"enable_ipv6": True}}}),
        ("secrets.s.file", {"secrets": {"s": {"file": "/etc/shadow"}}}),
        ("secrets.s.file", {"secrets": {"s": {"file": "LINK/x"}}}),
        ("secrets.s.external", {"secrets": {"s": {"external": True}}}),
        ("secrets.s.environment", {"secrets": {"s": {"environment": "HTTPS_PROXY"}}}),
        ("configs.c.template_driver", {"configs": {"c": {"content": "x", "template_driver": "golang"}}}),
        ("models", {"models": {"llm": {"model": "x"}}}),
    ],
)
def test_what_services_share_is_refused_too(workspace: Path, key: str, top: dict[str, Any]) -> None:
    """Outside of any service the key says where it stands."""
    assert f"- {key}: " in refusal(workspace, **top)


def test_project_can_allow_by_name_and_nothing_else(workspace: Path) -> None:
    """The refusal names what would allow it; what is reserved nobody can allow."""
    assert "compose_allow can name: ['privileged']" in refusal(workspace, {"privileged": True})
    assert check(workspace, {"privileged": True}, ("privileged",)).model["services"]["api"]["privileged"] is True
    assert "cap_add" in refusal(workspace, {"privileged": True, "cap_add": ["ALL"]}, allowed=("privileged",))
    assert "reserved" in refusal(workspace, {"labels": {"cairn.role": "sandbox"}}, allowed=ALLOWABLE)
    assert "not known" in refusal(workspace, {"provider": {"type": "x"}}, allowed=ALLOWABLE)


def test_what_passes_is_made_fit_to_run_beside_others(workspace: Path) -> None:
    """Ports, names, limits, logs and labels; what there is of them in the file stays."""
    checked = check(
        workspace,
        {
            "ports": [{"target": 80, "published": "8080", "protocol": "tcp"}],
            "container_name": "api",
            "environment": {"A": "1", "PASSED": None},
            "volumes": [{"type": "bind", "source": str(workspace / "new"), "target": "/n"}],
            "build": {"context": str(workspace), "tags": ["postgres:16"]},
            "labels": {"a": "b"},
            "mem_limit": "1000",
        },
        networks={"default": {"name": "fixed", "ipam": {}}},
        secrets={"s": {"environment": "TOKEN"}},
        volumes={"data": {"name": "p_data"}},
    )
    api = checked.model["services"]["api"]
    assert api["ports"] == [
        {"target": 80, "published": "20080", "protocol": "tcp", "host_ip": "127.0.0.1", "mode": "ingress"}
    ]
    assert (api["mem_limit"], api["cpus"], api["pids_limit"]) == ("1000", rules.CPUS, rules.PIDS)
    assert api["labels"] == {"a": "b", "cairn.environment": "e"}
    assert api["environment"] == {"A": "1"}
    assert api["security_opt"] == ["no-new-privileges:true"]
    assert api["logging"]["options"] == rules.LOG_OPTIONS
    assert not {"container_name", "image"} & api.keys()
    assert "tags" not in api["build"]
    assert checked.model["networks"] == {"default": {"ipam": {}, "labels": {"cairn.environment": "e"}}}
    assert checked.model["volumes"] == {"data": {"labels": {"cairn.environment": "e"}}}
    assert checked.model["secrets"] == {"s": {"environment": "TOKEN"}}
    assert checked.directories == (workspace / "new",)
    assert [change.partition(" ")[0] for change in checked.changes] == ["api:", "networks.default:"]


def test_image_that_is_built_is_the_environments_own(workspace: Path) -> None:
    """Whoever else names it gets that one: a tag of the host must not change for others."""
    model = {
        "services": {
            "api": {"image": "postgres:16", "build": {"context": str(workspace)}},
            "job": {"image": "postgres:16"},
            "other": {"image": "postgres:17"},
        }
    }
    checked = guard.check(
        model,
        compose_file="c",
        workspace=workspace,
        project="p",
        labels={},
        variables=(),
        allowed=(),
        choose_port=lambda *of: 1,
    )
    images = {name: service.get("image") for name, service in checked.model["services"].items()}
    assert images == {"api": None, "job": "p-api", "other": "postgres:17"}


def test_several_of_a_service_get_their_ports_from_the_engine(workspace: Path) -> None:
    """One number would be free for one of them only."""
    api = check(workspace, {"scale": 2, "ports": [{"target": 80, "published": "8080"}]}).model["services"]["api"]
    assert api["ports"] == [{"target": 80, "host_ip": "127.0.0.1", "mode": "ingress"}]


# ---- files, before Compose reads them


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("service api: env_file", "services: {api: {env_file: ../outside.env}}"),
        ("service api: env_file", "services: {api: {env_file: [{path: /etc/passwd, required: false}]}}"),
        ("service api: env_file", "services: {api: {env_file: '${X}/../../outside'}}"),
        ("service api: env_file", "services: {api: {env_file: LINK/outside.env}}"),
        ("service api: env_file", "services: {api: {env_file: SOCKET}}"),
        ("service api: env_file", "services: {api: {env_file: .git}}"),
        ("service api: env_file", "x-e: &e {env_file: ../outside.env}\nservices: {api: {<<: *e}}"),
        ("service api: env_file", "services: {api: {env_file: !override ['../outside.env']}}"),
        ("service api: env_file", "services: {}\n---\nservices: {api: {env_file: ../outside.env}}"),
        ("service api: label_file", "services: {api: {label_file: ../labels}}"),
        ("service api: extends.file", "services: {api: {extends: {file: ../other.yaml, service: a}}}"),
        ("include", "include: [../other.yaml]"),
        ("include", "include: ['https://example.com/compose.yaml']"),
        ("include", "include: ['git@example.com:a/b.git']"),
        ("include", "include: ['oci://example.com/a']"),
        ("include", "include: [{path: [inner.yaml, ~/other.yaml]}]"),
        ("include.project_directory", "include: [{path: inner.yaml, project_directory: ..}]"),
        ("include.env_file", "include: [{path: inner.yaml, env_file: ../a.env}]"),
        ("secrets.s.file", "secrets: {s: {file: ../s.txt}}"),
        ("configs.c.file", "configs: {c: {file: /etc/shadow}}"),
        ("service deep: env_file", "include: [sub/leads_out.yaml]"),
        ("service deep: env_file", "services: {api: {extends: {file: sub/leads_out.yaml, service: deep}}}"),
    ],
)
def test_file_outside_of_the_working_copy_is_not_read(workspace: Path, key: str, text: str) -> None:
    """However it is named, and from however deep."""
    (workspace / "compose.yaml").write_text(text)
    (workspace / "inner.yaml").write_text("services: {}")
    (workspace / "sub").mkdir()
    (workspace / "sub" / "leads_out.yaml").write_text("services: {deep: {env_file: ../../outside.env}}")
    with pytest.raises(ToolRefused) as caught:
        raise_if_refused("compose.yaml", sources.refusals(workspace, "compose.yaml"), ALLOWABLE)
    assert f"- {key}: " in str(caught.value)


def test_files_of_the_working_copy_may_be_named(workspace: Path) -> None:
    """Also by a path that goes up and down again, relative to the file that names them, and by a link that stays."""
    (workspace / "sub").mkdir()
    (workspace / "stays.env").symlink_to(workspace / "a.env")
    (workspace / "sub" / "inner.yaml").write_text("services: {a: {env_file: ../a.env}}")
    (workspace / "compose.yaml").write_text(
        "include: [sub/inner.yaml]\n"
        "services:\n"
        "  b: {env_file: stays.env, extends: {file: sub/inner.yaml, service: a}}\n"
        "  c: {extends: {service: b}}\n"
        "secrets: {s: {file: s.txt}, e: {environment: E}}\n"
    )
    assert sources.refusals(workspace, "compose.yaml") == []


def test_dotenv_that_leads_out_is_refused(workspace: Path) -> None:
    """Compose reads it without being told to."""
    (workspace / "compose.yaml").write_text("services: {}")
    (workspace / ".env").symlink_to("/etc/passwd")
    assert [found.key for found in sources.refusals(workspace, "compose.yaml")] == [".env"]


@pytest.mark.parametrize("text", ["services: [", "a: b: c", "\x00", "x: " + "[" * 5000, "? [a]\n: b\n&a *a"])
def test_what_is_no_yaml_is_said_to_be_none(workspace: Path, text: str) -> None:
    """And nothing worse happens."""
    (workspace / "compose.yaml").write_text(text)
    with pytest.raises(ToolRefused) as caught:
        sources.refusals(workspace, "compose.yaml")
    assert caught.value.cause == "compose-file-invalid"
    assert "compose.yaml is no valid YAML" in str(caught.value)


def test_compose_file_is_found_under_its_usual_names(workspace: Path) -> None:
    """One that is not there is answered with those that are."""
    with pytest.raises(ToolRefused, match=r"There is no Compose file compose.yaml, compose.yml"):
        sources.find(workspace, "")
    (workspace / "docker-compose.yml").write_text("services: {}")
    assert sources.find(workspace, "") == "docker-compose.yml"
    with pytest.raises(ToolRefused, match=r"no Compose file other.yaml. In the root .* there are docker-compose.yml"):
        sources.find(workspace, "other.yaml")
    with pytest.raises(ToolRefused, match="outside the working copy"):
        sources.find(workspace, "../compose.yaml")
