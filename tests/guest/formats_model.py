# SPDX-License-Identifier: Apache-2.0
"""What both sides of formats_test.py agree on: random writes, and a device's bytes as an array."""

import hashlib
import subprocess

SECTOR = 512


class Failure(Exception):
    """A rule of the test does not hold."""


def expect(what, found, wanted):
    if found != wanted:
        raise Failure(f"{what}: {found}, not {wanted}")
    print(f"ok   - {what}")


class Image:
    """A device's bytes as they have to be."""

    def __init__(self, data):
        self.data = bytearray(data)

    def write(self, sector, data):
        self.data[sector * SECTOR:sector * SECTOR + len(data)] = data

    def digest(self):
        return hashlib.sha256(self.data).hexdigest()

    def copy(self):
        return Image(self.data)


def random_writes(random, sectors, chunk, run_of_chunks, count=24):
    """(first sector, sectors) of writes of every kind: one sector, some chunks and their parts, the
    device's ends, and a run of so many whole chunks."""
    writes = [(0, 1), (sectors - 1, 1)]
    start = random.randrange(sectors - run_of_chunks * chunk) // chunk * chunk
    writes.append((start, run_of_chunks * chunk))
    while len(writes) < count:
        length = random.choice((1, 3, chunk, chunk + 1, 2 * chunk))
        writes.append((random.randrange(sectors - length + 1), length))
    random.shuffle(writes)
    return writes


def qemu_io(url, *commands, seconds=120):
    """REQUIRES: what is written is given by -P or -s. Raises if anything failed."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", "-f", "raw", *words, url], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=seconds, check=False)
    text = done.stdout + done.stderr
    if done.returncode != 0 or "failed" in text:
        raise AssertionError(f"qemu-io {url}: {text[-500:]}")


def write_to(url, scratch, random, image, writes):
    """Through iSCSI, and to the model."""
    commands = []
    for number, (sector, length) in enumerate(writes):
        data = random.randbytes(length * SECTOR)
        (scratch / f"write.{number}").write_bytes(data)
        commands.append(f"write -s {scratch}/write.{number} {sector * SECTOR} {len(data)}")
        image.write(sector, data)
    qemu_io(url, *commands, "flush")


def read_from(url, scratch):
    path = scratch / "read"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", url, path], check=True,
                   timeout=120, stdin=subprocess.DEVNULL)
    data = path.read_bytes()
    path.unlink()
    return data
