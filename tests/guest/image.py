#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the guest's kernel and initial RAM disk out of Debian's own packages.

    image.py --dir build/guest

Fetches the packages with `apt-get download` (which checks them against the signed lists), takes the
few programs and kernel modules that the test needs with the libraries they name, and packs them as
one cpio archive. Needs no root. What is there already and still right is left alone.
"""

import argparse
import fcntl
import gzip
import hashlib
import lzma
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent

KERNEL = "linux-image-cloud-amd64"  # small, and has every virtio driver
PACKAGES = (
    "busybox-static", "bash", "kmod", "libkmod2", "open-iscsi", "libopeniscsiusr", "libisns0",
    "e2fsprogs", "libext2fs2", "libcom-err2", "libss2", "logsave", "util-linux", "libmount1",
    "libblkid1", "libuuid1", "libsmartcols1", "libtinfo6", "libc6", "libssl3", "libsystemd0",
    "libudev1", "liblzma5", "libzstd1", "liblz4-1", "libcap2", "libgcrypt20", "libgpg-error0",
    "libselinux1", "libpcre2-8-0", "zlib1g", "libcap-ng0", "libcrypt1", "libgcc-s1",
    "dmsetup", "libdevmapper1.02.1",
)
PROGRAMS = (
    "iscsiadm", "iscsid", "mke2fs", "e2fsck", "resize2fs", "kmod", "bash", "blkdiscard", "blockdev",
    "fstrim", "dmsetup",
)
LINKS = {
    "mkfs.ext4": "mke2fs", "fsck.ext4": "e2fsck", "modprobe": "kmod", "insmod": "kmod",
    "lsmod": "kmod", "depmod": "kmod",
}
MODULES = ("virtio_pci", "virtio_net", "virtio_console", "virtio_scsi", "sd_mod", "iscsi_tcp",
           "crc32c-intel", "ext4", "dm-snapshot", "dm-mirror")

LIBRARY_DIR = "lib/x86_64-linux-gnu"


class ImageError(Exception):
    pass


def run(*command, cwd=None):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return done.stdout


def kernel_package():
    match = re.search(r"Depends: (linux-image-\S+)", run("apt-cache", "depends", KERNEL))
    if match is None:
        raise ImageError(f"apt does not know {KERNEL}; run apt-get update")
    return match.group(1)


def fetch(directory, names):
    directory.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not list(directory.glob(f"{name}_*.deb"))]
    if missing:
        run("apt-get", "-q", "download", *missing, cwd=directory)


def unpack(debs, names, tree):
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in names:
        for deb in debs.glob(f"{name}_*.deb"):
            run("dpkg-deb", "-x", deb, tree)


def find_program(tree, name):
    for folder in ("sbin", "usr/sbin", "bin", "usr/bin"):
        if (tree / folder / name).exists():
            return tree / folder / name
    raise ImageError(f"no {name} in the packages")


def needed_libraries(binary):
    return re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-d", binary))


def copy_libraries(tree, root, binaries):
    libraries = {path.name: path for path in tree.rglob("*.so*")
                 if "gconv" not in path.parts and path.exists()}
    queue, seen = list(binaries), set()
    while queue:
        for name in needed_libraries(queue.pop()):
            if name in seen:
                continue
            seen.add(name)
            if name not in libraries:
                raise ImageError(f"library {name} is in none of the packages")
            shutil.copy(libraries[name], root / LIBRARY_DIR / name)
            queue.append(root / LIBRARY_DIR / name)
    shutil.copy(tree / "lib64/ld-linux-x86-64.so.2", root / "lib64")


def copy_modules(tree, root, version):
    source, target = tree / "lib/modules" / version, root / "lib/modules" / version
    target.mkdir(parents=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, target)
    run("/sbin/depmod", "-b", tree, version)
    dependencies = {}
    for line in (source / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        dependencies[pathlib.Path(path).stem.replace("-", "_")] = [path, *others.split()]
    builtin = (source / "modules.builtin").read_text().replace("-", "_")
    for name in (name.replace("-", "_") for name in MODULES):
        if name not in dependencies and f"/{name}.ko" not in builtin:
            raise ImageError(f"the kernel has no module {name}")
        for path in dependencies.get(name, ()):
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, target / path)
    run("/sbin/depmod", "-b", root, version)


def fill_root(tree, root, version):
    shutil.rmtree(root, ignore_errors=True)
    for folder in ("bin", "sbin", "etc/iscsi", "proc", "sys", "dev", "run", "tmp", "mnt", "root", "usr",
                   "var/lib/iscsi", "lib64", LIBRARY_DIR):
        (root / folder).mkdir(parents=True)
    for link, to in (("usr/bin", "../bin"), ("usr/sbin", "../sbin"), ("usr/lib", "../lib"),
                     ("var/run", "../run"), ("bin/bash", "../sbin/bash"), ("bin/sh", "../sbin/bash")):
        (root / link).symlink_to(to)
    for name in PROGRAMS:
        shutil.copy(find_program(tree, name), root / "sbin" / name)
    for link, to in LINKS.items():
        (root / "sbin" / link).symlink_to(to)
    shutil.copy(tree / "bin/busybox", root / "bin/busybox")
    copy_libraries(tree, root, [root / "sbin" / name for name in PROGRAMS])
    copy_modules(tree, root, version)
    shutil.copy(HERE / "init.sh", root / "init")
    (root / "init").chmod(0o755)
    shutil.copy(HERE / "lib.sh", root / "lib/guest.sh")
    shutil.copy(tree / "etc/iscsi/iscsid.conf", root / "etc/iscsi")
    shutil.copy(tree / "etc/mke2fs.conf", root / "etc")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / "etc/iscsi/initiatorname.iscsi").write_text(
        "InitiatorName=iqn.1993-08.org.debian:01:sectormap-guest\n")


def cpio(files, first_inode=1):
    """A newc archive of (name, mode, bytes); a kernel reads several of them one after the other."""
    out = bytearray()
    for inode, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], first_inode):
        word = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(word), 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + word
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out) + bytes(-len(out) % 512)


def pack(root):
    files = []
    for path in sorted(root.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            data = os.readlink(path).encode()
        else:
            data = path.read_bytes() if stat.S_ISREG(mode) else b""
        files.append((str(path.relative_to(root)), mode, data))
    return cpio(files)


def unpack_kernel(image):
    """The ELF kernel in a bzImage (QEMU starts it without the decompressor), or None."""
    def lz4(data):
        return subprocess.run(["lz4", "-dc"], input=data, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=False).stdout

    def xz(data):
        return lzma.LZMADecompressor().decompress(data)

    for magic, decompress in ((b"\x02\x21\x4c\x18", lz4), (b"\xfd7zXZ\0", xz),
                              (b"\x1f\x8b\x08", gzip.decompress)):
        for match in re.finditer(re.escape(magic), image):
            try:
                kernel = decompress(image[match.start():])
            except (OSError, EOFError, lzma.LZMAError):
                continue
            if kernel[:4] == b"\x7fELF":
                return kernel
    return None


def recipe():
    """Changes when anything does that the image is made from."""
    digest = hashlib.sha256()
    for name in ("image.py", "init.sh", "lib.sh"):
        digest.update((HERE / name).read_bytes())
    return digest.hexdigest()


def build(directory):
    """One at a time: CTest may start several of the guest's tests at once."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build_locked(directory)


def build_locked(directory):
    stamp = directory / "recipe"
    if stamp.exists() and stamp.read_text() == recipe():
        return
    debs, tree, root = directory / "debs", directory / "tree", directory / "root"
    names = [kernel_package(), *PACKAGES]
    fetch(debs, names)
    unpack(debs, names, tree)
    version = next((tree / "lib/modules").iterdir()).name
    fill_root(tree, root, version)
    (directory / "initrd").write_bytes(pack(root))
    image = (tree / f"boot/vmlinuz-{version}").read_bytes()
    (directory / "kernel").write_bytes(unpack_kernel(image) or image)
    shutil.rmtree(tree)
    shutil.rmtree(root)
    stamp.write_text(recipe())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    options = parser.parse_args()
    try:
        build(options.dir)
    except ImageError as error:
        sys.exit(f"image: {error}")


if __name__ == "__main__":
    main()
