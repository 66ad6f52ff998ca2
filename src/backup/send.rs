//! Sending a snapshot: its rows and the frames of its chunks as they rest.

use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
use std::io::Write;

use super::stream::{Begin, MODEL_PART, Position, Record, Writer};
use crate::error::{Error, Result};
use crate::filesystem::FileSystem;
use crate::store::{ChunkId, Row, Table};
use crate::tier::{RUN, Run, SPACE, Tier, base_of, chunks_of_row, model_of_frame, parse_run_key};
use crate::volume::{self, SentSnapshot};

/// The tables that travel, in the order in which their rows do.
pub const TABLES: [Table; 4] = [Table::Inode, Table::Dirent, Table::Xattr, Table::Cmap];

/// Rows read at a time.
const PAGE: usize = 256;

/// What to send.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct SendOptions {
    pub snapshot: String,
    /// A snapshot that the receiver has.
    pub from: Option<String>,
    /// A receiver was cut off behind this row.
    pub resume: Option<Position>,
}

/// What was sent. The names of the fields are a promise to those who read the
/// JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    pub snapshot: String,
    pub from: Option<String>,
    pub rows: u64,
    pub chunks: u64,
    pub models: u64,
    /// Bytes of the stream.
    pub bytes: u64,
}

/// Writes the stream of a snapshot. `progress` hears of the bytes written.
pub fn send(
    fs: &FileSystem,
    options: &SendOptions,
    out: impl Write,
    progress: &mut dyn FnMut(u64),
) -> Result<Sent> {
    let volume = fs.volume();
    let snapshot = volume.snapshot_to_send(&options.snapshot)?;
    let base = match &options.from {
        Some(name) => Some(volume.snapshot_to_send(name)?),
        None => None,
    };
    if base
        .as_ref()
        .is_some_and(|base| base.space == snapshot.space)
    {
        return Err(Error::Other("a snapshot cannot build on itself".into()));
    }
    let mut sender = Sender {
        fs,
        tier: volume.tier(),
        out: Writer::new(out)?,
        chunks: HashSet::new(),
        models: HashSet::new(),
        sent: Sent {
            snapshot: options.snapshot.clone(),
            from: options.from.clone(),
            ..Sent::default()
        },
    };
    let model = fs.own_model();
    sender.out.record(&Record::Begin(Begin {
        name: snapshot.name.clone(),
        id: snapshot.id.clone(),
        base: base.as_ref().map(|base| base.id.clone()),
        created: snapshot.created,
        files: snapshot.totals.files,
        directories: snapshot.totals.directories,
        others: snapshot.totals.others,
        bytes: snapshot.totals.bytes,
        chunk_size: fs.chunk_size() as u32, // as the store's property is
        model: model.map(|hash| hash.to_hex().to_string()),
        resume: options.resume.clone(),
    }))?;
    // A new store needs it to go on coding.
    if let (Some(hash), None, None) = (model, &base, &options.resume) {
        sender.model(&hash)?;
    }
    if let Some(base) = &base {
        sender.note_chunks(base)?;
    }
    sender.rows(&snapshot, base.as_ref(), options.resume.as_ref(), progress)?;
    let Sender { out, mut sent, .. } = sender;
    sent.bytes = out.end()?;
    Ok(sent)
}

struct Sender<'a, W> {
    fs: &'a FileSystem,
    tier: &'a Tier,
    out: Writer<W>,
    /// Chunks that the receiver has. 32 bytes each and the table's own cost.
    chunks: HashSet<ChunkId>,
    /// Models that were sent, by what frames call them.
    models: HashSet<[u8; 4]>,
    sent: Sent,
}

/// The rows of one table of a snapshot, with the volume's own numbers.
struct Rows<'a> {
    tier: &'a Tier,
    table: Table,
    base: u64,
    from: Option<Vec<u8>>,
    page: VecDeque<Row>,
}

