#!/bin/bash
# A mounted volume in everyday use: trees, git, sqlite, grep; before and after
# a drain, across mounts, and across a kill -9 of the daemon.
#
#   tests/smoke.sh [PROGRAM]     (target/debug/laconicfs if not given)
#
# Says what it skips and why. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
bin=$(realpath "${1:-target/debug/laconicfs}")

if [[ ! -r /dev/fuse || ! -w /dev/fuse ]]; then
    echo "skipped: /dev/fuse is missing or may not be opened (install fuse3; in a container, pass the device in)"
    exit 0
fi
[[ -x $bin ]] || { echo "$bin is missing: run cargo build first"; exit 1; }

work=$(mktemp -d -t laconicfs-smoke-XXXXXX)
store=$work/store
dir=$work/mnt
mkdir "$dir"
cleanup() {
    "$bin" umount --lazy "$dir" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
step() { printf '== %s\n' "$*"; }
have() { command -v "$1" >/dev/null || { echo "skipped: $1 is not installed"; return 1; }; }
mount() { "$bin" mount "$store" "$dir" --quiet 1 "$@"; }
umount() { cd "$root"; "$bin" umount "$dir"; }
compare() {
    diff -r --no-dereference "$work/tree" "$dir/tree"
    (cd "$dir" && sha256sum --quiet -c "$work/sums")
}

step "a tree to copy"
mkdir -p "$work/tree/src"
cp -r docs demo "$work/tree/"
cp -r src/tier src/store src/lib.rs "$work/tree/src/"
ln -s src/lib.rs "$work/tree/link"
printf 'NUL\0 and \377 invalid UTF-8\n' > "$work/tree/odd name"
: > "$work/tree/empty"
head -c 3000000 /dev/zero > "$work/tree/zeros"
head -c 300000 /dev/urandom > "$work/tree/noise"
for ((i = 0; i < 500; i++)); do echo "small file $i" > "$work/tree/small-$i"; done

step "mkfs and mount"
"$bin" mkfs "$store"
mount
[[ $(stat -f -c %T "$dir") == fuseblk || -d $dir ]]

step "cp -r, and compare"
cp -r "$work/tree" "$dir/"
(cd "$dir" && find tree -type f -print0 | xargs -0 sha256sum) > "$work/sums"
compare

step "tar"
mkdir "$dir/untarred"
tar -C "$work" -cf - tree | tar -C "$dir/untarred" -xf -
diff -r --no-dereference "$work/tree" "$dir/untarred/tree"
rm -r "$dir/untarred"

step "git"
if have git; then
    git init -q "$work/origin"
    cp -r "$work/tree/src" "$work/origin/"
    git -C "$work/origin" add -A
    git -C "$work/origin" -c user.name=x -c user.email=x@example.org commit -qm first
    git clone -q "$work/origin" "$dir/clone"
    git -C "$dir/clone" fsck --strict
    [[ -z $(git -C "$dir/clone" status --porcelain) ]]
fi

step "sqlite"
if have sqlite3; then
    for journal in delete wal; do
        sqlite3 "$dir/$journal.db" "pragma journal_mode=$journal; create table t(a integer primary key, b text);
            with recursive n(i) as (select 1 union all select i+1 from n where i < 5000)
            insert into t select i, hex(randomblob(20)) from n; update t set b = upper(b) where a % 3 = 0;" >/dev/null \
            || { [[ $journal == wal ]] && echo "skipped: no shared memory for the WAL here"; rm -f "$dir/wal.db"*; continue; }
        [[ $(sqlite3 "$dir/$journal.db" "pragma integrity_check; select count(*) from t") == $'ok\n5000' ]]
    done
fi

step "save by rename, as an editor does"
echo one > "$dir/note"
echo two > "$dir/.note.swp"
mv "$dir/.note.swp" "$dir/note"
[[ $(cat "$dir/note") == two ]]

step "grep -r"
[[ $(grep -rl "chunk" "$dir/tree/src" | sort | sed "s|$dir/||") == $(cd "$work" && grep -rl "chunk" tree/src | sort) ]]

step "unmount, mount again, compare"
umount
"$bin" check "$store"
mount
compare

step "drain, compare"
"$bin" drain "$dir"
"$bin" stat "$dir"
compare
umount
"$bin" check --scrub "$store"
mount
compare
if have git; then git -C "$dir/clone" fsck --strict; fi
if have sqlite3; then [[ $(sqlite3 "$dir/delete.db" "pragma integrity_check") == ok ]]; fi

step "a second mount of the same store"
mkdir "$work/other"
if "$bin" mount "$store" "$work/other" 2> "$work/said"; then echo "it was allowed"; exit 1; fi
cat "$work/said"

step "kill -9 while writing; what was synced is there"
for round in 1 2 3; do
    pid=$("$bin" stat --json "$dir" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
    cp -r "$work/tree/src" "$dir/synced-$round"
    # fsync of every file and directory (the kernel does not pass syncfs on).
    find "$dir/synced-$round" "$dir" -maxdepth 0 -exec sync {} +
    find "$dir/synced-$round" -exec sync {} +
    (cp -r "$work/tree" "$dir/unsynced-$round" 2>/dev/null || true) &
    copy=$!
    sleep "0.$round"
    kill -9 "$pid"
    wait "$copy" || true
    "$bin" umount --lazy "$dir"
    "$bin" check --scrub "$store"
    mount
    diff -r "$work/tree/src" "$dir/synced-$round"
    compare
    rm -rf "$dir/unsynced-$round"
done

step "SIGTERM unmounts and flushes"
echo last > "$dir/last"
pid=$("$bin" stat --json "$dir" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
kill -TERM "$pid"
for ((i = 0; i < 200; i++)); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
if kill -0 "$pid" 2>/dev/null; then echo "it did not end"; exit 1; fi

step "a copy of the store elsewhere mounts there"
cp -r "$store" "$work/copy"
store=$work/copy
mount
[[ $(cat "$dir/last") == last ]]
compare
umount
"$bin" check "$store"
echo "all fine"
