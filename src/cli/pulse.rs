//! What a mount says of itself while it is served: its status and keep-alives
//! to systemd, and one line a day to the log.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Weak;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use jiff::ZonedDateTime;
use jiff::civil::Date;
use sd_notify::NotifyState;

use super::logging;
use super::report::{percent, size};
use crate::filesystem::{FileSystem, Report};

/// How often the status is told at most.
const OFTEN: Duration = Duration::from_secs(10);

/// How often the date is looked at where nobody waits for a status.
const SELDOM: Duration = Duration::from_secs(60);

/// Beats until it is dropped.
pub struct Pulse {
    /// Never sent to: the thread ends when it is dropped.
    _end: Sender<()>,
}

impl Pulse {
    /// Starts the thread, which does not keep the file system open.
    pub fn start(fs: Weak<FileSystem>, dir: &Path) -> Result<Pulse> {
        let (end, ended) = bounded(0);
        let watched = std::env::var_os("NOTIFY_SOCKET").is_some();
        let heart = Heart {
            fs,
            dir: dir.into(),
            watched,
            today: ZonedDateTime::now().date(),
        };
        // Not joined: it may be stuck with what it looks at.
        std::thread::Builder::new()
            .name("pulse".into())
            .spawn(move || heart.beat_until(&ended, interval(watched)))
            .context("starting a thread")?;
        Ok(Pulse { _end: end })
    }
}

/// How often to beat: several times within the patience of the watchdog.
fn interval(watched: bool) -> Duration {
    let mut patience = 0;
    if sd_notify::watchdog_enabled(false, &mut patience) {
        return Duration::from_micros(patience / 4).min(OFTEN);
    }
    if watched { OFTEN } else { SELDOM }
}

struct Heart {
    fs: Weak<FileSystem>,
    dir: PathBuf,
    /// Whether anyone waits for the status.
    watched: bool,
    /// Whose line has been written.
    today: Date,
}

impl Heart {
    fn beat_until(mut self, ended: &Receiver<()>, interval: Duration) {
        loop {
            let now = ZonedDateTime::now().date();
            // Where nobody waits for a status, a report is made once a day.
            if self.watched || self.today != now {
                let report = self.probe();
                beat(report.as_ref());
                if let Ok(report) = &report
                    && new_day(&mut self.today, now)
                {
                    log::info!("{}", daily_line(report, logging::errors()));
                }
            }
            if ended.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    /// Asks the way that users go, through the kernel, and the store itself.
    /// Whichever is stuck, so is this thread, and nobody says that all is well.
    fn probe(&self) -> Result<Report> {
        if self.watched {
            ask(&self.dir)
                .with_context(|| format!("asking the mount on {}", self.dir.display()))?;
        }
        let fs = self.fs.upgrade().context("the store is closed")?;
        Ok(fs.report()?)
    }
}

/// Asks a mount by a process of its own. A thread of the daemon that waited in
/// the kernel for the daemon's answer could not be killed, and would keep
/// /dev/fuse open: a daemon that hangs could not even be killed.
fn ask(dir: &Path) -> Result<()> {
    let output = Command::new("/proc/self/exe")
        // Under its own name, lest it takes itself for a helper of mount(8).
        .arg0("laconicfs")
        .arg("probe")
        .arg(dir)
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .context("starting a process")?;
    match output.status.success() {
        true => Ok(()),
        false => bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end()),
    }
}

#[derive(Args)]
pub struct ProbeArgs {
    /// A mount point
    dir: PathBuf,
}

/// What [`ask`] runs.
pub fn probe(args: &ProbeArgs) -> Result<()> {
    rustix::fs::statvfs(&args.dir)?;
    Ok(())
}

/// Tells systemd how things are, and that they are well if they are.
fn beat(report: Result<&Report, &anyhow::Error>) {
    let (well, status) = said(report);
    let status = NotifyState::Status(&status);
    match well {
        true => notify(&[NotifyState::Watchdog, status]),
        false => notify(&[status]),
    }
}

/// Whether the watchdog hears of it, and the status in a line.
fn said(report: Result<&Report, &anyhow::Error>) -> (bool, String) {
    match report {
        Ok(report) => (true, status_line(report)),
        Err(error) => (false, format!("{error:#}").replace('\n', " ")),
    }
}

/// Tells systemd, if it is there.
pub fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell, and that is no error.
    if let Err(error) = sd_notify::notify(false, states) {
        log::debug!("telling systemd: {error}");
    }
}

/// A mount in one line, for systemd's status: where it is, what waits, what
/// the store takes of what its files hold.
pub fn status_line(report: &Report) -> String {
    let place = match &report.mounted {
        Some(mounted) => format!("mounted on {}", mounted.dir.display()),
        None => "not mounted".into(),
    };
    let damaged = match report.damaged {
        0 => String::new(),
        many => format!(", {many} DAMAGED chunks"),
    };
    format!("{place}: {}{damaged}", figures(report))
}

/// The same for the log of a day, with what went wrong since the mount.
pub fn daily_line(report: &Report, errors: u64) -> String {
    format!(
        "today: {}, {errors} errors, {} damaged chunks",
        figures(report),
        report.damaged
    )
}

fn figures(report: &Report) -> String {
    format!(
        "{} in files, {} stored ({}), queue {} chunks ({})",
        size(report.logical),
        size(report.disk.total),
        percent(report.disk.total, report.logical),
        report.queue.chunks,
        size(report.queue.plain),
    )
}

/// Whether `now` is another day than the last, which it is from then on.
fn new_day(last: &mut Date, now: Date) -> bool {
    std::mem::replace(last, now) != now
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::cli::top::tests::report;

    #[test]
    fn one_line_says_how_it_is() {
        let mut report = report();
        assert_eq!(
            status_line(&report),
            "mounted on /srv/notes: 4.00 MiB in files, 1.00 MiB stored (25.0 %), queue 16 chunks \
             (1.00 MiB)"
        );
        report.damaged = 2;
        assert!(status_line(&report).ends_with("2 DAMAGED chunks"));
        assert!(daily_line(&report, 7).ends_with("7 errors, 2 damaged chunks"));
    }

    #[test]
    fn a_day_has_one_line() {
        let mut last = date(2024, 2, 28);
        let days = [28, 28, 29, 29].map(|day| new_day(&mut last, date(2024, 2, day)));
        assert_eq!(days, [false, false, true, false]);
    }

    #[test]
    fn the_watchdog_hears_only_of_a_mount_that_answers() {
        assert!(said(Ok(&report())).0);
        // A store that is closed.
        let heart = Heart {
            fs: Weak::new(),
            dir: "/".into(),
            watched: false,
            today: date(2024, 1, 1),
        };
        let (well, status) = said(heart.probe().as_ref());
        assert!(
            !well && !status.is_empty() && !status.contains('\n'),
            "{status}"
        );
        // A mount that is dead says so to whoever asks it.
        let dir = "/nothing/is/mounted/here".into();
        assert!(super::probe(&ProbeArgs { dir }).is_err());
    }
}
