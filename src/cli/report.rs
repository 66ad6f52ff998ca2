//! What commands print: tables and figures for people, JSON for programs.

use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use indicatif::BinaryBytes;
use serde::Serialize;

/// Writes to standard output. A reader that has gone away (`| head`) has seen
/// all that it wanted: not an error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("writing to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes one line of several; `false` when the reader has gone away.
pub fn line(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("writing to standard output"),
    }
}

/// Prints `value` as JSON, or what `human` says.
pub fn emit<T: Serialize>(json: bool, value: &T, human: impl FnOnce() -> String) -> Result<()> {
    if json {
        let text = serde_json::to_string_pretty(value).context("writing JSON")?;
        return print(&format!("{text}\n"));
    }
    print(&human())
}

/// A size for people: `1.25 MiB`.
pub fn size(bytes: u64) -> String {
    BinaryBytes(bytes).to_string()
}

/// A time for people, from seconds: `3h 20m`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e9).round() as u64;
    match (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// `part` of `whole` per cent; a dash where there is no whole.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".into(),
        _ => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

/// What a store takes against its files: in small ones the model is most of it,
/// and per cents say nothing.
pub fn against(on_disk: u64, logical: u64, files: &str) -> String {
    match on_disk > logical.saturating_mul(4) {
        true => "mostly the model and what every store has".into(),
        false => format!("{} of {files}", percent(on_disk, logical)),
    }
}

/// Bits that one plain byte takes.
pub fn bits_per_byte(stored: u64, plain: u64) -> f64 {
    match plain {
        0 => 0.0,
        _ => stored as f64 * 8.0 / plain as f64,
    }
}

/// A table: the first column to the left, the others, which are figures mostly,
/// to the right.
pub struct Table {
    rows: Vec<Vec<String>>,
    left: bool,
}

impl Table {
    pub fn new(header: &[&str]) -> Self {
        Self {
            rows: vec![header.iter().map(|cell| cell.to_string()).collect()],
            left: false,
        }
    }

    /// A table of words: all columns to the left.
    pub fn left(header: &[&str]) -> Self {
        Self {
            left: true,
            ..Self::new(header)
        }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// A line across, before the sums.
    pub fn rule(&mut self) {
        self.rows.push(Vec::new());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            if row.is_empty() {
                let line = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
                writeln!(f, "{}", "-".repeat(line))?;
                continue;
            }
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => line.push_str(&format!("{cell:<width$}")),
                    _ if self.left => line.push_str(&format!("  {cell:<width$}")),
                    _ => line.push_str(&format!("  {cell:>width$}")),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["file", "bytes"]);
        table.row(vec!["ä".into(), "7".into()]);
        table.rule();
        table.row(vec!["total".into(), "1234567".into()]);
        let expected = "file     bytes\nä            7\n--------------\ntotal  1234567\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn figures_of_nothing() {
        assert_eq!(percent(1, 0), "-");
        assert_eq!(against(1, 2, "logical"), "50.0 % of logical");
        assert!(against(9, 2, "logical").contains("model"));
        assert!(against(9, 0, "logical").contains("model"));
        assert_eq!(bits_per_byte(5, 0), 0.0);
        assert_eq!(bits_per_byte(1, 4), 2.0);
        assert_eq!(size(1536), "1.50 KiB");
        let texts = [0.4, 61.0, 3_700.0, 200_000.0, f64::INFINITY].map(duration);
        assert_eq!(texts, ["0s", "1m 1s", "1h 1m", "2d 7h", "11574d 1h"]);
    }
}
