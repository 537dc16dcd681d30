//! What the engine and the objectives need of a language model.

use tch::Tensor;

use crate::{Linear, Parameters, Pass};

/// A stack of blocks between an embedding and a head. Shapes: t tokens, d model width.
pub trait LanguageModel: Parameters {
    /// How many blocks there are.
    fn num_blocks(&self) -> usize;

    /// `[t]` i64 tokens to the stream `[t, d]` in the model's compute dtype.
    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Tensor;

    /// The stream through block `idx`: `[t, d]` to `[t, d]`.
    fn block(&self, idx: usize, hidden: &Tensor, pass: &Pass) -> Tensor;

    /// The last normalisation: `[t, d]` to `[t, d]`.
    fn norm(&self, hidden: &Tensor, pass: &Pass) -> Tensor;

    /// What reads the normed stream: `[.., d]` to `[.., vocabulary or labels]`. Objectives give it to the chunked
    /// kernels, so that the full logits never exist.
    fn head(&self) -> &Linear;
}
