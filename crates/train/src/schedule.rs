//! The learning rate's course: a pure function from step to factor.
//!
//! Source: `get_scheduler` of Transformers 5.23, formula by formula. Deviation: `warmup_stable_decay` decays over the
//! last tenth unless told otherwise, where Transformers wants `num_decay_steps`.

use std::f64::consts::PI;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// `lr_scheduler_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleType {
    /// Down to 0 in a straight line.
    #[default]
    Linear,
    /// Down to 0 along half a cosine (`num_cycles` of a whole one).
    Cosine,
    /// Down to 0 along `num_cycles` half cosines, starting high each time.
    CosineWithRestarts,
    /// Along half a cosine down to `min_lr` or `min_lr_rate` of the peak.
    CosineWithMinLr,
    /// As `cosine_with_min_lr`, reaching the peak at the last warm-up step, from `warmup_lr_rate` of it.
    CosineWarmupWithMinLr,
    /// The peak throughout; no warm-up.
    Constant,
    /// The peak after the warm-up.
    ConstantWithWarmup,
    /// Warm-up, peak, and a decay at the end.
    WarmupStableDecay,
    /// As one over the root of the step.
    InverseSqrt,
    /// Down to `lr_end` as a power of what is left.
    Polynomial,
}

/// The form of a warm-up or decay in `warmup_stable_decay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ramp {
    /// A straight line.
    #[default]
    #[serde(rename = "linear")]
    Linear,
    /// Half a cosine.
    #[serde(rename = "cosine")]
    Cosine,
    /// One minus a root.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// `lr_scheduler_kwargs`. Each belongs to some schedules; elsewhere it is refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleOptions {
    /// Waves of the cosine: 0.5, or 1 for restarts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    /// The lowest learning rate, for schedules that end above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// The lowest learning rate as a share of the peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// Where the warm-up begins, as a share of the peak.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_lr_rate: Option<f64>,
    /// The power of `polynomial`; 1 by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// The polynomial's last learning rate: 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// Steps in which `inverse_sqrt` falls to a half, less one: the warm-up's steps, or 10000 without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<f64>,
    /// Steps of the decay: a tenth of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<usize>,
    /// Steps at the peak: all that warm-up and decay leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<usize>,
    /// Form of the warm-up: linear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_type: Option<Ramp>,
    /// The form of the decay in `warmup_stable_decay`; cosine by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<Ramp>,
    /// Where `warmup_stable_decay` begins and ends, as a share of the peak: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_ratio: Option<f64>,
}

impl ScheduleOptions {
    /// The names of the options that are set.
    fn set(&self) -> Vec<&'static str> {
        [
            ("num_cycles", self.num_cycles.is_some()),
            ("min_lr", self.min_lr.is_some()),
            ("min_lr_rate", self.min_lr_rate.is_some()),
            ("warmup_lr_rate", self.warmup_lr_rate.is_some()),
            ("power", self.power.is_some()),
            ("lr_end", self.lr_end.is_some()),
            ("timescale", self.timescale.is_some()),
            ("num_decay_steps", self.num_decay_steps.is_some()),
            ("num_stable_steps", self.num_stable_steps.is_some()),
            ("warmup_type", self.warmup_type.is_some()),
            ("decay_type", self.decay_type.is_some()),
            ("min_lr_ratio", self.min_lr_ratio.is_some()),
        ]
        .into_iter()
        .filter_map(|(name, is_set)| is_set.then_some(name))
        .collect()
    }
}

impl ScheduleType {
    /// The options that this schedule reads.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Linear | Self::Constant | Self::ConstantWithWarmup => &[],
            Self::Cosine | Self::CosineWithRestarts => &["num_cycles"],
            Self::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
            Self::CosineWarmupWithMinLr => &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
            Self::InverseSqrt => &["timescale"],
            Self::Polynomial => &["power", "lr_end"],
            Self::WarmupStableDecay => &[
                "num_decay_steps",
                "num_stable_steps",
                "warmup_type",
                "decay_type",
                "min_lr_ratio",
                "num_cycles",
            ],
        }
    }
}

/// A schedule over a known number of steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: ScheduleType,
    warmup_steps: f64,
    total_steps: f64,
    num_cycles: f64,
    /// Lowest share of the peak.
    floor: f64,
    warmup_lr_rate: Option<f64>,
    power: f64,
    timescale: f64,
    stable_steps: f64,
    decay_steps: f64,
    warmup_type: Ramp,
    decay_type: Ramp,
}

