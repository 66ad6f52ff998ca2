//! One tree of files made equal to another.
//!
//! One thread walks; many copy files, and with them decode or encode. The
//! times of directories, further names of files and flags that forbid changes
//! come last, when nothing is made any more.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use parking_lot::Mutex;
use serde::Serialize;

use super::tree::{Meta, Tree, Xattr};
use crate::error::{Error, Result};
use crate::volume::FileType;

/// Bytes of a file that are in memory at a time, for each thread.
const PIECE: usize = 1 << 20;

/// Entries that could not be copied and are described; more are only counted.
const DESCRIBED: usize = 1000;

/// How to copy.
#[derive(Clone, Debug, Default)]
pub struct CopyOptions {
    /// Files are equal if their bytes are, whatever their times say.
    pub checksum: bool,
    /// Read everything back and compare.
    pub verify: bool,
    /// Stay on the filesystem of the source's root.
    pub one_filesystem: bool,
    /// Directories that are left out, by device and inode.
    pub skip: Vec<(u64, u64)>,
    /// Files copied at a time.
    pub threads: usize,
}

/// What a copy did. The names of the fields are a promise to those who read
/// the JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    pub files: u64,
    /// Files that were there already.
    pub equal: u64,
    pub directories: u64,
    pub symlinks: u64,
    /// Device nodes, FIFOs and sockets.
    pub specials: u64,
    /// Further names of files.
    pub hard_links: u64,
    /// Bytes of the files copied; holes count.
    pub bytes: u64,
    /// Files read back and compared.
    pub verified: u64,
    /// What could not be taken along, by its kind.
    pub left_out: Vec<LeftOut>,
    /// Entries that could not be copied: at most the first thousand.
    pub failures: Vec<Failure>,
    pub failure_count: u64,
}

/// Something that the target does not have now, though all else is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    pub what: String,
    pub count: u64,
    /// One of them, and the reason.
    pub example: PathBuf,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    pub path: PathBuf,
    pub reason: String,
}

/// Bytes of the regular files below a tree; the names of one file count once.
pub fn measure<S: Tree>(from: &S) -> Result<u64> {
    let mut bytes = 0;
    let mut linked = std::collections::HashSet::new();
    let mut dirs = vec![from.root()];
    while let Some(dir) = dirs.pop() {
        // What cannot be read is reported when it is to be copied.
        for name in from.list(&dir).unwrap_or_default() {
            let Ok(Some(meta)) = from.meta(&dir, &name) else {
                continue;
            };
            match meta.file_type {
                FileType::Directory => dirs.extend(from.enter(&dir, &name).ok()),
                FileType::Regular if meta.nlink == 1 || linked.insert(meta.id) => {
                    bytes += meta.size;
                }
                _ => {}
            }
        }
    }
    Ok(bytes)
}

/// Copies everything below `from` to `to`. What is there and equal stays;
/// what is in the way and no directory is replaced; what is there only is left
/// alone. `progress` hears of the bytes of files that are done.
///
/// An entry that cannot be copied is reported and the others go on; errors are
/// those of the target as a whole, a full disk say.
pub fn copy<S: Tree, T: Tree>(
    from: &S,
    to: &T,
    options: &CopyOptions,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Copied> {
    let copier = Copier {
        from,
        to,
        options,
        progress,
        done: Mutex::default(),
        stop: AtomicBool::new(false),
        fatal: Mutex::new(None),
    };
    let mut late = Late::default();
    let threads = options.threads.max(1);
    let (sender, jobs) = crossbeam_channel::bounded(2 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (copier, jobs) = (&copier, jobs.clone());
            scope.spawn(move || copier.work(&jobs));
        }
        drop(jobs);
        copier.walk(&sender, &mut late);
        drop(sender);
    });
    copier.finish(&late);
    if let Some(error) = copier.fatal.into_inner() {
        return Err(error);
    }
    to.sync()?;
    let state = copier.done.into_inner();
    let mut done = state.copied;
    done.left_out = state.left_out.into_values().collect();
    Ok(done)
}

/// A file to be copied.
struct Job<S, T> {
    from: S,
    to: T,
    name: Vec<u8>,
    path: PathBuf,
    meta: Meta,
}

/// What is done when all files are there.
#[derive(Default)]
struct Late {
    /// Directories, each behind those that it lies in.
    directories: Vec<(PathBuf, Meta, Vec<Xattr>)>,
    /// First name and further name.
    links: Vec<(PathBuf, PathBuf)>,
}

