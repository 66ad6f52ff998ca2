//! Answering commands: one thread that accepts, one for each connection.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Ask, Failed, Line, Reply, Request, VERSION};
use crate::error::{Error, Result};

/// By how much the path that the socket is made under may be longer than the
/// one it ends with.
pub(super) const EXTRA: usize = 16;

/// Longest request, in bytes.
const REQUEST: u64 = 1 << 20;

/// What answers.
pub trait Handler: Send + Sync + 'static {
    /// Does what is asked. `progress` sends a report and returns `false` once
    /// the one who asked has gone.
    fn handle(&self, ask: Ask, progress: &mut dyn FnMut(Value) -> bool) -> Result<Value, Failed>;
}

/// Listens until it is dropped. Requests that are being answered then go on.
pub struct Server {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path`. The caller holds the store's lock, so a socket that
    /// is there already is left over from a process that was killed.
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> Result<Server> {
        let listener = bind(path).map_err(Error::io(format!(
            "making the control socket {}",
            path.display()
        )))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let stop = stop.clone();
            std::thread::Builder::new()
                .name("control".into())
                .spawn(move || accept_loop(&listener, &stop, &handler))
                .map_err(Error::io("starting a thread"))?
        };
        Ok(Server {
            path: path.into(),
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // The thread sleeps in accept: a connection wakes it.
        if UnixStream::connect(&self.path).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// A listening socket that was never open to others: it is made in a private
/// directory and moved into place when its permissions are right.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let private = tempfile::Builder::new()
        .prefix(".")
        .rand_bytes(6)
        .tempdir_in(folder)?;
    let first = private.path().join("s");
    let listener = UnixListener::bind(&first)?;
    fs::set_permissions(&first, Permissions::from_mode(0o600))?;
    fs::rename(&first, path)?;
    Ok(listener)
}

fn accept_loop(listener: &UnixListener, stop: &AtomicBool, handler: &Arc<dyn Handler>) {
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let handler = handler.clone();
        let started = stream.and_then(|stream| {
            std::thread::Builder::new()
                .name("control-client".into())
                .spawn(move || serve(&stream, &*handler))
        });
        if let Err(error) = started {
            log::warn!("control socket: {error}");
            // Out of file descriptors, say: do not spin.
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// Answers one connection until it ends.
fn serve(stream: &UnixStream, handler: &dyn Handler) {
    let mut reader = BufReader::new(stream);
    loop {
        let mut text = String::new();
        match (&mut reader).take(REQUEST).read_line(&mut text) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let reply = match parse(&text) {
            Ok(ask) => {
                log::debug!("asked over the control socket: {ask:?}");
                let mut progress = |value| send(stream, Reply::Progress(value)).is_ok();
                match handler.handle(ask, &mut progress) {
                    Ok(value) => Reply::Done(value),
                    Err(failed) => Reply::Failed(failed),
                }
            }
            Err(message) => Reply::Failed(Failed { exit: 1, message }),
        };
        if send(stream, reply).is_err() {
            return;
        }
    }
}

fn parse(text: &str) -> Result<Ask, String> {
    let version = serde_json::from_str::<Value>(text)
        .ok()
        .and_then(|value| value.get("v")?.as_u64())
        .ok_or("a malformed request")?;
    if version != u64::from(VERSION) {
        return Err(format!(
            "the mount speaks version {VERSION} of the control protocol and was asked in \
             version {version}: unmount and mount again with the newer program"
        ));
    }
    let request: Request =
        serde_json::from_str(text).map_err(|e| format!("a malformed request: {e}"))?;
    Ok(request.ask)
}

fn send(mut stream: &UnixStream, reply: Reply) -> std::io::Result<()> {
    let line = serde_json::to_string(&Line { v: VERSION, reply })
        .map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))?;
    // One write: a reader never sees half a line of a process that was killed.
    stream.write_all(format!("{line}\n").as_bytes())
}
