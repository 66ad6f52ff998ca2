//! Value logs: files that values are appended to, and that die whole.
//!
//! A log is appended to by the process that made it and sealed for ever when
//! it is full, when it is told so, when a sync of it fails, and when the store
//! is opened again: so nothing is ever appended behind what a crash left.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use quick_cache::sync::Cache;

use crate::error::{Error, Result};

use super::record::{self, Header};
use super::{Class, LogInfo, LogRecord, RECORD_HEADER, Table, ValueRef, durable};

/// Files that stay open for reading.
const HANDLES: usize = 256;

/// Keys up to this length are read together with their header.
const KEY_GUESS: u64 = 40;

/// Read at a time when searching a damaged log for the next record.
const WINDOW: u64 = 256 << 10;

/// Skipped at a time where the disk cannot be read.
const SECTOR: u64 = 4096;

pub struct Logs {
    directory: PathBuf,
    /// A log that has reached this size is sealed.
    log_size: u64,
    /// By class. May be held while `known` is taken, never the other way round.
    appenders: [Mutex<Appender>; 2],
    known: Mutex<BTreeMap<u64, LogInfo>>,
    next: AtomicU64,
    /// A file was created since the directory was synced.
    created: AtomicBool,
    handles: Cache<u64, Arc<File>>,
}

#[derive(Default)]
struct Appender {
    open: Option<Open>,
    /// Logs with bytes that no sync has covered.
    unsynced: Vec<(u64, Arc<File>)>,
}

#[derive(Clone)]
struct Open {
    log: u64,
    file: Arc<File>,
    end: u64,
}

impl Logs {
    /// Finds the logs in `directory`. New ones get numbers of at least
    /// `first`, so that no number is used again that a row may still name.
    pub fn open(directory: &Path, log_size: u64, first: u64) -> Result<Self> {
        let mut known = BTreeMap::new();
        let listing = || format!("listing {}", directory.display());
        for entry in std::fs::read_dir(directory).map_err(Error::io(listing()))? {
            let entry = entry.map_err(Error::io(listing()))?;
            let Some((log, class)) = entry.file_name().to_str().and_then(parse_name) else {
                continue;
            };
            let bytes = entry.metadata().map_err(Error::io(listing()))?.len();
            let info = LogInfo {
                log,
                class,
                bytes,
                sealed: true,
            };
            if known.insert(log, info).is_some() {
                return Err(Error::Corrupt(format!(
                    "value log {log} is there twice, hot and cold; move away the one that was \
                     put there"
                )));
            }
        }
        let next = known.last_key_value().map_or(0, |(log, _)| log + 1);
        Ok(Self {
            directory: directory.to_owned(),
            log_size,
            appenders: Default::default(),
            known: Mutex::new(known),
            next: AtomicU64::new(next.max(first)),
            created: AtomicBool::new(false),
            handles: Cache::new(HANDLES),
        })
    }

    fn path(&self, log: u64, class: Class) -> PathBuf {
        self.directory.join(file_name(log, class))
    }

    /// Appends a record; it can be read when this returns and is durable
    /// after the next [`sync`](Self::sync).
    pub fn append(
        &self,
        class: Class,
        table: Table,
        key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        if key.len() > record::KEY_MAX {
            return Err(Error::NameTooLong);
        }
        let len = u32::try_from(payload.len()).map_err(|_| Error::FileTooBig)?;
        let mut appender = self.appenders[class as usize].lock();
        let open = match &appender.open {
            Some(open) => open.clone(),
            None => self.create(class)?,
        };
        let Open { log, file, end } = open;
        let bytes = record::encode(log, end, table, key, payload)?;
        if let Err(error) = durable::write_at(&file, &bytes, end) {
            // What was written of it must not be walked over later. If even
            // that fails, the next append writes over it, and a walk stops
            // where the file's known bytes end.
            if let Err(error) = file.set_len(end) {
                log::warn!("cutting the torn end of value log {log}: {error}");
            }
            appender.open = Some(Open { log, file, end });
            return Err(Error::io(format!("appending to value log {log}"))(error));
        }
        if appender.unsynced.iter().all(|(other, _)| *other != log) {
            appender.unsynced.push((log, file.clone()));
        }
        let new_end = end + bytes.len() as u64;
        let full = new_end >= self.log_size;
        if let Some(info) = self.known.lock().get_mut(&log) {
            info.bytes = new_end;
            info.sealed = full;
        }
        appender.open = (!full).then_some(Open {
            log,
            file,
            end: new_end,
        });
        Ok(ValueRef::Log {
            log,
            offset: end,
            len,
        })
    }

