//! `laconicfs top`: a mounted store, live.

mod view;

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use serde::Serialize;

use super::exit::{Exit, failure};
use super::locate::{self, Found, Open};
use super::report;
use crate::control::Ask;
use crate::filesystem::Report;

/// Samples that are kept: as many as a wide terminal has columns.
const KEPT: usize = 300;

/// Rates are taken over this time, so that they do not jump.
const OVER: Duration = Duration::from_secs(5);

#[derive(Args)]
#[command(
    long_about = "Show live what a mounted store does: how far the drain has come and how long \
        the rest will take at the speed of its last chunks, what goes in and out, how often \
        reads are served from memory, what the files take.\n\n\
        Keys: p pauses the drain and lets it go on, q leaves. With --json one line for each look.",
    after_help = "Examples:\n  laconicfs top ~/notes\n  \
        laconicfs top --json --interval 10 ~/notes >> notes.jsonl"
)]
pub struct TopArgs {
    /// A mount point, or a store that is mounted
    #[arg(value_name = "DIR|STORE")]
    path: PathBuf,
    /// Seconds between looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = interval)]
    interval: f64,
    /// Leave after so many looks
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

fn interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Ok(seconds),
        _ => Err("write seconds from 0.1 to 86400".into()),
    }
}

/// What happens between two looks. All rates are bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Rates {
    pub read: f64,
    pub written: f64,
    /// Plain bytes that the drain coded.
    pub coded: f64,
    /// Part of the chunks that readers found in memory, 0 to 1; `None` when
    /// nobody read.
    pub hits: Option<f64>,
}

impl Rates {
    /// Between two reports of one mount, `seconds` apart.
    pub fn between(from: &Report, to: &Report, seconds: f64) -> Rates {
        // A mount that was begun anew counts from zero again.
        let more = |from: u64, to: u64| to.saturating_sub(from) as f64;
        let rate = |from, to| match seconds > 0.0 {
            true => more(from, to) / seconds,
            false => 0.0,
        };
        let hits = more(from.cache.hits, to.cache.hits);
        let looks = hits + more(from.cache.misses, to.cache.misses);
        Rates {
            read: rate(from.traffic.read, to.traffic.read),
            written: rate(from.traffic.written, to.traffic.written),
            coded: rate(from.drain.plain, to.drain.plain),
            hits: (looks > 0.0).then(|| hits / looks),
        }
    }
}

/// The last looks.
#[derive(Default)]
struct Samples {
    looks: VecDeque<(Instant, Report)>,
}

impl Samples {
    fn push(&mut self, now: Instant, report: Report) {
        self.looks.push_back((now, report));
        if self.looks.len() > KEPT {
            self.looks.pop_front();
        }
    }

    /// Rates of the last seconds.
    fn rates(&self) -> Rates {
        let Some((now, last)) = self.looks.back() else {
            return Rates::default();
        };
        let from = self
            .looks
            .iter()
            .rev()
            .skip(1)
            .take_while(|(at, _)| *now - *at <= OVER)
            .last()
            .or_else(|| self.looks.iter().rev().nth(1));
        match from {
            Some((at, first)) => Rates::between(first, last, (*now - *at).as_secs_f64()),
            None => Rates::default(),
        }
    }

    /// The rates between each two looks, the newest last.
    fn history(&self) -> Vec<Rates> {
        let pairs = self.looks.iter().zip(self.looks.iter().skip(1));
        pairs
            .map(|((from, first), (to, last))| {
                Rates::between(first, last, (*to - *from).as_secs_f64())
            })
            .collect()
    }
}

pub fn run(args: &TopArgs, json: bool) -> Result<()> {
    let Found::Open(mut open) = locate::find(&args.path)? else {
        return Err(failure(
            Exit::NotMounted,
            format!(
                "{} is not mounted, nothing happens in it; `laconicfs stat` shows what it holds",
                args.path.display()
            ),
        ));
    };
    if json {
        return stream(&mut open, args);
    }
    if !std::io::stdout().is_terminal() {
        return Err(failure(
            Exit::Usage,
            "standard output is not a terminal: use --json",
        ));
    }
    // Errors before the screen is taken are shown where they can be read.
    let first: Report = open.ask_for(Ask::Stat)?;
    let mut terminal = ratatui::try_init().context("taking the terminal")?;
    let result = live(&mut terminal, &mut open, first, args);
    ratatui::restore();
    result
}

/// A look as a line of JSON.
#[derive(Serialize)]
struct Look<'a> {
    /// Seconds since 1970.
    time: f64,
    rates: Rates,
    #[serde(flatten)]
    report: &'a Report,
}

fn stream(open: &mut Open, args: &TopArgs) -> Result<()> {
    let mut samples = Samples::default();
    let mut looks = 0;
    loop {
        let begun = Instant::now();
        samples.push(begun, open.ask_for(Ask::Stat)?);
        let Some((_, report)) = samples.looks.back() else {
            return Ok(());
        };
        let look = Look {
            time: jiff::Timestamp::now().as_millisecond() as f64 / 1000.0,
            rates: samples.rates(),
            report,
        };
        let line = serde_json::to_string(&look).context("writing JSON")?;
        if !report::line(&line)? {
            return Ok(());
        }
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs_f64(args.interval).saturating_sub(begun.elapsed()));
    }
}

fn live(
    terminal: &mut ratatui::DefaultTerminal,
    open: &mut Open,
    first: Report,
    args: &TopArgs,
) -> Result<()> {
    let mut samples = Samples::default();
    samples.push(Instant::now(), first);
    let every = Duration::from_secs_f64(args.interval);
    let mut looks = 1;
    loop {
        let Some((_, report)) = samples.looks.back() else {
            return Ok(());
        };
        let paused = report.drain.paused;
        let (rates, history) = (samples.rates(), samples.history());
        terminal
            .draw(|frame| view::draw(frame, report, &rates, &history))
            .context("drawing")?;
        if args.count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        let next = Instant::now() + every;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if !event::poll(left).context("reading keys")? {
                break;
            }
            let Event::Key(key) = event::read().context("reading keys")? else {
                // The window has another size: draw.
                break;
            };
            if key.kind == KeyEventKind::Release {
                continue;
            }
            let control = key.modifiers.contains(KeyModifiers::CONTROL);
            match key.code {
                KeyCode::Char('c') if control => return Ok(()),
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('p' | ' ') => {
                    let ask = if paused { Ask::Resume } else { Ask::Pause };
                    open.ask(ask, &mut |_| ())?;
                    break;
                }
                _ => {}
            }
        }
        samples.push(Instant::now(), open.ask_for(Ask::Stat)?);
        looks += 1;
    }
}

#[cfg(test)]
pub(super) mod tests;
