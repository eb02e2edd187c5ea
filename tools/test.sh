#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# All tests, some at a time: tools/test.sh JOBS [what pytest is to run]
#
# Most wait for real processes, networks and clocks, and share the machine with the others. What fails
# beside them is judged again with the machine for itself, and that verdict counts: running several at
# once saves time and is not to decide anything. Both verdicts are printed. More than a few that fail
# are not judged again: that is no accident.
set -eu
cd "$(dirname "$0")/.."
jobs=$1
shift
again_max=3
cache=.cache/tests
pytest=".venv/bin/python -m pytest -o cache_dir=$cache"

status=0
$pytest --cache-clear -n "$jobs" --dist loadfile --no-loadscope-reorder "$@" || status=$?
[ "$status" -eq 1 ] || exit "$status"
failed=$(.venv/bin/python -c "import json; print(*json.load(open('$cache/v/cache/lastfailed')), sep='\n')")
[ "$(echo "$failed" | wc -l)" -le "$again_max" ] || exit "$status"
echo "tests: these failed beside others (above is how), and are judged again alone:"
echo "$failed"
exec $pytest --last-failed --last-failed-no-failures none "$@"
