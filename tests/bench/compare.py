#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures sectormapd and Debian's tgt side by side, over loopback, in one run.

    compare.py --build-dir build/release [--cases a,b] [--seconds 3] [--rounds 3] [--json FILE]

Both serve the same file on tmpfs, then memory (mem:) against tgt's null store. The rounds of all
targets are interleaved; a figure is the median of the rounds, a ratio is sectormapd's IOPS over those
of tgt's best store. Servers are pinned to core 0 and the client to core 1. A line says PASS or BELOW
against its goal; no test depends on it.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "support"))
from daemon import Daemon  # noqa: E402

VOLUME_MIB = 512
SERVER_CORE, CLIENT_CORE = 0, 1
WARMUP_SECONDS = 0.5
BUDGET_SECONDS = 15 * 60  # rounds that would end later are left out, and it is said
TGT_CONTROL_PORT = 93     # tgtadm's -C: a tgtd of our own beside any other
TGT_IQN = "iqn.2026-11.io.sectormap.bench"


@dataclasses.dataclass(frozen=True)
class Case:
    pattern: str
    block_bytes: int
    queue_depth: int
    sessions: int
    goal: float  # ratio to tgt


FILE_CASES = {
    "r4k-q1": Case("randread", 4096, 1, 1, 2.5),
    "r4k-q32": Case("randread", 4096, 32, 1, 5.0),
    "w4k-q32": Case("randwrite", 4096, 32, 1, 4.4),
    "r4k-4xq32": Case("randread", 4096, 32, 4, 4.3),
    "w4k-4xq32": Case("randwrite", 4096, 32, 4, 4.1),
    "r128k-q8": Case("read", 131072, 8, 1, 2.0),
    "w128k-q8": Case("write", 131072, 8, 1, 2.1),
    "r1m-q8": Case("read", 1048576, 8, 1, 3.4),
}
MEMORY_CASES = {
    "mem-r4k-q32": Case("randread", 4096, 32, 1, 8.0),
    "mem-w4k-q32": Case("randwrite", 4096, 32, 1, 5.2),
    "mem-r128k-q8": Case("read", 131072, 8, 1, 2.1),
    "mem-r1m-q8": Case("read", 1048576, 8, 1, 2.6),
}
CASES = FILE_CASES | MEMORY_CASES


class Tgt:
    """A tgtd of our own with one target per store."""

    def __init__(self, directory, port, stores):
        self.stores, self.port = list(stores), port
        self._log = open(directory / "tgtd.log", "w", encoding="utf-8")
        os.makedirs("/var/run/tgtd", exist_ok=True)  # tgtd's control socket, at a fixed place
        self.process = subprocess.Popen(
            ["tgtd", "-f", "-C", str(TGT_CONTROL_PORT), "--iscsi", f"portal=127.0.0.1:{port}"],
            stdout=self._log, stderr=subprocess.STDOUT)
        self._wait()
        for tid, (name, store, path) in enumerate(self.stores, 1):
            self._admin("target", "new", tid, "--targetname", f"{TGT_IQN}:{name}")
            self._admin("logicalunit", "new", tid, "--lun", "1", "--bstype", store,
                        "--backing-store", str(path))
            self._admin("target", "bind", tid, "-I", "ALL")

    def _wait(self):
        for _ in range(100):
            if subprocess.run(["tgtadm", "-C", str(TGT_CONTROL_PORT), "--mode", "system", "--op",
                               "show"], capture_output=True, check=False).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit("tgtd does not answer")

    @staticmethod
    def _admin(mode, operation, tid, *words):
        subprocess.run(["tgtadm", "-C", str(TGT_CONTROL_PORT), "--lld", "iscsi", "--mode", mode,
                        "--op", operation, "--tid", str(tid), *words], check=True)

    def url(self, name):
        return f"iscsi://127.0.0.1:{self.port}/{TGT_IQN}:{name}/1"

    def close(self):
        self.process.send_signal(signal.SIGKILL)  # tgtd ends on SIGTERM only without targets
        self.process.wait()
        self._log.close()


