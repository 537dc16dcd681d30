//! Losses over what a head says of hidden states: the next token's cross-entropy, log-probabilities, labels.
//!
//! Shapes: t tokens, d model width, v vocabulary, n documents. `targets[i]` is the token that position i shall predict,
//! or [`IGNORED`]. The logits `[t, v]` never exist: a plain head goes through the fused kernels, any other one (packed,
//! or with an adapter) is run over a chunk of positions at a time, and each chunk's gradients are taken at once.

mod distill;

use tch::{Kind, Tensor};
use tensor_core::{
    Documents, Error, Linear, Loss, ModelPass, ModulePath, Objective, Param, Parameters, Pass, Result, autograd,
};

pub use distill::Distillation;
/// The target of a position that is not trained.
pub use kernels::cross_entropy::IGNORED;

/// Positions whose logits exist at once on the generic path.
const CHUNK: i64 = 256;

/// One row for next-token prediction.
#[derive(Debug)]
pub struct TokenRow {
    /// `[t]` i64
    pub tokens: Tensor,
    /// `[t]` i64: what each position shall predict, [`IGNORED`] where nothing.
    pub targets: Tensor,
    /// Where each document begins.
    pub documents: Documents,
}

/// One row for classification.
#[derive(Debug)]
pub struct LabelledRow {
    /// `[t]` i64
    pub tokens: Tensor,
    /// `[n]` i64: each document's class.
    pub labels: Tensor,
    /// Where each document begins.
    pub documents: Documents,
}

/// Supervised fine-tuning: the cross-entropy of the targets, summed, in nats.
#[derive(Clone, Copy, Debug, Default)]
pub struct SupervisedLoss;

impl Objective for SupervisedLoss {
    type Batch = TokenRow;

    fn weight(&self, row: &TokenRow) -> f64 {
        row.targets.ge(0).sum(Kind::Int64).int64_value(&[]) as f64
    }

    fn loss(&self, policy: &ModelPass, row: &TokenRow) -> Result<Loss> {
        let sum = language_model_loss(policy, &row.tokens, &row.targets, &row.documents)?;
        Ok(Loss::of(sum))
    }
}

/// Classification: the cross-entropy of each document's label, summed, in nats; `accuracy` counts the right ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClassificationLoss;

impl Objective for ClassificationLoss {
    type Batch = LabelledRow;

    fn weight(&self, row: &LabelledRow) -> f64 {
        row.documents.len() as f64
    }

    fn loss(&self, policy: &ModelPass, row: &LabelledRow) -> Result<Loss> {
        let logits = label_logits(policy, &row.tokens, &row.documents)?;
        expect_shape("labels", &row.labels, &[row.documents.len() as i64])?;
        let log_probs = logits.log_softmax(-1, Kind::Float);
        let sum = -log_probs.gather(1, &row.labels.unsqueeze(1), false).sum(Kind::Float);
        let right = logits.argmax(-1, false).eq_tensor(&row.labels).sum(Kind::Int64);
        Ok(Loss {
            metrics: vec![("accuracy", right.int64_value(&[]) as f64)],
            ..Loss::of(sum)
        })
    }
}

/// What a classification or scalar head says at each document's last token, differentiably: `[n, labels]` f32.
pub fn label_logits(policy: &ModelPass, tokens: &Tensor, documents: &Documents) -> Result<Tensor> {
    expect_shape("tokens", tokens, &[documents.num_tokens() as i64])?;
    let hidden = policy.hidden(tokens, documents);
    let last = hidden.index_select(0, &documents.last_tokens(hidden.device()));
    let ones = documents.one_token_each();
    Ok(policy.head().forward(&last, &policy.pass(&ones)).to_kind(Kind::Float))
}

/// The summed cross-entropy in nats of a row's targets: a scalar f32 with a graph to the hidden states and the head.
///
/// Errors: tokens or targets that are not one a position of `documents`.
pub fn language_model_loss(
    policy: &ModelPass,
    tokens: &Tensor,
    targets: &Tensor,
    documents: &Documents,
) -> Result<Tensor> {
    expect_shape("tokens", tokens, &[documents.num_tokens() as i64])?;
    expect_shape("targets", targets, &tokens.size())?;
    let hidden = policy.hidden(tokens, documents);
    Ok(cross_entropy(&hidden, policy.head(), targets, &policy.pass(documents)))
}

/// The summed cross-entropy in nats of `targets` (`[t]` i64) under `head` over `hidden` (`[t, d]`): a scalar f32.
pub fn cross_entropy(hidden: &Tensor, head: &Linear, targets: &Tensor, pass: &Pass) -> Tensor {
    match plain_weight(head) {
        Some(weight) => kernels::linear_cross_entropy(hidden, &weight.cast(hidden.kind()), targets),
        None => chunked_cross_entropy(hidden, head, targets, pass),
    }
}

