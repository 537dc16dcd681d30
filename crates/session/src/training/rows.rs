//! What each objective reads of a step's packed rows, as tensors.
//!
//! Shapes: t tokens of a row, n documents.

use std::cell::Cell;
use std::rc::Rc;

use align_dpo_ppo::{Mismatched, ReplyRow, ScoredRow, SingleRow};
use data::{DocumentId, Packed, best_fit};
use decoder::loss::{IGNORED, LabelledRow, TokenRow};
use events::Events;
use tch::{Device, Tensor};
use tensor_core::Documents;

/// What rows are made with besides tokens.
#[derive(Clone, Debug)]
pub struct RowContext {
    /// Where tensors lie.
    pub device: Device,
    /// The most tokens of a document.
    pub max_length: usize,
    /// The most tokens of a packed row.
    pub max_tokens: usize,
    /// By set, the log-probability of each sample's two replies under the reference; empty if not known.
    pub known: Rc<Vec<Vec<f32>>>,
    /// By set, by how much each sample's better reply is better; empty where the rows do not say.
    pub margins: Rc<Vec<Vec<f32>>>,
    /// Whether it was told that a prompt of KTO's baseline meets its own reply: once is enough.
    pub told: Rc<Cell<bool>>,
    /// Where that is told.
    pub events: Events,
}

/// What an objective reads of a packed row.
pub trait ToRow: Sized + 'static {
    /// As tensors.
    fn of(packed: &Packed, context: &RowContext) -> Self;

    /// All rows of a step.
    fn of_step(packed: &[Packed], context: &RowContext) -> Vec<Self> {
        packed.iter().map(|row| Self::of(row, context)).collect()
    }

    /// Its tokens and documents.
    fn input(&self) -> (&Tensor, &Documents);
}

impl RowContext {
    fn numbers(&self, numbers: &[i64]) -> Tensor {
        Tensor::from_slice(numbers).to_device(self.device)
    }

    /// By how much the better reply of each pair is better; none where no row of any set says it.
    fn margins_of(&self, documents: &[DocumentId]) -> Option<Tensor> {
        if self.margins.iter().all(Vec::is_empty) {
            return None;
        }
        let of = |pair: &[DocumentId]| self.margins[pair[0].set].get(pair[0].sample).copied().unwrap_or(0.0);
        let margins: Vec<f32> = documents.chunks_exact(2).map(of).collect();
        Some(Tensor::from_slice(&margins).to_device(self.device))
    }

    /// What is known of these documents.
    fn known_of(&self, documents: &[DocumentId]) -> Option<Tensor> {
        if self.known.is_empty() {
            return None;
        }
        let of = |id: &DocumentId| self.known[id.set][2 * id.sample + id.part];
        let known: Vec<f32> = documents.iter().map(of).collect();
        Some(Tensor::from_slice(&known).to_device(self.device))
    }
}

