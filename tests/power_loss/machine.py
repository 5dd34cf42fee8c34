"""A machine whose power can be cut: nats-server on a kernel, a file system and a disk of its own, under an emulator.

The emulator is killed. With it goes everything that the kernel inside had not yet given to its disk, as with the power;
what it had given lies in a file here. `.ci/machine` provides emulator and kernel. A machine boots in about two seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.nats_server import free_port

KERNEL = Path(os.environ.get("CAIRN_TEST_KERNEL", "/usr/local/lib/cairn-test-kernel"))
EMULATOR = "qemu-system-x86_64"
# In the order in which the kernel takes them.
MODULES = (
    *("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk"),
    *("failover", "net_failover", "virtio_net"),
)
DISK_BYTES = 512 * 1024 * 1024
BOOT_SECONDS = 60.0
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in {" ".join(MODULES)}; do insmod /modules/$module.ko; done
ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up
mount -t ext4 /dev/vda /data
exec /bin/nats-server -c /data/nats.conf
"""


def lacking() -> str:
    """What is not there that a machine needs, or nothing."""
    programs = [name for name in (EMULATOR, "busybox", "mkfs.ext4") if shutil.which(name) is None]
    kernel = [] if (KERNEL / "vmlinuz").exists() else [str(KERNEL / "vmlinuz")]
    return ", ".join(programs + kernel)


class Machine:
    """With ``sync`` as nats-server's ``sync_interval``; empty for its default."""

    def __init__(self, directory: Path, *, sync: str) -> None:
        self._directory = directory
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._pack(directory / "root")
        setting = f"  sync_interval: {sync}\n" if sync else ""
        contents = directory / "contents"
        contents.mkdir()
        (contents / "nats.conf").write_text(
            f'listen: "0.0.0.0:4222"\njetstream {{\n  store_dir: /data/store\n  max_file_store: {2**60}\n{setting}}}\n'
        )
        with (directory / "disk").open("wb") as file:
            file.truncate(DISK_BYTES)
        subprocess.run(("mkfs.ext4", "-q", "-d", contents, directory / "disk"), check=True)

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    def _pack(self, root: Path) -> None:
        """What the kernel begins with, in memory."""
        for name in ("bin", "proc", "sys", "dev", "data", "modules"):
            (root / name).mkdir(parents=True)
        shutil.copy(str(shutil.which("busybox")), root / "bin")
        shutil.copy(Path(sys.executable).with_name("nats-server"), root / "bin")
        for module in MODULES:
            shutil.copy(KERNEL / f"{module}.ko", root / "modules")
        (root / "init").write_text(INIT)
        (root / "init").chmod(0o755)
        command = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > ../initrd"
        subprocess.run(command, shell=True, cwd=root, check=True)
        shutil.rmtree(root)

    def start(self) -> None:
        """Return when nats-server greets."""
        forward = f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:4222"
        command = (
            *(EMULATOR, "-accel", "tcg", "-cpu", "max", "-m", "512", "-nographic", "-no-reboot"),
            *("-kernel", KERNEL / "vmlinuz", "-initrd", self._directory / "initrd"),
            *("-append", "console=ttyS0 panic=-1"),
            *("-drive", f"file={self._directory / 'disk'},format=raw,if=virtio,cache=writeback"),
            *("-netdev", forward, "-device", "virtio-net-pci,netdev=net,romfile="),
        )
        with (self._directory / "console").open("ab") as console:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self._port), timeout=1) as greeted,
            ):
                if greeted.recv(4) == b"INFO":
                    return
            time.sleep(0.05)
        console_text = (self._directory / "console").read_text(errors="replace")
        message = f"the machine did not come up:\n{console_text[-2000:]}"
        raise RuntimeError(message)

    def cut_power(self) -> None:
        """At once. The machine can be started again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
