//! The figures of a mounted store for Prometheus, in the text format of
//! OpenMetrics. `docs/METRICS.md` is the contract.

mod listen;

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::error::{Error, Result};
use crate::filesystem::Report;

pub use listen::{Listen, Server};

/// What an answer's `Content-Type` says.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<i64, AtomicI64>>;

/// Registers figures one by one.
struct Figures {
    registry: Registry,
}

impl Figures {
    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        let gauge = Gauge::<i64, AtomicI64>::default();
        gauge.set(signed(value));
        self.registry.register(name, help, gauge);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = Counter::<u64, AtomicU64>::default();
        counter.inc_by(value);
        self.registry.register(name, help, counter);
    }

    fn family(&mut self, name: &str, help: &str, values: &[(Labels, u64)]) {
        let family = Gauges::default();
        for (labels, value) in values {
            family.get_or_create(labels).set(signed(*value));
        }
        self.registry.register(name, help, family);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A report as text.
pub fn text(report: &Report) -> Result<String> {
    let mut f = Figures {
        registry: Registry::with_prefix("laconicfs"),
    };
    let model = report.model.as_ref().map_or("none", |model| &model.name);
    f.family(
        "info",
        "The program and the model that new chunks are coded with; always 1",
        &[(
            vec![
                ("version", env!("CARGO_PKG_VERSION").into()),
                ("model", model.into()),
            ],
            1,
        )],
    );
    f.gauge("files", "Regular files", report.files);
    f.gauge("directories", "Directories", report.directories);
    f.gauge(
        "logical_bytes",
        "Sum of the sizes of the files",
        report.logical,
    );
    f.gauge(
        "referenced_bytes",
        "Plain bytes behind the chunks that files name, equal chunks as often as they are named",
        report.referenced,
    );

    let by_codec = |value: fn(&crate::filesystem::Chunks) -> u64| -> Vec<(Labels, u64)> {
        let labels = |chunks: &crate::filesystem::Chunks| {
            vec![
                ("tier", chunks.tier.clone()),
                ("codec", chunks.codec.clone()),
            ]
        };
        let rows = report.chunks.iter();
        rows.map(|row| (labels(row), value(row))).collect()
    };
    f.family("chunks", "Stored chunks", &by_codec(|row| row.chunks));
    f.family(
        "chunk_plain_bytes",
        "Bytes of the stored chunks before coding",
        &by_codec(|row| row.plain),
    );
    f.family(
        "chunk_stored_bytes",
        "Bytes of the stored chunks after coding",
        &by_codec(|row| row.stored),
    );

    let disk = &report.disk;
    let parts = [
        ("database", disk.database),
        ("logs", disk.logs),
        ("other", disk.other),
    ];
    f.family(
        "disk_bytes",
        "What the store takes on disk",
        &parts.map(|(part, bytes)| (vec![("part", part.to_string())], bytes)),
    );
    f.gauge(
        "disk_available_bytes",
        "What the store's disk has left",
        disk.available,
    );
    f.gauge(
        "disk_capacity_bytes",
        "Size of the store's disk",
        disk.capacity,
    );

    f.gauge(
        "queue_chunks",
        "Chunks that wait to be coded small",
        report.queue.chunks,
    );
    f.gauge(
        "queue_bytes",
        "Plain bytes of the chunks that wait to be coded small",
        report.queue.plain,
    );
    f.gauge(
        "damaged_chunks",
        "Chunks that could not be read since the store was opened",
        report.damaged,
    );

    let cache = &report.cache;
    f.counter(
        "cache_hits",
        "Chunks that readers found in memory",
        cache.hits,
    );
    f.counter(
        "cache_misses",
        "Chunks that had to be read and decoded for readers",
        cache.misses,
    );
    f.gauge("cache_bytes", "Memory of decoded chunks", cache.bytes);
    f.gauge("cache_limit_bytes", "Bound of that memory", cache.limit);
    f.gauge(
        "dirty_bytes",
        "Written bytes in memory that wait for a commit",
        cache.dirty,
    );
    f.counter("read_bytes", "Bytes that readers got", report.traffic.read);
    f.counter(
        "written_bytes",
        "Bytes that writers gave",
        report.traffic.written,
    );

    let drain = &report.drain;
    f.gauge(
        "drain_working",
        "1 while the drain codes chunks, 0 while it rests",
        drain.rest.is_none().into(),
    );
    f.gauge(
        "drain_paused",
        "1 while someone has paused the drain",
        drain.paused.into(),
    );
    f.counter(
        "drain_chunks",
        "Chunks that the drain has coded",
        drain.chunks,
    );
    f.counter(
        "drain_plain_bytes",
        "Bytes of the chunks that the drain has coded, before any coding",
        drain.plain,
    );
    f.counter(
        "drain_before_bytes",
        "Bytes of the frames of these chunks in the hot tier",
        drain.stored_before,
    );
    f.counter(
        "drain_after_bytes",
        "Bytes of the frames that the drain has made",
        drain.stored_after,
    );
    let worked = Counter::<f64, AtomicU64>::default();
    worked.inc_by(drain.worked);
    f.registry.register_with_unit(
        "drain_working",
        "Time in which the drain has worked",
        Unit::Seconds,
        worked,
    );

    let mut out = String::new();
    encode(&mut out, &f.registry).map_err(|_| Error::Other("writing metrics failed".into()))?;
    Ok(out)
}

#[cfg(test)]
mod tests;
