//! Optimiser steps: which documents each takes, packed into rows. Any step can be asked for at once.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::packing::{DocumentId, Packed, best_fit};
use crate::{Arrange, Error, MixStrategy, Mixture, Part, Pick, TokenSet};
use rows::Random;

/// How many documents a step takes and how they are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchConfig {
    /// Samples that go through the model together.
    pub per_device_train_batch_size: usize,
    /// Times that many make an optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Tokens a packed row may have; a longer sample has a row of its own.
    pub max_tokens: usize,
    /// Puts samples of like length into the same step.
    pub group_by_length: bool,
    /// Leaves out an epoch's last step where it would be smaller than the others.
    pub drop_last: bool,
    /// Seed of the order within length groups.
    pub seed: u64,
}

/// The steps of a training run.
#[derive(Debug)]
pub struct Batches<'d> {
    sets: Vec<&'d TokenSet>,
    mixture: Mixture,
    config: BatchConfig,
    epoch: Mutex<Option<(usize, Arc<[Pick]>)>>,
}

/// What one optimiser step learns from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Which pass over the data, from 0.
    pub epoch: usize,
    /// Which step of that pass, from 0.
    pub step_in_epoch: usize,
    /// Its documents, packed.
    pub rows: Vec<Packed>,
    /// Number of samples.
    pub num_samples: usize,
}

/// Steps' worth of samples that are sorted by length together, as Transformers does it.
const STEPS_PER_GROUP: usize = 50;

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            per_device_train_batch_size: 8,
            gradient_accumulation_steps: 1,
            max_tokens: 2048,
            group_by_length: false,
            drop_last: false,
            seed: 42,
        }
    }
}

impl<'d> Batches<'d> {
    /// Steps over a mixture of sets; the mixture's parts must be these sets, in this order.
    pub fn new(sets: Vec<&'d TokenSet>, mixture: Mixture, config: BatchConfig) -> Result<Self, Error> {
        let positive = [
            ("per_device_train_batch_size", config.per_device_train_batch_size),
            ("gradient_accumulation_steps", config.gradient_accumulation_steps),
            ("max_tokens", config.max_tokens),
        ];
        for (key, value) in positive {
            if value == 0 {
                return Err(Error::Setting {
                    key,
                    wanted: "a number above 0",
                    found: "0".to_owned(),
                });
            }
        }
        let batches = Self {
            sets,
            mixture,
            config,
            epoch: Mutex::new(None),
        };
        if batches.steps_per_epoch() == 0 {
            return Err(Error::Setting {
                key: "drop_last",
                wanted: "an epoch of at least one whole step",
                found: format!(
                    "{} samples for steps of {}",
                    batches.mixture.epoch_len(),
                    batches.per_step()
                ),
            });
        }
        Ok(batches)
    }

    /// One set, once, in its own order: for evaluation.
    pub fn sequential(set: &'d TokenSet, config: BatchConfig) -> Result<Self, Error> {
        let part = Part {
            len: set.len(),
            weight: 1.0,
            max_samples: None,
        };
        let mixture = Mixture::new(&[part], MixStrategy::Concat, Arrange::Sequential, config.seed)?;
        Self::new(vec![set], mixture, config)
    }

    /// Optimiser steps in an epoch.
    pub fn steps_per_epoch(&self) -> usize {
        let samples = self.mixture.epoch_len();
        if self.config.drop_last {
            samples / self.per_step()
        } else {
            samples.div_ceil(self.per_step())
        }
    }

    /// The mixture.
    pub fn mixture(&self) -> &Mixture {
        &self.mixture
    }

    /// The documents of a step, counted from 0 over all epochs.
    pub fn step(&self, step: usize) -> Result<Step, Error> {
        let (epoch, step_in_epoch) = (step / self.steps_per_epoch(), step % self.steps_per_epoch());
        let order = self.order(epoch);
        let from = step_in_epoch * self.per_step();
        let picks = &order[from..order.len().min(from + self.per_step())];
        let lengths: Vec<usize> = picks
            .iter()
            .map(|pick| self.sets[pick.set as usize].sample_len(pick.sample as usize))
            .collect();
        let mut rows = Vec::new();
        for items in best_fit(&lengths, self.config.max_tokens) {
            let mut row = Packed::default();
            for item in items {
                let (set, sample) = (picks[item].set as usize, picks[item].sample as usize);
                let label = self.sets[set].label(sample);
                for (part, document) in self.sets[set].sample(sample)?.iter().enumerate() {
                    row.push(
                        document,
                        DocumentId {
                            set,
                            sample,
                            part,
                            place: item,
                            label,
                        },
                    );
                }
            }
            rows.push(row);
        }
        Ok(Step {
            epoch,
            step_in_epoch,
            rows,
            num_samples: picks.len(),
        })
    }

    /// The steps from a given one on, without end.
    pub fn from(&self, step: usize) -> impl Iterator<Item = Result<Step, Error>> + '_ {
        (step..).map(|step| self.step(step))
    }

    fn per_step(&self) -> usize {
        self.config.per_device_train_batch_size * self.config.gradient_accumulation_steps
    }

    fn order(&self, epoch: usize) -> Arc<[Pick]> {
        let mut kept = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((known, order)) if *known == epoch => order.clone(),
            _ => {
                let mut order = self.mixture.order(epoch);
                if self.config.group_by_length {
                    self.group(&mut order, epoch);
                }
                let order: Arc<[Pick]> = order.into();
                *kept = Some((epoch, order.clone()));
                order
            }
        }
    }

    /// Sorts stretches of the order by length and shuffles their whole steps, so that lengths do not fall with time.
    fn group(&self, order: &mut [Pick], epoch: usize) {
        let per_step = self.per_step();
        let mut random = Random::new(self.config.seed, epoch as u64);
        for stretch in order.chunks_mut(STEPS_PER_GROUP * per_step) {
            stretch
                .sort_by_key(|pick| std::cmp::Reverse(self.sets[pick.set as usize].sample_len(pick.sample as usize)));
            let whole = stretch.len() / per_step * per_step;
            let mut steps: Vec<Vec<Pick>> = stretch[..whole].chunks(per_step).map(<[Pick]>::to_vec).collect();
            random.shuffle(&mut steps);
            for (place, pick) in stretch.iter_mut().zip(steps.into_iter().flatten()) {
                *place = pick;
            }
        }
    }
}
