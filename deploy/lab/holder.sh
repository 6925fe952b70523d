#!/bin/sh
# Become a lab host: runs in fresh network, mount and UTS namespaces and keeps them alive.
# usage: holder.sh FOLDER HOSTNAME CACHE
# FOLDER holds what this host has for itself: etc lib log run hosts resolv.conf
# CACHE holds what libvirt has found out about the QEMU that all hosts use
set -eu
folder=$1
hostname=$2
cache=$3

echo "$hostname" >/proc/sys/kernel/hostname
# The machine's cgroups stay out of this: in them two hosts' guests of one name would collide.
umount --recursive /sys/fs/cgroup 2>/dev/null || true
# A new one shows this namespace's links in /sys/class/net.
mount -t sysfs sysfs /sys
bind() {
    mkdir -p "$2"
    mount --bind "$1" "$2"
}
bind "$folder/etc" /etc/libvirt
bind "$folder/lib" /var/lib/libvirt
bind "$folder/log" /var/log/libvirt
bind "$cache" /var/cache/libvirt
mount --bind "$folder/hosts" /etc/hosts
# No name server can be reached from here: asking one would cost seconds. (A link ends in /run, below.)
if [ -f /etc/resolv.conf ] && [ ! -L /etc/resolv.conf ]; then
    mount --bind "$folder/resolv.conf" /etc/resolv.conf
fi
# All of it, not only /run/libvirt: the machine's D-Bus, pid files and sockets are not this host's.
bind "$folder/run" /run

# Last, so that whoever sees the holder sees a host that is complete.
echo $$ >"$folder/holder.pid"
exec tail -f "$folder/holder.pid" >/dev/null
