#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""QEMU's own initiator (libiscsi, in user space) against the daemon as it is shipped, and what the
daemon says when something is in its way.

    qemu_tools_test.py --build-dir build/release [unittest arguments]
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
from daemon import IQN_PREFIX, Daemon  # noqa: E402

BUILD_DIR = None  # from --build-dir
SECONDS = 120     # for one command of an initiator
VOLUME_MIB = 64

USER, SECRET = "initiator", "sesame-sesame-12"
TARGET_USER, TARGET_SECRET = "target", "open-sesame-4567"
INITIATOR = "iqn.2026-11.io.sectormap.test:allowed"


def run(*command):
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=SECONDS,
                          stdin=subprocess.DEVNULL, check=False)


def qemu_io(where, *commands, options=()):
    words = [word for command in commands for word in ("-c", command)]
    return run("qemu-io", "-f", "raw", *options, *words, where)


def node(url, **options):
    """The same disk as QEMU's block options, for what a URL cannot say."""
    portal, iqn, lun = url.removeprefix("iscsi://").split("/")
    return "json:" + json.dumps({"driver": "iscsi", "transport": "tcp", "portal": portal,
                                 "target": iqn, "lun": int(lun),
                                 **{key.replace("_", "-"): value for key, value in options.items()}})


class SystemTest(unittest.TestCase):
    """Checks with the whole output in their message."""

    def assert_works(self, result):
        said = result.stdout + result.stderr
        self.assertEqual(result.returncode, 0, said)
        self.assertNotRegex(said, r"(?i)pattern verification failed|error|failed", said)

    def assert_fails(self, result, pattern="."):
        said = result.stdout + result.stderr
        self.assertNotEqual(result.returncode, 0, said)
        self.assertRegex(said, pattern, said)


