#!/bin/sh
# Become a lab host: runs in fresh network, mount and UTS namespaces and keeps them alive.
# usage: holder.sh FOLDER HOSTNAME
# FOLDER holds what this host has for itself: etc lib log cache run hosts
set -eu
folder=$1
hostname=$2

echo "$hostname" >/proc/sys/kernel/hostname
# Shows this namespace's links in /sys/class/net. It also hides the machine's cgroups, so that libvirtd
# does not register guests of the same name twice with the machine's systemd.
mount -t sysfs sysfs /sys
bind() {
    mkdir -p "$2"
    mount --bind "$folder/$1" "$2"
}
bind etc /etc/libvirt
bind lib /var/lib/libvirt
bind log /var/log/libvirt
bind cache /var/cache/libvirt
mount --bind "$folder/hosts" /etc/hosts
# All of it, not only /run/libvirt: the machine's D-Bus, pid files and sockets are not this host's.
bind run /run

# Last, so that whoever sees the holder sees a host that is complete.
echo $$ >"$folder/holder.pid"
exec tail -f "$folder/holder.pid" >/dev/null
