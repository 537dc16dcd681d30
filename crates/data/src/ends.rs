//! The tokens that end a text or a turn: one set of what every place names, for training and generation alike.
//!
//! Places: the tokenizer's `eos_token`, the model's configuration files, and each chat template, whose end of an
//! assistant's turn is found by rendering one.

use tokenizers::Tokenizer as Inner;

use crate::template::Ending;
use crate::{Chat, ChatTemplate, ChatTemplates, Message, SpecialTokens};

/// Stands for an answer in a rendering.
const MARK: &str = "ANSWER_WHOSE_END_IS_SOUGHT";

/// A place that names end tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedEnds {
    /// The file or key.
    pub place: String,
    /// The tokens; perhaps none.
    pub ids: Vec<u32>,
}

/// What is known of a model when its tokenizer is read.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Rows of its embedding: no token may have a higher number.
    pub rows: Option<usize>,
    /// The files of the model that name end tokens; the last that names any is the one that generation goes by elsewhere.
    pub ends: Vec<NamedEnds>,
}

/// All ids of `places`, each once, in order.
pub(crate) fn union<'a>(places: impl IntoIterator<Item = &'a NamedEnds>) -> Vec<u32> {
    let mut all = Vec::new();
    for id in places.into_iter().flat_map(|place| &place.ids) {
        if !all.contains(id) {
            all.push(*id);
        }
    }
    all
}

/// The tokens that the templates end an assistant's turn with.
pub(crate) fn of_templates(templates: &ChatTemplates, special: &SpecialTokens, inner: &Inner) -> NamedEnds {
    let mut ids = Vec::new();
    for (_, template) in templates.iter() {
        if let Some(id) = of_template(template, special, inner).filter(|id| !ids.contains(id)) {
            ids.push(id);
        }
    }
    NamedEnds {
        place: "the chat template".to_owned(),
        ids,
    }
}

/// The first added token behind an answer, if nothing but white space stands between.
fn of_template(template: &ChatTemplate, special: &SpecialTokens, inner: &Inner) -> Option<u32> {
    let chat = Chat::new(vec![Message::new("user", "Hello."), Message::new("assistant", MARK)]);
    let text = template.render(&chat, special, Ending::Closed).ok()?;
    let mut parts = text.split(MARK);
    let (before, after) = (parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let end = before.len() + MARK.len() + (after.len() - after.trim_start().len());
    let encoding = inner.encode(text.as_str(), false).ok()?;
    let covers = |&(start, stop): &(usize, usize)| start <= end && end < stop;
    let at = encoding.get_offsets().iter().position(covers)?;
    let id = encoding.get_ids()[at];
    let added = inner.get_added_vocabulary().get_added_tokens_decoder().get(&id)?;
    (!added.content.trim().is_empty()).then_some(id)
}

/// A note where what ends generation elsewhere is not all that ends it here; `name` shows a token.
pub(crate) fn disagreement(places: &[NamedEnds], model: &[NamedEnds], name: impl Fn(u32) -> String) -> Option<String> {
    let all = union(places);
    let elsewhere = model.iter().rev().find(|place| !place.ids.is_empty());
    let known = elsewhere.map(|place| place.ids.as_slice()).unwrap_or_default();
    if all.iter().all(|id| known.contains(id)) {
        return None;
    }
    let says = places.iter().filter(|place| !place.ids.is_empty()).map(|place| {
        let ids: Vec<String> = place.ids.iter().map(|id| name(*id)).collect();
        format!("{}: {}", place.place, ids.join(" "))
    });
    let says: Vec<String> = says.collect();
    let how = match says.len() {
        1 => "in one place only",
        _ => "differently",
    };
    Some(format!(
        "end tokens are named {how} ({}): generation stops at any of them",
        says.join("; ")
    ))
}
