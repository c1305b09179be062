# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scripts that run in the guest: checks, questions to the host, iSCSI.

fails=0

# check NAME COMMAND...: runs it, says how it went; its output is shown if it fails.
check() {
  local name=$1 output status=0
  shift
  output=$("$@" 2>&1) || status=$?
  if ((status == 0)); then
    echo "ok   - $name"
  else
    echo "FAIL - $name (status $status): $output"
    fails=$((fails + 1))
  fi
  return "$status"
}

finish() {
  ((fails == 0)) && { echo "all passed"; exit 0; }
  echo "$fails failed"
  exit 1
}

# wait_for SECONDS COMMAND...
wait_for() {
  local left=$(($1 * 10))
  shift
  until "$@" >/dev/null 2>&1; do
    ((left-- > 0)) || return 1
    usleep 100000
  done
}

# host WORD...: asks the host to do something; prints its answer and returns its status.
host() {
  local line status=1
  exec 9<>/dev/guest-ctl
  echo "$*" >&9
  while read -r line <&9; do
    case $line in
      '@status '*) status=${line#@status }; break ;;
      *) echo "${line#@}" ;;
    esac
  done
  exec 9>&-
  return "$status"
}

iscsi_start() {
  modprobe -a iscsi_tcp sd_mod ext4
  pidof iscsid >/dev/null && return 0
  iscsid -f >/run/iscsid.log 2>&1 &
  wait_for 10 grep -q ISCSIADM_ABSTRACT /proc/net/unix
}

# The disk (sdX) of LUN $2 of the session with target $1.
iscsi_disk() {
  local session disk
  for session in /sys/class/iscsi_session/session*; do
    [[ $(cat "$session/targetname") == "$1" ]] || continue
    for disk in "$session"/device/target*/*:*:*:"${2:-0}"/block/*; do
      [[ -e $disk ]] && { basename "$disk"; return 0; }
    done
  done
  return 1
}
