#!/bin/bash
# site.sh ADDRESS: becomes the network of a site until its input ends. Boards, disks and links are in its namespaces.
set -euo pipefail
[ "$$" = 1 ] || { echo 'not process 1 of a pid namespace' >&2; exit 9; }
mount --make-rshared /  # within the site: a disk that is unmounted is gone from the boards that booted after it, too
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
ip link add site type bridge
ip addr add "$1/24" dev site
ip link set site up
echo ready
exec cat > /dev/null
