#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash disable=SC1091
# The guest's first process: mounts, network, then /t/run, whose output and status go to the host.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/sbin:/bin HOME=/root TERM=dumb LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mkdir -p /run/lock/iscsi
echo /sbin/modprobe >/proc/sys/kernel/modprobe
modprobe -a virtio_pci virtio_console virtio_net

ports=0
until [ -e /dev/vport0p3 ] || [ $ports -ge 100 ]; do
  ports=$((ports + 1))
  usleep 50000
done
for port in /sys/class/virtio-ports/*; do
  read -r name <"$port/name" && ln -sf "/dev/${port##*/}" "/dev/guest-$name"
done

# The portal's address is the host's 127.0.0.1, and SendTargets says so too. QEMU's user network
# takes 10.0.2.2 for it; so 127.0.0.0/8 leaves the loopback interface and goes that way.
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
for name in all eth0 lo; do
  echo 1 >/proc/sys/net/ipv4/conf/$name/route_localnet
  echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
done
ip addr del 127.0.0.1/8 dev lo
ip route add 127.0.0.0/8 via 10.0.2.2 dev eth0 src 10.0.2.15

. /t/env
(cd /root && exec bash /t/run) </dev/null >/dev/guest-out 2>&1
status=$?
[ $status = 0 ] || dmesg >/dev/guest-out
echo "exit $status" >/dev/guest-log
sync
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
sleep 60
