# SPDX-License-Identifier: Apache-2.0
"""Logs of mirrors that go from our daemon to the guest's kernel and back, for one region size.

Three mirrors, each of two legs and a log: `clean`, which our daemon ended in order; `dirty`, whose
daemon was killed with writes under way; `kernel`, which the guest leaves with writes under way. A
region that the log calls clean is spoilt on the second leg (the trap): whoever copies more than the
log asks for heals it. The second leg is suspended while a mirror starts, so that the status shows
what the log said and not how far recovery has come.
"""

import subprocess
import time

from daemon import Daemon
from formats_model import SECTOR, Failure, Image, expect, qemu_io, write_to

LOG_BYTES = 64 << 10
BITS_AT = 1024  # where the log's clean bits begin
WAIT_SECONDS = 120
HALF = 2        # the last region is 1/HALF of one

DIRTY = (3, -1)       # regions with writes under way when our daemon is killed
KERNEL_DIRTY = (1, 4)  # and when the guest ends
TRAP = 2
WRITTEN = 5           # where the kernel writes more


def wait_until(what, rule):
    deadline = time.monotonic() + WAIT_SECONDS
    while not rule():
        if time.monotonic() > deadline:
            raise Failure(f"waited in vain: {what}")
        time.sleep(0.02)


class MirrorCase:
    """One region size."""

    def __init__(self, build_dir, scratch, random, region, regions):
        self.build_dir, self.random, self.region, self.regions = build_dir, random, region, regions
        self.scratch = scratch / f"mirror{region}"
        self.scratch.mkdir()
        self.sectors = regions * region - region // HALF
        self.data = {}  # the first leg's bytes
        self.trap = self.random.randbytes(SECTOR)

    def path(self, mirror, part):
        return self.scratch / f"{mirror}.{part}"

    def disks(self):
        return {f"{mirror}{self.region}.{part}": self.path(mirror, part)
                for mirror in ("clean", "dirty", "kernel") for part in ("0", "1", "log")}

    def environment(self):
        name = self.region
        return {f"SECTORS_{name}": self.sectors, f"REGIONS_{name}": self.regions,
                f"DATA_clean_{name}": self.data["clean"].digest(),
                f"DATA_dirty_{name}": self.data["dirty"].digest(),
                f"TRAPPED_clean_{name}": self._trapped("clean").digest(),
                f"TRAPPED_dirty_{name}": self._trapped("dirty").digest(),
                f"DIRTY_{name}": " ".join(str(region % self.regions) for region in DIRTY)}

    def _trapped(self, mirror):
        image = self.data[mirror].copy()
        image.write(TRAP * self.region + 7, self.trap)
        return image

    def _set_trap(self, mirror):
        with open(self.path(mirror, "1"), "r+b") as leg:
            leg.seek((TRAP * self.region + 7) * SECTOR)
            leg.write(self.trap)

    def _bits(self, mirror):
        """The log's clean bits, as a list."""
        log = self.path(mirror, "log").read_bytes()[BITS_AT:]
        return [log[region // 8] >> region % 8 & 1 for region in range(self.regions)]

    def _daemon(self):
        return Daemon(self.build_dir, options=("--device-root", str(self.scratch)))

    def _start(self, daemon, mirror):
        """Returns the status of the moment, in which nothing can be copied yet."""
        daemon.cli("create", "leg", "--table",
                   f"0 {self.sectors} linear {self.path(mirror, '1')} 0")
        daemon.cli("suspend", "leg")
        daemon.cli("create", "m", "--table",
                   f"0 {self.sectors} mirror disk 2 {self.path(mirror, 'log')} {self.region} "
                   f"2 {self.path(mirror, '0')} 0 /dev/mapper/leg 0 1 handle_errors")
        ratio = self._ratio(daemon)
        daemon.cli("resume", "leg")
        return ratio

    @staticmethod
    def _ratio(daemon):
        return daemon.cli("status", "m").stdout.split()[6]

    def _wait_for_sync(self, daemon):
        full = f"{self.regions}/{self.regions}"
        wait_until("a mirror in sync", lambda: self._ratio(daemon) == full)

    # --- we write ---

    def write(self, supply):
        for mirror in ("clean", "dirty", "kernel"):
            for part in ("0", "1"):
                self.path(mirror, part).write_bytes(self.random.randbytes(self.sectors * SECTOR))
            self.path(mirror, "log").write_bytes(bytes(LOG_BYTES))
            self.data[mirror] = Image(self.path(mirror, "0").read_bytes())
        for mirror in ("clean", "dirty"):
            with self._daemon() as daemon:
                self._sync_and_write(daemon, mirror)
                self._end(daemon, mirror)
            self._set_trap(mirror)

    def _sync_and_write(self, daemon, mirror):
        expect(f"region {self.region}: all of a new log is to be copied",
               self._start(daemon, mirror), f"0/{self.regions}")
        self._wait_for_sync(daemon)
        places = [self.random.randrange(self.sectors - 9) for _ in range(8)]
        write_to(daemon.export("m"), self.scratch, self.random, self.data[mirror],
                 [(place, 9) for place in places])

    def _end(self, daemon, mirror):
        wanted = [1] * self.regions
        if mirror == "clean":
            if daemon.stop() != 0:
                raise Failure(f"sectormapd did not stop cleanly:\n{daemon.tail()}")
        else:
            wait_until("regions become clean", lambda: self._bits(mirror) == wanted)
            self._kill_in_writes(daemon)
            for region in DIRTY:
                wanted[region] = 0
        expect(f"region {self.region}: the log's bits of the {mirror} mirror",
               self._bits(mirror), wanted)

    def _kill_in_writes(self, daemon):
        """One write in each of the regions has reached the first leg when the daemon dies."""
        daemon.cli("suspend", "leg")
        commands = []
        for region in DIRTY:
            sector = region % self.regions * self.region + 11
            self.data["dirty"].write(sector, bytes([region % 251]) * SECTOR * 8)
            commands += ["-c", f"aio_write -P {region % 251} {sector * SECTOR} {8 * SECTOR}"]
        with subprocess.Popen(["qemu-io", "-f", "raw", *commands, daemon.url("m")],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as writer:
            try:
                wait_until("the writes reach the first leg", lambda:
                           self.path("dirty", "0").read_bytes() == bytes(self.data["dirty"].data))
                daemon.kill()
            finally:
                writer.kill()
        expect(f"region {self.region}: the second leg has not got the writes",
               self.path("dirty", "1").read_bytes() == bytes(self.data["dirty"].data), False)

    # --- we read what the kernel left ---

    def read(self):
        for mirror in ("clean", "dirty"):
            self._expect_trapped(mirror, self.regions)
        bits = [1] * self.regions
        for region in KERNEL_DIRTY:
            bits[region] = 0
        expect(f"region {self.region}: the bits of the log that the kernel left", self._bits("kernel"),
               bits)
        self.data["kernel"] = Image(self.path("kernel", "0").read_bytes())
        expect(f"region {self.region}: the legs that the kernel left differ",
               self.path("kernel", "1").read_bytes() == bytes(self.data["kernel"].data), False)
        self._set_trap("kernel")
        self._expect_trapped("kernel", self.regions - len(KERNEL_DIRTY))

    def _expect_trapped(self, mirror, in_sync):
        """We copy what the log asks for, and no more."""
        first = Image(self.path(mirror, "0").read_bytes())
        with self._daemon() as daemon:
            expect(f"region {self.region}: what the log of the {mirror} mirror calls in sync",
                   self._start(daemon, mirror), f"{in_sync}/{self.regions}")
            self._wait_for_sync(daemon)
            daemon.stop()
        expect(f"region {self.region}: the {mirror} mirror's first leg is as it was",
               self.path(mirror, "0").read_bytes() == bytes(first.data), True)
        self.data[mirror] = first
        expect(f"region {self.region}: the {mirror} mirror's second leg is the first one's copy, but "
               "for the trap", self.path(mirror, "1").read_bytes() == bytes(self._trapped(mirror).data),
               True)
