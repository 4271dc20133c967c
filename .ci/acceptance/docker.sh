#!/usr/bin/env bash
# The image, built and run without an engine: read-only, not root, healthy by its own healthcheck, stopped by SIGTERM.
#
# No image is pulled. The base is made with debootstrap from this machine's own release, and the binary, which is tested
# already, is copied in (--build-arg BINARY=prebuilt); so the stage that compiles inside the image is not run here.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh buildah podman runc debootstrap curl python3
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

# Neither overlay file systems nor systemd are needed. The storage is this run's own.
storage=(--root "$work/storage" --runroot "$work/runroot" --storage-driver vfs)
podman=(podman "${storage[@]}" --runtime runc)
container=roundel-acceptance-$$
gone() {
    "${podman[@]}" rm --force "$container" >/dev/null 2>&1 || true
    cleanup
}
trap gone EXIT

say "base image"
release=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
debootstrap --variant=minbase "$release" "$work/root" >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log"
    fail "debootstrap"
}
tar -C "$work/root" -c . | "${podman[@]}" import - localhost/base >/dev/null 2>&1
rm -rf "$work/root"

say "image"
[[ "$ROUNDEL" -ef target/release/roundel ]] || fail "the image takes target/release/roundel, which is not $ROUNDEL"
buildah "${storage[@]}" bud --format docker --isolation chroot --network host \
    --build-arg RUNTIME=localhost/base --build-arg BINARY=prebuilt \
    --file docker/Dockerfile --tag localhost/roundel . >"$work/build.log" 2>&1 || {
    tail -n 40 "$work/build.log"
    fail "the image does not build"
}
"${podman[@]}" images localhost/roundel

say "run"
free 8080
backend a
a=127.0.0.1:$port
backend b
b=127.0.0.1:$port
"${podman[@]}" run --detach --name "$container" --network host --ulimit nofile=1024:4096 --ulimit nproc=1024:1024 \
    --read-only --read-only-tmpfs=false --cap-drop=all --security-opt no-new-privileges \
    --env ROUNDEL_BACKEND_1="$a" --env ROUNDEL_BACKEND_2="$b" localhost/roundel 2>/dev/null
until_true "its healthcheck succeeds" "${podman[@]}" healthcheck run "$container"

answers=$(for _ in 1 2; do curl -fsS http://127.0.0.1:8080/; done | sort | xargs)
[[ "$answers" == "a b" ]] || fail "two requests were answered by: $answers"

main=$("${podman[@]}" inspect --format '{{.State.Pid}}' "$container")
grep -qE '^Uid:\s+10001\s+10001' "/proc/$main/status" || fail "it runs as another user than 10001"
grep -qE '^CapEff:\s+0+$' "/proc/$main/status" || fail "it has capabilities"
! "${podman[@]}" exec "$container" touch /written 2>/dev/null || fail "its root file system can be written"

say "stop"
"${podman[@]}" stop --time 30 "$container" >/dev/null 2>&1
status=$("${podman[@]}" inspect --format '{{.State.ExitCode}}' "$container")
[[ "$status" -eq 0 ]] || {
    "${podman[@]}" logs --tail 20 "$container"
    fail "SIGTERM ended it with $status"
}
