//! What a tier holds and does, in figures.

use std::sync::atomic::Ordering;

use crate::codec::{Kind, Policy};
use crate::error::Result;
use crate::store::{ChunkId, Class, Space, Table};

use super::Shared;
use super::rows::{self, ChunkRow, Run};

/// Chunks of one tier and codec.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChunkStats {
    /// `hot` or `cold`.
    pub tier: &'static str,
    pub codec: Kind,
    pub chunks: u64,
    /// Bytes before and after coding.
    pub plain: u64,
    pub stored: u64,
}

/// A tier in figures. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    pub chunks: Vec<ChunkStats>,
    /// How often files name chunks, and the plain bytes behind these names:
    /// equal chunks count as often as they are used.
    pub references: u64,
    pub referenced: u64,
    /// Chunks that wait for the drain, and their plain bytes.
    pub queue: u64,
    pub queue_plain: u64,
    /// Chunks found in memory or not by readers.
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub cache_limit: u64,
    /// What waits for a commit.
    pub dirty: u64,
    /// Chunks that failed verification since the volume was opened.
    pub damaged: u64,
    /// Bytes that readers got and writers gave since then.
    pub read: u64,
    pub written: u64,
    pub space: Space,
}

/// What one file takes. A chunk that it names twice counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Footprint {
    pub chunks: u64,
    /// Bytes before and after coding.
    pub plain: u64,
    pub stored: u64,
}

/// A chunk as a file names it. All sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkUse {
    pub name: ChunkId,
    pub class: Class,
    pub kind: Kind,
    pub policy: Policy,
    /// Before and after coding.
    pub plain: u64,
    pub stored: u64,
    /// What the store keeps beside the frame: the header of its record and the
    /// chunk's name there, and its row.
    pub overhead: u64,
}

impl Shared {
    pub(super) fn footprint(&self, ino: u64) -> Result<Footprint> {
        let mut sum = Footprint::default();
        self.each_chunk(ino, &mut |chunk| {
            sum.chunks += 1;
            sum.plain += chunk.plain;
            sum.stored += chunk.stored;
        })?;
        Ok(sum)
    }

    pub(super) fn each_chunk(&self, ino: u64, each: &mut dyn FnMut(&ChunkUse)) -> Result<()> {
        let (mut from, end) = (rows::run_key(ino, 0), rows::runs_end(ino));
        loop {
            let page = self.store.scan(Table::Cmap, &from, end.as_deref(), 64)?;
            for (key, row) in &page {
                for name in Run::decode(row)?.names() {
                    if let Some(bytes) = self.store.get(Table::Chunk, &name.0)? {
                        let row = ChunkRow::decode(&bytes)?;
                        let stored = row.stored_len();
                        let logged = row.value.log_bytes(name.0.len());
                        let inline = if logged == 0 { stored } else { 0 };
                        let in_row = name.0.len() as u64 + bytes.len() as u64 - inline;
                        each(&ChunkUse {
                            name,
                            class: row.class,
                            kind: row.kind,
                            policy: row.policy,
                            plain: row.plain_len.into(),
                            stored,
                            overhead: logged.saturating_sub(stored) + in_row,
                        });
                    }
                }
                from = rows::run_key(ino, rows::parse_run_key(key)?.1.saturating_add(1));
            }
            if page.is_empty() {
                return Ok(());
            }
        }
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        let (counters, dirty) = {
            let state = self.state.lock();
            let waiting = state.waiting_bytes() + state.patches.memory();
            (state.counters.clone(), waiting as u64)
        };
        let mut chunks = Vec::new();
        for ((class, kind), count) in &counters.chunks {
            chunks.push(ChunkStats {
                tier: match *class == Class::Hot as u8 {
                    true => "hot",
                    false => "cold",
                },
                codec: Kind::of(&[*kind])?,
                chunks: count.chunks,
                plain: count.plain,
                stored: count.stored,
            });
        }
        let hot = counters.class(Class::Hot);
        Ok(Stats {
            chunks,
            references: counters.refs,
            referenced: counters.refs_plain,
            queue: hot.chunks,
            queue_plain: hot.plain,
            cache_hits: self.cache.hits.load(Ordering::Relaxed),
            cache_misses: self.cache.misses.load(Ordering::Relaxed),
            cache_bytes: self.cache.bytes(),
            cache_limit: self.options.cache_bytes as u64,
            dirty,
            damaged: self.damaged.lock().len() as u64,
            read: self.traffic.read.load(Ordering::Relaxed),
            written: self.traffic.written.load(Ordering::Relaxed),
            space: self.store.space()?,
        })
    }
}