#[derive(Default)]
struct State {
    copied: Copied,
    left_out: BTreeMap<&'static str, LeftOut>,
    /// Files and directories with flags, by path.
    flags: Vec<(PathBuf, u32)>,
}

struct Copier<'a, S, T> {
    from: &'a S,
    to: &'a T,
    options: &'a CopyOptions,
    progress: &'a (dyn Fn(u64) + Sync),
    done: Mutex<State>,
    stop: AtomicBool,
    fatal: Mutex<Option<Error>>,
}

/// Where the walk is: a directory of both trees and the names left in it.
struct Level<S, T> {
    from: S,
    to: T,
    path: PathBuf,
    names: std::vec::IntoIter<Vec<u8>>,
}

/// Errors that concern the target as a whole.
fn is_fatal(error: &Error) -> bool {
    match error {
        Error::NoSpace | Error::ReadOnly => true,
        Error::Io { source, .. } => source.raw_os_error() == Some(libc::EROFS),
        _ => false,
    }
}

/// Whether an error says that stored bytes cannot be had.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Corrupt(_) => true,
        Error::Io { source, .. } => source.raw_os_error() == Some(libc::EIO),
        _ => false,
    }
}

/// Whether an error says that the target or this user may not have it.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::NotPermitted | Error::NotSupported | Error::AccessDenied | Error::Invalid(_) => true,
        Error::Range => true,
        Error::Io { source, .. } => matches!(
            source.raw_os_error(),
            Some(
                libc::EPERM
                    | libc::EACCES
                    | libc::EOPNOTSUPP
                    | libc::ENOTTY
                    | libc::EINVAL
                    | libc::ENOSYS
                    | libc::E2BIG
                    | libc::ERANGE
            )
        ),
        _ => false,
    }
}

fn file_name(path: &Path) -> &[u8] {
    path.file_name().unwrap_or(OsStr::new(".")).as_bytes()
}

