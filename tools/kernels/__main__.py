# SPDX-License-Identifier: Apache-2.0
"""Command line of the kernel matrix: one guest after the other, then one table.

Ends with 0 when every kernel is good (see `report`), 1 when one is not, and the status of the error
when the matrix could not run at all.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from limpet.core.errors import LimpetError

from . import guest, provision, report

SERIES = ["6.1", "6.12"]
SELECTION = ["-m", "kernel", "tests/kernels", "tests/packets", "tests/datapath"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.kernels",
        description="Run tests on stock Debian kernels, emulated by qemu.",
    )
    add = parser.add_argument
    add("--kernel", action="append", metavar="SERIES", help=f"default: {' and '.join(SERIES)}")
    add("--timeout-s", type=float, default=900, help="limit of one guest (default: %(default)s)")
    add("--cpus", type=int, default=1, help="CPUs of a guest (default: %(default)s)")
    add("--memory", default="2G", help="memory of a guest (default: %(default)s)")
    add("--kvm", action="store_true", help="use hardware virtualisation where the host has it")
    add("--allow-skips", action="store_true", help="a skipped test is not a failure")
    add("--update", action="store_true", help="look for newer builds of the kernels")
    add("tests", nargs="*", metavar="PYTEST", help=f"default: {' '.join(SELECTION)}")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    limits = guest.Limits(options.timeout_s, options.cpus, options.memory, options.kvm)
    with provision.locked(provision.cache_dir()):
        provision.host_tools()
        vng = provision.virtme()
        kernels = [provision.kernel(s, options.update) for s in options.kernel or SERIES]
    outcomes = []
    for kernel in kernels:
        results = Path(tempfile.mkdtemp(prefix=f"limpet-kernel-{kernel.series}-"))
        provision.say(f"{kernel.series}: booting {kernel.release}, console in {results}/boot.log")
        outcomes.append(guest.boot(vng, kernel, results, options.tests or SELECTION, limits))
    if not report.show(outcomes, options.allow_skips):
        return 1
    for outcome in outcomes:
        shutil.rmtree(outcome.results)
    return 0


if __name__ == "__main__":
    signal.signal(
        signal.SIGTERM, lambda number, _: sys.exit(128 + number)
    )  # unwinds: ends the guest
    try:
        sys.exit(main())
    except LimpetError as error:
        print(f"kernels: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
