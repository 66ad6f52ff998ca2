//! When the drain works in the background and when it rests.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};

use jiff::civil::Time;
use serde::{Deserialize, Serialize};

/// What the drain is told. A drain on demand heeds none of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// It takes only chunks that were committed this long ago.
    pub quiet: Duration,
    /// Per cent of the time of each of its threads, 1 to 100. They run at idle
    /// priority in any case.
    pub cpu_share: u8,
    /// The hours of the day, local time, in which it works.
    pub hours: Hours,
    /// It rests while the machine's load average of one minute, its own part
    /// taken off, is above this.
    pub max_load: Option<f64>,
    /// It rests while the machine runs on a battery that holds less per cent
    /// than this.
    pub min_battery: Option<u8>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(30),
            cpu_share: 100,
            hours: Hours::default(),
            max_load: None,
            min_battery: None,
        }
    }
}

/// Why the drain does nothing just now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Rest {
    /// Nothing waits.
    Idle,
    /// What waits was written too lately.
    Quiet { seconds: u64 },
    /// Someone said so.
    Paused,
    /// It has no threads.
    Disabled,
    /// The store is open for reading only.
    ReadOnly,
    /// It is not one of its hours; the next ones begin at this time.
    Hours { until: String },
    /// Others want the machine.
    Load { now: f64, limit: f64 },
    /// The battery must last.
    Battery { now: u8, limit: u8 },
    /// The disk is full, or the store has failed.
    NoSpace,
}

impl fmt::Display for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rest::Idle => f.write_str("nothing waits"),
            Rest::Quiet { seconds } => {
                write!(
                    f,
                    "what waits was written too lately; it begins in {seconds} s"
                )
            }
            Rest::Paused => f.write_str("paused; `laconicfs drain --resume` lets it go on"),
            Rest::Disabled => f.write_str("it has no threads: `laconicfs drain` does its work"),
            Rest::ReadOnly => f.write_str("the store is open for reading only"),
            Rest::Hours { until } => write!(f, "it works again from {until} on"),
            Rest::Load { now, limit } => {
                write!(f, "the load of others is {now:.2}, above {limit:.2}")
            }
            Rest::Battery { now, limit } => {
                write!(f, "the battery holds {now} %, less than {limit} %")
            }
            Rest::NoSpace => f.write_str("the disk is full"),
        }
    }
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

    /// When the next range begins, for a time in none of them.
    pub fn next(&self, now: Time) -> Option<Time> {
        let begins = || self.ranges.iter().map(|(from, _)| *from);
        let later = begins().filter(|from| *from > now).min();
        later.or_else(|| begins().min())
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

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ranges.is_empty() {
            return f.write_str("always");
        }
        for (number, (from, to)) in self.ranges.iter().enumerate() {
            let comma = if number > 0 { "," } else { "" };
            write!(f, "{comma}{}-{}", hour(*from), hour(*to))?;
        }
        Ok(())
    }
}

fn hour(time: Time) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

/// What the rules look at. Where a machine does not say, nothing stands in
/// the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// Local time of day.
    pub time: Time,
    /// Processes that want to run, on average over a minute.
    pub load: Option<f64>,
    /// What the battery holds, in per cent, while the machine runs on it.
    pub battery: Option<u8>,
}

impl Surroundings {
    pub fn look() -> Self {
        Self::look_in(Path::new("/"), jiff::ZonedDateTime::now().time())
    }

    fn look_in(root: &Path, time: Time) -> Self {
        Self {
            time,
            load: load(root),
            battery: battery(root),
        }
    }
}

