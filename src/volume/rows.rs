//! The volume's rows, as `docs/format-volume.md` describes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::codec::Policy;
use crate::error::{Error, Result};

use super::types::{FileType, InodeFlags, NAME_MAX, Totals};
use crate::tier::{base_of, space_of};

/// Name of the `Meta` row that is there while the volume is rolled back.
pub const ROLL_BACK: &[u8] = b"v.rollback";

/// What names of the `Meta` rows of snapshots begin with.
const SNAPSHOT: &[u8] = b"v.snapshot.";

/// Name of the `Meta` row with [`Counters`]; its presence makes a volume.
pub const VOLUME: &[u8] = b"v.volume";

/// The format of every row but that of a [`LONG`] file.
const VERSION: u8 = 1;

/// Bits of an inode's flags that say how its chunks shall be coded: 0, or the
/// policy's number and 1.
const POLICY_SHIFT: u32 = 24;
const POLICY_BITS: u32 = 0xf << POLICY_SHIFT;

/// A row of the same shape for an inode that is longer than [`LONG`], which
/// programs that know only the first version must not read: chunks beyond have
/// keys that mean nothing to them.
const VERSION_LONG: u8 = 2;

/// What every chunk size allowed before there were such keys.
const LONG: u64 = 1 << 49;

/// Bits of a cookie that tell apart names with the same hash.
const SAME_HASH_BITS: u32 = 7;

/// Most names of a directory with the same hash (56 bits of BLAKE3).
pub const SAME_HASH: usize = 1 << SAME_HASH_BITS;

/// The first cookie that entries can have; `.` and `..` take 1 and 2.
pub const FIRST_COOKIE: u64 = 3;

/// A moment. Ordered in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Since 1970; the fraction counts forward even before it.
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl From<SystemTime> for Stamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
                nanoseconds: since.subsec_nanos(),
            },
            Err(error) => {
                let before = error.duration();
                let whole = before.subsec_nanos() == 0;
                let seconds = before.as_secs().saturating_add(u64::from(!whole));
                Self {
                    seconds: 0i64.saturating_sub_unsigned(seconds),
                    nanoseconds: (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000,
                }
            }
        }
    }
}

impl From<Stamp> for SystemTime {
    fn from(stamp: Stamp) -> Self {
        let seconds = Duration::from_secs(stamp.seconds.unsigned_abs());
        let whole = match stamp.seconds < 0 {
            true => UNIX_EPOCH.checked_sub(seconds),
            false => UNIX_EPOCH.checked_add(seconds),
        };
        let fraction = Duration::from_nanos(stamp.nanoseconds.into());
        whole
            .and_then(|whole| whole.checked_add(fraction))
            .unwrap_or(UNIX_EPOCH)
    }
}

/// A row of `Inode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub file_type: FileType,
    /// Without the type bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub flags: InodeFlags,
    /// How its chunks shall be coded, or those of what is made in it; `None`
    /// where nobody has said.
    pub policy: Option<Policy>,
    /// How many extended attributes there are, `user.laconicfs.codec` not
    /// counted.
    pub xattrs: u32,
    /// Bytes of a file or link target; entries of a directory.
    pub size: u64,
    /// Stored chunks.
    pub chunks: u64,
    /// Of a directory; 0 for others.
    pub parent: u64,
    pub atime: Stamp,
    pub mtime: Stamp,
    pub ctime: Stamp,
    pub crtime: Stamp,
    /// Of a symbolic link; empty for others.
    pub target: Vec<u8>,
}

impl Inode {
    /// With one link, or two for a directory, and all times `now`.
    pub fn new(file_type: FileType, mode: u32, uid: u32, gid: u32, now: Stamp) -> Self {
        Self {
            file_type,
            mode: mode & 0o7777,
            uid,
            gid,
            nlink: match file_type {
                FileType::Directory => 2,
                _ => 1,
            },
            rdev: 0,
            flags: InodeFlags::empty(),
            policy: None,
            xattrs: 0,
            size: 0,
            chunks: 0,
            parent: 0,
            atime: now,
            mtime: now,
            ctime: now,
            crtime: now,
            target: Vec::new(),
        }
    }

    /// A file, or a directory where files may be made: what a policy is about.
    pub fn has_content(&self) -> bool {
        matches!(self.file_type, FileType::Regular | FileType::Directory)
    }

