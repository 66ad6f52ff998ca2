//! `laconicfs mount`: the volume of a store as a directory.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::daemon;
use super::exit::{self, Exit, Failure, failure};
use super::{locate, logging, report, size};
use crate::control::Failed;
use crate::filesystem::Settings;
use crate::metrics::Listen;
use crate::mount::MountOptions;
use crate::store::Superblock;
use crate::tier::{Hours, Rules};

#[derive(Args)]
#[command(
    long_about = "Mount the volume of a store on a directory.\n\n\
        Returns once the mount answers; a process in the background then serves it until it is \
        unmounted, and logs to STORE/log. With --foreground the command itself serves until it \
        is unmounted or gets SIGTERM or SIGINT, and tells systemd when it is ready.\n\n\
        `laconicfs STORE DIR -o OPTIONS`, and this program under the name mount.laconicfs, do \
        the same, for mount(8) and fstab.",
    after_help = "Options for -o:\n  \
        ro, rw, noatime, relatime, strictatime, dev, suid, noexec: as mount(8) has them\n  \
        allow_other            let other users reach the files\n  \
        nodefault_permissions  do not check permissions\n  \
        nowriteback_cache      hand every write to the daemon at once\n  \
        nonempty               mount on a directory that is not empty\n\n\
        Examples:\n  \
        laconicfs mount ~/notes.store ~/notes --create\n  \
        laconicfs mount /srv/logs.store /srv/logs -o allow_other,noatime\n  \
        in /etc/fstab:\n    \
        /srv/logs.store  /srv/logs  fuse.laconicfs  allow_other,_netdev  0 0"
)]
pub struct MountArgs {
    store: PathBuf,
    dir: PathBuf,
    /// Mount options, separated by commas
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,
    /// Serve from this process instead of the background
    #[arg(long, short)]
    foreground: bool,
    /// Make DIR if it does not exist
    #[arg(long)]
    create: bool,
    /// Memory to take at most [default: a quarter of what the machine allows]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Of it, memory for chunks that have been decoded
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = size::parse)]
    cache: u64,
    /// Code chunks in the background once they have been left alone for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    quiet: u64,
    /// Threads that code in the background; 0 leaves it to `laconicfs drain` [default: all]
    #[arg(long, value_name = "N")]
    drain_threads: Option<usize>,
    /// Per cent of the time of each of these threads
    #[arg(long, value_name = "PERCENT", default_value_t = 100,
        value_parser = clap::value_parser!(u8).range(1..=100))]
    drain_cpu: u8,
    /// Code in the background only in these hours of the day, such as 22:00-06:00
    #[arg(long, value_name = "HOURS", default_value = "always")]
    drain_hours: Hours,
    /// Code nothing in the background while the load of others is above this
    #[arg(long, value_name = "LOAD")]
    max_load: Option<f64>,
    /// Code nothing in the background while on a battery that holds less per cent
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    min_battery: Option<u8>,
    /// Per cent by which the language model must beat the other codecs
    #[arg(long, value_name = "PERCENT", default_value_t = crate::codec::MARGIN,
        value_parser = clap::value_parser!(u8).range(0..=100))]
    lm_margin: u8,
    /// Serve metrics at a loopback address, such as 127.0.0.1:9464, or a Unix socket: unix:PATH
    #[arg(long, value_name = "WHERE")]
    metrics: Option<Listen>,
    /// Write what became of the mount to standard output, for the process that started this one
    #[arg(long, hide = true)]
    tell_parent: bool,
}

impl MountArgs {
    /// Whether this is the process in the background, with its own log.
    pub fn logs_itself(&self) -> bool {
        self.tell_parent
    }
}

/// What the process in the background tells the one that started it, as one
/// line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Told {
    Ready,
    Failed(Failed),
}

pub fn run(args: &MountArgs, json: bool) -> Result<()> {
    let result = try_run(args, json);
    if let (true, Err(error)) = (args.tell_parent, &result) {
        tell(&Told::Failed(Failed {
            exit: Exit::of(error) as u8,
            message: exit::message(error),
        }));
    }
    result
}

fn try_run(args: &MountArgs, json: bool) -> Result<()> {
    let store = locate::store(&args.store)?;
    // Before anything is made in what may be no store.
    Superblock::read(&store)?;
    let mut options = MountOptions::default();
    for list in &args.options {
        options
            .parse(list)
            .map_err(|error| failure(Exit::Mount, error.to_string()))?;
    }
    // Commands find the store by what the mount table shows.
    options.source = store.display().to_string();
    let dir = mount_point(args)?;
    if !args.foreground {
        return background(args, &store, &dir, json);
    }
    let settings = settings(args, &options);
    options.background = settings.budget()?.background;
    if args.tell_parent {
        daemon::leave_terminal();
        logging::to_file(&store).or_else(|error| match options.volume.read_only {
            true => Ok(()),
            false => Err(error).context("opening the log in the store"),
        })?;
    }
    let metrics = args.metrics.as_ref();
    daemon::serve(&store, &dir, &settings, &options, metrics, || {
        match args.tell_parent {
            true => tell(&Told::Ready),
            false => {
                log::info!("{} is mounted on {}", store.display(), dir.display());
                true
            }
        }
    })
}

