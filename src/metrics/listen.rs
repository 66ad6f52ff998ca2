//! Serving metrics to processes of this machine.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;

use tiny_http::{Header, Method, Request, Response};

use super::CONTENT_TYPE;
use crate::error::{Error, Result};

/// Where a server listens: for processes of this machine only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix("unix:").unwrap_or(text);
        if path.starts_with('/') {
            return Ok(Listen::Unix(path.into()));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Listen::Tcp(address)),
            Ok(_) => Err("write a loopback address, such as 127.0.0.1:9464".into()),
            Err(_) => Err(
                "write a loopback address such as 127.0.0.1:9464, or the absolute path of a \
                 Unix socket"
                    .into(),
            ),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listen::Tcp(address) => write!(f, "{address}"),
            Listen::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Answers `GET /metrics` until it is dropped.
pub struct Server {
    http: Arc<tiny_http::Server>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens; `text` makes an answer. A Unix socket is its owner's only.
    pub fn start(
        listen: &Listen,
        text: impl Fn() -> Result<String> + Send + 'static,
    ) -> Result<Server> {
        let failed = || format!("listening for metrics at {listen}");
        let http = match listen {
            // Checked when it was parsed, but it may have been made otherwise.
            Listen::Tcp(address) if !address.ip().is_loopback() => {
                return Err(Error::Invalid(
                    "metrics are served to processes of this machine only",
                ));
            }
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(Error::io(failed()))?;
                tiny_http::Server::from_listener(listener, None)
            }
            Listen::Unix(path) => {
                let listener = bind(path).map_err(Error::io(failed()))?;
                tiny_http::Server::from_listener(listener, None)
            }
        };
        let http = http.map_err(|error| Error::Other(format!("{}: {error}", failed())))?;
        let http = Arc::new(http);
        let thread = {
            let http = http.clone();
            std::thread::Builder::new()
                .name("metrics".into())
                .spawn(move || {
                    for request in http.incoming_requests() {
                        // Whoever asked may have gone.
                        let _ = answer(request, &text);
                    }
                })
                .map_err(Error::io("starting a thread"))?
        };
        Ok(Server {
            http,
            thread: Some(thread),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.http.server_addr().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.http.unblock();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A socket that nobody listens at is left over and replaced.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    let listener = match UnixListener::bind(path) {
        Err(error)
            if error.kind() == std::io::ErrorKind::AddrInUse
                && UnixStream::connect(path).is_err() =>
        {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn answer(request: Request, text: &impl Fn() -> Result<String>) -> std::io::Result<()> {
    let path = request.url().split('?').next().unwrap_or_default();
    if path != "/metrics" {
        let hint = Response::from_string("the metrics are at /metrics\n");
        return request.respond(hint.with_status_code(404));
    }
    if !matches!(request.method(), Method::Get | Method::Head) {
        let hint = Response::from_string("only GET is answered\n");
        return request.respond(hint.with_status_code(405));
    }
    match text() {
        Ok(text) => {
            let mut response = Response::from_string(text);
            if let Ok(header) = Header::from_bytes("Content-Type", CONTENT_TYPE) {
                response.add_header(header);
            }
            request.respond(response)
        }
        Err(error) => {
            let said = Response::from_string(format!("{error}\n"));
            request.respond(said.with_status_code(503))
        }
    }
}
