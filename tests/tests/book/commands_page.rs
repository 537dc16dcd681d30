//! `docs/reference/commands.md`, written from the command line's definition.

use std::fmt::Write as _;

use clap::CommandFactory as _;
use finetune::cli::Cli;

use super::pages;

const HEAD: &str = "# Commands

A test writes this page from the help of the program: `UPDATE_DOCS=1 cargo test -p end-to-end --test book`.
`finetune COMMAND --help` prints the same text, and `finetune COMMAND -h` a shorter one.

The exit code is 0 after success, 1 after an error, and 2 if the command line is wrong.
`FINETUNE_LOG` sets the level of the log on stderr: `warn` by default, `info` or `debug` for more. `FINETUNE_CACHE` sets the folder of the local store.

";

#[test]
fn the_page_of_commands_is_the_help() {
    let mut cli = Cli::command().bin_name("finetune");
    cli.build();
    let verbs: Vec<String> = cli
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned())
        .filter(|name| name != "help")
        .collect();
    let mut page = HEAD.to_owned();
    page += "| command | what it does |\n|---|---|\n";
    for name in &verbs {
        let verb = cli.find_subcommand(name).expect("it was listed");
        let about = verb.get_about().expect("every verb says what it does");
        let _ = writeln!(page, "| [`{name}`](#{name}) | {about} |");
    }
    for name in &verbs {
        let verb = cli.find_subcommand_mut(name).expect("it was listed");
        let help = verb.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(page, "\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim());
    }
    pages::hold("reference/commands.md", &page);
}
