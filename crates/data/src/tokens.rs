//! A tokenised data set: every row's tokens in one flat store, in memory or in a cache file.

mod cache;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    ControlTokens, Dataset, EncodeConfig, Error, Problem, ReadConfig, Reject, Row, Sample, Tokenized, Tokenizer,
    encode, remarks,
};

/// The tokens of a data set.
#[derive(Debug)]
pub struct TokenSet {
    index: Index,
    store: Store,
    report: Report,
    uncached: Option<Error>,
}

/// What tokenising did to the rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows read.
    pub rows: usize,
    /// Samples made of them; more than rows where long texts were split.
    pub samples: usize,
    /// Samples that `max_length` cut.
    pub truncated: usize,
    /// Rows left out because nothing in them is learnt.
    pub dropped_empty: usize,
    /// Rows left out because their prompt fills `max_length`.
    pub dropped_too_long: usize,
    /// The first few rows left out, with the reason.
    pub dropped: Vec<String>,
    /// Documents with something to learn whose last learnt token is no special one: nothing teaches the model to stop.
    pub unterminated: usize,
    /// What else is to be said of rows, each with the number of rows: see [`crate::remarks`].
    #[serde(default)]
    pub remarks: BTreeMap<String, usize>,
    /// What is to be said of the file's columns: see [`Dataset::remarks`].
    #[serde(default)]
    pub columns: Vec<String>,
    /// Samples whose prompt is a conversation in the chat template, or a text that holds its end of a turn.
    pub templated: usize,
    /// Samples whose prompt is a plain text.
    pub raw: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// Tokens that are learnt.
    pub trained_tokens: usize,
}

/// Where each sample's documents begin, and each document's tokens.
#[derive(Debug, Default, PartialEq, Eq)]
struct Index {
    /// First document of each sample, and the number of documents.
    first_documents: Vec<u32>,
    /// The row that each sample came from.
    rows: Vec<u32>,
    /// Labels, `i64::MIN` for none.
    labels: Vec<i64>,
    /// First token of each document, and the number of tokens.
    first_tokens: Vec<u64>,
}

#[derive(Debug)]
enum Store {
    Memory {
        tokens: Vec<u32>,
        trained: Vec<u8>,
    },
    File {
        file: Mutex<File>,
        tokens_at: u64,
        trained_at: u64,
    },
}

/// A row's samples, and the remarks on it.
type Encoded = (Result<Vec<Sample>, Problem>, Vec<String>);

const NO_LABEL: i64 = i64::MIN;
const MOST_DROPPED_SHOWN: usize = 5;

