//! `laconicfs send` and `laconicfs receive`: moving a store, and keeping a
//! copy of it up to date.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::exit::{self, Exit, failure};
use super::locate::{self, Found};
use super::pipe::Pipe;
use super::report::{self, size};
use super::{progress, snapshot};
use crate::backup::stream::Position;
use crate::backup::{CutOff, ReceiveOptions, Received, SendOptions, Sent, Stream, send};
use crate::control::Ask;
use crate::filesystem::{FileSystem, Report, Settings};

/// Bytes between the pieces that go to and from files.
const BUFFER: usize = 1 << 18;

#[derive(Args)]
#[command(
    long_about = "Write a snapshot as a stream to standard output: names, attributes, and the \
        chunks of all files coded as they are, each once, with the models that they need. \
        `laconicfs receive` makes a store or a snapshot of it. Nothing is decoded, so the \
        stream is as small as the store and made at the speed of the disk.\n\n\
        With --from only what has changed since an earlier snapshot is sent, which the receiver \
        must have.",
    after_help = "Examples:\n  \
        laconicfs send ~/notes > notes.stream    # makes a snapshot first\n  \
        laconicfs send ~/notes --snapshot monday | ssh far laconicfs receive /srv/notes.store\n  \
        laconicfs send ~/notes --snapshot tuesday --from monday > tuesday.stream"
)]
pub struct SendArgs {
    /// A store or the mount point of one
    #[arg(value_name = "STORE|DIR")]
    path: PathBuf,
    /// The snapshot to send [default: one that is made now, named by the time]
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Send only what has changed since this snapshot
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// Go on where a receiver was cut off, which has printed this token
    #[arg(long, value_name = "TOKEN", requires = "snapshot")]
    resume: Option<String>,
}

#[derive(Args)]
#[command(
    long_about = "Read a stream of `laconicfs send` from standard input. A store that does not \
        exist is made, and shows what was sent. In one that exists the stream becomes a snapshot; \
        `laconicfs snapshot rollback` makes the volume equal to it.\n\n\
        Nothing is seen of a stream before all of it is here. One that is cut off leaves its \
        beginning in the store: receive it again, or go on with the token that is printed. \
        Records are checked as they come, but chunks are not decoded unless you say --verify: \
        do so with streams from people you do not trust.",
    after_help = "Examples:\n  \
        laconicfs receive ~/copy.store < notes.stream\n  \
        laconicfs receive --verify ~/copy.store < tuesday.stream"
)]
pub struct ReceiveArgs {
    /// A store, or where to make one
    #[arg(value_name = "STORE|DIR")]
    store: PathBuf,
    /// Name of the snapshot here [default: the same]
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Decode every chunk and compare it with its name
    #[arg(long)]
    verify: bool,
}

pub fn send_stream(args: &SendArgs, json: bool) -> Result<()> {
    if std::io::stdout().is_terminal() {
        return Err(failure(
            Exit::Usage,
            "a stream is not for terminals: redirect it to a file or a pipe",
        ));
    }
    let resume = match &args.resume {
        Some(token) => Some(Position::parse(token).ok_or_else(|| {
            failure(
                Exit::Usage,
                "this is no token that `laconicfs receive` prints",
            )
        })?),
        None => None,
    };
    let name = match &args.snapshot {
        Some(name) => name.clone(),
        None => {
            let name = format!("sent-{}", snapshot::name_of_now());
            snapshot::make(&args.path, &name)?;
            if !json {
                eprintln!("made the snapshot {name}; later ones can be sent with --from {name}");
            }
            name
        }
    };
    let options = SendOptions {
        snapshot: name,
        from: args.from.clone(),
        resume,
    };
    let bar = progress::count_bytes("sending");
    let mut out = BufWriter::with_capacity(BUFFER, std::io::stdout().lock());
    let sent: Sent = match locate::find(&args.path)? {
        Found::Closed(store) => {
            let fs = FileSystem::open(&store, &Settings::look())?;
            let sent = send(&fs, &options, &mut out, &mut |bytes| {
                bar.set_position(bytes)
            });
            fs.close()?;
            sent?
        }
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            let pipe = Pipe::new(&report.store)?;
            let ask = Ask::Send {
                options,
                to: pipe.path().into(),
            };
            beside(open, ask, &bar, |ended| pipe.copy_to(&mut out, ended))?
        }
    };
    out.flush().context("writing the stream")?;
    bar.finish_and_clear();
    tell(json, &sent, || {
        format!(
            "sent the snapshot {}: {} rows, {} chunks, {}\n",
            sent.snapshot,
            sent.rows,
            sent.chunks,
            size(sent.bytes)
        )
    })
}

/// Standard output is the stream's: reports go beside it.
fn tell<T: Serialize>(json: bool, value: &T, human: impl FnOnce() -> String) -> Result<()> {
    let text = match json {
        true => serde_json::to_string(value).context("writing JSON")? + "\n",
        false => human(),
    };
    // Whoever closed it does not want to know.
    let _ = std::io::stderr().write_all(text.as_bytes());
    Ok(())
}

