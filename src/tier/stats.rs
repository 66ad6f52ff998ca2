//! What a tier holds and does, in figures.

use std::sync::atomic::Ordering;

use crate::codec::Kind;
use crate::error::Result;
use crate::store::{Class, Space, Table};

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

impl Shared {
    pub(super) fn footprint(&self, ino: u64) -> Result<Footprint> {
        let mut sum = Footprint::default();
        let (mut from, end) = (rows::run_key(ino, 0), rows::runs_end(ino));
        loop {
            let page = self.store.scan(Table::Cmap, &from, end.as_deref(), 64)?;
            for (key, row) in &page {
                for name in Run::decode(row)?.names() {
                    if let Some(row) = self.store.get(Table::Chunk, &name.0)? {
                        let row = ChunkRow::decode(&row)?;
                        sum.chunks += 1;
                        sum.plain += u64::from(row.plain_len);
                        sum.stored += row.stored_len();
                    }
                }
                from = rows::run_key(ino, rows::parse_run_key(key)?.1.saturating_add(1));
            }
            if page.is_empty() {
                return Ok(sum);
            }
        }
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        let (counters, dirty) = {
            let state = self.state.lock();
            (state.counters.clone(), state.waiting_bytes() as u64)
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
            space: self.store.space()?,
        })
    }
}
