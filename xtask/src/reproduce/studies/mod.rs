//! The studies, one a file, and the recipes that they share.

mod adapters;
mod combine;
mod dora;
mod dpo;
mod hft;
mod memory;
mod moa;
mod moe;
mod ppo;
mod prune;
mod qlora;
mod routing;

pub(crate) use hft::derive;

use super::data::TRAINED;
use super::study::{Column, Form, Study};

/// The model of every study: its weights are a 4-bit file's, dequantised, and every page says so.
const MODEL: &str = "smollm2-135m-instruct";

/// All of them; `scale` times the rows.
pub(crate) fn all(scale: usize) -> Vec<Study> {
    vec![
        qlora::study(scale),
        dora::study(scale),
        adapters::study(scale),
        hft::study(scale),
        combine::study(scale),
        moe::study(scale),
        routing::study(scale),
        moa::study(scale),
        prune::study(scale),
        memory::study(scale),
        dpo::study(scale),
        ppo::study(scale),
    ]
}

/// What changes from arm to arm.
struct Run<'a> {
    model: &'a str,
    surgery: &'a str,
    task: &'a str,
    learning_rate: f64,
    scale: usize,
}

/// Documents of a step.
const DOCUMENTS: usize = 16;

impl Run<'_> {
    /// A recipe of one epoch over the task's training rows, measured on its held-out rows at the end.
    fn recipe(&self) -> String {
        self.recipe_of(TRAINED)
    }

    /// A recipe of that many rows, times the scale.
    fn recipe_of(&self, rows: usize) -> String {
        let Self {
            model,
            surgery,
            task,
            learning_rate,
            scale,
        } = self;
        // Of a task with fewer rows than that, all are there and an epoch is shorter.
        let steps = (rows * scale).div_ceil(DOCUMENTS);
        format!(
            "[model]\nname_or_path = \"{model}\"\n\n{surgery}\n\
             [objective]\nkind = \"sft\"\n\n\
             [data]\ntrain = [{{ path = \"{{data}}/{task}.train.jsonl\" }}]\n\
             eval = [{{ path = \"{{data}}/{task}.test.jsonl\", name = \"held_out\" }}]\nmax_length = 512\n\n\
             [train]\nmax_steps = {steps}\nper_device_train_batch_size = {DOCUMENTS}\nlearning_rate = {learning_rate:e}\n\
             lr_scheduler_type = \"cosine\"\nwarmup_ratio = 0.05\neval_strategy = \"epoch\"\nsave_strategy = \"no\"\n\
             logging_steps = 5\nreport_to = []\n",
        )
    }
}

/// A LoRA on all linear layers.
fn lora(rank: usize) -> String {
    format!(
        "[[surgery]]\nkind = \"lora\"\nr = {rank}\nlora_alpha = {}\ntarget_modules = \"all-linear\"\n",
        2 * rank
    )
}

fn column(key: &'static str, heading: &'static str, form: Form) -> Column {
    Column { key, heading, form }
}

#[cfg(test)]
mod tests {
    use super::super::study::Step;
    use super::*;

    #[test]
    fn every_recipe_is_toml_and_every_column_and_drawn_measure_has_its_place() {
        for study in all(1) {
            assert!(
                study.columns.iter().any(|column| column.key == study.drawn),
                "{}",
                study.name
            );
            for step in study.arms.iter().flat_map(|arm| &arm.steps) {
                if let Step::Train { recipe, .. } = step {
                    let filled = recipe.replace("{seed}", "0");
                    let parsed = filled.parse::<toml::Table>();
                    assert!(
                        parsed.is_ok_and(|table| table.contains_key("surgery")),
                        "{}: {filled}",
                        study.name
                    );
                }
            }
        }
    }

    #[test]
    fn no_claim_holds_of_nothing() {
        for study in all(1) {
            let verdicts = (study.verdicts)(&super::super::results::Results::default());
            assert!(
                !verdicts.is_empty() && verdicts.iter().all(|verdict| !verdict.holds),
                "{}",
                study.name
            );
        }
    }
}
