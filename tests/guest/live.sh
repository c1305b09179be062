# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC1091,SC2154
# The guest's part of live_test.py: ext4 on a LUN, a writer that verifies, snapshots that are mounted.
# Environment: PREFIX (of the targets' names), PORTAL.
. /lib/guest.sh

MOUNT=/mnt
SIDE=/side       # where snapshots are mounted
CHURN_FILES=32   # that the writer writes again and again, in place
KEEP_FILES=4     # that are written anew after each snapshot
FILE_KIB=256
CHURN=/run/churn # the checksum of each of the writer's files; none while it is being written
KEEP=/run/keep   # the checksums of the others
WRITER=/run/writer

disk() { echo "/dev/$(iscsi_disk "$PREFIX:$1" 0)"; }
log_in() {
  iscsiadm -m node -o new -T "$PREFIX:$1" -p "$PORTAL" && iscsiadm -m node -T "$PREFIX:$1" -p "$PORTAL" --login &&
    wait_for 60 iscsi_disk "$PREFIX:$1" 0
}
log_out() {
  iscsiadm -m node -T "$PREFIX:$1" -p "$PORTAL" --logout && iscsiadm -m node -o delete -T "$PREFIX:$1" -p "$PORTAL"
}

# --- the writer ---

# overwrite FILE SUM: other bytes, on the medium when it returns; then their checksum.
overwrite() {
  local new=/run/new.$BASHPID
  rm -f "$2"
  dd if=/dev/urandom of="$new" bs=64k count=$((FILE_KIB / 64)) 2>/dev/null &&
    dd if="$new" of="$MOUNT/$1" bs=64k conv=notrunc,fsync 2>/dev/null &&
    echo "$(sha256sum <"$new" | cut -d' ' -f1)  $1" >"$new.sum" && mv "$new.sum" "$2"
}

on_medium() { dd if="$MOUNT/$1" bs=64k iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1; }
verify() {
  local sum file
  read -r sum file <"$CHURN/$1"
  [[ $(on_medium "$file") == "$sum" ]]
}

write_and_verify() {
  local number rounds=0
  while [[ ! -e $WRITER.stop ]]; do
    number=$((RANDOM % CHURN_FILES))
    [[ ! -e $CHURN/$number ]] || verify $number || { echo "churn.$number is not what was written"; return 1; }
    overwrite churn.$number $CHURN/$number || { echo "churn.$number cannot be written"; return 1; }
    echo $((++rounds)) >$WRITER.new && mv $WRITER.new $WRITER.rounds
  done
}
start_writer() {
  rm -f $WRITER.*
  echo 0 >$WRITER.rounds
  { write_and_verify >$WRITER.said 2>&1; echo $? >$WRITER.status; } &
}
rounds() { cat $WRITER.rounds; }
has_rounds() { local now; now=$(rounds) && ((now >= $1)); }
writer_gets_on() {
  wait_for 240 has_rounds $(($(rounds) + 5)) || { cat $WRITER.said; return 1; }
}
writer_ended() { wait_for 240 test -e $WRITER.status && cat $WRITER.said && [[ $(cat $WRITER.status) == 0 ]]; }
end_writer() {
  touch $WRITER.stop
  check "the writer has read nothing but what it wrote" writer_ended
}

