#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What `cmake --install` and the Debian package put on a machine, and that it serves from there.

    install_test.py --build-dir build/release [unittest arguments]

Nothing is built: both take the binaries that --build-dir has. dpkg installs below a directory of its
own, with stand-ins for what would talk to systemd.
"""

import os
import pathlib
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import unittest

from machine import SECONDS, Machine

TREE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "tests" / "support"))
from daemon import Daemon  # noqa: E402

BUILD_DIR = None  # from --build-dir

CONFIGURATION = "etc/sectormap/sectormapd.toml"
UNIT = "usr/lib/systemd/system/sectormapd.service"
CLI = {
    "usr/bin/sectormap": 0o755,
    "usr/share/bash-completion/completions/sectormap": 0o644,
}
DAEMON = {
    CONFIGURATION: 0o644,
    "usr/bin/sectormapd": 0o755,
    UNIT: 0o644,
    "usr/share/sectormap/grafana/sectormap.json": 0o644,
    "usr/share/sectormap/prometheus/prometheus.yml": 0o644,
    "usr/share/sectormap/prometheus/sectormap.rules.yml": 0o644,
}
DOCUMENTS = "usr/share/doc/sectormap"

# What they were called for is in $PLACE/calls; the service runs while there is a $PLACE/running.
STAND_INS = {
    "deb-systemd-invoke": """#!/bin/sh
echo "$*" >>"$PLACE/calls"
case $1 in start) touch "$PLACE/running" ;; stop) rm -f "$PLACE/running" ;; esac
""",
    "systemctl": """#!/bin/sh
case "$*" in
  "--system daemon-reload") echo daemon-reload >>"$PLACE/calls" ;;
  "--quiet is-active sectormapd.service") [ -e "$PLACE/running" ] ;;
  *) echo "no such call is expected: $*" >&2; exit 1 ;;
esac
""",
}


def run(*words, **options):
    """Runs it; what it says."""
    result = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, timeout=SECONDS, check=False, umask=0o022, **options)
    if result.returncode != 0:
        raise AssertionError(f"{words} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


def files_below(root):
    """Their paths and permissions, but for the documents'."""
    return {str(path.relative_to(root)): stat.S_IMODE(path.stat().st_mode)
            for path in root.rglob("*")
            if not path.is_dir() and root / DOCUMENTS not in path.parents}


