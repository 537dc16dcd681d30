//! A row to tokens, with a mark on each token that is to be learnt.
//!
//! The convention: position `i` predicts token `i + 1`, and counts if `trained[i + 1]`. So `trained[0]` is always
//! false. The BOS token stands in front of a text where the tokenizer puts one, once; plain texts and completions end
//! in EOS, and learn it; a conversation begins and ends as its template has it, and nothing is put around it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::spans::{self, Spanned};
use crate::{Exchange, Label, Problem, Prompt, Row, Tokenizer};

/// What is learnt of a row, and how long it may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EncodeConfig {
    /// Tokens a document may have, at least 3; longer ones keep their start.
    pub max_length: Option<usize>,
    /// Of conversations, learn the assistant's turns only.
    pub assistant_only_loss: bool,
    /// Of prompts with a reply, learn the reply only.
    pub completion_only_loss: bool,
    /// What to do with a row in which nothing is learnt.
    pub on_empty: Reject,
    /// What to do with a row whose prompt fills `max_length`.
    pub on_too_long: Reject,
    /// What to do with a plain text longer than `max_length`.
    pub overflow: Overflow,
    /// Names of the classes, in the order of their numbers.
    pub labels: Vec<String>,
}

/// What becomes of a row that cannot be learnt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reject {
    /// Everything stops with an error that names the row.
    #[default]
    Error,
    /// The row is left out and counted in the report.
    Drop,
}

/// What becomes of the end of a long plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// It is cut off and counted in the report.
    #[default]
    Truncate,
    /// It goes on in further documents.
    Split,
}

/// Tokens of one document.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tokenized {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Which tokens are targets; as many as tokens.
    pub trained: Vec<bool>,
}

/// What one row gives: a document, or two for a preference (the better first).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// One or two documents.
    pub documents: Vec<Tokenized>,
    /// A class, or 1 and 0 for a good and a bad reply.
    pub label: Option<i64>,
    /// Whether `max_length` cut a document.
    pub truncated: bool,
}

impl Default for EncodeConfig {
    fn default() -> Self {
        Self {
            max_length: None,
            assistant_only_loss: true,
            completion_only_loss: true,
            on_empty: Reject::Error,
            on_too_long: Reject::Error,
            overflow: Overflow::Truncate,
            labels: Vec::new(),
        }
    }
}

impl Tokenized {
    /// Number of trained tokens.
    pub fn num_trained(&self) -> usize {
        self.trained.iter().filter(|trained| **trained).count()
    }
}

/// Tokens of a row: one sample, or several for a long plain text that is split.
pub fn encode(row: &Row, tokenizer: &Tokenizer, config: &EncodeConfig) -> Result<Vec<Sample>, Problem> {
    let one = |document: Tokenized, label: Option<i64>| -> Result<Vec<Sample>, Problem> {
        let (document, truncated) = limit(document, config)?;
        Ok(vec![Sample {
            documents: vec![document],
            label,
            truncated,
        }])
    };
    match row {
        Row::Text(text) => encode_text(text, tokenizer, config),
        Row::Chat(chat) => {
            let spanned = spans::of_chat(chat, config.assistant_only_loss.then_some(0), tokenizer)?;
            one(finish(spanned, &[]), None)
        }
        Row::Prompted(exchange) => one(encode_exchange(exchange, config.completion_only_loss, tokenizer)?, None),
        Row::Preference { chosen, rejected } => {
            let mut documents = Vec::with_capacity(2);
            let mut truncated = false;
            for exchange in [chosen, rejected] {
                let (document, cut) = limit(encode_exchange(exchange, true, tokenizer)?, config)?;
                documents.push(document);
                truncated |= cut;
            }
            Ok(vec![Sample {
                documents,
                label: None,
                truncated,
            }])
        }
        Row::Unpaired { exchange, desirable } => {
            one(encode_exchange(exchange, true, tokenizer)?, Some(i64::from(*desirable)))
        }
        Row::PromptOnly { prompt, .. } => encode_prompt(prompt, tokenizer, config),
        Row::Labelled { text, label } => encode_labelled(text, label, tokenizer, config),
    }
}

fn encode_text(text: &str, tokenizer: &Tokenizer, config: &EncodeConfig) -> Result<Vec<Sample>, Problem> {
    let mut tokens = tokenizer.encode_whole(text)?;
    if let Some(eos) = tokenizer.eos().filter(|eos| tokens.last() != Some(eos)) {
        tokens.push(eos);
    }
    let length = match (config.overflow, config.max_length) {
        (Overflow::Split, Some(length)) => length.max(3),
        _ => tokens.len().max(1),
    };
    let mut samples = Vec::new();
    let mut rest = tokens.as_slice();
    loop {
        // A piece of one token would teach nothing, so the piece before leaves it company.
        let take = if rest.len() == length + 1 {
            length - 1
        } else {
            length.min(rest.len())
        };
        let (piece, after) = rest.split_at(take);
        let trained = (0..piece.len()).map(|i| i > 0).collect();
        let (document, truncated) = limit(
            Tokenized {
                tokens: piece.to_vec(),
                trained,
            },
            config,
        )?;
        samples.push(Sample {
            documents: vec![document],
            label: None,
            truncated,
        });
        rest = after;
        if rest.len() < 2 {
            return Ok(samples);
        }
    }
}

