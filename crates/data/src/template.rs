//! Chat templates: a conversation in, one string out, byte for byte as Transformers renders it.
//!
//! Source: `apply_chat_template` of Transformers 5.23. Deviations: strings cannot be formatted with `%`
//! beyond what `MiniJinja` knows, and functions cannot be passed as tools (JSON schemas can).

mod find;
mod generation;
mod json;
mod python;

use std::ops::Range;

use chrono::{Local, NaiveDateTime};
use minijinja::{Environment, Error as JinjaError, ErrorKind};
use serde_json::{Map, Value};

pub use find::{ChatTemplates, TemplateSources};
use generation::Tags;

use crate::{Chat, Error, Message, Problem, SpecialTokens};

const CHATML: &str = include_str!("template/chatml.jinja");
const CONTINUE: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// A message's reasoning goes by these names; templates read the first, or gpt-oss's `thinking`.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    name: String,
    source: String,
    env: Environment<'static>,
    marks: bool,
    /// The time that it always tells, if it does.
    time: Option<NaiveDateTime>,
}

/// How a rendering ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// After the last message.
    Closed,
    /// With the header of the assistant's turn to come.
    GenerationPrompt,
    /// Inside the last message, whose end is left off.
    ContinueFinal,
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The text, special tokens included.
    pub text: String,
    /// Byte ranges inside `{% generation %}` tags; `None` if the template has no such tags.
    pub generated: Option<Vec<Range<usize>>>,
}

/// Instructions that a template may run for one conversation: what stands in a template comes from outside, and one with
/// nested loops must end in an error, not run for ever. The longest conversations take some hundred thousand.
const FUEL: u64 = 5_000_000;

impl ChatTemplate {
    /// Compiles a template; `name` is for error messages.
    pub fn new(name: &str, source: &str) -> Result<Self, Error> {
        Self::with_clock(name, source, || Local::now().naive_local())
    }

    /// A template whose `strftime_now` always tells the same time.
    pub fn at_time(name: &str, source: &str, now: NaiveDateTime) -> Result<Self, Error> {
        Ok(Self {
            time: Some(now),
            ..Self::with_clock(name, source, move || now)?
        })
    }

    /// When its conversations are rendered: the time that it was given, else now; only what can show in the text.
    pub(crate) fn shown_time(&self) -> Option<String> {
        let now = self.time.unwrap_or_else(|| Local::now().naive_local());
        // A day, unless a directive of the time of day stands there.
        let shows_hours = ["%H", "%I", "%M", "%S", "%p", "%c", "%T", "%R", "%X", "%f", "%s"]
            .iter()
            .any(|directive| self.source.contains(directive));
        self.tells_time().then(|| match shows_hours {
            true => now.to_string(),
            false => now.date().to_string(),
        })
    }

    /// The bundled `ChatML` template, for models that have none.
    pub fn chatml() -> Result<Self, Error> {
        Self::new("chatml", CHATML)
    }

    fn with_clock(
        name: &str,
        source: &str,
        clock: impl Fn() -> NaiveDateTime + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let mut env = Environment::new();
        env.set_fuel(Some(FUEL));
        python::register(&mut env);
        generation::register(&mut env);
        env.add_function("strftime_now", move |format: String| strftime(clock(), &format));
        let marks = generation::has_tags(source);
        let failed = |error: JinjaError| Error::TemplateSyntax {
            name: name.to_owned(),
            message: explain(&error),
        };
        env.add_template_owned("plain", generation::rewrite(source, Tags::Plain))
            .map_err(failed)?;
        if marks {
            env.add_template_owned("marked", generation::rewrite(source, Tags::Marked))
                .map_err(failed)?;
        }
        Ok(Self {
            name: name.to_owned(),
            source: source.to_owned(),
            env,
            marks,
            time: None,
        })
    }