impl TokenSet {
    /// Tokenises a data set on all cores, or takes it from the cache directory if it is there already.
    ///
    /// `progress` is told how many rows are done, from any thread. A cache file belongs to the data file's bytes, the
    /// tokenizer with its templates, the configuration and, where the template tells the time, the day.
    pub fn build(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        config: &EncodeConfig,
        cache_dir: Option<&Path>,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self, Error> {
        if let Some(length) = config.max_length.filter(|length| *length < 3) {
            return Err(Error::Setting {
                key: "max_length",
                wanted: "at least 3",
                found: length.to_string(),
            });
        }
        let Some(cache_dir) = cache_dir else {
            return Self::tokenize(dataset, tokenizer, config, progress);
        };
        let path = cache_dir.join(cache_name(dataset.digest(), tokenizer, config));
        if let Some(set) = cache::open(&path) {
            progress(dataset.len());
            return Ok(set);
        }
        let set = Self::tokenize(dataset, tokenizer, config, progress)?;
        // The cache saves time and nothing else: where it cannot be written, all goes on without it.
        if let Err(error) = cache::store(&path, &set) {
            return Ok(Self {
                uncached: Some(error),
                ..set
            });
        }
        // The file's pages belong to the system, which can take them back; ours would stay.
        Ok(cache::open_unchecked(&path).unwrap_or(set))
    }

    /// A file's tokens from the cache directory, without parsing the file; `None` if they are not there.
    pub fn cached(
        path: &Path,
        read: &ReadConfig,
        tokenizer: &Tokenizer,
        config: &EncodeConfig,
        cache_dir: &Path,
    ) -> Result<Option<Self>, Error> {
        let bytes = fs::read(path).map_err(rows::io(path))?;
        let digest = rows::digest(&bytes, path, read);
        Ok(cache::open(&cache_dir.join(cache_name(digest, tokenizer, config))))
    }

    /// A set of samples that came from no file.
    pub fn from_samples(samples: impl IntoIterator<Item = Sample>) -> Self {
        let mut set = Self::empty();
        for (row, sample) in samples.into_iter().enumerate() {
            set.push(row, &sample);
        }
        set.report.rows = set.len();
        set
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.index.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.index.rows.is_empty()
    }

    /// Tokens of a sample, all its documents together.
    pub fn sample_len(&self, sample: usize) -> usize {
        let documents = self.documents(sample);
        (self.index.first_tokens[documents.end] - self.index.first_tokens[documents.start]) as usize
    }

    /// Which row of the data set a sample came from.
    pub fn row(&self, sample: usize) -> usize {
        self.index.rows[sample] as usize
    }

    /// A sample's label, where it has one.
    pub fn label(&self, sample: usize) -> Option<i64> {
        Some(self.index.labels[sample]).filter(|label| *label != NO_LABEL)
    }

    /// A sample's documents: one, or two for a preference.
    pub fn sample(&self, sample: usize) -> Result<Vec<Tokenized>, Error> {
        self.documents(sample)
            .map(|document| {
                self.store
                    .read(self.index.first_tokens[document], self.index.first_tokens[document + 1])
            })
            .collect()
    }

    /// How many documents a sample has: one, or two for a preference.
    pub fn num_documents(&self, sample: usize) -> usize {
        self.documents(sample).len()
    }

    /// What tokenising did.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Why the tokens could not be put into the cache, if that was tried and failed.
    pub fn uncached(&self) -> Option<&Error> {
        self.uncached.as_ref()
    }

    fn documents(&self, sample: usize) -> std::ops::Range<usize> {
        self.index.first_documents[sample] as usize..self.index.first_documents[sample + 1] as usize
    }

    fn empty() -> Self {
        Self {
            index: Index {
                first_documents: vec![0],
                first_tokens: vec![0],
                ..Index::default()
            },
            store: Store::Memory {
                tokens: Vec::new(),
                trained: Vec::new(),
            },
            report: Report::default(),
            uncached: None,
        }
    }

    fn tokenize(
        dataset: &Dataset,
        tokenizer: &Tokenizer,
        config: &EncodeConfig,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Self, Error> {
        let done = AtomicUsize::new(0);
        let control = ControlTokens::of(tokenizer);
        let encoded: Vec<Encoded> = (0..dataset.len())
            .into_par_iter()
            .map(|idx| {
                let samples = encode(dataset.row(idx), tokenizer, config);
                progress(done.fetch_add(1, Ordering::Relaxed) + 1);
                (samples, remarks(dataset.row(idx), tokenizer, &control))
            })
            .collect();
        let mut set = Self::empty();
        set.report.columns = dataset.remarks().to_vec();
        for (row, (samples, remarks)) in encoded.into_iter().enumerate() {
            for remark in remarks {
                *set.report.remarks.entry(remark).or_default() += 1;
            }
            let problem = match samples {
                Ok(samples) => {
                    for sample in samples {
                        set.note_ending(&sample, tokenizer);
                        set.note_form(dataset.row(row), &sample, tokenizer);
                        set.push(row, &sample);
                    }
                    continue;
                }
                Err(problem) => problem,
            };
            let (policy, count) = match problem {
                Problem::Empty { .. } | Problem::NothingTrained { .. } => {
                    (config.on_empty, &mut set.report.dropped_empty)
                }
                Problem::PromptTooLong { .. } => (config.on_too_long, &mut set.report.dropped_too_long),
                _ => (Reject::Error, &mut set.report.dropped_empty),
            };
            let failed = problem.at(dataset.place(row));
            if policy == Reject::Error {
                return Err(failed);
            }
            *count += 1;
            if set.report.dropped.len() < MOST_DROPPED_SHOWN {
                let text = failed.to_string();
                set.report
                    .dropped
                    .push(text.lines().next().unwrap_or_default().to_owned());
            }
        }
        set.report.rows = dataset.len();
        if set.is_empty() {
            return Err(Error::Setting {
                key: "on_empty, on_too_long",
                wanted: "at least one row to be left",
                found: format!("all {} rows dropped: {}", dataset.len(), set.report.dropped.join("; ")),
            });
        }
        Ok(set)
    }

    fn note_ending(&mut self, sample: &Sample, tokenizer: &Tokenizer) {
        for document in &sample.documents {
            let last = document.trained.iter().rposition(|trained| *trained);
            if last.is_some_and(|last| !tokenizer.is_special(document.tokens[last])) {
                self.report.unterminated += 1;
            }
        }
    }

    fn note_form(&mut self, row: &Row, sample: &Sample, tokenizer: &Tokenizer) {
        let holds_a_turn = |document: &Tokenized| {
            let inner = document
                .tokens
                .split_last()
                .map(|(_, before)| before)
                .unwrap_or_default();
            inner.iter().any(|token| tokenizer.ends_turn(*token))
        };
        match row.gives_turns() {
            None => {}
            Some(false) if !sample.documents.iter().any(holds_a_turn) => self.report.raw += 1,
            Some(_) => self.report.templated += 1,
        }
    }

    fn push(&mut self, row: usize, sample: &Sample) {
        let Store::Memory { tokens, trained } = &mut self.store else {
            unreachable!("only a set in memory grows");
        };
        for document in &sample.documents {
            for (&token, &learnt) in document.tokens.iter().zip(&document.trained) {
                if tokens.len() % 8 == 0 {
                    trained.push(0);
                }
                if let (true, Some(byte)) = (learnt, trained.last_mut()) {
                    *byte |= 1 << (tokens.len() % 8);
                }
                tokens.push(token);
            }
            self.index.first_tokens.push(tokens.len() as u64);
            self.report.trained_tokens += document.num_trained();
            self.report.tokens += document.tokens.len();
        }
        self.index
            .first_documents
            .push((self.index.first_tokens.len() - 1) as u32);
        self.index.rows.push(row as u32);
        self.index.labels.push(sample.label.unwrap_or(NO_LABEL));
        self.report.samples += 1;
        self.report.truncated += usize::from(sample.truncated);
    }
}

fn cache_name(data: [u8; 32], tokenizer: &Tokenizer, config: &EncodeConfig) -> String {
    let mut hasher = Sha256::new();
    hasher.update([cache::VERSION]);
    hasher.update(data);
    tokenizer.fingerprint(&mut hasher);
    hasher.update(format!("{config:?}"));
    let mut name = String::new();
    for byte in hasher.finalize().iter().take(16) {
        let _ = write!(name, "{byte:02x}");
    }
    name + ".tokens"
}