    fn create(&self, class: Class) -> Result<Open> {
        let log = self.next.fetch_add(1, Ordering::SeqCst);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(log, class))
            .map_err(Error::io(format!("creating value log {log}")))?;
        self.created.store(true, Ordering::SeqCst);
        let info = LogInfo {
            log,
            class,
            bytes: 0,
            sealed: false,
        };
        self.known.lock().insert(log, info);
        Ok(Open {
            log,
            file: Arc::new(file),
            end: 0,
        })
    }

    /// Makes everything appended so far durable. One caller at a time: a
    /// second one would not wait for what the first is about to sync.
    ///
    /// After an error nobody knows what of it reached the disk, and the kernel
    /// tells only once: the logs are sealed, and the caller must never again
    /// commit a value that was appended before.
    pub fn sync(&self) -> Result<()> {
        let mut result = Ok(());
        for appender in &self.appenders {
            let unsynced = std::mem::take(&mut appender.lock().unsynced);
            for (log, file) in unsynced {
                if let Err(error) = durable::sync_file(&file) {
                    result = Err(Error::io(format!("syncing value log {log}"))(error));
                }
            }
        }
        if result.is_ok() && self.created.swap(false, Ordering::SeqCst) {
            result = durable::sync_directory(&self.directory);
        }
        result.inspect_err(|_| self.seal())
    }

    pub fn seal(&self) {
        for appender in &self.appenders {
            let mut appender = appender.lock();
            if let Some(open) = appender.open.take()
                && let Some(info) = self.known.lock().get_mut(&open.log)
            {
                info.sealed = true;
            }
        }
    }

    /// Deletes a sealed log; nothing happens when there is none of the number.
    pub fn remove(&self, log: u64) -> Result<()> {
        let class = match self.known.lock().get(&log) {
            None => return Ok(()),
            Some(info) if !info.sealed => {
                return Err(Error::Invalid("only a sealed value log can be removed"));
            }
            Some(info) => info.class,
        };
        match std::fs::remove_file(self.path(log, class)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("removing value log {log}"))(error));
            }
            _ => {}
        }
        self.known.lock().remove(&log);
        self.handles.remove(&log);
        let mut appender = self.appenders[class as usize].lock();
        appender.unsynced.retain(|(other, _)| *other != log);
        Ok(())
    }

    /// Lets the next sync fail, as on a disk that breaks.
    #[cfg(test)]
    pub fn pretend_broken(&self) {
        // Nothing can be synced there.
        let file = Arc::new(File::open("/dev/null").expect("it is always there"));
        self.appenders[0].lock().unsynced.push((u64::MAX, file));
    }

    pub fn list(&self) -> Vec<LogInfo> {
        self.known.lock().values().copied().collect()
    }

    /// The bytes of a log that records may lie in, and its file.
    fn reader(&self, log: u64) -> Result<(u64, Arc<File>)> {
        let info = |logs: &Self| logs.known.lock().get(&log).copied();
        let known = info(self).ok_or(Error::Stale)?;
        if let Some(file) = self.handles.get(&log) {
            return Ok((known.bytes, file));
        }
        let file = match File::open(self.path(log, known.class)) {
            Ok(file) => Arc::new(file),
            // Somebody beside us has deleted it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::Stale),
            Err(error) => return Err(Error::io(format!("opening value log {log}"))(error)),
        };
        self.handles.insert(log, file.clone());
        if info(self).is_none() {
            // Removed meanwhile: an open file would hold its space.
            self.handles.remove(&log);
        }
        Ok((known.bytes, file))
    }

    /// The payload of the record at `offset`, if it is the one that was
    /// written there, with a payload of `len` bytes.
    pub fn value(&self, log: u64, offset: u64, len: u32) -> Result<Vec<u8>> {
        let (end, file) = self.reader(log)?;
        let damaged = |what: &str| {
            Error::Corrupt(format!("value log {log}, record at byte {offset}: {what}"))
        };
        let reading = || format!("reading value log {log} at byte {offset}");
        let left = end.saturating_sub(offset);
        let least = RECORD_HEADER + u64::from(len);
        if left < least {
            return Err(damaged("it lies outside of the file"));
        }
        let mut bytes = vec![0; left.min(least + KEY_GUESS) as usize];
        let got = read_up_to(&file, &mut bytes, offset).map_err(Error::io(reading()))?;
        bytes.truncate(got);
        let header = record::decode(&bytes).ok_or_else(|| damaged("its header is damaged"))?;
        if header.payload_len != len || header.record_len() > left {
            return Err(damaged("its header is damaged"));
        }
        let whole = header.record_len() as usize;
        if bytes.len() < whole {
            let had = bytes.len();
            bytes.resize(whole, 0);
            let got = read_up_to(&file, &mut bytes[had..], offset + had as u64)
                .map_err(Error::io(reading()))?;
            if had + got < whole {
                return Err(damaged("the file ends within it"));
            }
        }
        let start = whole - len as usize;
        if !record::check_key(log, offset, &header, &bytes[..start]) {
            return Err(damaged("its header is damaged"));
        }
        bytes.truncate(whole);
        let payload = bytes.split_off(start);
        if header.format > record::FORMAT {
            return Err(Error::NewerFormat {
                what: format!("value log {log}"),
                found: header.format.into(),
                known: record::FORMAT.into(),
            });
        }
        match record::check_payload(&header, &payload) {
            true => Ok(payload),
            false => Err(damaged("its payload is damaged")),
        }
    }

    /// See [`Store::walk_log`](super::Store::walk_log). Payloads are not read.
    pub fn walk(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        let (end, file) = self.reader(log)?;
        let mut lost = 0;
        let mut offset = 0;
        while offset < end {
            let Some((header, head)) = read_head(&file, log, offset, end) else {
                let next = find_record(&file, log, offset + 1, end);
                lost += next - offset;
                offset = next;
                continue;
            };
            each(LogRecord {
                owner_table: header.table,
                owner_key: head[RECORD_HEADER as usize..].to_vec(),
                value: ValueRef::Log {
                    log,
                    offset,
                    len: header.payload_len,
                },
            })?;
            offset += header.record_len();
        }
        Ok(lost)
    }
}

