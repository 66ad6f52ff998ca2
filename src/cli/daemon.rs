//! Serving a mount until its end: the session, the control socket, signals.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use sd_notify::NotifyState;
use serde_json::Value;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::exit::{self, Exit, failure};
use super::pulse::{self, Pulse};
use super::send;
use crate::config::{Loaded, Setting};
use crate::control::{self, Ask, Failed, Handler, Server};
use crate::error::Error;
use crate::filesystem::{FileSystem, Mounted, Settings};
use crate::metrics::{self, Listen};
use crate::mount::{self, MountOptions, Session};

/// How long files may stay open after a signal took the mount away.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long someone who asked for the end gets to read the answer.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often someone who waits hears of what is being done.
const PACE: Duration = Duration::from_millis(200);

/// How often the history of the day is brought up to date.
const HISTORY: Duration = Duration::from_secs(3600);

/// What ends a mount.
enum Event {
    Signal(i32),
    /// Someone asked over the control socket; the answer goes back there.
    Stop {
        lazy: bool,
        answer: Sender<Answer>,
    },
    /// The volume has been unmounted, by whomever.
    Ended(crate::Result<()>),
}

type Answer = Result<Value, Failed>;

/// Leaves the terminal and session of the process that started this one.
pub fn leave_terminal() {
    // SAFETY: takes nothing and touches no memory. It fails only for the
    // leader of a process group, which is then on its own already.
    unsafe { libc::setsid() };
}

/// A mount to be served.
pub struct Service<'a> {
    pub store: &'a Path,
    pub dir: &'a Path,
    pub settings: Settings,
    pub options: MountOptions,
    /// What the settings and options were made of, and from where.
    pub loaded: Loaded,
}