impl ToRow for TokenRow {
    fn of(packed: &Packed, context: &RowContext) -> Self {
        Self {
            tokens: context.numbers(&packed.tokens),
            targets: context.numbers(&packed.targets),
            documents: Documents::new(&packed.lengths),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

impl ToRow for LabelledRow {
    fn of(packed: &Packed, context: &RowContext) -> Self {
        // Sets without labels are refused when they are read.
        let labels = packed
            .documents
            .iter()
            .map(|document| document.label.unwrap_or_default());
        Self {
            tokens: context.numbers(&packed.tokens),
            labels: context.numbers(&labels.collect::<Vec<_>>()),
            documents: Documents::new(&packed.lengths),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

impl ToRow for ReplyRow {
    fn of(packed: &Packed, context: &RowContext) -> Self {
        Self {
            tokens: context.numbers(&packed.tokens),
            targets: context.numbers(&packed.targets),
            documents: Documents::new(&packed.lengths),
            reference: context.known_of(&packed.documents),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

impl ToRow for ScoredRow {
    fn of(packed: &Packed, context: &RowContext) -> Self {
        Self {
            tokens: context.numbers(&packed.tokens),
            documents: Documents::new(&packed.lengths),
            margin: context.margins_of(&packed.documents),
        }
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.tokens, &self.documents)
    }
}

impl ToRow for SingleRow {
    fn of(packed: &Packed, context: &RowContext) -> Self {
        // Of a pair, the better reply is a good one.
        let desirable: Vec<bool> = packed
            .documents
            .iter()
            .map(|id| id.label.map_or(id.part == 0, |label| label == 1))
            .collect();
        Self {
            replies: ReplyRow::of(packed, context),
            desirable: Tensor::from_slice(&desirable).to_device(context.device),
            mismatched: Rc::default(),
        }
    }

    fn of_step(packed: &[Packed], context: &RowContext) -> Vec<Self> {
        let mismatched = Rc::new(Mismatched::new(mismatched(packed, context)));
        let rows = packed.iter().map(|row| Self {
            mismatched: mismatched.clone(),
            ..Self::of(row, context)
        });
        rows.collect()
    }

    fn input(&self) -> (&Tensor, &Documents) {
        (&self.replies.tokens, &self.replies.documents)
    }
}

/// Tokens and targets.
type Document = (Vec<i64>, Vec<i64>);

/// A document's place in its step, its part of the sample, prompt and reply.
type Exchange<'a> = (usize, usize, &'a [i64], &'a [i64]);

/// Each prompt of a step with the last reply of the sample before it (the first one's with the last one's), cut to
/// `max_length` and packed anew: the order is the step's, however it was packed. None where the step has one sample: its
/// baseline is 0.
fn mismatched(packed: &[Packed], context: &RowContext) -> Vec<ReplyRow> {
    let mut exchanges: Vec<Exchange> = Vec::new();
    for row in packed {
        let mut from = 0;
        for (id, &length) in row.documents.iter().zip(&row.lengths) {
            let (tokens, targets) = (&row.tokens[from..from + length], &row.targets[from..from + length]);
            let last_of_prompt = targets
                .iter()
                .position(|&target| target != IGNORED)
                .unwrap_or(length - 1);
            let (prompt, reply) = tokens.split_at(last_of_prompt + 1);
            exchanges.push((id.place, id.part, prompt, reply));
            from += length;
        }
    }
    exchanges.sort_unstable_by_key(|&(place, part, ..)| (place, part));
    let count = exchanges.len();
    let mut same = 0;
    let documents: Vec<Document> = (0..count)
        .filter_map(|idx| {
            let (place, _, prompt, own) = exchanges[idx];
            let mut before = (1..count).map(|back| exchanges[(idx + count - back) % count]);
            let (_, _, _, reply) = before.find(|(other, ..)| *other != place)?;
            same += usize::from(reply == own);
            let mut tokens = [prompt, reply].concat();
            tokens.truncate(context.max_length.max(prompt.len() + 1));
            let target = |at: usize| match tokens.get(at + 1) {
                Some(&next) if at + 1 >= prompt.len() => next,
                _ => IGNORED,
            };
            let targets = (0..tokens.len()).map(target).collect();
            Some((tokens, targets))
        })
        .collect();
    if (documents.is_empty() || same > 0) && !context.told.replace(true) {
        context.events.note(|| if documents.is_empty() {
            "KTO: a step has a single sample, so no prompt meets another one's reply, and the step's baseline is 0"
                .to_owned()
        } else {
            format!(
                "KTO: {same} of {count} prompts of a step meet their own reply, since the sample before has the same: the baseline is measured on what is learnt"
            )
        });
    }
    let lengths: Vec<usize> = documents.iter().map(|(tokens, _)| tokens.len()).collect();
    best_fit(&lengths, context.max_tokens)
        .into_iter()
        .map(|items| {
            let all = |part: fn(&Document) -> &[i64]| {
                let numbers: Vec<i64> = items.iter().flat_map(|&item| part(&documents[item])).copied().collect();
                context.numbers(&numbers)
            };
            ReplyRow {
                tokens: all(|document| &document.0),
                targets: all(|document| &document.1),
                documents: Documents::new(&items.iter().map(|&item| lengths[item]).collect::<Vec<_>>()),
                reference: None,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use data::Tokenized;

    use super::*;

    fn packed(documents: &[(usize, &[u32], usize)]) -> Packed {
        let mut row = Packed::default();
        for &(place, tokens, prompt) in documents {
            let trained = (0..tokens.len()).map(|at| at >= prompt).collect();
            let document = Tokenized {
                tokens: tokens.to_vec(),
                trained,
            };
            let id = DocumentId {
                set: 0,
                sample: 9,
                part: 0,
                place,
                label: Some(1),
            };
            row.push(&document, id);
        }
        row
    }

    fn numbers(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor).unwrap()
    }

    #[test]
    fn each_prompt_meets_the_reply_before_it_however_the_step_is_packed() {
        let context = RowContext {
            device: Device::Cpu,
            max_length: 4,
            max_tokens: 99,
            known: Rc::default(),
            margins: Rc::default(),
            told: Rc::default(),
            events: Events::none(),
        };
        let (a, b, c): (&[u32], &[u32], &[u32]) = (&[1, 2, 11, 12, 13], &[3, 21], &[4, 5, 6, 31]);
        let step = [packed(&[(0, a, 2), (1, b, 1)]), packed(&[(2, c, 3)])];
        let rows = mismatched(&step, &context);
        assert_eq!(rows.len(), 1);
        // The reply 11 12 13 behind the prompt 3 fills four tokens; the prompt 4 5 6 leaves room for 21.
        assert_eq!(numbers(&rows[0].tokens), [1, 2, 31, 3, 11, 12, 13, 4, 5, 6, 21]);
        assert_eq!(
            numbers(&rows[0].targets),
            [-100, 31, -100, 11, 12, 13, -100, -100, -100, 21, -100]
        );
        assert_eq!(rows[0].documents.offsets(), [0, 3, 7, 11]);
        let other = [packed(&[(2, c, 3), (0, a, 2)]), packed(&[(1, b, 1)])];
        let again = mismatched(&other, &context);
        assert_eq!(numbers(&again[0].tokens), numbers(&rows[0].tokens));
        // A sample's second reply is another answer to the same prompt; and a single sample has no other prompt.
        let mut pair = packed(&[(0, a, 2), (0, &[1, 2, 14], 2), (1, b, 1)]);
        pair.documents[1].part = 1;
        assert_eq!(
            numbers(&mismatched(&[pair], &context)[0].tokens),
            [1, 2, 21, 1, 2, 21, 3, 14]
        );
        assert!(!context.told.get());
        assert!(mismatched(&[packed(&[(0, a, 2)])], &context).is_empty() && context.told.get());
        assert_eq!(
            mismatched(
                &step,
                &RowContext {
                    max_tokens: 7,
                    ..context
                }
            )
            .len(),
            2
        );
    }
}
