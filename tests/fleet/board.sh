#!/bin/bash
# board.sh NAME ADDRESS ROOT FOLDER: boots a board of the site, from FOLDER/disk over the read-only ROOT.
#
# Nothing of the machine's own root is in it: systemd-nspawn gives it /tmp, /run, /dev, /proc and /sys of its own.
set -euo pipefail
name=$1 address=$2 root=$3 folder=$4
[ "$(cat /proc/1/comm)" = cat ] || { echo 'not within a site' >&2; exit 9; }
mkdir -p "/sys/fs/cgroup/$name" "$folder/mount" "$folder/root"
echo $$ > "/sys/fs/cgroup/$name/cgroup.procs"
mount -o loop "$folder/disk" "$folder/mount"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/mount/upper,workdir=$folder/mount/work" "$folder/root"
[ -e "/run/netns/$name" ] || ip netns add "$name"
mac=02:00:00:00:00:$(printf %02x "${address##*.}")  # the same at each boot, as others remember it
ip link add "to-$name" type veth peer name eth0 address "$mac" netns "$name"
ip link set "to-$name" master site up
ip -n "$name" addr add "$address/24" dev eth0
ip -n "$name" link set eth0 up
ip -n "$name" link set lo up
libraries=$(dirname "$root"/usr/lib/*/libc.so.6)
exec "$libraries"/ld-linux-*.so.* --library-path "$libraries:$libraries/systemd" "$root/usr/bin/systemd-nspawn" \
    --boot --quiet --register=no --keep-unit --machine="$name" --directory="$folder/root" --console=pipe \
    --network-namespace-path="/run/netns/$name" --resolv-conf=off --timezone=off --link-journal=no