fn load(root: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(root.join("proc/loadavg")).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The emptiest battery that is being used up.
fn battery(root: &Path) -> Option<u8> {
    let supplies = std::fs::read_dir(root.join("sys/class/power_supply")).ok()?;
    let mut lowest = None;
    for supply in supplies.flatten() {
        let read = |name: &str| {
            let text = std::fs::read_to_string(supply.path().join(name));
            text.map(|text| text.trim().to_string()).unwrap_or_default()
        };
        // A mouse has a battery too, but the machine does not run on it.
        if read("type") != "Battery" || read("scope") == "Device" {
            continue;
        }
        if read("status") == "Discharging"
            && let Ok(holds) = read("capacity").parse::<u8>()
        {
            lowest = Some(lowest.map_or(holds, |lowest: u8| lowest.min(holds)));
        }
    }
    lowest
}

impl Rules {
    /// Why the drain must rest, if it must. `own`: its own part of the load.
    pub fn forbid(&self, around: &Surroundings, own: f64) -> Option<Rest> {
        if !self.hours.contains(around.time) {
            let until = self.hours.next(around.time).map(hour).unwrap_or_default();
            return Some(Rest::Hours { until });
        }
        if let (Some(now), Some(limit)) = (around.battery, self.min_battery)
            && now < limit
        {
            return Some(Rest::Battery { now, limit });
        }
        if let (Some(load), Some(limit)) = (around.load, self.max_load) {
            let now = (load - own).max(0.0);
            if now > limit {
                return Some(Rest::Load { now, limit });
            }
        }
        None
    }

    /// How long a thread rests after `worked`, to take no more than its share.
    pub fn pause_after(&self, worked: Duration) -> Duration {
        let share = u32::from(self.cpu_share.clamp(1, 100));
        worked * (100 - share) / share
    }
}

/// The drain's own part of the load average: its threads run at idle priority,
/// but the kernel counts them like any other.
#[derive(Clone, Copy, Debug)]
pub struct OwnLoad {
    average: f64,
    since: Instant,
}

impl OwnLoad {
    pub fn new(now: Instant) -> Self {
        Self {
            average: 0.0,
            since: now,
        }
    }

    /// Notes that so many threads have been working since the last call, and
    /// returns the average, taken as the kernel takes its own.
    pub fn note(&mut self, now: Instant, threads: usize) -> f64 {
        let passed = now.duration_since(self.since).as_secs_f64();
        self.since = now;
        let kept = (-passed / 60.0).exp();
        self.average = self.average * kept + threads as f64 * (1.0 - kept);
        self.average
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Time {
        Time::strptime("%H:%M", text).unwrap()
    }

    #[test]
    fn hours_may_pass_midnight() {
        let hours: Hours = "22:00-06:00,12:30-13:00".parse().unwrap();
        assert_eq!(hours.to_string(), "22:00-06:00,12:30-13:00");
        for inside in ["22:00", "23:59", "00:00", "05:59", "12:30"] {
            assert!(hours.contains(at(inside)), "{inside}");
        }
        for (outside, next) in [("06:00", "12:30"), ("13:00", "22:00"), ("21:59", "22:00")] {
            assert!(!hours.contains(at(outside)), "{outside}");
            assert_eq!(hours.next(at(outside)), Some(at(next)));
        }
        let late: Hours = "01:00-02:00".parse().unwrap();
        assert_eq!(late.next(at("03:00")), Some(at("01:00")));
        let always: Hours = "always".parse().unwrap();
        assert!(always.contains(at("03:00")) && always.next(at("03:00")).is_none());
        for bad in ["", "22", "22:00", "6-7", "24:00-25:00", "07:00-07:00"] {
            assert!(bad.parse::<Hours>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rules_name_what_stands_in_the_way() {
        let rules = Rules {
            hours: "22:00-06:00".parse().unwrap(),
            max_load: Some(1.5),
            min_battery: Some(40),
            ..Rules::default()
        };
        let night = Surroundings {
            time: at("23:00"),
            load: Some(3.0),
            battery: None,
        };
        assert_eq!(
            rules.forbid(&night, 0.5),
            Some(Rest::Load {
                now: 2.5,
                limit: 1.5
            })
        );
        // Its own threads are not the load of others.
        assert_eq!(rules.forbid(&night, 2.0), None);
        let day = Surroundings {
            time: at("12:00"),
            ..night.clone()
        };
        let until = "22:00".to_string();
        assert_eq!(rules.forbid(&day, 9.0), Some(Rest::Hours { until }));
        let low = Surroundings {
            battery: Some(39),
            ..night
        };
        assert_eq!(
            rules.forbid(&low, 9.0),
            Some(Rest::Battery { now: 39, limit: 40 })
        );
        assert_eq!(Rules::default().forbid(&low, 0.0), None);
    }

    #[test]
    fn surroundings_are_read_where_the_kernel_shows_them() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let look = || Surroundings::look_in(root.path(), at("01:00"));
        assert_eq!((look().load, look().battery), (None, None));
        put("proc/loadavg", "1.25 0.50 0.10 2/345 678\n");
        put("sys/class/power_supply/AC/type", "Mains\n");
        put("sys/class/power_supply/BAT0/type", "Battery\n");
        put("sys/class/power_supply/BAT0/capacity", "71\n");
        put("sys/class/power_supply/BAT0/status", "Charging\n");
        put("sys/class/power_supply/mouse/type", "Battery\n");
        put("sys/class/power_supply/mouse/scope", "Device\n");
        put("sys/class/power_supply/mouse/capacity", "3\n");
        put("sys/class/power_supply/mouse/status", "Discharging\n");
        assert_eq!((look().load, look().battery), (Some(1.25), None));
        put("sys/class/power_supply/BAT0/status", "Discharging\n");
        assert_eq!(look().battery, Some(71));
        put("proc/loadavg", "nonsense");
        assert_eq!(look().load, None);
    }

    #[test]
    fn a_share_of_the_time_is_what_is_left_of_it() {
        let rules = |cpu_share| Rules {
            cpu_share,
            ..Rules::default()
        };
        let second = Duration::from_secs(1);
        assert_eq!(rules(100).pause_after(second), Duration::ZERO);
        assert_eq!(rules(25).pause_after(second), 3 * second);
        assert_eq!(rules(0).pause_after(second), 99 * second);
    }

    #[test]
    fn the_own_load_follows_the_threads() {
        let begin = Instant::now();
        let mut own = OwnLoad::new(begin);
        let minute = own.note(begin + Duration::from_secs(60), 2);
        assert!((1.2..1.3).contains(&minute), "{minute}");
        let hour = own.note(begin + Duration::from_secs(3660), 2);
        assert!((1.99..=2.0).contains(&hour), "{hour}");
        let later = own.note(begin + Duration::from_secs(7260), 0);
        assert!(later < 0.01, "{later}");
    }
}
