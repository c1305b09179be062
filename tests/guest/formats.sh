# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC1091,SC2153,SC2154
# The kernel's part of formats_test.py: reads what sectormapd wrote, and writes what it is to read.
# Runs in the guest. Environment: CHUNKS, MIRRORS, and for each of them what formats_snapshot.py and
# formats_mirror.py put there. Disks: those of the same files.
. /lib/guest.sh
export DM_DISABLE_UDEV=1

disk() {
  local model
  for model in /sys/block/sd*/device/model; do
    [[ $(tr -d ' ' <"$model") == "$1" ]] && { echo "/dev/$(basename "${model%/device/model}")"; return; }
  done
  return 1
}
disks_are_there() {
  local found=(/sys/block/sd*)
  ((${#found[@]} == $1))
}

sectors() { blockdev --getsz "$1"; }
digest() { dd if="$1" bs=1M iflag=direct 2>/dev/null | sha256sum | cut -d' ' -f1; }
equal() { [[ $1 == "$2" ]] || { echo "$1 is not $2"; return 1; }; }
reads_to() { equal "$(digest "$1")" "$2"; }

# --- snapshots ---

# What the status says behind the target's name.
status_of() { dmsetup status "$1" | cut -d' ' -f4-; }
chunk_of() { dmsetup table "$1" | cut -d' ' -f7; }
is_merged() {
  local used metadata
  read -r used metadata <<<"$(status_of m)"
  [[ ${used%/*} == "$metadata" ]]
}

# play PLAN: lines of `device sector sectors first-of-the-supply`.
play() {
  local device sector count from supply
  supply=$(disk supply)
  while read -r device sector count from; do
    dd if="$supply" of="/dev/mapper/$device" bs=32k iflag=direct,skip_bytes,count_bytes \
      oflag=direct,seek_bytes skip=$((from * 512)) seek=$((sector * 512)) count=$((count * 512)) \
      2>/run/dd.err || { cat /run/dd.err; return 1; }
  done <"$1"
}

# begin_snapshot ORIGIN STORE CHUNK
begin_snapshot() {
  local length
  length=$(sectors "$1")
  dmsetup create s --table "0 $length snapshot $1 $2 P $3" &&
    dmsetup create o --table "0 $length snapshot-origin $1"
}
end_snapshot() { dmsetup remove o && dmsetup remove s; }

# value NAME: of the environment's variable of that name.
value() { echo "${!1}"; }

check_store_of_ours() {
  local chunk=$1 origin store
  origin=$(disk "o$chunk") store=$(disk "c$chunk")
  check "chunk $chunk: the kernel takes our store, whatever chunk size its table says" \
    begin_snapshot "$origin" "$store" 32 || return
  check "chunk $chunk: it found the chunk size" equal "$(chunk_of s)" "$chunk"
  check "chunk $chunk: our snapshot reads to the same bytes" reads_to /dev/mapper/s "$(value "VIEW_$chunk")"
  check "chunk $chunk: so does the origin" reads_to /dev/mapper/o "$(value "ORIGIN_$chunk")"
  [[ -z $(value "STATUS_$chunk") ]] ||
    check "chunk $chunk: the store is as full as we said" equal "$(status_of s)" "$(value "STATUS_$chunk")"
  check "chunk $chunk: the kernel writes to both" play "/t/plan.o$chunk"
  check "chunk $chunk: the snapshot reads as it should then" reads_to /dev/mapper/s "$(value "NEXT_VIEW_$chunk")"
  check "chunk $chunk: so does the origin" reads_to /dev/mapper/o "$(value "NEXT_ORIGIN_$chunk")"
  check "chunk $chunk: remove" end_snapshot
}

check_merge_of_ours() {
  local chunk=$1 origin store
  origin=$(disk "p$chunk") store=$(disk "q$chunk")
  check "chunk $chunk: the kernel begins to merge our store" dmsetup create m --table \
    "0 $(sectors "$origin") snapshot-merge $origin $store P $chunk" || return
  check "chunk $chunk: the device is the snapshot at once" reads_to /dev/mapper/m "$(value "VIEW_$chunk")"
  check "chunk $chunk: the merge ends" wait_for 120 is_merged
  check "chunk $chunk: remove" dmsetup remove m
  check "chunk $chunk: the origin has become the snapshot" reads_to "$origin" "$(value "VIEW_$chunk")"
}

write_a_store() {
  local chunk=$1
  check "chunk $chunk: a store of the kernel's" begin_snapshot "$(disk "k$chunk")" "$(disk "l$chunk")" "$chunk" ||
    return
  check "chunk $chunk: the kernel writes to origin and snapshot" play "/t/plan.k$chunk"
  check "chunk $chunk: its snapshot reads as it should" reads_to /dev/mapper/s "$(value "KERNEL_VIEW_$chunk")"
  check "chunk $chunk: what its status says" host note "$chunk" "$(status_of s)"
  check "chunk $chunk: remove" end_snapshot
}

# --- mirrors ---

ratio() { dmsetup status m | cut -d' ' -f7; }
in_sync() { [[ $(ratio) == "$1/$1" ]]; }

# begin_mirror DISKS REGION: the second leg is suspended, so nothing can be copied.
begin_mirror() {
  local length
  length=$(value "SECTORS_$2")
  dmsetup create leg --table "0 $length linear $(disk "$1.1") 0" && dmsetup suspend leg &&
    dmsetup create m --table \
      "0 $length mirror disk 2 $(disk "$1.log") $2 2 $(disk "$1.0") 0 /dev/mapper/leg 0 1 handle_errors"
}

spread() { dd if="$(disk supply)" of=/dev/mapper/m bs=4k count=2 seek=$(($1 / 8)) oflag=direct 2>/dev/null; }
legs_agree_at() { equal "$(read_leg "$1.0" "$2" | sha256sum)" "$(read_leg "$1.1" "$2" | sha256sum)"; }
legs_differ_at() { ! legs_agree_at "$1" "$2"; }
# read_leg DISK SECTOR
read_leg() { dd if="$(disk "$1")" bs=512 skip="$2" count=64 iflag=direct 2>/dev/null; }

# check_log_of_ours clean|dirty REGION IN-SYNC
check_log_of_ours() {
  local kind=$1 region=$2 regions disks=$1$2
  regions=$(value "REGIONS_$region")
  check "region $region, $kind: the kernel takes our log" begin_mirror "$disks" "$region" || return
  check "region $region, $kind: it calls in sync what our log does" equal "$(ratio)" "$3/$regions"
  check "region $region, $kind: the second leg comes" dmsetup resume leg
  check "region $region, $kind: the rest is copied" wait_for 120 in_sync "$regions"
  check "region $region, $kind: the first leg is as it was" \
    reads_to "$(disk "$disks.0")" "$(value "DATA_${kind}_$region")"
  check "region $region, $kind: nothing more than that was copied" \
    reads_to "$(disk "$disks.1")" "$(value "TRAPPED_${kind}_$region")"
  check "region $region, $kind: a write" spread $((5 * region))
  check "region $region, $kind: remove" dmsetup remove m
  check "region $region, $kind: remove the leg" dmsetup remove leg
  check "region $region, $kind: both legs have the write" legs_agree_at "$disks" $((5 * region))
}

# log_bits DISK: the first four bytes of the bitset, as hexadecimal digits.
log_bits() { dd if="$(disk "$1")" bs=512 skip=2 count=1 iflag=direct 2>/dev/null | hexdump -n 4 -e '4/1 "%02x"'; }
has_bits() { [[ $(log_bits "$1") == "$2" ]]; }
bits() {
  local region word=$(((1 << $1) - 1))
  shift
  for region; do word=$((word & ~(1 << region))); done
  printf '%02x%02x%02x%02x' $((word & 255)) $((word >> 8 & 255)) $((word >> 16 & 255)) $((word >> 24))
}

# leave_a_log REGION: the guest ends with writes in regions 1 and 4 that one leg has and the other has not.
leave_a_log() {
  local region=$1 regions disks=kernel$1 number
  regions=$(value "REGIONS_$region")
  check "region $region: a log of the kernel's" begin_mirror "$disks" "$region" || return
  check "region $region: nothing is in sync" equal "$(ratio)" "0/$regions"
  check "region $region: the second leg comes" dmsetup resume leg
  check "region $region: the kernel copies all" wait_for 120 in_sync "$regions"
  check "region $region: all is clean" wait_for 60 has_bits "$disks.log" "$(bits "$regions")"
  check "region $region: the second leg stops" dmsetup suspend leg
  for number in 1 4; do spread $((number * region)) & done
  check "region $region: two regions are dirty" wait_for 60 has_bits "$disks.log" "$(bits "$regions" 1 4)"
  for number in 1 4; do
    check "region $region: one leg has the write to region $number" \
      wait_for 60 legs_differ_at "$disks" $((number * region))
  done
  dmsetup rename m "m$region" && dmsetup rename leg "leg$region"
}

modprobe -a virtio_scsi sd_mod dm-snapshot dm-mirror
read -ra chunks <<<"$CHUNKS"
read -ra mirrors <<<"$MIRRORS"
check "the disks appear" wait_for 60 disks_are_there $((1 + 6 * ${#chunks[@]} + 9 * ${#mirrors[@]}))
for chunk in "${chunks[@]}"; do
  check_store_of_ours "$chunk"
  check_merge_of_ours "$chunk"
  write_a_store "$chunk"
done
for region in "${mirrors[@]}"; do
  regions=$(value "REGIONS_$region")
  read -ra dirty <<<"$(value "DIRTY_$region")"
  check_log_of_ours clean "$region" "$regions"
  check_log_of_ours dirty "$region" $((regions - ${#dirty[@]}))
done
for region in "${mirrors[@]}"; do leave_a_log "$region"; done
((fails == 0)) || dmesg | tail -40
finish
