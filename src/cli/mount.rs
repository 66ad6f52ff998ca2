//! `laconicfs mount`: the volume of a store as a directory.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::daemon::{self, Service};
use super::exit::{self, Exit, Failure, failure};
use super::locate::{self, Found};
use super::{logging, report};
use crate::config::{self, Config, Flag, Setting};
use crate::control::{Ask, Failed};
use crate::filesystem::Settings;
use crate::mount::MountOptions;
use crate::store::Superblock;
use crate::tier::Rules;

#[derive(Args)]
#[command(
    long_about = "Mount the volume of a store on a directory.\n\n\
        Returns once the mount answers; a process in the background then serves it until it is \
        unmounted, and logs to STORE/log. With --foreground the command itself serves until it \
        is unmounted or gets SIGTERM or SIGINT, and tells systemd when it is ready.\n\n\
        `laconicfs STORE DIR -o OPTIONS`, and this program under the name mount.laconicfs, do \
        the same, for mount(8) and fstab.",
    after_help = help()
)]
pub struct MountArgs {
    /// The store, as `laconicfs mkfs` made it
    store: PathBuf,
    /// The directory to mount on; it should be empty
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
    /// Memory to take at most; by itself a quarter of what the machine allows (the setting
    /// cache.memory)
    #[arg(long, value_name = "SIZE", value_parser = of("cache.memory"))]
    memory: Option<String>,
    /// Of it, memory for chunks that have been decoded (the setting cache.size)
    #[arg(long, value_name = "SIZE", value_parser = of("cache.size"))]
    cache: Option<String>,
    /// Code chunks in the background once they have been left alone for so long, such as 30s or
    /// 10m (the setting drain.quiet)
    #[arg(long, value_name = "TIME", value_parser = of("drain.quiet"))]
    quiet: Option<String>,
    /// Threads that code in the background; 0 leaves it to `laconicfs drain` (the setting
    /// drain.threads)
    #[arg(long, value_name = "N", value_parser = of("drain.threads"))]
    drain_threads: Option<String>,
    /// Per cent of the time of each of these threads (the setting drain.cpu_share)
    #[arg(long, value_name = "PERCENT", value_parser = of("drain.cpu_share"))]
    drain_cpu: Option<String>,
    /// Code in the background only in these hours of the day, such as 22:00-06:00 (the setting
    /// drain.hours)
    #[arg(long, value_name = "HOURS", value_parser = of("drain.hours"))]
    drain_hours: Option<String>,
    /// Code nothing in the background while the load of others is above this (the setting
    /// drain.max_load)
    #[arg(long, value_name = "LOAD", value_parser = of("drain.max_load"))]
    max_load: Option<String>,
    /// Code nothing in the background while on a battery that holds less per cent (the setting
    /// drain.min_battery)
    #[arg(long, value_name = "PERCENT", value_parser = of("drain.min_battery"))]
    min_battery: Option<String>,
    /// Per cent by which the language model must beat the other codecs (the setting
    /// drain.lm_margin)
    #[arg(long, value_name = "PERCENT", value_parser = of("drain.lm_margin"))]
    lm_margin: Option<String>,
    /// Serve metrics at a loopback address, such as 127.0.0.1:9464, or a Unix socket: unix:PATH
    /// (the setting metrics.listen)
    #[arg(long, value_name = "WHERE", value_parser = of("metrics.listen"))]
    metrics: Option<String>,
    /// Any setting, as `laconicfs config show` names it; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
    /// Take settings from /etc/laconicfs/NAME.toml [default: last component of STORE]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Write what became of the mount to standard output, for the process that started this one
    #[arg(long, hide = true)]
    tell_parent: bool,
}

