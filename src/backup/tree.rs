//! What both ends of a copy are: a tree of files.

use std::time::SystemTime;

use crate::error::Result;
use crate::volume::FileType;

/// What is known of a file besides its content and extended attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub file_type: FileType,
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// As Linux encodes a device in 32 bits.
    pub rdev: u32,
    pub size: u64,
    pub atime: SystemTime,
    pub mtime: SystemTime,
    /// How many names it has.
    pub nlink: u64,
    /// Device and inode: equal for the names of one file.
    pub id: (u64, u64),
}

/// An extended attribute: name and value.
pub type Xattr = (Vec<u8>, Vec<u8>);

/// A tree of files. A file is named by an open directory and a name in it,
/// where `.` is the directory itself; links are never followed, and so nothing
/// outside of the tree is ever touched.
pub trait Tree: Sync {
    type Dir: Clone + Send + Sync;
    type File;

    /// The directory that everything lies in.
    fn root(&self) -> Self::Dir;

    /// All names in a directory but `.` and `..`, sorted.
    fn list(&self, dir: &Self::Dir) -> Result<Vec<Vec<u8>>>;

    fn meta(&self, dir: &Self::Dir, name: &[u8]) -> Result<Option<Meta>>;

    fn enter(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::Dir>;

    /// The target of a symbolic link.
    fn target(&self, dir: &Self::Dir, name: &[u8]) -> Result<Vec<u8>>;

    /// Extended attributes, sorted by name.
    fn xattrs(&self, dir: &Self::Dir, name: &[u8]) -> Result<Vec<Xattr>>;

    /// The bits of `FS_IOC_GETFLAGS` that a volume knows, of a file or directory.
    fn flags(&self, dir: &Self::Dir, name: &[u8]) -> Result<u32>;

    /// Opens a regular file for reading.
    fn open(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::File>;

    /// Fewer than `len` bytes only at the end.
    fn read(&self, file: &Self::File, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// The first range at or behind `offset` that is no hole.
    fn data(&self, file: &Self::File, offset: u64) -> Result<Option<(u64, u64)>>;

    fn make_dir(&self, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    /// Makes an empty regular file and opens it for writing.
    fn create(&self, dir: &Self::Dir, name: &[u8]) -> Result<Self::File>;

    fn write(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<()>;

    fn set_size(&self, file: &Self::File, size: u64) -> Result<()>;

    fn symlink(&self, dir: &Self::Dir, name: &[u8], target: &[u8]) -> Result<()>;

    /// Makes a device node, FIFO or socket.
    fn make_node(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()>;

    /// Gives a file one more name.
    fn link(&self, from: (&Self::Dir, &[u8]), to: (&Self::Dir, &[u8])) -> Result<()>;

    /// Removes a name that is not a directory's.
    fn remove(&self, dir: &Self::Dir, name: &[u8]) -> Result<()>;

    fn set_owner(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()>;

    /// Not of symbolic links.
    fn set_mode(&self, dir: &Self::Dir, name: &[u8], mode: u32) -> Result<()>;

    fn set_times(&self, dir: &Self::Dir, name: &[u8], meta: &Meta) -> Result<()>;

    fn set_xattr(&self, dir: &Self::Dir, name: &[u8], attr: &[u8], value: &[u8]) -> Result<()>;

    fn remove_xattr(&self, dir: &Self::Dir, name: &[u8], attr: &[u8]) -> Result<()>;

    fn set_flags(&self, dir: &Self::Dir, name: &[u8], flags: u32) -> Result<()>;

    /// Everything that was written survives a power cut when this returns.
    fn sync(&self) -> Result<()>;
}
