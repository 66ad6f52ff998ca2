//! A store that fails where a test tells it to.

use parking_lot::Mutex;

use super::{Batch, Class, LogInfo, LogRecord, Row, Space, Store, Table, ValueRef};
use crate::error::{Error, Result};

/// The calls that change a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Append,
    Commit,
    Seal,
    Remove,
}

/// What goes wrong, and when.
pub struct Fault {
    /// Only calls of this kind count, or all that change something.
    pub call: Option<Call>,
    /// How many of them succeed before.
    pub skip: u64,
    /// The call fails although it took effect.
    pub after: bool,
    /// All later ones fail as well.
    pub for_ever: bool,
    pub error: fn() -> Error,
}

/// Wraps a store and plays one [`Fault`] at a time.
pub struct FaultyStore<S> {
    inner: S,
    fault: Mutex<Option<Fault>>,
    calls: Mutex<u64>,
}

impl<S: Store> FaultyStore<S> {
    pub fn new(inner: S) -> Self {
        Self {
            inner,
            fault: Mutex::default(),
            calls: Mutex::default(),
        }
    }

    /// Arms a fault, in the place of an earlier one; `None` ends all faults.
    pub fn arm(&self, fault: Option<Fault>) {
        *self.fault.lock() = fault;
    }

    /// Calls so far that change something, failed ones included.
    pub fn calls(&self) -> u64 {
        *self.calls.lock()
    }

    pub fn inner(&self) -> &S {
        &self.inner
    }

    fn perform<T>(&self, call: Call, f: impl FnOnce() -> Result<T>) -> Result<T> {
        *self.calls.lock() += 1;
        let mut armed = self.fault.lock();
        let due = armed
            .as_mut()
            .filter(|fault| fault.call.is_none_or(|only| only == call));
        let Some(fault) = due else {
            drop(armed);
            return f();
        };
        if fault.skip > 0 {
            fault.skip -= 1;
            drop(armed);
            return f();
        }
        let (error, after) = ((fault.error)(), fault.after);
        if !fault.for_ever {
            *armed = None;
        }
        drop(armed);
        if after {
            f()?;
        }
        Err(error)
    }
}

impl<S: Store> Store for FaultyStore<S> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.inner.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        start: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>> {
        self.inner.scan(table, start, end, limit)
    }

    fn commit(&self, batch: Batch) -> Result<()> {
        self.perform(Call::Commit, || self.inner.commit(batch))
    }

    fn append(
        &self,
        class: Class,
        owner_table: Table,
        owner_key: &[u8],
        payload: &[u8],
    ) -> Result<ValueRef> {
        self.perform(Call::Append, || {
            self.inner.append(class, owner_table, owner_key, payload)
        })
    }

    fn value(&self, value: &ValueRef) -> Result<Vec<u8>> {
        self.inner.value(value)
    }

    fn logs(&self) -> Result<Vec<LogInfo>> {
        self.inner.logs()
    }

    fn walk_log(&self, log: u64, each: &mut dyn FnMut(LogRecord) -> Result<()>) -> Result<u64> {
        self.inner.walk_log(log, each)
    }

    fn seal_logs(&self) -> Result<()> {
        self.perform(Call::Seal, || self.inner.seal_logs())
    }

    fn remove_log(&self, log: u64) -> Result<()> {
        self.perform(Call::Remove, || self.inner.remove_log(log))
    }

    fn space(&self) -> Result<Space> {
        self.inner.space()
    }
}
