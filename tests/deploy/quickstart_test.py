#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/quickstart.sh and the README's commands, as a user runs them, on a machine with nothing in
their way and on machines with something in it.

    quickstart_test.py --build-dir build/release [unittest arguments]

Each test has a machine.py of its own. Two things are not as on a user's: `cmake` hands out what
--build-dir has, instead of compiling for minutes, and `iscsiadm`, which would need the kernel, is
left to tests/guest.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import unittest

from machine import LISTEN, SECONDS, Machine

BUILD_DIR = None  # from --build-dir
TREE = pathlib.Path(__file__).resolve().parents[2]
BINARIES = ("sectormapd", "sectormap")

# In place of cmake: what a build leaves, from where it is already. What a test wants to happen
# meanwhile is in ./while-building.
CMAKE = textwrap.dedent("""\
    #!/bin/sh
    set -e
    echo "cmake $*"
    [ ! -e while-building ] || . ./while-building
    case "$*" in
      "--preset release") ;;
      "--build --preset release --target sectormapd sectormap")
        mkdir -p build/release
        cp {binaries} build/release ;;
      *) echo "no such call is expected" >&2; exit 1 ;;
    esac
    """)

SCRAPE = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


class QuickstartTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.scratch.chmod(0o755)
        built = cls.scratch / "built"
        built.mkdir()
        for name in BINARIES:
            shutil.copy(BUILD_DIR / name, built)
        cls.tools = cls.scratch / "tools"
        cls.tools.mkdir()
        cls.tool("cmake", CMAKE.format(
            binaries=" ".join(shlex.quote(str(built / name)) for name in BINARIES)))

    @classmethod
    def tool(cls, name, text, directory=None):
        """A program that is found before the machine's own."""
        path = (directory or cls.tools) / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        self.place.chmod(0o777)
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.machine = self.enterContext(Machine(self.place))
        self.home = self.place / "home"
        self.home.mkdir()
        self.home.chmod(0o777)
        self.tree = self.copy_of_the_tree("tree")
        self.path = f"{self.tools}:{os.environ['PATH']}"

    # --- helpers ---

    def copy_of_the_tree(self, name):
        """As a clone is: without anything that was built."""
        copy = self.place / name
        shutil.copytree(TREE, copy, symlinks=True,
                        ignore=lambda directory, _: {"build", ".git"}
                        if pathlib.Path(directory) == TREE else set())
        return copy

    def start(self, *words, script="deploy/quickstart.sh", **options):
        options = {"cwd": self.tree, "PATH": self.path, "HOME": self.home, "XDG_STATE_HOME": "",
                   **options}
        return self.machine.start(script, *words, **options)

    def quickstart(self, *words, **options):
        process = self.start(*words, **options)
        said, _ = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, said)

    def shell(self, line, **options):
        """One line as a user types it."""
        return self.machine.run("bash", "-c", line, **{"cwd": self.tree, **options})

    def daemons(self):
        """The command lines of those that run on the machine; the dead are not counted."""
        lines = self.machine.run("ps", "-eo", "stat=,comm=,args=").stdout.splitlines()
        return [line for line in lines if re.match(r"[^ZX]\S* +sectormapd", line)]

    def sectormap(self, state_dir, *words):
        return self.machine.run(self.tree / "build/release/sectormap", "--server",
                                f"unix:{state_dir}/control.sock", *words)

    def qemu_io(self, command, port=3260, name="demo"):
        result = self.machine.run(
            "qemu-io", "-f", "raw", "-c", command,
            f"iscsi://127.0.0.1:{port}/iqn.2026-11.io.sectormap:{name}/0")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertNotRegex(result.stdout, "(?i)failed|error")

    def printed(self, result, title):
        return re.search(rf"^  {title}  +(.*)$", result.stdout, re.M).group(1)

    def assert_runs(self, result, state_dir, port=3260, metrics_port=9360):
        """Ended well, and everything is as it says."""
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertRegex(result.stdout, r"Sectormap runs \(pid \d+\)")
        self.assertEqual(len(self.daemons()), 1)
        demo = f"{state_dir}/devices/demo.img"
        self.assertIn(f"iqn.2026-11.io.sectormap:demo, LUN 0, 1024 MiB, in {demo}", result.stdout)
        self.assertIn(f"iscsiadm -m discovery -t sendtargets -p 127.0.0.1:{port}\n", result.stdout)
        self.assertIn(f"iscsiadm -m node -T iqn.2026-11.io.sectormap:demo -p 127.0.0.1:{port} "
                      "--login\n", result.stdout)
        self.assertEqual(self.printed(result, "gRPC"), f"unix:{state_dir}/control.sock")
        if metrics_port is not None:
            self.assertEqual(self.printed(result, "Metrics"),
                             f"http://127.0.0.1:{metrics_port}/metrics")
        listed = self.shell(self.printed(result, "Command"))
        self.assertRegex(listed.stdout, r"(?m)^demo\b")
        self.assertNotIn("quickstart-proof", listed.stdout)
        scraped = self.machine.run("python3", "-c", SCRAPE, self.printed(result, "Metrics"))
        self.assertIn('sectormap_device_size_bytes{device="demo"} 1073741824', scraped.stdout)
        self.assertEqual(self.printed(result, "Log"), f"{state_dir}/sectormapd.log")
        self.qemu_io("read 0 1M", port)

    def assert_refused(self, result, *patterns):
        """Says why, and nothing runs."""
        self.assertEqual(result.returncode, 1, result.stdout)
        for pattern in patterns:
            self.assertRegex(result.stdout, pattern)
        self.assertEqual(self.daemons(), [])

    def assert_stops(self, result):
        """With the line that it printed."""
        stopped = self.shell(self.printed(result, "Stop"))
        self.assertEqual(stopped.returncode, 0, stopped.stdout)
        self.assertIn("Stopped sectormapd", stopped.stdout)
        self.assertEqual(self.daemons(), [])

    # --- as it should go ---

    def test_the_readmes_commands_do_what_they_say(self):
        self.assertIn("\n    deploy/quickstart.sh\n", (TREE / "README.md").read_text())
        result = self.quickstart()
        self.assert_runs(result, "/var/lib/sectormap")
        self.qemu_io("read -P 0x5e 1M 1M")
        then = re.search("^## Then\n(.*?)^## ", (TREE / "README.md").read_text(), re.M | re.S)
        lines = [line.strip() for line in re.findall("^    (.*)$", then.group(1), re.M)]
        script = [line for line in lines if not line.startswith("iscsiadm")]
        self.assertGreater(len(lines), len(script))
        done = self.shell("\n".join(["set -e", "shopt -s expand_aliases", *script]))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, "move vol: done")
        self.assertRegex(done.stdout, "mirror-add vol: done")
        self.qemu_io("write 400M 1M", name="vol")
        self.assert_stops(result)
        self.assertIn("not running", self.quickstart("stop").stdout)

    def test_only_the_build_directory_and_the_state_directory_change(self):
        state = self.place / "state"
        before = {path: path.stat().st_mtime_ns for path in self.tree.rglob("*") if path.is_file()}
        self.assert_runs(self.quickstart("--state-dir", state), state)
        after = {path: path.stat().st_mtime_ns for path in self.tree.rglob("*")
                 if path.is_file() and self.tree / "build" not in path.parents}
        self.assertEqual(after, before)
        self.assertEqual(list(self.home.iterdir()), [])

    def test_a_second_start_leaves_the_daemon_and_what_is_on_the_demo_volume_alone(self):
        state = self.place / "state"
        first = self.quickstart("--state-dir", state)
        self.qemu_io("write -P 0x77 0 4M")
        second = self.quickstart("--state-dir", state, "--port", 4000)
        self.assertIn("running already", second.stdout)
        self.assertIn("stays on port 3260", second.stdout)
        self.assert_runs(second, state)
        self.assertEqual(*(re.search(r"\(pid \d+\)", said.stdout).group(0)
                           for said in (first, second)))
        self.assertEqual([path.name for path in (state / "devices").iterdir()], ["demo.img"])
        self.assert_stops(second)
        third = self.quickstart("--state-dir", state, "--port", 4000)
        self.assert_runs(third, state, port=4000)
        self.qemu_io("read -P 0x77 0 4M", port=4000)

    def test_a_start_after_a_kill_finds_nothing_in_its_way(self):
        state = self.place / "state"
        first = self.quickstart("--state-dir", state)
        self.machine.run("kill", "-9", (state / "quickstart.pid").read_text().strip())
        second = self.quickstart("--state-dir", state)
        self.assertNotIn("running already", second.stdout)
        self.assert_runs(second, state)
        self.assertEqual(self.printed(first, "Volume"), self.printed(second, "Volume"))

    def test_a_demo_volume_whose_file_is_gone_is_made_anew(self):
        state = self.place / "state"
        self.assert_stops(self.quickstart("--state-dir", state))
        (state / "devices/demo.img").unlink()
        result = self.quickstart("--state-dir", state)
        self.assertIn("demo.img is gone; an empty one takes its place", result.stdout)
        self.assert_runs(result, state)
        self.qemu_io("write 0 1M")

    def test_a_state_directory_may_be_relative_and_have_blanks(self):
        result = self.quickstart("--state-dir", "my state", cwd=self.place,
                                 script=self.tree / "deploy/quickstart.sh")
        self.assert_runs(result, self.place / "my state")
        self.assert_stops(result)

    # --- ports ---

    def test_a_portal_port_in_use_is_named_with_the_option_to_change(self):
        state = self.place / "state"
        other = self.machine.listener(3260)
        result = self.quickstart("--state-dir", state)
        self.assert_refused(result, "port 3260 .*in use", "--port")
        self.assertNotIn("Building", result.stdout)
        self.assert_runs(self.quickstart("--state-dir", state, "--port", 3261), state, port=3261)
        other.communicate()

    def test_a_metrics_port_in_use_is_named_with_the_option_to_change(self):
        state = self.place / "state"
        other = self.machine.listener(9999)
        words = ("--state-dir", state, "--metrics-port")
        self.assert_refused(self.quickstart(*words, 9999), "port 9999 .*in use", "--metrics-port")
        self.assert_refused(self.quickstart(*words, 3260), "both 3260")
        self.assert_runs(self.quickstart(*words, 9998), state, metrics_port=9998)
        other.communicate()

    def test_a_free_metrics_port_is_found_if_none_is_asked_for(self):
        state = self.place / "state"
        other = self.machine.listener(9360)
        result = self.quickstart("--state-dir", state)
        self.assert_runs(result, state, metrics_port=None)
        self.assertNotIn(":9360/", result.stdout)
        other.communicate()

    def test_a_port_that_is_taken_at_the_last_moment_is_told_by_the_daemon(self):
        state = self.place / "state"
        # Nobody listens, so that the script finds it free; but it is bound.
        other = self.machine.start("python3", "-c", LISTEN.replace("create_server(", "socket(); s.bind(")
                                   , 3260)
        other.stdout.readline()
        self.assert_refused(self.quickstart("--state-dir", state), "127.0.0.1:3260 is in use")
        other.communicate()
        self.assert_runs(self.quickstart("--state-dir", state), state)

    def test_words_that_are_no_options_or_ports(self):
        for status, words in ((2, ["--nonsense"]), (1, ["--port"]), (1, ["--port", "0"]),
                              (1, ["--port", "iscsi"]), (1, ["--metrics-port", "65536"])):
            with self.subTest(words=words):
                result = self.quickstart(*words)
                self.assertEqual(result.returncode, status, result.stdout)
                self.assertRegex(result.stdout, "usage|port|value")
        self.assertEqual(self.daemons(), [])

    # --- without root ---

    def test_root_is_not_needed(self):
        self.shell("cp -r . ~/tree", user=True, HOME=self.home)
        user = {"user": True, "cwd": self.home / "tree"}
        result = self.quickstart(**user)
        self.tree = self.home / "tree"
        self.assert_runs(result, self.home / ".local/state/sectormap")
        self.assert_stops(result)
        result = self.quickstart(**user, XDG_STATE_HOME=self.home / "xdg")
        self.assert_runs(result, self.home / "xdg/sectormap")
        self.assert_stops(result)

    def test_without_root_a_tree_of_somebody_else_is_used_as_it_was_built(self):
        if os.geteuid() == 0:
            self.assert_refused(self.quickstart(user=True), "cannot write to .*/tree/build")
        state = self.place / "state"
        self.assert_stops(self.quickstart("--state-dir", state))
        self.assert_runs(self.quickstart(user=True), self.home / ".local/state/sectormap")

    def test_without_root_missing_packages_are_named_with_the_command_for_root(self):
        tools = self.place / "no-packages"
        tools.mkdir()
        # Everything is there but ninja.
        self.tool("dpkg-query", "#!/bin/sh\ncase \"$*\" in *ninja-build) exit 1 ;; "
                  "*) echo installed ;; esac\n", tools)
        # sudo, if the machine has it, knows us not.
        self.tool("sudo", "#!/bin/sh\nexit 1\n", tools)
        result = self.quickstart(user=True, PATH=f"{tools}:{self.path}")
        self.assert_refused(result, "only root can install", r"(?m)apt-get install .* ninja-build$")
        self.assertNotIn("Building", result.stdout)

    def test_a_state_directory_that_cannot_be_written_to(self):
        self.assert_refused(self.quickstart("--state-dir", "/proc/nothing", user=True),
                            "cannot write to /proc/nothing", "--state-dir")
        self.assert_refused(self.quickstart(user=True, HOME=""), "HOME", "--state-dir")
        self.assert_refused(self.quickstart("--state-dir", self.place / ("long" * 25)),
                            "path is too long", "--state-dir")

    # --- paths and disks ---

    def test_a_file_outside_the_device_root_is_refused_with_the_option_to_change(self):
        state = self.place / "state"
        self.assert_runs(self.quickstart("--state-dir", state), state)
        outside = self.place / "outside.img"
        outside.write_bytes(bytes(1 << 20))
        result = self.sectormap(state, "create", "x", "--table", f"0 2048 linear {outside} 0")
        self.assertEqual(result.returncode, 1)
        self.assertIn(f"'{outside}' lies outside of {state}/devices", result.stdout)
        self.assertIn("--device-root", result.stdout)

    def small_disk(self):
        """A state directory on a file system of its own."""
        state = self.place / "state"
        state.mkdir()
        mounted = self.machine.run("mount", "-t", "tmpfs", "-o", "size=128m", "tmpfs", state)
        self.assertEqual(mounted.returncode, 0, mounted.stdout)
        return state

    def test_a_full_disk_at_the_start(self):
        state = self.small_disk()
        words = ("--state-dir", state)
        filler = state / "filler"
        self.machine.run("fallocate", "-l", "100M", filler)
        result = self.quickstart(*words)
        self.assert_refused(result, rf"disk is full: \d+ MiB free in {state}", "--state-dir")
        self.assertNotIn("Building", result.stdout)
        self.machine.run("rm", filler)
        self.assert_runs(self.quickstart(*words), state)

    def test_a_disk_that_fills_up_meanwhile(self):
        state = self.small_disk()
        words = ("--state-dir", state)
        filler = f"{state}/filler"
        for left_kib in (0, 16, 64, 160, 400):
            with self.subTest(left_kib=left_kib):
                (self.tree / "while-building").write_text(
                    f"cat /dev/zero 2>/dev/null >{filler} || true\n"
                    f"truncate -s -{left_kib}K {filler}\n")
                self.assert_refused(self.quickstart(*words), "(?i)no space|disk.* full")
                self.machine.run("rm", "-f", filler)
        (self.tree / "while-building").unlink()
        self.assert_runs(self.quickstart(*words), state)

    # --- what fails later ---

    def test_a_build_that_fails_shows_the_end_of_its_words(self):
        state = self.place / "state"
        (self.tree / "while-building").write_text("echo 'x.cc:1: error: so it is'; exit 1\n")
        self.assert_refused(self.quickstart("--state-dir", state), "x.cc:1: error: so it is",
                            f"the build failed.*{state}/build.log")

    def test_a_volume_that_cannot_be_read_back_ends_the_daemon(self):
        state = self.place / "state"
        tools = self.place / "broken"
        tools.mkdir()
        self.tool("qemu-io", "#!/bin/sh\necho 'write failed: Input/output error'\n", tools)
        result = self.quickstart("--state-dir", state, PATH=f"{tools}:{self.path}")
        self.assert_refused(result, "Input/output error", "could not be written and read back")
        self.assert_runs(self.quickstart("--state-dir", state), state)
        again = self.quickstart("--state-dir", state, PATH=f"{tools}:{self.path}")
        self.assertEqual(again.returncode, 1)
        self.assertEqual(len(self.daemons()), 1, "another run's daemon is not ours to end")
        self.assert_runs(self.quickstart("--state-dir", state), state)

    def test_an_interrupt_ends_the_daemon(self):
        state = self.place / "state"
        tools = self.place / "slow"
        tools.mkdir()
        self.tool("qemu-io", f"#!/bin/sh\nps -o pgid= -p $$ >{self.place}/begun\nexec sleep 1000\n",
                  tools)
        os.mkfifo(self.place / "begun")
        # As a terminal does it: to the whole process group.
        process = self.start("--wait", "deploy/quickstart.sh", "--state-dir", state, script="setsid",
                             PATH=f"{tools}:{self.path}")
        group = (self.place / "begun").read_text().strip()
        self.machine.run("kill", "-INT", "--", f"-{group}")
        process.communicate(timeout=SECONDS)
        self.assertNotEqual(process.returncode, 0)
        self.assertEqual(self.daemons(), [])
        self.assert_runs(self.quickstart("--state-dir", state), state)


def main():
    global BUILD_DIR
    arguments = sys.argv[1:]
    if len(arguments) < 2 or arguments[0] != "--build-dir":
        sys.exit(__doc__)
    BUILD_DIR = pathlib.Path(arguments[1]).resolve()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    unittest.main(argv=[sys.argv[0], *arguments[2:]], verbosity=2)


if __name__ == "__main__":
    main()
