#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/container/Containerfile, as far as that goes without a registry that has Debian's image.

    container_test.py --build-dir build/release [unittest arguments]

Its own words are carried out: the build stage's in a tree of what it copies, with --build-dir's
binaries in place of the compilation; the image's with that stage's package, on a machine.py, as its
user and in its environment.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

from machine import SECONDS, Machine

BUILD_DIR = None  # from --build-dir
TREE = pathlib.Path(__file__).resolve().parents[2]
CONTAINERFILE = TREE / "deploy/container/Containerfile"
ADDRESS = "192.0.2.1"  # of the container, as others see it
SCRAPE = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"


def stages():
    """For each stage its instructions, as (name, words) in order."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINERFILE.read_text()).replace("\\\n", "")
    instructions = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    starts = [at for at, (name, _) in enumerate(instructions) if name == "FROM"]
    return [instructions[start:end] for start, end in zip(starts, [*starts[1:], None])]


class ContainerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        cls.addClassCleanup(shutil.rmtree, cls.scratch, ignore_errors=True)
        cls.scratch.chmod(0o755)
        cls.build_stage, cls.image_stage = stages()
        cls.build()
        cls.image = cls.scratch / "image"
        package, = (cls.scratch / "package").glob("sectormap_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, cls.image], check=True)

    @classmethod
    def build(cls):
        """As the build stage does it."""
        tree = cls.scratch / "src"
        for name, words in cls.build_stage:
            if name == "COPY":
                *sources, to = words.split()
                for source in sources:
                    if (TREE / source).is_dir():
                        shutil.copytree(TREE / source, tree / to, dirs_exist_ok=True)
                    else:
                        into = tree / to if to.endswith("/") else (tree / to).parent
                        into.mkdir(parents=True, exist_ok=True)
                        shutil.copy(TREE / source, into)
            elif name == "RUN" and words.startswith("cmake --build "):
                for binary in words.split(" --target ")[1].split():
                    shutil.copy(BUILD_DIR / binary, tree / "build/release")
            elif name == "RUN" and words.startswith(("cmake ", "cpack ")):
                words = [str(cls.scratch / word[1:]) if word.startswith("/") else word
                         for word in shlex.split(words)]
                result = subprocess.run(words, cwd=tree, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.STDOUT, timeout=SECONDS, check=False)
                if result.returncode != 0:
                    raise AssertionError(f"{words}:\n{result.stdout}")

    @classmethod
    def of_image(cls, name):
        return [words for instruction, words in cls.image_stage if instruction == name]

    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(dir=self.scratch))
        self.place.chmod(0o755)
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.machine = self.enterContext(Machine(self.place))
        self.machine.run("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
        volume, = self.of_image("VOLUME")
        self.machine.run("mkdir", "-p", volume)
        self.machine.run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", volume)
        self.volume = pathlib.Path(volume)
        user, = self.of_image("USER")
        self.uid = int(user.split(":")[0])
        self.environment = dict(words.split("=", 1) for words in self.of_image("ENV"))

    def start(self, *words):
        """As `podman exec` does it, and `podman run`."""
        return self.machine.start(*words, user=True, uid=self.uid, **self.environment,
                                  PATH=f"{self.image}/usr/bin:{os.environ['PATH']}")

    def run_in(self, *words):
        process = self.start(*words)
        said, _ = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(words, process.returncode, said)

    def health(self):
        check, = self.of_image("HEALTHCHECK")
        return self.run_in(*json.loads(check.split(" CMD ")[1])).returncode

    # --- rules ---

    def test_the_packages_that_it_installs_are_those_of_a_build(self):
        script, = (shlex.split(words)[2] for name, words in self.build_stage
                   if name == "RUN" and "install_packages" in words)
        for does, said in (("echo", r"\bclang-19 .*\bdpkg-dev\b"), ("missing_packages", "^$")):
            result = subprocess.run(
                ["bash", "-c", script.replace("install_packages", does)], cwd=TREE, check=True,
                stdout=subprocess.PIPE, text=True)
            self.assertRegex(result.stdout, said)

    def test_it_serves_as_its_user_and_knows_whether_it_does(self):
        self.assertNotEqual(self.uid, 0)
        self.assertNotEqual(self.health(), 0)
        (entry,), (words,) = self.of_image("ENTRYPOINT"), self.of_image("CMD")
        daemon = self.start(*json.loads(entry), *json.loads(words))
        for line in daemon.stdout:
            if line == "ready\n":
                break
        else:
            self.fail(f"sectormapd ended with {daemon.wait()}")
        self.assertEqual(self.health(), 0)

        file = self.volume / "devices/vol.img"
        for step in (["truncate", "-s", "16M", file],
                     ["sectormap", "create", "vol", "--table", f"0 32768 linear {file} 0"],
                     ["sectormap", "export", "vol"]):
            result = self.run_in(*step)
            self.assertEqual(result.returncode, 0, result.stdout)
        ports = re.findall(r"\d+", self.of_image("EXPOSE")[0])
        written = self.machine.run(
            "qemu-io", "-f", "raw", "-c", "write -P 0x5e 1M 1M",
            f"iscsi://{ADDRESS}:{ports[0]}/iqn.2026-11.io.sectormap:vol/0")
        self.assertEqual(written.returncode, 0, written.stdout)
        scraped = self.machine.run("python3", "-c", SCRAPE, f"http://{ADDRESS}:{ports[1]}/metrics")
        self.assertIn('sectormap_device_size_bytes{device="vol"}', scraped.stdout)

        pid = self.machine.run("pgrep", "-x", "sectormapd").stdout.strip()
        self.machine.run("kill", pid)
        daemon.communicate(timeout=SECONDS)
        self.assertEqual(daemon.returncode, 0)
        self.assertNotEqual(self.health(), 0)

    def test_the_volume_belongs_to_its_user(self):
        user, = self.of_image("USER")
        volume, = self.of_image("VOLUME")
        owner, group = user.split(":")
        run, = self.of_image("RUN")
        self.assertIn(f"install -d -m 700 -o {owner} -g {group} {volume}", run)


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