/// Opens the store, calls `opened`, mounts it, calls `ready`, and returns when
/// the mount is over and everything is on disk. When `ready` says `false`, whoever wanted
/// the mount is gone, and it ends at once.
pub fn serve(
    service: &Service<'_>,
    opened: impl FnOnce() -> Result<()>,
    ready: impl FnOnce() -> bool,
) -> Result<()> {
    let Service {
        store,
        dir,
        settings,
        options,
        loaded,
    } = service;
    crate::memory::heed_limits();
    let (tell, events) = unbounded();
    // Before other threads, and before there is anything to lose.
    watch_signals(tell.clone())?;
    let fs = FileSystem::open(store, settings)?;
    if let Err(error) = opened() {
        fs.close()?;
        return Err(error);
    }
    let handler = Arc::new(Control {
        fs: Arc::downgrade(&fs),
        events: tell.clone(),
        dir: (*dir).into(),
        configuration: loaded.settings(),
    });
    let server = Server::start(&control::socket_path(store), handler.clone());
    let server = match server {
        Ok(server) => Some(server),
        // A store on a read-only disk: serve it all the same.
        Err(error) if settings.volume.read_only => {
            log::warn!("commands cannot reach this mount: {error}");
            None
        }
        Err(error) => {
            fs.close()?;
            return Err(error.into());
        }
    };
    let listen = loaded.config.metrics.listen.as_ref();
    let metrics = match listen.map(|listen| serve_metrics(listen, &fs)).transpose() {
        Ok(metrics) => metrics,
        Err(error) => {
            fs.close()?;
            return Err(failure(Exit::Mount, error.to_string()));
        }
    };
    let outcome = mount_and_wait(&fs, dir, options, &events, tell, ready);
    drop(metrics);
    log::info!("unmounted {}; flushing", dir.display());
    pulse::notify(&[NotifyState::Stopping, NotifyState::Status("flushing")]);
    let (asked, outcome) = match outcome {
        Ok(asked) => (asked, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let closed = fs.close().context("flushing the store");
    drop(server);
    release(fs);
    let result = outcome.and(closed);
    if let Some(answer) = asked {
        let _ = answer.send(match &result {
            Ok(()) => Ok(Value::Null),
            Err(error) => Err(failed(error)),
        });
        // Its thread holds the handler until the other side has hung up.
        wait_until(LAST_WORDS, || Arc::strong_count(&handler) == 1);
    }
    result
}

/// Serves the figures of a store while it is open.
fn serve_metrics(listen: &Listen, fs: &Arc<FileSystem>) -> crate::Result<metrics::Server> {
    let fs = Arc::downgrade(fs);
    let server = metrics::Server::start(listen, move || match fs.upgrade() {
        Some(fs) => metrics::text(&fs.report()?),
        None => Err(Error::Other("the volume is being unmounted".into())),
    })?;
    log::info!("metrics are served at {}", server.address());
    Ok(server)
}

/// Has the store note each day what it holds.
fn keep_history(fs: &Arc<FileSystem>) -> Result<()> {
    let fs = Arc::downgrade(fs);
    std::thread::Builder::new()
        .name("history".into())
        .spawn(move || {
            while let Some(fs) = fs.upgrade() {
                if let Err(error) = fs.note_day() {
                    log::warn!("noting what the store holds today: {error}");
                }
                drop(fs);
                std::thread::sleep(HISTORY);
            }
        })
        .context("starting a thread")?;
    Ok(())
}

/// Returns who asked for the end, if someone did.
fn mount_and_wait(
    fs: &Arc<FileSystem>,
    dir: &Path,
    options: &MountOptions,
    events: &Receiver<Event>,
    tell: Sender<Event>,
    ready: impl FnOnce() -> bool,
) -> Result<Option<Sender<Answer>>> {
    let session = mount::mount(fs.volume().clone(), dir, options).map_err(in_mounting)?;
    let session = Arc::new(session);
    fs.set_mounted(Some(Mounted {
        dir: session.dir().into(),
        pid: std::process::id(),
    }));
    {
        let session = session.clone();
        std::thread::Builder::new()
            .name("session".into())
            .spawn(move || {
                let _ = tell.send(Event::Ended(session.wait()));
            })
            .context("starting a thread")?;
    }
    keep_history(fs)?;
    if !ready() {
        log::warn!("whoever wanted this mount has gone: unmounting");
        session.unmount(true)?;
    }
    log::info!("{} is mounted on {}", fs.path().display(), dir.display());
    let status = pulse::status_line(&fs.report()?);
    pulse::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    let _pulse = Pulse::start(Arc::downgrade(fs), session.dir())?;
    wait(&session, events)
}

fn wait(session: &Session, events: &Receiver<Event>) -> Result<Option<Sender<Answer>>> {
    let mut asked = None;
    let mut deadline: Option<Instant> = None;
    loop {
        let event = match deadline {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => events.recv_deadline(deadline),
        };
        match event {
            Ok(Event::Ended(result)) => {
                result.context("the mount has failed")?;
                return Ok(asked);
            }
            Ok(Event::Signal(signal)) => {
                log::info!("got signal {signal}: unmounting");
                if let Err(error) = session.unmount(false) {
                    log::warn!("{error}; taking the mount away");
                    session.unmount(true)?;
                }
                deadline.get_or_insert(Instant::now() + PATIENCE);
            }
            Ok(Event::Stop { lazy, answer }) => match session.unmount(lazy) {
                Ok(()) if lazy => {
                    let _ = answer.send(Ok(Value::Null));
                }
                Ok(()) => asked = Some(answer),
                Err(error) => {
                    let busy = failure(Exit::InUse, error.to_string());
                    let _ = answer.send(Err(failed(&busy)));
                }
            },
            Err(RecvTimeoutError::Timeout) => {
                log::warn!("files are still open: ending all the same");
                return Ok(asked);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(asked),
        }
    }
}

/// Lets go of the store, and so of its lock.
fn release(fs: Arc<FileSystem>) {
    // A request that was being answered may hold it for a moment.
    if !wait_until(LAST_WORDS, || Arc::strong_count(&fs) == 1) {
        log::warn!("a request holds the store until this process ends");
    }
}

fn wait_until(limit: Duration, condition: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

fn watch_signals(tell: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("watching for signals")?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if tell.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })
        .context("starting a thread")?;
    Ok(())
}

/// Errors without a status of their own are errors of the mount here.
fn in_mounting(error: Error) -> anyhow::Error {
    let error = anyhow::Error::new(error);
    match Exit::of(&error) {
        Exit::Failure => failure(Exit::Mount, exit::message(&error)),
        _ => error,
    }
}

fn failed(error: &anyhow::Error) -> Failed {
    Failed {
        exit: Exit::of(error) as u8,
        message: exit::message(error),
    }
}

/// Answers the control socket. Holds the store only while it does, so that
/// an idle connection does not keep it open.
struct Control {
    fs: Weak<FileSystem>,
    events: Sender<Event>,
    dir: PathBuf,
    configuration: Vec<Setting>,
}

impl Handler for Control {
    fn handle(&self, ask: Ask, progress: &mut dyn FnMut(Value) -> bool) -> Answer {
        let result = match ask {
            Ask::Stop => return self.stop(false),
            Ask::Detach => return self.stop(true),
            Ask::Stat => self.with(|fs| Ok(serde_json::to_value(fs.report()?)?)),
            Ask::Snapshots => self.with(|fs| Ok(serde_json::to_value(fs.volume().snapshots()?)?)),
            Ask::SnapshotCreate { name } => self.with(|fs| {
                let made = fs.volume().create_snapshot(&name, &mut |rows| {
                    progress(rows.into());
                })?;
                Ok(serde_json::to_value(made)?)
            }),
            Ask::SnapshotDelete { name } => self.with(|fs| {
                fs.volume().delete_snapshot(&name, &mut |rows| {
                    progress(rows.into());
                })?;
                Ok(Value::Null)
            }),
            Ask::Send { options, to } => self.with(|fs| {
                let sent = send::serve_send(fs, &options, &to, progress)?;
                Ok(serde_json::to_value(sent)?)
            }),
            Ask::Receive { options, from } => self.with(|fs| {
                let _models = fs.hold_models();
                let received = send::serve_receive(fs, &options, &from, progress)?;
                Ok(serde_json::to_value(received)?)
            }),
            Ask::Config => serde_json::to_value(&self.configuration).map_err(Into::into),
            Ask::Sync => self.with(|fs| Ok(fs.volume().sync().map(|()| Value::Null)?)),
            Ask::Drain => self.with(|fs| {
                let tier = fs.volume().tier();
                tier.drain(&mut |now| serde_json::to_value(now).is_ok_and(&mut *progress))?;
                Ok(Value::Null)
            }),
            Ask::Pause | Ask::Resume => self.with(|fs| {
                fs.volume().tier().pause_drain(matches!(ask, Ask::Pause));
                Ok(Value::Null)
            }),
            Ask::Du(query) => self.with(|fs| {
                let mut report = paced(progress);
                let usage = fs.usage(&query, &mut |now| report(now))?;
                Ok(serde_json::to_value(usage)?)
            }),
            Ask::Report => self.with(|fs| {
                let mut report = paced(progress);
                Ok(serde_json::to_value(
                    fs.whole_report(&mut |now| report(now))?,
                )?)
            }),
            Ask::Recode { targets, model } => self.with(|fs| {
                let mut report = paced(progress);
                let done = fs.recode(&targets, model.as_deref(), &mut |now| report(now))?;
                Ok(serde_json::to_value(done)?)
            }),
            Ask::Models => self.with(|fs| Ok(serde_json::to_value(fs.models()?)?)),
            Ask::ModelAdd { file } => self.with(|fs| {
                let bytes =
                    std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
                Ok(serde_json::to_value(fs.add_model(bytes)?)?)
            }),
            Ask::ModelDefault { model } => {
                self.with(|fs| Ok(serde_json::to_value(fs.set_default_model(&model)?)?))
            }
            Ask::ModelGc => self.with(|fs| Ok(serde_json::to_value(fs.collect_models()?)?)),
        };
        result.map_err(|error| failed(&error))
    }
}

/// Sends reports about five times a second.
fn paced<'a, T: serde::Serialize>(
    progress: &'a mut dyn FnMut(Value) -> bool,
) -> impl FnMut(&T) -> bool + 'a {
    let mut last = Instant::now();
    move |now| {
        if last.elapsed() < PACE {
            return true;
        }
        last = Instant::now();
        serde_json::to_value(now).is_ok_and(&mut *progress)
    }
}

impl Control {
    fn with(&self, work: impl FnOnce(&FileSystem) -> Result<Value>) -> Result<Value> {
        match self.fs.upgrade() {
            Some(fs) => work(&fs),
            None => Err(self.ending()),
        }
    }

    fn stop(&self, lazy: bool) -> Answer {
        let (answer, answered) = bounded(1);
        let sent = self.events.send(Event::Stop { lazy, answer });
        match (sent, answered.recv()) {
            (Ok(()), Ok(answer)) => answer,
            _ => Err(failed(&self.ending())),
        }
    }

    fn ending(&self) -> anyhow::Error {
        failure(
            Exit::NotMounted,
            format!("{} is being unmounted", self.dir.display()),
        )
    }
}
