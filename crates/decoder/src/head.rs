//! What reads the last hidden state: a vocabulary, labels, or one number.
//!
//! Shapes: d model width.

use tensor_core::{Dense, Linear, ModulePath, Param, Role};

use crate::decoder::Decoder;
use crate::{Error, Result, random};

/// What the head is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeadKind {
    /// The next token: `lm_head`.
    LanguageModel,
    /// A class a document: `score`, read at its last token.
    Classification {
        /// The labels' names, in the order of the logits.
        labels: Vec<String>,
    },
    /// One number a document or token, such as a reward or a value: `score`.
    Scalar,
}

impl HeadKind {
    /// The output layer's path in the checkpoint.
    pub fn path(&self) -> ModulePath {
        ModulePath::from(match self {
            Self::LanguageModel => "lm_head",
            Self::Classification { .. } | Self::Scalar => "score",
        })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::LanguageModel => "language modelling",
            Self::Classification { .. } => "classification",
            Self::Scalar => "a scalar",
        }
    }

    /// How many numbers it gives; none for a vocabulary.
    pub fn num_labels(&self) -> Option<usize> {
        match self {
            Self::LanguageModel => None,
            Self::Classification { labels } => Some(labels.len()),
            Self::Scalar => Some(1),
        }
    }
}

/// The deviation of a new head's weights, as Transformers' `initializer_range`.
const DEVIATION: f64 = 0.02;

impl Decoder {
    /// Drops the head and puts a new one in its place: no bias, N(0, 0.02²) from `seed`, trainable.
    ///
    /// A language-modelling head is new in the same sense: untied, of the vocabulary's size.
    pub fn replace_head(mut self, kind: HeadKind, seed: u64) -> Result<Self> {
        if kind.num_labels() == Some(0) {
            return Err(Error::NoLabels);
        }
        let rows = kind.num_labels().map_or(self.config.vocab_size, |labels| labels as i64);
        let shape = [rows, self.config.hidden_size];
        let path = kind.path();
        let weight = random::normal(seed, path.site(), shape, DEVIATION, self.device);
        self.head = Linear::new(Dense::new(Param::trainable(&weight, Role::Head)), None);
        self.config = match &kind {
            HeadKind::LanguageModel => self.config.as_language_model().with_tied_embeddings(false),
            HeadKind::Classification { labels } => self.config.with_labels(labels.clone()),
            HeadKind::Scalar => self.config.with_labels(vec!["LABEL_0".into()]),
        };
        self.head_kind = kind;
        Ok(self)
    }

    /// An error unless the head is for language modelling.
    pub(crate) fn needs_language_head(&self, what: &'static str) -> Result<()> {
        match &self.head_kind {
            HeadKind::LanguageModel => Ok(()),
            other => Err(Error::Head {
                what,
                wanted: HeadKind::LanguageModel.name(),
                found: other.name(),
            }),
        }
    }
}
