//! The control socket: how commands talk to the process that has a store open.
//!
//! A Unix socket that only its owner may use, in the store's directory, or in
//! the run-time directory where that path would be too long for a socket.
//! Requests and replies are lines of JSON, each with the version `v` of the
//! protocol; `docs/format-control.md` describes it.
//!
//! ```text
//! -> {"v":2,"ask":"drain"}
//! <- {"v":2,"progress":{"chunks_done":10, ...}}      any number of times
//! <- {"v":2,"done":null}                             once
//! <- {"v":2,"failed":{"exit":8,"message":"..."}}     or this
//! ```

mod client;
mod server;

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backup::{ReceiveOptions, SendOptions};
use crate::usage;

pub use client::Client;
pub use server::{Handler, Server};

/// Version of the protocol. A server answers only its own.
pub const VERSION: u32 = 2;

/// Longest path of a socket: `sun_path` without its final NUL.
const LONGEST: usize = 107;

/// Name of the socket in the store's directory.
pub const NAME: &str = "control";

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// The store in figures: a [`Report`](crate::filesystem::Report).
    Stat,
    /// What its configuration is: a list of
    /// [`Setting`](crate::config::Setting).
    Config,
    /// Code every chunk that is stored by now as small as it gets.
    Drain,
    /// The snapshots: a list of [`Snapshot`](crate::volume::Snapshot).
    Snapshots,
    /// Make one; answered with it, progress is a number of rows.
    SnapshotCreate {
        name: String,
    },
    /// Remove one.
    SnapshotDelete {
        name: String,
    },
    /// Write a snapshot's stream into a pipe; progress is a number of bytes,
    /// the answer a [`Sent`](crate::backup::Sent).
    Send {
        options: SendOptions,
        to: PathBuf,
    },
    /// Read a stream from a pipe; answered with a
    /// [`Received`](crate::backup::Received).
    Receive {
        options: ReceiveOptions,
        from: PathBuf,
    },
    /// Make everything durable.
    Sync,
    /// Unmount; answered when everything is flushed and the store is free.
    Stop,
    /// Take the mount away now, even if files are in use.
    Detach,
    /// Have the drain rest in the background, or go on.
    Pause,
    Resume,
    /// What files take: a [`Usage`](usage::Usage).
    Du(usage::Query),
    /// Everything: a [`WholeReport`](crate::filesystem::WholeReport).
    Report,
    /// Code files again: a [`RecodeProgress`](crate::tier::RecodeProgress).
    Recode {
        targets: Vec<usage::Target>,
        /// Name or beginning of the hash of a model of the store.
        model: Option<String>,
    },
    /// The models of the store: [`StoreModel`](crate::filesystem::StoreModel)s.
    Models,
    /// Add the model that this file holds.
    ModelAdd {
        file: PathBuf,
    },
    /// Have a model code new chunks.
    ModelDefault {
        model: String,
    },
    /// Remove the models that no chunk needs.
    ModelGc,
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    v: u32,
    ask: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
struct Line {
    v: u32,
    #[serde(flatten)]
    reply: Reply,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Reply {
    Progress(Value),
    Done(Value),
    Failed(Failed),
}

/// An error as it crosses the socket: an exit status and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    pub exit: u8,
    pub message: String,
}

/// Where the socket of this store is; `store` is its canonical path.
pub fn socket_path(store: &Path) -> PathBuf {
    let inside = store.join(NAME);
    // The socket is made under a longer name and then moved into place.
    if inside.as_os_str().len() + server::EXTRA <= LONGEST {
        return inside;
    }
    let hash = blake3::hash(store.as_os_str().as_bytes()).to_hex();
    runtime_dir().join(format!("laconicfs-{}", &hash[..16]))
}

