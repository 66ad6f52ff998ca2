//! The files of a volume.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::tree::{Meta, Tree, Xattr};
use crate::error::{Error, Result};
use crate::volume::{
    Attr, Caller, FileType, OpenFlags, ROOT, Seek, SetAttr, SetTime, Volume, WriteFlags, XattrFlags,
};

/// Entries of a directory read at a time.
const PAGE: usize = 1000;

/// Everything is made as root, and then gets its owner.
const MAKER: Caller = Caller { uid: 0, gid: 0 };

/// The files below a directory of a volume. Directories are inode numbers.
pub struct Stored {
    volume: Arc<Volume>,
    root: u64,
}

/// An open file of a volume; closed when dropped.
pub struct OpenFile {
    volume: Arc<Volume>,
    ino: u64,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.volume.release(self.ino);
    }
}

impl Stored {
    /// The tree below `path`, which is taken from the root of the volume.
    pub fn new(volume: Arc<Volume>, path: &Path) -> Result<Self> {
        let mut root = ROOT;
        for name in path.as_os_str().as_bytes().split(|byte| *byte == b'/') {
            if !name.is_empty() {
                root = volume.lookup(root, name)?.ino;
            }
        }
        match volume.attr(root)?.file_type {
            FileType::Directory => Ok(Self { volume, root }),
            _ => Err(Error::NotDirectory),
        }
    }

    fn find(&self, dir: u64, name: &[u8]) -> Result<Attr> {
        self.volume.lookup(dir, name)
    }

    fn set(&self, dir: u64, name: &[u8], set: &SetAttr) -> Result<()> {
        let ino = self.find(dir, name)?.ino;
        self.volume.set_attr(ino, set).map(drop)
    }
}

impl Tree for Stored {
    type Dir = u64;
    type File = OpenFile;

    fn root(&self) -> u64 {
        self.root
    }

    fn list(&self, dir: &u64) -> Result<Vec<Vec<u8>>> {
        let (mut names, mut cookie) = (Vec::new(), 0);
        loop {
            let page = self.volume.read_dir(*dir, cookie, PAGE)?;
            let Some(last) = page.last() else { break };
            cookie = last.cookie;
            let names_of = page.into_iter().map(|entry| entry.name);
            names.extend(names_of.filter(|name| !matches!(&name[..], b"." | b"..")));
        }
        names.sort_unstable();
        Ok(names)
    }

    fn meta(&self, dir: &u64, name: &[u8]) -> Result<Option<Meta>> {
        let attr = match self.find(*dir, name) {
            Err(Error::NotFound) => return Ok(None),
            found => found?,
        };
        Ok(Some(Meta {
            file_type: attr.file_type,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            size: attr.size,
            atime: attr.atime,
            mtime: attr.mtime,
            nlink: attr.nlink.into(),
            id: (0, attr.ino),
        }))
    }

    fn enter(&self, dir: &u64, name: &[u8]) -> Result<u64> {
        let attr = self.find(*dir, name)?;
        match attr.file_type {
            FileType::Directory => Ok(attr.ino),
            _ => Err(Error::NotDirectory),
        }
    }

    fn target(&self, dir: &u64, name: &[u8]) -> Result<Vec<u8>> {
        self.volume.read_link(self.find(*dir, name)?.ino)
    }

