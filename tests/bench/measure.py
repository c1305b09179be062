# SPDX-License-Identifier: Apache-2.0
"""What every benchmark here needs: cases, servers on a core, interleaved rounds, medians, verdicts.

Machines differ, and one machine differs from second to second: so all arms of a group are logged in
at once and take turns in short slices (A B C ... C B A ...). A figure is the median of its rounds of
many slices, and a ratio the median of the rounds' ratios.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
from daemon import Daemon  # noqa: E402

VOLUME_MIB = 512
SERVER_CORE, CLIENT_CORE = 0, 1
WARMUP_SECONDS = 0.2
# What an arm has of a round at a time: short beside what disturbs a shared host, long beside the
# milliseconds after which the caches have forgotten the arm before.
SLICE_SECONDS = 0.05
SECTORS_PER_MIB = 2048
# A run during which others took more than this of the machine says little and is done again, as long
# as there are repeats left: on a machine that is never quiet they would take all the time.
FOREIGN_CORES_MAX, REPEATS = 0.2, 60


@dataclasses.dataclass(frozen=True)
class Case:
    pattern: str  # of load_generator's --rw
    block_bytes: int
    queue_depth: int
    sessions: int = 1
    options: tuple = ()  # more of load_generator's


@dataclasses.dataclass(frozen=True)
class Arm:
    """One of the things that a group compares."""
    case: Case
    url: str
    pid: int
    core: int | None = CLIENT_CORE  # None: the client may run anywhere
    first: bool = False  # its client goes before others on the core, if we may say so
    polls: bool = False  # the server takes a core for itself: it is stopped while others are measured

    def place(self):
        """Run by the client before it starts."""
        if self.core is not None:
            pin(os.getpid(), self.core)
        if self.first:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    @contextlib.contextmanager
    def awake(self):
        if self.polls:
            os.kill(self.pid, signal.SIGCONT)
        try:
            yield
        finally:
            if self.polls:
                os.kill(self.pid, signal.SIGSTOP)


def pin(pid, core):
    """All threads; those that they start later inherit it."""
    if os.cpu_count() > max(SERVER_CORE, CLIENT_CORE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {core})


def random_file(path, mib):
    """With all its pages, for reads to copy; the same MiB again and again."""
    some = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(some)
    return path


def linear(mib, lower):
    return f"0 {mib * SECTORS_PER_MIB} linear {lower} 0"


@contextlib.contextmanager
def one_volume(bench, directory):
    """A daemon with one reactor that exports a file on tmpfs: (daemon, path, url)."""
    with Daemon(bench.build_dir, state_dir=directory, options=["--reactors", "1"]) as daemon:
        path = random_file(daemon.device_root / "v.img", VOLUME_MIB)
        try:
            daemon.cli("create", "v", "--table", linear(VOLUME_MIB, path))
            yield daemon, path, daemon.export("v")
        finally:
            path.unlink()  # it is memory, and the next suite needs it


class SlicedLoad:
    """A load_generator that is logged in, and at work in slices only."""

    def __init__(self, command, arm):
        self._arm = arm
        with arm.awake():
            self._process = subprocess.Popen(
                [*command, "--slices"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, preexec_fn=arm.place)
            self._ask(0)  # it has logged in, and warmed up

    def _ask(self, what):
        """One line of answer; empty once it has given up."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{what}\n")
            self._process.stdin.flush()
        return self._process.stdout.readline()

    def slice(self, seconds):
        with self._arm.awake():
            self._ask(seconds)

    def report(self):
        """What all slices since the last report came to."""
        answer = self._ask("report")
        return json.loads(answer) if answer else {"error": self._process.stderr.read().strip()[-200:]}

    def close(self):
        with self._arm.awake(), contextlib.suppress(BrokenPipeError):
            self._process.communicate()  # ends with its input


