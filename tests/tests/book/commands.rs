//! Every command that a page shows is one that the program understands.

use clap::{CommandFactory as _, Parser as _};
use finetune::cli::Cli;

use super::pages::{self, Block};

/// The commands of a block of the shell, continued lines joined, each with its line number.
fn commands(block: &Block<'_>) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    if !["sh", "console"].contains(&block.label) {
        return found;
    }
    let mut lines = block.lines.iter().enumerate();
    while let Some((idx, line)) = lines.next() {
        let line = line.trim();
        let line = line.strip_prefix("$ ").unwrap_or(line);
        if !line.starts_with("finetune ") {
            continue;
        }
        let mut command = line.to_owned();
        while let Some(begun) = command.strip_suffix('\\') {
            let (_, next) = lines.next().expect("a continued line continues");
            command = format!("{begun} {}", next.trim());
        }
        found.push((block.line + idx, command));
    }
    found
}

/// The words of a command up to a pipe, a redirection or a comment, as a shell splits them.
fn words(command: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for character in command.chars() {
        match (character, quote) {
            (c, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            ('|' | '>' | '#', None) if word.is_none() => break,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        Some(quote) => Err(format!("the {quote} is not closed")),
        None => Ok(words),
    }
}

fn wrong(command: &str) -> Option<String> {
    let words = match words(command) {
        Ok(words) => words,
        Err(error) => return Some(error),
    };
    let error = Cli::try_parse_from(words).err()?;
    let is_help = matches!(
        error.kind(),
        clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion
    );
    (!is_help).then(|| error.to_string())
}

#[test]
fn every_command_of_the_pages_is_understood() {
    let mut count = 0;
    let mut errors = Vec::new();
    for page in pages::all()
        .into_iter()
        .filter(|page| !pages::is_written_by_a_run(page))
    {
        let text = pages::read(&page);
        for (line, command) in pages::blocks(&text).iter().flat_map(commands) {
            count += 1;
            if let Some(error) = wrong(&command) {
                errors.push(format!("{}:{line}: `{command}`: {error}", page.display()));
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(count > 50, "{count} commands");
}

#[test]
fn commands_between_backticks_have_verbs_and_flags_that_exist() {
    let cli = Cli::command();
    let mut count = 0;
    let mut errors = Vec::new();
    for page in pages::all() {
        for (idx, line) in pages::read(&page).lines().enumerate() {
            for command in line
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|code| code.starts_with("finetune "))
            {
                count += 1;
                let mut parts = command.split_whitespace().skip(1);
                let verb = parts.next().unwrap_or_default();
                let known = match cli.find_subcommand(verb) {
                    Some(known) => known,
                    None if verb.starts_with("--") || ["…", "COMMAND"].contains(&verb) => continue,
                    None => {
                        errors.push(format!("{}:{}: no verb `{verb}`", page.display(), idx + 1));
                        continue;
                    }
                };
                for flag in parts.filter_map(|part| part.strip_prefix("--")) {
                    let flag = flag.split('=').next().unwrap_or_default();
                    let is_known = known.get_arguments().any(|argument| argument.get_long() == Some(flag));
                    if !is_known && flag != "help" {
                        errors.push(format!("{}:{}: `{verb}` has no `--{flag}`", page.display(), idx + 1));
                    }
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(count > 20, "{count} commands");
}

#[test]
fn what_is_no_command_is_found() {
    for command in [
        "finetune trian r.toml",
        "finetune train",
        "finetune generate --model m --promt x",
        "finetune generate --model m --prompt \"x",
    ] {
        assert!(wrong(command).is_some(), "{command}");
    }
    for command in [
        "finetune train r.toml --set a.b='[\"x y\"]'  # a comment",
        "finetune score --model m --data d.jsonl > scores.jsonl",
        "finetune merge --help | head",
    ] {
        assert_eq!(wrong(command), None, "{command}");
    }
}
