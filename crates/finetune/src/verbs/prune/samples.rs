//! The text that a model is calibrated on: some windows of a file's rows, the same ones for the same seed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use checkpoint::ModelConfig;
use data::{Dataset, ReadConfig, Tokenizer};
use tch::{Device, Tensor};
use tensor_core::{Documents, DropoutKey};

use crate::prompts;

/// Arguments that choose them.
#[derive(clap::Args, Debug)]
pub(super) struct SampleArgs {
    /// wanda, sparsegpt: rows with a `text`, or of any other shape that has one whole text
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// How many samples of it are taken
    #[arg(long, value_name = "N", default_value_t = 128)]
    nsamples: usize,
    /// The most tokens of a sample
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_length: usize,
    /// Which samples are taken
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Tokens that go through a block together.
const ROW_TOKENS: usize = 2048;

/// Samples, each a document.
#[derive(Debug)]
pub(super) struct Samples {
    file: PathBuf,
    documents: Vec<Vec<u32>>,
}

impl Samples {
    /// Those of the arguments; none where nothing is to be calibrated.
    pub(super) fn read(
        args: &SampleArgs,
        is_needed: bool,
        tokenizer: &Tokenizer,
        model: &ModelConfig,
    ) -> Result<Option<Self>> {
        let file = match (&args.calibration, is_needed) {
            (Some(file), true) => file,
            (None, false) => return Ok(None),
            (Some(_), false) => bail!("`--calibration`: this method looks at no text\nhint: remove it"),
            (None, true) => bail!(
                "`--calibration` is missing: this method looks at text\n\
                 hint: give a file of the kind of text that the model will read"
            ),
        };
        if args.nsamples == 0 || args.max_length < 2 {
            bail!("wanted at least one sample (`--nsamples`) of two tokens (`--max-length`)");
        }
        let length = args.max_length.min(model.max_position_embeddings as usize);
        let mut windows = windows(file, length, tokenizer)?;
        // In the order of hashes of their places: a shuffle that a seed names.
        let key = |idx: usize| DropoutKey(args.seed).at(idx as u64).0;
        let mut order: Vec<usize> = (0..windows.len()).collect();
        order.sort_by_key(|&idx| key(idx));
        order.truncate(args.nsamples);
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
    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.documents.len()
    }

    /// Their tokens.
    pub(super) fn num_tokens(&self) -> usize {
        self.documents.iter().map(Vec::len).sum()
    }

    /// Packed, in their order: tokens (`[t]` i64) and documents.
    pub(super) fn rows(&self, device: Device) -> Vec<(Tensor, Documents)> {
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
fn windows(file: &Path, length: usize, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let rows = Dataset::read(file, &ReadConfig::default())?;
    let mut windows = Vec::new();
    for idx in 0..rows.len() {
        let place = || rows.place(idx).to_string();
        let text = prompts::whole_text(rows.row(idx), tokenizer).with_context(place)?;
        let tokens = tokenizer.encode_prompt(&text).with_context(place)?;
        let parts = tokens.chunks(length).filter(|part| part.len() > 1);
        windows.extend(parts.map(<[u32]>::to_vec));
    }
    Ok(windows)
}
