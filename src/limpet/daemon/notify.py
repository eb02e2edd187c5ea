# SPDX-License-Identifier: Apache-2.0
"""Notify: tells systemd what the daemon does (sd_notify); without systemd it does nothing."""

import os
import time

from sdnotify import SystemdNotifier

_systemd = SystemdNotifier()


def ready(status: str) -> None:
    _systemd.notify(f"READY=1\nSTATUS={status}")


def reloading() -> None:
    # systemd wants the time at which the reload began (Type=notify-reload).
    _systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    _systemd.notify("STOPPING=1\nSTATUS=stopping; the kernel keeps forwarding")


def status(text: str) -> None:
    _systemd.notify(f"STATUS={text}")


def alive() -> None:
    """The sign of life that the watchdog waits for."""
    _systemd.notify("WATCHDOG=1")


def watchdog_s() -> float | None:
    """How often `alive` must come, None if nobody waits for it."""
    wanted = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", "")
    if not wanted.isdigit() or (pid and pid != str(os.getpid())):
        return None
    return int(wanted) / 1e6 / 2
