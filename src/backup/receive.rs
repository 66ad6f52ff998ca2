//! Receiving a snapshot.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use super::send::TABLES;
use super::stream::{Begin, Position, Reader, Record};
use crate::codec::Codec;
use crate::error::{Error, Result};
use crate::filesystem::{FileSystem, NewStore};
use crate::parallel;
use crate::store::ChunkId;
use crate::tier::{Frame, model_of_frame};
use crate::volume::{Incoming, Snapshot, Totals};

/// Longest model that is taken.
const LARGEST_MODEL: u64 = 64 << 30;

/// How to receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ReceiveOptions {
    /// Another name for the snapshot.
    pub name: Option<String>,
    /// Decode every chunk and compare it with its name, as slow as reading.
    pub verify: bool,
}

/// What was received. The names of the fields are a promise to those who read
/// the JSON.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Received {
    pub snapshot: Snapshot,
    pub rows: u64,
    pub chunks: u64,
    pub models: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// The volume was empty, and is now what the snapshot is.
    pub filled: bool,
}

/// How a stream ended too early.
#[derive(Debug)]
pub struct CutOff {
    pub error: Error,
    /// Where `send --resume` goes on; `None`: from the start.
    pub resume: Option<String>,
}

/// A stream of which the beginning has been read: enough to make a store.
pub struct Stream<R> {
    reader: Reader<R>,
    begin: Begin,
    /// Whole models that have been read, by what frames call them.
    models: HashMap<[u8; 4], Vec<u8>>,
    /// The first record that is no part of a model.
    next: Option<Record>,
}

impl<R: Read> Stream<R> {
    /// Reads what a stream says of itself, and the models before anything else.
    pub fn open(input: R) -> Result<Self> {
        let (reader, begin) = Reader::new(input)?;
        let mut stream = Self {
            reader,
            begin,
            models: HashMap::new(),
            next: None,
        };
        stream.next = Some(stream.record()?);
        Ok(stream)
    }

    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// Makes a store that the stream fits into.
    pub fn make_store(&self, path: &Path) -> Result<()> {
        let model = match &self.begin.model {
            None => None,
            Some(hex) => {
                let wanted = blake3::Hash::from_hex(hex)
                    .map_err(|_| Error::Corrupt("the name of a model is malformed".into()))?;
                let found = self.models.get(&short(&wanted));
                Some(found.cloned().ok_or_else(|| {
                    Error::Other(
                        "the stream goes on with one that was received before: name the store \
                         that has the beginning"
                            .into(),
                    )
                })?)
            }
        };
        let chunk_size = self.begin.chunk_size as usize;
        FileSystem::create(path, &NewStore { chunk_size, model })
    }

    /// The next record that is no part of a model.
    fn record(&mut self) -> Result<Record> {
        if let Some(record) = self.next.take() {
            return Ok(record);
        }
        loop {
            match self.reader.record()? {
                Record::Model(hash, total, part) => self.model(hash, total, part)?,
                record => return Ok(record),
            }
        }
    }

    /// Reads the rest of a model whose first part is here.
    fn model(&mut self, hash: [u8; 32], total: u64, part: Vec<u8>) -> Result<()> {
        let malformed = || Error::Corrupt("a model in the stream is malformed".into());
        if total > LARGEST_MODEL {
            return Err(malformed());
        }
        let mut bytes = part;
        while (bytes.len() as u64) < total {
            match self.reader.record()? {
                Record::Model(of, _, part) if of == hash && !part.is_empty() => bytes.extend(part),
                _ => return Err(malformed()),
            }
        }
        if *blake3::hash(&bytes).as_bytes() != hash {
            return Err(malformed());
        }
        self.models
            .insert(short(&blake3::Hash::from_bytes(hash)), bytes);
        Ok(())
    }