    pub fn is_dir(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(100 + self.target.len());
        let version = match self.size > LONG {
            true => VERSION_LONG,
            false => VERSION,
        };
        row.extend_from_slice(&[version, self.file_type as u8]);
        row.extend_from_slice(&(self.mode as u16).to_be_bytes());
        let policy = self.policy.map_or(0, |policy| policy as u32 + 1);
        let words = [
            self.uid,
            self.gid,
            self.nlink,
            self.rdev,
            self.flags.bits() & !POLICY_BITS | policy << POLICY_SHIFT,
            self.xattrs,
        ];
        for word in words {
            row.extend_from_slice(&word.to_be_bytes());
        }
        for word in [self.size, self.chunks, self.parent] {
            row.extend_from_slice(&word.to_be_bytes());
        }
        for stamp in [self.atime, self.mtime, self.ctime, self.crtime] {
            row.extend_from_slice(&stamp.seconds.to_be_bytes());
            row.extend_from_slice(&stamp.nanoseconds.to_be_bytes());
        }
        row.extend_from_slice(&self.target);
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let (mut row, _) = Fields::versioned("an inode", row, VERSION_LONG)?;
        let code = row.u8()?;
        let file_type = FileType::from_code(code).ok_or_else(|| row.damaged())?;
        let (mode, uid, gid) = (row.u16()?.into(), row.u32()?, row.u32()?);
        let (nlink, rdev, flags) = (row.u32()?, row.u32()?, row.u32()?);
        let policy = match ((flags & POLICY_BITS) >> POLICY_SHIFT) as u8 {
            0 => None,
            // What a newer program wants of a file matters to nobody who reads it.
            code => Policy::from_code(code - 1),
        };
        let inode = Self {
            file_type,
            mode,
            uid,
            gid,
            nlink,
            rdev,
            flags: InodeFlags::from_bits_retain(flags & !POLICY_BITS),
            policy,
            xattrs: row.u32()?,
            size: row.u64()?,
            chunks: row.u64()?,
            parent: row.u64()?,
            atime: row.stamp()?,
            mtime: row.stamp()?,
            ctime: row.stamp()?,
            crtime: row.stamp()?,
            target: row.rest.to_vec(),
        };
        let link = file_type == FileType::Symlink;
        match link && inode.target.len() as u64 == inode.size || !link && inode.target.is_empty() {
            true => Ok(inode),
            false => Err(row.damaged()),
        }
    }
}

pub fn inode_key(ino: u64) -> [u8; 8] {
    ino.to_be_bytes()
}

/// The inode number that a key consists of or begins with.
pub fn parse_ino(key: &[u8]) -> Result<u64> {
    match key.first_chunk() {
        Some(ino) => Ok(u64::from_be_bytes(*ino)),
        None => Err(Error::Corrupt("a key is too short".into())),
    }
}

/// The row of an `Orphan`.
pub const ORPHAN: &[u8] = &[VERSION];

/// What a row of `Dirent` says, key included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent {
    pub cookie: u64,
    pub name: Vec<u8>,
    pub ino: u64,
    pub file_type: FileType,
}

/// The cookies that a name may have: [`SAME_HASH`] from this one on.
pub fn first_cookie(name: &[u8]) -> u64 {
    let hash = blake3::hash(name);
    let mut word = [0; 8];
    word.copy_from_slice(&hash.as_bytes()[..8]);
    let hash = u64::from_be_bytes(word) >> 8;
    // 0 belongs to `.` and `..`.
    hash.max(1) << SAME_HASH_BITS
}

/// Where the entries of a directory from a cookie on are.
pub fn dirent_place(parent: u64, cookie: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(16 + NAME_MAX);
    key.extend_from_slice(&parent.to_be_bytes());
    key.extend_from_slice(&cookie.to_be_bytes());
    key
}

pub fn dirent_key(parent: u64, cookie: u64, name: &[u8]) -> Vec<u8> {
    let mut key = dirent_place(parent, cookie);
    key.extend_from_slice(name);
    key
}

pub fn dirent_row(ino: u64, file_type: FileType) -> Vec<u8> {
    let mut row = vec![VERSION, file_type as u8];
    row.extend_from_slice(&ino.to_be_bytes());
    row
}

impl Dirent {
    /// In a snapshot's space, the number of the inode is moved there too.
    pub fn decode(key: &[u8], row: &[u8]) -> Result<Self> {
        let mut row = Fields::new("a directory entry", row)?;
        let code = row.u8()?;
        let file_type = FileType::from_code(code).ok_or_else(|| row.damaged())?;
        let ino = row.u64()?;
        let base = parse_ino(key).map_or(0, |parent| base_of(space_of(parent)));
        let ino = ino.checked_add(base).ok_or_else(|| row.damaged())?;
        match key.split_at_checked(16) {
            Some((place, name)) if row.rest.is_empty() => Ok(Self {
                cookie: parse_ino(&place[8..])?,
                name: name.to_vec(),
                ino,
                file_type,
            }),
            _ => Err(row.damaged()),
        }
    }
}

