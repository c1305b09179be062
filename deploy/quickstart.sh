#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Sectormap on Debian 12, starts it on the loopback interface with a demo volume, proves it
# through a real iSCSI initiator, says how to go on, and leaves it running.
#
#   deploy/quickstart.sh [start] [--port N] [--metrics-port N] [--state-dir DIR]
#   deploy/quickstart.sh stop [--state-dir DIR]
#
#   --port N          iSCSI port on 127.0.0.1 (3260)
#   --metrics-port N  Prometheus port on 127.0.0.1 (9360, or a free one if that is taken)
#   --state-dir DIR   database, socket, log and demo volume (/var/lib/sectormap as root, else
#                     $XDG_STATE_HOME/sectormap)
#
# Root is needed only to install packages that are missing. Starting twice is harmless.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
. deploy/packages.sh

DEMO=demo
DEMO_MIB=1024  # thin: takes space only where something was written
PROOF=quickstart-proof
ROOM_MIB=64    # free space without which there is no point in starting
IQN_PREFIX=iqn.2026-11.io.sectormap
START_SECONDS=30

say() { printf '%s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '3,15s/^# \{0,1\}//p' deploy/quickstart.sh; }

command=start port=3260 metrics_port="" state_dir=""
while (($#)); do
  case $1 in
    start | stop) command=$1 ;;
    --port | --metrics-port | --state-dir)
      (($# >= 2)) || fail "$1 needs a value"
      case $1 in --port) port=$2 ;; --metrics-port) metrics_port=$2 ;; *) state_dir=$2 ;; esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
for number in "$port" "${metrics_port:-1}"; do
  [[ $number =~ ^[0-9]{1,5}$ ]] && ((number >= 1 && number <= 65535)) ||
    fail "'$number' is not a port number (1 to 65535)"
done
if [[ -z $state_dir ]]; then
  if ((EUID == 0)); then state_dir=/var/lib/sectormap
  else state_dir=${XDG_STATE_HOME:-$HOME/.local/state}/sectormap; fi
fi
mkdir -p "$state_dir" 2>/dev/null && [[ -w $state_dir ]] ||
  fail "cannot write to $state_dir; choose a directory with --state-dir"
state_dir=$(cd "$state_dir" && pwd -P)
pid_file=$state_dir/quickstart.pid
log=$state_dir/sectormapd.log
server=unix:$state_dir/control.sock
daemon_binary=build/release/sectormapd

cli() { build/release/sectormap --server "$server" "$@"; }

# The process that an earlier run started here, if it still lives (and is not another program that
# got its number).
running_pid() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == sectormapd ]] && echo "$pid"
}