def pin(pid, core):
    if os.cpu_count() > max(SERVER_CORE, CLIENT_CORE):
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), {core})


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Bench:
    def __init__(self, options):
        self.options = options
        self.generator = options.build_dir / "load_generator"
        self.deadline = time.monotonic() + BUDGET_SECONDS
        self.runs = {}  # case -> target -> [result]

    def measure(self, case, target, url, pid):
        command = [self.generator, "--url", url, "--rw", case.pattern,
                   "--bs", str(case.block_bytes), "--qd", str(case.queue_depth),
                   "--sessions", str(case.sessions), "--secs", str(self.options.seconds),
                   "--warmup", str(WARMUP_SECONDS), "--pid", str(pid)]
        done = subprocess.run(command, capture_output=True, text=True, check=False,
                              preexec_fn=lambda: pin(os.getpid(), CLIENT_CORE))
        if done.returncode != 0:
            return {"error": done.stderr.strip()[-200:]}
        return json.loads(done.stdout)

    def run(self, names, targets):
        for name in names:
            for number in range(self.options.rounds):
                order = list(targets.items())
                for target, (url, pid) in order if number % 2 == 0 else reversed(order):
                    if time.monotonic() > self.deadline:
                        print(f"# out of time: {name} {target} round {number + 1} is left out")
                        continue
                    result = self.measure(CASES[name], target, url, pid)
                    self.runs.setdefault(name, {}).setdefault(target, []).append(result)
                    said = result.get("error") or f"{result['iops']:.0f} IOPS"
                    print(f"# {name} round {number + 1} {target}: {said}", file=sys.stderr)

    def median(self, name, target, key):
        values = [run[key] for run in self.runs.get(name, {}).get(target, []) if key in run]
        return statistics.median(values) if values else None

    def table(self):
        head = (f"{'case':14}{'target':14}{'IOPS':>10}{'MiB/s':>9}{'p50 us':>9}{'p99 us':>9}"
                f"{'srv us/IO':>11}{'ratio':>8}{'goal':>7}")
        print(f"\n{head}\n{'-' * len(head)}")
        summary = []
        for name, targets in self.runs.items():
            peers = {target: self.median(name, target, "iops") for target in targets
                     if target.startswith("tgt") and self.median(name, target, "iops")}
            best = max(peers.values(), default=None)
            for target in targets:
                iops = self.median(name, target, "iops")
                if iops is None:
                    print(f"{name:14}{target:14}  {targets[target][0]['error']}")
                    continue
                line = (f"{name:14}{target:14}{iops:10.0f}"
                        f"{self.median(name, target, 'mib_per_second'):9.0f}"
                        f"{self.median(name, target, 'p50_us'):9.1f}"
                        f"{self.median(name, target, 'p99_us'):9.1f}"
                        f"{self.median(name, target, 'server_us_per_io'):11.2f}")
                if target == "sectormapd" and best:
                    ratio, goal = iops / best, CASES[name].goal
                    verdict = "PASS" if ratio >= goal else "BELOW"
                    line += f"{ratio:8.2f}{goal:7.1f}  {verdict}"
                    summary.append({"case": name, "ratio": ratio, "goal": goal, "verdict": verdict})
                print(line)
        slower = [entry["case"] for entry in summary if entry["ratio"] < 1]
        print(f"\nSlower than tgt: {', '.join(slower) or 'no case'}")
        return summary


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--cases", default=",".join(CASES), help="of " + ", ".join(CASES))
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="where to write all results")
    options = parser.parse_args()
    names = options.cases.split(",")
    for name in names:
        if name not in CASES:
            parser.error(f"no case {name}")

    bench = Bench(options)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="sectormap-bench.", dir="/dev/shm"))
    tgt = None
    try:
        with Daemon(options.build_dir, state_dir=directory, options=["--reactors", "1"]) as daemon:
            path = daemon.thin_file("bench", VOLUME_MIB)
            with open(path, "r+b") as file:  # a file with all its pages, for reads to copy
                for _ in range(VOLUME_MIB):
                    file.write(os.urandom(1 << 20))
            daemon.cli("create", "bench", "--table", f"0 {VOLUME_MIB * 2048} linear {path} 0")
            daemon.cli("create", "memory", "--table",
                       f"0 {VOLUME_MIB * 2048} linear mem:{VOLUME_MIB}M 0")
            tgt = Tgt(directory, free_port(), [("aio", "aio", path), ("rdwr", "rdwr", path),
                                               ("null", "null", "/dev/zero")])
            pin(daemon.pid, SERVER_CORE)
            pin(tgt.process.pid, SERVER_CORE)
            bench.run([name for name in names if name in FILE_CASES], {
                "sectormapd": (daemon.export("bench"), daemon.pid),
                "tgt-aio": (tgt.url("aio"), tgt.process.pid),
                "tgt-rdwr": (tgt.url("rdwr"), tgt.process.pid)})
            bench.run([name for name in names if name in MEMORY_CASES], {
                "sectormapd": (daemon.export("memory"), daemon.pid),
                "tgt-null": (tgt.url("null"), tgt.process.pid)})
    finally:
        if tgt is not None:
            tgt.close()
        shutil.rmtree(directory, ignore_errors=True)
    summary = bench.table()
    if options.json:
        options.json.write_text(json.dumps({
            "machine": " ".join(os.uname()), "cores": os.cpu_count(), "seconds": options.seconds,
            "rounds": options.rounds, "summary": summary, "runs": bench.runs}, indent=1))
        print(f"All results: {options.json}")


if __name__ == "__main__":
    main()
