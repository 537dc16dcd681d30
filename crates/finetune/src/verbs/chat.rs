//! `finetune chat`: a conversation in the terminal.

use std::io::{BufRead as _, IsTerminal as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use data::{Chat, Message};

use super::generate::SamplingArgs;
use crate::model::{Loaded, ModelArgs};
use crate::{output, prompts};

/// Arguments of `chat`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Lines are turns; /reset forgets them, /quit or the end of input leaves.\n\nExample:\n  finetune chat --model smollm2-135m-instruct --adapter runs/demo"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: SamplingArgs,
}

impl Args {
    /// Reads turns until the input ends.
    pub fn run(self) -> Result<ExitCode> {
        let options = self.sampling.options()?;
        let loaded = self.model.load()?;
        if loaded.tokenizer.templates().choose(false).is_none() {
            bail!(
                "`{}` has no chat template\nhint: `finetune generate --no-chat` continues plain text",
                self.model.model
            );
        }
        let opening: Vec<Message> = self.system.iter().map(|text| Message::new("system", text)).collect();
        let mut messages = opening.clone();
        let ask = || {
            if std::io::stdin().is_terminal() {
                output::piece("> ")
            } else {
                Ok(())
            }
        };
        ask()?;
        for line in std::io::stdin().lock().lines() {
            match line?.trim() {
                "" => {}
                "/quit" => break,
                "/reset" => messages.clone_from(&opening),
                said => {
                    messages.push(Message::new("user", said));
                    let answer = answer(&loaded, &messages, &options)?;
                    messages.push(Message::new("assistant", &answer));
                }
            }
            ask()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Streams the next turn and returns it.
fn answer(loaded: &Loaded, messages: &[Message], options: &decoder::GenerateOptions) -> Result<String> {
    let prompt = prompts::turns(&Chat::new(messages.to_vec()), &loaded.tokenizer)?;
    let mut stream = loaded.tokenizer.stream();
    let mut failed = None;
    let answers = loaded.model.generate(&[prompt], options, &mut |_, token| {
        let shown = stream
            .push(token)
            .map_err(Into::into)
            .and_then(|text| output::piece(&text));
        failed = failed.take().or(shown.err());
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    output::line(stream.finish()?)?;
    Ok(answers
        .first()
        .map(|answer| loaded.tokenizer.decode(&answer.tokens))
        .transpose()?
        .unwrap_or_default())
}
