# SPDX-License-Identifier: Apache-2.0
"""MQTT: a subscription. The broker publishes a count ten times a second; none may be missed.

`mosquitto_sub` connects anew by itself when it loses its connection, without a word on its output:
then messages are missing, which is how that is noticed.
"""

from pathlib import Path

from limpet.lab.apps.application import ApplicationServer, ApplicationSession, BrokenError
from limpet.lab.apps.postgresql import is_open

PORT = 1_883
TOPIC = "count"
KEEPALIVE_S = 600  # longer than a demo: silence must not be what ends a session
PERIOD_S = 0.1
COUNTER = (
    f'i=0; while sleep {PERIOD_S}; do i=$((i + 1)); echo "$0 $i"; done '
    f"| mosquitto_pub -h 127.0.0.1 -p {PORT} -t {TOPIC} -q 1 -l"
)


class Server(ApplicationServer):
    """`mosquitto`, and a publisher beside it."""

    name = "mqtt"
    package = "mosquitto"
    program = Path("/usr/sbin/mosquitto")

    def prepare(self) -> None:
        (self.folder / "config").write_text(
            f"listener {PORT}\nallow_anonymous true\nuser root\npersistence false\n"
            "max_queued_messages 0\n"
        )

    def argvs(self) -> list[list[str]]:
        wait = (
            f"until mosquitto_pub -h 127.0.0.1 -p {PORT} -t up -n; do sleep 0.1; done 2>/dev/null; "
        )
        return [
            [str(self.program), "-c", str(self.folder / "config")],
            ["sh", "-c", wait + COUNTER, self.backend],
        ]

    def is_ready(self) -> bool:
        return is_open(PORT)


class Session(ApplicationSession):
    """`mosquitto_sub`: it says what was published, and nothing else."""

    name = "mqtt"
    _count = 0

    def argv(self, vip: str, source: str) -> list[str]:
        self._pause_s, self.account.pace_s = 0.0, PERIOD_S  # the broker sets the pace
        where = ["-h", vip, "-p", str(PORT), "-k", str(KEEPALIVE_S)]
        where += ["-A", source] if source else []
        return ["mosquitto_sub", *where, "-q", "1", "-t", TOPIC]

    def begin(self) -> None:
        pass

    def exchange(self, number: int) -> str:
        del number
        backend, _, count = (said := self.hear()).partition(" ")
        if not count.isdigit() or (self._count and int(count) != self._count + 1):
            raise BrokenError(f"after message {self._count} came: {said}")
        self._count = int(count)
        return backend
