# SPDX-License-Identifier: Apache-2.0
"""A machine for tests of what users install: namespaces of network (all ports are free, and ours),
mounts (/var/lib changes for nobody else) and processes (all end with it).
"""

import os
import pathlib
import subprocess
import tempfile
import textwrap

SECONDS = 240  # for one run of anything, on a loaded machine
NOBODY = 65534

# Processes first, so that all ends with `cat`: when its input ends, or is killed with our process.
BOOT = textwrap.dedent("""\
    set -e
    ip link set lo up
    mkdir "$1/upper" "$1/work"
    mount -t overlay -o userxattr,lowerdir=/var/lib,upperdir="$1/upper",workdir="$1/work" \\
      overlay /var/lib
    echo up
    exec cat
    """)

LISTEN = "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); " \
         "print('listening', flush=True); sys.stdin.read()"


class Machine:
    """Namespaces in which commands run. Use as a context manager; REQUIRES: root, or a kernel that
    lets others make user namespaces."""

    def __init__(self, scratch):
        self._scratch = pathlib.Path(tempfile.mkdtemp(dir=scratch))
        self._is_root = os.geteuid() == 0
        self._holder = None
        self._enter = []

    def __enter__(self):
        user = [] if self._is_root else ["--user", "--map-root-user"]
        self._holder = subprocess.Popen(
            ["unshare", *user, "--net", "--mount", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", BOOT, "sh", self._scratch],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._holder.stdout.readline() != "up\n":
            self.close()
            raise RuntimeError("no namespaces here: this test needs root or user namespaces")
        pid = self._holder.pid
        first = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        self._enter = ["nsenter", f"--target={first}", "--net", "--mount", "--pid",
                       *([] if self._is_root else ["--user", "--preserve-credentials"])]
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._holder.stdin.close()
        self._holder.wait(SECONDS)
        self._holder.stdout.close()

    def start(self, *words, user=False, uid=NOBODY, cwd="/", **env):
        """A process in there, not waited for; `user`: as one who is not root, `uid` then (or as near
        to it as we may)."""
        command = ["env", f"--chdir={cwd}", *(f"{key}={value}" for key, value in env.items()),
                   *map(str, words)]
        if user:
            command = (["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
                       if self._is_root else ["unshare", "--user", "--map-user=1000"]) + command
        return subprocess.Popen(self._enter + command, stdin=subprocess.PIPE, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, *words, **options):
        """Runs it to its end; its exit status and words."""
        process = self.start(*words, **options)
        said, _ = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, said)

    def listener(self, port):
        """Somebody who has that port until its stdin is closed."""
        process = self.start("python3", "-c", LISTEN, port)
        process.stdout.readline()
        return process
