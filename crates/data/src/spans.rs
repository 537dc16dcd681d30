//! Which tokens of a rendered conversation the assistant said.
//!
//! A template with `{% generation %}` tags says so itself. Any other is asked twice per turn: the conversation before
//! the turn, with a generation prompt, and the conversation up to it; both must be beginnings of the whole rendering.
//! Where a template rewrites history (it drops the reasoning of old turns, say), the turn's content is swapped for a
//! mark instead, and what the two renderings share on either side must be what the whole rendering has there.
//!
//! A span reaches up to and includes the special token that ends the turn, and not the line break behind that. A token
//! is trained if its bytes overlap a span; a token without bytes of its own, if its position lies in one.

use std::ops::Range;

use crate::template::Ending;
use crate::{Chat, ChatTemplate, Pieces, Problem, Tokenizer, shown};

const MARK: &str = "TURN_WHOSE_PLACE_IS_SOUGHT";

/// A text, its tokens, and the bytes of it that are trained.
#[derive(Debug)]
pub(crate) struct Spanned {
    pub(crate) pieces: Pieces,
    pub(crate) spans: Vec<Range<usize>>,
}

/// Renders a conversation; with `from`, only assistant turns at or after that message are trained, else everything is.
pub(crate) fn of_chat(chat: &Chat, from: Option<usize>, tokenizer: &Tokenizer) -> Result<Spanned, Problem> {
    let template = tokenizer
        .templates()
        .choose(chat.tools.is_some())
        .ok_or(Problem::NoTemplate)?;
    let chat = &*shown::in_form(chat, template, tokenizer.special(), Ending::Closed)?;
    let rendered = template.render_marked(chat, tokenizer.special())?;
    let pieces = tokenizer.encode_pieces(&rendered.text)?;
    let whole = Whole {
        chat,
        template,
        tokenizer,
        text: &rendered.text,
        pieces: &pieces,
    };
    let spans = match from {
        None => std::iter::once(0..rendered.text.len()).collect(),
        Some(from) => whole.assistant_spans(from, rendered.generated.as_deref())?,
    };
    Ok(Spanned { pieces, spans })
}

impl Spanned {
    /// Whether each token is trained.
    pub(crate) fn mask(&self) -> Vec<bool> {
        let overlaps = |bytes: &Range<usize>| {
            let end = bytes.end.max(bytes.start + 1);
            self.spans.iter().any(|span| bytes.start < span.end && span.start < end)
        };
        self.pieces.bytes.iter().map(overlaps).collect()
    }
}

struct Whole<'a> {
    chat: &'a Chat,
    template: &'a ChatTemplate,
    tokenizer: &'a Tokenizer,
    text: &'a str,
    pieces: &'a Pieces,
}

