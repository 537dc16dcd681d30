//! What a model is asked: a text or a row as the tokens that it continues, and as the text that it scores.
//!
//! A prompt that is a plain text means one thing for every verb: what the model was trained with, where that is kept
//! beside it; else a turn of a conversation, where it has a chat template; else the text as it stands.

use std::borrow::Cow;

use anyhow::{Result, bail};
use data::{Chat, Dataset, Ending, Exchange, Message, Prompt, PromptForm, Row, Tokenizer};
use events::Events;

use crate::{PromptFormat, Source};

/// Whether a plain text becomes the user's turn of a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// It does, where the model has a chat template.
    Chat,
    /// It is continued as it stands.
    Plain,
}

/// How plain texts shall be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FormChoice {
    /// As in the model's training; where that is not known, in its chat template if it has one.
    #[default]
    AsTrained,
    /// As they stand.
    Plain,
    /// In the chat template.
    Chat,
}

impl FormChoice {
    /// The form for the model of `source`. Says where it is not the one that the model was trained in.
    pub fn choose(self, source: &Source, tokenizer: &Tokenizer) -> Result<Form> {
        let has_template = tokenizer.templates().choose(false).is_some();
        if self == Self::Chat && !has_template {
            bail!(
                "`--chat`: `{}` has no chat template\nhint: leave the flag out: plain text is continued then",
                source.name()
            );
        }
        let trained = source.prompt_format();
        let as_it_stands = self == Self::Plain || self != Self::Chat && trained == Some(PromptFormat::RawText);
        let form = if as_it_stands || !has_template {
            Form::Plain
        } else {
            Form::Chat
        };
        match (form, trained) {
            (Form::Plain, Some(PromptFormat::ChatTemplate)) => source.events().note_once(format!(
                "`{}` was trained on conversations in its chat template, and prompts are given as plain text: its answers \
                 may be worse than it knows\nhint: {}",
                source.name(),
                if has_template {
                    "leave out `--no-chat`"
                } else {
                    "its chat template is missing"
                },
            )),
            (Form::Chat, Some(PromptFormat::RawText)) => source.events().note_once(format!(
                "`{}` was trained on plain text, and prompts are given in the chat template: its answers may be worse than \
                 it knows\nhint: leave out `--chat`",
                source.name(),
            )),
            (Form::Plain, Some(PromptFormat::RawText)) if has_template && self != Self::Plain => source.events().note_once(
                "prompts are given as plain text, as in training; `--chat` gives them in the chat template",
            ),
            _ => {}
        }
        Ok(form)
    }

    /// Whether nobody has said how plain texts are given: neither the caller nor the model's training.
    pub fn is_open(self, source: &Source, form: Form) -> bool {
        self == Self::AsTrained && source.prompt_format().is_none() && form == Form::Chat
    }

    /// As [`Self::choose`], for rows of which some may be plain prompts: says how these are given where nothing is known
    /// of the model's training.
    pub fn choose_for(self, rows: &Dataset, source: &Source, tokenizer: &Tokenizer) -> Result<Form> {
        let form = self.choose(source, tokenizer)?;
        let is_prompt = |row: &Row| row.gives_turns() == Some(false) && !matches!(row, Row::Text(_));
        if self.is_open(source, form) && rows.rows().any(is_prompt) {
            tell_open(source.events());
        }
        Ok(form)
    }
}

/// Says how plain prompts are given to a model of which it is not known how it was trained.
pub fn tell_open(events: &Events) {
    events
        .note_once("prompts that are plain texts are given in the chat template; `--no-chat` gives them as they stand");
}

/// Rows that are longer than the model reaches, counted before anything is computed.
#[derive(Debug)]
pub struct Length {
    positions: usize,
    most: usize,
    /// How many there are, and the first with its length.
    beyond: usize,
    first: Option<(String, usize)>,
}

impl Length {
    /// For whole rows.
    pub fn whole_rows(positions: usize) -> Self {
        Self {
            positions,
            most: positions,
            beyond: 0,
            first: None,
        }
    }

    /// For prompts, behind which at least one token is written.
    pub fn room_for_an_answer(positions: usize) -> Self {
        Self {
            most: positions.saturating_sub(1),
            ..Self::whole_rows(positions)
        }
    }

    /// Takes in a row of so many tokens.
    pub fn take(&mut self, place: &str, tokens: usize) {
        if tokens > self.most {
            self.beyond += 1;
            self.first.get_or_insert_with(|| (place.to_owned(), tokens));
        }
    }

    /// Refuses the rows that were too long, of `rows` in all.
    pub fn check(self, rows: usize) -> Result<()> {
        let Some((place, tokens)) = self.first else {
            return Ok(());
        };
        bail!(
            "{place}: wanted at most {} tokens, found {tokens}: the model sees {} positions, and {} of {rows} rows are longer\n\
             hint: shorten them, or split each into several rows",
            self.most,
            self.positions,
            self.beyond
        )
    }
}

impl Form {
    /// As rows know it.
    pub fn of_rows(self) -> PromptForm {
        match self {
            Self::Chat => PromptForm::Turn,
            Self::Plain => PromptForm::Text,
        }
    }

    /// The form of what a model is trained on.
    pub fn of_training(format: Option<PromptFormat>) -> Self {
        match format {
            Some(PromptFormat::RawText) => Self::Plain,
            _ => Self::Chat,
        }
    }

