# SPDX-License-Identifier: Apache-2.0
"""What the daemon takes when nothing happens, and at most."""

from measure import SERVER_CORE, Arm, Case, one_volume, pin

IDLE_SESSIONS, IDLE_CPU_SESSIONS, IDLE_CPU_SECONDS = 1000, 100, 5
# 8 GiB of unsolicited data come at once when the load begins.
HEAVY_SECONDS = 8
HEAVY = {"heavy-read": Case("read", 1 << 20, 128, 256), "heavy-write": Case("write", 1 << 20, 128, 256)}


def idle(bench, directory):
    with one_volume(bench, directory) as (daemon, _, url):
        def wait(sessions, seconds):
            case = Case("read", 4096, 1, sessions, ("--idle",))
            return bench.measure(Arm(case, url, daemon.pid), seconds)

        result = wait(IDLE_CPU_SESSIONS, IDLE_CPU_SECONDS)
        bench.judge(f"CPU of {IDLE_CPU_SESSIONS} idle sessions",
                    100 * result["server_cpu_seconds"] / result["seconds"], 0.5, "% core", False)
    with one_volume(bench, directory / "idle") as (daemon, _, url):
        result = wait(IDLE_SESSIONS, 1)
        bench.judge(f"RSS of {IDLE_SESSIONS} idle sessions over the empty daemon",
                    (result["server_rss_kib"] - result["server_rss_before_kib"]) / 1024, 64, "MiB",
                    False)
        bench.judge("RSS of the empty daemon", result["server_rss_before_kib"] / 1024, None, "MiB")


def heavy(bench, directory):
    with one_volume(bench, directory) as (daemon, _, url):
        pin(daemon.pid, SERVER_CORE)
        for group, case in HEAVY.items():
            result = bench.measure(Arm(case, url, daemon.pid), HEAVY_SECONDS)
            bench.keep(group, "sectormapd", result)
            bench.judge(f"peak RSS, {case.sessions} sessions x QD{case.queue_depth} 1 MiB {case.pattern}",
                        result["server_peak_kib"] / 1024, None, "MiB")


def run(bench, directory, _):
    idle(bench, directory / "idle")
    heavy(bench, directory / "heavy")