impl Whole<'_> {
    fn assistant_spans(&self, from: usize, generated: Option<&[Range<usize>]>) -> Result<Vec<Range<usize>>, Problem> {
        let messages = &self.chat.messages;
        let turns: Vec<usize> = (0..messages.len())
            .filter(|&idx| messages[idx].role() == "assistant")
            .collect();
        let wanted = |idx: usize| idx >= from && messages[idx].trained();
        for &idx in turns.iter().filter(|&&idx| wanted(idx)) {
            if !messages[idx].says_something() {
                return Err(Problem::Empty {
                    what: format!("assistant message {idx}"),
                });
            }
        }
        if let Some(spans) = generated {
            if turns.iter().all(|&idx| wanted(idx)) {
                return Ok(spans.iter().map(|span| self.with_end_of_turn(span.clone())).collect());
            }
            if spans.len() == turns.len() {
                let chosen = turns.iter().zip(spans).filter(|(idx, _)| wanted(**idx));
                return Ok(chosen.map(|(_, span)| self.with_end_of_turn(span.clone())).collect());
            }
        }
        turns
            .into_iter()
            .filter(|&idx| wanted(idx))
            .map(|idx| self.turn(idx))
            .collect()
    }

    /// The bytes of one assistant turn, found without the template's help.
    fn turn(&self, idx: usize) -> Result<Range<usize>, Problem> {
        let start = self.beginning(idx, Ending::GenerationPrompt);
        let last = idx + 1 == self.chat.messages.len();
        let end = if last {
            Some(self.text.len())
        } else {
            self.beginning(idx + 1, Ending::Closed)
        };
        if let (Some(start), Some(end)) = (start, end)
            && start < end
        {
            return Ok(start..self.before_trailing_space(start, end));
        }
        let content = self.content(idx)?;
        let start = start.filter(|start| *start <= content.start).unwrap_or(content.start);
        let end = end
            .filter(|end| *end >= content.end)
            .map(|end| self.before_trailing_space(start, end));
        let end = end.or_else(|| self.next_special(content.end)).ok_or_else(|| {
            self.not_found(
                idx,
                "no special token ends it, and rendering it last gives another text".to_owned(),
            )
        })?;
        Ok(start..end)
    }

    /// Length of the first `count` messages' rendering, if the whole begins with it.
    fn beginning(&self, count: usize, ending: Ending) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let part = self.chat.with_messages(self.chat.messages[..count].to_vec());
        let text = self.template.render(&part, self.tokenizer.special(), ending).ok()?;
        self.text.starts_with(&text).then_some(text.len())
    }

    /// The bytes of a message's text, found by rendering a mark in its place.
    fn content(&self, idx: usize) -> Result<Range<usize>, Problem> {
        let mut messages = self.chat.messages.clone();
        messages[idx] = messages[idx].with_text(MARK);
        let marked = self.template.render(
            &self.chat.with_messages(messages),
            self.tokenizer.special(),
            Ending::Closed,
        )?;
        let parts: Vec<&str> = marked.split(MARK).collect();
        let [before, after] = parts.as_slice() else {
            return Err(self.not_found(idx, format!("the template shows its content {} times", parts.len() - 1)));
        };
        let fits = self.text.starts_with(before)
            && self.text.ends_with(after)
            && before.len() + after.len() <= self.text.len();
        if !fits {
            return Err(self.not_found(idx, "the text around it changes with its content".to_owned()));
        }
        Ok(before.len()..self.text.len() - after.len())
    }

    /// Moves the end of a span to its last special token, if only white space follows that.
    fn before_trailing_space(&self, start: usize, end: usize) -> usize {
        let visible = start + self.text[start..end].trim_end().len();
        let ends_there =
            |(bytes, token): (&Range<usize>, &u32)| bytes.end == visible && self.tokenizer.is_special(*token);
        if self.pieces.bytes.iter().zip(&self.pieces.tokens).any(ends_there) {
            visible
        } else {
            end
        }
    }

    /// Extends a tagged span by the special token right behind it, unless it ends in one.
    fn with_end_of_turn(&self, span: Range<usize>) -> Range<usize> {
        let visible = span.start + self.text[span.clone()].trim_end().len();
        let mut special = self
            .pieces
            .bytes
            .iter()
            .zip(&self.pieces.tokens)
            .filter(|(bytes, token)| bytes.end >= visible && self.tokenizer.is_special(**token));
        match special.next() {
            Some((bytes, _)) if bytes.end > visible && bytes.start == span.end => span.start..bytes.end,
            _ => span,
        }
    }

    fn next_special(&self, from: usize) -> Option<usize> {
        let mut pieces = self.pieces.bytes.iter().zip(&self.pieces.tokens);
        pieces
            .find(|(bytes, token)| bytes.start >= from && self.tokenizer.is_special(**token))
            .map(|(bytes, _)| bytes.end)
    }

    fn not_found(&self, message_idx: usize, why: String) -> Problem {
        Problem::SpanNotFound {
            template: self.template.name().to_owned(),
            message_idx,
            why,
        }
    }
}
