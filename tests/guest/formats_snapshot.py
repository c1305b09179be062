# SPDX-License-Identifier: Apache-2.0
"""Snapshot stores that go from our daemon to the guest's kernel and back, for one chunk size.

    o, c  origin and store that our snapshot wrote; the kernel reads them, and writes to both
    p, q  the same, which the kernel merges
    k, l  origin and store that the kernel's snapshot wrote; we read, write and merge them
"""

import shutil
import subprocess
import time

from daemon import Daemon
from formats_model import SECTOR, Failure, Image, expect, random_writes, read_from, write_to

ODD_SECTORS = 24       # so that the last chunk is not a whole one, but for the smallest chunks
SECTORS = 16384 + ODD_SECTORS
STORE_SECTORS = 49152  # room for every chunk, twice over
WRITES_AT_ONCE = 2000  # so many that kill -9 comes before they are all done
STATUS_SECONDS = 120


class SnapshotCase:
    """One chunk size. `killed`: our daemon dies by kill -9 while the origin is being written to."""

    def __init__(self, build_dir, scratch, random, chunk, killed):
        self.build_dir, self.random = build_dir, random
        self.chunk, self.killed = chunk, killed
        self.scratch = scratch / f"snapshot{chunk}"
        self.scratch.mkdir()
        # Fills an area of exceptions and begins the next, if the origin has chunks enough.
        per_area = chunk * SECTOR // 16
        self.run = min(per_area + 20, SECTORS // chunk * 3 // 5)
        self.has_two_areas = self.run > per_area
        self.note = "none"  # the kernel's status of the store that it wrote

    def path(self, letter):
        return self.scratch / f"{letter}.img"

    def disks(self):
        return {f"{letter}{self.chunk}": self.path(letter) for letter in "ocpqkl"}

    def daemon(self):
        return Daemon(self.build_dir, options=("--device-root", str(self.scratch)))

    def environment(self):
        name = self.chunk
        return {f"VIEW_{name}": self.view.digest(), f"ORIGIN_{name}": self.origin.digest(),
                f"STATUS_{name}": self.status, f"NEXT_VIEW_{name}": self.next_view.digest(),
                f"NEXT_ORIGIN_{name}": self.next_origin.digest(),
                f"KERNEL_VIEW_{name}": self.kernel_view.digest(),
                f"KERNEL_ORIGIN_{name}": self.kernel_origin.digest()}

    def files(self):
        return {f"plan.o{self.chunk}": self.next_plan, f"plan.k{self.chunk}": self.kernel_plan}

    # --- we write ---

    def write(self, supply):
        """The files; `supply` holds the data of what the kernel shall write."""
        instant = Image(self.random.randbytes(SECTORS * SECTOR))
        for letter in "ok":
            self.path(letter).write_bytes(instant.data)
        with open(self.path("l"), "wb") as store:
            store.truncate(STORE_SECTORS * SECTOR)
        self.view = instant.copy()
        with self.daemon() as daemon:
            self._use(daemon, instant.copy())
        self.origin = Image(self.path("o").read_bytes())
        expect(f"chunk {self.chunk}: the origin is not as it was at the instant any more",
               self.origin.data == instant.data, False)
        shutil.copy(self.path("o"), self.path("p"))
        shutil.copy(self.path("c"), self.path("q"))
        self.next_origin, self.next_view = self.origin.copy(), self.view.copy()
        self.next_plan = self._plan(supply, self.next_origin, self.next_view, 3)
        self.kernel_origin, self.kernel_view = instant.copy(), instant.copy()
        self.kernel_plan = self._plan(supply, self.kernel_origin, self.kernel_view, self.run)

    def _use(self, daemon, origin):
        """A snapshot of a device in use, and writes to both."""
        daemon.cli("create", "org", "--table", f"0 {SECTORS} linear {self.path('o')} 0")
        daemon.cli("snapshot", "create", "snap", "--of", "org", "--store", self.path("c"),
                   "--size", f"{STORE_SECTORS // 2048}M", "--chunk", self.chunk)
        url = daemon.export("org")
        daemon.cli("snapshot", "export", "snap")
        writes = random_writes(self.random, SECTORS, self.chunk, self.run)
        write_to(url, self.scratch, self.random, origin, writes[:12])
        write_to(daemon.url("snap"), self.scratch, self.random, self.view,
                 random_writes(self.random, SECTORS, self.chunk, 3))
        write_to(url, self.scratch, self.random, origin, writes[12:])
        if self.killed:
            self._kill_in_writes(daemon, url)
            self.status = ""  # what was under way may have got into the store or not
            return
        self.status = self._status(daemon, "snap")
        if daemon.stop() != 0:
            raise Failure(f"sectormapd did not stop cleanly:\n{daemon.tail()}")
        if self.path("o").read_bytes() != origin.data:
            raise Failure("the origin has not what was written to it")

    def _kill_in_writes(self, daemon, url):
        """What these writes do to the origin is not known; to the view they may do nothing."""
        places = [self.random.randrange(SECTORS - self.chunk) for _ in range(WRITES_AT_ONCE)]
        words = []
        for number, place in enumerate(places):
            words += ["-c", f"aio_write -P {number % 255 + 1} {place * SECTOR} {self.chunk * SECTOR}"]
        before = self.path("o").read_bytes()
        with subprocess.Popen(["qemu-io", "-f", "raw", *words, url], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as writer:
            while writer.poll() is None and self.path("o").read_bytes() == before:
                pass
            daemon.kill()
            in_the_middle = writer.poll() is None
            writer.kill()
        expect(f"chunk {self.chunk}: killed in the middle of writes", in_the_middle, True)

    def _plan(self, supply, origin, view, run):
        """Writes for the kernel: lines of `device sector sectors first-of-the-supply`."""
        lines = []
        for device, image, length in (("o", origin, run), ("s", view, 3), ("o", origin, 1)):
            for sector, sectors in random_writes(self.random, SECTORS, self.chunk, length, 10):
                start = self.random.randrange(len(supply) // SECTOR - sectors)
                image.write(sector, supply[start * SECTOR:(start + sectors) * SECTOR])
                lines.append(f"{device} {sector} {sectors} {start}\n")
        return "".join(lines).encode()

    # --- we read what the kernel left ---

    def read(self):
        for origin, store, view, bytes_now, what in (
                ("o", "c", self.next_view, self.next_origin, "a store that both wrote to"),
                ("p", "q", self.view, self.view, "a store that the kernel merged"),
                ("k", "l", self.kernel_view, self.kernel_origin, "a store of the kernel's")):
            with self.daemon() as daemon:
                self._read_store(daemon, origin, store, view, bytes_now,
                                 f"chunk {self.chunk}: {what}")
                daemon.stop()
        with self.daemon() as daemon:
            self._go_on(daemon)

    def _read_store(self, daemon, origin, store, view, bytes_now, what):
        self._load(daemon, origin, store)
        expect(f"{what} reads to the same bytes",
               read_from(daemon.url("s"), self.scratch) == bytes(view.data), True)
        expect(f"{what}: its origin has the bytes it should have",
               self.path(origin).read_bytes() == bytes(bytes_now.data), True)
        if store == "q":
            used, _, metadata = self._status(daemon, "s").partition(" ")
            expect(f"{what} is empty", used.partition("/")[0], metadata)
        if store == "l":
            expect(f"{what} has a second area", int(self.note.split()[-1]) > 2 * self.chunk,
                   self.has_two_areas)
            expect(f"{what} is as full as the kernel said", self._status(daemon, "s"), self.note)

    def _load(self, daemon, origin, store):
        """The table says another chunk size: that on the store counts."""
        daemon.cli("create", "org", "--table", f"0 {SECTORS} linear {self.path(origin)} 0")
        daemon.cli("create", "s", "--table",
                   f"0 {SECTORS} snapshot /dev/mapper/org {self.path(store)} P 32")
        daemon.cli("create", "o", "--table", f"0 {SECTORS} snapshot-origin /dev/mapper/org")
        daemon.export("s")
        daemon.export("o")

    def _go_on(self, daemon):
        """The kernel's store, used further and merged by us."""
        self._load(daemon, "k", "l")
        write_to(daemon.url("o"), self.scratch, self.random, self.kernel_origin,
                 random_writes(self.random, SECTORS, self.chunk, 9))
        write_to(daemon.url("s"), self.scratch, self.random, self.kernel_view,
                 random_writes(self.random, SECTORS, self.chunk, 9))
        expect(f"chunk {self.chunk}: the kernel's store, used further by us, reads as it should",
               read_from(daemon.url("s"), self.scratch) == bytes(self.kernel_view.data), True)
        for name in ("o", "s"):
            daemon.cli("unexport", name)
            daemon.cli("remove", name)
        daemon.cli("create", "m", "--table",
                   f"0 {SECTORS} snapshot-merge /dev/mapper/org {self.path('l')} P {self.chunk}")
        deadline = time.monotonic() + STATUS_SECONDS
        while time.monotonic() < deadline:
            used, _, metadata = self._status(daemon, "m").partition(" ")
            if used.partition("/")[0] == metadata:
                break
            time.sleep(0.05)
        daemon.stop()
        expect(f"chunk {self.chunk}: the kernel's store, merged by us, becomes the origin",
               self.path("k").read_bytes() == bytes(self.kernel_view.data), True)

    @staticmethod
    def _status(daemon, name):
        """`used/size metadata`, as in the kernel's status."""
        return " ".join(daemon.cli("status", name).stdout.split()[3:])
