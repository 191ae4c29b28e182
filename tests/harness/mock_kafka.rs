//! librdkafka's mock cluster in a process of its own (`mock-kafka`), so that what it costs is not
//! counted with anybody else, and so that it lives on when a client is killed.
//!
//! It keeps 5 MiB or 100,000 message sets a partition: read along from the start.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::process::workspace_program;

/// A running mock cluster. It ends when this is dropped, and when this process ends.
#[derive(Debug)]
pub struct MockKafka {
    child: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    bootstrap: String,
}

impl MockKafka {
    /// Starts a cluster of one broker.
    ///
    /// # Panics
    /// If the program is missing or does not start.
    #[must_use]
    pub fn start() -> Self {
        let mut child = Command::new(workspace_program("mock-kafka"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("mock-kafka: {e}"));
        let commands = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped"));
        let mut mock = Self {
            child,
            commands,
            answers,
            bootstrap: String::new(),
        };
        mock.bootstrap = mock.answer();
        mock
    }

    /// `host:port`.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// Creates a topic.
    ///
    /// # Panics
    /// If the cluster refuses.
    pub fn create_topic(&mut self, name: &str, partitions: u16) {
        self.command(&format!("topic {name} {partitions}"));
    }

    /// Takes the broker away: connections close, and new ones are refused.
    ///
    /// # Panics
    /// If the cluster refuses.
    pub fn down(&mut self) {
        self.command("down");
    }

    /// Brings the broker back, with what it had.
    ///
    /// # Panics
    /// If the cluster refuses.
    pub fn up(&mut self) {
        self.command("up");
    }

    /// Sends one line as the program's help describes it, and waits until it is done.
    ///
    /// # Panics
    /// If the program refuses it.
    pub fn command(&mut self, line: &str) {
        writeln!(self.commands, "{line}").expect("mock-kafka runs");
        let answer = self.answer();
        assert_eq!(answer, "ok", "mock-kafka, {line:?}");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("mock-kafka runs");
        assert!(line.ends_with('\n'), "mock-kafka has ended");
        line.trim_end().to_owned()
    }
}

impl Drop for MockKafka {
    fn drop(&mut self) {
        // The process may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
