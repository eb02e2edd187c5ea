#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# From a fresh Debian 12 to .venv/bin/limpet. Says what it does; does only what is missing.
set -eu
cd "$(dirname "$0")/.."

missing=""
# curl and ping are for trying things in the lab; from bird2 on is what its routers and sessions are.
for package in libbpf1 iproute2 procps python3-venv make curl iputils-ping bird2 postgresql-15 \
    openssh-server openssh-client mosquitto mosquitto-clients nftables; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "setup: installing Debian packages:$missing"
    apt-get update -qq
    # The lab starts them where it needs them; the services that come with them are not to run.
    [ -e /usr/sbin/policy-rc.d ] || {
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    }
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

echo "setup: Python packages of requirements.lock into .venv"
[ -x .venv/bin/python ] || python3 -m venv .venv
.venv/bin/python -m pip install -qq --disable-pip-version-check -r requirements.lock
echo "setup: limpet itself into .venv"
.venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
touch .venv/.ready