/// Asks a process while `pump` moves bytes to or from it.
fn beside<T: serde::de::DeserializeOwned>(
    mut open: locate::Open,
    ask: Ask,
    bar: &indicatif::ProgressBar,
    pump: impl FnOnce(&AtomicBool) -> Result<()>,
) -> Result<T> {
    let ended = AtomicBool::new(false);
    let (answer, pumped) = std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let answer = open.ask(ask, &mut |bytes| {
                bar.set_position(bytes.as_u64().unwrap_or(0))
            });
            ended.store(true, Ordering::SeqCst);
            answer
        });
        let pumped = pump(&ended);
        (asking.join(), pumped)
    });
    let answer = answer.unwrap_or_else(|_| Err(failure(Exit::Failure, "asking failed")));
    // What the other side says explains more.
    let answer = answer?;
    pumped?;
    serde_json::from_value(answer).context("the answer of the mount is malformed")
}

/// Sends into a pipe: the part of a process that has the store open.
pub fn serve_send(
    fs: &FileSystem,
    options: &SendOptions,
    to: &Path,
    progress: &mut dyn FnMut(Value) -> bool,
) -> Result<Sent> {
    let pipe = File::options()
        .write(true)
        .open(to)
        .with_context(|| format!("opening {}", to.display()))?;
    let mut out = BufWriter::with_capacity(BUFFER, pipe);
    let mut report = paced(progress);
    Ok(send(fs, options, &mut out, &mut report)?)
}

/// Receives from a pipe: the part of a process that has the store open.
pub fn serve_receive(
    fs: &FileSystem,
    options: &ReceiveOptions,
    from: &Path,
    progress: &mut dyn FnMut(Value) -> bool,
) -> Result<Received> {
    let pipe = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    let stream = Stream::open(BufReader::with_capacity(BUFFER, pipe))?;
    let mut report = paced(progress);
    let received = stream.receive(fs, options, &mut report).map_err(cut_off)?;
    if received.models > 0 {
        log::warn!("chunks of new models can be read when the store is mounted again");
    }
    Ok(received)
}

/// Every mebibyte, not every record.
fn paced(progress: &mut dyn FnMut(Value) -> bool) -> impl FnMut(u64) {
    let mut told = 0;
    move |bytes| {
        if bytes >= told + (1 << 20) {
            told = bytes;
            progress(bytes.into());
        }
    }
}

fn cut_off(cut: CutOff) -> anyhow::Error {
    let CutOff { error, resume } = cut;
    let Some(token) = resume else {
        return error.into();
    };
    let error = anyhow::Error::new(error);
    failure(
        Exit::of(&error),
        format!(
            "{}; what came is kept: receive the stream again, or only the rest of it, which \
             `laconicfs send ... --resume {token}` makes",
            exit::message(&error)
        ),
    )
}

pub fn receive(args: &ReceiveArgs, json: bool) -> Result<()> {
    let input = std::io::stdin();
    if input.is_terminal() {
        return Err(failure(
            Exit::Usage,
            "give the stream on standard input: laconicfs receive STORE < FILE",
        ));
    }
    let mut input = BufReader::with_capacity(BUFFER, input.lock());
    let options = ReceiveOptions {
        name: args.name.clone(),
        verify: args.verify,
    };
    let bar = progress::count_bytes("receiving");
    let exists = args.store.symlink_metadata().is_ok();
    let found = match exists {
        true => locate::find(&args.store)?,
        false => Found::Closed(args.store.clone()),
    };
    let received: Received = match found {
        Found::Closed(store) => closed(&store, exists, &options, &mut input, &bar)?,
        Found::Open(mut open) => {
            let report: Report = open.ask_for(Ask::Stat)?;
            let pipe = Pipe::new(&report.store)?;
            let ask = Ask::Receive {
                options,
                from: pipe.path().into(),
            };
            beside(open, ask, &bar, |ended| pipe.copy_from(&mut input, ended))?
        }
    };
    bar.finish_and_clear();
    report::emit(json, &received, || {
        let mut text = format!(
            "received the snapshot {}: {} files, {}, in {} of stream\n",
            received.snapshot.name,
            received.snapshot.files,
            size(received.snapshot.logical),
            size(received.bytes)
        );
        text.push_str(&match received.filled {
            true => format!(
                "the volume shows it: laconicfs mount {} DIR\n",
                args.store.display()
            ),
            false => format!(
                "find it in .snapshots/{0} of the mount; the volume becomes it by: laconicfs \
                 snapshot rollback {1} {0}\n",
                received.snapshot.name,
                args.store.display()
            ),
        });
        if received.models > 0 && exists {
            text.push_str("a store that is mounted reads its new models after the next mount\n");
        }
        text
    })
}

fn closed(
    store: &Path,
    exists: bool,
    options: &ReceiveOptions,
    input: &mut dyn Read,
    bar: &indicatif::ProgressBar,
) -> Result<Received> {
    let stream = Stream::open(input)?;
    let empty = exists && std::fs::read_dir(store).is_ok_and(|mut names| names.next().is_none());
    let made = !exists || empty;
    if made {
        stream.make_store(store)?;
    }
    let settings = Settings {
        drain_threads: 0,
        ..Settings::default()
    };
    let fs = FileSystem::open(store, &settings)?;
    let received = stream.receive(&fs, options, &mut |bytes| bar.set_position(bytes));
    let closed = fs.close().context("closing the store");
    drop(fs);
    if made && matches!(&received, Err(cut) if cut.resume.is_none()) {
        // Nothing of the stream is in it.
        let removed = match exists {
            true => empty_folder(store),
            false => std::fs::remove_dir_all(store),
        };
        removed.with_context(|| format!("removing {}", store.display()))?;
    }
    let received = received.map_err(cut_off);
    received.and_then(|received| closed.map(|()| received))
}

fn empty_folder(folder: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => std::fs::remove_dir_all(path)?,
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}
