#!/bin/bash
# own_root.sh MARK SOURCE PACKAGE PYTHON SITE [MOUNTPOINT]: boots a systemd on a copy of this root, whose writes go to memory.
#
# To be started in namespaces of its own (mount, pid, net, ipc, uts, cgroup), in a cgroup of its own. A systemd on a root
# that is shared would run the host's tmpfiles, udev and sysctl, and empty the host's /tmp: so nothing but memory is
# writable when it starts, and boot.sh refuses to start it where MARK is not at the root.
set -euo pipefail
mark=$1 source=$2 package=$3 python=$4 site=$5 base=$6
[ "$$" = 1 ] || { echo 'not process 1 of a pid namespace' >&2; exit 9; }
mount --make-rprivate /
mount -t tmpfs -o size=4g tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
root=$base/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$root"
touch "$root/$mark"
mkdir -p "$root/opt/src/protos" "$root/opt/package" "$root/opt/python" "$root/opt/site" "$root/oldroot"
cp -r "$source"/{runtime,systemd,device_profiles} "$root/opt/src"
cp -r "$source/protos/edgeqwen" "$root/opt/src/protos"
cp "$source"/tests/booted/{boot.sh,scenario.sh,hanging_daemon.py,crashing_daemon.py} "$root/opt/src"
cp -r "$package" "$root/opt/package/test.ortpackage"
mount --bind "$python" "$root/opt/python"
mount -o remount,bind,ro "$root/opt/python"
mount --bind "$site" "$root/opt/site"
mount -o remount,bind,ro "$root/opt/site"
for folder in tmp run var/log; do mount -t tmpfs tmpfs "$root/$folder"; done
chmod 1777 "$root/tmp"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
while read -r name major minor; do
    mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done <<<$'null 1 3\nzero 1 5\nfull 1 7\nrandom 1 8\nurandom 1 9\ntty 5 0'
mkdir "$root/dev/shm" "$root/dev/pts"
mount -t tmpfs tmpfs "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
cd "$root"
pivot_root . oldroot
cd /
umount -l /oldroot
exec setpriv --bounding-set -sys_time,-sys_module,-sys_rawio,-mknod,-sys_boot,-syslog,-wake_alarm --inh-caps -all \
    /bin/bash /opt/src/boot.sh "$mark"
