//! DoRA: half the rank is enough.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

const RATES: [f64; 2] = [5e-4, 1e-3];
const LOSS: &str = "train.eval/held_out_loss";

pub(super) fn study(scale: usize) -> Study {
    let dora = "[[surgery]]\nkind = \"dora\"\nr = 8\nlora_alpha = 16\ntarget_modules = \"all-linear\"\n";
    let mut arms = Vec::new();
    for (method, surgery) in [("LoRA r 16", lora(16)), ("DoRA r 8", dora.to_owned())] {
        for learning_rate in RATES {
            let recipe = Run {
                model: MODEL,
                surgery: &surgery,
                task: "chapter",
                learning_rate,
                scale,
            }
            .recipe();
            let steps = vec![
                Step::Train { name: "train", recipe },
                Step::evaluate("after", MODEL, Some("{out}/train"), "chapter.toml"),
            ];
            arms.push(Arm::new(name(method, learning_rate), steps));
        }
    }
    Study {
        name: "dora",
        title: "DoRA at half the rank against LoRA",
        claim: "Liu et al. 2024 (arXiv:2402.09353), table 1: DoRA of half LoRA's rank is at least as good. \
                Here: rank 8 against 16 on all linear layers, each at two learning rates, one task; each method is judged \
                at its best rate. The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column(LOSS, "held-out loss", Form::Digits(4)),
            column("after.chapter.exact_match", "accuracy", Form::Share),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
            column("train.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: LOSS,
        verdicts,
    }
}

fn name(method: &str, learning_rate: f64) -> String {
    format!("{method}, rate {learning_rate:e}")
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let best = |method: &str| {
        let losses = RATES.map(|rate| results.mean(&name(method, rate), LOSS));
        losses.into_iter().fold(f64::NAN, f64::min)
    };
    let (lora, dora) = (best("LoRA r 16"), best("DoRA r 8"));
    vec![Verdict {
        statement: format!("DoRA of rank 8 has at most LoRA's held-out loss at rank 16 ({dora:.4} against {lora:.4})"),
        holds: dora <= lora,
    }]
}
