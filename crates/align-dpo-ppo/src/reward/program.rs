//! A program that is given lines and asked for lines, under a time limit: it and all that it started can be stopped.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Bytes of the longest line; what is longer is cut into lines.
const LONGEST_LINE: u64 = 1 << 16;

/// How often it is seen whether the program has ended.
const TICK: Duration = Duration::from_millis(20);

/// How long no line may come once the program has ended: something that it left running may hold its stdout.
const GRACE: Duration = Duration::from_millis(500);

/// A program with its arguments, and how long it may be silent.
#[derive(Debug)]
pub(super) struct Program {
    command: Vec<String>,
    timeout: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself, with success.
    Well,
    /// By itself or by a signal, without.
    Badly(ExitStatus),
    /// It was silent for this long and was stopped.
    Silent(Duration),
}

/// A running program; it is stopped, with its whole process group, where nobody waited for its end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Also what it left running in its group.
        let _ = kill_process_group(Pid::from_child(&self.0), Signal::KILL);
        let _ = self.0.wait();
    }
}

impl Program {
    /// `command` is not empty.
    pub(super) fn new(command: Vec<String>, timeout: Duration) -> Self {
        Self { command, timeout }
    }

    /// As one would type it.
    pub(super) fn shown(&self) -> String {
        self.command.join(" ")
    }

    /// Writes `input` to its stdin and gives each line of its stdout to `line`, which says whether that is an answer; the
    /// time limit runs from answer to answer, and from the last one to the end.
    ///
    /// Errors: a program that cannot be started or read, and what `line` refuses; it is stopped then.
    pub(super) fn run(
        &self,
        input: String,
        line: &mut dyn FnMut(&str) -> Result<bool, String>,
    ) -> Result<Ended, String> {
        let mut child = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Of its own, so that all of it can be stopped, and Ctrl-C lets it finish its batch.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut running = Running(child);
        if let Some(mut stdin) = stdin {
            // A program that writes while it reads would wait for us as we for it; one that stops reading ends this.
            thread::spawn(move || stdin.write_all(input.as_bytes()));
        }
        let lines = stdout.map(lines_of).ok_or("it has no stdout")?;
        let (mut last, mut ended): (Instant, Option<(Instant, ExitStatus)>) = (Instant::now(), None);
        let (mut open, mut heard) = (true, Instant::now());
        loop {
            let now = Instant::now();
            if now.duration_since(last) > self.timeout && ended.is_none() {
                return Ok(Ended::Silent(self.timeout));
            }
            if let Some((when, status)) = ended
                && (!open || now.duration_since(when.max(heard)) > GRACE)
            {
                return Ok(if status.success() {
                    Ended::Well
                } else {
                    Ended::Badly(status)
                });
            }
            if open {
                match lines.recv_timeout(TICK) {
                    Ok(text) => {
                        heard = Instant::now();
                        if line(&text.map_err(|error| format!("its output cannot be read: {error}"))?)? {
                            last = heard;
                        }
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => open = false,
                }
            } else {
                thread::sleep(TICK);
            }
            if ended.is_none() {
                let status = running.0.try_wait().map_err(|error| error.to_string())?;
                ended = status.map(|status| (Instant::now(), status));
            }
        }
    }
}

/// The lines of a stream as they come, until its end or an error.
fn lines_of(stdout: ChildStdout) -> Receiver<io::Result<String>> {
    // A program that writes faster than it is read waits.
    let (send, lines) = mpsc::sync_channel(64);
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        loop {
            let mut line = Vec::new();
            let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
            let more = match read {
                Ok(0) => return,
                Ok(_) => send.send(Ok(String::from_utf8_lossy(&line).into_owned())),
                Err(error) => send.send(Err(error)),
            };
            if more.is_err() {
                return;
            }
        }
    });
    lines
}
