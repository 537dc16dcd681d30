//! Settings that cannot be, and settings that would be ignored: both are refused before anything is loaded.

use std::fmt::Debug;

use crate::{Error, EvalStrategy, Result, SaveStrategy, ScheduleType, TrainConfig};

impl TrainConfig {
    /// Refuses settings that cannot be, and those that would be ignored.
    pub fn validate(&self) -> Result<()> {
        self.check_counts()?;
        self.check_numbers()?;
        self.check_evaluation()?;
        self.check_schedule()
    }

    fn check_counts(&self) -> Result<()> {
        let above = "at least 1";
        require(
            "output_dir",
            !self.output_dir.as_os_str().is_empty(),
            "a folder",
            &self.output_dir,
        )?;
        require(
            "max_steps",
            self.max_steps == -1 || self.max_steps > 0,
            "-1 or a number above 0",
            self.max_steps,
        )?;
        let documents = self.per_device_train_batch_size;
        require("per_device_train_batch_size", documents > 0, above, documents)?;
        let times = self.gradient_accumulation_steps;
        require("gradient_accumulation_steps", times > 0, above, times)?;
        require("logging_steps", self.logging_steps > 0, above, self.logging_steps)?;
        for (option, count) in [
            ("eval_steps", self.eval_steps),
            ("save_steps", self.save_steps),
            ("save_total_limit", self.save_total_limit),
            ("early_stopping_patience", self.early_stopping_patience),
        ] {
            require(option, count != Some(0), above, 0)?;
        }
        Ok(())
    }

    fn check_numbers(&self) -> Result<()> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let from_zero = |value: f64| value == 0.0 || positive(value);
        let share = |value: f64| (0.0..1.0).contains(&value);
        let (above, at_least, below_one) = ("a number above 0", "at least 0", "a number from 0 to below 1");
        let epochs = self.num_train_epochs;
        require(
            "num_train_epochs",
            self.max_steps > 0 || positive(epochs),
            above,
            epochs,
        )?;
        require("learning_rate", positive(self.learning_rate), above, self.learning_rate)?;
        require(
            "weight_decay",
            from_zero(self.weight_decay),
            at_least,
            self.weight_decay,
        )?;
        require("adam_beta1", share(self.adam_beta1), below_one, self.adam_beta1)?;
        require("adam_beta2", share(self.adam_beta2), below_one, self.adam_beta2)?;
        require(
            "adam_epsilon",
            from_zero(self.adam_epsilon),
            at_least,
            self.adam_epsilon,
        )?;
        require(
            "max_grad_norm",
            from_zero(self.max_grad_norm),
            at_least,
            self.max_grad_norm,
        )?;
        require(
            "warmup_steps",
            from_zero(self.warmup_steps),
            at_least,
            self.warmup_steps,
        )?;
        let ratio = self.warmup_ratio;
        require(
            "warmup_ratio",
            (0.0..=1.0).contains(&ratio),
            "a share from 0 to 1",
            ratio,
        )?;
        let threshold = self.early_stopping_threshold;
        require("early_stopping_threshold", from_zero(threshold), at_least, threshold)?;
        match self.loraplus_lr_ratio {
            Some(ratio) => require("loraplus_lr_ratio", positive(ratio), above, ratio),
            None => Ok(()),
        }
    }

    fn check_evaluation(&self) -> Result<()> {
        if self.eval_strategy == EvalStrategy::No {
            let why = "nothing is evaluated";
            let hint = "set `train.eval_strategy` to \"steps\" or \"epoch\"";
            idle("load_best_model_at_end", self.load_best_model_at_end, why, hint)?;
            idle("metric_for_best_model", self.metric_for_best_model.is_some(), why, hint)?;
            idle(
                "early_stopping_patience",
                self.early_stopping_patience.is_some(),
                why,
                hint,
            )?;
            idle("save_strategy", self.save_strategy == SaveStrategy::Best, why, hint)?;
        }
        idle(
            "eval_steps",
            self.eval_steps.is_some() && self.eval_strategy != EvalStrategy::Steps,
            "it needs `eval_strategy = \"steps\"`",
            "set `train.eval_strategy` to \"steps\"",
        )?;
        idle(
            "save_steps",
            self.save_steps.is_some() && self.save_strategy != SaveStrategy::Steps,
            "it needs `save_strategy = \"steps\"`",
            "set `train.save_strategy` to \"steps\"",
        )?;
        idle(
            "greater_is_better",
            self.greater_is_better.is_some() && !self.tracks_best(),
            "no option asks for the best evaluation",
            "set `train.load_best_model_at_end` or `train.early_stopping_patience`",
        )?;
        idle(
            "early_stopping_threshold",
            self.early_stopping_threshold != 0.0 && self.early_stopping_patience.is_none(),
            "there is no patience",
            "set `train.early_stopping_patience`",
        )
    }

    fn check_schedule(&self) -> Result<()> {
        let (steps, ratio) = (self.warmup_steps != 0.0, self.warmup_ratio != 0.0);
        idle(
            "warmup_ratio",
            steps && ratio,
            "`warmup_steps` is set too",
            "remove one of the two",
        )?;
        let constant = self.lr_scheduler_type == ScheduleType::Constant;
        let (why, hint) = (
            "`lr_scheduler_type = \"constant\"` has no warm-up",
            "use \"constant_with_warmup\"",
        );
        idle("warmup_steps", constant && steps, why, hint)?;
        idle("warmup_ratio", constant && ratio, why, hint)?;
        // Its own options are checked where it is made.
        self.schedule(self.total_steps(1).max(1)).map(|_| ())
    }
}

fn require(option: &'static str, holds: bool, wanted: &str, found: impl Debug) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::Setting {
        option,
        wanted: wanted.into(),
        found: format!("{found:?}"),
    })
}

fn idle(option: &'static str, is_idle: bool, why: &str, hint: &'static str) -> Result<()> {
    if !is_idle {
        return Ok(());
    }
    Err(Error::NoEffect {
        option,
        why: why.into(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        for (text, needles) in [
            ("learning_rate = -1.0", ["learning_rate", "-1"]),
            ("learning_rate = nan", ["learning_rate", "NaN"]),
            (
                "gradient_accumulation_steps = 0",
                ["gradient_accumulation_steps", "at least 1"],
            ),
            ("max_steps = 0", ["max_steps", "-1 or"]),
            ("save_total_limit = 0", ["save_total_limit", "at least 1"]),
            ("adam_beta2 = 1.0", ["adam_beta2", "below 1"]),
            (
                "load_best_model_at_end = true",
                ["load_best_model_at_end", "nothing is evaluated"],
            ),
            ("eval_steps = 5", ["eval_steps", "eval_strategy"]),
            (
                "save_strategy = \"epoch\"\nsave_steps = 5",
                ["save_steps", "save_strategy"],
            ),
            (
                "warmup_steps = 5\nwarmup_ratio = 0.1",
                ["warmup_ratio", "`warmup_steps` is set too"],
            ),
            (
                "warmup_steps = 5\nlr_scheduler_type = \"constant\"",
                ["warmup_steps", "constant_with_warmup"],
            ),
            ("[lr_scheduler_kwargs]\npower = 2.0", ["lr_scheduler_kwargs", "power"]),
        ] {
            let config: TrainConfig = toml::from_str(text).unwrap();
            let error = config.validate().unwrap_err().to_string();
            assert!(needles.iter().all(|needle| error.contains(needle)), "{text}: {error}");
        }
    }
}