    /// Takes the whole stream into an open store. When it ends too early, what
    /// came stays out of sight and is gone on with; `progress` hears of the
    /// bytes read.
    pub fn receive(
        mut self,
        fs: &FileSystem,
        options: &ReceiveOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Received, CutOff> {
        let nowhere = |error| CutOff {
            error,
            resume: None,
        };
        self.check_fits(fs).map_err(nowhere)?;
        let begin = self.begin.clone();
        let incoming = Incoming {
            name: options.name.clone().unwrap_or(begin.name),
            id: begin.id,
            base: begin.base,
            created: begin.created,
            totals: Totals {
                files: begin.files,
                directories: begin.directories,
                others: begin.others,
                bytes: begin.bytes,
            },
        };
        let volume = fs.volume();
        let mut receiving = volume.receive(&incoming).map_err(nowhere)?;
        let position = |place: Option<&(u8, Vec<u8>)>| {
            place.map(|(table, key)| Position {
                table: *table,
                key: key.clone(),
            })
        };
        let have = position(receiving.position());
        if begin.resume > have {
            return Err(CutOff {
                error: Error::Other("the stream goes on behind what is here".into()),
                resume: have.map(|have| have.token()),
            });
        }
        let mut done = Counts::default();
        let rows = self.rows(fs, options, &mut receiving, have, &mut done, progress);
        if let Err(error) = rows {
            // What is here may be gone on with, also after a power cut.
            let paused = receiving.pause();
            let resume = position(receiving.position()).map(|position| position.token());
            return Err(CutOff {
                error: paused.err().unwrap_or(error),
                resume,
            });
        }
        let bytes = self.reader.offset();
        let snapshot = receiving.finish().map_err(nowhere)?;
        let fill = || {
            let empty = volume.is_empty()?;
            if empty {
                volume.roll_back(&snapshot.name, &mut |_| ())?;
            }
            Ok(empty)
        };
        let filled = fill().map_err(nowhere)?;
        Ok(Received {
            snapshot,
            rows: done.rows,
            chunks: done.chunks,
            models: done.models,
            bytes,
            filled,
        })
    }

    fn check_fits(&self, fs: &FileSystem) -> Result<()> {
        match u64::from(self.begin.chunk_size) == fs.chunk_size() {
            true => Ok(()),
            false => Err(Error::Other(format!(
                "the stream has chunks of {} bytes, the store of {}: receive into a new store, \
                 or export and import",
                self.begin.chunk_size,
                fs.chunk_size()
            ))),
        }
    }

    fn rows(
        &mut self,
        fs: &FileSystem,
        options: &ReceiveOptions,
        receiving: &mut crate::volume::Receiving<'_>,
        have: Option<Position>,
        done: &mut Counts,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut frames: Vec<(ChunkId, Frame)> = Vec::new();
        let mut known = HashSet::new();
        let (mut codec, mut models) = (None, 0);
        loop {
            let record = self.record()?;
            progress(self.reader.offset());
            let (at, row) = match record {
                Record::Chunk(name, plain_len, cold, bytes) => {
                    self.need_model(fs, &bytes, &mut known, done)?;
                    let frame = Frame {
                        plain_len,
                        cold,
                        bytes,
                    };
                    frames.push((ChunkId(name), frame));
                    continue;
                }
                Record::Row(at, row) => (at, Some(row)),
                Record::Gone(at) => (at, None),
                Record::End(_) => return Ok(()),
                Record::Begin(_) | Record::Model(..) => {
                    return Err(Error::Corrupt("the stream begins again".into()));
                }
            };
            let frames = std::mem::take(&mut frames);
            if have.as_ref().is_some_and(|have| at <= *have) {
                continue;
            }
            let table = TABLES
                .get(usize::from(at.table))
                .ok_or_else(|| Error::Corrupt("a row of the stream has no table".into()))?;
            if options.verify && !frames.is_empty() {
                if codec.is_none() || models != done.models {
                    // Models come with the chunks that need them.
                    (codec, models) = (Some(fs.codec_of_all_models()?), done.models);
                }
                codec
                    .as_ref()
                    .map_or(Ok(()), |codec| verify(codec, &frames))?;
            }
            receiving.take(*table, at.table, &at.key, row.as_deref(), &frames)?;
            done.rows += 1;
            done.chunks += frames.len() as u64;
        }
    }

    /// Makes sure that a frame can be decoded here.
    fn need_model(
        &mut self,
        fs: &FileSystem,
        frame: &[u8],
        known: &mut HashSet<[u8; 4]>,
        done: &mut Counts,
    ) -> Result<()> {
        let Some(short) = model_of_frame(frame) else {
            return Ok(());
        };
        if known.contains(&short) {
            return Ok(());
        }
        if fs.model_named(short).is_err() {
            let bytes = self.models.get(&short).ok_or_else(|| {
                Error::Model("the stream does not bring a model that its chunks need".into())
            })?;
            fs.put_model(bytes)?;
            done.models += 1;
        }
        known.insert(short);
        Ok(())
    }
}

#[derive(Default)]
struct Counts {
    rows: u64,
    chunks: u64,
    models: u64,
}

fn short(hash: &blake3::Hash) -> [u8; 4] {
    let hash = hash.as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn verify(codec: &Codec, frames: &[(ChunkId, Frame)]) -> Result<()> {
    let results = parallel::map(parallel::available(), frames, |(name, frame)| {
        let plain = codec.decode(&frame.bytes, frame.plain_len as usize)?;
        match ChunkId::of(&plain) == *name {
            true => Ok(()),
            false => Err(Error::Corrupt(format!(
                "chunk {name} of the stream is not what its name says"
            ))),
        }
    });
    results.into_iter().collect()
}
