#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs as root inside the guest, as its only job: guest.sh TREE PYTHON STDLIB
#
# The host's file system is the guest's root, read-only. TREE gets a writable layer in memory, so
# nothing that a test writes reaches the host. Only `results` is shared for writing; the host reads
# log, release, junit.xml and status there.
#
# Source tree and Python's library are mounted once more with cache=loose (the host does not change
# them while a guest runs): the root's uncached mount makes imports three times slower.
set -eu

tree=$1 python=$2 stdlib=$3
run=/run/limpet
results=$run/results

share() { # tag, place, options
	mkdir -p "$2"
	mount -t 9p -o "version=9p2000.L,trans=virtio,access=any,msize=512000,$3" "$1" "$2"
}

share results $results rw,cache=none
exec >$results/log 2>&1 </dev/null
trap 'echo $? >$results/status; sync' EXIT
uname -r >$results/release

share stdlib "$stdlib" ro,cache=loose
share tree $run/tree ro,cache=loose
mkdir -p $run/upper $run/work $run/tmp
mount -t overlay -o lowerdir=$run/tree,upperdir=$run/upper,workdir=$run/work overlay "$tree"
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf
ip link set lo up
ulimit -l unlimited

# The kernel would load it by itself; done here, so that a guest without modules fails at once.
modprobe veth

export TMPDIR=$run/tmp HOME=$run/tmp PYTHONDONTWRITEBYTECODE=1
# pytest rewrites the assertions of all of hypothesis when it finds that plugin by itself: 15 s.
# The arguments name the plugins instead.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
mapfile -d '' -t arguments <$results/arguments
cd "$tree"
cut -d' ' -f1 /proc/uptime >$results/ready
"$python" -m pytest "${arguments[@]}"