stop() {
  local pid waited=0
  if ! pid=$(running_pid); then
    rm -f "$pid_file"
    say "sectormapd is not running in $state_dir."
    return
  fi
  kill "$pid"
  while [[ $(cat "/proc/$pid/comm" 2>/dev/null) == sectormapd ]]; do
    ((waited++ < 300)) || fail "sectormapd (pid $pid) did not stop within 30 seconds; see $log"
    sleep 0.1
  done
  rm -f "$pid_file"
  say "Stopped sectormapd. Devices and exports stay in $state_dir; remove it to forget them."
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

check_room() {
  local free
  free=$(df --output=avail -BM "$state_dir" | tail -1 | tr -dc '0-9')
  ((free >= ROOM_MIB)) ||
    fail "only $free MiB free in $state_dir; the demo needs $ROOM_MIB MiB (see --state-dir)"
}

build() {
  say "Building (the first time takes a few minutes) ..."
  if ! { cmake --preset release && cmake --build --preset release --target sectormapd sectormap; } \
      >"$state_dir/build.log" 2>&1; then
    tail -30 "$state_dir/build.log" >&2
    fail "the build failed; everything it said is in $state_dir/build.log"
  fi
}

start_daemon() {
  local pid waited=0
  if listening "$port"; then
    fail "port $port of 127.0.0.1 is in use; choose another with --port"
  fi
  if [[ -z $metrics_port ]]; then
    metrics_port=9360
    listening "$metrics_port" && metrics_port=0
  fi
  mkdir -p "$state_dir/devices"
  setsid "$daemon_binary" --state-dir "$state_dir" --listen "127.0.0.1:$port" \
    --metrics "127.0.0.1:$metrics_port" </dev/null >"$log" 2>&1 &
  pid=$!
  echo "$pid" >"$pid_file"
  until cli ls >/dev/null 2>&1 && listening "$port"; do
    if ! running_pid >/dev/null && ((waited > 2)); then
      rm -f "$pid_file"
      tail -5 "$log" >&2
      fail "sectormapd did not start; its log is $log"
    fi
    ((waited++ < START_SECONDS * 10)) || fail "sectormapd does not answer; its log is $log"
    sleep 0.1
  done
}

# Makes a thin volume of $2 MiB named $1 and exports it, as far as that has not been done.
make_volume() {
  local name=$1 mib=$2 file=$state_dir/devices/$1.img
  [[ -e $file ]] || truncate -s "${mib}M" "$file"
  cli info "$name" >/dev/null 2>&1 ||
    cli create "$name" --table "0 $((mib * 2048)) linear $file 0" >/dev/null
  cli export "$name" >/dev/null
}

# Writes a pattern to volume $1 with QEMU's own iSCSI initiator (libiscsi, in user space) and reads
# it back over a second login.
prove() {
  local url=iscsi://127.0.0.1:$port/$IQN_PREFIX:$1/0 answer
  answer=$({ qemu-io -f raw -c 'write -P 0x5e 1M 1M' -c flush "$url" &&
             qemu-io -f raw -c 'read -P 0x5e 1M 1M' "$url"; } 2>&1) &&
    ! grep -qiE 'failed|error' <<<"$answer" ||
    { printf '%s\n' "$answer" >&2; fail "the volume could not be written and read back at $url"; }
}

start() {
  local new=0 pid metrics
  check_room
  install_packages "${BUILD_PACKAGES[@]}" "${PROOF_PACKAGES[@]}" || exit 1
  if pid=$(running_pid); then
    say "sectormapd is running already (pid $pid)."
    port=$(tr '\0' '\n' <"/proc/$pid/cmdline" | sed -n 's/^127\.0\.0\.1:\([0-9]*\)$/\1/p' | head -1)
  else
    build
    start_daemon
    pid=$(running_pid)
  fi
  cli info "$DEMO" >/dev/null 2>&1 || new=1
  make_volume "$DEMO" "$DEMO_MIB"
  # What is on the demo volume may be yours by now: only a new one is written to. Later runs prove
  # themselves on a volume of their own, which they remove.
  if ((new)); then
    prove "$DEMO"
  else
    make_volume "$PROOF" 8
    prove "$PROOF"
    cli unexport "$PROOF" >/dev/null
    cli remove "$PROOF" >/dev/null
    rm -f "$state_dir/devices/$PROOF.img"
  fi
  metrics=$(sed -n 's,.*\(http://[^ ]*/metrics\).*,\1,p' "$log" | head -1)
  cat <<END

Sectormap runs (pid $pid). QEMU's iSCSI initiator (libiscsi, user space) has just written to it
and read it back.

  Volume      $IQN_PREFIX:$DEMO, LUN 0, $DEMO_MIB MiB, in $state_dir/devices/$DEMO.img
  Log in      iscsiadm -m discovery -t sendtargets -p 127.0.0.1:$port
              iscsiadm -m node -T $IQN_PREFIX:$DEMO -p 127.0.0.1:$port --login
  Log out     iscsiadm -m node -T $IQN_PREFIX:$DEMO -p 127.0.0.1:$port --logout
  Command     $PWD/build/release/sectormap --server $server ls
  gRPC        $server
  Metrics     $metrics
  Log         $log
  Stop        deploy/quickstart.sh stop --state-dir $state_dir
END
}

"$command"
