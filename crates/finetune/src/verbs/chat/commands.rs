//! Commands of a chat: lines that begin with a slash.

use std::path::PathBuf;

use anyhow::{Result, bail};
use methods::recipe::nearest;

use super::settings::Change;

/// What a line that begins with a slash asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Command {
    /// Show the commands.
    Help,
    /// Leave.
    Exit,
    /// Forget the turns.
    Clear,
    /// Change the instructions before the first turn, or remove them.
    System(Option<String>),
    /// Take back the last turn and its answer.
    Undo,
    /// Answer the last turn again.
    Retry,
    /// Add the conversation to a file.
    Save(PathBuf),
    /// Show the options.
    Settings,
    /// Change an option.
    Set(Change),
    /// Choose one of several adapters, or the base alone.
    Adapter(Option<String>),
}

/// What `/help` shows.
pub(super) const HELP: &str = "\
/help                    this list
/exit                    leave (also /quit, Ctrl-D)
/clear                   forget all turns (also /reset)
/system TEXT             instructions for the model before the first turn; without TEXT, none
/retry                   answer the last turn again
/undo                    take back the last turn and its answer
/save FILE               add the conversation to FILE as a line of JSON, which `finetune train` reads as a row
/settings                show the options
/temperature T           0: always the likeliest token; 0.7: some variety; above 1: wild
/top-p P                 draw only from the likeliest tokens that together reach probability P
/top-k K                 draw only from the K likeliest tokens; 0 for all
/min-p P                 draw only from tokens with at least P times the likeliest one's probability
/repetition-penalty X    above 1: tokens that were used before become less likely
/max-new-tokens N        the most tokens of an answer
/seed S                  the seed of the next answer's random numbers
/adapter NAME            answer with the adapter NAME=DIR of the command line; without NAME, with the base alone
Enter sends, Alt-Enter begins a new line, a pasted text is one turn, Ctrl-C stops an answer.
A turn that begins with a slash: put a space in front of it.";

const NAMES: [&str; 19] = [
    "help",
    "exit",
    "quit",
    "clear",
    "reset",
    "system",
    "retry",
    "undo",
    "save",
    "settings",
    "temperature",
    "top-p",
    "top-k",
    "min-p",
    "repetition-penalty",
    "max-new-tokens",
    "seed",
    "adapter",
    "?",
];

/// The commands that begin with `start`, a slash included.
pub(super) fn completions(start: &str) -> Vec<String> {
    let all = NAMES.iter().map(|name| format!("/{name}"));
    all.filter(|name| name.starts_with(start)).collect()
}

/// The command of a line; none if the line is a turn. `/etc/passwd` and several lines are turns.
pub(super) fn parse(said: &str) -> Option<Result<Command>> {
    let rest = said.strip_prefix('/')?;
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphabetic() || c == '-' || c == '?');
    (is_name && !said.contains('\n')).then(|| command(name, argument.trim()))
}

fn command(name: &str, argument: &str) -> Result<Command> {
    let text = || (!argument.is_empty()).then(|| argument.to_owned());
    let alone = |command| match argument {
        "" => Ok(command),
        found => bail!("`/{name}` takes nothing after it, found `{found}`"),
    };
    match name {
        "help" | "?" => alone(Command::Help),
        "exit" | "quit" => alone(Command::Exit),
        "clear" | "reset" => alone(Command::Clear),
        "retry" => alone(Command::Retry),
        "undo" => alone(Command::Undo),
        "settings" => alone(Command::Settings),
        "system" => Ok(Command::System(text())),
        "adapter" => Ok(Command::Adapter(text())),
        "save" => match text() {
            Some(path) => Ok(Command::Save(path.into())),
            None => bail!("`/save` wants a file\nhint: /save conversation.jsonl"),
        },
        _ => match Change::parse(name, argument) {
            Some(Ok(change)) => Ok(Command::Set(change)),
            Some(Err(wanted)) if argument.is_empty() => bail!("`/{name}`: {wanted}, found nothing"),
            Some(Err(wanted)) => bail!("`/{name}`: {wanted}, found `{argument}`"),
            None => {
                let near = nearest(name, NAMES.into_iter());
                let near = near.map_or_else(String::new, |near| format!("`/{near}` is near; "));
                bail!("no command `/{name}`\nhint: {near}/help lists all; a space in front makes it a turn")
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_a_slash_is_a_command_and_text_with_slashes_is_a_turn() {
        let rows = [
            ("/help", Some(Command::Help)),
            ("/quit", Some(Command::Exit)),
            ("/reset", Some(Command::Clear)),
            ("/system  Be brief. ", Some(Command::System(Some("Be brief.".into())))),
            ("/system", Some(Command::System(None))),
            ("/save a b.jsonl", Some(Command::Save("a b.jsonl".into()))),
            ("/temperature 0.5", Some(Command::Set(Change::Temperature(0.5)))),
            ("/adapter poems", Some(Command::Adapter(Some("poems".into())))),
            ("/etc/passwd holds what?", None),
            ("/help\nme", None),
            ("/", None),
            ("hello", None),
        ];
        for (line, wanted) in rows {
            assert_eq!(parse(line).transpose().unwrap(), wanted, "{line}");
        }
    }

    #[test]
    fn what_is_no_command_or_lacks_its_value_is_told() {
        for (line, part) in [
            ("/hepl", "`/help` is near"),
            ("/save", "wants a file"),
            ("/temperature hot", "wanted a number of at least 0, found `hot`"),
            ("/top-p", "found nothing"),
            ("/exit now", "takes nothing"),
        ] {
            let error = parse(line).unwrap().unwrap_err().to_string();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn every_name_is_a_command_that_help_tells_of() {
        for name in NAMES {
            assert!(HELP.contains(&format!("/{name}")) || name == "?", "{name}");
            let known = parse(&format!("/{name}")).unwrap();
            assert!(
                known.is_ok() || !known.unwrap_err().to_string().contains("no command"),
                "{name}"
            );
        }
        assert_eq!(completions("/re"), ["/reset", "/retry", "/repetition-penalty"]);
    }
}
