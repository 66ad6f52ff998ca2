use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::filesystem::{Cache, Chunks, Disk, Drain, Mounted, Queue, Traffic};
use crate::tier::Rest;

/// A mount that works.
pub fn report() -> Report {
    let chunks = |tier: &str, codec: &str, plain, stored| Chunks {
        tier: tier.into(),
        codec: codec.into(),
        chunks: 1,
        plain,
        stored,
    };
    Report {
        store: "/srv/s".into(),
        mounted: Some(Mounted {
            dir: "/srv/notes".into(),
            pid: 7,
        }),
        model: None,
        chunk_size: 65536,
        files: 12,
        directories: 1,
        others: 0,
        logical: 4 << 20,
        disk: Disk {
            total: 1 << 20,
            database: 0,
            logs: 1 << 20,
            other: 0,
            available: 0,
            capacity: 0,
        },
        chunks: vec![
            chunks("hot", "zstd", 1 << 20, 1 << 19),
            chunks("cold", "lm", 3 << 20, 3 << 18),
        ],
        references: 0,
        referenced: 0,
        snapshots: 0,
        in_snapshots: 0,
        queue: Queue {
            chunks: 16,
            plain: 1 << 20,
        },
        cache: Cache {
            hits: 90,
            misses: 10,
            bytes: 1 << 20,
            limit: 256 << 20,
            dirty: 0,
        },
        damaged: 0,
        drain: Drain {
            paused: false,
            rest: None,
            why: None,
            seconds_left: Some(125.0),
            chunks: 48,
            plain: 3 << 20,
            stored_before: 3 << 19,
            stored_after: 3 << 18,
            worked: 30.0,
            rate: Some(1e5),
            threads: 2,
            quiet: 30.0,
            cpu_share: 100,
            hours: "always".into(),
            max_load: None,
            min_battery: None,
        },
        traffic: Traffic {
            read: 5 << 20,
            written: 4 << 20,
        },
    }
}

/// The screen as text.
fn screen(report: &Report, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    let mut earlier = report.clone();
    earlier.traffic = Traffic::default();
    earlier.cache.hits = 0;
    earlier.cache.misses = 0;
    let rates = Rates::between(&earlier, report, 2.0);
    terminal
        .draw(|frame| view::draw(frame, report, &rates, &[rates]))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let rows = (0..height).map(|y| {
        let row: String = (0..width).map(|x| buffer[(x, y)].symbol()).collect();
        row.trim_end().to_string()
    });
    rows.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_wide_terminal_shows_everything() {
    let text = screen(&report(), 80, 24);
    for part in [
        "laconicfs /srv/notes",
        "75.0 % coded, 2m 5s left",
        "12 files, 4.00 MiB",
        "1.00 MiB, 25.0 % of the files",
        "chunks 31.2 % of plain, coded ones 25.0 %",
        "16 chunks, 1.00 MiB",
        "works at 97.66 KiB/s on 2 threads",
        "2.50 MiB/s read, 2.00 MiB/s written",
        "hits 90.0 %",
        "read (up to 2.50 MiB/s)",
        "p: pause the drain   q: leave",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("damaged"), "{text}");
}

#[test]
fn a_narrow_or_low_terminal_shows_what_fits() {
    let text = screen(&report(), 30, 14);
    for part in ["75.0 % coded", "12 files", "2.50 MiB/s read", "q: leave"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("up to"), "{text}");
    for (width, height) in [(1, 1), (5, 2), (12, 40), (300, 3)] {
        screen(&report(), width, height);
    }
}

#[test]
fn a_drain_that_rests_says_why() {
    let mut report = report();
    report.drain.paused = true;
    report.drain.rest = Some(Rest::Paused);
    report.drain.why = Some(Rest::Paused.to_string());
    report.drain.seconds_left = None;
    report.damaged = 3;
    let text = screen(&report, 80, 24);
    assert!(text.contains("rests: paused"), "{text}");
    assert!(text.contains("p: let the drain go on"), "{text}");
    assert!(
        text.contains("75.0 % coded") && !text.contains("left"),
        "{text}"
    );
    assert!(text.contains("3 chunks could not be read"), "{text}");
}

#[test]
fn rates_span_the_last_seconds() {
    let mut samples = Samples::default();
    assert_eq!(samples.rates(), Rates::default());
    let begin = Instant::now();
    let at = |seconds: u64, read: u64| {
        let mut report = report();
        report.traffic.read = read;
        (begin + Duration::from_secs(seconds), report)
    };
    for (seconds, read) in [(0, 0), (1, 1000), (2, 1000), (12, 6000)] {
        let (when, report) = at(seconds, read);
        samples.push(when, report);
    }
    // Looks far apart: the last two.
    assert_eq!(samples.rates().read, 500.0);
    assert_eq!(samples.rates().hits, None);
    let history: Vec<f64> = samples.history().iter().map(|r| r.read).collect();
    assert_eq!(history, [1000.0, 0.0, 500.0]);
    // A mount that was begun anew counts from zero.
    let (when, report) = at(13, 10);
    samples.push(when, report);
    assert_eq!(samples.rates().read, 0.0);
}
