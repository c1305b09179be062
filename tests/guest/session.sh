# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC1091,SC2154
# What Debian's kernel and open-iscsi do with a LUN, twice in one boot. Runs in the guest.
# Environment: IQN, PORTAL, SIZE_MIB (the volume's), GROWTH_MIB (what `host grow` adds each time).
. /lib/guest.sh

FILES=8        # written in each step
FILE_KIB=1024  # of each file
MOUNT=/mnt
SUMS=/run/sums
WRITER=/run/writer  # the exit status of the background writer

disk() { echo "/dev/$(iscsi_disk "$IQN" 0)"; }
disk_mib() { echo $(($(blockdev --getsize64 "$(disk)") / 1048576)); }
has_size() { [[ $(disk_mib) == "$1" ]]; }

log_in() {
  check "login" iscsiadm -m node -T "$IQN" -p "$PORTAL" --login &&
    check "the disk appears" wait_for 30 iscsi_disk "$IQN" 0
}

log_out() {
  check "logout" iscsiadm -m node -T "$IQN" -p "$PORTAL" --logout
}

use_digests() {
  local digest
  for digest in HeaderDigest DataDigest; do
    iscsiadm -m node -T "$IQN" -p "$PORTAL" -o update -n "node.conn[0].iscsi.$digest" -v CRC32C || return 1
  done
}
digests_agreed() {
  local connection
  for connection in /sys/class/iscsi_connection/connection*; do
    [[ $(cat "$connection/header_digest") == 1 && $(cat "$connection/data_digest") == 1 ]] || return 1
  done
}

# write_files NAME: FILES files on the medium, and their checksums beside it.
write_files() {
  local number file
  for ((number = 1; number <= FILES; number++)); do
    file=$1.$number
    dd if=/dev/urandom of="$MOUNT/$file" bs=64k count=$((FILE_KIB / 64)) conv=fsync 2>/dev/null || return 1
    (cd $MOUNT && sha256sum "$file") >>$SUMS || return 1
  done
}

files_are_right() { (cd $MOUNT && sha256sum -c $SUMS); }
reads_zeroes() { dd if="$(disk)" bs=1M skip="$1" count="$2" iflag=direct 2>/dev/null | cmp -n $(($2 << 20)) - /dev/zero; }
on_disk() { dd if=/dev/urandom of="$(disk)" bs=1M seek="$1" count="$2" oflag=direct; }

check_discard() {
  check "data at 8 MiB" on_disk 8 2
  check "blkdiscard of 2 MiB" blkdiscard -o $((8 << 20)) -l $((2 << 20)) "$(disk)"
  check "the discarded range reads as zeroes" reads_zeroes 8 2
}

write_in_background() {
  rm -f $WRITER
  { write_files "$1"; echo $? >$WRITER.new; mv $WRITER.new $WRITER; } &
}
writer_ended_well() { wait_for 240 test -e $WRITER && [[ $(cat $WRITER) == 0 ]]; }
connections_lost() { dmesg | grep -c 'detected conn error'; }
more_were_lost() { (($(connections_lost) > $1)); }

# The daemon dies while files are being written; nobody above the initiator may notice.
check_restart() {
  local lost
  lost=$(connections_lost)
  write_in_background "$1"
  wait_for 60 test -e "$MOUNT/$1.2"
  check "kill -9 and a new start of the daemon" host crash
  check "every write of that time ended well" writer_ended_well
  check "the initiator did lose its connection" more_were_lost "$lost"
}

check_growth() {
  check "the host grows the volume" host grow
  check "rescan" iscsiadm -m node -T "$IQN" -p "$PORTAL" --rescan
  check "the new size is seen" wait_for 30 has_size "$1"
  check "resize2fs on the mounted filesystem" resize2fs "$(disk)"
}

# round SIZE_MIB [CHECK]: everything once; CHECK is asked in the session.
round() {
  local size=$1
  : >$SUMS
  log_in || return
  check "the session is as asked for" "${2:-true}"
  check "the disk has $size MiB" has_size "$size"
  check "blkdiscard of everything" blkdiscard "$(disk)"
  check_discard
  check "mkfs.ext4" mkfs.ext4 -q -F "$(disk)"
  check "mount" mount -o discard "$(disk)" $MOUNT
  check "write files" write_files first
  check "umount" umount $MOUNT
  check "fsck" e2fsck -fn "$(disk)"
  log_out

  log_in || return
  check "mount after a new login" mount -o discard "$(disk)" $MOUNT
  check "checksums" files_are_right
  check_growth $((size + GROWTH_MIB))
  check "write files to the grown filesystem" write_files grown
  check_restart crossed
  check "checksums after the restart" files_are_right
  check "fstrim" fstrim $MOUNT
  check "umount" umount $MOUNT
  check "fsck" e2fsck -fn "$(disk)"
  check "mount" mount "$(disk)" $MOUNT
  check "checksums from the medium" files_are_right
  check "umount" umount $MOUNT
  log_out
}

no_error_in_the_log() {
  ! dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|lost .*write|Remounting filesystem read-only|Aborting journal'
}

check "iscsid starts" iscsi_start
found=$(iscsiadm -m discovery -t sendtargets -p "$PORTAL")
check "discovery names the target at its portal" grep -q "^$PORTAL,1 $IQN\$" <<<"$found"
round "$SIZE_MIB"
check "a new table while logged out: discovery again" iscsiadm -m discovery -t sendtargets -p "$PORTAL"
check "ask for header and data digests" use_digests
round $((SIZE_MIB + GROWTH_MIB)) digests_agreed
check "no error reached the kernel's log" no_error_in_the_log
((fails == 0)) || cat /run/iscsid.log
finish
