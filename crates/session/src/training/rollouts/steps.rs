//! The steps of a run over rollouts: which prompts, which rollout, which of its replies.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use align_dpo_ppo::rollout::{Episode, PolicyRow};
use anyhow::Result;
use data::{Arrange, MixStrategy, Mixture, Part, best_fit};
use methods::recipe::Recipe;
use tch::Tensor;
use tensor_core::Documents;
use train::{Batches, BoxError, Row};

use super::prompts::{Prompt, PromptSet};
use super::record::{Records, Rollout};
use super::writer::Writer;

/// Steps over rollouts that are written when their first step comes.
pub(super) struct Steps<'a> {
    sets: &'a [PromptSet],
    mixture: Mixture,
    writer: &'a Writer<'a>,
    records: &'a Records,
    replies_per_step: usize,
    max_tokens: usize,
    now: RefCell<Option<Rc<Rollout>>>,
    done: Cell<usize>,
}

impl<'a> Steps<'a> {
    /// Prompts mixed as the recipe says.
    pub(super) fn new(
        sets: &'a [PromptSet],
        recipe: &Recipe,
        writer: &'a Writer<'a>,
        records: &'a Records,
    ) -> Result<Self> {
        let parts: Vec<Part> = sets
            .iter()
            .zip(&recipe.data.train)
            .map(|(set, source)| Part {
                len: set.prompts.len(),
                weight: source.weight,
                max_samples: None,
            })
            .collect();
        Ok(Self {
            mixture: Mixture::new(&parts, recipe.data.mix_strategy, Arrange::Shuffled, recipe.train.seed)?,
            sets,
            writer,
            records,
            replies_per_step: recipe.train.documents_per_step(),
            max_tokens: recipe.data.max_tokens,
            now: RefCell::default(),
            done: Cell::default(),
        })
    }

    fn steps_per_rollout(&self) -> usize {
        self.writer.method.steps_per_rollout()
    }

    fn replies_per_rollout(&self) -> usize {
        self.replies_per_step * self.writer.method.mini_batches()
    }

    fn prompts_per_rollout(&self) -> usize {
        self.replies_per_rollout() / self.writer.method.group()
    }

    /// The prompts of a rollout: the next ones of an endless row of epochs.
    fn prompts(&self, number: usize) -> Vec<&'a Prompt> {
        let (count, length) = (self.prompts_per_rollout(), self.mixture.epoch_len());
        let mut epoch = None;
        (number * count..(number + 1) * count)
            .map(|at| {
                let wanted = at / length;
                if epoch.as_ref().is_none_or(|(known, _)| *known != wanted) {
                    epoch = Some((wanted, self.mixture.order(wanted)));
                }
                let pick = epoch
                    .as_ref()
                    .map(|(_, order)| order[at % length])
                    .expect("an epoch was drawn");
                &self.sets[pick.set as usize].prompts[pick.sample as usize]
            })
            .collect()
    }

    /// Rollout `number`, from memory, from disk, or written now.
    fn rollout(&self, number: usize) -> Result<Rc<Rollout>> {
        if let Some(now) = self.now.borrow().as_ref().filter(|now| now.about.rollout == number) {
            return Ok(now.clone());
        }
        let found = if self.records.has(number) {
            self.records.read(number)?
        } else {
            let price = match number.checked_sub(1) {
                None => self.writer.method.first_price(),
                Some(before) => self.rollout(before)?.about.next_kl_coef,
            };
            let rollout = self.writer.write(number, &self.prompts(number), price)?;
            self.records.write(&rollout)?
        };
        let found = Rc::new(found);
        *self.now.borrow_mut() = Some(found.clone());
        Ok(found)
    }

    /// Which replies of its rollout a step learns from: each pass has them in an order of its own.
    fn part(&self, step: usize) -> Result<Vec<usize>> {
        let (pass, batch) = (
            step / self.writer.method.mini_batches(),
            step % self.writer.method.mini_batches(),
        );
        let all = Part {
            len: self.replies_per_rollout(),
            weight: 1.0,
            max_samples: None,
        };
        let order = Mixture::new(&[all], MixStrategy::Concat, Arrange::Shuffled, self.writer.seed)?.order(pass);
        let part = order
            .iter()
            .skip(batch * self.replies_per_step)
            .take(self.replies_per_step);
        Ok(part.map(|pick| pick.sample as usize).collect())
    }

    fn step(&self, step: usize) -> Result<Vec<Row<PolicyRow>>> {
        let rollout = self.rollout(step / self.steps_per_rollout())?;
        self.done.set(step + 1);
        let episodes: Vec<&Episode> = self
            .part(step)?
            .into_iter()
            .map(|idx| &rollout.replies[idx].episode)
            .collect();
        let lengths: Vec<usize> = episodes.iter().map(|episode| episode.len()).collect();
        let (scale, device) = (self.writer.method.scale(), self.writer.model.device());
        let row = |items: Vec<usize>| {
            let together: Vec<&Episode> = items.iter().map(|&item| episodes[item]).collect();
            Row {
                num_tokens: items.iter().map(|&item| lengths[item]).sum(),
                batch: PolicyRow::new(&together, scale, device),
            }
        };
        Ok(best_fit(&lengths, self.max_tokens).into_iter().map(row).collect())
    }

    /// After a step: the facts of its rollout; the reference moves if its time has come.
    pub(super) fn end(&self) -> Vec<(String, f64)> {
        if let (Some(reference), Some(moving)) = (self.writer.reference, self.writer.method.moving())
            && self.done.get().is_multiple_of(moving.ref_model_sync_steps)
        {
            reference.follow();
        }
        let now = self.now.borrow();
        now.iter()
            .flat_map(|now| now.facts.iter().map(|(name, value)| (name.clone(), *value)))
            .collect()
    }

    /// What moves besides the model.
    pub(super) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.writer
            .reference
            .map(align_dpo_ppo::Reference::tensors)
            .unwrap_or_default()
    }
}

impl Batches<PolicyRow> for Steps<'_> {
    fn num_steps_per_epoch(&self) -> usize {
        (self.mixture.epoch_len() / self.prompts_per_rollout()).max(1) * self.steps_per_rollout()
    }

    fn rows(&self, step: usize) -> Result<Vec<Row<PolicyRow>>, BoxError> {
        Ok(self.step(step)?)
    }

    fn longest_row(&self) -> usize {
        let prompts = self.sets.iter().flat_map(|set| &set.prompts);
        let longest =
            prompts.map(|prompt| prompt.tokens.len()).max().unwrap_or(0) + self.writer.method.max_completion_length();
        longest.max(self.max_tokens.min(longest * self.replies_per_step))
    }

    fn input<'b>(&self, row: &'b PolicyRow) -> Option<(&'b Tensor, &'b Documents)> {
        Some((&row.replies().tokens, &row.replies().documents))
    }
}
