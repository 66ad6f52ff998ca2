//! Programs that people run, on a mount: before a drain, after it, and after
//! a remount.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::harness::{DEFAULT, Mount, Place, THROUGH, have, run, text};

const EVERYWHERE: [(Place, &str); 3] = [
    (Place::Memory, DEFAULT),
    (Place::Memory, THROUGH),
    (Place::Disk, DEFAULT),
];

/// A tree of a few hundred files of all sorts.
fn plant(root: &Path) {
    for d in 0..12 {
        let dir = root.join(format!("dir {d}/sub"));
        fs::create_dir_all(&dir).unwrap();
        for f in 0..20u64 {
            let seed = d * 100 + f;
            let len = [0, 1, 100, 4096, 70_000][(f % 5) as usize] + d as usize;
            fs::write(dir.join(format!("f{f}.txt")), text(seed, len)).unwrap();
        }
        symlink("f1.txt", dir.join("link")).unwrap();
        fs::hard_link(dir.join("f2.txt"), dir.join("twin")).unwrap();
        fs::set_permissions(dir.join("f3.txt"), PermissionsExt::from_mode(0o751)).unwrap();
    }
    // Bytes that do not compress.
    let noise: Vec<u8> = (0..200u64)
        .flat_map(|n| *blake3::hash(&n.to_le_bytes()).as_bytes())
        .collect();
    fs::write(root.join("noise"), noise).unwrap();
    fs::write(root.join("zeros"), vec![0; 1 << 20]).unwrap();
}

fn same(a: &Path, b: &Path) {
    run(
        Path::new("/"),
        "diff",
        &[
            "-r",
            "--no-dereference",
            a.to_str().unwrap(),
            b.to_str().unwrap(),
        ],
    );
    // Kinds, modes, owners, sizes and times as well.
    let list = |dir| {
        run(
            dir,
            "sh",
            &[
                "-c",
                "find . -mindepth 1 ! -type d -printf '%p %y %m %u %n %s %T@ %l\n' | sort",
            ],
        )
    };
    for (a, b) in list(a).lines().zip(list(b).lines()) {
        assert_eq!(a, b);
    }
}

#[test]
fn trees_come_and_go_with_cp_and_tar() {
    for (place, options) in EVERYWHERE {
        let Some(mount) = Mount::fresh_in(place, options) else {
            return;
        };
        let outside = tempfile::tempdir().unwrap();
        let tree = outside.path().join("tree");
        plant(&tree);
        run(
            outside.path(),
            "cp",
            &["-a", "tree", mount.root().to_str().unwrap()],
        );
        same(&tree, &mount.path("tree"));
        // The format that keeps times as they are.
        run(
            mount.root(),
            "tar",
            &["cf", "all.tar", "--format=posix", "tree"],
        );
        mount.drain();
        same(&tree, &mount.path("tree"));
        run(
            mount.root(),
            "sh",
            &["-c", "mkdir out && tar xpf all.tar -C out"],
        );
        same(&tree, &mount.path("out/tree"));
        let found = run(mount.root(), "grep", &["-rlF", "unchanged", "tree"]);
        let expected = run(outside.path(), "grep", &["-rlF", "unchanged", "tree"]);
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&found), sorted(&expected));

        let mount = mount.again(options);
        same(&tree, &mount.path("out/tree"));
        run(mount.root(), "rm", &["-rf", "tree", "out", "all.tar"]);
        assert_eq!(fs::read_dir(mount.root()).unwrap().count(), 0);
        mount.unmount();
    }
}

