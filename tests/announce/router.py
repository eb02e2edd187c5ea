# SPDX-License-Identifier: Apache-2.0
"""A router for tests: a real BIRD in the namespace of a lab's router, that takes what it is told.

What it has is read by birdc, not by the code under test.
"""

import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from limpet.lab import namespace

WAIT_S = 40.0
CONFIG = """
log "{folder}/router.log" all;
router id 10.255.255.254;
protocol device {{}}
# A machine that stalls for some seconds must not look like a link that is down.
protocol bfd {{ interface "*" {{ interval 5 s; multiplier 6; }}; }}
protocol bgp d4 {{
  local as 64500;
  neighbor {director4} as 64501;
  {password}
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  bfd on;
  ipv4 {{ import all; export none; }};
}}
protocol bgp d6 {{
  local as 64500;
  neighbor {director6} as 64501;
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv6 {{ import all; export none; }};
}}
"""


@dataclass(frozen=True, slots=True)
class Received:
    """A route as the router has it."""

    via: str
    path: str
    communities: str
    med: str


class Router:
    """Runs until `stop`."""

    def __init__(self, netns: str, folder: Path, director4: str, director6: str) -> None:
        self._netns, self._folder = netns, folder
        self._directors = director4, director6
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, password: str = "") -> None:
        secret = f'password "{password}";' if password else ""
        director4, director6 = self._directors
        config = self._folder / "router.conf"
        text = CONFIG.format(
            folder=self._folder, director4=director4, director6=director6, password=secret
        )
        config.write_text(text)
        argv = ["/usr/sbin/bird", "-f", "-c", str(config), "-s", str(self._folder / "ctl")]
        with namespace.inside(self._netns):
            self._process = subprocess.Popen(argv)
        self.wait(self._answers)

    def _answers(self) -> bool:
        argv = ["/usr/sbin/birdc", "-s", str(self._folder / "ctl"), "show", "status"]
        return subprocess.run(argv, capture_output=True).returncode == 0

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            (self._folder / "ctl").unlink(missing_ok=True)

    def ask(self, command: str) -> str:
        argv = ["/usr/sbin/birdc", "-s", str(self._folder / "ctl"), *command.split()]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def routes(self) -> dict[str, Received]:
        """By prefix."""
        found = {}
        for block in re.split(r"\n(?=[0-9a-f.:]+/\d+ )", self.ask("show route all")):
            prefix = re.match(r"[0-9a-f.:]+/\d+", block)
            if prefix:
                via = re.search(r"via (\S+)", block)
                found[prefix[0]] = Received(
                    via=via[1] if via else "",
                    path=_said(block, "as_path"),
                    communities=_said(block, "community"),
                    med=_said(block, "med"),
                )
        return found

    def wait(self, condition: Callable[[], object], wait_s: float = WAIT_S) -> float:
        """Seconds until it was true."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < wait_s, self.log()
            time.sleep(0.05)
        return time.monotonic() - began

    def log(self) -> str:
        path = self._folder / "router.log"
        return path.read_text()[-3_000:] if path.exists() else "the router has said nothing"


def _said(block: str, name: str) -> str:
    match = re.search(rf"BGP\.{name}: (.*)", block)
    return match[1].strip() if match else ""
