//! What `top` shows.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Sparkline, Wrap};

use super::Rates;
use crate::cli::report::{duration, percent, size};
use crate::filesystem::Report;

/// Terminals narrower than this get no names before the figures.
const NARROW: u16 = 40;

/// Fewer rows leave no room for the curves.
const LOW: u16 = 20;

pub fn draw(frame: &mut Frame<'_>, report: &Report, rates: &Rates, history: &[Rates]) {
    let area = frame.area();
    let figures = Paragraph::new(figures(report, rates, area.width)).wrap(Wrap { trim: true });
    let curves = if area.height >= LOW { 3 } else { 0 };
    let rows = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(curves),
        Constraint::Length(curves),
        Constraint::Length(curves),
        Constraint::Length(1),
    ])
    .split(area);
    let bold = Style::new().add_modifier(Modifier::BOLD);
    frame.render_widget(Paragraph::new(title(report)).style(bold), rows[0]);
    frame.render_widget(gauge(report), rows[1]);
    frame.render_widget(figures, rows[2]);
    if curves > 0 {
        let curve = |name, color, of: fn(&Rates) -> f64| Curve {
            name,
            color,
            values: history.iter().map(of).collect(),
        };
        curve("read", Color::Cyan, |r| r.read).draw(frame, rows[3]);
        curve("written", Color::Yellow, |r| r.written).draw(frame, rows[4]);
        curve("coded", Color::Green, |r| r.coded).draw(frame, rows[5]);
    }
    let keys = match report.drain.paused {
        true => "p: let the drain go on   q: leave",
        false => "p: pause the drain   q: leave",
    };
    let dim = Style::new().add_modifier(Modifier::DIM);
    frame.render_widget(Paragraph::new(keys).style(dim), rows[6]);
}

fn title(report: &Report) -> String {
    match &report.mounted {
        Some(mounted) => format!("laconicfs {}", mounted.dir.display()),
        None => format!("laconicfs {}", report.store.display()),
    }
}

/// How much of what is stored is coded small.
fn gauge(report: &Report) -> Gauge<'static> {
    let stored: u64 = report.chunks.iter().map(|row| row.plain).sum();
    let waits = report.queue.plain.min(stored);
    let done = match stored {
        0 => 1.0,
        _ => (stored - waits) as f64 / stored as f64,
    };
    let label = match (report.drain.seconds_left, waits) {
        (_, 0) => "everything is coded".to_string(),
        (Some(left), _) => format!("{:.1} % coded, {} left", done * 100.0, duration(left)),
        (None, _) => format!("{:.1} % coded", done * 100.0),
    };
    Gauge::default()
        .ratio(done.clamp(0.0, 1.0))
        .label(label)
        .gauge_style(Style::new().fg(Color::Green).bg(Color::DarkGray))
}

fn figures(report: &Report, rates: &Rates, width: u16) -> Vec<Line<'static>> {
    let line = |name: &str, text: String| match width < NARROW {
        true => Line::from(text),
        false => Line::from(vec![
            Span::styled(
                format!("{name:<9}"),
                Style::new().add_modifier(Modifier::DIM),
            ),
            Span::raw(text),
        ]),
    };
    let rate = |bytes: f64| format!("{}/s", size(bytes as u64));
    let (plain, stored) = report.chunks.iter().fold((0, 0), |(plain, stored), row| {
        (plain + row.plain, stored + row.stored)
    });
    let drain = &report.drain;
    let cold = |row: &&crate::filesystem::Chunks| row.tier == "cold";
    let (cold_plain, cold_stored) = report
        .chunks
        .iter()
        .filter(cold)
        .fold((0, 0), |(plain, stored), row| {
            (plain + row.plain, stored + row.stored)
        });
    let mut lines = vec![
        line(
            "files",
            format!("{} files, {}", report.files, size(report.logical)),
        ),
        line(
            "on disk",
            format!(
                "{}, {} of the files",
                size(report.disk.total),
                percent(report.disk.total, report.logical)
            ),
        ),
        line(
            "ratio",
            format!(
                "chunks {} of plain, coded ones {}",
                percent(stored, plain),
                percent(cold_stored, cold_plain)
            ),
        ),
        line(
            "queue",
            format!(
                "{} chunks, {}",
                report.queue.chunks,
                size(report.queue.plain)
            ),
        ),
        line(
            "drain",
            match &drain.why {
                Some(why) => format!("rests: {why}"),
                None => format!(
                    "works at {} on {} threads",
                    rate(drain.rate.unwrap_or(rates.coded)),
                    drain.threads
                ),
            },
        ),
        line(
            "coded",
            format!(
                "{} since the mount: {} became {}",
                size(drain.plain),
                size(drain.stored_before),
                size(drain.stored_after)
            ),
        ),
        line(
            "traffic",
            format!("{} read, {} written", rate(rates.read), rate(rates.written)),
        ),
        line(
            "cache",
            format!(
                "{} of {}, hits {}",
                size(report.cache.bytes),
                size(report.cache.limit),
                match rates.hits {
                    Some(hits) => format!("{:.1} %", hits * 100.0),
                    None => "-".into(),
                }
            ),
        ),
    ];
    if report.damaged > 0 {
        let red = Style::new().fg(Color::Red);
        let text = format!("{} chunks could not be read", report.damaged);
        lines.push(line("damaged", text).style(red));
    }
    lines
}

struct Curve {
    name: &'static str,
    color: Color,
    values: Vec<f64>,
}

impl Curve {
    /// The newest at the right, with its name and its highest value.
    fn draw(&self, frame: &mut Frame<'_>, area: Rect) {
        let room = usize::from(area.width);
        let shown = &self.values[self.values.len().saturating_sub(room)..];
        let highest = shown.iter().copied().fold(0.0, f64::max);
        let values: Vec<u64> = shown.iter().map(|value| *value as u64).collect();
        let title = format!("{} (up to {}/s)", self.name, size(highest as u64));
        let spark = Sparkline::default()
            .block(Block::new().title(title))
            .style(Style::new().fg(self.color))
            .data(values);
        frame.render_widget(spark, area);
    }
}
