# SPDX-License-Identifier: Apache-2.0
"""Several reactors, and several sessions on one: who gets how much."""

import contextlib
import time

from daemon import Daemon
from measure import SERVER_CORE, VOLUME_MIB, WARMUP_SECONDS, Arm, Case, linear, pin, random_file

TWO_THREADS = ("--threads", "2")
REACTORS = {
    "r4k-4xq32": Case("randread", 4096, 32, 4, TWO_THREADS),
    "w4k-4xq32": Case("randwrite", 4096, 32, 4, TWO_THREADS),
    "r128k-4xq8": Case("read", 131072, 8, 4, TWO_THREADS),
}
# Both clients share a core, and a sendmsg() is not interrupted: in small ones, and with the small
# session's client at a higher priority, it is the server that is measured.
BULK = Case("write", 131072, 8, 1, ("--send-max", "16384"))
VICTIMS = {"r4k-q1": Case("randread", 4096, 1), "r4k-q32": Case("randread", 4096, 32)}
LEAST_SHARE = 0.75  # of what a session has alone


def reactors(bench, directory):
    with contextlib.ExitStack() as stack:
        path = random_file(directory / "shared.img", VOLUME_MIB)
        arms = {}
        for count in (1, 2):
            daemon = stack.enter_context(
                Daemon(bench.build_dir, state_dir=directory / f"reactors{count}",
                       options=["--reactors", str(count), "--device-root", directory]))
            daemon.cli("create", "shared", "--table", linear(VOLUME_MIB, path))
            arms[f"reactors{count}"] = (daemon.export("shared"), daemon.pid)
        for name, case in REACTORS.items():
            group = f"cores-{name}"
            bench.interleave(group, {arm: Arm(case, *where, None) for arm, where in arms.items()})
            bench.judge(f"{group} two reactors over one",
                        bench.ratio(group, "reactors2", "reactors1"), 1.0)


def fair_share(bench, directory):
    with Daemon(bench.build_dir, state_dir=directory / "fair",
                options=["--reactors", "1"]) as daemon:
        urls = {}
        for name in ("small", "bulk"):
            path = random_file(daemon.device_root / f"{name}.img", VOLUME_MIB)
            daemon.cli("create", name, "--table", linear(VOLUME_MIB, path))
            urls[name] = daemon.export(name)
        pin(daemon.pid, SERVER_CORE)
        bulk = Arm(BULK, urls["bulk"], daemon.pid)
        for name, case in VICTIMS.items():
            group, small = f"fair-{name}", Arm(case, urls["small"], daemon.pid, first=True)
            for _ in range(bench.rounds):
                bench.keep(group, "alone", bench.measure(small))
                bench.keep(group, "bulk alone", bench.measure(bulk))
                writer = bench.start(bulk, bench.seconds + 2 * WARMUP_SECONDS)
                time.sleep(WARMUP_SECONDS)
                bench.keep(group, "beside bulk", bench.measure(small))
                bench.keep(group, "bulk beside", bench.finish(writer))
            bench.judge(f"{group} beside a bulk writer over alone",
                        bench.ratio(group, "beside bulk", "alone"), LEAST_SHARE)
            bench.judge(f"{group} the bulk writer beside it over alone",
                        bench.ratio(group, "bulk beside", "bulk alone"), None)


def run(bench, directory, _):
    reactors(bench, directory)
    fair_share(bench, directory)