#[test]
fn git_works_and_its_store_checks_clean() {
    if !have("git") {
        return;
    }
    for (place, options) in EVERYWHERE {
        let Some(mount) = Mount::fresh_in(place, options) else {
            return;
        };
        let git = |dir: &Path, arguments: &[&str]| {
            let who = ["-c", "user.name=n", "-c", "user.email=n@example.org"];
            run(dir, "git", &[&who, arguments].concat())
        };
        let work = mount.path("work");
        fs::create_dir(&work).unwrap();
        git(&work, &["init", "-q", "."]);
        plant(&work.join("tree"));
        git(&work, &["add", "-A"]);
        git(&work, &["commit", "-qm", "first"]);
        fs::write(work.join("tree/zeros"), b"changed").unwrap();
        git(&work, &["commit", "-qam", "second"]);
        git(&work, &["checkout", "-qb", "side", "HEAD~1"]);
        fs::write(work.join("new"), text(9, 5000)).unwrap();
        git(&work, &["add", "new"]);
        git(&work, &["commit", "-qm", "third"]);
        git(&work, &["merge", "-q", "-m", "merge", "-"]);
        git(&work, &["fsck", "--full", "--strict"]);
        mount.drain();
        assert_eq!(git(&work, &["status", "--porcelain"]), "");
        git(&work, &["gc", "-q", "--prune=now"]);
        git(mount.root(), &["clone", "-q", "work", "copy"]);

        let mount = mount.again(options);
        for name in ["work", "copy"] {
            git(&mount.path(name), &["fsck", "--full", "--strict"]);
            assert_eq!(git(&mount.path(name), &["status", "--porcelain"]), "");
            assert_eq!(
                fs::read(mount.path(name).join("new")).unwrap(),
                text(9, 5000)
            );
        }
        mount.unmount();
    }
}

#[test]
fn sqlite_keeps_its_databases_with_journal_and_with_wal() {
    if !have("python3") {
        return;
    }
    const FILL: &str = "\
import sqlite3, sys
name, mode = sys.argv[1:]
one, two = (sqlite3.connect(name, isolation_level=None, timeout=60) for _ in range(2))
assert one.execute('pragma journal_mode=' + mode).fetchone()[0] == mode
one.execute('create table t (n integer primary key, s text)')
for start in range(0, 3000, 100):
    c = (one, two)[start // 100 % 2]
    c.execute('begin immediate')
    c.executemany('insert into t values (?, ?)', ((n, 'row %d ' % n * 20) for n in range(start, start + 100)))
    c.execute('rollback' if start % 500 == 0 else 'commit')
one.execute('update t set s = s || \"!\" where n % 7 = 0')
";
    const CHECK: &str = "\
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
assert c.execute('pragma integrity_check').fetchone()[0] == 'ok'
rows = c.execute('select n, s from t order by n').fetchall()
want = [(n, 'row %d ' % n * 20 + ('!' if n % 7 == 0 else '')) for n in range(3000) if n // 100 % 5]
assert rows == want, len(rows)
";
    for (place, options) in EVERYWHERE {
        let Some(mount) = Mount::fresh_in(place, options) else {
            return;
        };
        let modes = ["delete", "truncate", "persist", "wal"];
        for mode in modes {
            run(mount.root(), "python3", &["-c", FILL, mode, mode]);
            run(mount.root(), "python3", &["-c", CHECK, mode]);
        }
        mount.drain();
        for mode in modes {
            run(mount.root(), "python3", &["-c", CHECK, mode]);
        }
        let mount = mount.again(options);
        for mode in modes {
            run(mount.root(), "python3", &["-c", CHECK, mode]);
        }
        mount.unmount();
    }
}

#[test]
fn locks_are_held_between_processes() {
    if !have("python3") {
        return;
    }
    let Some(mount) = Mount::fresh(DEFAULT) else {
        return;
    };
    // Both kinds of locks, tried from a child while the parent holds them.
    const SCRIPT: &str = "\
import fcntl, os
for lock in fcntl.flock, fcntl.lockf:
    f = open('lock', 'w'); lock(f, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        g = open('lock', 'w')
        try: lock(g, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError: os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    f.close()
";
    run(mount.root(), "python3", &["-c", SCRIPT]);
    mount.unmount();
}