fn settings(args: &MountArgs, options: &MountOptions) -> Settings {
    let mut settings = Settings {
        volume: options.volume,
        memory: args.memory,
        cache_bytes: usize::try_from(args.cache).unwrap_or(usize::MAX),
        rules: Rules {
            quiet: Duration::from_secs(args.quiet),
            cpu_share: args.drain_cpu,
            hours: args.drain_hours.clone(),
            max_load: args.max_load,
            min_battery: args.min_battery,
        },
        lm_margin: args.lm_margin,
        salvage: options.salvage,
        ..Settings::default()
    };
    if let Some(threads) = args.drain_threads {
        settings.drain_threads = threads;
    }
    settings
}

/// Looks at what the mount room leaves to us: DIR may be made, and should be
/// empty, or what is in it would be hidden.
fn mount_point(args: &MountArgs) -> Result<PathBuf> {
    let shown = args.dir.display();
    if args.create {
        std::fs::create_dir_all(&args.dir)
            .map_err(|error| failure(Exit::Mount, format!("making {shown}: {error}")))?;
    }
    let nonempty = args
        .options
        .iter()
        .any(|list| list.split(',').any(|option| option == "nonempty"));
    // A mount point in use, a dead mount, a file: the mount room names them.
    let mounted = match crate::mount::resolve(&args.dir) {
        Ok(dir) => crate::mount::mounted_on(&dir)?.is_some(),
        Err(_) => false,
    };
    if !nonempty
        && !mounted
        && let Ok(mut entries) = std::fs::read_dir(&args.dir)
        && entries.next().is_some()
    {
        return Err(failure(
            Exit::Mount,
            format!(
                "{shown} is not empty, and what is in it would be hidden: mount on an empty \
                 directory, or with -o nonempty"
            ),
        ));
    }
    crate::mount::resolve(&args.dir).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failure(
            Exit::Mount,
            format!("the mount point {shown} does not exist: create it, or mount with --create"),
        ),
        _ => failure(Exit::Mount, format!("looking at {shown}: {error}")),
    })
}

/// Starts this program once more, to serve, and waits for what it tells.
fn background(args: &MountArgs, store: &Path, dir: &Path, json: bool) -> Result<()> {
    let program = std::env::current_exe().context("looking for this program")?;
    let mut command = Command::new(program);
    // Under its own name, lest it takes itself for a helper of mount(8).
    command.arg0("laconicfs");
    command.args(["mount", "--foreground", "--tell-parent"]);
    for list in &args.options {
        command.arg("-o").arg(list);
    }
    if let Some(memory) = args.memory {
        command.arg("--memory").arg(memory.to_string());
    }
    command.arg("--cache").arg(args.cache.to_string());
    command.arg("--quiet").arg(args.quiet.to_string());
    let mut pass = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    };
    pass("--drain-threads", args.drain_threads.map(|n| n.to_string()));
    pass("--drain-cpu", Some(args.drain_cpu.to_string()));
    pass("--drain-hours", Some(args.drain_hours.to_string()));
    pass("--max-load", args.max_load.map(|load| load.to_string()));
    pass("--min-battery", args.min_battery.map(|n| n.to_string()));
    pass("--lm-margin", Some(args.lm_margin.to_string()));
    pass("--metrics", args.metrics.as_ref().map(Listen::to_string));
    // What it says beside its log, a crash of the allocator say, goes there too.
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(logging::path(store));
    let mut child = command
        .arg("--")
        .args([store, dir])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.map_or_else(|_| Stdio::null(), Stdio::from))
        .spawn()
        .context("starting the process that serves the mount")?;
    match hear(&mut child) {
        Some(Told::Ready) => {
            let mounted = serde_json::json!({
                "store": store, "dir": dir, "pid": child.id(),
            });
            report::emit(json, &mounted, String::new)
        }
        Some(Told::Failed(failed)) => {
            let _ = child.wait();
            Err(anyhow::Error::new(Failure {
                exit: Exit::from_status(failed.exit),
                message: failed.message,
            }))
        }
        None => {
            let status = child.wait().context("waiting for the mount")?;
            Err(failure(
                Exit::Mount,
                format!(
                    "the process that serves the mount {} before the mount answered; its log \
                     is {}",
                    describe(status),
                    logging::path(store).display()
                ),
            ))
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

fn hear(child: &mut Child) -> Option<Told> {
    let mut line = String::new();
    BufReader::new(child.stdout.take()?)
        .read_line(&mut line)
        .ok()?;
    serde_json::from_str(&line).ok()
}

/// Says whether anyone heard it.
fn tell(told: &Told) -> bool {
    let Ok(line) = serde_json::to_string(told) else {
        return false;
    };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
}