class QemuToolsTest(SystemTest):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.daemon = cls.enterClassContext(
            Daemon(BUILD_DIR, listen=["127.0.0.1:0", "[::1]:0"]))

    def volume(self, *options):
        """A new exported volume named after the test; its URL."""
        name = self.id().rpartition(".")[2].removeprefix("test_").replace("_", "-")[:40]
        self.daemon.thin_volume(name, VOLUME_MIB)
        return self.daemon.export(name, *options)

    def secret_file(self, secret):
        file = tempfile.NamedTemporaryFile("w", dir=self.scratch, delete=False)
        with file:
            file.write(secret)
        return file.name

    def test_patterns_written_are_read_back_after_a_new_login(self):
        url = self.volume()
        places = [(0, 512, 0x11), (4608, 1024, 0x22), ((1 << 20) - 512, 4096, 0x33),
                  (8 << 20, 4 << 20, 0x44), ((VOLUME_MIB << 20) - 65536, 65536, 0x55)]
        self.assert_works(qemu_io(url, *(f"write -P {byte} {at} {size}"
                                         for at, size, byte in places), "flush"))
        self.assert_works(qemu_io(url, *(f"read -P {byte} {at} {size}"
                                         for at, size, byte in places)))

    def test_a_wrong_pattern_is_noticed(self):
        url = self.volume()
        self.assert_works(qemu_io(url, "write -P 1 0 64k"))
        result = qemu_io(url, "read -P 2 0 64k")
        self.assertRegex(result.stdout + result.stderr, "Pattern verification failed")

    def test_asynchronous_writes_all_arrive(self):
        url = self.volume()
        writes = [f"aio_write -P {number} {number}M 512k" for number in range(1, 33)]
        self.assert_works(qemu_io(url, *writes, "aio_flush"))
        self.assert_works(qemu_io(url, *(f"read -P {number} {number}M 512k"
                                         for number in range(1, 33))))

    def test_discarded_blocks_read_as_zeroes_and_give_their_space_back(self):
        url = self.volume()
        path = self.daemon.device_root / f"{url.split(':')[-1].split('/')[0]}.img"
        self.assert_works(qemu_io(url, "write -P 7 0 32M", "flush"))
        before = path.stat().st_blocks
        self.assert_works(qemu_io(url, "discard 8M 16M", "read -P 0 8M 16M", "read -P 7 0 8M",
                                  "read -P 7 24M 8M", options=["-d", "unmap"]))
        self.assertLess(path.stat().st_blocks, before)

    def test_written_zeroes_are_zeroes(self):
        url = self.volume()
        self.assert_works(qemu_io(url, "write -P 9 0 8M"))
        self.assert_works(qemu_io(url, "write -z 1M 2M", "write -z -u 4M 2M",
                                  options=["-d", "unmap"]))
        self.assert_works(qemu_io(url, "read -P 9 0 1M", "read -P 0 1M 2M", "read -P 9 3M 1M",
                                  "read -P 0 4M 2M", "read -P 9 6M 2M"))

    def test_a_converted_image_compares_equal(self):
        url = self.volume()
        image = self.scratch / "image.raw"
        with open(image, "wb") as file:
            for mib in range(VOLUME_MIB):
                file.write(os.urandom(1 << 20) if mib % 3 else bytes(1 << 20))
        self.assert_works(run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url))
        self.assert_works(run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, url))
        self.assert_works(qemu_io(url, "write -P 1 1M 512"))
        self.assert_fails(run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, url), "mismatch")

    def test_header_digests(self):
        url = self.volume()
        disk = node(url, header_digest="crc32c")
        self.assert_works(run("qemu-io", "-c", "write -P 3 0 1M", "-c", "read -P 3 0 1M", disk))

    def test_chap_lets_in_who_knows_the_secret(self):
        url = self.volume("--chap-user", USER, "--chap-secret-file", self.secret_file(SECRET))
        good = url.replace("iscsi://", f"iscsi://{USER}%{SECRET}@")
        self.assert_works(qemu_io(good, "write -P 4 0 64k", "read -P 4 0 64k"))
        self.assert_fails(qemu_io(url, "read 0 512"))
        self.assert_fails(qemu_io(url.replace("iscsi://", f"iscsi://{USER}%wrong-secret-99@"),
                                  "read 0 512"))
        self.assert_fails(qemu_io(url.replace("iscsi://", f"iscsi://other%{SECRET}@"), "read 0 512"))
        self.assertNotIn(SECRET, self.daemon.cli("exports", "-o", "json").stdout)
        self.assertNotIn(SECRET, self.daemon.log.read_text())

    def test_mutual_chap_proves_the_target_too(self):
        url = self.volume("--chap-user", USER, "--chap-secret-file", self.secret_file(SECRET),
                          "--mutual-chap-user", TARGET_USER,
                          "--mutual-chap-secret-file", self.secret_file(TARGET_SECRET))
        url = url.replace("iscsi://", f"iscsi://{USER}%{SECRET}@")
        both = f"{url}?target_user={TARGET_USER}&target_password="
        self.assert_works(run("iscsi-readcapacity16", both + TARGET_SECRET))
        self.assert_fails(run("iscsi-readcapacity16", both + "not-the-secret-1"))

    def test_an_allow_list_keeps_others_out(self):
        url = self.volume("--allow", INITIATOR)
        disk = node(url, initiator_name=INITIATOR)
        self.assert_works(run("qemu-io", "-c", "write -P 5 0 64k", "-c", "read -P 5 0 64k", disk))
        self.assert_fails(run("qemu-io", "-c", "read 0 512", node(url, initiator_name=f"{INITIATOR}x")))
        self.assertNotIn(IQN_PREFIX + ":an-allow", run("iscsi-ls", f"iscsi://{self.daemon.portal}").stdout)

    def test_discovery_lists_the_target_at_its_portals(self):
        url = self.volume()
        iqn = url.split("/")[3]
        self.assertIn(f"Target:{iqn} Portal:{self.daemon.portal},1",
                      run("iscsi-ls", f"iscsi://{self.daemon.portal}").stdout)

    def test_ipv6(self):
        url = self.volume()
        over_ipv6 = url.replace(self.daemon.portal, self.daemon.portals[1])
        self.assertIn("[::1]", over_ipv6)
        self.assert_works(qemu_io(over_ipv6, "write -P 6 0 1M"))
        self.assert_works(qemu_io(url, "read -P 6 0 1M"))

    def test_a_read_only_export_refuses_writes(self):
        url = self.volume("--readonly")
        self.assert_works(qemu_io(url, "read -P 0 0 64k", options=["-r"]))
        self.assert_fails(qemu_io(url, "write -P 6 0 64k"))

    def test_growth_is_seen(self):
        url = self.volume()
        name = url.split(":")[-1].split("/")[0]
        first = self.daemon.device_root / f"{name}.img"
        second = self.daemon.thin_file(f"{name}.2", VOLUME_MIB)
        table = (f"0 {VOLUME_MIB * 2048} linear {first} 0\n"
                 f"{VOLUME_MIB * 2048} {VOLUME_MIB * 2048} linear {second} 0\n")
        self.daemon.cli("load", name, "--table-file", "-", text=table)
        self.daemon.cli("resume", name)
        info = run("qemu-img", "info", "-f", "raw", "--output=json", url)
        self.assert_works(info)
        self.assertEqual(json.loads(info.stdout)["virtual-size"], 2 * VOLUME_MIB << 20)
        self.assert_works(qemu_io(url, f"write -P 8 {VOLUME_MIB - 1}M 2M",
                                  f"read -P 8 {VOLUME_MIB - 1}M 2M"))

    def test_two_initiators_share_a_volume(self):
        url = self.volume()
        commands = [[f"write -P {number + 1} {number * 8}M 8M", "flush"] for number in range(4)]
        writers = [subprocess.Popen(["qemu-io", "-f", "raw", *(word for command in own
                                                               for word in ("-c", command)), url],
                                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                   for own in commands]
        for writer in writers:
            said, _ = writer.communicate(timeout=SECONDS)
            self.assertEqual(writer.returncode, 0, said)
        self.assert_works(qemu_io(url, *(f"read -P {number + 1} {number * 8}M 8M"
                                         for number in range(4))))

    def test_a_path_outside_the_device_root_is_refused(self):
        outside = self.scratch / "outside.img"
        outside.write_bytes(bytes(1 << 20))
        link = self.daemon.device_root / "link.img"
        link.symlink_to(outside)
        for path in (outside, link, self.daemon.device_root / ".." / "sectormap.db"):
            result = self.daemon.cli("create", "outside", "--table", f"0 8 linear {path} 0",
                                     check=False)
            self.assert_fails(result, "device-root")
            self.assertEqual(result.returncode, 1)
        self.assertNotIn("outside", self.daemon.cli("ls").stdout)


class TroubleTest(SystemTest):
    """Each with a daemon of its own, which has something in its way."""

    def daemon_that_ends(self, *words):
        """Runs sectormapd until it gives up; its exit status and words."""
        result = run(BUILD_DIR / "sectormapd", *words)
        return result.returncode, result.stdout + result.stderr

    def test_a_port_in_use_is_named(self):
        with Daemon(BUILD_DIR) as daemon, tempfile.TemporaryDirectory() as directory:
            status, said = self.daemon_that_ends("--state-dir", directory, "--listen", daemon.portal,
                                                 "--metrics", "127.0.0.1:0")
            self.assertNotEqual(status, 0)
            self.assertRegex(said, rf"(?s){daemon.portal}.*in use")
            self.assertIn("--listen", said)

    def test_a_second_daemon_on_the_same_state_is_refused(self):
        with Daemon(BUILD_DIR) as daemon:
            status, said = self.daemon_that_ends("--state-dir", daemon.state_dir, "--listen",
                                                 "127.0.0.1:0", "--metrics", "127.0.0.1:0")
            self.assertNotEqual(status, 0)
            self.assertIn(str(daemon.state_dir), said)
            self.assertEqual(daemon.cli("ls", check=False).returncode, 0)

    def test_everything_acknowledged_is_there_after_a_kill(self):
        with tempfile.TemporaryDirectory() as directory, Daemon(BUILD_DIR) as daemon:
            secret = pathlib.Path(directory, "secret")
            secret.write_text(SECRET)
            secret.chmod(0o600)
            kept, gone = daemon.thin_volume("kept", 16), daemon.thin_volume("gone", 16)
            url = daemon.export("kept", "--chap-user", USER, "--chap-secret-file", secret)
            daemon.export("gone")
            good = url.replace("iscsi://", f"iscsi://{USER}%{SECRET}@")
            self.assert_works(qemu_io(good, "write -P 1 0 8M", "flush"))
            exports, table = daemon.cli("exports").stdout, daemon.cli("table").stdout
            daemon.kill()
            gone.unlink()
            daemon.start()
            self.assertEqual(daemon.cli("exports").stdout, exports)
            self.assertIn(str(kept), table)
            self.assertIn(str(kept), daemon.cli("table", "kept").stdout)
            self.assertIn(str(gone), daemon.cli("info", "gone", "-o", "json").stdout)
            self.assert_works(qemu_io(good, "read -P 1 0 8M"))
            self.assert_fails(qemu_io(url, "read 0 512"))
            self.assert_fails(qemu_io(daemon.url("gone"), "read 0 512"))

    def test_sigterm_ends_it_cleanly(self):
        with Daemon(BUILD_DIR) as daemon:
            daemon.thin_volume("one", 16)
            daemon.export("one")
            self.assertEqual(daemon.stop(), 0)
            daemon.start()
            self.assertIn("one", daemon.cli("ls").stdout)

    def test_sigterm_does_not_wait_for_a_resume(self):
        with Daemon(BUILD_DIR) as daemon:
            daemon.thin_volume("held", 16)
            url = daemon.export("held")
            initiator = subprocess.Popen(["qemu-io", "-f", "raw", url], stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            with initiator:
                try:
                    initiator.stdin.write("read 0 512\n")
                    initiator.stdin.flush()
                    while "read 512/512" not in initiator.stdout.readline():
                        self.assertIsNone(initiator.poll())
                    daemon.cli("suspend", "held")
                    initiator.stdin.write("write -P 1 0 1M\n")
                    initiator.stdin.flush()
                    self.wait_until_a_command_holds_memory(daemon)
                    self.assertEqual(daemon.stop(), 0, daemon.tail())
                finally:
                    initiator.kill()
            daemon.start()
            self.assertIn("SUSPENDED", daemon.cli("info", "held").stdout)
            self.assertIn("linear", daemon.cli("table", "held").stdout)

    def wait_until_a_command_holds_memory(self, daemon):
        deadline = time.monotonic() + SECONDS
        held = r"^sectormap_reactor_command_memory_used_bytes\{.*\} [1-9]"
        while True:
            with urllib.request.urlopen(daemon.metrics_url, timeout=SECONDS) as answer:
                if re.search(held, answer.read().decode(), re.M):
                    return
            self.assertLess(time.monotonic(), deadline, "the command did not come")
            time.sleep(0.05)


class DiskFullTest(SystemTest):
    """State and backing files on a tmpfs of a few hundred KiB, in a mount namespace of the daemon's."""

    FILL = textwrap.dedent("""\
        set -e
        mount -t tmpfs -o size="$2" tmpfs "$1"
        mkdir "$1/devices"
        truncate -s 16M "$1/devices/thin.img"
        [ "$3" = 0 ] || dd if=/dev/zero of="$1/filler" bs="$3" count=1 status=none
        shift 3
        exec "$@"
        """)

    def command(self, directory, size, filler, *options):
        unshare = ["unshare", "--mount"] + ([] if os.geteuid() == 0 else ["--map-root-user"])
        return [*unshare, "sh", "-c", self.FILL, "sh", directory, size, filler,
                BUILD_DIR / "sectormapd", "--state-dir", directory, "--listen", "127.0.0.1:0",
                "--metrics", "127.0.0.1:0", *options]

    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="sectormap.")
        self.addCleanup(shutil.rmtree, self.directory, ignore_errors=True)

    def test_no_room_at_start_is_said(self):
        result = run(*self.command(self.directory, "64k", "56k"))
        self.assert_fails(result, r"(?i)no space|disk full|full")
        self.assertIn(self.directory, result.stdout + result.stderr)

    def test_no_room_for_state_or_data_refuses_and_loses_nothing(self):
        sockets = tempfile.mkdtemp(prefix="sectormap.")
        self.addCleanup(shutil.rmtree, sockets, ignore_errors=True)
        daemon = FullDaemon(self, self.directory, sockets)
        self.addCleanup(daemon.close)
        daemon.start()
        thin = f"{self.directory}/devices/thin.img"
        daemon.cli("create", "thin", "--table", f"0 32768 linear {thin} 0")
        url = daemon.export("thin")
        self.assert_works(qemu_io(url, "write -P 1 0 64k", "flush"))
        self.assert_fails(qemu_io(url, "write -P 2 1M 12M"), "(?i)space|error")
        self.assert_works(qemu_io(url, "read -P 1 0 64k"))
        table = "".join(f"{8 * row} 8 linear {thin} {8 * row}\n" for row in range(4096))
        refused = None
        for number in range(200):
            refused = daemon.cli("create", f"many{number}", "--table-file", "-", check=False,
                                 text=table)
            if refused.returncode != 0:
                break
        self.assert_fails(refused, r"(?i)no space|disk full|full")
        self.assertNotIn(f"many{number}\t", daemon.cli("ls").stdout)
        self.assertIn("thin", daemon.cli("ls").stdout)


class FullDaemon(Daemon):
    """The daemon of DiskFullTest: its state is out of our sight, its socket and log are not."""

    def __init__(self, test, directory, outside):
        super().__init__(BUILD_DIR, state_dir=directory)
        self._test = test
        self.log = pathlib.Path(outside, "log")
        self.server = f"unix:{outside}/control.sock"

    def spawn(self):
        with open(self.log, "w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                list(map(str, self._test.command(self.state_dir, "4m", "0", "--control",
                                                 self.server))),
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def main():
    global BUILD_DIR
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] != "--build-dir":
        sys.exit(__doc__)
    BUILD_DIR = pathlib.Path(arguments[1]).resolve()
    unittest.main(argv=[sys.argv[0], *arguments[2:]], verbosity=2)


if __name__ == "__main__":
    main()