impl Schedule {
    /// The schedule of a run of `total_steps` optimiser steps, `warmup_steps` of them warm-up, to the peak
    /// `learning_rate`.
    pub fn new(
        kind: ScheduleType,
        options: &ScheduleOptions,
        learning_rate: f64,
        warmup_steps: usize,
        total_steps: usize,
    ) -> Result<Self> {
        if let Some(idle) = options.set().into_iter().find(|name| !kind.options().contains(name)) {
            return Err(Error::NoEffect {
                option: "lr_scheduler_kwargs",
                why: format!(
                    "`{idle}` is no option of this `lr_scheduler_type`, whose options are: {}",
                    match kind.options() {
                        [] => "none".to_owned(),
                        options => options.join(", "),
                    }
                ),
                hint: "remove it or choose another schedule",
            });
        }
        let decay_steps = options.num_decay_steps.unwrap_or(total_steps.div_ceil(10)) as f64;
        let (warmup, total) = (warmup_steps as f64, total_steps as f64);
        Ok(Self {
            kind,
            warmup_steps: warmup,
            total_steps: total,
            num_cycles: options
                .num_cycles
                .unwrap_or(if kind == ScheduleType::CosineWithRestarts {
                    1.0
                } else {
                    0.5
                }),
            floor: floor(kind, options, learning_rate)?,
            warmup_lr_rate: options.warmup_lr_rate,
            power: options.power.unwrap_or(1.0),
            timescale: options
                .timescale
                .unwrap_or(if warmup_steps > 0 { warmup } else { 10_000.0 }),
            stable_steps: options
                .num_stable_steps
                .map_or(total - warmup - decay_steps, |steps| steps as f64),
            decay_steps,
            warmup_type: options.warmup_type.unwrap_or_default(),
            decay_type: options.decay_type.unwrap_or(Ramp::Cosine),
        })
    }

    /// What the learning rate is multiplied by in step `step`, counted from 0.
    pub fn factor(&self, step: usize) -> f64 {
        let step = step as f64;
        if step < self.warmup_steps && self.kind != ScheduleType::Constant {
            return self.warm_up(step);
        }
        let progress = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps).max(1.0);
        match self.kind {
            ScheduleType::Constant | ScheduleType::ConstantWithWarmup => 1.0,
            ScheduleType::Linear => {
                ((self.total_steps - step) / (self.total_steps - self.warmup_steps).max(1.0)).max(0.0)
            }
            ScheduleType::Cosine => self.wave(progress).max(0.0),
            ScheduleType::CosineWithRestarts if progress >= 1.0 => 0.0,
            ScheduleType::CosineWithRestarts => 0.5 * (1.0 + (PI * ((self.num_cycles * progress) % 1.0)).cos()),
            ScheduleType::CosineWithMinLr => self.above_floor(self.wave(progress)),
            ScheduleType::CosineWarmupWithMinLr => {
                let progress = (step - self.warmup_steps + 1.0) / (self.total_steps - self.warmup_steps).max(1.0);
                self.above_floor(self.wave(progress))
            }
            ScheduleType::InverseSqrt => 1.0 / ((step + self.timescale - self.warmup_steps) / self.timescale).sqrt(),
            ScheduleType::Polynomial if step > self.total_steps => self.floor,
            ScheduleType::Polynomial => {
                let left = 1.0 - (step - self.warmup_steps) / (self.total_steps - self.warmup_steps).max(1.0);
                (1.0 - self.floor) * left.powf(self.power) + self.floor
            }
            ScheduleType::WarmupStableDecay => self.stable_then_decay(step),
        }
    }

    fn warm_up(&self, step: f64) -> f64 {
        let progress = step / self.warmup_steps.max(1.0);
        match (self.kind, self.warmup_lr_rate) {
            (ScheduleType::CosineWarmupWithMinLr, None) => (step + 1.0) / self.warmup_steps.max(1.0),
            (ScheduleType::CosineWarmupWithMinLr, Some(rate)) => {
                rate + (1.0 - rate) * step / (self.warmup_steps - 1.0).max(1.0)
            }
            (ScheduleType::WarmupStableDecay, _) => self.above_floor(match self.warmup_type {
                Ramp::Linear => progress,
                Ramp::Cosine => 0.5 * (1.0 - (PI * progress).cos()),
                Ramp::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            }),
            _ => progress,
        }
    }

    fn stable_then_decay(&self, step: f64) -> f64 {
        let after = step - self.warmup_steps - self.stable_steps;
        if after < 0.0 {
            return 1.0;
        }
        if after >= self.decay_steps {
            return self.floor;
        }
        let progress = after / self.decay_steps.max(1.0);
        self.above_floor(match self.decay_type {
            Ramp::Linear => 1.0 - progress,
            Ramp::Cosine => self.wave(progress),
            Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
        })
    }

    fn wave(&self, progress: f64) -> f64 {
        0.5 * (1.0 + (PI * self.num_cycles * 2.0 * progress).cos())
    }

    fn above_floor(&self, factor: f64) -> f64 {
        (factor * (1.0 - self.floor) + self.floor).max(0.0)
    }
}