/// The options, and examples.
fn help() -> String {
    let mut text = String::from("Options for -o:\n");
    for (options, meaning) in crate::mount::OPTIONS {
        text.push_str(&format!("  {options}\n      {meaning}\n"));
    }
    text.push_str(
        "\nExamples:\n  \
        laconicfs mount ~/notes.store ~/notes --create\n  \
        laconicfs mount /srv/logs.store /srv/logs -o allow_other,noatime\n  \
        laconicfs mount /srv/logs.store /srv/logs --set drain.hours=22:00-06:00\n  \
        in /etc/fstab:\n    \
        /srv/logs.store  /srv/logs  laconicfs  allow_other,nofail  0 0",
    );
    text
}

impl MountArgs {
    /// Whether this is the process that serves the mount, with its own log.
    pub fn serves(&self) -> bool {
        self.foreground
    }

    /// Settings that the command line gives.
    fn flags(&self) -> Vec<Flag> {
        let given = [
            ("--memory", "cache.memory", &self.memory),
            ("--cache", "cache.size", &self.cache),
            ("--quiet", "drain.quiet", &self.quiet),
            ("--drain-threads", "drain.threads", &self.drain_threads),
            ("--drain-cpu", "drain.cpu_share", &self.drain_cpu),
            ("--drain-hours", "drain.hours", &self.drain_hours),
            ("--max-load", "drain.max_load", &self.max_load),
            ("--min-battery", "drain.min_battery", &self.min_battery),
            ("--lm-margin", "drain.lm_margin", &self.lm_margin),
            ("--metrics", "metrics.listen", &self.metrics),
        ];
        let given = given.into_iter().filter_map(|(flag, key, value)| {
            Some(Flag {
                flag,
                key: key.into(),
                value: value.clone()?,
            })
        });
        let set = self.set.iter().map(|(key, value)| Flag {
            flag: "--set",
            key: key.clone(),
            value: value.clone(),
        });
        given.chain(set).collect()
    }
}

/// For clap: a value that this setting may have, as it is written.
fn of(key: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| config::check(key, text).map(|()| text.into())
}

/// For clap: a setting and its value.
fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().into(), value.trim().into())),
        None => Err("write SECTION.KEY=VALUE, such as drain.hours=22:00-06:00".into()),
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
        let exit = Exit::of(error);
        let heard = tell(&Told::Failed(Failed {
            exit: exit as u8,
            message: exit::message(error),
        }));
        if heard {
            // The process that started this one says it.
            return Err(failure(exit, ""));
        }
    }
    result
}

fn try_run(args: &MountArgs, json: bool) -> Result<()> {
    let store = locate::store(&args.store)?;
    // Before anything is made in what may be no store.
    Superblock::read(&store)?;
    let given = args.options.join(",");
    // Before they are parsed: mount(8) adds what its table shows of the mount,
    // such as user_id=0, which is no option of ours.
    if given.split(',').any(|option| option == "remount") {
        return remount(args, &given, json);
    }
    MountOptions::default()
        .parse(&given)
        .map_err(|error| failure(Exit::Mount, error.to_string()))?;
    let mut loaded = config::load(Some(&store), args.name.as_deref(), &args.flags())?;
    if !given.is_empty() {
        let list = format!("{},{given}", loaded.config.mount.options);
        loaded.set("mount.options", list.trim_start_matches(','), "-o")?;
    }
    let mut options = MountOptions::default();
    options.parse(&loaded.config.mount.options)?;
    // Commands find the store by what the mount table shows.
    options.source = store.display().to_string();
    let mut made = Made::default();
    let dir = mount_point(args, &mut made)?;
    if !args.foreground {
        background(args, &store, &dir, json)?;
        made.keep();
        return Ok(());
    }
    let settings = settings(&loaded.config, &options);
    options.background = settings.budget()?.background;
    let service = Service {
        store: &store,
        dir: &dir,
        settings,
        options,
        loaded,
    };
    let level = &service.loaded.config.log.level;
    if !args.tell_parent {
        logging::of_mount(level);
        let ready = || {
            made.keep();
            true
        };
        return daemon::serve(&service, || Ok(()), ready);
    }
    daemon::leave_terminal();
    let log = logging::of_daemon(level);
    let opened = || match log.open(&store) {
        // A store on a read-only disk: serve it all the same.
        Err(_) if service.options.volume.read_only => Ok(()),
        opened => opened.context("opening the log in the store"),
    };
    let ready = || {
        made.keep();
        tell(&Told::Ready)
    };
    daemon::serve(&service, opened, ready)
}