impl<S: Tree, T: Tree> Copier<'_, S, T> {
    fn fail(&self, path: &Path, error: Error) {
        if is_fatal(&error) {
            self.stop.store(true, Ordering::Relaxed);
            self.fatal.lock().get_or_insert(error);
            return;
        }
        let copied = &mut self.done.lock().copied;
        copied.failure_count += 1;
        if copied.failures.len() < DESCRIBED {
            copied.failures.push(Failure {
                path: path.into(),
                reason: error.to_string(),
            });
        }
    }

    /// Notes what is not taken along; other errors are passed on.
    fn allow(&self, what: &'static str, path: &Path, result: Result<()>) -> Result<()> {
        match result {
            Err(error) if is_refusal(&error) => {
                self.leave_out(what, path, error.to_string());
                Ok(())
            }
            result => result,
        }
    }

    fn leave_out(&self, what: &'static str, path: &Path, reason: String) {
        let left_out = &mut self.done.lock().left_out;
        let entry = left_out.entry(what).or_insert_with(|| LeftOut {
            what: what.into(),
            count: 0,
            example: path.into(),
            reason,
        });
        entry.count += 1;
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Walks the source, makes directories, links and special files, and has
    /// regular files copied.
    fn walk(&self, jobs: &Sender<Job<S::Dir, T::Dir>>, late: &mut Late) {
        let mut linked = HashMap::new();
        let root_device = match self.begin(late) {
            Ok(device) => device,
            Err(error) => return self.fail(Path::new("."), error),
        };
        let mut levels = Vec::new();
        let (from, to) = (self.from.root(), self.to.root());
        match self.level(from, to, PathBuf::new()) {
            Ok(level) => levels.push(level),
            Err(error) => self.fail(Path::new("."), error),
        }
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.next().filter(|_| !self.stopped()) else {
                levels.pop();
                continue;
            };
            let path = level.path.join(OsStr::from_bytes(&name));
            match self.entry(level, name, &path, root_device, &mut linked, jobs, late) {
                Ok(Some(deeper)) => levels.push(deeper),
                Ok(None) => {}
                Err(error) => self.fail(&path, error),
            }
        }
    }

    /// Returns the device of the source's root.
    fn begin(&self, late: &mut Late) -> Result<u64> {
        let root = self.from.root();
        let meta = self.from.meta(&root, b".")?.ok_or(Error::NotFound)?;
        let device = meta.id.0;
        let xattrs = self.from.xattrs(&root, b".")?;
        late.directories.push((PathBuf::from("."), meta, xattrs));
        Ok(device)
    }

    fn level(&self, from: S::Dir, to: T::Dir, path: PathBuf) -> Result<Level<S::Dir, T::Dir>> {
        let names = self.from.list(&from)?.into_iter();
        Ok(Level {
            from,
            to,
            path,
            names,
        })
    }

    /// One entry; a directory is returned to be walked next.
    #[allow(clippy::too_many_arguments)]
    fn entry(
        &self,
        level: &Level<S::Dir, T::Dir>,
        name: Vec<u8>,
        path: &Path,
        root_device: u64,
        linked: &mut HashMap<(u64, u64), PathBuf>,
        jobs: &Sender<Job<S::Dir, T::Dir>>,
        late: &mut Late,
    ) -> Result<Option<Level<S::Dir, T::Dir>>> {
        let Some(meta) = self.from.meta(&level.from, &name)? else {
            // Removed since the directory was read.
            return Ok(None);
        };
        if meta.file_type == FileType::Directory {
            if self.options.skip.contains(&meta.id) {
                let reason = "a copy must not contain itself".into();
                self.leave_out("the store or target of this copy", path, reason);
                return Ok(None);
            }
            if self.options.one_filesystem && meta.id.0 != root_device {
                let reason = "another filesystem".into();
                self.leave_out("mounted filesystems", path, reason);
                return Ok(None);
            }
            return self.directory(level, &name, path, meta, late).map(Some);
        }
        if meta.nlink > 1 {
            if let Some(first) = linked.get(&meta.id) {
                late.links.push((first.clone(), path.into()));
                return Ok(None);
            }
            linked.insert(meta.id, path.into());
        }
        let job = Job {
            from: level.from.clone(),
            to: level.to.clone(),
            name,
            path: path.into(),
            meta,
        };
        // The workers live until the sender is gone.
        let _ = jobs.send(job);
        Ok(None)
    }

    fn directory(
        &self,
        level: &Level<S::Dir, T::Dir>,
        name: &[u8],
        path: &Path,
        meta: Meta,
        late: &mut Late,
    ) -> Result<Level<S::Dir, T::Dir>> {
        let from = self.from.enter(&level.from, name)?;
        match self.to.meta(&level.to, name)? {
            None => self.to.make_dir(&level.to, name)?,
            Some(there) if there.file_type == FileType::Directory => {}
            Some(_) => {
                self.to.remove(&level.to, name)?;
                self.to.make_dir(&level.to, name)?;
            }
        }
        let to = self.to.enter(&level.to, name)?;
        let xattrs = self.from.xattrs(&level.from, name)?;
        let flags = self.from.flags(&level.from, name)?;
        let deeper = self.level(from, to, path.into())?;
        late.directories.push((path.into(), meta, xattrs));
        let mut state = self.done.lock();
        state.copied.directories += 1;
        if flags != 0 {
            state.flags.push((path.into(), flags));
        }
        Ok(deeper)
    }

    fn work(&self, jobs: &Receiver<Job<S::Dir, T::Dir>>) {
        for job in jobs {
            // Also when all is over: the walk waits for room in the queue.
            if self.stopped() {
                continue;
            }
            let result = match job.meta.file_type {
                FileType::Regular => self.file(&job),
                _ => self.other(&job),
            };
            if let Err(error) = result {
                self.fail(&job.path, error);
            }
        }
    }

    /// A symbolic link, device node, FIFO or socket.
    fn other(&self, job: &Job<S::Dir, T::Dir>) -> Result<()> {
        let (name, meta) = (&job.name[..], &job.meta);
        let is_link = meta.file_type == FileType::Symlink;
        let target = match is_link {
            true => self.from.target(&job.from, name)?,
            false => Vec::new(),
        };
        let there = self.to.meta(&job.to, name)?;
        let same = match &there {
            Some(there) if there.file_type == meta.file_type => match is_link {
                true => self.to.target(&job.to, name)? == target,
                false => there.rdev == meta.rdev || !is_device(meta),
            },
            _ => false,
        };
        if !same {
            self.clear(&job.to, name, there.as_ref())?;
            let made = match is_link {
                true => self.to.symlink(&job.to, name, &target),
                false => self.to.make_node(&job.to, name, meta),
            };
            match made {
                Err(error) if is_device(meta) && is_refusal(&error) => {
                    self.leave_out("device nodes", &job.path, error.to_string());
                    return Ok(());
                }
                made => made?,
            }
        }
        let xattrs = self.from.xattrs(&job.from, name)?;
        self.attributes(&job.to, name, &job.path, meta, &xattrs)?;
        let copied = &mut self.done.lock().copied;
        match is_link {
            true => copied.symlinks += 1,
            false => copied.specials += 1,
        }
        Ok(())
    }

    /// Makes room for something new.
    fn clear(&self, dir: &T::Dir, name: &[u8], there: Option<&Meta>) -> Result<()> {
        match there {
            None => Ok(()),
            Some(there) if there.file_type == FileType::Directory => Err(Error::Other(
                "a directory of this name is in the way: move it".into(),
            )),
            Some(_) => self.to.remove(dir, name),
        }
    }

    fn file(&self, job: &Job<S::Dir, T::Dir>) -> Result<()> {
        let (name, meta) = (&job.name[..], &job.meta);
        let there = self.to.meta(&job.to, name)?;
        let same_size = there
            .as_ref()
            .is_some_and(|there| there.file_type == FileType::Regular && there.size == meta.size);
        let equal = same_size
            && match self.options.checksum {
                true => self.same(job)?,
                false => there
                    .as_ref()
                    .is_some_and(|there| there.mtime == meta.mtime),
            };
        let flags = self.from.flags(&job.from, name)?;
        let xattrs = self.from.xattrs(&job.from, name)?;
        if !equal {
            self.clear(&job.to, name, there.as_ref())?;
            self.content(job)?;
        }
        self.attributes(&job.to, name, &job.path, meta, &xattrs)?;
        let verified = self.options.verify;
        if verified && !self.same(job)? {
            return Err(Error::Other(
                "what was written does not read back as it was".into(),
            ));
        }
        match self.from.meta(&job.from, name)? {
            Some(now) if (now.size, now.mtime) == (meta.size, meta.mtime) => {}
            _ => self.leave_out(
                "changes made during the copy",
                &job.path,
                "the file was written to: copy again".into(),
            ),
        }
        (self.progress)(meta.size);
        let mut state = self.done.lock();
        match equal {
            true => state.copied.equal += 1,
            false => {
                state.copied.files += 1;
                state.copied.bytes += meta.size;
            }
        }
        state.copied.verified += u64::from(verified);
        if flags != 0 {
            state.flags.push((job.path.clone(), flags));
        }
        Ok(())
    }

    fn content(&self, job: &Job<S::Dir, T::Dir>) -> Result<()> {
        let source = self.from.open(&job.from, &job.name)?;
        let target = self.to.create(&job.to, &job.name)?;
        let mut at = 0;
        let mut length = job.meta.size;
        while let Some((start, end)) = self.from.data(&source, at)? {
            at = start;
            while at < end && !self.stopped() {
                let piece = PIECE - (at % PIECE as u64) as usize;
                let wanted = piece.min((end - at) as usize);
                let bytes = self.from.read(&source, at, wanted)?;
                if bytes.is_empty() {
                    break;
                }
                self.to.write(&target, at, &bytes)?;
                at += bytes.len() as u64;
            }
            if at < end {
                // It has become shorter.
                break;
            }
            length = length.max(end);
        }
        self.to.set_size(&target, length)
    }

    /// Whether a file of both trees has the same bytes; holes are zeros. What
    /// cannot be read in the target is not the same, so that a copy heals it.
    fn same(&self, job: &Job<S::Dir, T::Dir>) -> Result<bool> {
        let source = self.from.open(&job.from, &job.name)?;
        let target = self.to.open(&job.to, &job.name)?;
        let mut at = 0;
        loop {
            let ranges = [self.from.data(&source, at)?, self.to.data(&target, at)?];
            let Some((start, end)) = ranges.into_iter().flatten().min() else {
                return Ok(true);
            };
            at = start;
            while at < end {
                let wanted = PIECE.min((end - at) as usize);
                let ours = self.from.read(&source, at, wanted)?;
                let theirs = match self.to.read(&target, at, wanted) {
                    Err(error) if is_damage(&error) => return Ok(false),
                    read => read?,
                };
                if ours != theirs {
                    return Ok(false);
                }
                if ours.is_empty() {
                    return Ok(true);
                }
                at += ours.len() as u64;
            }
        }
    }

    /// Owner, permissions, extended attributes and times, as far as they
    /// differ.
    fn attributes(
        &self,
        dir: &T::Dir,
        name: &[u8],
        path: &Path,
        meta: &Meta,
        xattrs: &[Xattr],
    ) -> Result<()> {
        let there = self.to.meta(dir, name)?.ok_or(Error::NotFound)?;
        let owner = (there.uid, there.gid) != (meta.uid, meta.gid);
        if owner {
            self.allow("owners", path, self.to.set_owner(dir, name, meta))?;
        }
        self.extended(dir, name, path, xattrs)?;
        // A change of owner may have dropped bits.
        if meta.file_type != FileType::Symlink && (owner || there.mode != meta.mode) {
            self.allow("permissions", path, self.to.set_mode(dir, name, meta.mode))?;
        }
        if there.mtime != meta.mtime || there.atime != meta.atime {
            self.allow("times", path, self.to.set_times(dir, name, meta))?;
        }
        Ok(())
    }

    fn extended(&self, dir: &T::Dir, name: &[u8], path: &Path, xattrs: &[Xattr]) -> Result<()> {
        let there = self.to.xattrs(dir, name)?;
        for (attr, value) in xattrs {
            if there.iter().any(|(a, v)| (a, v) == (attr, value)) {
                continue;
            }
            // Labels of the security system belong to the machine.
            let what = match attr.split(|byte| *byte == b'.').next() {
                Some(b"user") => "extended attributes user.*",
                Some(b"trusted") => "extended attributes trusted.*",
                Some(b"security") => "extended attributes security.*",
                _ => "access control lists and other system attributes",
            };
            self.allow(what, path, self.to.set_xattr(dir, name, attr, value))?;
        }
        for (attr, _) in there {
            if attr.starts_with(b"user.") && !xattrs.iter().any(|(a, _)| *a == attr) {
                self.to.remove_xattr(dir, name, &attr)?;
            }
        }
        Ok(())
    }

    /// What can be done only when everything is there.
    fn finish(&self, late: &Late) {
        for (first, path) in &late.links {
            if self.stopped() {
                return;
            }
            match self.link(first, path) {
                Ok(()) => self.done.lock().copied.hard_links += 1,
                Err(error) => self.fail(path, error),
            }
        }
        // Those that lie deeper first: nothing is touched after its times are set.
        for (path, meta, xattrs) in late.directories.iter().rev() {
            if self.stopped() {
                return;
            }
            let set = self
                .parent(path)
                .and_then(|dir| self.attributes(&dir, file_name(path), path, meta, xattrs));
            if let Err(error) = set {
                self.fail(path, error);
            }
        }
        let flags = std::mem::take(&mut self.done.lock().flags);
        for (path, flags) in flags.iter().rev() {
            let set = self.parent(path).and_then(|dir| {
                let name = file_name(path);
                match self.to.flags(&dir, name)? == *flags {
                    true => Ok(()),
                    false => {
                        let set = self.to.set_flags(&dir, name, *flags);
                        self.allow("flags of chattr", path, set)
                    }
                }
            });
            if let Err(error) = set {
                self.fail(path, error);
            }
        }
    }

    fn link(&self, first: &Path, path: &Path) -> Result<()> {
        let (from, to) = (self.parent(first)?, self.parent(path)?);
        let (first, name) = (file_name(first), file_name(path));
        // The first name may be missing: its failure has been reported.
        let source = self.to.meta(&from, first)?.ok_or(Error::NotFound)?;
        let there = self.to.meta(&to, name)?;
        if there.as_ref().is_some_and(|there| there.id == source.id) {
            return Ok(());
        }
        self.clear(&to, name, there.as_ref())?;
        self.to.link((&from, first), (&to, name))
    }

    /// The directory of the target that holds `path`.
    fn parent(&self, path: &Path) -> Result<T::Dir> {
        let mut dir = self.to.root();
        for name in path.parent().into_iter().flat_map(Path::iter) {
            dir = self.to.enter(&dir, name.as_bytes())?;
        }
        Ok(dir)
    }
}

fn is_device(meta: &Meta) -> bool {
    matches!(meta.file_type, FileType::CharDevice | FileType::BlockDevice)
}
