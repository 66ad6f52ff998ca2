//! Values as people write them. Errors are phrases that go on after
//! "`VALUE` for KEY: ".

use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::Time;

use crate::mount::MountOptions;

/// Puts what was parsed into its place.
pub fn put<T>(place: &mut T, parsed: Result<T, String>) -> Result<(), String> {
    *place = parsed?;
    Ok(())
}

/// `word` is `None`, anything else a value.
pub fn unless<T: FromStr>(word: &str, text: &str) -> Result<Option<T>, String>
where
    T::Err: Display,
{
    match text == word {
        true => Ok(None),
        false => match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(format!("{error}; or write {word}")),
        },
    }
}

pub fn show_unless<T: Display>(word: &str, value: &Option<T>) -> String {
    value
        .as_ref()
        .map_or_else(|| word.to_string(), T::to_string)
}

/// Mount options: known ones, whose list is kept as it is written.
pub fn options(text: &str) -> Result<String, String> {
    MountOptions::default()
        .parse(text)
        .map_err(|error| error.to_string())?;
    Ok(text.into())
}

/// `30`, `30s`, `1h 30m`; a bare number counts seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let said = || "write a time such as 30s, 10m or 2h".to_string();
    let parsed: SignedDuration = text.parse().map_err(|_| said())?;
    Duration::try_from(parsed).map_err(|_| said())
}

pub fn show_duration(duration: Duration) -> String {
    match SignedDuration::try_from(duration) {
        Ok(duration) => format!("{duration:#}"),
        // Longer than any calendar.
        Err(_) => format!("{}", duration.as_secs()),
    }
}

/// 1 to 100.
pub fn percent(text: &str) -> Result<u8, String> {
    text.trim_end_matches('%')
        .trim_end()
        .parse()
        .ok()
        .filter(|percent| (1..=100).contains(percent))
        .ok_or_else(|| "write a number of per cent from 1 to 100".into())
}

pub fn battery(text: &str) -> Result<Option<u8>, String> {
    match text {
        "off" => Ok(None),
        text => percent(text)
            .map(Some)
            .map_err(|error| format!("{error}; or write off")),
    }
}

pub fn load(text: &str) -> Result<Option<f64>, String> {
    match (text, text.parse::<f64>()) {
        ("off", _) => Ok(None),
        (_, Ok(load)) if load.is_finite() && load >= 0.0 => Ok(Some(load)),
        _ => Err("write a number such as 1.5; or write off".into()),
    }
}

/// A filter of the log: levels, or levels of targets.
pub fn filter(text: &str) -> Result<String, String> {
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        if level.parse::<log::LevelFilter>().is_err() {
            return Err(format!(
                "`{level}` is no level: write error, warn, info, debug, trace or off"
            ));
        }
    }
    Ok(text.into())
}

/// Hours of the day. Without any range: always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    /// From, inclusive, and to, exclusive; a range may pass midnight.
    ranges: Vec<(Time, Time)>,
}

impl Hours {
    /// Whether this time of the day is one of them.
    pub fn contains(&self, now: Time) -> bool {
        let within = |(from, to): &(Time, Time)| match from < to {
            true => *from <= now && now < *to,
            false => *from <= now || now < *to,
        };
        self.ranges.is_empty() || self.ranges.iter().any(within)
    }
}

impl FromStr for Hours {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "always" {
            return Ok(Self::default());
        }
        let said = || "write ranges of hours such as 22:00-06:00; or write always".to_string();
        let time = |text: &str| Time::strptime("%H:%M", text.trim()).map_err(|_| said());
        let mut ranges = Vec::new();
        for range in text.split(',') {
            let (from, to) = range.split_once('-').ok_or_else(said)?;
            let (from, to) = (time(from)?, time(to)?);
            if from == to {
                return Err(said());
            }
            ranges.push((from, to));
        }
        Ok(Self { ranges })
    }
}

impl Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("always");
        }
        for (number, (from, to)) in self.ranges.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(
                f,
                "{comma}{:02}:{:02}-{:02}:{:02}",
                from.hour(),
                from.minute(),
                to.hour(),
                to.minute()
            )?;
        }
        Ok(())
    }
}

/// Where a server listens: for processes of this machine only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Listen::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Listen::Tcp(address)),
            Ok(_) => Err("write a loopback address, such as 127.0.0.1:9464".into()),
            Err(_) => Err(
                "write a loopback address such as 127.0.0.1:9464, or the absolute path of a \
                 Unix socket"
                    .into(),
            ),
        }
    }
}

impl Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => address.fmt(f),
            Listen::Unix(path) => path.display().fmt(f),
        }
    }
}