/// The lowest share of the peak that a schedule goes down to.
fn floor(kind: ScheduleType, options: &ScheduleOptions, learning_rate: f64) -> Result<f64> {
    let wrong = |wanted: String, found: String| Error::Setting {
        option: "lr_scheduler_kwargs",
        wanted,
        found,
    };
    match kind {
        ScheduleType::CosineWithMinLr | ScheduleType::CosineWarmupWithMinLr => {
            match (options.min_lr, options.min_lr_rate) {
                (Some(rate), None) => Ok(rate / learning_rate),
                (None, Some(share)) => Ok(share),
                (None, None) => Err(wrong("`min_lr` or `min_lr_rate`".into(), "neither".into())),
                (Some(_), Some(_)) => Err(wrong("one of `min_lr` and `min_lr_rate`".into(), "both".into())),
            }
        }
        ScheduleType::Polynomial => {
            let end = options.lr_end.unwrap_or(1e-7);
            if end < learning_rate {
                Ok(end / learning_rate)
            } else {
                Err(wrong(
                    format!("an `lr_end` below the learning rate {learning_rate}"),
                    end.to_string(),
                ))
            }
        }
        _ => Ok(options.min_lr_ratio.unwrap_or(0.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        name: String,
        num_warmup_steps: usize,
        num_training_steps: usize,
        options: ScheduleOptions,
        learning_rate: f64,
        values: Vec<f64>,
    }

    #[test]
    fn schedules_equal_those_of_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/vectors/schedules.json");
        let golden: Vec<Golden> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(golden.len() > 20);
        for golden in golden {
            let kind: ScheduleType = serde_json::from_value(golden.name.clone().into()).unwrap();
            let schedule = Schedule::new(
                kind,
                &golden.options,
                golden.learning_rate,
                golden.num_warmup_steps,
                golden.num_training_steps,
            )
            .unwrap();
            for (step, &wanted) in golden.values.iter().enumerate() {
                let found = golden.learning_rate * schedule.factor(step);
                // Both are f64; only the order of operations may differ.
                assert!(
                    (found - wanted).abs() <= 1e-15,
                    "{} step {step}: {found} {wanted}",
                    golden.name
                );
            }
        }
    }

    #[test]
    fn an_option_of_another_schedule_is_refused() {
        let options = ScheduleOptions {
            power: Some(2.0),
            ..Default::default()
        };
        let error = Schedule::new(ScheduleType::Cosine, &options, 1e-3, 0, 10)
            .unwrap_err()
            .to_string();
        assert!(error.contains("`power`") && error.contains("num_cycles"), "{error}");
    }

    #[test]
    fn a_minimum_must_be_said_once() {
        let kind = ScheduleType::CosineWithMinLr;
        for (options, found) in [
            (ScheduleOptions::default(), "neither"),
            (
                ScheduleOptions {
                    min_lr: Some(0.0),
                    min_lr_rate: Some(0.0),
                    ..Default::default()
                },
                "both",
            ),
        ] {
            let error = Schedule::new(kind, &options, 1e-3, 0, 10).unwrap_err().to_string();
            assert!(error.contains(found), "{error}");
        }
    }

    #[test]
    fn the_decay_takes_the_last_tenth() {
        let schedule = Schedule::new(
            ScheduleType::WarmupStableDecay,
            &ScheduleOptions::default(),
            1.0,
            10,
            100,
        )
        .unwrap();
        assert_eq!(schedule.factor(5), 0.5);
        assert_eq!((schedule.factor(10), schedule.factor(90)), (1.0, 1.0));
        assert!(schedule.factor(91) < 1.0 && schedule.factor(99) < 0.03);
    }
}
