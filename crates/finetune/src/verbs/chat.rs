//! `finetune chat`: a conversation in the terminal, or with the lines of a pipe.

mod commands;
mod conversation;
mod settings;
mod terminal;

use std::process::ExitCode;

use anyhow::{Result, bail};
use decoder::Stop;
use models::PromptFormat;
use session::Loaded;
use session::adapters;

use self::commands::Command;
use self::conversation::{Conversation, Room};
use self::settings::{ChatArgs, Settings};
use self::terminal::{Input, Read};
use crate::args::ModelArgs;
use crate::args::needs_language_model;
use crate::{failure, output};

/// Arguments of `chat`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "In a terminal, Enter sends a turn, Alt-Enter begins a new line, a paste of several lines is one turn, the arrow keys\n\
                  edit it and bring back earlier ones, and Ctrl-C stops an answer and keeps the conversation. From a pipe, each line\n\
                  is a turn. Commands begin with a slash; /help lists them: /clear, /system, /retry, /undo, /save, /settings,\n\
                  /temperature and the other sampling options, /adapter, /exit.\n\n\
                  Where neither a flag nor the model's generation_config.json (with do_sample) says otherwise, answers are drawn\n\
                  with temperature 0.7, top-p 0.9 and repetition penalty 1.1, so that they do not run in circles; --temperature 0\n\
                  takes the likeliest tokens, as `generate` does. Where a conversation outgrows the model, its oldest turns are\n\
                  forgotten.\n\n\
                  Example:\n  finetune chat --model smollm2-135m-instruct --adapter runs/demo"
)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Instructions for the model, before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    #[command(flatten)]
    sampling: ChatArgs,
}

/// Whether the conversation goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Go,
    Leave,
}

impl Args {
    /// Reads turns until the input ends.
    pub fn run(self) -> Result<ExitCode> {
        let loaded = self.model.load(&output::events())?;
        needs_language_model(&loaded, &self.model, "chat")?;
        if loaded.tokenizer.templates().choose(false).is_none() {
            bail!(
                "`{}` has no chat template\nhint: `finetune generate --no-chat` continues plain text",
                self.model.model
            );
        }
        if loaded.source.prompt_format() == Some(PromptFormat::RawText) {
            output::note(format!(
                "`{}` was trained on plain text, and a conversation is given in the chat template: its answers may be worse \
                 than it knows\nhint: `finetune generate --prompt` asks it as it was trained",
                loaded.source.name()
            ));
        }
        adapters::tell_first(
            loaded.adapters.as_ref(),
            &self.model.adapter,
            "a chat without `/adapter NAME`",
            loaded.source.events(),
        );
        let mut input = Input::open()?;
        let mut chat = Chat {
            settings: Settings::new(&self.sampling, loaded.source.dir().generation_config()),
            conversation: Conversation::new(self.system.clone()),
            loaded: &loaded,
        };
        loop {
            let said = match input.read()? {
                Read::Said(said) => said,
                Read::End => break,
            };
            let next = match commands::parse(&said) {
                None => chat.say(said.trim(), &input).map(|()| Next::Go),
                Some(command) => command.and_then(|command| chat.obey(command, &input)),
            };
            match next {
                Ok(Next::Go) => {}
                Ok(Next::Leave) => break,
                // A person reads the error and goes on; a script must not take the rest for answers.
                Err(error) if input.is_terminal() && !output::is_closed_pipe(&error) => failure::report(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A conversation with the model that answers.
struct Chat<'l> {
    loaded: &'l Loaded,
    settings: Settings,
    conversation: Conversation,
}

impl Chat<'_> {
    /// Takes a turn of the user's and answers it.
    fn say(&mut self, said: &str, input: &Input) -> Result<()> {
        self.conversation.ask(said);
        self.answer(input)
    }

    /// Answers the last turn, which is the user's; a turn that cannot be answered is taken back.
    fn answer(&mut self, input: &Input) -> Result<()> {
        let answered = self.try_to_answer(input);
        if answered.is_err() {
            self.conversation.take_back();
        }
        answered
    }

    fn try_to_answer(&mut self, input: &Input) -> Result<()> {
        let positions = self.loaded.model.max_positions();
        let fitted = self
            .conversation
            .fit(&self.loaded.tokenizer, positions, self.settings.max_new_tokens)?;
        let prompt = match fitted {
            Room::Fits(prompt) => prompt,
            Room::Forgot(turns, prompt) => {
                output::note(format!(
                    "the model sees {positions} positions: the oldest {turns} turns are forgotten"
                ));
                prompt
            }
            Room::None(tokens) => {
                output::note(format!(
                    "this turn has {tokens} tokens, the model sees {positions} positions: it is left out"
                ));
                self.conversation.take_back();
                return Ok(());
            }
        };
        let quiet = input.quiet()?;
        let options = self.settings.options(self.loaded, quiet.interrupt())?;
        let mut stream = self.loaded.tokenizer.stream();
        let mut failed = None;
        let answers = self.loaded.model.generate(&[prompt], &options, &mut |_, token| {
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
        drop(quiet);
        let Some(answer) = answers.first() else { return Ok(()) };
        if answer.stopped == Stop::Interrupted {
            if answer.tokens.is_empty() {
                output::note("(stopped before the answer began; your turn is taken back)");
                self.conversation.take_back();
                return Ok(());
            }
            output::note("(stopped; /retry answers anew)");
        } else if answer.stopped == Stop::Length && input.is_terminal() {
            output::note(format!(
                "(cut at {} tokens; /max-new-tokens N allows more)",
                self.settings.max_new_tokens
            ));
        }
        let text = self.loaded.tokenizer.decode(&answer.tokens)?;
        self.conversation.answer(&text);
        self.settings.next_seed();
        Ok(())
    }

    /// Answers the last turn anew.
    fn retry(&mut self, input: &Input) -> Result<()> {
        if !self.conversation.reopen() {
            output::note("there is no answer to give anew");
            return Ok(());
        }
        if self.settings.sampler.temperature == 0.0 {
            output::note("(at temperature 0 the answer is always the same; /temperature 0.7 changes that)");
        }
        self.answer(input)
    }

    /// Does what a command says.
    fn obey(&mut self, command: Command, input: &Input) -> Result<Next> {
        match command {
            Command::Help => output::note(commands::HELP),
            Command::Exit => return Ok(Next::Leave),
            Command::Clear => self.conversation.clear(),
            Command::System(text) => {
                output::note(match &text {
                    Some(_) => "the instructions are changed; the turns so far stay (/clear forgets them)",
                    None => "no instructions before the first turn any more",
                });
                self.conversation.system = text;
            }
            Command::Undo => {
                let undone = self.conversation.undo();
                output::note(if undone {
                    "the last turn and its answer are taken back"
                } else {
                    "there is no turn to take back"
                });
            }
            Command::Retry => self.retry(input)?,
            Command::Save(path) => {
                let line = self.conversation.save(&path)?;
                output::note(format!("added to `{}` as line {line}", path.display()));
            }
            Command::Settings => output::note(self.settings.shown(self.conversation.system.as_deref())),
            Command::Set(change) => {
                self.settings.change(change);
                output::note(self.settings.shown(None));
            }
            Command::Adapter(name) => output::note(self.settings.choose(self.loaded, name.as_deref())?),
        }
        Ok(Next::Go)
    }
}
