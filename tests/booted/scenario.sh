# What is tried under the systemd that boot.sh became. `== NAME` begins what one test looks at.
service=/opt/edgeqwen/bin/service edgeqwen=/opt/edgeqwen/bin/edgeqwen
config=/etc/edgeqwen/edgeqwend.yaml override=/etc/systemd/system/edgeqwend.service.d/90-test.conf

shown() { systemctl show edgeqwend --property="ActiveState,SubState,Result,NRestarts,ExecMainStatus"; }
status() { echo "status $?"; }
ask() { timeout 60 "$edgeqwen" generate 'One, two,' --max-tokens 2 > /dev/null; }
override() { printf '[Service]\n'"$1" > "$override"; systemctl daemon-reload; systemctl restart edgeqwend; }
# Waits for a state, for as long as it takes: who waits for all of this has a limit.
until_shown() { until shown | grep -qx "$1"; do sleep 0.1; done; }

echo '== before'
"$service" status; status

echo '== installed'
mkdir -p /var/lib/edgeqwen
mv /opt/package/test.ortpackage /var/lib/edgeqwen
"$service" install --bin-dir /opt/edgeqwen/bin --package /var/lib/edgeqwen/test.ortpackage --now || journalctl --lines=50
status
"$service" status; status
ask; status
stat --format='%U %G %a' /run/edgeqwen /run/edgeqwen/edgeqwend.sock "$config" /var/lib/edgeqwen
"$edgeqwen" status --json

echo '== seen from within'
inside() { nsenter --target "$(systemctl show edgeqwend --property=MainPID --value)" --mount \
    setpriv --reuid edgeqwen --regid edgeqwen --clear-groups "$@"; }
for file in /proc/stat /proc/meminfo /proc/loadavg /proc/net/dev /proc/pressure/memory /sys/devices/system/cpu/online; do
    inside head -c 1 "$file" > /dev/null; echo "$file $?"
done
inside sh -c 'echo > /sys/kernel/mm/transparent_hugepage/enabled'; echo "write /sys $?"
inside sh -c 'echo > /etc/edgeqwen/x'; echo "write /etc $?"
printf '%s ' $(inside ls /dev)
echo

echo '== group'
useradd member; usermod -aG edgeqwen member; useradd stranger
for user in member stranger; do
    setpriv --reuid "$user" --regid "$user" --init-groups "$edgeqwen" generate 'One,' --max-tokens 1 > /dev/null
    echo "$user $?"
done

echo '== reload'
printf 'log_level: debug\nslots: 2\n' >> "$config"
systemctl reload edgeqwend; status
until journalctl --unit=edgeqwend --output=cat | grep reloaded; do sleep 0.1; done
shown

echo '== reload of a faulty file'
cp "$config" /tmp/good.yaml
printf 'queue_limit: 0\ndrain_timeout_s: -1\n' >> "$config"
systemctl reload edgeqwend; status
shown
ask; status

echo '== start with a faulty file'
systemctl restart edgeqwend; status
shown
"$service" status; status
cp /tmp/good.yaml "$config"

echo '== killed'
override 'RestartSec=1\n'
systemctl kill --signal=KILL edgeqwend
until_shown NRestarts=1
until_shown ActiveState=active
ask; status

echo '== hung'
override 'RestartSec=600\nWatchdogSec=2\nExecStart=\nExecStart=/opt/src/hanging_daemon.py --config /etc/edgeqwen/edgeqwend.yaml --log-format json --stall-timeout-s 1\n'
timeout 120 "$edgeqwen" generate 'One, two,' --max-tokens 40 --ignore-eos > /dev/null; status
until_shown SubState=auto-restart
shown
"$service" status
journalctl --unit=edgeqwend --output=cat --lines=200
systemctl stop edgeqwend
rm "$override"

echo '== a package that crashes at each start'
versions=(1.0.0 2.0.0)
for version in "${versions[@]}"; do
    cp -r /var/lib/edgeqwen/test.ortpackage "/tmp/$version.ortpackage"
    sed -i "s/^ \"version\": .*/ \"version\": \"$version\",/" /tmp/"$version".ortpackage/models/decoder/*/build.json
done
rm "$config"
"$service" install --bin-dir /opt/edgeqwen/bin --store > /dev/null; status
"$edgeqwen" install /tmp/1.0.0.ortpackage --allow-unsigned --activate; status
"$edgeqwen" commit; status
"$edgeqwen" install /tmp/2.0.0.ortpackage --allow-unsigned --activate; status
override 'RestartSec=100ms\nRestartSteps=0\nExecStart=\nExecStart=/opt/src/crashing_daemon.py --config /etc/edgeqwen/edgeqwend.yaml --log-format json\n'
until shown | grep -qxE 'SubState=(running|failed)'; do sleep 0.1; done
shown
ask; status
"$edgeqwen" history --json
rm "$override"

echo '== uninstalled'
"$service" uninstall; status
"$service" uninstall; status
ls -d "$config" /var/lib/edgeqwen/test.ortpackage /etc/systemd/system/edgeqwend* /usr/local/bin/edgeqwend
"$service" uninstall --purge; status
ls -d /etc/edgeqwen /var/lib/edgeqwen
echo '== end'
