# SPDX-License-Identifier: Apache-2.0
"""SPDK's iscsi_tgt, the peer that polls. Debian has no package of it: who measures gives the program."""

import json
import signal
import subprocess
import sys
import time

from measure import SERVER_CORE
from tgt import IQN, free_port

START_SECONDS = 30  # it reserves and clears its memory first
STOP_SECONDS = 10
MEMORY_MIB = 2048   # half a GiB of it for a store in memory; the rest are its buffers
BLOCK_BYTES = 512
# As sectormapd and tgt offer it; SPDK's own 8192 would have every larger write wait for an R2T.
FIRST_BURST_BYTES = 65536


def call(method, **parameters):
    return {"method": method, "params": parameters}


def configuration(port, stores):
    """`stores`: name -> (path, None for memory; MiB). A target each."""
    devices, targets = [], []
    for name, (path, mib) in stores.items():
        if path is None:
            devices.append(call("bdev_malloc_create", name=name, block_size=BLOCK_BYTES,
                                num_blocks=(mib << 20) // BLOCK_BYTES))
        else:
            devices.append(call("bdev_aio_create", name=name, filename=str(path),
                                block_size=BLOCK_BYTES))
        targets.append(call("iscsi_create_target_node", name=f"{IQN}:{name}", alias_name=name,
                            pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}], queue_depth=64,
                            luns=[{"bdev_name": name, "lun_id": 0}], disable_chap=True))
    iscsi = [call("iscsi_set_options", first_burst_length=FIRST_BURST_BYTES),
             call("iscsi_create_portal_group", tag=1,
                  portals=[{"host": "127.0.0.1", "port": str(port)}]),
             call("iscsi_create_initiator_group", tag=1, initiators=["ANY"],
                  netmasks=["127.0.0.0/8"]), *targets]
    return {"subsystems": [{"subsystem": "bdev", "config": devices},
                           {"subsystem": "iscsi", "config": iscsi}]}


def free_huge_mib():
    with open("/proc/mounts", encoding="utf-8") as file:
        if " hugetlbfs " not in file.read():
            return 0
    with open("/proc/meminfo", encoding="ascii") as file:
        info = {name: int(value.split()[0]) for name, value in (line.split(":") for line in file)}
    return info["HugePages_Free"] * info["Hugepagesize"] // 1024


class Spdk:
    """An iscsi_tgt of our own, with one target per store. Stopped at once: it would take its core
    from all others; an Arm that `polls` has it run while it is measured. A context manager."""

    def __init__(self, program, directory, stores):
        self.port = free_port()
        self._log_path, self._socket = directory / "iscsi_tgt.log", directory / "iscsi_tgt.sock"
        config = directory / "iscsi_tgt.json"
        config.write_text(json.dumps(configuration(self.port, stores)))
        huge = free_huge_mib() >= MEMORY_MIB
        if not huge:
            print(f"# SPDK finds no {MEMORY_MIB} MiB of huge pages", file=sys.stderr)
        self._log = open(self._log_path, "w", encoding="utf-8")
        self.process = subprocess.Popen(
            [program, "-c", config, "-m", hex(1 << SERVER_CORE), "-s", str(MEMORY_MIB), "--no-pci",
             "--iova-mode", "va", "-r", self._socket, *([] if huge else ["--no-huge"])],
            stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait()
        except BaseException:
            self.close()
            raise
        self.process.send_signal(signal.SIGSTOP)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _wait(self):
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if self._socket.exists():  # it listens there once the configuration is done
                return
            time.sleep(0.1)
        sys.exit("iscsi_tgt does not answer:\n" + self._log_path.read_text(errors="replace")[-2000:])

    @property
    def pid(self):
        return self.process.pid

    def url(self, name):
        return f"iscsi://127.0.0.1:{self.port}/{IQN}:{name}/0"

    def close(self):
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()  # by itself it gives back its huge pages and what it has in /dev/shm
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._log.close()
