//! The command line: one verb, its arguments, and an example each.

use std::process::ExitCode;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};
use methods::recipe::Recipe;

use crate::verbs;

/// Fine-tune language models: train, measure, merge, hand on.
#[derive(Debug, Parser)]
#[command(
    name = "finetune",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = "MODEL is a Hugging Face model directory, a .gguf file, a name in the local store, or a hub id (org/name).\n\n\
                  Example:\n  finetune train recipes/sft-lora.toml --set train.learning_rate=1e-4"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Train as a recipe says
    Train(verbs::train::Args),
    /// Generate text after a prompt, or after each row of a file
    Generate(verbs::generate::Args),
    /// Talk with a model in the terminal
    Chat(verbs::chat::Args),
    /// Label texts by a classifier, with probabilities
    Classify(verbs::classify::Args),
    /// Show the log-probability of each row, perplexity and bits per byte
    Score(verbs::score::Args),
    /// Measure a model on a suite of tasks, and compare with an earlier report
    Evaluate(verbs::evaluate::Args),
    /// Measure how training changed a model's weights, in magnitude and direction
    Analyse(verbs::analyse::Args),
    /// Merge an adapter into its model's weights
    Merge(verbs::merge::Args),
    /// Combine several adapters of one model into one
    Combine(verbs::combine::Args),
    /// Make a model sparse, or smaller
    Prune(verbs::prune::Args),
    /// Remove facts from a memory
    Forget(verbs::forget::Args),
    /// Reset a random half of a tuned model to its base's values
    Reset(verbs::reset::Args),
    /// Write a model in a format that others read
    Export(verbs::export::Args),
    /// Write a model or an adapter in 4 or 8 bits
    Quantize(verbs::quantize::Args),
    /// Remove or merge the experts of a mixture that a sample of text needs least
    Experts(verbs::experts::Args),
    /// Let several models answer, read each other's answers, and one write the final answer
    Moa(verbs::moa::Args),
    /// Make a mixture of experts from a dense model, or from tuned copies of one
    Upcycle(verbs::upcycle::Args),
    /// Run the stages of a pipeline, or a study, with one report
    Pipeline(verbs::pipeline::Args),
    /// Fetch models and data by name into the local store
    Fetch(verbs::fetch::Args),
    /// Add a model to the local store
    Import(verbs::import::Args),
    /// Show what a model, an adapter or a data file is
    Inspect(verbs::inspect::Args),
    /// Estimate memory and time of a recipe before it runs; after a run, compare
    Estimate(verbs::estimate::Args),
    /// Show what this machine can do
    Doctor(verbs::doctor::Args),
    /// Print the JSON Schema of recipes, with which an editor completes and checks them
    Schema(verbs::schema::Args),
    /// Print completions for a shell
    Completions(verbs::completions::Args),
    /// Print a manual page, or write all of them
    Man(verbs::man::Args),
}

impl Cli {
    /// Parses this process's arguments; leaves with a message if they are wrong. A key of recipes that is given as a flag
    /// of `train` is told how it is set.
    pub fn of_arguments() -> Self {
        let arguments: Vec<String> = std::env::args_os()
            .map(|argument| argument.to_string_lossy().into_owned())
            .collect();
        Self::try_parse().unwrap_or_else(|error| with_key(error, &arguments).exit())
    }
}

fn with_key(mut error: clap::Error, arguments: &[String]) -> clap::Error {
    let flag = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) => flag.clone(),
        _ => return error,
    };
    let is_train = arguments.get(1).is_some_and(|verb| verb == "train");
    let flag = flag.split_once('=').map_or(flag.as_str(), |(flag, _)| flag).to_owned();
    if !is_train || error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let Some(key) = Recipe::key_of_flag(&flag) else {
        return error;
    };
    let inline = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix(&format!("{flag}=")));
    let behind = || {
        let at = arguments.iter().position(|argument| *argument == flag)?;
        arguments
            .get(at + 1)
            .map(String::as_str)
            .filter(|value| !value.starts_with("--"))
    };
    let value = inline.or_else(behind).unwrap_or("VALUE");
    error.remove(ContextKind::SuggestedArg);
    let tip = format!("a recipe's key is set by `--set {key}={value}`");
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

impl Verb {
    /// Does it.
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::Train(args) => args.run(),
            Self::Generate(args) => args.run(),
            Self::Chat(args) => args.run(),
            Self::Classify(args) => args.run(),
            Self::Score(args) => args.run(),
            Self::Evaluate(args) => args.run(),
            Self::Analyse(args) => args.run(),
            Self::Merge(args) => args.run(),
            Self::Combine(args) => args.run(),
            Self::Prune(args) => args.run(),
            Self::Forget(args) => args.run(),
            Self::Reset(args) => args.run(),
            Self::Export(args) => args.run(),
            Self::Quantize(args) => args.run(),
            Self::Experts(args) => args.run(),
            Self::Moa(args) => args.run(),
            Self::Upcycle(args) => args.run(),
            Self::Pipeline(args) => args.run(),
            Self::Fetch(args) => args.run(),
            Self::Import(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Estimate(args) => args.run(),
            Self::Doctor(args) => args.run(),
            Self::Schema(args) => args.run(),
            Self::Completions(args) => args.run(),
            Self::Man(args) => args.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn a_key_given_as_a_flag_is_told_how_it_is_set() {
        for (arguments, wanted) in [
            (
                &["train", "r.toml", "--max-steps", "3"][..],
                Some("`--set train.max_steps=3`"),
            ),
            (&["train", "r.toml", "--max-steps=3"], Some("`--set train.max_steps=3`")),
            (
                &["train", "r.toml", "--learning-rate"],
                Some("`--set train.learning_rate=VALUE`"),
            ),
            (&["train", "r.toml", "--max-stepz", "3"], None),
            (&["generate", "--model", "m", "--max-steps", "3"], None),
        ] {
            let arguments: Vec<String> = ["finetune"].iter().chain(arguments).map(ToString::to_string).collect();
            let error = Cli::try_parse_from(&arguments).unwrap_err();
            let text = with_key(error, &arguments).to_string();
            assert_eq!(text.contains("--set train."), wanted.is_some(), "{text}");
            assert!(wanted.is_none_or(|tip| text.contains(tip)), "{text}");
        }
    }

    #[test]
    fn the_definitions_fit_together_and_every_verb_shows_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Example:\n  finetune "), "{help}");
        }
    }
}
