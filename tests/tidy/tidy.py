#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks what a compiler does not: the house's doors, licence lines, unfinished work, missing tests.

    tidy.py ROOT

Prints `FILE:LINE: what is wrong` and exits with 1 if anything is. Each rule is a function of a path
and its text, so that tidy_test.py can show that it refuses what it has to.
"""

import os
import pathlib
import re
import sys

LINES_MAX = 700  # more, and a file holds more than one idea; tables of a standard come close
TEST_LINES_MAX = 1000  # a test is a list

SOURCE_SUFFIXES = {".cc", ".h", ".proto", ".py", ".sh", ".cmake"}
SOURCE_NAMES = {"CMakeLists.txt", "run"}
SKIPPED_FOLDERS = {"build", ".git", ".cache", "__pycache__"}
FOREIGN = ("proto/google/",)  # kept as published

# Which folders a folder's #include lines may name (docs/architecture.md). The longest matching entry
# counts. `proto` stands for what is generated from proto/.
CORE = ("core/base", "core/async", "core/block", "core/map")
SERVER = ("server/scsi", "server/iscsi", "server/state", "server/volumes", "server/exports",
          "server/control", "server/metrics")
DOORS = {
    "core/base": ("core/base",),
    "core/async": ("core/base", "core/async"),
    "core/block": ("core/base", "core/async", "core/block"),
    "core/map": CORE,
    "targets": (*CORE, "targets"),
    "server/scsi": (*CORE, "server/scsi"),
    "server/iscsi": (*CORE, "server/scsi", "server/iscsi"),
    "server/state": (*CORE, "server/state"),
    "server/volumes": (*CORE, "server/state", "server/volumes"),
    "server/exports": (*CORE, "server/scsi", "server/iscsi", "server/state", "server/volumes",
                       "server/exports"),
    "server/control": (*CORE, "targets", *SERVER, "proto"),
    "server/metrics": (*CORE, "targets", *SERVER, "proto"),
    "server": (*CORE, "targets", *SERVER, "server", "proto"),
    "cli": ("core/base", "cli", "proto"),
}
ROOMS = ("core", "targets", "server", "cli", "tests")
# The wire formats stay behind the rooms that speak them.
WIRE_HEADERS = {"server/iscsi/pdu.h", "server/scsi/cdb.h"}
WIRE_ROOMS = ("server/scsi", "server/iscsi", "tests")
# core and targets know std, absl and liburing.
FOREIGN_TO_CORE = ("grpc", "google/protobuf", "prometheus", "sqlite3", "spdlog", "toml", "CLI/",
                   "openssl", "isa-l", "crc.h")

INCLUDE = re.compile(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', re.M)
UNFINISHED = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
# A lambda with captures that is a coroutine: its captures die before its frame does.
LAMBDA_COROUTINE = re.compile(
    r"\[(?!\[)[^\[\]]*[^\[\]\s][^\[\]]*\]\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\)\s*)?"
    r"(?:mutable\s*)?->\s*(?:sectormap::|internal::)?(?:Task<|DetachedTask\b)")


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def longest_prefix(path, folders):
    matches = [folder for folder in folders if path == folder or path.startswith(folder + "/")]
    return max(matches, key=len, default=None)


def room_of_include(name):
    if name.startswith(("sectormap/", "google/rpc/")):
        return "proto"
    if name.split("/")[0] not in ROOMS:
        return None
    return str(pathlib.PurePosixPath(name).parent)


def check_doors(path, text):
    room = longest_prefix(path, DOORS)
    if room is None:
        return
    for match in INCLUDE.finditer(text):
        name = match.group(1)
        to = room_of_include(name)
        line = line_of(text, match.start())
        if to is not None and longest_prefix(to, DOORS[room]) is None:
            yield line, f"{room} has no door to {to} ({name})"
        if name in WIRE_HEADERS and longest_prefix(room, WIRE_ROOMS) is None:
            yield line, f"{name} is a wire format; {room} has no business with it"
        if room.startswith(("core", "targets")) and name.startswith(FOREIGN_TO_CORE):
            yield line, f"{room} knows std, absl and liburing only, not {name}"


def check_licence(_, text):
    if "SPDX-License-Identifier: Apache-2.0" not in "\n".join(text.splitlines()[:3]):
        yield 1, "no SPDX line in the first three lines"


def check_unfinished(_, text):
    for match in UNFINISHED.finditer(text):
        yield line_of(text, match.start()), f"unfinished: {match.group(1)}"


def check_length(path, text):
    lines = text.count("\n")
    most = TEST_LINES_MAX if path.startswith("tests/") else LINES_MAX
    if pathlib.PurePosixPath(path).suffix in (".cc", ".h", ".py", ".sh") and lines > most:
        yield lines, f"{lines} lines; split what is more than {most}"


def check_lambda_coroutines(path, text):
    if pathlib.PurePosixPath(path).suffix not in (".cc", ".h"):
        return
    for match in LAMBDA_COROUTINE.finditer(text):
        yield line_of(text, match.start()), "a capturing lambda is a coroutine (docs/decisions/0002)"


RULES = (check_doors, check_licence, check_unfinished, check_length, check_lambda_coroutines)


def untested(files):
    """Sources of core, targets and server that no test reaches. One does if it is named after the
    source, if it includes the header beside it, or if it reaches another source of the same folder
    of which this one is a part (or, without a header of its own, with which it shares one).
    main.cc is what the system tests start."""
    tests = "\n".join(text for path, text in files.items() if path.startswith("tests/"))
    sources = {path.rpartition(".")[0] for path in files
               if path.startswith(("core/", "targets/", "server/")) and path.endswith(".cc")}
    def parts(source):
        """Headers of its own folder that a source uses, without their suffix."""
        text = files.get(source + ".h", "") + files.get(source + ".cc", "")
        return {name.rpartition(".")[0] for name in INCLUDE.findall(text)
                if name.rpartition("/")[0] == source.rpartition("/")[0]}

    reached = {source for source in sources
               if f'"{source}.h"' in tests or f"tests/{source}_test.cc" in files}
    used = set(reached)  # with headers that have no source beside them
    while True:
        used.update(*(parts(source) for source in reached))
        found = {source for source in sources - reached
                 if source in used or (source + ".h" not in files and parts(source) & used)}
        if not found:
            break
        reached |= found
    for source in sorted(sources - reached):
        if not source.endswith("/main"):
            yield f"{source}.cc"


def read_tree(root):
    files = {}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = pathlib.Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if relative.startswith(FOREIGN):
                continue
            if path.suffix in SOURCE_SUFFIXES or name in SOURCE_NAMES:
                files[relative] = path.read_text(encoding="utf-8")
    return files


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = read_tree(pathlib.Path(sys.argv[1]))
    wrong = [f"{path}:{line}: {what}" for path, text in files.items()
             for rule in RULES for line, what in rule(path, text)]
    wrong += [f"{path}:1: no test reaches it" for path in untested(files)]
    print("\n".join(wrong) or f"{len(files)} files are tidy")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
