# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
# The Debian 12 packages that the scripts need, and how they get them. To be sourced.

# To build sectormapd and sectormap. GoogleTest and Google Benchmark are here because the `release`
# preset configures the tests too.
BUILD_PACKAGES=(
  clang-19 lld-19 libclang-rt-19-dev cmake ninja-build ccache pkg-config python3
  libabsl-dev libspdlog-dev libssl-dev libsqlite3-dev liburing-dev libisal-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc
  prometheus-cpp-dev libcli11-dev libtomlplusplus-dev
  libgtest-dev libgmock-dev libbenchmark-dev
)

# To make the Debian package: CPack finds with them which packages it depends on.
DEB_PACKAGES=(dpkg-dev file)

# The initiator with which the quickstart proves itself: qemu-io and qemu-img with libiscsi.
PROOF_PACKAGES=(qemu-utils qemu-block-extra)

# What the tests run against the daemon: libiscsi's suite, a guest with Debian's kernel (kmod, lz4
# and binutils make its image), Prometheus for the dashboard, SQLite's shell, mkfs for tiny disks.
TEST_PACKAGES=(
  libiscsi-bin qemu-system-x86 kmod lz4 binutils cpio
  prometheus sqlite3 e2fsprogs iproute2 procps util-linux xz-utils
)

# The headers and C libraries with which tests/arm64 compiles for arm64, and what runs the result.
ARM64_PACKAGES=(libc6-dev-arm64-cross libstdc++-12-dev-arm64-cross qemu-user)

# The peer that tests/bench/run.sh measures against.
BENCH_PACKAGES=(python3-grpcio tgt)

# While it is there, packages start no services. The mark in it tells ours, which a run that was
# killed may have left, from the machine's own.
POLICY_FILE=/usr/sbin/policy-rc.d
POLICY_MARK="Sectormap's, while deploy/packages.sh installs packages."

# Prints those of the given packages that are not installed.
missing_packages() {
  local name
  for name in "$@"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || echo "$name"
  done
}

# Installs what is missing of the given packages, without a question and without starting any
# service that comes with them (Debian would start prometheus and tgtd at once).
install_packages() {
  local missing as_root=() status=0
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]} == 0)) && return 0
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      as_root=(sudo)
    else
      {
        echo "These Debian packages are missing and only root can install them. Run as root:"
        echo "  apt-get install --no-install-recommends ${missing[*]}"
        echo "and then this script again; it needs no root itself."
      } >&2
      return 1
    fi
  fi
  echo "Installing ${#missing[@]} Debian packages: ${missing[*]}"
  # A shell of its own: its trap takes no other's place, and also runs when a signal ends it.
  (
    if [[ ! -e $POLICY_FILE ]] || grep -qF "$POLICY_MARK" "$POLICY_FILE"; then
      trap '"${as_root[@]}" rm -f "$POLICY_FILE"' EXIT
      printf '#!/bin/sh\n# %s\nexit 101\n' "$POLICY_MARK" |
        "${as_root[@]}" tee "$POLICY_FILE" >/dev/null
      "${as_root[@]}" chmod 755 "$POLICY_FILE"
    fi
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q update >/dev/null || true
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get -qq -y -o Dpkg::Use-Pty=0 --no-install-recommends install "${missing[@]}" >/dev/null
  ) || status=1
  mapfile -t missing < <(missing_packages "${missing[@]}")
  if ((status != 0 || ${#missing[@]} != 0)); then
    echo "apt-get could not install: ${missing[*]:-(see its message above)}" >&2
    return 1
  fi
}
