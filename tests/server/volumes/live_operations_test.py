#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshots, moves and mirrors of LUNs that an initiator is writing to, with the daemon and the
command as they are shipped, killed in the middle of each.

    live_operations_test.py --build-dir build/release [unittest arguments]
"""

import hashlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "support"))
from daemon import Daemon  # noqa: E402

BUILD_DIR = None  # from --build-dir
SECONDS = 240     # for an operation or a command of an initiator, on a loaded machine
MIB = 1 << 20
VOLUME_MIB = 32
BLOCK = 64 << 10
SEED = int(os.environ.get("SECTORMAP_SEED", time.time_ns() % (1 << 32)))


def qemu_io(url, *commands):
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.run(["qemu-io", "-f", "raw", *words, url], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=SECONDS, check=False)


def said(result):
    return result.stdout + result.stderr


class Writer(threading.Thread):
    """Writes blocks and reads them back until it is ended, one login each round. Before everything
    else in a round, a number goes to the first block of the first LUN and then to that of the last:
    so images of one instant never show the second ahead of the first."""

    def __init__(self, *urls):
        super().__init__(daemon=True)
        self._urls = urls
        self._random = random.Random(SEED)
        self._known = {}  # block of the first LUN: its pattern
        self._ended = threading.Event()
        self.rounds, self.failure = 0, None

    def run(self):
        while not self._ended.is_set() and self.failure is None:
            self.rounds += 1
            number = self.rounds % 255 + 1
            before, after = self._blocks()
            steps = [(self._urls[0], [f"write -P {number} 0 {BLOCK}"]),
                     (self._urls[-1], [f"write -P {number} {BLOCK} {BLOCK}"]),
                     (self._urls[0], before), (self._urls[0], after)]
            for url, commands in steps:
                self._do(url, commands)

    def _do(self, url, commands):
        """Again and again while nobody answers: the daemon may be starting. Other bytes than were
        written are a failure at once."""
        deadline = time.monotonic() + SECONDS
        while self.failure is None:
            result = qemu_io(url, *commands)
            if result.returncode == 0 and "failed" not in said(result):
                return
            if "verification failed" in said(result) or time.monotonic() > deadline:
                self.failure = f"{commands}: {said(result)}"
            time.sleep(0.1)

    def _blocks(self):
        """Reads of what was written in earlier rounds; then writes, which may be done again."""
        places = [self._random.randrange(2, VOLUME_MIB * MIB // BLOCK) for _ in range(6)]
        before = [f"read -P {self._known[block]} {block * BLOCK} {BLOCK}"
                  for block in places if block in self._known]
        after = []
        for block in places:
            self._known[block] = self._random.randrange(1, 256)
            after.append(f"write -P {self._known[block]} {block * BLOCK} {BLOCK}")
            after.append(f"read -P {self._known[block]} {block * BLOCK} {BLOCK}")
        return before + ["flush"], after + ["flush"]

    def wait_for_rounds(self, count):
        wanted = self.rounds + count
        deadline = time.monotonic() + SECONDS
        while self.rounds < wanted and self.failure is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def end(self):
        self._ended.set()
        self.join(SECONDS)

    def verify(self):
        """All that was ever written, at the end."""
        commands = [f"read -P {pattern} {block * BLOCK} {BLOCK}"
                    for block, pattern in sorted(self._known.items())]
        return qemu_io(self._urls[0], *commands)


class LiveTest(unittest.TestCase):
    def setUp(self):
        print(f"SECTORMAP_SEED={SEED}")
        self.daemon = self.enterContext(Daemon(BUILD_DIR, options=("--reactors", "2")))
        self.scratch = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.daemon.thin_volume("vol", VOLUME_MIB)
        self.url = self.daemon.export("vol")

    def tearDown(self):
        if hasattr(self, "writer"):
            self.writer.end()

    # --- helpers ---

    def cli(self, *words):
        return self.daemon.cli(*words)

    def start_writer(self, *urls):
        self.writer = Writer(*(urls or (self.url,)))
        self.writer.start()
        self.writer.wait_for_rounds(2)

    def end_writer(self):
        self.writer.end()
        self.assertIsNone(self.writer.failure)
        self.assertNotIn("failed", said(self.writer.verify()))

    def restart(self):
        self.daemon.kill()
        self.daemon.start()

    def image(self, name):
        """The device's bytes as an initiator reads them."""
        path = self.scratch / f"{name}.{time.monotonic_ns()}"
        if name != "vol":
            self.cli("snapshot", "export", name)
        result = subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw",
                                 self.daemon.url(name), path], capture_output=True, text=True,
                                timeout=SECONDS, check=False)
        self.assertEqual(result.returncode, 0, said(result))
        if name != "vol":
            self.cli("unexport", name)
        data = path.read_bytes()
        path.unlink()
        return data

    def digest(self, name):
        return hashlib.sha256(self.image(name)).hexdigest()

    def operation(self, number):
        found = [op for op in json.loads(self.cli("-o", "json", "operations", "ls").stdout)
                 if op["id"] == str(number)]
        self.assertEqual(len(found), 1)
        return found[0]

    def wait_until_it_moves(self, number):
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            operation = self.operation(number)
            if int(operation["done_bytes"]) > 0 or operation["state"] != "STATE_RUNNING":
                return operation
            time.sleep(0.02)
        self.fail("the operation does not get on")

    def wait_for_end(self, number):
        self.daemon.cli("operations", "wait", number, check=False)
        return self.operation(number)

    def slow(self, name, mib, milliseconds):
        """A device of that size whose writes take that long."""
        path = self.daemon.thin_file(f"{name}-file", mib)
        self.cli("create", name, "--table",
                 f"0 {mib * 2048} delay {path} 0 0 {path} 0 {milliseconds}")
        return f"/dev/mapper/{name}"

    def take_chain(self, count):
        for number in range(1, count + 1):
            self.cli("snapshot", "create", f"s{number}", "--of", "vol")
            self.writer.wait_for_rounds(2)

    # --- snapshots ---

    def test_a_snapshot_of_a_lun_in_use_is_of_one_instant_and_does_not_change(self):
        self.start_writer()
        self.cli("snapshot", "create", "s1", "--of", "vol")
        first = self.image("s1")
        self.writer.wait_for_rounds(3)
        self.assertEqual(self.image("s1"), first)
        self.assertIn(first[0] - first[BLOCK], (0, 1, -254))
        self.end_writer()
        table = self.cli("snapshot", "ls").stdout
        self.assertRegex(table, r"s1 +vol +valid")

    def test_a_group_is_of_one_instant(self):
        self.daemon.thin_volume("log", VOLUME_MIB)
        self.start_writer(self.url, self.daemon.export("log"))
        for turn in range(3):
            self.cli("snapshot", "create", f"t{turn}", "--of", "vol", "--of", "log")
            data = self.image(f"t{turn}-vol")
            log = self.image(f"t{turn}-log")
            self.assertIn(data[0] - log[BLOCK], (0, 1, -254))
            self.writer.wait_for_rounds(1)
        self.end_writer()

    def test_each_of_a_chain_may_go_and_the_others_do_not_change(self):
        for gone in ("s1", "s2", "s3", "s4"):
            with self.subTest(gone=gone):
                self.start_writer()
                self.take_chain(4)
                others = [name for name in ("s1", "s2", "s3", "s4") if name != gone]
                before = {name: self.digest(name) for name in others}
                self.cli("snapshot", "rm", gone)
                self.writer.wait_for_rounds(2)
                self.assertEqual({name: self.digest(name) for name in others}, before)
                for name in others:
                    self.cli("snapshot", "rm", name)
                self.end_writer()
                self.assertIn("linear", self.cli("table", "vol").stdout)
        self.assertEqual([path.name for path in self.daemon.device_root.iterdir()], ["vol.img"])

    def test_a_rollback_brings_the_instant_back_at_once(self):
        self.start_writer()
        self.take_chain(3)
        self.end_writer()
        before = {name: self.digest(name) for name in ("s1", "s2", "s3")}
        self.cli("snapshot", "rollback", "s2")
        self.assertEqual(self.digest("vol"), before["s2"])
        self.assertEqual({name: self.digest(name) for name in ("s1", "s3")},
                         {name: before[name] for name in ("s1", "s3")})
        self.assertEqual(self.daemon.cli("info", "s2", check=False).returncode, 3)

    def test_a_kill_in_the_middle_of_a_removal_and_of_a_rollback(self):
        self.start_writer()
        store = self.slow("slowstore", 2 * VOLUME_MIB, 20)
        self.cli("snapshot", "create", "s1", "--of", "vol", "--store", store)
        self.writer.wait_for_rounds(2)
        self.cli("snapshot", "create", "s2", "--of", "vol")
        self.writer.wait_for_rounds(4)
        s1 = self.digest("s1")
        number = self.cli("snapshot", "rm", "s2", "--no-wait").stdout.strip()
        self.wait_until_it_moves(number)
        self.restart()
        self.assertEqual(self.wait_for_end(number)["state"], "STATE_DONE")
        self.assertEqual(self.digest("s1"), s1)
        self.end_writer()
        number = self.cli("snapshot", "rollback", "s1", "--no-wait").stdout.strip()
        self.wait_until_it_moves(number)
        self.restart()
        self.assertEqual(self.digest("vol"), s1)
        self.assertEqual(self.wait_for_end(number)["state"], "STATE_DONE")
        self.assertEqual(self.digest("vol"), s1)

    def test_refusals_have_the_commands_exit_codes(self):
        self.cli("snapshot", "create", "s1", "--of", "vol")
        for code, words in ((4, ("create", "s1", "--of", "vol")),
                            (3, ("create", "x", "--of", "missing")),
                            (1, ("create", "x", "--of", "vol", "--chunk", "64")),
                            (2, ("create", "x")),
                            (2, ("create", "x", "--of", "vol", "--size", "many")),
                            (3, ("rm", "missing")),
                            (4, ("rm", "vol"))):
            with self.subTest(words=words):
                result = self.daemon.cli("snapshot", *words, check=False)
                self.assertEqual(result.returncode, code, said(result))
                self.assertTrue(result.stderr)
        self.cli("snapshot", "export", "s1")
        result = self.daemon.cli("snapshot", "rm", "s1", check=False)
        self.assertEqual(result.returncode, 4)
        self.assertIn("an export", result.stderr)

    # --- moves ---

    def test_a_move_under_load_loses_nothing(self):
        self.start_writer()
        new = self.daemon.thin_file("new", VOLUME_MIB)
        old = self.daemon.device_root / "vol.img"
        result = self.cli("move", "vol", "--from", old, "--to", new, "--piece", "8M")
        self.assertRegex(result.stdout, "move vol: done, 32.0 MiB")
        self.assertIn("new.img", self.cli("table", "vol").stdout)
        self.writer.wait_for_rounds(2)
        old.unlink()
        self.end_writer()

    def test_a_move_that_is_killed_goes_on_by_itself(self):
        self.start_writer()
        new = self.slow("new", VOLUME_MIB, 30)
        old = self.daemon.device_root / "vol.img"
        number = self.cli("move", "vol", "--from", old, "--to", new, "--piece", "4M",
                          "--no-wait").stdout.strip()
        for _ in range(3):
            self.wait_until_it_moves(number)
            self.writer.wait_for_rounds(1)
            self.restart()
        self.assertEqual(self.wait_for_end(number)["state"], "STATE_DONE")
        self.assertIn(new, self.cli("table", "vol").stdout)
        self.writer.wait_for_rounds(1)
        self.end_writer()

    def test_a_cancelled_move_ends_where_it_is(self):
        self.start_writer()
        new = self.slow("new", VOLUME_MIB, 50)
        old = self.daemon.device_root / "vol.img"
        number = self.cli("move", "vol", "--from", old, "--to", new, "--no-wait").stdout.strip()
        self.wait_until_it_moves(number)
        self.cli("operations", "cancel", number)
        self.assertEqual(self.wait_for_end(number)["state"], "STATE_CANCELLED")
        self.assertIn("vol.img", self.cli("table", "vol").stdout)
        self.assertNotIn("mirror", self.cli("table", "vol").stdout)
        self.end_writer()

    # --- mirrors ---

    def test_a_leg_is_added_fails_and_goes_while_the_lun_is_in_use(self):
        self.start_writer()
        leg = self.daemon.thin_file("leg", VOLUME_MIB)
        self.cli("create", "leg", "--table", f"0 {VOLUME_MIB * 2048} linear {leg} 0")
        self.cli("mirror", "add", "vol", "/dev/mapper/leg")
        self.assertIn(" AA ", self.cli("status", "vol").stdout)
        self.writer.wait_for_rounds(2)
        self.cli("load", "leg", "--table", f"0 {VOLUME_MIB * 2048} error")
        self.cli("resume", "leg")
        self.writer.wait_for_rounds(3)
        self.assertIn("linear", self.cli("table", "vol").stdout)
        log = self.daemon.log.read_text()
        self.assertIn("degraded", log)
        self.assertRegex(log, r'event=operation id=\d+ kind=mirror-add device="vol" state=done error=""')
        self.end_writer()

    def test_both_legs_have_the_same_after_a_kill_in_the_middle(self):
        self.start_writer()
        leg = self.slow("leg", VOLUME_MIB, 10)
        number = self.cli("mirror", "add", "vol", leg, "--region", "128",
                          "--no-wait").stdout.strip()
        self.wait_until_it_moves(number)
        self.restart()
        self.assertEqual(self.wait_for_end(number)["state"], "STATE_DONE")
        self.end_writer()
        self.cli("suspend", "vol")
        self.assertEqual((self.daemon.device_root / "vol.img").read_bytes(),
                         (self.daemon.device_root / "leg-file.img").read_bytes())
        self.cli("resume", "vol")
        self.cli("mirror", "remove", "vol", leg)
        self.assertIn("linear", self.cli("table", "vol").stdout)


def main():
    global BUILD_DIR
    words = sys.argv[1:]
    if "--build-dir" in words:
        at = words.index("--build-dir")
        BUILD_DIR = pathlib.Path(words[at + 1]).resolve()
        del words[at:at + 2]
    unittest.main(argv=[sys.argv[0], *words], verbosity=2)


if __name__ == "__main__":
    main()