/// What a row of `Xattr` has before the value.
pub const XATTR_PREFIX: &[u8] = &[VERSION];

pub fn xattr_key(ino: u64, name: &[u8]) -> Vec<u8> {
    [&ino.to_be_bytes(), name].concat()
}

/// The next inode number, and what all inodes add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    pub next_ino: u64,
    pub totals: Totals,
    /// The next space to give to a snapshot; 0 if there never was one.
    pub next_space: u32,
}

/// The version of the counters' row once there was a snapshot: programs that
/// do not know of snapshots must not change the volume any more.
const WITH_SNAPSHOTS: u8 = 2;

impl Counters {
    pub fn encode(&self) -> Vec<u8> {
        let totals = &self.totals;
        let version = match self.next_space {
            0 => VERSION,
            _ => WITH_SNAPSHOTS,
        };
        let mut row = vec![version];
        for word in [
            self.next_ino,
            totals.files,
            totals.directories,
            totals.others,
            totals.bytes,
        ] {
            row.extend_from_slice(&word.to_be_bytes());
        }
        if self.next_space > 0 {
            row.extend_from_slice(&self.next_space.to_be_bytes());
        }
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let (mut row, version) = Fields::versioned("the volume", row, WITH_SNAPSHOTS)?;
        let mut counters = Self {
            next_ino: row.u64()?,
            totals: Totals {
                files: row.u64()?,
                directories: row.u64()?,
                others: row.u64()?,
                bytes: row.u64()?,
            },
            next_space: 0,
        };
        if version == WITH_SNAPSHOTS {
            counters.next_space = row.u32()?;
        }
        match row.rest.is_empty() {
            true => Ok(counters),
            false => Err(row.damaged()),
        }
    }

    /// Counts an inode in (`1`) or out (`-1`).
    pub fn count(&mut self, inode: &Inode, change: i64) {
        let totals = &mut self.totals;
        let kind = match inode.file_type {
            FileType::Regular => {
                // Modulo 2^64: two sparse files can be longer than that.
                let bytes = inode.size.wrapping_mul(change as u64);
                totals.bytes = totals.bytes.wrapping_add(bytes);
                &mut totals.files
            }
            FileType::Directory => &mut totals.directories,
            _ => &mut totals.others,
        };
        *kind = kind.wrapping_add_signed(change);
    }
}

/// How far a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SnapshotState {
    /// Rows are being copied; removed when the volume is opened again.
    Making = 0,
    Whole = 1,
    /// Rows are being removed.
    Removing = 2,
    /// Rows come from a stream; waits for the rest of it.
    Receiving = 3,
}

/// A row of `Meta` that describes a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRow {
    pub state: SnapshotState,
    pub created: Stamp,
    /// Drawn when it was made.
    pub id: [u8; 16],
    pub totals: Totals,
    pub name: String,
    /// How far a stream has been received: table and key of its last row.
    pub received: Option<(u8, Vec<u8>)>,
}

pub fn snapshot_key(space: u32) -> Vec<u8> {
    [SNAPSHOT, &space.to_be_bytes()].concat()
}

/// The inverse of [`snapshot_key`].
pub fn parse_snapshot_key(key: &[u8]) -> Result<u32> {
    match key.strip_prefix(SNAPSHOT).map(<[u8; 4]>::try_from) {
        Some(Ok(space)) => Ok(u32::from_be_bytes(space)),
        _ => Err(Error::Corrupt("the key of a snapshot is malformed".into())),
    }
}

/// The row of [`ROLL_BACK`]: the space that the volume shall equal.
pub fn roll_back_row(space: u32) -> Vec<u8> {
    [&[VERSION][..], &space.to_be_bytes()].concat()
}

/// The inverse of [`roll_back_row`].
pub fn parse_roll_back(row: &[u8]) -> Result<u32> {
    let mut row = Fields::new("a roll back", row)?;
    row.u32()
}

