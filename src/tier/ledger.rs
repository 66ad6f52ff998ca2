//! Which value logs still hold something that is needed.

use std::collections::HashMap;

use crate::error::Result;
use crate::store::{Class, Store, Table, ValueRef};

use super::rows;

/// Live bytes of the value logs.
///
/// A value that was appended is not yet named by any row until its commit. It
/// must not be mistaken for garbage meanwhile, so appends go through here.
#[derive(Default)]
pub struct Ledger {
    /// What the `Log` rows say: bytes of records that committed rows name.
    live: HashMap<u64, u64>,
    /// Records appended whose commit has not ended.
    unsettled: HashMap<u64, u64>,
}

impl Ledger {
    pub fn load(store: &dyn Store) -> Result<Self> {
        let mut ledger = Self::default();
        for (key, row) in store.scan(Table::Log, &[], None, usize::MAX)? {
            ledger
                .live
                .insert(rows::parse_u64(&key)?, rows::parse_u64(&row)?);
        }
        Ok(ledger)
    }

    /// Appends a value that [`settle`](Self::settle) must hear of when the
    /// commit that names it is durable, or when it was given up.
    pub fn append(
        &mut self,
        store: &dyn Store,
        class: Class,
        table: Table,
        key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        let value = store.append(class, table, key, payload)?;
        if let ValueRef::Log { log, .. } = value {
            *self.unsettled.entry(log).or_default() += 1;
        }
        Ok(value)
    }

    pub fn settle(&mut self, value: &ValueRef) {
        if let ValueRef::Log { log, .. } = value {
            self.settle_log(*log);
        }
    }

    pub fn settle_log(&mut self, log: u64) {
        if let Some(count) = self.unsettled.get_mut(&log) {
            *count -= 1;
            if *count == 0 {
                self.unsettled.remove(&log);
            }
        }
    }

    /// Live bytes of a log; `None` while records in it wait for their commit.
    pub fn live(&self, log: u64) -> Option<u64> {
        match self.unsettled.contains_key(&log) {
            true => None,
            false => Some(self.live.get(&log).copied().unwrap_or(0)),
        }
    }

    /// What the `Log` rows become with these changes.
    pub fn changed(&self, changes: &HashMap<u64, i64>) -> Vec<(u64, u64)> {
        let changed = |(log, change): (&u64, &i64)| {
            let before = self.live.get(log).copied().unwrap_or(0);
            (*log, before.saturating_add_signed(*change))
        };
        changes.iter().map(changed).collect()
    }

    /// Takes over what [`changed`](Self::changed) said and a commit wrote.
    pub fn committed(&mut self, rows: Vec<(u64, u64)>) {
        for (log, live) in rows {
            match live {
                0 => self.live.remove(&log),
                _ => self.live.insert(log, live),
            };
        }
    }
}
