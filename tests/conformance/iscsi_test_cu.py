#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs libiscsi's conformance suite (Debian's iscsi-test-cu) and compares it with expected.txt.

    iscsi_test_cu.py --build-dir build/release     against a sectormapd of its own
    iscsi_test_cu.py --url iscsi://HOST:PORT/IQN/LUN   against any target; its contents are lost

One line per test, then `N passed, N failed, N skipped`. A test that printed [SKIPPED] is skipped,
whatever else it said: CUnit itself counts such tests as passed. Exit status 1 if a test that
expected.txt lists as `pass` did not pass, one that it does not list as a known gap failed, or one is
not listed at all.

A suite runs in one process of its own. A test that hung or crashed its process fails; those that the
process never reached are run again one by one.
"""

import argparse
import pathlib
import re
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
from daemon import Daemon  # noqa: E402

FAMILY = "ALL"
SUITE_SECONDS = 120  # the longest suite takes a tenth of it
TEST_SECONDS = 30
VOLUME_MIB = 256  # Sanitize and the range tests want room; the file is thin

# The only suite that needs a second session; a second login would disturb the others.
TWO_SESSIONS = "MultipathIO"


class Verdict:
    def __init__(self, state, reason=""):
        self.state = state  # PASSED, FAILED or SKIPPED
        self.reason = " ".join(reason.split())[:160]


def list_tests(binary):
    """{suite: [test, ...]} in the order in which the tool runs them."""
    text = subprocess.run([binary, "--list"], capture_output=True, text=True, check=True).stdout
    suites = {}
    for line in text.splitlines():
        words = line.strip().split(".")
        if len(words) == 3 and words[0] == FAMILY:
            suites.setdefault(words[1], []).append(words[2])
    return suites


def parse(text):
    """({test: Verdict}, name of the test that began and did not end or None) of one process."""
    verdicts, open_test = {}, None
    for block in re.split(r"^  Test: ", text, flags=re.M)[1:]:
        name, _, rest = block.partition(" ...")
        rest = re.split(r"^(?:Suite: |Run Summary)", rest, maxsplit=1, flags=re.M)[0]
        skipped = re.search(r"\[SKIPPED\] *(.*)", rest)
        failure = (re.search(r"\[FAILED\] *(.*)", rest) or
                   re.search(r"^ *\d+\. +(.*)", rest, flags=re.M))
        if re.search(r"(?:^|[ .])FAILED", rest.replace("[FAILED]", ""), flags=re.M):
            verdicts[name] = Verdict("FAILED", failure.group(1) if failure else "")
        elif re.search(r"(?:^passed|[ .]passed$)", rest, flags=re.M):
            verdicts[name] = (Verdict("SKIPPED", skipped.group(1)) if skipped
                              else Verdict("PASSED"))
        else:
            open_test = name
    return verdicts, open_test


class Runner:
    def __init__(self, binary, urls, logs):
        self.binary, self.urls, self.logs = binary, urls, logs

    def _process(self, selector, seconds):
        """Output, and why the process ended early ('' if it did not)."""
        urls = self.urls if TWO_SESSIONS in selector else self.urls[:1]
        command = [self.binary, "--dataloss", "--allow-sanitize", "-v", "-t", selector, *urls]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=seconds, check=False)
            output, status = done.stdout, done.returncode
            early = f"the tool crashed (signal {-status})" if status < 0 else ""
        except subprocess.TimeoutExpired as expired:
            output, early = expired.stdout or b"", f"no end after {seconds} s"
        text = output.decode(errors="replace")
        if not early and "Run Summary" not in text:
            lines = [line for line in text.splitlines() if re.search("fail|error|giving", line, re.I)]
            early = "no session: " + (lines[0] if lines else f"exit {status}")
        if self.logs:
            (self.logs / f"{selector}.log").write_text(text)
        return text, early

    def test(self, suite, name):
        text, early = self._process(f"{FAMILY}.{suite}.{name}", TEST_SECONDS)
        return parse(text)[0].get(name) or Verdict("FAILED", early or "it gave no verdict")

    def suite(self, suite, names):
        """{test: Verdict} of every test of the suite."""
        text, early = self._process(f"{FAMILY}.{suite}", SUITE_SECONDS)
        found, broke_in = parse(text)
        verdicts = {}
        for name in names:
            if name in found:
                verdicts[name] = found[name]
            elif name == broke_in and early:
                verdicts[name] = Verdict("FAILED", early)
            else:
                verdicts[name] = self.test(suite, name)
        return verdicts


def read_expected(path):
    """{Suite.Test: (word, reason)} where word is pass, skip or gap."""
    expected = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.partition("#")[0].strip()
        if not line:
            continue
        word, test, *reason = line.split(maxsplit=2)
        if word not in ("pass", "skip", "gap") or test in expected:
            sys.exit(f"{path}:{number}: '{line}' is malformed or listed twice")
        if word != "pass" and not reason:
            sys.exit(f"{path}:{number}: '{test}' needs a reason")
        expected[test] = (word, reason[0] if reason else "")
    return expected


def differences(verdicts, expected):
    """What makes the run fail, one sentence each."""
    wrong = []
    for test, verdict in verdicts.items():
        word = expected.get(test, ("", ""))[0]
        if not word:
            wrong.append(f"{test}: {verdict.state}, and expected.txt does not list it")
        elif word == "pass" and verdict.state != "PASSED":
            wrong.append(f"{test}: {verdict.state} but has to pass: {verdict.reason}")
        elif word == "skip" and verdict.state == "FAILED":
            wrong.append(f"{test}: FAILED and is no known gap: {verdict.reason}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, help="where sectormapd and sectormap are")
    parser.add_argument("--url", help="a target that runs already, instead of --build-dir")
    parser.add_argument("--suite", default=".", help="only suites that match this expression")
    parser.add_argument("--expected", type=pathlib.Path,
                        default=pathlib.Path(__file__).with_name("expected.txt"))
    parser.add_argument("--logs", type=pathlib.Path, help="keep what every process said")
    parser.add_argument("--binary", default="iscsi-test-cu")
    options = parser.parse_args()
    if (options.build_dir is None) == (options.url is None):
        parser.error("give --build-dir or --url")
    if options.logs:
        options.logs.mkdir(parents=True, exist_ok=True)

    def run(url):
        runner = Runner(options.binary, [url, url], options.logs)
        verdicts = {}
        for suite, names in list_tests(options.binary).items():
            if not re.search(options.suite, suite):
                continue
            for name, verdict in runner.suite(suite, names).items():
                verdicts[f"{suite}.{name}"] = verdict
                print(f"{verdict.state:8}{suite}.{name}  {verdict.reason}".rstrip(), flush=True)
        return verdicts

    if options.url:
        verdicts = run(options.url)
    else:
        with Daemon(options.build_dir) as daemon:
            daemon.thin_volume("conformance", VOLUME_MIB)
            verdicts = run(daemon.export("conformance"))
            if not daemon.running():
                print(f"sectormapd died:\n{daemon.tail(60)}")
                return 1
            if daemon.stop() != 0:
                print(f"sectormapd did not stop cleanly:\n{daemon.tail(60)}")
                return 1

    wrong = [] if options.url else differences(verdicts, read_expected(options.expected))
    for sentence in wrong:
        print(f"WRONG   {sentence}")
    counts = {state: sum(v.state == state for v in verdicts.values())
              for state in ("PASSED", "FAILED", "SKIPPED")}
    print(f"{counts['PASSED']} passed, {counts['FAILED']} failed, {counts['SKIPPED']} skipped")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