/// Changes a mount in place. The store is the one that is mounted there,
/// whatever mount(8) passes.
fn remount(args: &MountArgs, list: &str, json: bool) -> Result<()> {
    let dir = crate::mount::resolve(&args.dir)
        .with_context(|| format!("looking at {}", args.dir.display()))?;
    let writable = match locate::find(&dir)? {
        Found::Open(mut open) => {
            let settings: Vec<Setting> = open.ask_for(Ask::Config)?;
            let options = settings.iter().find(|s| s.key == "mount.options");
            let mut parsed = MountOptions::default();
            parsed.parse(options.map_or("", |setting| &setting.value))?;
            !parsed.volume.read_only
        }
        Found::Closed(_) => false,
    };
    crate::mount::remount(&dir, list, writable)
        .map_err(|error| failure(Exit::Mount, error.to_string()))?;
    let done = serde_json::json!({ "remounted": dir, "options": list });
    report::emit(json, &done, String::new)
}

/// What the library needs to know of the configuration.
fn settings(config: &Config, options: &MountOptions) -> Settings {
    let mut settings = Settings {
        volume: options.volume,
        memory: config.cache.memory,
        cache_bytes: usize::try_from(config.cache.size).unwrap_or(usize::MAX),
        rules: Rules {
            quiet: config.drain.quiet,
            cpu_share: config.drain.cpu_share,
            hours: config.drain.hours.clone(),
            max_load: config.drain.max_load,
            min_battery: config.drain.min_battery,
        },
        lm_margin: config.drain.lm_margin,
        salvage: options.salvage,
        ..Settings::default()
    };
    if let Some(threads) = config.drain.threads {
        settings.drain_threads = threads;
    }
    settings
}

/// Folders made for a mount, the innermost last. Taken away again unless they
/// are [kept](Made::keep): a mount that is refused leaves nothing.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// Makes a folder and those above it that are missing.
    fn make(&mut self, dir: &Path) -> std::io::Result<()> {
        let missing =
            |path: &&Path| !path.as_os_str().is_empty() && path.symlink_metadata().is_err();
        let missing: Vec<&Path> = dir.ancestors().take_while(missing).collect();
        for path in missing.into_iter().rev() {
            match std::fs::create_dir(path) {
                Ok(()) => self.0.push(path.to_owned()),
                // Somebody was faster, and it is theirs; or `..` led back.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        // Says what is wrong with what was there before.
        std::fs::create_dir_all(dir)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // What is no longer empty stays.
        for dir in self.0.iter().rev() {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Looks at what the mount room leaves to us: DIR may be made, and should be
/// empty, or what is in it would be hidden.
fn mount_point(args: &MountArgs, made: &mut Made) -> Result<PathBuf> {
    let shown = args.dir.display();
    // A mount point in use, a dead mount, a file: the mount room names them.
    let mounted = match crate::mount::resolve(&args.dir) {
        Ok(dir) => crate::mount::mounted_on(&dir)?.is_some(),
        Err(_) => false,
    };
    if args.create && !mounted {
        made.make(&args.dir)
            .map_err(|error| failure(Exit::Mount, format!("making {shown}: {error}")))?;
    }
    let nonempty = args
        .options
        .iter()
        .any(|list| list.split(',').any(|option| option == "nonempty"));
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
        ErrorKind::NotFound => failure(
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
    for flag in args.flags() {
        command.arg(flag.flag).arg(match flag.flag {
            "--set" => format!("{}={}", flag.key, flag.value),
            _ => flag.value,
        });
    }
    if let Some(name) = &args.name {
        command.arg("--name").arg(name);
    }
    let mut child = command
        .arg("--")
        .args([store, dir])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
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