class Bench:
    """Runs the load generator and keeps what came of it."""

    def __init__(self, build_dir, rounds, seconds, deadline, spdk=None):
        self.build_dir = pathlib.Path(build_dir)
        self.rounds, self.seconds, self.deadline = rounds, seconds, deadline
        self.spdk = spdk  # SPDK's iscsi_tgt, if it is to be compared with
        self.repeats_left = REPEATS
        self.runs = {}   # group -> arm -> [result]
        self.lines = []  # verdicts

    def command(self, arm, seconds):
        case = arm.case
        return [str(self.build_dir / "load_generator"), "--url", arm.url, "--rw", case.pattern,
                "--bs", str(case.block_bytes), "--qd", str(case.queue_depth),
                "--sessions", str(case.sessions), "--secs", str(seconds),
                "--warmup", str(WARMUP_SECONDS), "--pid", str(arm.pid), *case.options]

    def start(self, arm, seconds):
        """The load, which goes on beside what the caller does; for finish()."""
        return subprocess.Popen(
            self.command(arm, seconds), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=arm.place)

    @staticmethod
    def finish(load):
        out, err = load.communicate()
        return json.loads(out) if load.returncode == 0 else {"error": err.strip()[-200:]}

    def measure(self, arm, seconds=None):
        while True:
            with arm.awake():
                result = self.finish(self.start(arm, seconds or self.seconds))
            if result.get("foreign_cores", 0) <= FOREIGN_CORES_MAX or self.repeats_left <= 0:
                return result
            self.repeats_left -= 1

    def keep(self, group, name, result):
        self.runs.setdefault(group, {}).setdefault(name, []).append(result)
        said = result.get("error") or f"{result['iops']:.0f} IOPS"
        if result.get("foreign_cores", 0) > FOREIGN_CORES_MAX:
            said += f", but others took {result['foreign_cores']} cores"
        print(f"# {group} {name}: {said}", file=sys.stderr)

    def one_round(self, loads, seconds):
        """Name -> result: every load has had so many seconds, there and back."""
        slices = max(1, round(seconds / SLICE_SECONDS)) if len(loads) > 1 else 1
        while True:
            for number in range(slices):
                order = list(loads.values())
                for load in order if number % 2 == 0 else reversed(order):
                    load.slice(seconds / slices)
            results = {name: load.report() for name, load in loads.items()}
            foreign = max(result.get("foreign_cores", 0) for result in results.values())
            if foreign <= FOREIGN_CORES_MAX or self.repeats_left <= 0:
                return results
            self.repeats_left -= len(loads)

    def interleave(self, group, arms, rounds=None, seconds=None):
        """Measures all arms side by side, in slices."""
        with contextlib.ExitStack() as stack:
            loads = {}
            for name, arm in arms.items():
                loads[name] = SlicedLoad(self.command(arm, 0), arm)
                stack.callback(loads[name].close)
            for number in range(rounds or self.rounds):
                if time.monotonic() > self.deadline:
                    print(f"# out of time: {group} from round {number + 1} on is left out")
                    return
                for name, result in self.one_round(loads, seconds or self.seconds).items():
                    self.keep(group, name, result)

    def median(self, group, name, key):
        values = [run[key] for run in self.runs.get(group, {}).get(name, []) if key in run]
        return statistics.median(values) if values else None

    def ratio(self, group, name, base, key="iops"):
        """The median over the rounds of one arm's figure over another's."""
        arms = self.runs.get(group, {})
        pairs = zip(arms.get(name, []), arms.get(base, []))
        ratios = [ours[key] / theirs[key] for ours, theirs in pairs if key in ours and theirs.get(key)]
        return statistics.median(ratios) if ratios else None

    def judge(self, what, value, goal, unit="ratio", at_least=True):
        """A line with a verdict. `goal` None: only a figure; `value` None: it was not measured."""
        if value is None:
            verdict = "NOT MEASURED"
        elif goal is None:
            verdict = ""
        else:
            verdict = "PASS" if (value >= goal if at_least else value < goal) else "BELOW"
        self.lines.append({"what": what, "value": value, "unit": unit, "goal": goal,
                           "goal_is": "at least" if at_least else "less than", "verdict": verdict})

    def print_runs(self):
        head = (f"{'case':16}{'arm':16}{'IOPS':>10}{'MiB/s':>9}{'p50 us':>9}{'p99 us':>9}"
                f"{'srv us/IO':>11}")
        print(f"\n{head}\n{'-' * len(head)}")
        for group, arms in self.runs.items():
            for name, results in arms.items():
                if self.median(group, name, "iops") is None:
                    print(f"{group:16}{name:16}  {results[0]['error']}")
                    continue
                row = [self.median(group, name, key) for key in
                       ("iops", "mib_per_second", "p50_us", "p99_us", "server_us_per_io")]
                print("{:16}{:16}{:10.0f}{:9.0f}{:9.1f}{:9.1f}{:11.2f}".format(group, name, *row))

    def print_lines(self):
        width = max((len(line["what"]) for line in self.lines), default=0) + 2
        print(f"\n{'what':{width}}{'value':>10} {'unit':8}{'goal':>10}")
        for line in self.lines:
            value = "-" if line["value"] is None else f"{line['value']:.3g}"
            sign = ">= " if line["goal_is"] == "at least" else "< "
            goal = "" if line["goal"] is None else f"{sign}{line['goal']:.4g}"
            print(f"{line['what']:{width}}{value:>10} {line['unit']:8}{goal:>10}  {line['verdict']}")
