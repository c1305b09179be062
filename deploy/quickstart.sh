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
# Root is needed only to install packages that are missing. Starting twice is harmless. A start that
# fails says why, exits with 1 and leaves nothing running that it started.
set -euo pipefail
called_in=$PWD
cd "$(dirname "$(readlink -f "$0")")/.."
. deploy/packages.sh

DEMO=demo
DEMO_MIB=1024  # thin: takes space only where something was written
PROOF=quickstart-proof
ROOM_MIB=64    # free space in the state directory without which there is no point in starting
BUILD_ROOM_MIB=300  # what the first build takes, and a bit
IQN_PREFIX=iqn.2026-11.io.sectormap
START_SECONDS=30

say() { printf '%s\n' "$*"; }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '3,16s/^# \{0,1\}//p' deploy/quickstart.sh; }

command=start wanted_port="" metrics_port="" state_dir=""
while (($#)); do
  case $1 in
    start | stop) command=$1 ;;
    --port | --metrics-port | --state-dir)
      (($# >= 2)) || fail "$1 needs a value"
      case $1 in --port) wanted_port=$2 ;; --metrics-port) metrics_port=$2 ;; *) state_dir=$2 ;; esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
  shift
done
port=${wanted_port:-3260}
for number in "$port" "${metrics_port:-1}"; do
  [[ $number =~ ^[1-9][0-9]{0,4}$ ]] && ((number <= 65535)) ||
    fail "'$number' is not a port number (1 to 65535)"
