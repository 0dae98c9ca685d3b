# boot.sh MARK: becomes systemd, on the root that own_root.sh made, with nothing that sets a machine up, for scenario.sh.
set -euo pipefail
mark=$1
if [ ! -e "/$mark" ] || ! grep -q '^overlay / overlay' /proc/self/mounts || [ "$$" != 1 ]; then
    echo 'this root is not a copy: no systemd is started' >&2
    exit 9
fi
# An interpreter from a home folder finds its library there, which the unit does not see; this machine may have another.
echo /opt/python/lib > /etc/ld.so.conf.d/00-python.conf
ldconfig
mkdir -p /opt/edgeqwen/bin
while read -r name module function; do
    cat > "/opt/edgeqwen/bin/$name" <<PROGRAM
#!/opt/python/bin/python3 -E
import sys
sys.path[:0] = ["/opt/src", "/opt/src/protos"]
sys.path.append("/opt/site")
from $module import $function as main
main()
PROGRAM
    chmod 755 "/opt/edgeqwen/bin/$name"
done <<<$'edgeqwend runtime.daemon main\nedgeqwen edgeqwen.cli main\nservice runtime.deploy.command service'
chmod 755 /opt /opt/src/{hanging,crashing}_daemon.py

# No unit of this machine's starts but those that ours needs.
for folder in /usr/lib/systemd/system/*.wants /etc/systemd/system/*.wants /etc/tmpfiles.d /usr/lib/tmpfiles.d; do
    if [ -d "$folder" ]; then mount -t tmpfs tmpfs "$folder"; fi
done
for unit in systemd-{udevd,udev-trigger,tmpfiles-setup,tmpfiles-setup-dev,tmpfiles-clean,sysctl,modules-load}.service \
    systemd-{random-seed,remount-fs,journal-flush,logind,networkd,binfmt}.service systemd-udevd-{kernel,control}.socket \
    systemd-tmpfiles-clean.timer dev-{hugepages,mqueue}.mount sys-kernel-{debug,tracing}.mount \
    sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount getty.target; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done
# As an image may have it: the second start of a service within an hour is its last.
mkdir -p /etc/systemd/system.conf.d
printf '[Manager]\nDefaultStartLimitIntervalSec=1h\nDefaultStartLimitBurst=1\n' > /etc/systemd/system.conf.d/90-few-starts.conf
cat > /etc/systemd/system/scenario.service <<'UNIT'
[Unit]
DefaultDependencies=no
After=systemd-journald.service
[Service]
Type=oneshot
ExecStart=/bin/bash /opt/src/scenario.sh
StandardOutput=file:/tmp/output
StandardError=file:/tmp/output
UNIT
printf '[Unit]\nWants=systemd-journald.service scenario.service\n' > /etc/systemd/system/scenario.target
touch /tmp/output
tail -f /tmp/output &
exec env -i container=other "PATH=$PATH" /lib/systemd/systemd --system --unit=scenario.target --log-target=null --show-status=0