impl<'a> Rows<'a> {
    fn new(tier: &'a Tier, table: Table, space: u32) -> Self {
        let base = base_of(space);
        Self {
            tier,
            table,
            base,
            from: Some(base.to_be_bytes().to_vec()),
            page: VecDeque::new(),
        }
    }

    fn peek(&mut self) -> Result<Option<&Row>> {
        if self.page.is_empty()
            && let Some(from) = &self.from
        {
            let end = (self.base + SPACE).to_be_bytes();
            let page = self
                .tier
                .run(|op| op.scan(self.table, from, Some(&end), PAGE))?;
            self.from = match page.last() {
                Some((last, _)) if page.len() == PAGE => Some([&last[..], &[0]].concat()),
                _ => None,
            };
            for (mut key, row) in page {
                let ino = key.first_chunk().map_or(0, |ino| u64::from_be_bytes(*ino));
                key[..8].copy_from_slice(&(ino - self.base).to_be_bytes());
                self.page.push_back((key, row));
            }
        }
        Ok(self.page.front())
    }

    fn next(&mut self) -> Result<Option<Row>> {
        self.peek()?;
        Ok(self.page.pop_front())
    }
}

impl<W: Write> Sender<'_, W> {
    /// The receiver has the chunks of the base.
    fn note_chunks(&mut self, base: &SentSnapshot) -> Result<()> {
        let mut rows = Rows::new(self.tier, Table::Cmap, base.space);
        while let Some((_, row)) = rows.next()? {
            self.chunks.extend(chunks_of_row(&row)?);
        }
        Ok(())
    }

    fn rows(
        &mut self,
        snapshot: &SentSnapshot,
        base: Option<&SentSnapshot>,
        resume: Option<&Position>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        for (number, table) in (0..).zip(TABLES) {
            let mut new = Rows::new(self.tier, table, snapshot.space);
            let mut old = base.map(|base| Rows::new(self.tier, table, base.space));
            loop {
                let old_key = match &mut old {
                    Some(old) => old.peek()?.map(|(key, _)| key.clone()),
                    None => None,
                };
                let new_key = new.peek()?.map(|(key, _)| key.clone());
                let order = match (&old_key, &new_key) {
                    (None, None) => break,
                    (Some(_), None) => Ordering::Less,
                    (None, Some(_)) => Ordering::Greater,
                    (Some(old), Some(new)) => old.cmp(new),
                };
                let before = match (&mut old, order) {
                    (Some(old), Ordering::Less | Ordering::Equal) => old.next()?,
                    _ => None,
                };
                let after = match order {
                    Ordering::Less => None,
                    _ => new.next()?,
                };
                let key = after
                    .as_ref()
                    .or(before.as_ref())
                    .map(|(key, _)| key.clone());
                let at = Position {
                    table: number,
                    key: key.unwrap_or_default(),
                };
                let has = resume.is_some_and(|resume| at <= *resume);
                match (before, after) {
                    (Some(_), None) if !has => self.record(&Record::Gone(at))?,
                    (before, Some((_, row))) => {
                        let spaces = (snapshot.space, base.map(|base| base.space));
                        let same = match before {
                            Some((_, old)) => self.same(table, &at.key, spaces, (&old, &row))?,
                            None => false,
                        };
                        if !same {
                            self.row(table, at, row, snapshot.space, has)?;
                        }
                    }
                    _ => {}
                }
                progress(self.out.offset());
            }
        }
        Ok(())
    }

    fn record(&mut self, record: &Record) -> Result<()> {
        self.sent.rows += 1;
        self.out.record(record)
    }

    /// Whether two rows say the same. Those of attributes may say where a
    /// value rests.
    fn same(
        &self,
        table: Table,
        key: &[u8],
        (space, base): (u32, Option<u32>),
        (old, new): (&[u8], &[u8]),
    ) -> Result<bool> {
        match (table, base) {
            _ if old == new => Ok(true),
            (Table::Xattr, Some(base)) => Ok(self.value(base, key)? == self.value(space, key)?),
            _ => Ok(false),
        }
    }

    /// Prefix and value of an attribute, as they travel.
    fn value(&self, space: u32, key: &[u8]) -> Result<Vec<u8>> {
        let key = in_space(key, space)?;
        let value = self.tier.run(|op| op.get_value(Table::Xattr, &key))?;
        let (prefix, value) =
            value.ok_or_else(|| Error::Corrupt("an attribute has vanished".into()))?;
        // The prefix is one byte long.
        Ok([&[prefix.len() as u8][..], &prefix, &value].concat())
    }

    fn row(
        &mut self,
        table: Table,
        at: Position,
        row: Vec<u8>,
        space: u32,
        has: bool,
    ) -> Result<()> {
        if table == Table::Cmap {
            for name in chunks_of_row(&row)? {
                if self.chunks.insert(name) && !has {
                    self.chunk(&name).map_err(|error| match error {
                        Error::Corrupt(what) => self.damaged(&at.key, space, &row, &name, &what),
                        error => error,
                    })?;
                }
            }
        }
        if has {
            return Ok(());
        }
        let row = match table {
            Table::Xattr => self.value(space, &at.key)?,
            _ => row,
        };
        self.record(&Record::Row(at, row))
    }

    fn chunk(&mut self, name: &ChunkId) -> Result<()> {
        let frame = self.tier.frame(name)?;
        if let Some(short) = model_of_frame(&frame.bytes)
            && !self.models.contains(&short)
        {
            let hash = self.fs.model_named(short)?;
            self.model(&hash)?;
        }
        let record = Record::Chunk(name.0, frame.plain_len, frame.cold, frame.bytes);
        self.out.record(&record)?;
        self.sent.chunks += 1;
        Ok(())
    }

    /// Says which file a damaged chunk belongs to.
    fn damaged(&self, key: &[u8], space: u32, row: &[u8], name: &ChunkId, what: &str) -> Error {
        let place = || {
            let (ino, run) = parse_run_key(key)?;
            let row = Run::decode(row)?;
            let first = run.saturating_mul(RUN);
            let mut indices = first..first.saturating_add(RUN);
            let index = indices.find(|index| row.get(*index) == Some(*name));
            let paths = volume::paths(&**self.tier.store())?;
            let path = paths.get(&(ino + base_of(space))).cloned();
            Ok::<_, Error>((path, ino, index.unwrap_or(first) * self.fs.chunk_size()))
        };
        let file = match place() {
            Ok((Some(path), _, at)) => format!("{} from byte {at} on", path.display()),
            Ok((None, ino, at)) => format!("inode {ino} from byte {at} on"),
            Err(error) => format!("its file is not known: {error}"),
        };
        Error::Corrupt(format!(
            "{file}: {what}. The stream ends here; write the same bytes anew, as `laconicfs import \
             BACKUP STORE --checksum` does, or delete the snapshot, and send again"
        ))
    }

    fn model(&mut self, hash: &blake3::Hash) -> Result<()> {
        let bytes = self.fs.model_bytes(hash)?;
        for part in bytes.chunks(MODEL_PART) {
            let record = Record::Model(*hash.as_bytes(), bytes.len() as u64, part.to_vec());
            self.out.record(&record)?;
        }
        let hash = hash.as_bytes();
        self.models.insert([hash[0], hash[1], hash[2], hash[3]]);
        self.sent.models += 1;
        Ok(())
    }
}

/// A key with the volume's own number in a space.
pub fn in_space(key: &[u8], space: u32) -> Result<Vec<u8>> {
    match key.split_first_chunk() {
        Some((ino, rest)) if u64::from_be_bytes(*ino) < SPACE => {
            let ino = u64::from_be_bytes(*ino) + base_of(space);
            Ok([&ino.to_be_bytes(), rest].concat())
        }
        _ => Err(Error::Corrupt("the key of a row is malformed".into())),
    }
}