write_kept() {
  local number
  for ((number = 1; number <= KEEP_FILES; number++)); do
    overwrite keep.$number $KEEP/$number || return 1
  done
}
fill() {
  local number
  mkdir -p $CHURN $KEEP
  for ((number = 0; number < CHURN_FILES; number++)); do
    overwrite churn.$number $CHURN/$number || return 1
  done
  write_kept
}
kept_are_right() { (cd $MOUNT && cat $KEEP/* $CHURN/* | sha256sum -c); }

# --- snapshots ---

# take NAME REQUEST: files whose checksum is the same before and after are in it with that checksum.
take() {
  local name=$1 sum
  rm -rf /run/before
  cp -r $CHURN /run/before 2>/dev/null
  cp -r $KEEP "/run/keep.$name"
  check "$2 $name while files are being written" host "$2" "$name"
  cat /run/keep."$name"/* >"/run/sums.$name"
  for sum in /run/before/*; do
    cmp -s "$sum" "$CHURN/${sum##*/}" && cat "$sum" >>"/run/sums.$name"
  done
  check "the writer had files that did not change meanwhile" at_least "/run/sums.$name" $((KEEP_FILES + 1))
  check "the kept files are written anew" write_kept
  check "the writer gets on" writer_gets_on
}
at_least() { (($(wc -l <"$1") >= $2)); }

sums_are_right() { (cd "$1" && sha256sum -c "/run/sums.$2"); }

# look_at NAME: mounts the snapshot.
look_at() {
  local name=$1
  check "export of $name" host export "$name"
  check "login to $name" log_in "$name" || return
  check "$name is mounted" mount "$(disk "$name")" $SIDE
  check "$name has the files of its instant" sums_are_right $SIDE "$name"
  check "umount of $name" umount $SIDE
  check "fsck of $name" e2fsck -fn "$(disk "$name")"
  check "logout from $name" log_out "$name"
  check "unexport of $name" host unexport "$name"
}

connections_lost() { dmesg | grep -c 'detected conn error'; }
more_were_lost() { (($(connections_lost) > $1)); }
# crossing COMMAND...: the daemon dies in the middle of it.
crossing() {
  local lost
  lost=$(connections_lost)
  "$@"
  check "the initiator has lost its connection" wait_for 60 more_were_lost "$lost"
}

mount_volume() { mount "$(disk vol)" $MOUNT; }
unmount_volume() {
  check "umount" umount $MOUNT
  check "fsck" e2fsck -fn "$(disk vol)"
  check "nothing of it stays in memory" blockdev --flushbufs "$(disk vol)"
}
no_error_in_the_log() {
  ! dmesg | grep -E 'I/O error|EXT4-fs (error|warning)|lost .*write|Remounting filesystem read-only|Aborting journal'
}

mkdir $SIDE
check "iscsid starts" iscsi_start
check "login" log_in vol || finish
check "mkfs.ext4" mkfs.ext4 -q -F "$(disk vol)"
check "mount" mount_volume
check "write files" fill
start_writer

crossing take s1 create-killed
take s2 create
crossing take s3 create-killed-sometime
take s4 create
for name in s1 s2 s3 s4; do look_at $name; done

crossing check "a kill -9 in the middle of the removal of s2" host rm-killed s2 s1
check "the writer gets on" writer_gets_on
for name in s1 s3; do look_at $name; done
check "s4, the newest, is removed" host rm s4
check "s1, the oldest, is removed" host rm s1
check "s3 is left" host has-snapshots s3
check "the writer gets on" writer_gets_on
look_at s3

end_writer
check "all files are right" kept_are_right
unmount_volume
crossing check "a kill -9 in the middle of the rollback to s3" host rollback-killed s3
check "the volume is mounted at once" mount_volume
check "it has the files of s3's instant" sums_are_right $MOUNT s3
check "write files while the merge goes on" fill
check "the rollback ends by itself" host wait
check "all files are right" kept_are_right
unmount_volume

check "mount" mount_volume
start_writer
check "the writer gets on" writer_gets_on
take s5 create
check "a move" host move
check "the writer gets on" writer_gets_on
crossing check "a kill -9 twice in the middle of a move" host move-killed
check "the writer gets on" writer_gets_on
look_at s5
end_writer
check "all files are right" kept_are_right
unmount_volume
check "mount" mount_volume
check "all files on the medium are right" kept_are_right
unmount_volume
check "logout" log_out vol
check "no error reached the kernel's log" no_error_in_the_log
((fails == 0)) || cat /run/iscsid.log
finish
