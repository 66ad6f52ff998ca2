//! Values as people write them. Errors are phrases that go on after
//! "`VALUE` for KEY: ".

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

use super::size;
use crate::memory::Budget;
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

/// 0 to 100.
pub fn margin(text: &str) -> Result<u8, String> {
    let number = text.trim_end_matches('%').trim_end().parse().ok();
    let number = number.filter(|percent| *percent <= 100);
    number.ok_or_else(|| "write a number of per cent from 0 to 100".into())
}

/// A bound of memory, at least what a mount needs.
pub fn memory(text: &str) -> Result<Option<u64>, String> {
    if text == "auto" {
        return Ok(None);
    }
    let bytes = size::parse(text).map_err(|error| format!("{error}; or write auto"))?;
    Budget::split(bytes, 1).map_err(|error| error.to_string())?;
    Ok(Some(bytes))
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