/// A directory for sockets that belongs to this user.
fn runtime_dir() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        // SAFETY: takes nothing, touches no memory, cannot fail.
        _ if unsafe { libc::geteuid() } == 0 => "/run".into(),
        _ => std::env::temp_dir(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    /// Counts to three as its drain and fails to sync.
    struct Counter(AtomicU32);

    impl Handler for Counter {
        fn handle(
            &self,
            ask: Ask,
            progress: &mut dyn FnMut(Value) -> bool,
        ) -> Result<Value, Failed> {
            self.0.fetch_add(1, Ordering::Relaxed);
            match ask {
                Ask::Drain => {
                    for step in 0..3 {
                        progress(step.into());
                    }
                    Ok(Value::Null)
                }
                Ask::Stat => Ok("fine".into()),
                _ => Err(Failed {
                    exit: 8,
                    message: "full".into(),
                }),
            }
        }
    }

    fn served() -> (tempfile::TempDir, Server, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let server = Server::start(&path, Arc::new(Counter(AtomicU32::new(0)))).unwrap();
        (dir, server, path)
    }

    #[test]
    fn requests_are_answered_in_turn() {
        let (_dir, _server, path) = served();
        let mut client = Client::connect(&path).unwrap();
        let reply = client.ask(Ask::Stat, &mut |_| ()).unwrap().unwrap();
        assert_eq!(reply, Value::from("fine"));
        let mut steps = Vec::new();
        let reply = client.ask(Ask::Drain, &mut |step| steps.push(step));
        assert_eq!(reply.unwrap().unwrap(), Value::Null);
        assert_eq!(steps, [0, 1, 2].map(Value::from));
        let failed = client.ask(Ask::Sync, &mut |_| ()).unwrap().unwrap_err();
        assert_eq!((failed.exit, failed.message.as_str()), (8, "full"));
    }

    #[test]
    fn only_the_owner_may_ask() {
        let (_dir, _server, path) = served();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn nonsense_and_other_versions_are_refused() {
        let (_dir, _server, path) = served();
        for (line, says) in [
            ("{\"v\":1,\"ask\":\"stat\"}", "unmount and mount again"),
            ("{\"v\":99,\"ask\":\"stat\"}", "unmount and mount again"),
            ("{\"v\":2,\"ask\":\"fly\"}", "malformed request"),
            ("nonsense", "malformed request"),
            ("{}", "malformed request"),
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(format!("{line}\n").as_bytes()).unwrap();
            let mut reply = String::new();
            BufReader::new(stream).read_line(&mut reply).unwrap();
            let reply: Line = serde_json::from_str(&reply).unwrap();
            assert_eq!(reply.v, VERSION);
            match reply.reply {
                Reply::Failed(failed) => assert!(failed.message.contains(says), "{failed:?}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    /// A server of another version, as far as a client can tell.
    #[test]
    fn a_server_of_another_version_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            for reply in [
                "{\"v\":7,\"done\":[1]}\n",
                "{\"v\":1,\"failed\":{\"exit\":1,\"message\":\"speaks 1\"}}\n",
            ] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                reader.read_line(&mut request).unwrap();
                stream.write_all(reply.as_bytes()).unwrap();
            }
        });
        let mut client = Client::connect(&path).unwrap();
        let error = client.ask(Ask::Stat, &mut |_| ()).unwrap_err().to_string();
        assert!(
            error.contains("version 7") && error.contains("mount again"),
            "{error}"
        );
        // What an old one says about our version is shown as it is.
        let mut client = Client::connect(&path).unwrap();
        let failed = client.ask(Ask::Stat, &mut |_| ()).unwrap().unwrap_err();
        assert_eq!(failed.message, "speaks 1");
        server.join().unwrap();
    }

    /// The lines of `docs/format-control.md`.
    #[test]
    fn lines_are_as_described() {
        let line = |ask| serde_json::to_string(&Request { v: VERSION, ask }).unwrap();
        assert_eq!(line(Ask::Stat), "{\"v\":2,\"ask\":\"stat\"}");
        let doc = include_str!("../../docs/format-control.md");
        for ask in [Ask::Stat, Ask::Drain, Ask::Sync, Ask::Stop, Ask::Detach] {
            let name = serde_json::to_value(&ask).unwrap();
            let name = name.as_str().unwrap().to_string();
            assert!(
                doc.contains(&format!("| `{name}` |")),
                "{name} is not described"
            );
        }
    }

    #[test]
    fn the_socket_goes_with_its_server_and_a_stale_one_is_replaced() {
        let (dir, server, path) = served();
        drop(server);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Client::connect(&path).is_err());
        let _server = Server::start(&path, Arc::new(Counter(AtomicU32::new(0)))).unwrap();
        assert!(Client::connect(&path).is_ok());
        drop(dir);
    }

    #[test]
    fn long_paths_get_a_socket_elsewhere() {
        let long = PathBuf::from("/").join("x".repeat(90));
        let path = socket_path(&long);
        assert!(!path.starts_with(&long));
        assert!(path.as_os_str().len() <= LONGEST);
        assert_eq!(path, socket_path(&long));
    }
}
