//! The DPO family side by side: what is preferred, how likely it stays, how long replies become.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, column, lora};

/// Names, and the objective.
const WAYS: [(&str, &str); 5] = [
    ("DPO", "kind = \"dpo\"\nbeta = 0.1\n"),
    ("IPO", "kind = \"dpo\"\nloss_type = \"ipo\"\nbeta = 0.1\n"),
    ("SimPO", "kind = \"dpo\"\nloss_type = \"simpo\"\nbeta = 2.0\n"),
    ("ORPO", "kind = \"orpo\"\nbeta = 0.1\n"),
    ("KTO", "kind = \"kto\"\nbeta = 0.1\n"),
];

/// Pairs of a step, and steps.
const PAIRS: usize = 16;
const STEPS: usize = 40;

pub(super) fn study(scale: usize) -> Study {
    let base = vec![Step::evaluate("after", MODEL, None, "preferences.toml")];
    let mut arms = vec![Arm::new("base", base).without_chance()];
    for (name, objective) in WAYS {
        let recipe = format!(
            "[model]\nname_or_path = \"{MODEL}\"\n\n{}\n[objective]\n{objective}\n\
             [data]\ntrain = [{{ path = \"{{data}}/pairs.train.jsonl\" }}]\nmax_length = 512\n\n\
             [train]\nmax_steps = {}\nper_device_train_batch_size = {PAIRS}\nlearning_rate = 2e-4\n\
             lr_scheduler_type = \"cosine\"\nwarmup_ratio = 0.1\nsave_strategy = \"no\"\nlogging_steps = 5\nreport_to = []\n",
            lora(16),
            STEPS * scale,
        );
        let steps = vec![
            Step::Train { name: "train", recipe },
            Step::evaluate("after", MODEL, Some("{out}/train"), "preferences.toml"),
        ];
        arms.push(Arm::new(name, steps));
    }
    Study {
        name: "dpo",
        title: "The DPO family on the same pairs",
        claim: "DPO (arXiv:2305.18290) raises the better reply over the worse one, and often makes both less likely; IPO \
                (arXiv:2310.12036) and SimPO (arXiv:2405.14734) weigh replies by their length; ORPO (arXiv:2403.07691) holds \
                the better reply's likelihood by its cross-entropy and needs no reference; KTO (arXiv:2402.01306) needs no \
                pairs. Here: 640 constructed pairs (a question on a text of the CIA World Factbook, the right chapter and a \
                wrong one; nobody ranked them), LoRA of rank 16, the same rate for all. Accuracy and margin are of the \
                policy's own log-probabilities on held-out pairs; length is of greedy replies to other questions. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column(ACCURACY, "pairs right", Form::Share),
            column("after.pairs.margin", "margin, nats", Form::Digits(2)),
            column(CHOSEN, "log p of the better reply", Form::Digits(2)),
            column(
                "after.pairs.rejected_log_prob",
                "log p of the worse reply",
                Form::Digits(2),
            ),
            column("after.replies.mean_length", "tokens a reply", Form::Digits(1)),
            column("after.replies.kl", "KL, nats", Form::Digits(2)),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
            column("train.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: ACCURACY,
        verdicts,
    }
}

const ACCURACY: &str = "after.pairs.accuracy";
const CHOSEN: &str = "after.pairs.chosen_log_prob";

fn verdicts(results: &Results) -> Vec<Verdict> {
    let right = |arm: &str| results.mean(arm, ACCURACY);
    let chosen = |arm: &str| results.mean(arm, CHOSEN);
    let rates: Vec<String> = WAYS
        .iter()
        .map(|(name, _)| format!("{name} {:.1} %", 100.0 * right(name)))
        .collect();
    vec![
        Verdict {
            statement: format!(
                "every method prefers more of the held-out better replies than the base ({:.1} %): {}",
                100.0 * right("base"),
                rates.join(", ")
            ),
            holds: WAYS.iter().all(|(name, _)| right(name) > right("base")),
        },
        Verdict {
            statement: format!(
                "ORPO's cross-entropy holds the better reply's likelihood above DPO's ({:.2} against {:.2} nats)",
                chosen("ORPO"),
                chosen("DPO")
            ),
            holds: chosen("ORPO") > chosen("DPO"),
        },
    ]
}
