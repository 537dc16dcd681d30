//! Pruning with what it looks at: the text of a calibration, the same samples of it for the same seed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use checkpoint::ModelConfig;
use data::{ReadConfig, Tokenizer};
use decoder::Decoder;
use events::Events;
use models::prompts::{self, Form};
use prune::{Calibration, Thinned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};
use tensor_core::{Documents, DropoutKey};

/// Which text is looked at: keys of `kind = "prune"`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CalibrationConfig {
    /// Text to look at: rows with a `text`, or of any other shape that has one whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<PathBuf>,
    /// How many samples of it are taken.
    pub nsamples: usize,
    /// The most tokens of a sample.
    pub max_length: usize,
    /// The seed by which the samples are drawn from the text.
    pub seed: u64,
}

impl Default for CalibrationConfig {
    fn default() -> Self {
        Self {
            calibration: None,
            nsamples: 128,
            max_length: 512,
            seed: 0,
        }
    }
}

/// Tokens that go through a block together.
const ROW_TOKENS: usize = 2048;

/// Samples, each a document.
#[derive(Debug)]
pub struct Samples {
    file: PathBuf,
    documents: Vec<Vec<u32>>,
}

impl Samples {
    /// Those of `config`; none where nothing is looked at.
    pub fn read(
        config: &CalibrationConfig,
        is_needed: bool,
        tokenizer: &Tokenizer,
        model: &ModelConfig,
        events: &Events,
    ) -> Result<Option<Self>> {
        let file = match (&config.calibration, is_needed) {
            (Some(file), true) => file,
            (None, false) => return Ok(None),
            (Some(_), false) => bail!("`calibration`: this method looks at no text\nhint: remove it"),
            (None, true) => bail!(
                "`calibration` is missing: this method looks at text\n\
                 hint: give a file of the kind of text that the model will read"
            ),
        };
        if config.nsamples == 0 || config.max_length < 2 {
            bail!("wanted at least one sample (`nsamples`) of two tokens (`max_length`)");
        }
        let length = config.max_length.min(model.max_positions() as usize);
        let mut windows = windows(file, length, tokenizer, events)?;
        // In the order of hashes of their places: a shuffle that a seed names.
        let key = |idx: usize| DropoutKey(config.seed).at(idx as u64).0;
        let mut order: Vec<usize> = (0..windows.len()).collect();
        order.sort_by_key(|&idx| key(idx));
        order.truncate(config.nsamples);
        let documents: Vec<Vec<u32>> = order.iter().map(|&idx| std::mem::take(&mut windows[idx])).collect();
        if documents.is_empty() {
            bail!("`{}`: wanted some text of two tokens, found none", file.display());
        }
        Ok(Some(Self {
            file: file.clone(),
            documents,
        }))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// How many tokens each has.
    pub fn lengths(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.documents.iter().map(Vec::len)
    }

    /// Packed, in their order: tokens (`[t]` i64) and documents.
    pub fn rows(&self, device: Device) -> Vec<(Tensor, Documents)> {
        let mut rows: Vec<(Vec<i64>, Vec<usize>)> = Vec::new();
        for document in &self.documents {
            let is_full = |(tokens, _): &(Vec<i64>, Vec<usize>)| tokens.len() + document.len() > ROW_TOKENS;
            if rows.last().is_none_or(is_full) {
                rows.push((Vec::new(), Vec::new()));
            }
            if let Some((tokens, lengths)) = rows.last_mut() {
                tokens.extend(document.iter().map(|&token| i64::from(token)));
                lengths.push(document.len());
            }
        }
        let tensors = rows.iter().map(|(tokens, lengths)| {
            let tokens = Tensor::from_slice(tokens).to_device(device);
            (tokens, Documents::new(lengths))
        });
        tensors.collect()
    }
}

/// The rows' texts in windows of `length` tokens.
fn windows(file: &Path, length: usize, tokenizer: &Tokenizer, events: &Events) -> Result<Vec<Vec<u32>>> {
    let rows = models::datafile::read(file, &ReadConfig::default(), events)?;
    let mut windows = Vec::new();
    for idx in 0..rows.len() {
        let place = || rows.place(idx).to_string();
        let tokens = prompts::whole(rows.row(idx), Form::Plain, tokenizer)
            .with_context(place)?
            .tokens;
        let parts = tokens.chunks(length).filter(|part| part.len() > 1);
        windows.extend(parts.map(<[u32]>::to_vec));
    }
    Ok(windows)
}

/// The model with its zeros, and what became of each matrix.
pub fn thin(
    model: Decoder,
    plan: &prune::Plan,
    samples: Option<&Samples>,
    events: &Events,
) -> Result<(Decoder, Vec<Thinned>)> {
    let calibration = samples.map(|samples| Calibration::new(&model, samples.rows(model.device())));
    let work = events.begin("blocks", model.blocks().len());
    let mut operate =
        |model: Decoder, surgeon: &mut tensor_core::ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
    let made = prune::prune(model, plan, calibration, &mut operate, &mut |_| work.advance(1))?;
    Ok(made)
}