fn encode_exchange(exchange: &Exchange, reply_only: bool, tokenizer: &Tokenizer) -> Result<Tokenized, Problem> {
    match exchange {
        Exchange::Text { prompt, reply } => {
            if reply.is_empty() {
                return Err(Problem::Empty {
                    what: "the completion".to_owned(),
                });
            }
            let text = format!("{prompt}{reply}");
            let pieces = tokenizer.encode_pieces(&text)?;
            let from = if reply_only { prompt.len() } else { 0 };
            let opening = tokenizer.missing_opening(&pieces.tokens).to_vec();
            let spans = std::iter::once(from..text.len()).collect();
            let mut document = finish(Spanned { pieces, spans }, &opening);
            if let Some(eos) = tokenizer.eos().filter(|eos| document.tokens.last() != Some(eos)) {
                document.tokens.push(eos);
                document.trained.push(true);
            }
            Ok(document)
        }
        Exchange::Turns { prompt, reply } => {
            if !reply.iter().any(|message| message.role() == "assistant") {
                return Err(Problem::NothingTrained {
                    why: "the reply has no assistant message".to_owned(),
                });
            }
            let chat = prompt.with_messages(prompt.messages.iter().chain(reply).cloned().collect());
            let from = reply_only.then_some(prompt.messages.len());
            Ok(finish(spans::of_chat(&chat, from, tokenizer)?, &[]))
        }
    }
}

fn encode_prompt(prompt: &Prompt, tokenizer: &Tokenizer, config: &EncodeConfig) -> Result<Vec<Sample>, Problem> {
    let tokens = match prompt {
        Prompt::Text(text) => tokenizer.encode_prompt(text)?,
        Prompt::Turns(chat) => tokenizer.encode_chat(chat)?,
    };
    if tokens.is_empty() {
        return Err(Problem::Empty {
            what: "the prompt".to_owned(),
        });
    }
    match config.max_length {
        Some(max_length) if tokens.len() > max_length => Err(Problem::PromptTooLong {
            prompt: tokens.len(),
            max_length,
        }),
        _ => {
            let trained = vec![false; tokens.len()];
            Ok(vec![Sample {
                documents: vec![Tokenized { tokens, trained }],
                label: None,
                truncated: false,
            }])
        }
    }
}

fn encode_labelled(
    text: &str,
    label: &Label,
    tokenizer: &Tokenizer,
    config: &EncodeConfig,
) -> Result<Vec<Sample>, Problem> {
    let mut tokens = tokenizer.encode_whole(text)?;
    if tokens.is_empty() {
        return Err(Problem::Empty {
            what: "the text".to_owned(),
        });
    }
    let truncated = config.max_length.is_some_and(|length| tokens.len() > length);
    tokens.truncate(config.max_length.unwrap_or(tokens.len()));
    let label = Some(label.number(&config.labels)?);
    let trained = vec![false; tokens.len()];
    Ok(vec![Sample {
        documents: vec![Tokenized { tokens, trained }],
        label,
        truncated,
    }])
}

/// The document of a text behind `opening`, which is not learnt.
fn finish(spanned: Spanned, opening: &[u32]) -> Tokenized {
    let mut trained = spanned.mask();
    let mut tokens = spanned.pieces.tokens;
    tokens.splice(0..0, opening.iter().copied());
    trained.splice(0..0, opening.iter().map(|_| false));
    if let Some(first) = trained.first_mut() {
        *first = false;
    }
    Tokenized { tokens, trained }
}

/// Cuts a document to `max_length` and refuses one in which nothing is left to learn.
fn limit(mut document: Tokenized, config: &EncodeConfig) -> Result<(Tokenized, bool), Problem> {
    let Some(prompt) = document.trained.iter().position(|trained| *trained) else {
        let why = match document.tokens.len() {
            0 => "it has no tokens",
            1 => "it has one token, and nothing comes before that to predict it",
            _ => "no assistant turn is in it, or each is marked train = false",
        };
        return Err(Problem::NothingTrained { why: why.to_owned() });
    };
    let Some(max_length) = config.max_length.filter(|length| document.tokens.len() > *length) else {
        return Ok((document, false));
    };
    if prompt >= max_length {
        return Err(Problem::PromptTooLong { prompt, max_length });
    }
    document.tokens.truncate(max_length);
    document.trained.truncate(max_length);
    Ok((document, true))
}
