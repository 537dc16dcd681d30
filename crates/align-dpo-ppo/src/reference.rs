//! What a policy is compared with: the base beneath its adapters, a frozen copy, or numbers that are known already.
//!
//! The first needs no second model: the same weights run with adapters off. Log-probabilities under a reference do not
//! change during a run, so they can be computed once and kept on disk under a [`Fingerprint`] of all that they follow
//! from.
//!
//! Shapes: n documents.

use std::fmt::{self, Write as _};
use std::path::Path;

use checkpoint::{Safetensors, write_tensors};
use decoder::loss::token_log_probs;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};
use tensor_core::{Checkpointing, CheckpointingPolicy, LanguageModel, ModelPass, ModulePath, Pass, Role, blob};

use crate::moving::Moving;
use crate::{Error, ReplyRow, Result};

/// The reference of a policy.
pub struct Reference(Kept);

enum Kept {
    AdaptersOff,
    Copy(Box<dyn LanguageModel>),
    Moving(Moving),
    Rows,
}

impl Reference {
    /// The policy's own base.
    ///
    /// Errors: something other than adapters trains in `model`, or nothing does.
    pub fn adapters_off(model: &dyn LanguageModel) -> Result<Self> {
        let (mut adapters, mut base) = (0, None);
        model.visit(&ModulePath::root(), &mut |at, param| {
            if !param.is_trainable() {
                return;
            }
            match param.role() {
                Role::Base | Role::Embedding | Role::Head => base = base.take().or_else(|| Some(at.clone())),
                _ => adapters += 1,
            }
        });
        if let Some(at) = base {
            let hint = "compare with a frozen copy, or train adapters only";
            return Err(Error::NotRestorable { at, hint });
        }
        if adapters == 0 {
            let hint = "add an adapter, or compare with a frozen copy";
            return Err(Error::NoAdapter { hint });
        }
        Ok(Self(Kept::AdaptersOff))
    }

    /// Another model, such as the policy before it trained.
    pub fn copy(model: Box<dyn LanguageModel>) -> Self {
        Self(Kept::Copy(model))
    }

    /// The policy as it was in the mean of its past: an average that [`Self::follow`] takes `share` of the way to it.
    ///
    /// Errors: what [`Self::adapters_off`] refuses.
    pub fn moving(model: &dyn LanguageModel, share: f64) -> Result<Self> {
        Self::adapters_off(model)?;
        Ok(Self(Kept::Moving(Moving::new(model, share))))
    }

    /// Takes a moving reference towards the policy; any other stays.
    pub fn follow(&self) {
        if let Kept::Moving(moving) = &self.0 {
            moving.follow();
        }
    }

