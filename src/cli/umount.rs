//! `laconicfs umount`: taking a mount away, in order.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::exit::{Exit, Failure, failure};
use super::locate::{self, Found};
use super::report;
use crate::control::{self, Ask, Client};
use crate::mount;

#[derive(Args)]
#[command(
    long_about = "Unmount a volume and wait until everything is on disk and the store is free.\n\n\
        When files are in use this is refused; --lazy takes the mount away at once, and the \
        store is freed when the last file is closed. --lazy also clears a mount whose process \
        has died (\"Transport endpoint is not connected\").",
    after_help = "Examples:\n  laconicfs umount ~/notes\n  laconicfs umount --lazy ~/notes"
)]
pub struct UmountArgs {
    /// The mount point (or the store that is mounted)
    dir: PathBuf,
    /// Take it away even if files are in use
    #[arg(long, short)]
    lazy: bool,
}

pub fn run(args: &UmountArgs, json: bool) -> Result<()> {
    let shown = args.dir.display();
    let dir = mount::resolve(&args.dir)
        .map_err(|error| failure(Exit::NotMounted, format!("looking for {shown}: {error}")))?;
    let mounted = mount::mounted_on(&dir)?;
    match mounted {
        Some(mounted) if mounted.fstype == mount::FSTYPE => {
            by_mount(&dir, Path::new(&mounted.source), args.lazy)?;
        }
        Some(mounted) => {
            return Err(failure(
                Exit::NotMounted,
                format!(
                    "{shown} is a mount of {} ({}), not of a laconicfs volume: use umount",
                    mounted.source, mounted.fstype
                ),
            ));
        }
        None => match locate::find(&dir)? {
            Found::Open(mut open) if mount::holding(&dir)?.is_none() => {
                open.ask(ask(args.lazy), &mut |_| ())?;
            }
            _ => {
                return Err(failure(
                    Exit::NotMounted,
                    format!("nothing is mounted on {shown}"),
                ));
            }
        },
    }
    let done = serde_json::json!({ "unmounted": dir });
    report::emit(json, &done, String::new)
}

fn ask(lazy: bool) -> Ask {
    match lazy {
        true => Ask::Detach,
        false => Ask::Stop,
    }
}

/// Asks the process behind the mount, or does without one that is dead or dies
/// meanwhile.
fn by_mount(dir: &Path, store: &Path, lazy: bool) -> Result<()> {
    let lost = match Client::connect(&control::socket_path(store)) {
        Ok(client) => match locate::Open::from(client).ask(ask(lazy), &mut |_| ()) {
            Ok(_) => return Ok(()),
            Err(error) if error.is::<Failure>() => return Err(error),
            Err(error) => error,
        },
        Err(error) => error.into(),
    };
    let ours = |mounted: mount::Mounted| mounted.fstype == mount::FSTYPE;
    if !mount::mounted_on(dir)?.is_some_and(ours) {
        return Err(lost);
    }
    log::info!("{lost:#}; taking the mount away without it");
    mount::unmount(dir, lazy).map_err(|error| failure(Exit::InUse, error.to_string()))
}
