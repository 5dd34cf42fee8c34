"""The model that Compose made of a file: what in it is dangerous, and the form in which it runs.

What a file may say is an allow-list (``rules``); the rest is refused, each thing with its key, its service and the
reason. What passes is made fit for running beside others: ports are published on 127.0.0.1 under free numbers, names
that only one could have are the environment's own, limits are filled in, and everything carries Cairn's labels.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from services.environment_manager.compose import rules
from services.environment_manager.compose.refusal import Refusal, raise_if_refused
from services.environment_manager.tools import ToolRefused

Json = dict[str, Any]

LOOPBACK = ("127.0.0.1", "localhost")
RESERVED = ("cairn.", "com.docker.compose.")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """``model`` is what may run; ``changes`` says in sentences what is otherwise than in the file; ``directories`` are
    to be there before, for services that are given them."""

    model: Json
    changes: tuple[str, ...] = ()
    directories: tuple[Path, ...] = ()


# (service, port of its container, protocol) -> the port of the host that is to lead there.
ChoosePort = Callable[[str, int, str], int]


def check(
    model: Json,
    *,
    compose_file: str,
    workspace: Path,
    project: str,
    labels: Mapping[str, str],
    variables: Collection[str],
    allowed: Collection[str],
    choose_port: ChoosePort,
) -> Checked:
    """The model as it may run. ``variables`` are the names of those that secrets may be made of. Raises ``ToolRefused``
    (``compose-refused``) with all that it must not ask for."""
    guard = _Guard(Path(os.path.realpath(workspace)), project, dict(labels), variables, choose_port)
    checked = guard.check(model)
    raise_if_refused(compose_file, guard.refusals, allowed)
    return Checked(model=checked, changes=tuple(guard.changes), directories=tuple(guard.directories))


class _Guard:
    def __init__(
        self, root: Path, project: str, labels: dict[str, str], variables: Collection[str], choose_port: ChoosePort
    ) -> None:
        self._root = root
        self._project = project
        self._labels = labels
        self._variables = variables
        self._choose_port = choose_port
        self._service = ""
        self._built: dict[str, str] = {}
        self.refusals: list[Refusal] = []
        self.changes: list[str] = []
        self.directories: list[Path] = []

    def check(self, model: Json) -> Json:
        services = model.get("services") or {}
        if not services:
            raise ToolRefused("compose-file-invalid", "The Compose file has no services.")
        for key in model:
            if key not in rules.TOP_KEYS and not key.startswith("x-"):
                self._refuse(key, "this part of Compose files is not known here.")
        if len(services) > rules.SERVICES_LIMIT:
            self._refuse("services", f"there are {len(services)}; {rules.SERVICES_LIMIT} are the most.", "replicas")
        for name, service in services.items():
            if service.get("build") and service.get("image"):
                self._built[service["image"]] = f"{self._project}-{name}"
        checked: Json = {"name": self._project, "services": {}}
        for name, service in services.items():
            checked["services"][name] = self._checked_service(name, service)
        self._service = ""
        for kind, look in (("networks", self._network), ("volumes", self._volume)):
            for name, item in (model.get(kind) or {}).items():
                checked.setdefault(kind, {})[name] = look(name, item or {})
        for kind in ("configs", "secrets"):
            for name, item in (model.get(kind) or {}).items():
                checked.setdefault(kind, {})[name] = self._file(kind, name, item or {})
        return checked

    def _refuse(self, key: str, reason: str, allowance: str = "") -> None:
        self.refusals.append(Refusal(key, self._service, reason, allowance))

    # ---- services

    def _checked_service(self, name: str, service: Json) -> Json:
        self._service = name
        own: dict[str, Callable[[Any], Any]] = {
            "build": self._build,
            "configs": self._files,
            "secrets": self._files,
            "deploy": self._deploy,
            "environment": _without_nothing,
            "extra_hosts": self._extra_hosts,
            "labels": self._labelled,
            "logging": self._logging,
            "networks": self._service_networks,
            "ports": self._ports_of(name, service),
            "scale": self._replicas,
            "volumes": self._mounts,
        }
        checked: Json = {}
        for key, value in service.items():
            if key in own:
                checked[key] = own[key](value)
            elif key in rules.SERVICE_KEYS:
                checked[key] = value
            elif key in rules.DANGEROUS_KEYS and not _is_nothing(value):
                self._refuse(key, f"{rules.DANGEROUS_KEYS[key]}.", key)
                checked[key] = value
            elif key == "container_name":
                self.changes.append(f"{name}: container_name {value} is left out, as only one could have it.")
            elif key not in rules.DROPPED_KEYS and not key.startswith("x-") and not _is_nothing(value):
                self._refuse(key, "this key is not known here.")
        image = checked.get("image")
        if image in self._built:
            if checked.get("build"):
                del checked["image"]  # Compose then names it after the project and the service.
            else:
                checked["image"] = self._built[image]
        checked["labels"] = {**checked.get("labels", {}), **self._labels}
        checked.setdefault("logging", {"driver": "json-file", "options": dict(rules.LOG_OPTIONS)})
        checked.setdefault("security_opt", ["no-new-privileges:true"])
        _fill_limits(checked)
        return checked

    def _build(self, build: Json | None) -> Json | None:
        if not build:
            return None
        for key, value in build.items():
            if key not in rules.BUILD_KEYS | rules.BUILD_DROPPED_KEYS and not _is_nothing(value):
                self._refuse(f"build.{key}", "it reaches beyond the build.")
        checked = {key: value for key, value in build.items() if key in rules.BUILD_KEYS}
        if "context" in checked:
            checked["context"] = str(self._inside("build.context", checked["context"]))
            dockerfile = checked.get("dockerfile")
            if dockerfile and "dockerfile_inline" not in checked:
                real = self._inside("build.dockerfile", str(Path(build["context"], dockerfile)))
                checked["dockerfile"] = str(real)
        if checked.get("additional_contexts"):
            checked["additional_contexts"] = {
                name: path
                if path.startswith("docker-image://")
                else str(self._inside("build.additional_contexts", path))
                for name, path in checked["additional_contexts"].items()
            }
        if checked.get("network") not in (None, "", "none", "default"):
            self._refuse("build.network", "a build has its own network or none.", "network_mode")
        if "args" in checked:
            checked["args"] = _without_nothing(checked["args"])
        if "extra_hosts" in checked:
            checked["extra_hosts"] = self._extra_hosts(checked["extra_hosts"])
        if "secrets" in checked:
            checked["secrets"] = self._files(checked["secrets"])
        checked["labels"] = {**self._labelled(checked.get("labels")), **self._labels}
        return checked

    def _ports_of(self, name: str, service: Json) -> Callable[[Any], Any]:
        replicas = _replicas(service)

        def ports(given: list[Json] | None) -> list[Json]:
            return [self._port(name, port, replicas) for port in given or ()]

        return ports

    def _port(self, name: str, port: Json, replicas: int) -> Json:
        address, target, protocol = port.get("host_ip", ""), port["target"], port.get("protocol", "tcp")
        if address and address not in LOOPBACK:
            reason = f"{address}: would be open to others. Write {target}, which is published on 127.0.0.1."
            self._refuse("ports", reason, "host-ports")
            return port
        published = {**port, "host_ip": LOOPBACK[0], "mode": "ingress"}
        if replicas > 1:
            published.pop("published", None)  # Each of them gets its own from the engine.
        else:
            published["published"] = str(self._choose_port(name, target, protocol))
        return published

    def _mounts(self, mounts: list[Json] | None) -> list[Json]:
        return [self._mount(mount) for mount in mounts or ()]

    def _mount(self, mount: Json) -> Json:
        kind = mount.get("type")
        if kind in ("volume", "tmpfs"):
            return mount
        if kind != "bind":
            self._refuse("volumes", f"a mount of type {kind} is not known here.")
            return mount
        options = mount.get("bind") or {}
        if any(key != "create_host_path" and not _is_nothing(value) for key, value in options.items()):
            self._refuse("volumes", f"{mount['source']}: propagation and relabelling change the host.", "host-paths")
        real = self._inside("volumes", mount["source"], "host-paths")
        if real.exists() and stat.S_ISSOCK(real.stat().st_mode):
            self._refuse(
                "volumes", f"{mount['source']} is a socket: who listens there is not in this system.", "sockets"
            )
        elif not real.exists() and real.is_relative_to(self._root):
            self.directories.append(real)
        return {**mount, "source": str(real)}

    def _inside(self, key: str, path: str, allowance: str = "") -> Path:
        """The real path; a refusal where it is not in the working copy."""
        if "://" in path or path.startswith(("git@", "github.com")):
            self._refuse(key, f"{path} is somewhere in the network: copy it into the repository.")
            return Path(path)
        # Compose has resolved everything but links; a dollar is doubled for Compose to read it again.
        real = Path(os.path.realpath(self._root / path.replace("$$", "$")))
        if not real.is_relative_to(self._root):
            self._refuse(key, f"{path} leads out of the working copy, to {real}.", allowance)
        elif any(part.lower() == ".git" for part in real.relative_to(self._root).parts):
            self._refuse(key, f"{path} belongs to git.")
        if "$" in str(real):
            self._refuse(key, f"{path} has a dollar in its path.")
        return real

    def _files(self, files: list[Json] | None) -> list[Json]:
        return list(files or ())

    def _deploy(self, deploy: Json | None) -> Json:
        deploy = deploy or {}
        resources = deploy.get("resources") or {}
        if (resources.get("reservations") or {}).get("devices"):
            self._refuse("deploy.resources.reservations.devices", rules.DANGEROUS_KEYS["devices"] + ".", "devices")
        self._replicas(deploy.get("replicas"))
        return {key: value for key, value in deploy.items() if key in ("resources", "replicas", "restart_policy")}

    def _replicas(self, count: int | None) -> int | None:
        if count is not None and count > rules.REPLICAS_LIMIT:
            self._refuse("replicas", f"{count} of one service; {rules.REPLICAS_LIMIT} are the most.", "replicas")
        return count

    def _extra_hosts(self, hosts: Any) -> Any:
        for entry in [f"{name}={value}" for name, value in hosts.items()] if isinstance(hosts, dict) else hosts or ():
            if "host-gateway" in entry:
                self._refuse("extra_hosts", f"{entry}: leads to the host itself.", "host-gateway")
        return hosts

    def _labelled(self, labels: Any) -> dict[str, str]:
        given: dict[str, str] = (
            labels if isinstance(labels, dict) else dict(item.partition("=")[::2] for item in labels or ())
        )
        for name in given:
            if name.lower().startswith(RESERVED):
                self._refuse("labels", f"{name} is reserved: by it Cairn knows what is its own.")
        return given

    def _logging(self, logging: Json | None) -> Json:
        logging = dict(logging or {})
        driver = logging.setdefault("driver", "json-file")
        if driver not in rules.LOG_DRIVERS:
            self._refuse("logging", f"driver {driver} sends logs elsewhere.", "logging")
        elif driver != "none":
            logging["options"] = {**rules.LOG_OPTIONS, **(logging.get("options") or {})}
        return logging

    def _service_networks(self, networks: Any) -> Any:
        for name, options in (networks or {}).items():
            fixed = [key for key, value in (options or {}).items() if key not in ("aliases", "priority") and value]
            if fixed:
                self._refuse("networks", f"{name}: {', '.join(fixed)}: a fixed address is free for one only.", "ipam")
        return networks

    # ---- what services share

    def _network(self, name: str, network: Json) -> Json:
        where = f"networks.{name}"
        self._shared(where, network, rules.NETWORK_KEYS, ("bridge", ""))
        if any(not _is_nothing(value) for value in (network.get("ipam") or {}).values()):
            self._refuse(f"{where}.ipam", "a fixed subnet is free for one environment only.", "ipam")
        return self._own(where, name, network)

    def _volume(self, name: str, volume: Json) -> Json:
        where = f"volumes.{name}"
        self._shared(where, volume, rules.VOLUME_KEYS, ("local", ""))
        return self._own(where, name, volume)

    def _shared(self, where: str, item: Json, known: Collection[str], drivers: Collection[str]) -> None:
        for key, value in item.items():
            if key not in known and not _is_nothing(value) and not key.startswith("x-"):
                self._refuse(f"{where}.{key}", "this key is not known here.")
        if item.get("external"):
            self._refuse(f"{where}.external", "it belongs to others.", "external")
        if item.get("driver_opts"):
            self._refuse(f"{where}.driver_opts", "by such options any directory or device can be had.", "driver_opts")
        if item.get("driver", "") not in drivers:
            self._refuse(f"{where}.driver", f"{item['driver']}: only Docker's own is known here.", "drivers")

    def _own(self, where: str, name: str, item: Json) -> Json:
        """With a name that no other environment has, and our labels."""
        if item.get("external"):
            return item
        if item.get("name") not in (None, f"{self._project}_{name}"):
            self.changes.append(f"{where}: the name {item['name']} is replaced by one of this environment.")
        kept = {key: value for key, value in item.items() if key != "name" and not key.startswith("x-")}
        return {**kept, "labels": {**self._labelled(item.get("labels")), **self._labels}}

    def _file(self, kind: str, name: str, item: Json) -> Json:
        where = f"{kind}.{name}"
        for key, value in item.items():
            if key not in rules.FILE_KEYS and not _is_nothing(value) and not key.startswith("x-"):
                self._refuse(f"{where}.{key}", "this key is not known here.")
        if item.get("external"):
            self._refuse(f"{where}.external", "it belongs to others.")
        variable = item.get("environment")
        if variable and variable not in self._variables:
            self._refuse(f"{where}.environment", f"no secret of the project is named {variable}.")
        checked = {key: value for key, value in item.items() if key in ("content", "environment")}
        if "file" in item:
            checked["file"] = str(self._inside(f"{where}.file", item["file"]))
        return checked


def _replicas(service: Json) -> int:
    deployed = (service.get("deploy") or {}).get("replicas")
    scale = service.get("scale")
    return int(scale if scale is not None else deployed if deployed is not None else 1)


def _without_nothing(variables: Any) -> Any:
    """Without those that would take their values from whoever starts the system."""
    return {name: value for name, value in (variables or {}).items() if value is not None}


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})


def _fill_limits(service: Json) -> None:
    """Limits for what has none; both ways in which Compose writes them count."""
    deployed = ((service.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    if not service.get("mem_limit") and not deployed.get("memory"):
        service["mem_limit"] = str(rules.MEMORY_LIMIT_BYTES)
    if not service.get("cpus") and not deployed.get("cpus") and not service.get("cpu_quota"):
        service["cpus"] = rules.CPUS
    if not service.get("pids_limit") and not deployed.get("pids"):
        service["pids_limit"] = rules.PIDS
