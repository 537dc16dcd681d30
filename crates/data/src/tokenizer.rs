//! Text to tokens and back, without surprises: special tokens are added by nobody but the caller.

mod read;

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use chrono::NaiveDateTime;
use sha2::{Digest, Sha256};
use tokenizers::{AddedToken, PostProcessorWrapper, Tokenizer as Inner};

use crate::ends::{self, NamedEnds};
use crate::{
    Chat, ChatTemplate, ChatTemplates, Ending, Error, Problem, SpecialTokens, Surroundings, TextStream, shown,
};

/// A model's tokenizer with its special tokens and chat templates.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
    special: SpecialTokens,
    templates: Arc<ChatTemplates>,
    bos: Option<u32>,
    /// The tokenizer's own end token.
    own_eos: Option<u32>,
    /// Who names end tokens, the chat templates last.
    places: Vec<NamedEnds>,
    eos: Vec<u32>,
    marked_special: HashSet<u32>,
    /// What the post-processor puts before a text, and behind it.
    opening: Vec<u32>,
    closing: Vec<u32>,
    digest: [u8; 32],
    notes: Vec<String>,
    template_notes: Vec<String>,
    surroundings: Surroundings,
}

/// Tokens and the bytes of the text that each stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// One byte range a token; several tokens may share a character's range.
    pub bytes: Vec<Range<usize>>,
}

