//! Which tokens count.

use tch::{Kind, Tensor};

use super::IGNORED;

/// The tokens that have a target.
pub(super) struct Kept {
    num_tokens: i64,
    /// `[n]` i64 on the targets' device; none where every token counts.
    rows: Option<Tensor>,
    /// `[n]` i64.
    pub(super) targets: Tensor,
}

impl Kept {
    pub(super) fn of(targets: &Tensor, vocabulary: i64) -> Self {
        let num_tokens = targets.size()[0];
        let rows = targets.not_equal(IGNORED).nonzero().squeeze_dim(1);
        let rows = (rows.size()[0] < num_tokens).then_some(rows);
        let targets = match &rows {
            Some(rows) => targets.index_select(0, rows),
            None => targets.shallow_clone(),
        };
        let targets = targets.to_kind(Kind::Int64);
        if targets.numel() > 0 {
            let (low, high) = (targets.min().int64_value(&[]), targets.max().int64_value(&[]));
            assert!(
                low >= 0 && high < vocabulary,
                "targets from {low} to {high} do not lie in a vocabulary of {vocabulary}"
            );
        }
        Self {
            num_tokens,
            rows,
            targets,
        }
    }

    /// n.
    pub(super) fn len(&self) -> usize {
        self.targets.numel()
    }

    /// The rows that count, `[t, ..]` to `[n, ..]`.
    pub(super) fn gather(&self, all: &Tensor) -> Tensor {
        match &self.rows {
            Some(rows) => all.index_select(0, rows),
            None => all.contiguous(),
        }
    }

    /// The rows put where they came from, `[n, ..]` to `[t, ..]`, zeros between them.
    pub(super) fn spread(&self, kept: &Tensor) -> Tensor {
        let Some(rows) = &self.rows else {
            return kept.shallow_clone();
        };
        let mut size = kept.size();
        size[0] = self.num_tokens;
        Tensor::zeros(size, (kept.kind(), kept.device())).index_copy_(0, rows, kept)
    }
}
