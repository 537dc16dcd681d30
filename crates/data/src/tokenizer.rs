//! Text to tokens and back, without surprises: special tokens are added by nobody but the caller.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use chrono::NaiveDateTime;
use sha2::{Digest, Sha256};
use tokenizers::{PostProcessorWrapper, Tokenizer as Inner};

use crate::{Chat, ChatTemplate, ChatTemplates, Ending, Error, Problem, SpecialTokens, TextStream, shown, special};

/// A model's tokenizer with its special tokens and chat templates.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Inner,
    special: SpecialTokens,
    templates: ChatTemplates,
    bos: Option<u32>,
    eos: Vec<u32>,
    marked_special: HashSet<u32>,
    adds_bos: bool,
    digest: [u8; 32],
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
    /// From a model directory with a `tokenizer.json`.
    pub fn from_dir(dir: &Path) -> Result<Self, Error> {
        let path = dir.join("tokenizer.json");
        let bytes = std::fs::read(&path).map_err(crate::error::io(&path))?;
        let inner = Inner::from_bytes(&bytes).map_err(|source| Error::Tokenizer {
            at: path.display().to_string(),
            message: source.to_string(),
        })?;
        let config = special::read_optional(&dir.join("tokenizer_config.json"))?;
        let special = SpecialTokens::in_dir(dir, &config)?;
        let templates = ChatTemplates::in_dir(dir, &config)?;
        Self::build(inner, special, templates, Sha256::digest(&bytes).into())
    }

    /// From a tokenizer that is already built, e.g. out of a GGUF file, and that file's template.
    pub fn from_parts(inner: Inner, special: SpecialTokens, chat_template: Option<&str>) -> Result<Self, Error> {
        let templates = match chat_template {
            Some(source) => ChatTemplates::single(ChatTemplate::new("tokenizer.chat_template", source)?),
            None => ChatTemplates::default(),
        };
        let json = inner.to_string(false).map_err(|source| Error::Tokenizer {
            at: "tokenizer".to_owned(),
            message: source.to_string(),
        })?;
        Self::build(inner, special, templates, Sha256::digest(json.as_bytes()).into())
    }

    /// The same tokenizer with another chat template, for every kind of chat.
    #[must_use]
    pub fn with_template(self, template: ChatTemplate) -> Self {
        self.with_templates(ChatTemplates::single(template))
    }

    /// The same tokenizer with other chat templates.
    #[must_use]
    pub fn with_templates(self, templates: ChatTemplates) -> Self {
        Self { templates, ..self }
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
        hasher.update(self.digest);
        hasher.update(format!("{:?} {:?} {}", self.special, self.eos, self.adds_bos));
        hasher.finalize().into()
    }

    fn build(
        mut inner: Inner,
        special: SpecialTokens,
        templates: ChatTemplates,
        digest: [u8; 32],
    ) -> Result<Self, Error> {
        let refused = |source: tokenizers::Error| Error::Tokenizer {
            at: "tokenizer".to_owned(),
            message: source.to_string(),
        };
        inner.with_truncation(None).map_err(refused)?;
        inner.with_padding(None);
        let id = |name: &str| -> Result<Option<u32>, Error> {
            special
                .get(name)
                .map_or(Ok(None), |token| match inner.token_to_id(token) {
                    Some(id) => Ok(Some(id)),
                    None => Err(Error::Tokenizer {
                        at: name.to_owned(),
                        message: format!("`{token}` is not in the vocabulary"),
                    }),
                })
        };
        let bos = id("bos_token")?;
        let mut eos: Vec<u32> = id("eos_token")?.into_iter().collect();
        let own = eos.first().copied();
        eos.extend(special.more_eos_ids.iter().filter(|id| Some(**id) != own));
        let adds_bos = match special.add_bos {
            Some(adds) => adds,
            None => inner
                .encode("", true)
                .map_err(refused)?
                .get_ids()
                .first()
                .is_some_and(|id| Some(*id) == bos),
        };
        let added = inner.get_added_tokens_decoder();
        let marked = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id);
        let marked_special = marked.chain(bos).chain(eos.iter().copied()).collect();
        // Post-processors add special tokens, which callers here do themselves, and trim the byte ranges.
        inner.with_post_processor(None::<PostProcessorWrapper>);
        Ok(Self {
            inner,
            special,
            templates,
            bos,
            eos,
            marked_special,
            adds_bos,
            digest,
        })
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

    /// Token ids of a text as a model reads it: with the BOS token in front where the model wants one.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, Problem> {
        let mut tokens = self.encode(text)?;
        if let Some(bos) = self.missing_bos(&tokens) {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The BOS token, if texts start with it and this one does not yet.
    pub fn missing_bos(&self, tokens: &[u32]) -> Option<u32> {
        self.bos.filter(|bos| self.adds_bos && tokens.first() != Some(bos))
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
        self.eos.first().copied()
    }

    /// All tokens that end generation.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos
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

    /// Changes whenever the tokens of some text or chat might.
    pub(crate) fn fingerprint(&self, hasher: &mut Sha256) {
        hasher.update(self.digest);
        hasher.update(format!("{:?} {:?} {}", self.special, self.eos, self.adds_bos));
        for (name, template) in self.templates.iter() {
            hasher.update(format!("\n{name}\n{}", template.source()));
            if let Some(time) = template.shown_time() {
                hasher.update(time);
            }
        }
    }
}
