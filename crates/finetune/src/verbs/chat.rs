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
    after_help = "Lines are turns; /reset forgets them, /quit or the end of input leaves. Where a conversation outgrows the \
                  model, its oldest turns are forgotten.\n\nExample:\n  finetune chat --model smollm2-135m-instruct --adapter runs/demo"
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
        for line in std::io::stdin().lock().split(b'\n') {
            // A terminal with another encoding is no reason to end the conversation.
            match String::from_utf8_lossy(&line?).trim() {
                "" => {}
                "/quit" => break,
                "/reset" => messages.clone_from(&opening),
                said => {
                    messages.push(Message::new("user", said));
                    match prompt(&loaded, &mut messages, opening.len(), options.max_new_tokens)? {
                        Some(prompt) => {
                            let answer = answer(&loaded, prompt, &options)?;
                            messages.push(Message::new("assistant", &answer));
                        }
                        None => drop(messages.pop()),
                    }
                }
            }
            ask()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The tokens that the next turn follows. Where they leave no room for it, the oldest turns behind the `opening` are
/// forgotten; none if the last turn is too long by itself.
fn prompt(
    loaded: &Loaded,
    messages: &mut Vec<Message>,
    opening: usize,
    max_new_tokens: usize,
) -> Result<Option<Vec<u32>>> {
    let positions = loaded.model.max_positions();
    let room = max_new_tokens.clamp(1, (positions / 4).max(1));
    let mut kept = messages.clone();
    loop {
        let prompt = prompts::turns(&Chat::new(kept.clone()), &loaded.tokenizer)?;
        let fits = prompt.len() + room <= positions;
        let is_last = kept.len() <= opening + 1;
        if fits || (is_last && prompt.len() < positions) {
            let forgotten = messages.len() - kept.len();
            if forgotten > 0 {
                output::note(format!(
                    "the model sees {positions} positions: the oldest {forgotten} turns are forgotten"
                ));
            }
            *messages = kept;
            return Ok(Some(prompt));
        }
        if is_last {
            output::note(format!(
                "this turn has {} tokens, the model sees {positions} positions: it is left out",
                prompt.len()
            ));
            return Ok(None);
        }
        // A question goes with its answer.
        kept.drain(opening..opening + 2);
    }
}

/// Streams the next turn and returns it.
fn answer(loaded: &Loaded, prompt: Vec<u32>, options: &decoder::GenerateOptions) -> Result<String> {
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
