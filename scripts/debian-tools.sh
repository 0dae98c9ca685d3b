#!/bin/bash
# Installs the Debian packages that some tests need; without them these tests are skipped, and say why. Root only.
# None of the services among them is started or enabled: the tests start their own.
set -euo pipefail
packages=(curl docker-registry prometheus skopeo stunnel4 tinyproxy-bin)
missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --no-install-recommends "${missing[@]}"
for service in docker-registry prometheus prometheus-node-exporter stunnel4; do
    systemctl --quiet disable "$service" 2>/dev/null || true
done