    /// What moves, by name and in place: nothing but a moving reference's averages.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        match &self.0 {
            Kept::Moving(moving) => moving.tensors(),
            _ => Vec::new(),
        }
    }

    /// Numbers that every row brings with it.
    pub fn of_rows() -> Self {
        Self(Kept::Rows)
    }

    /// `[n]` f32: log `π_ref` of each reply, in nats, without a graph.
    ///
    /// Errors: a row that should bring the numbers and does not.
    pub fn log_probs(&self, policy: &ModelPass, row: &ReplyRow) -> tensor_core::Result<Tensor> {
        match &self.0 {
            Kept::Rows => row
                .reference
                .as_ref()
                .map(Tensor::shallow_clone)
                .ok_or_else(|| tensor_core::Error::Shape {
                    at: ModulePath::from("log-probabilities under the reference"),
                    wanted: vec![row.documents.len() as i64],
                    found: vec![0],
                }),
            _ => Ok(row.documents.sum(&self.token_log_probs(policy, row)?)),
        }
    }

    /// `[t]` f32: log `π_ref` of each reply's tokens where they are predicted, 0 elsewhere, without a graph.
    ///
    /// Errors: numbers that rows bring are sums over replies.
    pub fn token_log_probs(&self, policy: &ModelPass, row: &ReplyRow) -> tensor_core::Result<Tensor> {
        let (tokens, documents) = (&row.tokens, &row.documents);
        let pass = Pass::evaluate(documents);
        match &self.0 {
            Kept::Rows => Err(tensor_core::Error::Shape {
                at: ModulePath::from("log-probabilities of tokens under the reference"),
                wanted: tokens.size(),
                found: vec![documents.len() as i64],
            }),
            Kept::AdaptersOff => Ok(tch::no_grad(|| {
                let hidden = policy.reference_hidden(tokens, documents);
                token_log_probs(&hidden, policy.head(), &row.targets, &pass.without_adapters())
            })),
            Kept::Moving(moving) => Ok(moving.within(|| {
                tch::no_grad(|| {
                    let hidden = policy.measured_hidden(tokens, documents);
                    token_log_probs(&hidden, policy.head(), &row.targets, &pass)
                })
            })),
            Kept::Copy(model) => Ok(tch::no_grad(|| {
                let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, model.num_blocks());
                let copy = ModelPass::evaluate(&**model, &plan);
                token_log_probs(&copy.hidden(tokens, documents), copy.head(), &row.targets, &pass)
            })),
        }
    }

    /// What of `model` the reference's numbers follow from: the frozen copy, or the base beneath `model`'s adapters.
    pub fn fingerprint(&self, model: &dyn LanguageModel) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        match &self.0 {
            Kept::Copy(copy) => fingerprint.add_model(&**copy),
            _ => fingerprint.add_model(model),
        }
        fingerprint
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match &self.0 {
            Kept::AdaptersOff => "Reference::adapters_off",
            Kept::Copy(_) => "Reference::copy",
            Kept::Moving(_) => "Reference::moving",
            Kept::Rows => "Reference::of_rows",
        })
    }
}

/// A hash of all that log-probabilities under a reference follow from.
#[derive(Clone, Debug, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Every parameter that no adapter brought: path, dtype, shape and numbers.
    fn add_model(&mut self, model: &dyn LanguageModel) {
        model.visit(&ModulePath::root(), &mut |at, param| {
            if matches!(param.role(), Role::Adapter | Role::AdapterOut) {
                return;
            }
            let value = param.value().detach().to_device(Device::Cpu).contiguous();
            self.0.update(format!("{at} {:?} {:?}\n", value.kind(), value.size()));
            self.0
                .update(blob::to_vec::<u8>(&value.flatten(0, -1).view_dtype(Kind::Uint8)));
        });
    }

    /// A row that is scored: which tokens, which of them replies, packed how.
    pub fn add_row(&mut self, row: &ReplyRow) {
        self.0.update(format!("{:?}\n", row.documents.offsets()));
        for numbers in [&row.tokens, &row.targets] {
            let numbers = numbers.to_device(Device::Cpu).contiguous();
            for number in &blob::to_vec::<i64>(&numbers) {
                self.0.update(number.to_le_bytes());
            }
        }
    }

    /// The hash as text, fit for a file's name.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for byte in self.0.clone().finalize().iter().take(16) {
            let _ = write!(text, "{byte:02x}");
        }
        text
    }
}

const NAME: &str = "log_probs";

/// Log-probabilities that were kept at `path`, if there are `count`; none if there is no such file.
///
/// Errors: a file that is there and cannot be read, or holds something else.
pub fn open_log_probs(path: &Path, count: usize) -> Result<Option<Vec<f32>>> {
    if !path.is_file() {
        return Ok(None);
    }
    let tensor = Safetensors::open(path)?.tensor(NAME)?;
    let fits = tensor.kind() == Kind::Float && tensor.size() == [count as i64];
    Ok(fits.then(|| blob::to_vec::<f32>(&tensor)))
}

/// Keeps log-probabilities at `path`: aside first, then renamed.
pub fn save_log_probs(path: &Path, log_probs: &[f32]) -> Result<()> {
    Ok(write_tensors(path, [(NAME, &Tensor::from_slice(log_probs))])?)
}
