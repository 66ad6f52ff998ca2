# What the commands of this directory share: a store of their own, mounted on
# a directory of their own, and taken away at the end. To be sourced.
#
#   usage         prints the comment at the head of the command
#   have PROGRAM PACKAGE   or ends, saying what is missing
#   begin         makes $work, with the store $store and the directory $dir
#   mount [ARGUMENT...], umount
#   drain_on, drain_off    has chunks coded all the time, or no more
#   verdict TEXT  the last line of a command that found nothing wrong
set -euo pipefail
suites=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$suites/../.." && pwd)
name=$(basename "$0")
bin=${LACONICFS:-$root/target/debug/laconicfs}
started=$SECONDS

usage() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit "${1:-0}"
}

# Ends well: a machine that lacks something is no failure of ours.
skip() {
    echo "skipped $name: $*"
    exit 0
}

have() {
    command -v "$1" >/dev/null || skip "$1 is not installed ($2)"
}

verdict() {
    echo "$name: passed: $* ($((SECONDS - started)) s)"
}

fail() {
    echo "$name: FAILED: $*" >&2
    exit 1
}

can_mount() {
    [[ $(id -u) == 0 ]] || skip "mounting for other users needs root"
    [[ -r /dev/fuse && -w /dev/fuse ]] || skip "/dev/fuse is missing or may not be opened (install fuse3; in a container, pass the device in)"
    [[ -x $bin ]] || fail "$bin is missing: run cargo build, or name the program in \$LACONICFS"
}

drainer=
begin() {
    can_mount
    work=$(mktemp -d -t "laconicfs-$name-XXXXXX")
    store=$work/store
    dir=$work/mnt
    mkdir "$dir"
    trap finish EXIT
    trap 'exit 130' INT TERM
}

finish() {
    local status=$?
    cd /
    drain_off
    [[ -z ${also:-} ]] || "$also" || true
    if mountpoint -q "$dir" || ! stat "$dir" >/dev/null 2>&1; then
        "$bin" umount --lazy "$dir" 2>/dev/null || true
    fi
    if [[ $status != 0 && $status != 130 && -e $store/log ]]; then
        echo "-- the end of the daemon's log:" >&2
        tail -n 20 "$store/log" >&2
    fi
    # The store is free when the daemon has ended.
    for ((i = 0; i < 100; i++)); do
        rm -rf "$work" 2>/dev/null && break
        sleep 0.1
    done
    exit "$status"
}

mkfs() { "$bin" mkfs "$store" "$@" >/dev/null; }
mount() { "$bin" mount "$store" "$dir" "$@"; }
umount() {
    cd /
    drain_off
    "$bin" umount "$dir"
}

# `fsck` where there is one, `check` before.
check() {
    local command=check
    "$bin" fsck --help >/dev/null 2>&1 && command=fsck
    "$bin" "$command" "$@" "$store"
}

drain_on() {
    (
        trap "exit 0" TERM
        while :; do
            "$bin" drain "$dir" >/dev/null 2>&1 || true
            sleep 0.5
            echo . >> "$work/drains"
        done
    ) &
    drainer=$!
}

drain_off() {
    [[ -n $drainer ]] || return 0
    kill "$drainer" 2>/dev/null || true
    wait "$drainer" 2>/dev/null || true
    drainer=
}

drains() { [[ -e $work/drains ]] && wc -l < "$work/drains" || echo 0; }
