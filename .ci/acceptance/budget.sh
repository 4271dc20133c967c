#!/usr/bin/env bash
# What a small request costs, on the lane and on the general road, against a recorded budget: user instructions, heap
# allocations and system calls. Counts, not times: they are the same on a busy machine.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh python3 strace valgrind
PYTHONDONTWRITEBYTECODE=1 timeout 170 python3 benches/budget/count.py "$ROUNDEL"
