#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel and open-iscsi, in a QEMU guest, use a LUN of sectormapd: session.sh says how.

    guest_test.py --build-dir build/release --image build/guest
"""

import argparse
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))
from daemon import IQN_PREFIX, Daemon  # noqa: E402
from guest import Guest  # noqa: E402
from image import ImageError, build  # noqa: E402

NAME = "guest"
SIZE_MIB = 192
GROWTH_MIB = 64
SECONDS = 900       # a loaded two-core machine; it takes about a minute alone
DOWN_SECONDS = 3.0  # longer than one attempt of open-iscsi to come back


class Host:
    """What the guest may ask for with its `host` function."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.sizes = []
        self.grow_by(SIZE_MIB)
        daemon.cli("create", NAME, "--table", self.table())
        daemon.export(NAME)

    def grow_by(self, mib):
        self.daemon.thin_file(f"{NAME}.{len(self.sizes)}", mib)
        self.sizes.append(mib)

    def table(self):
        rows, start = [], 0
        for number, mib in enumerate(self.sizes):
            path = self.daemon.device_root / f"{NAME}.{number}.img"
            rows.append(f"{start} {mib * 2048} linear {path} 0\n")
            start += mib * 2048
        return "".join(rows)

    def answer(self, words):
        if words == ["grow"]:
            self.grow_by(GROWTH_MIB)
            self.daemon.cli("load", NAME, "--table-file", "-", text=self.table())
            self.daemon.cli("resume", NAME)
            return 0, ""
        if words == ["crash"]:
            self.daemon.kill()
            time.sleep(DOWN_SECONDS)
            self.daemon.start()
            return 0, ""
        return 1, f"no such request: {words}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--build-dir", type=pathlib.Path, required=True)
    parser.add_argument("--image", type=pathlib.Path, required=True, help="cache of image.py")
    options = parser.parse_args()
    try:
        build(options.image)
    except ImageError as error:
        sys.exit(f"guest: {error}")
    with Daemon(options.build_dir) as daemon:
        host = Host(daemon)
        script = (HERE / "session.sh").read_text()
        environment = {"IQN": f"{IQN_PREFIX}:{NAME}", "PORTAL": daemon.portal,
                       "SIZE_MIB": SIZE_MIB, "GROWTH_MIB": GROWTH_MIB}
        status = Guest(options.image, host.answer).run(script, environment, SECONDS)
        if status != 0:
            print(f"sectormapd's log:\n{daemon.tail(60)}")
            return 1
        if daemon.stop() != 0:
            print(f"sectormapd did not stop cleanly:\n{daemon.tail(60)}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
