# SPDX-License-Identifier: Apache-2.0
"""Boots the guest under QEMU's own CPU emulation, runs a script in it, answers its questions.

Three virtio channels: `out` (the script's output, then the kernel's log), `log` (its exit status) and
`ctl` (a line of words from the guest's `host` function, answered by `@` lines and `@status N`).
"""

import pathlib
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import time

from image import cpio

# TCG everywhere: /dev/kvm exists on machines where a stock kernel does not run under it.
QEMU = ("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-M", "pc", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "Nehalem,+rdrand",
        "-m", "512", "-smp", "1")
KERNEL_ARGUMENTS = ("console=ttyS0 quiet loglevel=4 panic=-1 net.ifnames=0 mitigations=off "
                    "rcupdate.rcu_expedited=1 tsc=reliable")
CHANNELS = ("log", "out", "ctl")  # in the order of their port numbers
POWER_OFF_SECONDS = 20
FIRST_INODE = 0x70000  # above those of the base archive


class Guest:
    """One boot. `answer` takes a list of words and returns (status, text). `disks` are raw files by
    names of at most 16 characters: SCSI disks with the name as their model. `files` are bytes by
    names: files in the guest's /t."""

    def __init__(self, image, answer, disks=None, files=None):
        self.image, self.answer = pathlib.Path(image), answer
        self.disks, self.files = disks or {}, files or {}
        self._status = None
        self._lines = {"log": b"", "ctl": b""}

    def run(self, script, environment, seconds):
        """The script's exit status, or None if the guest died or took too long."""
        with tempfile.TemporaryDirectory(prefix="guest.") as directory:
            directory = pathlib.Path(directory)
            initrd = directory / "initrd"
            initrd.write_bytes(self._initrd(script, environment))
            listeners = {name: self._listen(directory / name) for name in CHANNELS}
            console = directory / "console"
            process = subprocess.Popen(self._command(directory, initrd, console),
                                       stdin=subprocess.DEVNULL)
            try:
                self._serve(listeners, process, time.monotonic() + seconds)
                if self._status is None:
                    tail = console.read_text(errors="replace").splitlines()[-40:]
                    print("guest: no status; the console's end:", *tail, sep="\n  | ")
            finally:
                self._end(process)
        return self._status

    def _initrd(self, script, environment):
        exports = "".join(f"export {name}={shlex.quote(str(value))}\n"
                          for name, value in environment.items())
        base = (self.image / "initrd").read_bytes()
        files = [("t", 0o40755, b""), ("t/run", 0o100755, script.encode()),
                 ("t/env", 0o100644, exports.encode())]
        files += [(f"t/{name}", 0o100644, data) for name, data in self.files.items()]
        return base + cpio(files, FIRST_INODE)

    @staticmethod
    def _listen(path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(20)
        return listener

    def _command(self, directory, initrd, console):
        command = [*QEMU, "-kernel", self.image / "kernel", "-initrd", initrd,
                   "-append", KERNEL_ARGUMENTS, "-serial", f"file:{console}",
                   "-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile=",
                   "-device", "virtio-serial-pci"]
        for number, name in enumerate(CHANNELS, 1):
            command += ["-chardev", f"socket,id={name},path={directory / name}",
                        "-device", f"virtserialport,nr={number},chardev={name},name={name}"]
        if self.disks:
            command += ["-device", "virtio-scsi-pci,id=scsi"]
        for number, (name, path) in enumerate(self.disks.items()):
            # unsafe: the guest's flushes end in the host's page cache, which outlives the guest.
            command += ["-drive", f"if=none,id=disk{number},format=raw,cache=unsafe,file={path}",
                        "-device", f"scsi-hd,bus=scsi.0,channel=0,scsi-id={number},lun=0,"
                                   f"drive=disk{number},product={name}"]
        return command

    def _serve(self, listeners, process, deadline):
        selector = selectors.DefaultSelector()
        for name, listener in listeners.items():
            selector.register(listener.accept()[0], selectors.EVENT_READ, name)
            listener.close()
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                data = key.fileobj.recv(1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                elif key.data == "out":
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                else:
                    self._take(key.data, data, key.fileobj)
        if selector.get_map():
            print("guest: out of time")
        for key in list(selector.get_map().values()):
            key.fileobj.close()

    def _take(self, name, data, channel):
        *lines, self._lines[name] = (self._lines[name] + data).split(b"\n")
        for line in lines:
            words = line.decode(errors="replace").split()
            if name == "log":
                if words[:1] == ["exit"]:
                    self._status = int(words[1])
            else:
                status, text = self.answer(words)
                answer = "".join(f"@{line}\n" for line in text.splitlines())
                channel.sendall(f"{answer}@status {status}\n".encode())

    @staticmethod
    def _end(process):
        try:
            process.wait(POWER_OFF_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
