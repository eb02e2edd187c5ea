# SPDX-License-Identifier: Apache-2.0
"""What is not as docs/operate/deployment.md has it where a test carries it out, and why.

Other PoPs have addresses of their own, nothing is fetched, and systemd is not there (`machine`).
"""

import sys

# What another PoP has in place of what the guide shows for fra.
ELSEWHERE = {
    "par": {
        "fra": "par",
        "10.10.0.": "10.20.0.",
        "10.250.10.": "10.250.20.",
        "65101": "65102",
        "65201": "65202",
    },
    "ams": {
        "fra": "ams",
        "10.10.0.": "10.30.0.",
        "10.250.10.": "10.250.30.",
        "65101": "65103",
        "65201": "65203",
    },
}
# Nothing is fetched here: libraries and pip are those that the tests run with.
OFFLINE_PIP = (
    f"{sys.executable} -m pip --disable-pip-version-check --python /opt/limpet/bin/python install"
    " --no-index --no-deps"
)
OFFLINE = {
    "apt install libbpf1 iproute2 python3-venv bird2\n": "",
    "systemctl disable --now bird                  # limpet runs a BIRD of its own\n": "",
    "python3 -m venv": f"{sys.executable} -m venv --without-pip",
    "/opt/limpet/bin/pip install": OFFLINE_PIP,
    "'./limpet-0.1.0-py3-none-any.whl[cluster]'": "./*.whl",
}
# Of the whole, what is another machine's once it was made on the first.
INSTALLED = (sys.executable,)
# As Debian has them: what limpet needs else it has to set itself, or the guide has to say.
STOCK = {
    "ipv4.ip_forward": "0",
    "ipv6.conf.all.forwarding": "0",
    "ipv4.conf.all.arp_ignore": "0",
    "ipv4.conf.all.arp_announce": "0",
}