impl SnapshotRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut row = vec![VERSION, self.state as u8];
        row.extend_from_slice(&self.created.seconds.to_be_bytes());
        row.extend_from_slice(&self.created.nanoseconds.to_be_bytes());
        row.extend_from_slice(&self.id);
        let Totals {
            files,
            directories,
            others,
            bytes,
        } = self.totals;
        for word in [files, directories, others, bytes] {
            row.extend_from_slice(&word.to_be_bytes());
        }
        // Checked where it was given: 200 bytes at most.
        row.push(self.name.len() as u8);
        row.extend_from_slice(self.name.as_bytes());
        if let Some((table, key)) = &self.received {
            row.push(*table);
            row.extend_from_slice(key);
        }
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self> {
        let mut row = Fields::new("a snapshot", row)?;
        let state = match row.u8()? {
            0 => SnapshotState::Making,
            1 => SnapshotState::Whole,
            2 => SnapshotState::Removing,
            3 => SnapshotState::Receiving,
            _ => return Err(row.damaged()),
        };
        let (created, id) = (row.stamp()?, row.take()?);
        let totals = Totals {
            files: row.u64()?,
            directories: row.u64()?,
            others: row.u64()?,
            bytes: row.u64()?,
        };
        let len = usize::from(row.u8()?);
        let (name, rest) = row
            .rest
            .split_at_checked(len)
            .ok_or_else(|| row.damaged())?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| row.damaged())?;
        let received = rest
            .split_first()
            .map(|(table, key)| (*table, key.to_vec()));
        Ok(Self {
            state,
            created,
            id,
            totals,
            name,
            received,
        })
    }
}

