//! Combining adapters: two tasks, five ways to make one adapter of two.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

const PARTS: [&str; 2] = ["chapter", "region"];

/// Names, and the options of `combine` behind them.
const WAYS: [(&str, &str); 6] = [
    ("exact sum", "--type sum"),
    ("svd, rank 16", "--type svd --rank 16"),
    ("linear", "--type linear"),
    ("ties, density 0.5", "--type ties --density 0.5"),
    (
        "dare_linear, density 0.5",
        "--type dare_linear --density 0.5 --seed {seed}",
    ),
    ("magnitude_prune, density 0.5", "--type magnitude_prune --density 0.5"),
];

pub(super) fn study(scale: usize) -> Study {
    let mut arms = Vec::new();
    for task in PARTS {
        let surgery = lora(16);
        let recipe = Run {
            model: MODEL,
            surgery: &surgery,
            task,
            learning_rate: 5e-4,
            scale,
        }
        .recipe();
        let steps = vec![
            Step::Train { name: "train", recipe },
            Step::evaluate("after", MODEL, Some("{out}/train"), "all.toml"),
        ];
        arms.push(Arm::new(format!("{task} alone"), steps));
    }
    for (name, options) in WAYS {
        let adapters: Vec<String> = PARTS
            .iter()
            .map(|task| format!("--adapter {{study}}/{task}-alone-{{seed}}/train=0.5"))
            .collect();
        let steps = vec![
            Step::run(&format!(
                "combine {} {options} --output {{out}}/merged",
                adapters.join(" ")
            )),
            Step::evaluate("after", MODEL, Some("{out}/merged"), "all.toml"),
        ];
        arms.push(Arm::new(name, steps));
    }
    Study {
        name: "combine",
        title: "Two adapters in one: the exact sum against PEFT's other ways",
        claim: "PEFT's `add_weighted_adapter` offers many ways to make one adapter of several. Its `linear` adds the factors, \
                not the updates, and so makes cross terms; the exact sum and `svd` at full rank do not. Here: two adapters of \
                rank 16 trained on two tasks, half of each. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column("after.chapter.exact_match", "chapter questions right", Form::Share),
            column("after.region.exact_match", "region questions right", Form::Share),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
        ],
        drawn: "after.region.exact_match",
        verdicts,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let both = |arm: &str| {
        let of = |task: &str| results.mean(arm, &format!("after.{task}.exact_match"));
        f64::midpoint(of("chapter"), of("region"))
    };
    let (sum, svd, linear) = (both("exact sum"), both("svd, rank 16"), both("linear"));
    vec![
        Verdict {
            statement: format!(
                "the exact sum keeps more of both tasks than `linear` ({:.1} % against {:.1} % on average)",
                100.0 * sum,
                100.0 * linear
            ),
            holds: sum > linear,
        },
        Verdict {
            statement: format!(
                "`svd` at half the rank is within two points of the exact sum ({:.1} % against {:.1} %)",
                100.0 * svd,
                100.0 * sum
            ),
            holds: svd >= sum - 0.02,
        },
    ]
}