    /// The row in this form; as it is where there is no template.
    fn row<'r>(self, row: &'r Row, tokenizer: &Tokenizer) -> Cow<'r, Row> {
        match tokenizer.templates().choose(false) {
            Some(_) => self.of_rows().of_row(row),
            None => Cow::Borrowed(row),
        }
    }
}

/// A prompt.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What the model is given, without the template around it.
    pub text: String,
    /// Its tokens, template and header of the answer included.
    pub tokens: Vec<u32>,
    /// The answer that the row gives.
    pub reference: Option<String>,
}

/// A plain text as a prompt.
pub fn of_text(text: &str, form: Form, tokenizer: &Tokenizer) -> Result<Asked> {
    let chats = form == Form::Chat && tokenizer.templates().choose(false).is_some();
    let tokens = if chats {
        turns(&Chat::new(vec![Message::new("user", text)]), tokenizer)?
    } else {
        tokenizer.encode_prompt(text)?
    };
    Ok(Asked {
        text: text.to_owned(),
        tokens,
        reference: None,
    })
}

/// A conversation so far, as the tokens that the assistant's next turn follows.
pub fn turns(chat: &Chat, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    Ok(tokenizer.encode_chat(chat)?)
}

/// The prompt of a data row, and its answer where it has one.
pub fn of_row(row: &Row, form: Form, tokenizer: &Tokenizer) -> Result<Asked> {
    let asked = |text: String, tokens, reference| {
        Ok(Asked {
            text,
            tokens,
            reference,
        })
    };
    match row {
        Row::Text(text)
        | Row::Labelled { text, .. }
        | Row::PromptOnly {
            prompt: Prompt::Text(text),
            ..
        } => of_text(text, form, tokenizer),
        Row::Chat(chat) => match chat.messages.split_last() {
            Some((last, before)) if last.role() == "assistant" => {
                let before = Chat {
                    messages: before.to_vec(),
                    ..chat.clone()
                };
                asked(
                    last_said(&before.messages),
                    turns(&before, tokenizer)?,
                    Some(last.text()),
                )
            }
            _ => asked(last_said(&chat.messages), turns(chat, tokenizer)?, None),
        },
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            match exchange {
                Exchange::Text { prompt, reply } => Ok(Asked {
                    reference: Some(reply.clone()),
                    ..of_text(prompt, form, tokenizer)?
                }),
                Exchange::Turns { prompt, .. } => asked(
                    last_said(&prompt.messages),
                    turns(prompt, tokenizer)?,
                    Some(exchange.reply_text()),
                ),
            }
        }
        Row::PromptOnly {
            prompt: Prompt::Turns(chat),
            ..
        } => asked(last_said(&chat.messages), turns(chat, tokenizer)?, None),
    }
}

/// The answer that a row itself gives.
pub fn answer(row: &Row) -> Option<String> {
    match row {
        Row::Chat(chat) => chat
            .messages
            .last()
            .filter(|last| last.role() == "assistant")
            .map(Message::text),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } | Row::Preference { chosen: exchange, .. } => {
            Some(exchange.reply_text())
        }
        Row::Text(_) | Row::Labelled { .. } | Row::PromptOnly { .. } => None,
    }
}

/// A whole text as a model reads it.
#[derive(Clone, Debug)]
pub struct Whole {
    /// The text, with the template's words.
    pub text: String,
    /// Its tokens, with what the tokenizer puts around a text.
    pub tokens: Vec<u32>,
}

/// The whole text of a row, as it is scored.
pub fn whole(row: &Row, form: Form, tokenizer: &Tokenizer) -> Result<Whole> {
    let row = form.row(row, tokenizer);
    let text = whole_text(&row, tokenizer)?;
    // A template writes every token of a conversation itself.
    let tokens = match row.gives_turns() {
        Some(true) => tokenizer.encode(&text)?,
        _ => tokenizer.encode_whole(&text)?,
    };
    Ok(Whole { text, tokens })
}

fn whole_text(row: &Row, tokenizer: &Tokenizer) -> Result<String> {
    match row {
        Row::Text(text)
        | Row::Labelled { text, .. }
        | Row::PromptOnly {
            prompt: Prompt::Text(text),
            ..
        } => Ok(text.clone()),
        Row::Chat(chat) => render(chat, Ending::Closed, tokenizer),
        Row::Prompted(exchange) | Row::Unpaired { exchange, .. } => match (exchange, exchange.chat()) {
            (_, Some(chat)) => render(&chat, Ending::Closed, tokenizer),
            (Exchange::Text { prompt, reply }, None) => Ok(format!("{prompt}{reply}")),
            (Exchange::Turns { .. }, None) => bail!("a conversation without turns"),
        },
        Row::PromptOnly {
            prompt: Prompt::Turns(chat),
            ..
        } => render(chat, Ending::GenerationPrompt, tokenizer),
        Row::Preference { .. } => {
            bail!("wanted a row with one text, found a preference\nhint: score its two replies as rows of their own")
        }
    }
}

fn render(chat: &Chat, ending: Ending, tokenizer: &Tokenizer) -> Result<String> {
    Ok(tokenizer.render(chat, ending)?)
}

/// What stands before the answer.
fn last_said(messages: &[Message]) -> String {
    messages.last().map(Message::text).unwrap_or_default()
}
