//! Changes that the store does not have yet, and reading through them.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::error::Result;
use crate::store::{ChunkId, Row, Store, Table};

use super::frames::Adopted;

/// Rows of one table: `None` means deleted.
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Changes of many operations, to become durable together.
#[derive(Default)]
pub struct Layer {
    tables: [Rows; Table::ALL.len()],
    /// Bytes of keys and values in `tables`.
    bytes: usize,
    /// What the chunks' reference counts change by.
    pub refs: HashMap<ChunkId, i64>,
    /// What the live bytes of value logs change by, for values that rows
    /// other than those of chunks own.
    pub live: HashMap<u64, i64>,
    /// Frames from elsewhere, of chunks that these changes name.
    pub adopted: HashMap<ChunkId, Adopted>,
    /// Logs of the values that these changes appended, one entry for each.
    pub appended: Vec<u64>,
}

impl Layer {
    pub fn table(&self, table: Table) -> &Rows {
        &self.tables[table as usize]
    }

    /// Sets an entry (`None`: as if never changed) and returns what was there.
    pub fn set(
        &mut self,
        table: Table,
        key: Vec<u8>,
        entry: Option<Option<Vec<u8>>>,
    ) -> Option<Option<Vec<u8>>> {
        let size = |entry: &Option<Vec<u8>>| entry.as_ref().map_or(0, Vec::len);
        let rows = &mut self.tables[table as usize];
        let key_len = key.len();
        let old = match entry {
            Some(entry) => {
                self.bytes += key_len + size(&entry);
                rows.insert(key, entry)
            }
            None => rows.remove(&key),
        };
        if let Some(old) = &old {
            self.bytes -= key_len + size(old);
        }
        old
    }

    /// Bytes of rows held here.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn add_refs(&mut self, name: ChunkId, change: i64) {
        *self.refs.entry(name).or_default() += change;
    }

    pub fn add_live(&mut self, log: u64, change: i64) {
        *self.live.entry(log).or_default() += change;
    }

    pub fn is_empty(&self) -> bool {
        self.refs.is_empty() && self.live.is_empty() && self.tables.iter().all(BTreeMap::is_empty)
    }

    /// Puts the changes of `later` on top of these.
    pub fn absorb(&mut self, later: Layer) {
        for (table, rows) in Table::ALL.into_iter().zip(later.tables) {
            for (key, value) in rows {
                self.set(table, key, Some(value));
            }
        }
        for (name, change) in later.refs {
            self.add_refs(name, change);
        }
        self.appended.extend(later.appended);
        self.adopted.extend(later.adopted);
        for (log, change) in later.live {
            self.add_live(log, change);
        }
    }
}

/// The store as seen through layers, the newest first.
pub struct View<'a> {
    pub layers: [Option<&'a Layer>; 2],
    pub store: &'a dyn Store,
}

impl View<'_> {
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        for layer in self.layers.into_iter().flatten() {
            if let Some(entry) = layer.table(table).get(key) {
                return Ok(entry.clone());
            }
        }
        self.store.get(table, key)
    }

    /// As [`Store::scan`].
    pub fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let mut out = Vec::new();
        let mut from = Bound::Included(start.to_vec());
        while out.len() < limit {
            if end.is_some_and(|end| first_key(&from).as_slice() >= end) {
                break;
            }
            // A page of the store, then what the layers say about that part
            // of the table. Deleted rows may leave fewer than asked for.
            let asked = (limit - out.len()).max(32);
            let stored = self.store.scan(table, &first_key(&from), end, asked)?;
            let more = stored.len() == asked;
            let upto = match (stored.last(), end) {
                (Some((last, _)), _) if more => Bound::Included(last.clone()),
                (_, Some(end)) => Bound::Excluded(end.to_vec()),
                (_, None) => Bound::Unbounded,
            };
            self.merge(table, stored, (&from, &upto), limit, &mut out);
            match upto {
                Bound::Included(last) if more => from = Bound::Excluded(last),
                _ => break,
            }
        }
        Ok(out)
    }

    fn merge(
        &self,
        table: Table,
        stored: Vec<Row>,
        (from, upto): (&Bound<Vec<u8>>, &Bound<Vec<u8>>),
        limit: usize,
        out: &mut Vec<Row>,
    ) {
        let [newest, older] = self.layers;
        let mut newest = entries(newest, table, from, upto).peekable();
        let mut older = entries(older, table, from, upto).peekable();
        let mut stored = stored.into_iter().peekable();
        while out.len() < limit {
            let keys = [
                newest.peek().map(|(key, _)| *key),
                older.peek().map(|(key, _)| *key),
                stored.peek().map(|(key, _)| key),
            ];
            let Some(key) = keys.into_iter().flatten().min().cloned() else {
                break;
            };
            // The newest of equal keys counts.
            let mut value = stored.next_if(|(k, _)| *k == key).map(|(_, value)| value);
            for layer in [&mut older, &mut newest] {
                if let Some((_, entry)) = layer.next_if(|(k, _)| **k == key) {
                    value = entry.clone();
                }
            }
            if let Some(value) = value {
                out.push((key, value));
            }
        }
    }
}

fn entries<'a>(
    layer: Option<&'a Layer>,
    table: Table,
    from: &Bound<Vec<u8>>,
    upto: &Bound<Vec<u8>>,
) -> impl Iterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)> {
    let range = (from.clone(), upto.clone());
    layer
        .into_iter()
        .flat_map(move |layer| layer.table(table).range(range.clone()))
}

/// The least key that the bound lets in.
fn first_key(from: &Bound<Vec<u8>>) -> Vec<u8> {
    match from {
        Bound::Included(key) => key.clone(),
        Bound::Excluded(key) => [key.as_slice(), &[0]].concat(),
        Bound::Unbounded => Vec::new(),
    }
}
