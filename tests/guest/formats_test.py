#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Snapshot stores and mirror logs go from sectormapd to Debian's kernel and back; formats.sh is the
kernel's part.

    formats_test.py --build-dir build/release --image build/guest
"""

import argparse
import os
import pathlib
import random
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from daemon import DaemonError  # noqa: E402
from formats_mirror import MirrorCase  # noqa: E402
from formats_model import Failure  # noqa: E402
from formats_snapshot import SnapshotCase  # noqa: E402
from guest import Guest  # noqa: E402
from image import ImageError, build  # noqa: E402

SEED = int(os.environ.get("SECTORMAP_SEED", time.time_ns() % (1 << 32)))
SUPPLY_BYTES = 8 << 20  # random data for what the kernel writes
SECONDS = 900           # a loaded two-core machine; it takes about a minute alone


def cases(build_dir, scratch):
    generator = random.Random(SEED)
    snapshots = [SnapshotCase(build_dir, scratch, generator, chunk, killed)
                 for chunk, killed in ((8, False), (16, True), (64, True))]
    mirrors = [MirrorCase(build_dir, scratch, generator, region, regions)
               for region, regions in ((1024, 13), (4096, 7))]
    return snapshots, mirrors


def run(options, scratch):
    snapshots, mirrors = cases(options.build_dir, scratch)
    supply = random.Random(SEED + 1).randbytes(SUPPLY_BYTES)
    (scratch / "supply").write_bytes(supply)
    disks, files = {"supply": scratch / "supply"}, {}
    environment = {"CHUNKS": " ".join(str(case.chunk) for case in snapshots),
                   "MIRRORS": " ".join(str(case.region) for case in mirrors)}
    for case in (*snapshots, *mirrors):
        case.write(supply)
        disks |= case.disks()
        environment |= case.environment()
    for case in snapshots:
        files |= case.files()

    by_chunk = {str(case.chunk): case for case in snapshots}

    def answer(words):
        if words[:1] == ["note"] and words[1] in by_chunk:
            by_chunk[words[1]].note = " ".join(words[2:])
            return 0, ""
        return 1, f"no such request: {words}"

    script = (HERE / "formats.sh").read_text()
    if Guest(options.image, answer, disks, files).run(script, environment, SECONDS) != 0:
        raise Failure("the guest's part failed")
    for case in (*snapshots, *mirrors):
        case.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, required=True, help="cache of image.py")
    options = parser.parse_args()
    print(f"SECTORMAP_SEED={SEED}", flush=True)
    try:
        build(options.image)
        with tempfile.TemporaryDirectory(prefix="formats.") as scratch:
            run(options, pathlib.Path(scratch))
    except (DaemonError, Failure, ImageError) as error:
        print(f"FAIL - {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
