#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel writes to ext4 on a LUN while the host takes snapshots of it, removes them, rolls
back and moves the data, and kills sectormapd in the middle of each; live.sh is the guest's part.

    live_test.py --build-dir build/release --image build/guest
"""

import argparse
import json
import os
import pathlib
import random
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from daemon import IQN_PREFIX, Daemon, DaemonError  # noqa: E402
from guest import Guest  # noqa: E402
from image import ImageError, build  # noqa: E402

SEED = int(os.environ.get("SECTORMAP_SEED", time.time_ns() % (1 << 32)))
SIZE_MIB = 96
SECONDS = 900           # a loaded two-core machine; it takes about two minutes alone
OPERATION_SECONDS = 240
DOWN_SECONDS = 1.0      # long enough for open-iscsi to be turned away once
SLOW_MS = 250           # writes of a store or a destination while an operation is to be caught
STEADY_MS = 40          # and while it goes on under the guest's hands
SLOW_CREATE_MS = 1000   # a store whose header takes seconds to write
CREATE_KILLED_AFTER = 0.7
SOMETIME_SECONDS = 0.4
PIECE_MIB = 16


class Host:
    """What the guest may ask for with its `host` function: a method for each word."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.random = random.Random(SEED)
        self.backing = daemon.thin_volume("vol", SIZE_MIB)
        self.operation = None  # the number of the one that was begun last
        daemon.export("vol")

    def answer(self, words):
        action = getattr(self, f"do_{words[0].replace('-', '_')}", None) if words else None
        if action is None:
            return 1, f"no such request: {words}"
        try:
            return 0, action(*words[1:]) or ""
        except (DaemonError, subprocess.SubprocessError) as error:
            return 1, str(error)

    # --- helpers ---

    def _restart(self):
        self.daemon.kill()
        time.sleep(DOWN_SECONDS)
        self.daemon.start()

    def _slow(self, name, milliseconds, mib=2 * SIZE_MIB):
        """A device whose writes take that long."""
        path = self.daemon.thin_file(f"{name}-file", mib)
        self.daemon.cli("create", name, "--table",
                        f"0 {mib * 2048} delay {path} 0 0 {path} 0 {milliseconds}")
        return f"/dev/mapper/{name}"

    def _set_delay(self, name, milliseconds, mib=2 * SIZE_MIB):
        path = self.daemon.device_root / f"{name}-file.img"
        self.daemon.cli("load", name, "--table",
                        f"0 {mib * 2048} delay {path} 0 0 {path} 0 {milliseconds}")
        self.daemon.cli("resume", name)

    def _snapshots(self):
        return [one["name"] for one in json.loads(
            self.daemon.cli("-o", "json", "snapshot", "ls").stdout)]

    def _state(self):
        found = [one for one in json.loads(self.daemon.cli("-o", "json", "operations", "ls").stdout)
                 if one["id"] == self.operation]
        if len(found) != 1:
            raise DaemonError(f"operation {self.operation} is not known")
        return found[0]

    def _begin(self, *words):
        self.operation = self.daemon.cli(*words, "--no-wait").stdout.strip()

    def _kill_in_the_middle(self):
        deadline = time.monotonic() + OPERATION_SECONDS
        while time.monotonic() < deadline:
            state = self._state()
            if state["state"] != "STATE_RUNNING":
                raise DaemonError(f"it ended before it could be killed: {state}")
            if int(state["done_bytes"]) > 0:
                self._restart()
                return
            time.sleep(0.01)
        raise DaemonError("the operation does not get on")

    # --- snapshots ---

    def do_create(self, name):
        self.daemon.cli("snapshot", "create", name, "--of", "vol")

    def do_create_killed(self, name):
        """Killed while the store's first blocks are being written."""
        store = self._slow(f"store-{name}", SLOW_CREATE_MS)
        self._cut_short(name, store, CREATE_KILLED_AFTER, must=True)
        self._set_delay(f"store-{name}", 0)
        return self._complete(name, store)

    def do_create_killed_sometime(self, name):
        """Killed at any instant: before, after, or between two of its steps."""
        store = self._slow(f"store-{name}", STEADY_MS)
        self._cut_short(name, store, self.random.random() * SOMETIME_SECONDS, must=False)
        self._set_delay(f"store-{name}", 0)
        return self._complete(name, store)

    def _cut_short(self, name, store, seconds, must):
        with subprocess.Popen(
                [self.daemon.build_dir / "sectormap", "--server", self.daemon.server, "snapshot",
                 "create", name, "--of", "vol", "--store", store],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
            time.sleep(seconds)
            if must and command.poll() is not None:
                raise DaemonError("it ended before it could be killed")
            self._restart()
            command.kill()

    def _complete(self, name, store):
        """A creation that was cut short has happened as a whole or not at all."""
        table = self.daemon.cli("table", "vol").stdout
        happened = name in self._snapshots()
        others = [other for other in self._snapshots() if other != name]
        if ("snapshot-origin" in table) != (happened or others != []):
            raise DaemonError(f"snapshots {self._snapshots()}, but the table is {table}")
        if not happened:
            # What the daemon asks for if a store that is no file of its own has begun to be one.
            with open(self.daemon.device_root / f"store-{name}-file.img", "r+b") as file:
                file.write(bytes(4096))
            self.daemon.cli("snapshot", "create", name, "--of", "vol", "--store", store)
        return "it had happened" if happened else "it had not happened"

    def do_export(self, name):
        self.daemon.cli("snapshot", "export", name)

    def do_unexport(self, name):
        self.daemon.cli("unexport", name)

    def do_rm(self, name):
        self.daemon.cli("snapshot", "rm", name)
        if name in self._snapshots():
            raise DaemonError(f"{name} is still there")

    def do_rm_killed(self, name, older):
        """What the older snapshot shares with this one goes to its store, which is slow."""
        self._set_delay(f"store-{older}", SLOW_MS)
        self._begin("snapshot", "rm", name)
        self._kill_in_the_middle()
        self._set_delay(f"store-{older}", 0)
        self.do_wait()
        if name in self._snapshots():
            raise DaemonError(f"{name} is still there")

    def do_rollback_killed(self, name):
        self._set_delay(f"store-{name}", SLOW_MS)
        self._begin("snapshot", "rollback", name)
        self._kill_in_the_middle()
        self._set_delay(f"store-{name}", STEADY_MS)

    def do_wait(self):
        self.daemon.cli("operations", "wait", self.operation)
        state = self._state()
        if state["state"] != "STATE_DONE":
            raise DaemonError(f"the operation has not ended well: {state}")

    def do_has_snapshots(self, *names):
        if sorted(self._snapshots()) != sorted(names):
            raise DaemonError(f"there are {self._snapshots()}")

    # --- moves ---

    def do_move(self):
        """When it is done, the old place is made unreadable for whoever still looks there."""
        path = self.daemon.thin_file("moved", SIZE_MIB)
        self.daemon.cli("move", "vol", "--from", self.backing, "--to", path, "--piece",
                        f"{PIECE_MIB}M")
        self._moved(path)

    def do_move_killed(self):
        destination = self._slow("slow", SLOW_MS, SIZE_MIB)
        self._begin("move", "vol", "--from", self.backing, "--to", destination, "--piece",
                    f"{PIECE_MIB}M")
        for _ in range(2):
            self._kill_in_the_middle()
        self._set_delay("slow", 0, SIZE_MIB)
        self.do_wait()
        self._moved(destination)

    def _moved(self, place):
        tables = self.daemon.cli("table").stdout
        if str(self.backing) in tables or "mirror" in tables:
            raise DaemonError(f"after the move the tables are\n{tables}")
        with open(self.backing, "r+b") as old:
            for _ in range(SIZE_MIB):
                old.write(b"\xdb" * (1 << 20))
        self.backing = place


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, required=True, help="cache of image.py")
    options = parser.parse_args()
    print(f"SECTORMAP_SEED={SEED}", flush=True)
    try:
        build(options.image)
    except ImageError as error:
        sys.exit(f"guest: {error}")
    with Daemon(options.build_dir, options=("--reactors", "2")) as daemon:
        host = Host(daemon)
        environment = {"PREFIX": IQN_PREFIX, "PORTAL": daemon.portal}
        guest = Guest(options.image, host.answer)
        status = guest.run((HERE / "live.sh").read_text(), environment, SECONDS)
        if status != 0:
            print(f"sectormapd's log:\n{daemon.tail(60)}")
            return 1
        if daemon.stop() != 0:
            print(f"sectormapd did not stop cleanly:\n{daemon.tail(60)}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
