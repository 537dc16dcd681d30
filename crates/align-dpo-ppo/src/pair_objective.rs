//! The DPO family as an objective over packed rows of pairs.
//!
//! A row holds two documents a pair; their log-probabilities are sums over segments of one pass through the model.
//! Deviations from TRL: dropout is what the model's layers say (TRL switches it off), and a row's metrics are means over
//! pairs, `logits/*` over each reply first.
//!
//! Shapes: t tokens, n pairs, v vocabulary, d model width.

use tch::{Kind, Tensor};
use tensor_core::{Documents, Error as CoreError, Linear, Loss, ModelPass, ModulePath, Objective};

use crate::preference::{LossType, Pairs, PreferenceConfig, Side, Strength, listed};
use crate::{Error, Reference, ReplyRow, Result};

/// What `sft` and `orpo` learn of the better document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likelihood {
    /// Its reply.
    Reply,
    /// All of it, prompt included: what ORPO's authors compute.
    Document,
}

/// Losses over pairs of replies, summed over the pairs.
#[derive(Debug)]
pub struct Preference {
    terms: Vec<(LossType, f64)>,
    strength: Strength,
    likelihood: Likelihood,
    reference: Option<Reference>,
}

impl Preference {
    /// The losses of `config`. A reference that none of them needs is let go.
    ///
    /// Errors: what [`PreferenceConfig::terms`] refuses; a loss that needs a reference where there is none.
    pub fn new(config: &PreferenceConfig, likelihood: Likelihood, reference: Option<Reference>) -> Result<Self> {
        let (terms, strength) = config.terms()?;
        let needs = terms.iter().any(|(loss, _)| loss.needs_reference());
        if needs && reference.is_none() {
            let losses: Vec<LossType> = terms.iter().map(|(loss, _)| *loss).collect();
            return Err(Error::NoReference {
                losses: listed(&losses),
                hint: "give one, or use `simpo`, `orpo` or `sft`",
            });
        }
        Ok(Self {
            terms,
            strength,
            likelihood,
            reference: reference.filter(|_| needs),
        })
    }

    /// What the losses are functions of, with a graph to the policy; and the hidden states `[t, d]`.
    fn pairs(&self, policy: &ModelPass, row: &ReplyRow) -> tensor_core::Result<(Pairs, Tensor)> {
        let documents = &row.documents;
        if !documents.len().is_multiple_of(2) {
            return Err(CoreError::Shape {
                at: ModulePath::from("documents of pairs"),
                wanted: vec![documents.len() as i64 + 1],
                found: vec![documents.len() as i64],
            });
        }
        // Before the policy's own pass, whose graph would lie beside it.
        let reference = self
            .reference
            .as_ref()
            .map(|reference| reference.log_probs(policy, row))
            .transpose()?;
        let hidden = policy.hidden(&row.tokens, documents);
        let pass = policy.pass(documents);
        let num_tokens = row.num_tokens();
        let (log_probs, chosen_nll) = match self.likelihood {
            Likelihood::Reply => (row.log_probs(&hidden, policy.head(), &pass), None),
            Likelihood::Document => {
                let targets = row.targets_of_whole_chosen();
                let each = decoder::loss::token_log_probs(&hidden, policy.head(), &targets, &pass);
                let count = documents.sum(&targets.ge(0).to_kind(Kind::Float));
                let nll = -documents.sum(&each) / count.clamp_min(1.0);
                (documents.sum(&(each * row.of_replies())), Some(of_side(&nll, 0)))
            }
        };
        let side = |part: i64| {
            let side = Side::new(of_side(&log_probs, part), of_side(&num_tokens, part));
            match &reference {
                Some(reference) => side.with_reference(&of_side(&reference.to_device(log_probs.device()), part)),
                None => side,
            }
        };
        let pairs = Pairs::new(side(0), side(1));
        let pairs = match chosen_nll {
            Some(nll) => pairs.with_chosen_nll(nll),
            None => pairs,
        };
        Ok((pairs, hidden))
    }

    /// TRL's metrics, summed over the pairs.
    fn metrics(&self, pairs: &Pairs, mean_logits: &Tensor) -> Vec<(&'static str, f64)> {
        let sum = |x: &Tensor| x.sum(Kind::Double).double_value(&[]);
        let compared = self
            .terms
            .iter()
            .map(|(loss, _)| *loss)
            .find(|loss| loss.needs_reference());
        let (chosen, rejected) = compared.unwrap_or(self.terms[0].0).rewards(pairs, self.strength.beta);
        let mut metrics = Pairs::reward_sums((&chosen, &rejected)).to_vec();
        let log_prob = |side: &Side| match compared {
            Some(_) => sum(&side.log_prob),
            None => sum(&side.mean_log_prob()),
        };
        metrics.extend([
            ("logps/chosen", log_prob(&pairs.chosen)),
            ("logps/rejected", log_prob(&pairs.rejected)),
            ("logits/chosen", sum(&of_side(mean_logits, 0))),
            ("logits/rejected", sum(&of_side(mean_logits, 1))),
        ]);
        if self
            .terms
            .iter()
            .any(|(loss, _)| matches!(loss, LossType::Orpo | LossType::Sft))
        {
            metrics.push(("nll_loss", sum(&pairs.chosen_nll)));
        }
        if self.terms.iter().any(|(loss, _)| *loss == LossType::Orpo) {
            let odds = |side: &Side| crate::preference::log_odds(&side.mean_log_prob());
            let ratio = odds(&pairs.chosen) - odds(&pairs.rejected);
            metrics.extend([
                ("log_odds_ratio", sum(&ratio.log_sigmoid())),
                ("log_odds_chosen", sum(&ratio)),
            ]);
        }
        metrics
    }
}

impl Objective for Preference {
    type Batch = ReplyRow;

    fn weight(&self, row: &ReplyRow) -> f64 {
        row.documents.len() as f64 / 2.0
    }

    fn loss(&self, policy: &ModelPass, row: &ReplyRow) -> tensor_core::Result<Loss> {
        let (pairs, hidden) = self.pairs(policy, row)?;
        let weighed = self
            .terms
            .iter()
            .map(|(loss, weight)| loss.of_pairs(&pairs, &self.strength) * *weight);
        let each: Tensor = weighed
            .reduce(|sum, term| sum + term)
            .expect("the configuration has a loss");
        let metrics = tch::no_grad(|| {
            let mean_logits = mean_logits(&hidden, policy.head(), row);
            self.metrics(&pairs, &mean_logits)
        });
        Ok(Loss {
            metrics,
            ..Loss::of(each.sum(Kind::Float))
        })
    }
}

/// Of `[2 n]` numbers of documents, the better (`part` 0) or worse ones: `[n]`.
fn of_side(of_documents: &Tensor, part: i64) -> Tensor {
    of_documents.view([-1, 2]).select(1, part)
}

/// The mean logit where each reply is predicted, over the vocabulary and the reply: one number a document, f32.
///
/// The mean over the vocabulary of `W h` is `mean(W) h`, so no logits are made.
pub(crate) fn mean_logits(hidden: &Tensor, head: &Linear, row: &ReplyRow) -> Tensor {
    let direction = head
        .projection()
        .weight()
        .mean_dim([0i64].as_slice(), false, Kind::Float);
    let mut each = hidden.to_kind(Kind::Float).mv(&direction);
    if let Some(bias) = head.bias() {
        each += bias.value().mean(Kind::Float);
    }
    let documents: &Documents = &row.documents;
    documents.sum(&(each * row.of_replies())) / row.num_tokens().clamp_min(1.0)
}
