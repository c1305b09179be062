# SPDX-License-Identifier: Apache-2.0
"""Starts the real sectormapd for system tests, and talks to it with the real sectormap command.

A Daemon owns a temporary directory (database, socket, backing files) and one process at a time. It
ends only the process it started. Ports are free ones that the daemon chose; a daemon that is started
again after stop() or kill() gets the same ones, so that initiators find it.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

START_SECONDS = 60  # a loaded machine with two cores; nothing waits this long when all is well
STOP_SECONDS = 60

IQN_PREFIX = "iqn.2026-11.io.sectormap"


class DaemonError(Exception):
    """sectormapd or sectormap did not do what a test needs before it can begin."""


class Daemon:
    """One sectormapd. Use as a context manager."""

    def __init__(self, build_dir, listen=("127.0.0.1:0",), state_dir=None, options=()):
        self.build_dir = pathlib.Path(build_dir)
        self._own_dir = None
        if state_dir is None:
            self._own_dir = tempfile.mkdtemp(prefix="sectormap.")
            state_dir = self._own_dir
        self.state_dir = pathlib.Path(state_dir)
        self.device_root = self.state_dir / "devices"
        self.log = self.state_dir / "sectormapd.log"
        self.server = f"unix:{self.state_dir}/control.sock"
        self._listen = list(listen)
        self._metrics = "127.0.0.1:0"
        self._options = list(options)
        self._process = None

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    # --- the process ---

    def start(self):
        """Returns when the portals and the control socket answer."""
        self.device_root.mkdir(parents=True, exist_ok=True)
        self.spawn()
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process.poll() is not None:
                raise DaemonError(f"sectormapd ended with {self._process.returncode}:\n{self.tail()}")
            if self._read_addresses():
                return
            if time.monotonic() > deadline:
                raise DaemonError(f"sectormapd does not answer:\n{self.tail()}")
            time.sleep(0.05)

    def spawn(self):
        """Starts the process and does not wait for anything."""
        command = [self.build_dir / "sectormapd", "--state-dir", self.state_dir]
        for address in self._listen:
            command += ["--listen", address]
        command += ["--metrics", self._metrics, *self._options]
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def kill(self):
        """kill -9: no chance to write anything down."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self):
        """SIGTERM; returns the exit status."""
        self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def wait(self, seconds=START_SECONDS):
        """Waits for the process to end by itself; returns the exit status."""
        return self._process.wait(seconds)

    def running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self):
        return self._process.pid

    def close(self):
        if self.running():
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()
        if self._own_dir is not None:
            shutil.rmtree(self._own_dir, ignore_errors=True)

    def tail(self, lines=20):
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"

    def _read_addresses(self):
        """Takes the ports that the daemon chose from what it says; false before it is ready."""
        text = self.log.read_text(errors="replace")
        if re.search("^ready$", text, re.M) is None:
            return False
        self._listen = re.findall(r"^iscsi portal (\S+)$", text, re.M)
        self._metrics = re.search(r"^metrics http://(\S+)/metrics$", text, re.M).group(1)
        return True

    # --- how to reach it ---

    @property
    def portal(self):
        return self._listen[0]

    @property
    def port(self):
        return int(self.portal.rpartition(":")[2])

    @property
    def portals(self):
        return list(self._listen)

    @property
    def metrics_url(self):
        return f"http://{self._metrics}/metrics"

    def url(self, name, lun=0, portal=None, credentials=""):
        """libiscsi's URL of an exported device; credentials are `user%password@`."""
        return f"iscsi://{credentials}{portal or self.portal}/{IQN_PREFIX}:{name}/{lun}"

    # --- the command line ---

    def cli(self, *words, check=True, text=None):
        """Runs sectormap; with `check`, a refusal is an error of the test."""
        result = subprocess.run(
            [self.build_dir / "sectormap", "--server", self.server, *map(str, words)],
            input=text, stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True, text=True, timeout=120, check=False)
        if check and result.returncode != 0:
            raise DaemonError(f"sectormap {' '.join(map(str, words))}: exit {result.returncode}: "
                              f"{result.stderr.strip()}\n{self.tail()}")
        return result

    def thin_file(self, name, mib):
        """A backing file that takes no space yet."""
        path = self.device_root / f"{name}.img"
        with open(path, "ab") as file:
            os.truncate(file.fileno(), mib << 20)
        return path

    def thin_volume(self, name, mib):
        """A mapped device of one linear row over a thin file of its own."""
        path = self.thin_file(name, mib)
        self.cli("create", name, "--table", f"0 {mib * 2048} linear {path} 0")
        return path

    def export(self, name, *options):
        """Exports a device; returns its URL. REQUIRES: the name is fit for an iSCSI name."""
        self.cli("export", name, *options)
        return self.url(name)