done
if [[ -z $state_dir ]]; then
  if ((EUID == 0)); then state_dir=/var/lib/sectormap
  elif [[ ${XDG_STATE_HOME:-} == /* ]]; then state_dir=$XDG_STATE_HOME/sectormap
  elif [[ -n ${HOME:-} ]]; then state_dir=$HOME/.local/state/sectormap
  else fail "HOME is not set; choose a directory with --state-dir"; fi
fi
[[ $state_dir == /* ]] || state_dir=$called_in/$state_dir
if [[ $command == start ]]; then
  mkdir -p "$state_dir" 2>/dev/null && [[ -w $state_dir ]] ||
    fail "cannot write to $state_dir; choose a directory with --state-dir"
fi
state_dir=$(readlink -m "$state_dir")
# sockaddr_un has room for 107 bytes, and gRPC takes `#`, `%` and `?` for parts of a URI.
[[ $state_dir != *[\#%?]* ]] && (($(wc -c <<<"$state_dir/control.sock") <= 108)) ||
  fail "$state_dir cannot hold the control socket: its path is too long or has one of #%?; choose another directory with --state-dir"
pid_file=$state_dir/quickstart.pid
log=$state_dir/sectormapd.log
server=unix:$state_dir/control.sock
daemon_binary=build/release/sectormapd
cli_binary=build/release/sectormap

cli() { "$cli_binary" --server "$server" "$@"; }

arguments_of() { tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline"; }

# Whether the process has its files open still; a zombie, for which nobody has waited, has not.
alive() { [[ $(sed -n 's/.*) \([A-Za-z]\) .*/\1/p' "/proc/$1/stat" 2>/dev/null) == [^XZ] ]]; }

# The process that an earlier run started here, if it still lives (and is not another program that
# got its number).
running_pid() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || return 1
  [[ $(cat "/proc/$pid/comm" 2>/dev/null) == sectormapd ]] || return 1
  arguments_of "$pid" | grep -xF -e "$state_dir" >/dev/null && echo "$pid"
}

stop() {
  local pid waited=0
  if ! pid=$(running_pid); then
    rm -f "$pid_file"
    say "sectormapd is not running in $state_dir."
    return
  fi
  kill "$pid" 2>/dev/null || fail "sectormapd (pid $pid) is another user's; stop it as that user"
  while alive "$pid"; do
    ((waited++ < 300)) || fail "sectormapd (pid $pid) did not stop within 30 seconds; see $log"
    sleep 0.1
  done
  rm -f "$pid_file"
  say "Stopped sectormapd. Devices and exports stay in $state_dir; remove it to forget them."
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Before anything is installed or built: whoever waits for minutes should not do so in vain.
check_ports() {
  if listening "$port"; then
    fail "port $port of 127.0.0.1 is in use; choose another with --port"
  fi
  if [[ -z $metrics_port ]]; then
    metrics_port=9360
    if ((metrics_port == port)) || listening "$metrics_port"; then metrics_port=0; fi
  elif ((metrics_port == port)); then
    fail "--port and --metrics-port are both $port; give two ports"
  elif listening "$metrics_port"; then
    fail "port $metrics_port of 127.0.0.1 is in use; choose another with --metrics-port"
  fi
}

# check_room DIRECTORY MIB WHO ADVICE
check_room() {
  local free
  free=$(df --output=avail -BM "$1" | tail -1 | tr -dc '0-9')
  ((free >= $2)) || fail "the disk is full: $free MiB free in $1, $3 needs $2 MiB; $4"
}
check_state_room() {
  check_room "$state_dir" "$ROOM_MIB" "the demo" "choose another directory with --state-dir"
}

# As fail; but a disk that has filled up meanwhile is the likely reason, and may be why a log says
# nothing.
fail_late() {
  check_state_room
  fail "$@"
}

build() {
  local built=0
  if [[ -x $daemon_binary && -x $cli_binary ]]; then built=1; fi
  if ! mkdir -p build/release 2>/dev/null || ! [[ -w build/release ]]; then
    ((built)) || fail "cannot write to $PWD/build; run this in a copy of the tree that is yours"
    say "Using what is in build/release, which you cannot write to, as it is."
    return
  fi
  ((built)) || check_room build "$BUILD_ROOM_MIB" "the build" "make room there"
  say "Building (the first time takes a few minutes) ..."
  if ! { cmake --preset release && cmake --build --preset release --target sectormapd sectormap; } \
      >"$state_dir/build.log" 2>&1; then
    tail -30 "$state_dir/build.log" >&2
    fail_late "the build failed; everything it said is in $state_dir/build.log"
  fi
}

# Until the end of a start that goes well: ends what it has started.
started_pid=""
give_up() {
  local waited=0
  [[ -n $started_pid ]] || return 0
  kill "$started_pid" 2>/dev/null || true
  while alive "$started_pid" && ((waited++ < 300)); do sleep 0.1; done
  rm -f "$pid_file"
}

volume_file() { echo "$state_dir/devices/$1.img"; }

# The thin file of volume $1, of $2 MiB, if it is not there.
make_file() { [[ -s $(volume_file "$1") ]] || truncate -s "$2M" "$(volume_file "$1")"; }

start_daemon() {
  local waited=0
  mkdir -p "$state_dir/devices"
  # The daemon may know the volume from before: without its file that would answer with errors.
  if [[ -e $state_dir/sectormap.db && ! -s $(volume_file "$DEMO") ]]; then
    say "$(volume_file "$DEMO") is gone; an empty one takes its place."
  fi
  make_file "$DEMO" "$DEMO_MIB" || fail_late "the file of the volume $DEMO could not be made"
  trap give_up EXIT
  setsid "$daemon_binary" --state-dir "$state_dir" --listen "127.0.0.1:$port" \
    --metrics "127.0.0.1:$metrics_port" </dev/null >"$log" 2>&1 &
  started_pid=$!
  echo "$started_pid" >"$pid_file"
  until cli ls >/dev/null 2>&1 && listening "$port"; do
    if ! alive "$started_pid"; then
      grep '^sectormapd: ' "$log" >&2 || tail -5 "$log" >&2
      fail_late "sectormapd did not start; its log is $log"
    fi
    ((waited++ < START_SECONDS * 10)) || fail_late "sectormapd does not answer; its log is $log"
    sleep 0.1
  done
}

# A path as one word of a table.
# shellcheck disable=SC2001
word() { sed 's/[[:space:]\\#]/\\&/g' <<<"$1"; }

# Makes a thin volume of $2 MiB named $1 and exports it, as far as that has not been done.
make_volume() {
  local name=$1 mib=$2 table
  table="0 $((mib * 2048)) linear $(word "$(volume_file "$name")") 0"
  if ! make_file "$name" "$mib" ||
    ! { cli info "$name" >/dev/null 2>&1 || cli create "$name" --table "$table" >/dev/null; } ||
    ! cli export "$name" >/dev/null; then
    fail_late "the volume $name could not be made"
  fi
}

# Writes a pattern to volume $1 with QEMU's own iSCSI initiator (libiscsi, in user space) and reads
# it back over a second login.
prove() {
  local url=iscsi://127.0.0.1:$port/$IQN_PREFIX:$1/0 answer
  answer=$({ qemu-io -f raw -c 'write -P 0x5e 1M 1M' -c flush "$url" &&
             qemu-io -f raw -c 'read -P 0x5e 1M 1M' "$url"; } 2>&1) &&
    ! grep -qiE 'failed|error' <<<"$answer" ||
    { printf '%s\n' "$answer" >&2; fail_late "the volume could not be written and read back at $url"; }
}

start() {
  local new=0 pid metrics running_port
  check_state_room
  if pid=$(running_pid); then
    say "sectormapd is running already (pid $pid)."
    running_port=$(arguments_of "$pid" | sed -n 's/^127\.0\.0\.1:\([0-9]*\)$/\1/p' | head -1)
    if [[ -n $wanted_port && $wanted_port != "$running_port" ]]; then
      say "It stays on port $running_port: to move it to $wanted_port, stop it first."
    fi
    port=$running_port
    install_packages "${PROOF_PACKAGES[@]}" || exit 1
    [[ -x $cli_binary ]] || build
  else
    check_ports
    install_packages "${BUILD_PACKAGES[@]}" "${PROOF_PACKAGES[@]}" || exit 1
    build
    start_daemon
    pid=$started_pid
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
    rm -f "$(volume_file "$PROOF")"
  fi
  trap - EXIT
  metrics=$(sed -n 's,.*\(http://[^ ]*/metrics\).*,\1,p' "$log" | head -1)
  cat <<END

Sectormap runs (pid $pid). QEMU's iSCSI initiator (libiscsi, user space) has just written to it
and read it back.

  Volume      $IQN_PREFIX:$DEMO, LUN 0, $DEMO_MIB MiB, in $state_dir/devices/$DEMO.img
  Log in      iscsiadm -m discovery -t sendtargets -p 127.0.0.1:$port
              iscsiadm -m node -T $IQN_PREFIX:$DEMO -p 127.0.0.1:$port --login
  Log out     iscsiadm -m node -T $IQN_PREFIX:$DEMO -p 127.0.0.1:$port --logout
  Command     $(printf %q "$PWD/$cli_binary") --server $(printf %q "$server") ls
  gRPC        $server
  Metrics     $metrics
  Log         $log
  Stop        deploy/quickstart.sh stop --state-dir $(printf %q "$state_dir")
END
}

"$command"