class PlaceTest(unittest.TestCase):
    """Has a directory of its own, and knows what an installed Sectormap has to do."""

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)

    def assert_serves(self, binaries, configuration):
        with Daemon(binaries, options=["--config", configuration]) as daemon:
            daemon.thin_volume("vol", 16)
            url = daemon.export("vol")
            run("qemu-io", "-f", "raw", "-c", "write -P 0x5e 1M 1M", "-c", "flush", url)
            self.assertEqual(daemon.stop(), 0)
            daemon.start()
            said = run("qemu-io", "-f", "raw", "-c", "read -P 0x5e 1M 1M", url)
            self.assertNotIn("Pattern verification failed", said)

    def assert_completes(self, binaries, script):
        said = run("bash", "-c", "set -e; . $0; COMP_WORDS=(sectormap snap) COMP_CWORD=1; "
                   "_sectormap; echo ${COMPREPLY[*]}", script,
                   env={**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}"})
        self.assertEqual(said, "snapshot\n")

    def assert_links_lead_on(self, documents):
        pages = list(documents.rglob("*.md"))
        self.assertIn(documents / "docs/operations.md", pages)
        for page in pages:
            for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
                if "://" not in link:
                    self.assertTrue((page.parent / link).exists(), f"{page} -> {link}")


class InstallTest(PlaceTest):
    def install(self, *words, prefix="/usr", **env):
        return run("cmake", "--install", BUILD_DIR, "--prefix", prefix, *words,
                   env={**os.environ, **env})

    def test_everything_is_where_an_administrator_looks_for_it(self):
        self.install(DESTDIR=str(self.place))
        self.assertEqual(files_below(self.place), {**DAEMON, **CLI})
        for installed in (UNIT, CONFIGURATION):
            source = TREE / "deploy/systemd" / pathlib.Path(installed).name
            self.assertEqual((self.place / installed).read_text(), source.read_text())
        self.assert_links_lead_on(self.place / DOCUMENTS)

    def test_components_are_installed_alone(self):
        for component, files in (("cli", CLI), ("daemon", DAEMON), ("doc", {})):
            with self.subTest(component):
                root = self.place / component
                self.install("--component", component, DESTDIR=str(root))
                self.assertEqual(files_below(root), files)
                self.assertEqual((root / DOCUMENTS).exists(), component == "doc")

    def test_it_serves_from_any_prefix_as_the_unit_there_says(self):
        prefix = self.place / "prefix"
        self.install(prefix=prefix)
        unit = (prefix / "lib/systemd/system/sectormapd.service").read_text()
        words = shlex.split(re.search("^ExecStart=(.*)$", unit, re.M).group(1))
        configuration = prefix / "etc/sectormap/sectormapd.toml"
        self.assertEqual(words, [str(prefix / "bin/sectormapd"), "--state-dir=%S/sectormap",
                                 f"--config={configuration}"])
        self.assert_serves(prefix / "bin", configuration)
        self.assert_completes(prefix / "bin", prefix / "share/bash-completion/completions/sectormap")

    def test_what_opt_holds_is_configured_in_etc_opt(self):
        self.install("--component", "daemon", prefix="/opt/sectormap", DESTDIR=str(self.place))
        unit = (self.place / "opt/sectormap/lib/systemd/system/sectormapd.service").read_text()
        self.assertIn("ExecStart=/opt/sectormap/bin/sectormapd ", unit)
        configuration = re.search(r"--config=(\S+)", unit).group(1)
        self.assertTrue(configuration.startswith("/etc/opt/sectormap/"), configuration)
        self.assertTrue((self.place / configuration[1:]).exists())

    def test_a_configuration_that_is_there_stays(self):
        self.install(DESTDIR=str(self.place))
        (self.place / CONFIGURATION).write_text('log-level = "debug"\n')
        (self.place / UNIT).write_text("damaged")
        said = self.install(DESTDIR=str(self.place))
        self.assertIn(f"Kept as it is: {self.place / CONFIGURATION}", said)
        self.assertEqual((self.place / CONFIGURATION).read_text(), 'log-level = "debug"\n')
        self.assertNotEqual((self.place / UNIT).read_text(), "damaged")


class PackageTest(PlaceTest):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        run("cpack", "--config", BUILD_DIR / "CPackConfig.cmake", "-G", "DEB", "-B", cls.scratch)
        cls.package, = cls.scratch.glob("*.deb")

    def field(self, name):
        return run("dpkg-deb", "--field", self.package, name).strip()

    # --- what it is ---

    def test_its_fields(self):
        version = run(BUILD_DIR / "sectormapd", "--version").split()[-1]
        architecture = run("dpkg", "--print-architecture").strip()
        self.assertEqual(self.package.name, f"sectormap_{version}_{architecture}.deb")
        for name, text in (("Package", "sectormap"), ("Version", version), ("Section", "admin"),
                           ("Architecture", architecture), ("Priority", "optional")):
            self.assertEqual(self.field(name), text)
        self.assertRegex(self.field("Maintainer"), "^[^<>]+ <[^<>@]+@[^<>@]+>$")
        depends = [word.split()[0] for word in self.field("Depends").split(", ")]
        self.assertLessEqual({"libc6", "libgrpc++1.51", "libisal2", "liburing2", "libsqlite3-0"},
                             set(depends))
        self.assertEqual([name for name in depends if name.endswith("-dev")], [])

    def test_it_holds_what_cmake_installs(self):
        installed, unpacked = self.place / "installed", self.place / "unpacked"
        run("cmake", "--install", BUILD_DIR, "--prefix", "/usr",
            env={**os.environ, "DESTDIR": str(installed)})
        run("dpkg-deb", "-x", self.package, unpacked)
        self.assertEqual(files_below(unpacked), {**DAEMON, **CLI})
        names = [sorted(path.relative_to(root) for path in root.rglob("*"))
                 for root in (installed, unpacked)]
        self.assertEqual(*names)
        for line in run("dpkg-deb", "-c", self.package).splitlines():
            self.assertRegex(line, r"^(drwxr-xr-x|-rw[x-]r-[x-]r-[x-]) root/root ")

    def test_it_serves_without_what_only_a_debugger_reads(self):
        run("dpkg-deb", "-x", self.package, self.place)
        binaries = self.place / "usr/bin"
        for name in ("sectormapd", "sectormap"):
            self.assertNotIn(".debug_info", run("readelf", "--wide", "-S", binaries / name))
        self.assert_serves(binaries, self.place / CONFIGURATION)
        self.assert_completes(binaries,
                              self.place / "usr/share/bash-completion/completions/sectormap")

    # --- what becomes of it ---

    def boot(self):
        """A machine with systemd, or what looks like it, and nothing installed."""
        self.machine = self.enterContext(Machine(self.place))
        self.machine.run("mount", "-t", "tmpfs", "tmpfs", "/run")
        self.machine.run("mkdir", "-p", "/run/systemd/system")
        tools = self.place / "tools"
        tools.mkdir()
        for name, text in STAND_INS.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        self.path = f"{tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
        self.root = self.place / "root"
        for name in ("info", "updates", "triggers"):
            (self.root / "var/lib/dpkg" / name).mkdir(parents=True)
        (self.root / "var/lib/dpkg/status").touch()

    def dpkg(self, *words):
        """What it says, and what it has had systemd do."""
        (self.place / "calls").write_text("")
        result = self.machine.run(
            "dpkg", f"--root={self.root}", "--force-script-chrootless", "--force-not-root",
            "--force-depends", "--force-confold", "--log=/dev/null", *words, PATH=self.path,
            PLACE=self.place)
        self.assertEqual(result.returncode, 0, result.stdout)
        return result.stdout, (self.place / "calls").read_text().splitlines()

    def next_version(self):
        tree = self.place / "next"
        run("dpkg-deb", "-R", self.package, tree)
        control = tree / "DEBIAN/control"
        control.write_text(re.sub("(?m)^Version: .*", "Version: 99", control.read_text()))
        with open(tree / CONFIGURATION, "a", encoding="utf-8") as configuration:
            configuration.write("# more of it\n")
        run("dpkg-deb", "--root-owner-group", "-b", tree, self.place / "next.deb")
        return self.place / "next.deb"

    @property
    def enabled(self):
        return self.root / "etc/systemd/system/multi-user.target.wants/sectormapd.service"

    def test_the_service_is_started_stopped_and_enabled_as_debian_does(self):
        self.boot()
        _, calls = self.dpkg("-i", self.package)
        self.assertEqual(calls, ["daemon-reload", "start sectormapd.service"])
        self.assertTrue(self.enabled.is_symlink())
        _, calls = self.dpkg("--remove", "sectormap")
        self.assertEqual(calls, ["stop sectormapd.service", "daemon-reload"])
        self.assertFalse((self.root / UNIT).exists())

    def test_an_upgrade_interrupts_no_initiator_and_keeps_the_configuration(self):
        self.boot()
        self.dpkg("-i", self.package)
        (self.root / CONFIGURATION).write_text('log-level = "debug"\n')
        said, calls = self.dpkg("-i", self.next_version())
        self.assertEqual(calls, ["daemon-reload"])
        self.assertIn("systemctl restart sectormapd", said)
        self.assertEqual((self.root / CONFIGURATION).read_text(), 'log-level = "debug"\n')
        self.assertIn("# more of it", (self.root / f"{CONFIGURATION}.dpkg-dist").read_text())

    def test_who_disabled_the_service_is_heeded(self):
        self.boot()
        self.dpkg("-i", self.package)
        self.enabled.unlink()
        self.dpkg("-i", self.next_version())
        self.assertFalse(self.enabled.is_symlink())

    def test_purged_it_leaves_nothing_but_volumes(self):
        self.boot()
        volume = self.root / "var/lib/sectormap/devices/vol.img"
        volume.parent.mkdir(parents=True)
        volume.touch()
        self.dpkg("-i", self.package)
        self.dpkg("--remove", "sectormap")
        self.assertTrue((self.root / CONFIGURATION).exists())
        said, _ = self.dpkg("--purge", "sectormap")
        self.assertIn("/var/lib/sectormap stays", said)
        left = [str(path.relative_to(self.root)) for path in self.root.rglob("*")
                if not path.is_dir() and self.root / "var/lib/dpkg" not in path.parents]
        self.assertEqual(left, [str(volume.relative_to(self.root))])

    def test_without_systemd_nothing_is_started(self):
        self.boot()
        self.machine.run("rm", "-r", "/run/systemd")
        for words in (("-i", self.package), ("-i", self.next_version()), ("--purge", "sectormap")):
            _, calls = self.dpkg(*words)
            self.assertEqual(calls, [])


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
