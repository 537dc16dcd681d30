//! Where a chat's turns come from: a terminal with line editing and history, or the lines of a pipe.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, Cmd, Config, Editor, Event, Helper, KeyCode, KeyEvent, Modifiers};

use super::commands;
use crate::output;

/// Turns that a history keeps.
const HISTORY: usize = 1000;
const PROMPT: &str = "> ";

/// Where turns come from.
pub(super) enum Input {
    /// A person at a terminal.
    Terminal(Box<Terminal>),
    /// Lines of a pipe or a file, each a turn.
    Lines,
}

/// What was read.
pub(super) enum Read {
    /// A turn or a command, without space around it where it is one line.
    Said(String),
    /// Nothing more will come.
    End,
}

/// A terminal that edits lines.
pub(super) struct Terminal {
    editor: Editor<Slash, DefaultHistory>,
    history: Option<PathBuf>,
    interrupt: Arc<AtomicBool>,
}

impl Input {
    /// A terminal where standard input is one.
    pub(super) fn open() -> Result<Self> {
        if !io::stdin().is_terminal() {
            return Ok(Self::Lines);
        }
        Ok(Self::Terminal(Box::new(Terminal::open()?)))
    }

    /// Whether a person types.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal(_))
    }

    /// The next turn that is not empty.
    pub(super) fn read(&mut self) -> Result<Read> {
        loop {
            let said = match self {
                Self::Terminal(terminal) => terminal.read()?,
                Self::Lines => {
                    let mut line = Vec::new();
                    match io::stdin().lock().read_until(b'\n', &mut line)? {
                        0 => Read::End,
                        // Another encoding is no reason to end the conversation.
                        _ => Read::Said(String::from_utf8_lossy(&line).into_owned()),
                    }
                }
            };
            match said {
                Read::Said(said) if said.trim().is_empty() => {}
                // A space in front of a slash makes a turn of what would be a command.
                Read::Said(said) if said.trim_start().starts_with('/') && said.starts_with(char::is_whitespace) => {
                    return Ok(Read::Said(format!(" {}", said.trim())));
                }
                Read::Said(said) => return Ok(Read::Said(said.trim().to_owned())),
                Read::End => return Ok(Read::End),
            }
        }
    }

    /// For the length of an answer: what is typed is kept for the next turn and not shown, and Ctrl-C sets a flag.
    pub(super) fn quiet(&self) -> Result<Quiet> {
        match self {
            Self::Terminal(terminal) => Quiet::begin(&terminal.interrupt),
            Self::Lines => Ok(Quiet {
                before: None,
                interrupt: None,
            }),
        }
    }
}

impl Terminal {
    fn open() -> Result<Self> {
        // The prompt belongs to the terminal, also where answers go to a file.
        let behavior = if io::stdout().is_terminal() {
            Behavior::Stdio
        } else {
            Behavior::PreferTerm
        };
        let config = Config::builder()
            .max_history_size(HISTORY)?
            .history_ignore_dups(true)?
            .bracketed_paste(true)
            .behavior(behavior)
            .build();
        let mut editor: Editor<Slash, DefaultHistory> = Editor::with_config(config)?;
        editor.set_helper(Some(Slash));
        for newline in [
            KeyEvent(KeyCode::Enter, Modifiers::ALT),
            KeyEvent(KeyCode::Char('j'), Modifiers::ALT),
        ] {
            editor.bind_sequence(Event::from(newline), Cmd::Newline);
        }
        let history = checkpoint::cache_dir().map(|cache| cache.join("chat-history"));
        if let Some(history) = &history {
            // A missing or unreadable history is an empty one.
            let _ = editor.load_history(history);
        }
        let interrupt = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGINT, interrupt.clone())
            .context("Ctrl-C cannot be caught")?;
        output::note("/help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves");
        Ok(Self {
            editor,
            history,
            interrupt,
        })
    }

    fn read(&mut self) -> Result<Read> {
        let mut interrupted = false;
        loop {
            match self.editor.readline(PROMPT) {
                Ok(said) => {
                    if !said.trim().is_empty() {
                        let _ = self.editor.add_history_entry(&said);
                        self.keep_history();
                    }
                    return Ok(Read::Said(said));
                }
                Err(ReadlineError::Interrupted) if !interrupted => {
                    interrupted = true;
                    output::note("(Ctrl-C again or /exit leaves)");
                }
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => return Ok(Read::End),
                Err(error) => return Err(error).context("the terminal cannot be read"),
            }
        }
    }

    /// A history that cannot be written is no reason to end the conversation.
    fn keep_history(&mut self) {
        if let Some(history) = &self.history {
            if let Some(folder) = history.parent() {
                let _ = std::fs::create_dir_all(folder);
            }
            if let Err(error) = self.editor.append_history(history) {
                tracing::debug!("`{}`: the history cannot be written: {error}", history.display());
            }
        }
    }
}

/// While this lives, the terminal shows nothing of what is typed.
pub(super) struct Quiet {
    before: Option<Termios>,
    interrupt: Option<Arc<AtomicBool>>,
}

/// What a terminal is told so that a paste arrives with marks around it, and so that it does not.
const MARK_PASTES: &[u8] = b"\x1b[?2004h";
const NO_MARKS: &[u8] = b"\x1b[?2004l";

impl Quiet {
    fn begin(interrupt: &Arc<AtomicBool>) -> Result<Self> {
        interrupt.store(false, Ordering::Relaxed);
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut quiet = before.clone();
            quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
            tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
            tell(MARK_PASTES);
        }
        Ok(Self {
            before,
            interrupt: Some(interrupt.clone()),
        })
    }

    /// Set by Ctrl-C; none where Ctrl-C ends the program, as it does for a pipe.
    pub(super) fn interrupt(&self) -> Option<Arc<AtomicBool>> {
        self.interrupt.clone()
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            tell(NO_MARKS);
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Tells the terminal, if standard output is one.
fn tell(sequence: &[u8]) {
    let mut out = io::stdout().lock();
    if out.is_terminal() {
        let _ = out.write_all(sequence).and_then(|()| out.flush());
    }
}

/// Completes commands by Tab.
struct Slash;

impl Completer for Slash {
    type Candidate = String;

    fn complete(
        &self,
        line: &str,
        at: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Self::Candidate>)> {
        let start = &line[..at];
        let is_command = start.starts_with('/') && !start.contains(char::is_whitespace);
        Ok((
            0,
            if is_command {
                commands::completions(start)
            } else {
                Vec::new()
            },
        ))
    }
}

impl Hinter for Slash {
    type Hint = String;
}

impl Highlighter for Slash {}

impl Validator for Slash {}

impl Helper for Slash {}