/// The log-probability in nats of each target (`[t]` i64) under `head` over `hidden` (`[t, d]`): `[t]` f32, 0 where
/// ignored, with a graph where one is recorded.
///
/// With a trained head that is not plain, the graph holds the logits of the targets' positions.
pub fn token_log_probs(hidden: &Tensor, head: &Linear, targets: &Tensor, pass: &Pass) -> Tensor {
    if let Some(weight) = plain_weight(head) {
        return kernels::token_log_probs(hidden, &weight.cast(hidden.kind()), targets);
    }
    let wanted = positions(targets);
    let (rows, targets_there) = (hidden.index_select(0, &wanted), targets.index_select(0, &wanted));
    let each: Vec<Tensor> = chunks(wanted.size()[0], CHUNK)
        .map(|(start, length)| {
            let part = |x: &Tensor| x.narrow(0, start, length);
            let there = pass.documents().at(&part(&wanted));
            log_probs(&part(&rows), head, &part(&targets_there), &pass.over(&there))
        })
        .collect();
    let zeros = Tensor::zeros(targets.size(), (Kind::Float, hidden.device()));
    if each.is_empty() {
        return zeros;
    }
    zeros.index_put(&[Some(wanted)], &Tensor::cat(&each, 0), false)
}

/// The head's weight if it is one plain matrix without a bias, which the fused kernels read.
fn plain_weight(head: &Linear) -> Option<Param> {
    let projection = head.projection();
    let mut params = Vec::new();
    head.visit(&ModulePath::root(), &mut |_, param| params.push(param.share()));
    let [param] = <[Param; 1]>::try_from(params).ok()?;
    let floating = matches!(param.value().kind(), Kind::Float | Kind::BFloat16 | Kind::Half);
    (floating && projection.weight().data_ptr() == param.value().data_ptr()).then_some(param)
}

/// `[m]` f32 log-probabilities of `targets` (`[m]`) over `rows` (`[m, d]`).
fn log_probs(rows: &Tensor, head: &Linear, targets: &Tensor, pass: &Pass) -> Tensor {
    let logits = head.forward(rows, pass).to_kind(Kind::Float);
    let each = logits
        .log_softmax(-1, Kind::Float)
        .gather(1, &targets.unsqueeze(1), false);
    each.squeeze_dim(1)
}

fn chunked_cross_entropy(hidden: &Tensor, head: &Linear, targets: &Tensor, pass: &Pass) -> Tensor {
    let of = |rows: &Tensor, chunk: &Tensor, pass: &Pass| {
        -log_probs(rows, head, &targets.index_select(0, chunk), pass).sum(Kind::Float)
    };
    chunked(hidden, head, &positions(targets), CHUNK, pass, &of)
}

/// The positions that have a target, `[n]` i64.
fn positions(targets: &Tensor) -> Tensor {
    targets.ge(0).nonzero().squeeze_dim(1)
}

/// A scalar of some rows of hidden states, their positions, and a pass over these.
type OfChunk<'o> = dyn Fn(&Tensor, &Tensor, &Pass) -> Tensor + 'o;

/// The sum of `of` over the positions `wanted`, `length` of them at a time.
///
/// Each chunk's gradients are taken as soon as its loss is known, at scale 1, and scaled in the backward pass: the sum
/// is linear in its gradient.
fn chunked(hidden: &Tensor, head: &Linear, wanted: &Tensor, length: i64, pass: &Pass, of: &OfChunk) -> Tensor {
    let mut trained: Vec<Tensor> = Vec::new();
    head.visit(&ModulePath::root(), &mut |_, param| {
        if param.is_trainable() {
            trained.push(param.value().shallow_clone());
        }
    });
    let leaves: Vec<&Tensor> = std::iter::once(hidden).chain(&trained).collect();
    let records = autograd::wants(&leaves);
    let mut sum = Tensor::zeros([], (Kind::Float, hidden.device()));
    let mut gradients: Vec<Option<Tensor>> = leaves.iter().map(|_| None).collect();
    for (start, length) in chunks(wanted.size()[0], length) {
        let chunk = wanted.narrow(0, start, length);
        let rows = tch::no_grad(|| hidden.index_select(0, &chunk)).set_requires_grad(records);
        let there = pass.documents().at(&chunk);
        let loss = of(&rows, &chunk, &pass.over(&there));
        sum += loss.detach();
        if !records {
            continue;
        }
        let inputs: Vec<&Tensor> = std::iter::once(&rows).chain(&trained).collect();
        let mut found = Tensor::run_backward(&[&loss], &inputs, false, false);
        let to_rows = found.remove(0);
        tch::no_grad(|| {
            let whole = gradients[0].get_or_insert_with(|| hidden.zeros_like());
            let _ = whole.index_add_(0, &chunk, &to_rows);
            for (total, found) in gradients[1..].iter_mut().zip(found) {
                if found.defined() {
                    match total {
                        Some(total) => *total += found,
                        None => *total = Some(found),
                    }
                }
            }
        });
    }
    if !records {
        return sum;
    }
    autograd::attach(&leaves, sum, move |scale| {
        let scaled = |gradient: Tensor| scale.as_ref().map(|scale| &gradient * scale.to_kind(gradient.kind()));
        gradients
            .into_iter()
            .map(|gradient| gradient.and_then(&scaled))
            .collect()
    })
}

/// Starts and lengths of chunks of at most `most` over `total` positions.
fn chunks(total: i64, most: i64) -> impl Iterator<Item = (i64, i64)> {
    let starts = (0..total).step_by(most as usize);
    starts.map(move |start| (start, most.min(total - start)))
}

fn expect_shape(what: &str, tensor: &Tensor, wanted: &[i64]) -> Result<()> {
    if tensor.size() == wanted {
        return Ok(());
    }
    Err(Error::Shape {
        at: ModulePath::from(what),
        wanted: wanted.to_vec(),
        found: tensor.size(),
    })
}