/// The fields of a row, from its front.
struct Fields<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Checks and takes the version.
    fn new(what: &'static str, rest: &'a [u8]) -> Result<Self> {
        Self::versioned(what, rest, VERSION).map(|(row, _)| row)
    }

    /// The same where versions up to `known` are, and which one it is.
    fn versioned(what: &'static str, rest: &'a [u8], known: u8) -> Result<(Self, u8)> {
        let mut row = Self { what, rest };
        match row.u8()? {
            0 => Err(row.damaged()),
            found if found <= known => Ok((row, found)),
            found => Err(Error::NewerFormat {
                what: what.into(),
                found: found.into(),
                known: known.into(),
            }),
        }
    }

    fn damaged(&self) -> Error {
        Error::Corrupt(format!("the row of {} is malformed", self.what))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn stamp(&mut self) -> Result<Stamp> {
        let stamp = Stamp {
            seconds: self.take().map(i64::from_be_bytes)?,
            nanoseconds: self.u32()?,
        };
        match stamp.nanoseconds < 1_000_000_000 {
            true => Ok(stamp),
            false => Err(self.damaged()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(seconds: i64, nanoseconds: u32) -> Stamp {
        Stamp {
            seconds,
            nanoseconds,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The rows of version 1, as they must be read for ever.
    #[test]
    fn rows_of_version_1() {
        let inode = Inode {
            file_type: FileType::Symlink,
            mode: 0o7654,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 4,
            flags: InodeFlags::NOATIME,
            policy: None,
            xattrs: 5,
            size: 2,
            chunks: 6,
            parent: 7,
            atime: stamp(8, 9),
            mtime: stamp(-10, 11),
            ctime: stamp(12, 13),
            crtime: stamp(14, 999_999_999),
            target: b"ab".to_vec(),
        };
        let golden = "010a0fac0000000100000002000000030000000400000080000000050000000000000002\
            000000000000000600000000000000070000000000000008000000\
            09fffffffffffffff60000000b000000000000000c0000000d000000000000000e3b9ac9ff6162";
        assert_eq!(hex(&inode.encode()), golden);
        assert_eq!(Inode::decode(&inode.encode()).unwrap(), inode);

        let wishing = Inode {
            policy: Some(Policy::Zstd),
            ..inode.clone()
        };
        let golden = golden.replacen("0400000080", "0404000080", 1);
        assert_eq!(hex(&wishing.encode()), golden);
        assert_eq!(Inode::decode(&wishing.encode()).unwrap(), wishing);

        let cookie = first_cookie(b"name");
        let key = dirent_key(5, cookie, b"name");
        assert_eq!(hex(&key), "00000000000000052a7f7f699f14d7006e616d65");
        let row = dirent_row(6, FileType::Regular);
        assert_eq!(hex(&row), "01080000000000000006");
        let dirent = Dirent::decode(&key, &row).unwrap();
        assert_eq!((dirent.ino, dirent.cookie), (6, cookie));
        assert_eq!(dirent.name, b"name");

        let counters = Counters {
            next_ino: 1,
            totals: Totals {
                files: 2,
                directories: 3,
                others: 4,
                bytes: 5,
            },
            next_space: 0,
        };
        let golden = "01\
            00000000000000010000000000000002000000000000000300000000000000040000000000000005";
        assert_eq!(hex(&counters.encode()), golden);
        assert_eq!(Counters::decode(&counters.encode()).unwrap(), counters);
    }

    /// The rows of volumes with snapshots, as they must be read for ever.
    #[test]
    fn rows_of_snapshots() {
        let totals = Totals {
            files: 2,
            directories: 3,
            others: 4,
            bytes: 5,
        };
        let counters = Counters {
            next_ino: 1,
            totals,
            next_space: 6,
        };
        let golden = "02\
            00000000000000010000000000000002000000000000000300000000000000040000000000000005\
            00000006";
        assert_eq!(hex(&counters.encode()), golden);
        assert_eq!(Counters::decode(&counters.encode()).unwrap(), counters);
        let mut row = SnapshotRow {
            state: SnapshotState::Whole,
            created: stamp(8, 9),
            id: [7; 16],
            totals,
            name: "day".into(),
            received: None,
        };
        let golden = "0101000000000000000800000009\
            07070707070707070707070707070707\
            0000000000000002000000000000000300000000000000040000000000000005\
            03646179";
        assert_eq!(hex(&row.encode()), golden);
        assert_eq!(SnapshotRow::decode(&row.encode()).unwrap(), row);
        row.received = Some((3, vec![0xab, 0xcd]));
        row.state = SnapshotState::Receiving;
        assert_eq!(
            hex(&row.encode()),
            golden.replacen("0101", "0103", 1) + "03abcd"
        );
        assert_eq!(SnapshotRow::decode(&row.encode()).unwrap(), row);
        assert!(SnapshotRow::decode(&row.encode()[..50]).is_err());
        assert_eq!(hex(&snapshot_key(1)), "762e736e617073686f742e00000001");
        assert_eq!(parse_snapshot_key(&snapshot_key(77)).unwrap(), 77);
        assert_eq!(hex(&roll_back_row(5)), "0100000005");
        assert_eq!(parse_roll_back(&roll_back_row(5)).unwrap(), 5);
        // Entries of a snapshot lead into its space.
        let key = dirent_key(base_of(2) + 5, 200, b"x");
        let entry = Dirent::decode(&key, &dirent_row(6, FileType::Fifo)).unwrap();
        assert_eq!(entry.ino, base_of(2) + 6);
    }

    #[test]
    fn malformed_rows_are_refused() {
        let now = stamp(1, 2);
        let row = Inode::new(FileType::Regular, 0o644, 0, 0, now).encode();
        for len in 0..row.len() {
            assert!(matches!(Inode::decode(&row[..len]), Err(Error::Corrupt(_))));
        }
        let newer = [&[3], &row[1..]].concat();
        assert!(matches!(
            Inode::decode(&newer),
            Err(Error::NewerFormat { found: 3, .. })
        ));
        assert!(Inode::decode(&[&[0], &row[1..]].concat()).is_err());
        let unknown_type = [&[1, 3], &row[2..]].concat();
        assert!(Inode::decode(&unknown_type).is_err());
        let target_of_a_file = [&row[..], b"x"].concat();
        assert!(Inode::decode(&target_of_a_file).is_err());
        let key = dirent_key(1, 200, b"x");
        assert!(Dirent::decode(&key[..12], &dirent_row(2, FileType::Fifo)).is_err());
        assert!(Dirent::decode(&key, &[1, 8, 0]).is_err());
        assert!(Counters::decode(&[1; 40]).is_err());
        assert!(Counters::decode(&[1; 42]).is_err());
    }

    /// Version 2, as it must be read for ever.
    #[test]
    fn long_files_have_rows_that_older_programs_refuse() {
        let mut inode = Inode::new(FileType::Regular, 0o644, 1, 2, stamp(3, 4));
        inode.size = LONG;
        assert_eq!(inode.encode()[0], 1);
        inode.size = i64::MAX as u64;
        let golden = "020801a400000001000000020000000100000000000000000000000\
            07fffffffffffffff00000000000000000000000000000000\
            000000000000000300000004000000000000000300000004\
            000000000000000300000004000000000000000300000004";
        assert_eq!(hex(&inode.encode()), golden);
        assert_eq!(Inode::decode(&inode.encode()).unwrap(), inode);
        let mut counters = Counters {
            next_ino: 9,
            totals: Totals::default(),
            next_space: 0,
        };
        for change in [1, 1, 1, -1, -1, -1] {
            counters.count(&inode, change);
        }
        assert_eq!(counters.totals, Totals::default());
    }

    #[test]
    fn times_survive() {
        for (seconds, nanoseconds) in [
            (0, 0),
            (1, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-1, 999_999_999),
            (-2_000_000_000, 5),
            (i64::MAX / 4, 7),
        ] {
            let stamp = stamp(seconds, nanoseconds);
            assert_eq!(Stamp::from(SystemTime::from(stamp)), stamp);
        }
        assert!(Stamp::from(UNIX_EPOCH) > stamp(-1, 999_999_999));
    }
}
