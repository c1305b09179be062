#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""deploy/packages.sh with stand-ins for dpkg-query, apt-get and sudo: nothing is installed.

What it must never do is leave its policy-rc.d behind, which keeps services from starting.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import unittest

TREE = pathlib.Path(__file__).resolve().parents[2]
SECONDS = 60

TOOLS = {
    # A package is installed when apt-get has said so.
    "dpkg-query": '#!/bin/sh\n[ ! -e "$PLACE/installed" ] || echo installed\n',
    "sudo": '#!/bin/sh\n[ "$1" != -n ] || shift\nexec "$@"\n',
    "apt-get": """#!/bin/sh
case "$*" in *install*) ;; *) exit 0 ;; esac
"$PLACE/policy-rc.d"
echo "$?" >"$PLACE/begun"
[ -e "$PLACE/hang" ] && exec sleep 1000
touch "$PLACE/installed"
""",
}


class PackagesTest(unittest.TestCase):
    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="sectormap."))
        self.addCleanup(shutil.rmtree, self.place)
        for name, text in TOOLS.items():
            (self.place / name).write_text(text)
            (self.place / name).chmod(0o755)
        self.policy = self.place / "policy-rc.d"

    def start(self):
        """A script that installs a package; in a process group of its own."""
        script = (f". {TREE}/deploy/packages.sh; POLICY_FILE=$PLACE/policy-rc.d; "
                  f"trap 'touch $PLACE/trapped' EXIT; install_packages some-package")
        return subprocess.Popen(["bash", "-c", script], start_new_session=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                env={**os.environ, "PLACE": str(self.place),
                                     "PATH": f"{self.place}:{os.environ['PATH']}"})

    def install(self):
        """What services would have been told meanwhile."""
        process = self.start()
        said, _ = process.communicate(timeout=SECONDS)
        self.assertEqual(process.returncode, 0, said)
        return (self.place / "begun").read_text().strip()

    def interrupt(self, number):
        """As a terminal does it, in the middle of an installation."""
        (self.place / "hang").touch()
        os.mkfifo(self.place / "begun")
        process = self.start()
        (self.place / "begun").read_text()
        self.assertTrue(self.policy.exists())
        os.killpg(process.pid, number)
        process.communicate(timeout=SECONDS)  # until all of its processes have ended
        self.assertNotEqual(process.returncode, 0)
        for name in ("hang", "begun"):
            (self.place / name).unlink()

    def test_services_are_kept_from_starting_only_meanwhile(self):
        self.assertEqual(self.install(), "101")
        self.assertFalse(self.policy.exists())

    def test_an_interrupt_leaves_no_policy_behind(self):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            with self.subTest(number.name):
                self.interrupt(number)
                self.assertFalse(self.policy.exists())

    def test_the_callers_trap_is_its_own(self):
        self.install()
        self.assertTrue((self.place / "trapped").exists())

    def test_what_a_killed_run_left_is_known_as_ours(self):
        self.interrupt(signal.SIGKILL)
        self.assertTrue(self.policy.exists())
        self.assertEqual(self.install(), "101")
        self.assertFalse(self.policy.exists())

    def test_the_machines_own_policy_stays(self):
        self.policy.write_text("#!/bin/sh\nexit 104\n")
        self.policy.chmod(0o755)
        self.assertEqual(self.install(), "104")
        self.assertEqual(self.policy.read_text(), "#!/bin/sh\nexit 104\n")


if __name__ == "__main__":
    unittest.main(verbosity=2)
