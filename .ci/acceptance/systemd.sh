#!/usr/bin/env bash
# The unit under a real systemd, booted in a container: start, reload, upgrade, an upgrade that fails, the watchdog, stop.
#
# No image is pulled: the base is made with debootstrap from this machine's own release. The container has the privileges that
# systemd needs to make the unit's sandbox.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${ROUNDEL:?the binary under test}"
.ci/install.sh podman runc debootstrap
# shellcheck source=.ci/acceptance/lib.sh
. .ci/acceptance/lib.sh

storage=(--root "$work/storage" --runroot "$work/runroot" --storage-driver vfs)
podman=(podman "${storage[@]}" --runtime runc)
container=roundel-systemd-$$
gone() {
    "${podman[@]}" rm --force --time 0 "$container" >/dev/null 2>&1 || true
    cleanup
}
trap gone EXIT

say "image"
release=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
debootstrap --variant=minbase --include=systemd,systemd-sysv,curl "$release" "$work/root" >"$work/debootstrap.log" 2>&1 || {
    tail -n 20 "$work/debootstrap.log"
    fail "debootstrap"
}
mkdir -p "$work/root/etc/roundel"
install -m 0755 "$ROUNDEL" "$work/root/usr/bin/roundel"
install -m 0644 conf/systemd/roundel.service "$work/root/etc/systemd/system/roundel.service"
# Its own admin listener is its backend: the container has a network of its own, and nothing else in it.
cat >"$work/root/etc/roundel/roundel.yaml" <<YAML
listeners: [{ address: 127.0.0.1:80 }]
upstreams: { web: { backends: ["127.0.0.1:9901"] } }
YAML
tar -C "$work/root" -c . | "${podman[@]}" import - localhost/systemd >/dev/null 2>&1
rm -rf "$work/root"

say "boot"
"${podman[@]}" run --detach --name "$container" --network none --systemd=always --privileged \
    --ulimit nofile=1024:4096 --ulimit nproc=1024:1024 localhost/systemd /lib/systemd/systemd >/dev/null 2>"$work/run.log" || {
    cat "$work/run.log"
    fail "the container does not run"
}
run() { "${podman[@]}" exec "$container" "$@"; }
booted() { [[ "$(run systemctl is-system-running 2>/dev/null)" =~ running|degraded ]]; }
until_true "systemd has booted" booted
property() { run systemctl show roundel --property "$1" --value; }
answers() { run curl -fsS http://127.0.0.1:80/healthz >/dev/null; }
complain() {
    run journalctl --unit roundel --no-pager --lines 40 || true
    fail "$1"
}
# This container may not raise the limit that the unit asks for.
run mkdir -p /etc/systemd/system/roundel.service.d
run sh -c 'printf "[Service]\nLimitNOFILE=%s\n" "$(ulimit -Hn)" >/etc/systemd/system/roundel.service.d/limit.conf'
run systemctl daemon-reload

say "start: it returns when the listeners are open"
run systemctl start roundel || complain "it does not start"
answers || complain "it was said to be ready"
first=$(property MainPID)
run sh -c "grep -qE '^CapEff:\s+0*400\$' /proc/$first/status" || complain "more than CAP_NET_BIND_SERVICE is in effect"
run sh -c "grep -qvE '^Uid:\s+0' /proc/$first/status" || complain "it runs as root"

say "reload"
run systemctl reload roundel || complain "it does not reload"
answers || complain "nobody serves after the reload"

say "upgrade: the new process is the main one"
run sh -c 'cp /usr/bin/roundel /usr/bin/roundel.new && mv /usr/bin/roundel.new /usr/bin/roundel'
for _ in 1 2 3; do
    before=$(property MainPID)
    run roundel upgrade -c /etc/roundel/roundel.yaml || complain "the upgrade failed"
    answers || complain "nobody serves after the upgrade"
    after=$(property MainPID)
    [[ "$before" != "$after" ]] || complain "the main process is still $before"
    [[ "$(property ActiveState)/$(property NRestarts)" == active/0 ]] || complain "systemd has restarted it"
done
run sh -c "ls /proc/$after/exe >/dev/null" || complain "the main process is gone"

say "an upgrade that fails: the old process serves on"
run sh -c 'echo "nonsense: 1" >>/etc/roundel/roundel.yaml'
! run roundel upgrade -c /etc/roundel/roundel.yaml 2>"$work/refusal" || complain "a faulty configuration serves"
sed -n 's/^/   /; 1,3p' "$work/refusal"
[[ "$(property MainPID)" == "$after" ]] || complain "the main process has changed"
answers || complain "nobody serves after the upgrade that failed"
run sed -i '/^nonsense/d' /etc/roundel/roundel.yaml

say "watchdog: a process that hangs is replaced"
run sh -c 'printf "[Service]\nWatchdogSec=2s\n" >/etc/systemd/system/roundel.service.d/watchdog.conf'
run systemctl daemon-reload
run systemctl restart roundel || complain "it does not restart"
hangs=$(property MainPID)
sleep 3
[[ "$(property MainPID)" == "$hangs" ]] || complain "a process that is well was replaced"
run roundel upgrade -c /etc/roundel/roundel.yaml || complain "the upgrade failed"
hangs=$(property MainPID)
sleep 3
[[ "$(property MainPID)" == "$hangs" ]] || complain "the watchdog does not hear of the new process"
# A shell has its own; the image need not have another.
run sh -c "kill -STOP $hangs"
replaced() { [[ "$(property MainPID)" != "$hangs" ]] && answers; }
until_true "another process serves" replaced

say "stop: it drains"
run systemctl stop roundel
[[ "$(property Result)" == success ]] || complain "it was not stopped cleanly: $(property Result)"
! answers 2>/dev/null || complain "somebody serves after the stop"
[[ -z "$(run sh -c 'ls /run/roundel 2>/dev/null')" ]] || complain "files are left in the runtime directory"

say "the journal has no complaint of systemd's about notifications"
! run journalctl --no-pager --unit roundel | grep -E 'reception only permitted|Unknown|Cannot find unit' || fail "it has"
