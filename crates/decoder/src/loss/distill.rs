//! Distillation: what a teacher thinks of every next token, not only of the right one.
//!
//! `L = (1 - a) T² Σ KL(p ‖ q) + a · CE`, with `p = softmax(teacher / T)`, `q = softmax(student / T)` over the positions that
//! have a target, and CE the cross-entropy of the targets. The logits of a few positions exist at a time; their gradient
//! is taken at once.
//!
//! Source: Hinton et al. 2015, arXiv:1503.02531, section 2; for pruned language models Muralidharan et al. 2024,
//! arXiv:2407.14679. Deviation: none. Shapes: t tokens, v vocabulary.

use std::cell::Cell;

use tch::{Kind, Tensor};
use tensor_core::{Checkpointing, CheckpointingPolicy, LanguageModel, Loss, ModelPass, Objective, Pass, Result};

use super::{TokenRow, chunked, expect_shape, positions};

/// Positions whose logits, of both models, exist at once.
const CHUNK: i64 = 128;

/// Learning from a teacher, which is not changed. Summed, in nats; `kl` counts the divergence at the temperature.
pub struct Distillation<'t> {
    teacher: &'t dyn LanguageModel,
    plan: CheckpointingPolicy,
    temperature: f64,
    alpha: f64,
}

impl<'t> Distillation<'t> {
    /// From `teacher`, of the student's vocabulary; `alpha` is the share of the targets' own cross-entropy.
    pub fn new(teacher: &'t dyn LanguageModel, temperature: f64, alpha: f64) -> Self {
        Self {
            teacher,
            plan: CheckpointingPolicy::uniform(Checkpointing::Keep, teacher.num_blocks()),
            temperature,
            alpha,
        }
    }

    /// The divergence of some positions, `[m, v]` logits each: a scalar.
    fn divergence(&self, theirs: &Tensor, ours: &Tensor) -> Tensor {
        let log = |logits: &Tensor| (logits / self.temperature).log_softmax(-1, Kind::Float);
        let (p, q) = (tch::no_grad(|| log(theirs)), log(ours));
        (p.exp() * (&p - q)).sum(Kind::Float)
    }
}

impl Objective for Distillation<'_> {
    type Batch = TokenRow;

    fn weight(&self, row: &TokenRow) -> f64 {
        row.targets.ge(0).sum(Kind::Int64).int64_value(&[]) as f64
    }

    fn loss(&self, policy: &ModelPass, row: &TokenRow) -> Result<Loss> {
        let TokenRow {
            tokens,
            targets,
            documents,
        } = row;
        expect_shape("tokens", tokens, &[documents.num_tokens() as i64])?;
        expect_shape("targets", targets, &tokens.size())?;
        let theirs = ModelPass::evaluate(self.teacher, &self.plan).hidden(tokens, documents);
        let hidden = policy.hidden(tokens, documents);
        let wanted = positions(targets);
        let kl = Cell::new(0.0);
        let of = |rows: &Tensor, chunk: &Tensor, pass: &Pass| {
            let teacher = tch::no_grad(|| {
                let rows = theirs.index_select(0, chunk);
                let pass = Pass::evaluate(pass.documents());
                self.teacher.head().forward(&rows, &pass).to_kind(Kind::Float)
            });
            let student = policy.head().forward(rows, pass).to_kind(Kind::Float);
            let divergence = self.divergence(&teacher, &student);
            kl.set(kl.get() + divergence.double_value(&[]));
            let soft = divergence * ((1.0 - self.alpha) * self.temperature * self.temperature);
            if self.alpha == 0.0 {
                return soft;
            }
            let right = targets.index_select(0, chunk).unsqueeze(1);
            let each = student.log_softmax(-1, Kind::Float).gather(1, &right, false);
            soft - each.sum(Kind::Float) * self.alpha
        };
        let sum = chunked(&hidden, policy.head(), &wanted, CHUNK, &policy.pass(documents), &of);
        Ok(Loss {
            sum,
            metrics: vec![("kl", kl.get())],
            ratios: vec![],
        })
    }
}
