//! Access control lists, as setfacl(1) and getfacl(1) use them and the kernel
//! enforces them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::harness::{DEFAULT, Mount, THROUGH, have, run};
use crate::sys;

/// What getfacl(1) says of a name in `dir`, in one line.
fn list(dir: &Path, name: &str) -> String {
    run(dir, "getfacl", &["-cn", name])
        .trim()
        .replace('\n', " ")
}

/// What a shell of user and group 1000 says to `script`.
fn as_other(dir: &Path, script: &str) -> String {
    const SWITCH: &str = "import os, sys; os.setgroups([]); os.setgid(1000); os.setuid(1000); \
                          os.execvp('sh', ['sh', '-c', sys.argv[1]])";
    run(dir, "python3", &["-c", SWITCH, script])
}

#[test]
fn lists_are_kept_obeyed_and_inherited() {
    if !["setfacl", "getfacl", "python3"].into_iter().all(have) {
        return;
    }
    for options in [DEFAULT, THROUGH] {
        let Some(mount) = Mount::fresh(options) else {
            return;
        };
        let root = mount.root();
        fs::set_permissions(root, Permissions::from_mode(0o755)).unwrap();
        let (file, dir) = (mount.path("file"), mount.path("dir"));
        fs::write(&file, b"secret").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let look = "cat file 2> /dev/null || echo no";
        assert_eq!(as_other(root, look), "no\n");
        run(root, "setfacl", &["-m", "u:1000:r", "file"]);
        assert_eq!(as_other(root, look), "secret");
        assert_eq!(
            list(root, "file"),
            "user::rw- user:1000:r-- group::--- mask::r-- other::---"
        );
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        // chmod(2) changes the mask, and with it what the user may.
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(as_other(root, look), "no\n");
        fs::set_permissions(&file, Permissions::from_mode(0o660)).unwrap();
        assert_eq!(as_other(root, look), "secret");
        run(root, "setfacl", &["-b", "file"]);
        assert_eq!(as_other(root, look), "no\n");
        assert!(sys::list_xattrs(&file).unwrap().is_empty());

        fs::create_dir(&dir).unwrap();
        run(
            root,
            "setfacl",
            &["-m", "d:u:1000:rwx,d:g::rx,d:o::-", "dir"],
        );
        run(
            root,
            "sh",
            &["-c", "umask 077; mkdir dir/sub; echo new > dir/sub/new"],
        );
        assert_eq!(
            list(root, "dir/sub/new"),
            "user::rw- user:1000:rwx #effective:rw- group::r-x #effective:r-- mask::rw- other::---"
                .replace(" #effective", "\t#effective")
        );
        assert_eq!(as_other(root, "cat dir/sub/new"), "new\n");
        assert_eq!(
            as_other(root, "echo x > dir/sub/other; cat dir/sub/other"),
            "x\n"
        );
        // Without a default list the umask counts.
        run(
            root,
            "sh",
            &["-c", "umask 027; mkdir plain; echo > plain/file"],
        );
        assert_eq!(
            fs::metadata(mount.path("plain")).unwrap().mode() & 0o777,
            0o750
        );
        assert_eq!(
            fs::metadata(mount.path("plain/file")).unwrap().mode() & 0o777,
            0o640
        );
        let refused = sys::set_xattr(&file, "system.posix_acl_access", b"\x02\0\0\0\x01", 0);
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL));

        let before = list(root, "dir");
        let mount = mount.again(options);
        assert_eq!(list(mount.root(), "dir"), before);
        mount.unmount();
    }
}

#[test]
fn without_a_kernel_that_checks_there_are_no_lists() {
    let Some(mount) = Mount::fresh("allow_other,nodefault_permissions") else {
        return;
    };
    fs::write(mount.path("file"), b"").unwrap();
    let list = [
        2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 4, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0,
        255, 255, 255, 255,
    ];
    let refused = sys::set_xattr(&mount.path("file"), "system.posix_acl_access", &list, 0);
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EOPNOTSUPP));
    mount.unmount();
}