fn extension(class: Class) -> &'static str {
    match class {
        Class::Hot => "hot",
        Class::Cold => "cold",
    }
}

/// The name of a log's file: its number, and its class.
pub fn file_name(log: u64, class: Class) -> String {
    format!("{log:016x}.{}", extension(class))
}

/// The number and class in the name of a log's file.
fn parse_name(name: &str) -> Option<(u64, Class)> {
    let (digits, end) = name.split_once('.')?;
    let class = [Class::Hot, Class::Cold]
        .into_iter()
        .find(|class| extension(*class) == end)?;
    let plain = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 16 || !digits.bytes().all(plain) {
        return None;
    }
    Some((u64::from_str_radix(digits, 16).ok()?, class))
}

/// Fills `bytes` from `offset` on as far as the file goes.
fn read_up_to(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Header and key of the record at `offset`, if there is one that ends by `end`.
fn read_head(file: &File, log: u64, offset: u64, end: u64) -> Option<(Header, Vec<u8>)> {
    let mut head = vec![0; (end - offset).min(RECORD_HEADER + KEY_GUESS) as usize];
    let got = read_up_to(file, &mut head, offset).ok()?;
    head.truncate(got);
    let header = record::decode(&head)?;
    if header.record_len() > end - offset {
        return None;
    }
    let (had, whole) = (head.len(), RECORD_HEADER as usize + header.key_len);
    head.resize(whole, 0);
    if had < whole {
        file.read_exact_at(&mut head[had..], offset + had as u64)
            .ok()?;
    }
    record::check_key(log, offset, &header, &head).then_some((header, head))
}

/// Where the first record at or after `offset` begins, or `end`.
fn find_record(file: &File, log: u64, mut offset: u64, end: u64) -> u64 {
    let mut window = Vec::new();
    while offset < end {
        window.resize((end - offset).min(WINDOW) as usize, 0);
        let Ok(got) = read_up_to(file, &mut window, offset) else {
            offset += SECTOR;
            continue;
        };
        let found = window[..got]
            .windows(record::RECORD_MAGIC.len())
            .enumerate()
            .filter(|(_, bytes)| *bytes == record::RECORD_MAGIC)
            .map(|(at, _)| offset + at as u64)
            .find(|at| read_head(file, log, *at, end).is_some());
        if let Some(at) = found {
            return at;
        }
        // A magic may straddle two windows.
        let overlap = record::RECORD_MAGIC.len() - 1;
        if got <= overlap || got < window.len() {
            break;
        }
        offset += (got - overlap) as u64;
        if end - offset <= overlap as u64 {
            break;
        }
    }
    end
}
