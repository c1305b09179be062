# SPDX-License-Identifier: Apache-2.0
"""How long control takes: a start with many devices, a table of many rows, a swap under load."""

import contextlib
import re
import sqlite3
import statistics
import time
import urllib.request

from daemon import IQN_PREFIX, Daemon
from measure import VOLUME_MIB, WARMUP_SECONDS, Arm, Case, linear, one_volume

DEVICES, EXPORTS = 10_000, 1_000
LOADED_ROWS = 1_000_000
SWAPS = 60
SWAP_CASES = {"r4k-q1": Case("randread", 4096, 1, options=("--gaps", "20")),
              "r4k-q32": Case("randread", 4096, 32, options=("--gaps", "20"))}
SWAP_PAUSE_SECONDS = 0.04  # between two calls; the load settles


def clone_state(database, device_root):
    """Makes many devices, each over a file of its own, and exports of the one device and export."""
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        def rows(table):
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute(f"SELECT * FROM {table}")]

        def insert(table, row):
            db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES "
                       f"({', '.join(':' + key for key in row)})", row)

        (device,), (target,), (export,) = rows("device"), rows("target"), rows("export")
        for i in range(1, DEVICES):
            path = device_root / f"d{i}.img"
            with open(path, "wb") as file:
                file.truncate(1 << 20)
            insert("device", device | {"identity": f"{i:08x}" + device["identity"][8:],
                                       "name": f"d{i}", "live_table": linear(1, path)})
            if i < EXPORTS:
                iqn = f"{IQN_PREFIX}:d{i}"
                insert("target", target | {"iqn": iqn})
                insert("export", export | {"iqn": iqn,
                                           "device": f"{i:08x}" + device["identity"][8:]})


def start(bench, directory):
    with Daemon(bench.build_dir, state_dir=directory, options=["--reactors", "1"]) as daemon:
        daemon.thin_volume("d0", 1)
        daemon.export("d0")
        daemon.stop()
        clone_state(directory / "sectormap.db", daemon.device_root)
        times = []
        for _ in range(bench.rounds):
            began = time.monotonic()
            daemon.start()
            times.append(time.monotonic() - began)
            kept = len(daemon.cli("ls").stdout.splitlines())
            daemon.stop()
        if kept != DEVICES:
            raise RuntimeError(f"{kept} devices of {DEVICES} came up")
        bench.judge(f"start with {DEVICES} devices and {EXPORTS} exports", statistics.median(times),
                    2, "s", False)


def seconds_of_calls(daemon, method):
    """What the daemon counted for all calls of a method so far."""
    with urllib.request.urlopen(daemon.metrics_url) as answer:
        text = answer.read().decode()
    return sum(float(value) for value in re.findall(
        rf'^sectormap_grpc_request_duration_seconds_sum{{[^}}]*{method}"[^}}]*}} (\S+)$', text, re.M))


def load(bench, directory):
    with one_volume(bench, directory) as (daemon, path, _):
        pages = VOLUME_MIB * 256
        table = directory / "million.table"
        table.write_text("".join(f"{8 * i} 8 linear {path} {8 * (i * 7 % pages)}\n"
                                 for i in range(LOADED_ROWS)))
        whole, inside = [], []
        for _ in range(bench.rounds):
            before, began = seconds_of_calls(daemon, "Load"), time.monotonic()
            daemon.cli("load", "v", "--table-file", table)
            whole.append(time.monotonic() - began)
            inside.append(seconds_of_calls(daemon, "Load") - before)
            daemon.cli("clear", "v")
        bench.judge(f"load of {LOADED_ROWS} rows, `sectormap load`", statistics.median(whole), 1,
                    "s", False)
        bench.judge(f"load of {LOADED_ROWS} rows, the daemon's call", statistics.median(inside),
                    None, "s")


def longest_gaps(gaps, calls):
    """For each call (begin, end), the longest time without an answer that it touches, in ms."""
    return [max((length for at, length in gaps if at < end and at + length / 1e6 > begin), default=0)
            / 1e3 for begin, end in calls]


def text_field(number, text):
    """Of a protobuf message (protobuf's encoding guide: tag, length, bytes)."""
    data, length = text.encode(), b""
    left = len(data)
    while left > 127:
        length += bytes([left & 127 | 128])
        left >>= 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + data


class DeviceMapper:
    """Calls on one channel: a process for each would take more of the machine than the call does."""

    def __init__(self, server):
        import grpc  # Debian's python3-grpcio; no other suite needs it
        self.channel = grpc.insecure_channel(server)

    def call(self, verb, *texts):
        """A verb whose request begins with these texts, in the order of the fields."""
        request = b"".join(text_field(i + 1, text) for i, text in enumerate(texts))
        self.channel.unary_unary(f"/sectormap.v1.DeviceMapper/{verb}")(request, timeout=10)


def swap(bench, directory):
    with one_volume(bench, directory) as (daemon, path, url):
        devices = DeviceMapper(daemon.server)
        for name, case in SWAP_CASES.items():
            arm = Arm(case, url, daemon.pid)
            generator = bench.start(arm, SWAPS * (3 * SWAP_PAUSE_SECONDS + 0.01))
            time.sleep(2 * WARMUP_SECONDS)
            calls = {"swap": [], "info": []}
            while generator.poll() is None and len(calls["swap"]) < SWAPS:
                devices.call("Load", "v", linear(VOLUME_MIB, path))
                # `Get` costs the machine the same call, and stops nothing.
                for kind, verb in (("info", "Get"), ("swap", "Resume")):
                    time.sleep(SWAP_PAUSE_SECONDS)
                    began = time.monotonic()
                    devices.call(verb, "v")
                    calls[kind].append((began, time.monotonic()))
            result = bench.finish(generator)
            bench.keep(f"swap-{name}", "sectormapd", {k: v for k, v in result.items() if k != "gaps"})
            for kind, at_least, goal in (("swap", 50, 2), ("info", 50, None)):
                gaps = longest_gaps(result["gaps"], calls[kind])
                value = statistics.median(gaps) if len(gaps) >= at_least else None
                bench.judge(f"{name}: longest wait for any answer around a {kind}, median", value, goal,
                            "ms", False)


def run(bench, directory, _):
    start(bench, directory / "start")
    load(bench, directory / "load")
    swap(bench, directory / "swap")
