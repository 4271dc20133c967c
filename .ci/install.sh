#!/usr/bin/env bash
# Installs Debian packages that are not there yet: .ci/install.sh PACKAGE...
set -euo pipefail

missing=()
for package in "$@"; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[[ ${#missing[@]} -eq 0 ]] && exit 0

printf 'installing %s\n' "${missing[*]}"
# The lists of packages are fetched once; a stamp tells the next caller.
stamp=/run/roundel-ci-apt-updated
[[ -e "$stamp" ]] || { apt-get update -qq && touch "$stamp"; }
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
