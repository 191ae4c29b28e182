//! QEMU's monitor protocol, and its guest agent's, which has the same form: a JSON object a line, each
//! question answered in turn.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::wait;

/// A connection.
#[derive(Debug)]
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Connects to the monitor at `socket`; it and each answer may take `within` that time.
    ///
    /// # Panics
    /// If nobody listens there.
    #[must_use]
    pub fn connect(socket: &Path, within: Duration) -> Self {
        let mut monitor = Self::connect_agent(socket, within);
        monitor.ask("qmp_capabilities", &json!({}));
        monitor
    }

    /// Connects to a guest agent's `socket`. What it is asked before it runs it answers then.
    ///
    /// # Panics
    /// If nobody listens there.
    #[must_use]
    pub fn connect_agent(socket: &Path, within: Duration) -> Self {
        let stream = wait::until_some("QEMU's socket", within, || UnixStream::connect(socket).ok());
        stream.set_read_timeout(Some(within)).expect("not zero");
        Self(BufReader::new(stream))
    }

    /// Asks; what is told unasked is passed over.
    ///
    /// # Panics
    /// If there is no answer, or it is an error.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let question = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{question}").expect("QEMU listens");
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.0.read_line(&mut line);
            read.unwrap_or_else(|e| panic!("{command}: no answer of QEMU: {e}"));
            let mut answer: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{command}: {line:?}: {e}"));
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get_mut("return") {
                return value.take();
            }
        }
    }
}
