//! A packed row of replies.
//!
//! Shapes: t tokens, n documents, d model width.

use decoder::loss::{IGNORED, token_log_probs};
use tch::{Kind, Tensor};
use tensor_core::{Documents, Linear, Pass};

/// Prompts with a reply each, one document a reply; of a pair, the better one's document stands before the worse one's.
#[derive(Debug)]
pub struct ReplyRow {
    /// `[t]` i64
    pub tokens: Tensor,
    /// `[t]` i64: the token that a position predicts if that is a reply's, else [`IGNORED`].
    pub targets: Tensor,
    /// Where each document begins.
    pub documents: Documents,
    /// `[n]` f32: the replies' log-probabilities under the reference, where they are known already.
    pub reference: Option<Tensor>,
}

impl ReplyRow {
    /// `[n]` f32: tokens of each reply.
    pub fn num_tokens(&self) -> Tensor {
        self.documents.sum(&self.of_replies())
    }

    /// `[t]` f32: 1 where a position predicts a reply's token.
    pub(crate) fn of_replies(&self) -> Tensor {
        self.targets.ge(0).to_kind(Kind::Float)
    }

    /// `[n]` f32: log π of each reply, summed over its tokens, in nats.
    ///
    /// `hidden`: `[t, d]`, what the model makes of this row; `pass`: over this row's documents.
    pub fn log_probs(&self, hidden: &Tensor, head: &Linear, pass: &Pass) -> Tensor {
        self.documents.sum(&token_log_probs(hidden, head, &self.targets, pass))
    }

    /// `[t]` i64: as `targets`, but every token behind the first is one in the documents with an even index.
    pub(crate) fn targets_of_whole_chosen(&self) -> Tensor {
        let device = self.tokens.device();
        let ids = self.documents.ids(device);
        let next = Tensor::cat(
            &[
                &self.tokens.slice(0, 1, None, 1),
                &self.tokens.new_full([1], IGNORED, (Kind::Int64, device)),
            ],
            0,
        );
        let last = self.documents.last_tokens(device);
        let next = next.index_fill(0, &last, IGNORED);
        next.where_self(&ids.remainder(2).eq(0), &self.targets)
    }
}