    /// The same template, which may run `instructions` for one conversation instead of the usual 5 million.
    #[must_use]
    pub fn with_fuel(mut self, instructions: u64) -> Self {
        self.env.set_fuel(Some(instructions));
        self
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether what it renders depends on today's date.
    pub fn tells_time(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// Renders a conversation.
    ///
    /// The special tokens are variables of the template (`bos_token`, `eos_token`, …), and
    /// [`Chat::template_kwargs`] may override them.
    pub fn render(&self, chat: &Chat, special: &SpecialTokens, ending: Ending) -> Result<String, Problem> {
        let mut messages: Vec<Value> = chat
            .messages
            .iter()
            .map(|message| Value::Object(plain(message)))
            .collect();
        let tagged = match ending {
            Ending::ContinueFinal => Some(self.tag_final(&mut messages)?),
            Ending::Closed | Ending::GenerationPrompt => None,
        };
        let text = self.run("plain", chat, &messages, special, ending)?;
        match tagged {
            Some(content) => self.cut_at_tag(text, &content),
            None => Ok(text),
        }
    }

    /// Renders a whole conversation and says which bytes lie inside `{% generation %}` tags.
    pub fn render_marked(&self, chat: &Chat, special: &SpecialTokens) -> Result<Rendered, Problem> {
        let messages: Vec<Value> = chat
            .messages
            .iter()
            .map(|message| Value::Object(plain(message)))
            .collect();
        let text = self.run("plain", chat, &messages, special, Ending::Closed)?;
        if !self.marks {
            return Ok(Rendered { text, generated: None });
        }
        let marked = self.run("marked", chat, &messages, special, Ending::Closed)?;
        // A tag that stands in a comment only, or a template that looks at its own output, is as good as no tag.
        let generated = generation::split_marks(&marked)
            .filter(|(unmarked, spans)| *unmarked == text && !spans.is_empty())
            .map(|(_, spans)| spans);
        Ok(Rendered { text, generated })
    }

    fn run(
        &self,
        which: &str,
        chat: &Chat,
        messages: &[Value],
        special: &SpecialTokens,
        ending: Ending,
    ) -> Result<String, Problem> {
        let mut variables: Map<String, Value> = special
            .named()
            .map(|(name, token)| (name.to_owned(), token.into()))
            .collect();
        variables.extend(chat.template_kwargs.clone());
        variables.insert("messages".to_owned(), messages.into());
        variables.insert("tools".to_owned(), chat.tools.clone().unwrap_or(Value::Null));
        variables.insert("documents".to_owned(), chat.documents.clone().unwrap_or(Value::Null));
        variables.insert(
            "add_generation_prompt".to_owned(),
            (ending == Ending::GenerationPrompt).into(),
        );
        self.env
            .get_template(which)
            .and_then(|template| template.render(minijinja::value::Serde(&variables)))
            .map_err(|error| self.problem(explain(&error)))
    }

    fn tag_final(&self, messages: &mut [Value]) -> Result<String, Problem> {
        let nothing = || self.problem("the final message has no text to continue".to_owned());
        let content = messages
            .last_mut()
            .and_then(|last| last.get_mut("content"))
            .ok_or_else(nothing)?;
        let text = match content {
            Value::Array(parts) => parts
                .iter_mut()
                .rev()
                .find_map(|part| part.get_mut("text"))
                .ok_or_else(nothing)?,
            other => other,
        };
        let before = text.as_str().ok_or_else(nothing)?.to_owned();
        *text = format!("{before}{CONTINUE}").into();
        Ok(before)
    }

    fn cut_at_tag(&self, mut text: String, content: &str) -> Result<String, Problem> {
        let tag = CONTINUE.trim_end();
        match text.rfind(tag) {
            Some(at) if text.contains(content.trim()) => {
                let spaced = text[at..].starts_with(CONTINUE);
                text.truncate(if spaced { at } else { text[..at].trim_end().len() });
                Ok(text)
            }
            _ => Err(self.problem("the final message does not appear in the rendered text".to_owned())),
        }
    }

    fn problem(&self, message: String) -> Problem {
        Problem::Template {
            template: self.name.clone(),
            message,
        }
    }
}

/// The message without null values and with its reasoning under the names that templates read.
fn plain(message: &Message) -> Map<String, Value> {
    let mut fields: Map<String, Value> = message
        .fields()
        .iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let Some(reasoning) = REASONING.iter().find_map(|key| fields.get(*key)).cloned() else {
        return fields;
    };
    // `thinking` comes first, as in the dictionary that Transformers builds.
    let mut aliased = Map::new();
    aliased.insert(
        "thinking".to_owned(),
        fields.get("thinking").unwrap_or(&reasoning).clone(),
    );
    fields.insert("reasoning_content".to_owned(), reasoning);
    aliased.extend(fields);
    aliased
}

fn strftime(now: NaiveDateTime, format: &str) -> Result<String, JinjaError> {
    use std::fmt::Write as _;
    let mut out = String::new();
    write!(out, "{}", now.format(format)).map_err(|_| {
        JinjaError::new(
            ErrorKind::InvalidOperation,
            format!("strftime_now: unknown directive in `{format}`"),
        )
    })?;
    Ok(out)
}

fn explain(error: &JinjaError) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{what} (template line {line})"),
        None => what,
    }
}