    fn xattrs(&self, dir: &u64, name: &[u8]) -> Result<Vec<Xattr>> {
        let ino = self.find(*dir, name)?.ino;
        let names = self.volume.list_xattrs(ino, true)?;
        let names = names
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty());
        let mut found: Vec<Xattr> = names
            .map(|name| Ok((name.to_vec(), self.volume.xattr(ino, name)?)))
            .collect::<Result<_>>()?;
        found.sort_unstable();
        Ok(found)
    }

    fn flags(&self, dir: &u64, name: &[u8]) -> Result<u32> {
        Ok(self.find(*dir, name)?.flags.bits())
    }

    fn open(&self, dir: &u64, name: &[u8]) -> Result<OpenFile> {
        let ino = self.find(*dir, name)?.ino;
        self.volume.open_file(ino, OpenFlags::empty())?;
        let volume = self.volume.clone();
        Ok(OpenFile { volume, ino })
    }

    fn read(&self, file: &OpenFile, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.volume.read_file(file.ino, offset, len)
    }

    fn data(&self, file: &OpenFile, offset: u64) -> Result<Option<(u64, u64)>> {
        let start = match self.volume.seek(file.ino, offset, Seek::Data) {
            Err(Error::NoData) => return Ok(None),
            start => start?,
        };
        Ok(Some((
            start,
            self.volume.seek(file.ino, start, Seek::Hole)?,
        )))
    }

    fn make_dir(&self, dir: &u64, name: &[u8]) -> Result<()> {
        self.volume.make_dir(*dir, name, 0o700, MAKER).map(drop)
    }

    fn create(&self, dir: &u64, name: &[u8]) -> Result<OpenFile> {
        let flags = OpenFlags::WRITE | OpenFlags::EXCLUSIVE;
        let mode = libc::S_IFREG | 0o600;
        let (attr, _) = self.volume.create(*dir, name, mode, flags, MAKER)?;
        Ok(OpenFile {
            volume: self.volume.clone(),
            ino: attr.ino,
        })
    }

    fn write(&self, file: &OpenFile, offset: u64, bytes: &[u8]) -> Result<()> {
        let flags = WriteFlags::empty();
        self.volume
            .write_file(file.ino, offset, bytes, flags)
            .map(drop)
    }

    fn set_size(&self, file: &OpenFile, size: u64) -> Result<()> {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.volume.set_attr(file.ino, &set).map(drop)
    }

    fn symlink(&self, dir: &u64, name: &[u8], target: &[u8]) -> Result<()> {
        self.volume.symlink(*dir, name, target, MAKER).map(drop)
    }

    fn make_node(&self, dir: &u64, name: &[u8], meta: &Meta) -> Result<()> {
        let mode = u32::from(meta.file_type as u8) << 12 | 0o600;
        let made = self.volume.make_node(*dir, name, mode, meta.rdev, MAKER);
        made.map(drop)
    }

    fn link(&self, from: (&u64, &[u8]), to: (&u64, &[u8])) -> Result<()> {
        let ino = self.find(*from.0, from.1)?.ino;
        self.volume.link(ino, *to.0, to.1).map(drop)
    }

    fn remove(&self, dir: &u64, name: &[u8]) -> Result<()> {
        self.volume.unlink(*dir, name)
    }

    fn set_owner(&self, dir: &u64, name: &[u8], meta: &Meta) -> Result<()> {
        let set = SetAttr {
            uid: Some(meta.uid),
            gid: Some(meta.gid),
            ..SetAttr::default()
        };
        self.set(*dir, name, &set)
    }

    fn set_mode(&self, dir: &u64, name: &[u8], mode: u32) -> Result<()> {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.set(*dir, name, &set)
    }

    fn set_times(&self, dir: &u64, name: &[u8], meta: &Meta) -> Result<()> {
        let set = SetAttr {
            atime: Some(SetTime::At(meta.atime)),
            mtime: Some(SetTime::At(meta.mtime)),
            ..SetAttr::default()
        };
        self.set(*dir, name, &set)
    }

    fn set_xattr(&self, dir: &u64, name: &[u8], attr: &[u8], value: &[u8]) -> Result<()> {
        let ino = self.find(*dir, name)?.ino;
        self.volume.set_xattr(ino, attr, value, XattrFlags::empty())
    }

    fn remove_xattr(&self, dir: &u64, name: &[u8], attr: &[u8]) -> Result<()> {
        let ino = self.find(*dir, name)?.ino;
        self.volume.remove_xattr(ino, attr)
    }

    fn set_flags(&self, dir: &u64, name: &[u8], flags: u32) -> Result<()> {
        let ino = self.find(*dir, name)?.ino;
        self.volume.set_flags(ino, flags, MAKER)
    }

    fn sync(&self) -> Result<()> {
        self.volume.sync()
    }
}
