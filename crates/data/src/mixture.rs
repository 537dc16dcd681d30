//! Several data sets in one epoch: how much of each, and in which order.
//!
//! An order is a function of seed and epoch alone, so training resumes at any position without replaying anything.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;
use rows::Random;

/// How the sets of a mixture share an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MixStrategy {
    /// Every set in full, `weight` times: 0.5 takes half of its rows, others each epoch; 2 takes each row twice.
    #[default]
    Concat,
    /// In proportion to the weights, until the first set runs out.
    InterleaveUnder,
    /// In proportion to the weights, until the last set has run out; smaller ones start over.
    InterleaveOver,
}

/// Whether rows are shuffled anew in each epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrange {
    /// Shuffled, in each epoch otherwise.
    #[default]
    Shuffled,
    /// In the files' order.
    Sequential,
}

/// One set of a mixture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// Number of its samples.
    pub len: usize,
    /// Its share; above 0.
    pub weight: f64,
    /// Use only this many, from the start.
    pub max_samples: Option<usize>,
}

/// A sample of a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pick {
    /// Which set.
    pub set: u32,
    /// Which of its samples.
    pub sample: u32,
}

/// Several sets mixed.
#[derive(Debug, Clone)]
pub struct Mixture {
    parts: Vec<Part>,
    strategy: MixStrategy,
    arrange: Arrange,
    seed: u64,
}

impl Mixture {
    /// Mixes sets; refuses weights that are not positive and sets without samples.
    pub fn new(parts: &[Part], strategy: MixStrategy, arrange: Arrange, seed: u64) -> Result<Self, Error> {
        let refused = |key, wanted, found: String| Err(Error::Setting { key, wanted, found });
        if parts.is_empty() {
            return refused("train", "at least one data set", "none".to_owned());
        }
        for part in parts {
            if !(part.weight > 0.0 && part.weight.is_finite()) {
                return refused("weight", "a number above 0", part.weight.to_string());
            }
            if part.size() == 0 {
                return refused("max_samples", "at least one sample a set", "0".to_owned());
            }
        }
        let mixture = Self {
            parts: parts.to_vec(),
            strategy,
            arrange,
            seed,
        };
        if mixture.epoch_len() == 0 {
            return refused(
                "weight",
                "at least one sample an epoch",
                "weights that leave none".to_owned(),
            );
        }
        Ok(mixture)
    }

    /// Samples an epoch has; the same for every epoch.
    pub fn epoch_len(&self) -> usize {
        self.counts().iter().sum()
    }

    /// How many samples of each set an epoch has.
    pub fn counts(&self) -> Vec<usize> {
        let sizes = self.parts.iter().map(Part::size);
        if self.strategy == MixStrategy::Concat {
            return sizes
                .zip(&self.parts)
                .map(|(size, part)| (size as f64 * part.weight).round() as usize)
                .collect();
        }
        // A set of n samples and share w lasts for n / w rounds; the shortest or longest of these ends the epoch.
        let lasts = sizes.zip(&self.parts).map(|(size, part)| size as f64 / part.weight);
        let rounds = match self.strategy {
            MixStrategy::InterleaveUnder => lasts.fold(f64::INFINITY, f64::min),
            _ => lasts.fold(0.0, f64::max),
        };
        self.parts
            .iter()
            .map(|part| (rounds * part.weight).round() as usize)
            .collect()
    }

    /// The order of an epoch.
    pub fn order(&self, epoch: usize) -> Vec<Pick> {
        let counts = self.counts();
        let mut streams: Vec<std::vec::IntoIter<u32>> = self
            .parts
            .iter()
            .zip(&counts)
            .enumerate()
            .map(|(set, (part, &count))| self.stream(set, part.size(), count, epoch).into_iter())
            .collect();
        if self.strategy == MixStrategy::Concat {
            let sets = streams.into_iter().enumerate();
            let mut order: Vec<Pick> = sets
                .flat_map(|(set, stream)| {
                    stream.map(move |sample| Pick {
                        set: set as u32,
                        sample,
                    })
                })
                .collect();
            if self.arrange == Arrange::Shuffled {
                Random::new(self.seed, epoch as u64).shuffle(&mut order);
            }
            return order;
        }
        // Each place goes to the set that is furthest behind its share, so every stretch of the epoch is mixed alike.
        let total: usize = counts.iter().sum();
        let mut taken = vec![0usize; counts.len()];
        let mut order = Vec::with_capacity(total);
        for place in 1..=total {
            let behind = |set: usize| (counts[set] * place) as i128 - (taken[set] * total) as i128;
            let open = (0..counts.len()).filter(|&set| taken[set] < counts[set]);
            let Some(set) = open.max_by_key(|&set| (behind(set), std::cmp::Reverse(set))) else {
                break;
            };
            taken[set] += 1;
            order.extend(streams[set].next().map(|sample| Pick {
                set: set as u32,
                sample,
            }));
        }
        order
    }

    /// `count` samples of a set: whole passes over it, and a part of one more.
    fn stream(&self, set: usize, size: usize, count: usize, epoch: usize) -> Vec<u32> {
        let mut samples = Vec::with_capacity(count);
        for pass in 0..count.div_ceil(size) {
            let mut once: Vec<u32> = (0..size as u32).collect();
            if self.arrange == Arrange::Shuffled {
                let stream = ((epoch as u64) << 32) ^ ((pass as u64) << 16) ^ (set as u64 + 1);
                Random::new(self.seed ^ 0x5EED_0F5E_7500_0000, stream).shuffle(&mut once);
            }
            samples.extend(once.into_iter().take(count - samples.len()));
        }
        samples
    }
}

impl Part {
    fn size(&self) -> usize {
        self.max_samples.map_or(self.len, |most| most.min(self.len))
    }
}
