//! Asking the process that has a store open.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::{Ask, Failed, Line, Reply, Request, VERSION};
use crate::error::{Error, Result};

/// A connection to a [`Server`](super::Server).
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(path: &Path) -> Result<Client> {
        let stream = UnixStream::connect(path).map_err(Error::io(format!(
            "talking to the process that has the store open, at {}",
            path.display()
        )))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Asks, hands every progress report to `progress`, and returns what the
    /// server answered. The outer error is one of the connection.
    pub fn ask(
        &mut self,
        ask: Ask,
        progress: &mut dyn FnMut(Value),
    ) -> Result<Result<Value, Failed>> {
        let lost = || Error::io("talking to the process that has the store open");
        let request = serde_json::to_string(&Request { v: VERSION, ask })
            .map_err(|e| Error::Other(format!("writing a request: {e}")))?;
        let stream = self.stream.get_mut();
        writeln!(stream, "{request}").map_err(lost())?;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line).map_err(lost())? == 0 {
                let ended = std::io::Error::new(ErrorKind::UnexpectedEof, "it ended");
                return Err(lost()(ended));
            }
            let line: Line = serde_json::from_str(&line)
                .map_err(|e| Error::Other(format!("a malformed reply: {e}")))?;
            // What a server of another version says about that is for people.
            if line.v != VERSION && !matches!(line.reply, Reply::Failed(_)) {
                return Err(Error::Other(format!(
                    "the mount speaks version {} of the control protocol and this program version \
                     {VERSION}: unmount and mount again with this program",
                    line.v
                )));
            }
            match line.reply {
                Reply::Progress(value) => progress(value),
                Reply::Done(value) => return Ok(Ok(value)),
                Reply::Failed(failed) => return Ok(Err(failed)),
            }
        }
    }
}
