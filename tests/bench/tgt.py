# SPDX-License-Identifier: Apache-2.0
"""Debian's tgt, the peer."""

import os
import signal
import socket
import subprocess
import sys
import time

CONTROL_PORT = 93  # tgtadm's -C: a tgtd of our own beside any other
IQN = "iqn.2026-11.io.sectormap.bench"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Tgt:
    """A tgtd of our own with one target per store, given as (name, store, path). A context manager."""

    def __init__(self, directory, stores):
        self.port = free_port()
        self._log = open(directory / "tgtd.log", "w", encoding="utf-8")
        os.makedirs("/var/run/tgtd", exist_ok=True)  # tgtd's control socket, at a fixed place
        self.process = subprocess.Popen(
            ["tgtd", "-f", "-C", str(CONTROL_PORT), "--iscsi", f"portal=127.0.0.1:{self.port}"],
            stdout=self._log, stderr=subprocess.STDOUT)
        try:
            self._wait()
            for tid, (name, store, path) in enumerate(stores, 1):
                self._admin("target", "new", tid, "--targetname", f"{IQN}:{name}")
                self._admin("logicalunit", "new", tid, "--lun", "1", "--bstype", store,
                            "--backing-store", str(path))
                self._admin("target", "bind", tid, "-I", "ALL")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _wait(self):
        for _ in range(100):
            if subprocess.run(["tgtadm", "-C", str(CONTROL_PORT), "--mode", "system", "--op",
                               "show"], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit("tgtd does not answer")

    @staticmethod
    def _admin(mode, operation, tid, *words):
        subprocess.run(["tgtadm", "-C", str(CONTROL_PORT), "--lld", "iscsi", "--mode", mode,
                        "--op", operation, "--tid", str(tid), *words], check=True)

    @property
    def pid(self):
        return self.process.pid

    def url(self, name):
        return f"iscsi://127.0.0.1:{self.port}/{IQN}:{name}/1"

    def close(self):
        self.process.send_signal(signal.SIGKILL)  # tgtd ends on SIGTERM only without targets
        self.process.wait()
        self._log.close()