impl Tokenizer {
    /// From a folder with a `tokenizer.json`, whatever model it belongs to.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        Self::read(&dir, Surroundings::default())
    }

    /// From a tokenizer that is already built and its template; its post-processor says what stands around a text.
    pub fn from_parts(inner: Inner, special: SpecialTokens, chat_template: Option<&str>) -> Result<Self, Error> {
        let templates = match chat_template {
            Some(source) => ChatTemplates::single(ChatTemplate::new("tokenizer.chat_template", source)?),
            None => ChatTemplates::default(),
        };
        let json = inner.to_string(false).map_err(refused)?;
        let digest = Sha256::digest(json.as_bytes()).into();
        Self::build(inner, special, templates, (digest, Surroundings::default(), Vec::new()))
    }

    /// The same tokenizer with another chat template, for every kind of chat.
    #[must_use]
    pub fn with_template(self, template: ChatTemplate) -> Self {
        self.with_templates(ChatTemplates::single(template))
    }

    /// The same tokenizer with other chat templates, at whose end of a turn generation stops too.
    #[must_use]
    pub fn with_templates(mut self, templates: ChatTemplates) -> Self {
        let ends = ends::of_templates(&templates, &self.special, &self.inner);
        for id in &ends.ids {
            self.marked_special.insert(*id);
            // What ends a turn is not shown as a part of it.
            let added = self
                .inner
                .get_added_vocabulary()
                .get_added_tokens_decoder()
                .get(id)
                .cloned();
            if let Some(token) = added.filter(|token| !token.special) {
                let token = AddedToken { special: true, ..token };
                // It is there already, so nothing of it can be refused.
                let _ = Arc::make_mut(&mut self.inner).add_special_tokens([token]);
            }
        }
        self.templates = Arc::new(templates);
        self.template_notes.clear();
        self.places.pop();
        self.places.push(ends);
        self.eos = ends::union(&self.places);
        self
    }

    /// The same tokenizer with templates that always tell the same time.
    pub fn at_time(self, now: NaiveDateTime) -> Result<Self, Error> {
        let named = self.templates.iter().map(|(name, template)| {
            Ok((
                name.to_owned(),
                ChatTemplate::at_time(template.name(), template.source(), now)?,
            ))
        });
        let templates = ChatTemplates::named(named.collect::<Result<Vec<_>, Error>>()?);
        Ok(self.with_templates(templates))
    }

    /// Changes whenever the tokens of some text might: the vocabulary, the special tokens, what is put in front.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        self.hash_tokens(&mut hasher);
        hasher.finalize().into()
    }

    fn build(
        mut inner: Inner,
        special: SpecialTokens,
        templates: ChatTemplates,
        (digest, surroundings, mut notes): ([u8; 32], Surroundings, Vec<String>),
    ) -> Result<Self, Error> {
        inner.with_truncation(None).map_err(refused)?;
        inner.with_padding(None);
        let missing = |name: &str, token: &str| Error::Tokenizer {
            at: name.to_owned(),
            message: format!("`{token}` is not in the vocabulary"),
        };
        let find = |name: &str| match special.get(name).map(|token| (token, inner.token_to_id(token))) {
            None => Ok(None),
            Some((_, Some(id))) => Ok(Some(id)),
            Some((token, None)) => Err(missing(name, token)),
        };
        let bos = find("bos_token")?;
        let named = |id: &&u32| inner.id_to_token(**id).is_some();
        let other = surroundings.ends.iter().flat_map(|place| &place.ids).find(named);
        let own_eos = match (find("eos_token"), other) {
            (Err(error), Some(id)) => {
                let token = inner.id_to_token(*id).unwrap_or_default();
                notes.push(format!(
                    "{error}: texts end with `{token}`, which the model's configuration names"
                ));
                None
            }
            (found, _) => found?,
        };
        let around = read::around(&inner)?;
        let added = inner.get_added_vocabulary().get_added_tokens_decoder();
        let marked = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id);
        let mut places = vec![NamedEnds {
            place: "tokenizer_config.json".to_owned(),
            ids: own_eos.into_iter().collect(),
        }];
        places.extend(surroundings.ends.iter().cloned());
        let marked_special = marked.chain(bos).chain(ends::union(&places)).collect();
        // Of the chat templates, which are put in below.
        places.push(NamedEnds {
            place: String::new(),
            ids: Vec::new(),
        });
        // Post-processors add special tokens, which callers here do themselves, and trim the byte ranges.
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let tokenizer = Self {
            inner: Arc::new(inner),
            special,
            templates: Arc::default(),
            bos,
            own_eos,
            places,
            eos: Vec::new(),
            marked_special,
            opening: around.0,
            closing: around.1,
            digest,
            notes,
            template_notes: Vec::new(),
            surroundings,
        };
        Ok(tokenizer.with_templates(templates))
    }

    /// Token ids of a text; special tokens written in it are recognised, none are added.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let encoding = self
            .inner
            .encode_fast(text, false)
            .map_err(|source| Problem::Tokenizer(source.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// As [`Self::encode`], with the bytes that each token stands for.
    pub fn encode_pieces(&self, text: &str) -> Result<Pieces, Problem> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|source| Problem::Tokenizer(source.to_string()))?;
        let bytes = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok(Pieces {
            tokens: encoding.get_ids().to_vec(),
            bytes,
        })
    }

    /// Token ids of a text that the model goes on with: with the BOS token in front where the tokenizer puts one.
    ///
    /// Not for a rendered chat, in which every token is the template's own: see [`Self::encode_chat`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let mut tokens = self.encode(text)?;
        let missing = self.missing_opening(&tokens).to_vec();
        tokens.splice(0..0, missing);
        Ok(tokens)
    }

    /// Token ids of a whole text, with what the tokenizer puts before it and behind it.
    pub fn encode_whole(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let mut tokens = self.encode_prompt(text)?;
        if !tokens.ends_with(&self.closing) {
            tokens.extend(&self.closing);
        }
        Ok(tokens)
    }

    /// Token ids of a conversation as the model reads it before it answers: the template's rendering and nothing else,
    /// as Transformers' `apply_chat_template`.
    pub fn encode_chat(&self, chat: &Chat) -> Result<Vec<u32>, Problem> {
        self.encode(&self.render_prompt(chat)?)
    }

    /// What stands before a text, if this one does not begin with it yet.
    pub fn missing_opening(&self, tokens: &[u32]) -> &[u32] {
        if tokens.starts_with(&self.opening) {
            &[]
        } else {
            &self.opening
        }
    }

    /// What the tokenizer puts before a text: the BOS token, or nothing.
    pub fn opening(&self) -> &[u32] {
        &self.opening
    }

    /// What the tokenizer puts behind a text; mostly nothing.
    pub fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Text of tokens, special tokens left out.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, Problem> {
        self.inner
            .decode(tokens, true)
            .map_err(|source| Problem::Tokenizer(source.to_string()))
    }

    /// Text of tokens, special tokens included.
    pub fn decode_all(&self, tokens: &[u32]) -> Result<String, Problem> {
        self.inner
            .decode(tokens, false)
            .map_err(|source| Problem::Tokenizer(source.to_string()))
    }

    /// Decodes token by token; never hands out half a character.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// A conversation as the model reads it before it answers, rendered with a generation prompt.
    pub fn render_prompt(&self, chat: &Chat) -> Result<String, Problem> {
        self.render(chat, Ending::GenerationPrompt)
    }

    /// A conversation in the model's chat template; refused where the template does not show all that is said.
    pub fn render(&self, chat: &Chat, ending: Ending) -> Result<String, Problem> {
        let template = self.templates.choose(chat.tools.is_some()).ok_or(Problem::NoTemplate)?;
        let chat = shown::in_form(chat, template, &self.special, ending)?;
        template.render(&chat, &self.special, ending)
    }

    /// The token that starts a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text: the tokenizer's own, else the first that the model's configuration names.
    pub fn eos(&self) -> Option<u32> {
        let ends = self.surroundings.ends.iter().flat_map(|place| &place.ids);
        let mut named = ends.filter(|id| self.inner.id_to_token(**id).is_some());
        self.own_eos.or_else(|| named.next().copied())
    }

    pub(crate) fn own_eos(&self) -> Option<u32> {
        self.own_eos
    }

    /// All tokens that end generation: those of the tokenizer, of the model's configuration, and of the chat templates.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
    }

    /// Whether a chat template ends an assistant's turn with this token.
    pub fn ends_turn(&self, token: u32) -> bool {
        self.places
            .last()
            .is_some_and(|templates| templates.ids.contains(&token))
    }

    /// Who names which end tokens.
    pub fn end_tokens(&self) -> &[NamedEnds] {
        &self.places
    }

    /// Whether a token is special: EOS, BOS, or marked so in the vocabulary.
    pub fn is_special(&self, token: u32) -> bool {
        self.marked_special.contains(&token)
    }

    /// A token's string in the vocabulary.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// A string's token id, if it is one token of the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The model's special tokens.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The model's chat templates.
    pub fn templates(&self) -> &ChatTemplates {
        &self.templates
    }

    /// The wrapped tokenizer, without its post-processor.
    pub fn inner(&self) -> &Inner {
        &self.inner
    }

    /// What a user must know of the files that this tokenizer was read from: where they disagree, and which one counts.
    pub fn notes(&self) -> Vec<String> {
        let name = |id: u32| match self.token(id) {
            Some(token) => format!("`{token}`"),
            None => format!("{id} (not in the vocabulary)"),
        };
        let mut notes = [self.notes.as_slice(), &self.template_notes].concat();
        // A tokenizer without a model knows of nobody to disagree with.
        if !self.surroundings.ends.is_empty() {
            notes.extend(ends::disagreement(&self.places, &self.surroundings.ends, name));
        }
        notes
    }

    fn hash_tokens(&self, hasher: &mut Sha256) {
        hasher.update(self.digest);
        hasher.update(format!("{:?} {:?} {:?}", self.special, self.eos(), self.eos));
        hasher.update(format!("{:?} {:?} {}", self.opening, self.closing, self.vocab_size()));
    }

    /// Changes whenever the tokens of some text or chat might.
    pub(crate) fn fingerprint(&self, hasher: &mut Sha256) {
        self.hash_tokens(hasher);
        for (name, template) in self.templates.iter() {
            hasher.update(format!("\n{name}\n{}", template.source()));
            if let Some(time) = template.shown_time() {
                hasher.update(time);
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn refused(source: tokenizers::Error) -> Error {
    Error::Tokenizer {
        at: "tokenizer".to_owned(),
        message: source.to_string(),
    }
}
