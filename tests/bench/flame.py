#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws where a busy sectormapd spends its time, as a flame graph (SVG).

    flame.py --build-dir build/release --out FILE [--rw randread] [--bs 4096] [--qd 32]

perf (linux-perf) samples the daemon's stacks while load_generator runs against a file on tmpfs. A box
is a function, as wide as its share of the samples; what it calls lies above it.
"""

import argparse
import collections
import html
import pathlib
import re
import shutil
import subprocess
import tempfile
import time

from measure import SERVER_CORE, WARMUP_SECONDS, Arm, Bench, Case, one_volume, pin

SECONDS, FREQUENCY_HZ = 3, 1999
WIDTH, ROW_HEIGHT, LEAST_WIDTH = 1200, 16, 1.5
LETTER_WIDTH = 6.2  # of the font below


def samples(bench, case, directory):
    """Counter: stack from the outermost frame inwards -> samples."""
    data = directory / "perf.data"
    with one_volume(bench, directory) as (daemon, _, url):
        pin(daemon.pid, SERVER_CORE)
        load = bench.start(Arm(case, url, daemon.pid), SECONDS + 1)
        time.sleep(2 * WARMUP_SECONDS)
        subprocess.run(["perf", "record", "-q", "-g", "-F", str(FREQUENCY_HZ), "-p", str(daemon.pid),
                        "-o", data, "--", "sleep", str(SECONDS)], check=True)
        bench.finish(load)
        script = subprocess.run(["perf", "script", "-i", data, "-F", "comm,ip,sym"],
                                capture_output=True, text=True, check=True).stdout
    stacks = collections.Counter()
    for block in script.split("\n\n"):
        comm, *frames = block.strip().split("\n")
        names = [short(frame.strip().partition(" ")[2]) for frame in frames]
        stacks[(comm.strip(), *reversed(names))] += 1
    return stacks


def short(name):
    """A function without its arguments and our namespace."""
    name = re.sub(r"\(anonymous namespace\)::|\[clone [^]]*\]|\[abi:[^]]*\]|sectormap::", "", name)
    while (cut := re.sub(r"<[^<>]*>", "", name)) != name:
        name = cut
    return re.sub(r"\(.*", "", name).strip() or "?"


def tree_of(stacks):
    root = [0, {}]
    for stack, count in stacks.items():
        node = root
        node[0] += count
        for name in stack:
            node = node[1].setdefault(name, [0, {}])
            node[0] += count
    return root


def draw(root, title):
    boxes, deepest = [], 0

    def box(node, name, left, depth):
        nonlocal deepest
        width = WIDTH * node[0] / root[0]
        if width < LEAST_WIDTH:
            return
        deepest = max(deepest, depth)
        boxes.append((left, width, depth, name, node[0]))
        for child, below in sorted(node[1].items()):
            box(below, child, left, depth + 1)
            left += WIDTH * below[0] / root[0]

    box(root, title, 0, 0)
    height = (deepest + 1) * ROW_HEIGHT
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
           f'viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="10">']
    for left, width, depth, name, count in boxes:
        top = height - (depth + 1) * ROW_HEIGHT
        tone = sum(name.encode()) % 60
        label = name[:int((width - 4) / LETTER_WIDTH)] if width > 3 * LETTER_WIDTH else ""
        out.append(f'<g><title>{html.escape(name)} {100 * count / root[0]:.1f} %</title>'
                   f'<rect x="{left:.1f}" y="{top}" width="{width - 0.4:.1f}" height="15" '
                   f'fill="rgb(235,{130 + tone},{70 + tone})"/>'
                   f'<text x="{left + 2:.1f}" y="{top + 11}">{html.escape(label)}</text></g>')
    return "\n".join(out) + "\n</svg>\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rw", default="randread")
    parser.add_argument("--bs", type=int, default=4096)
    parser.add_argument("--qd", type=int, default=32)
    options = parser.parse_args()
    bench = Bench(options.build_dir, 1, SECONDS, time.monotonic())
    directory = pathlib.Path(tempfile.mkdtemp(prefix="smb.", dir="/dev/shm"))
    try:
        stacks = samples(bench, Case(options.rw, options.bs, options.qd), directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    title = f"sectormapd, {options.rw} {options.bs} bytes QD{options.qd}"
    options.out.write_text(draw(tree_of(stacks), title))


if __name__ == "__main__":
    main()
