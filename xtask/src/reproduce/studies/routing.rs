//! Fewer experts: by trying every set, by usage, by chance, by merging.

use super::super::data::TASKS;
use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column};

/// Held-out questions of the task.
const RIGHT: &str = "after.chapter.exact_match";
/// The arm that trains what the others make smaller.
const WHOLE: &str = "all 4 experts";

pub(super) fn study(scale: usize) -> Study {
    let surgery = "[[surgery]]\nkind = \"upcycle\"\nnum_local_experts = 4\nnum_experts_per_tok = 2\nreinitialise = 0.2\n\
                   seed = {seed}\n\n[[surgery]]\nkind = \"full\"\nunfrozen_parameters = ['block_sparse_moe']\n\n\
                   [router]\nrouter_aux_loss_coef = 0.001\n";
    let recipe = Run {
        model: MODEL,
        surgery,
        task: TASKS[0],
        learning_rate: 5e-5,
        scale,
    };
    let whole = Arm::new(
        WHOLE,
        vec![
            Step::Train {
                name: "train",
                recipe: recipe.recipe(),
            },
            Step::evaluate("after", "{out}/train", None, "chapter.toml"),
        ],
    );
    let fewer = |keep: usize, by: &str| {
        let line = format!(
            "experts --model {{study}}/all-4-experts-{{seed}}/train --keep {keep} --by {by} --seed {{seed}} \
             --data {{data}}/{}.train.jsonl --output {{out}}/fewer",
            TASKS[0]
        );
        Arm::new(
            format!("{keep} by {by}"),
            vec![
                Step::run(&line),
                Step::evaluate("after", "{out}/fewer", None, "chapter.toml"),
            ],
        )
    };
    let mut arms = vec![whole];
    for keep in [3, 2] {
        arms.extend(["nearest", "usage", "random"].map(|by| fewer(keep, by)));
    }
    arms.push(fewer(2, "merge"));
    Study {
        name: "routing",
        title: "Which experts can go",
        claim: "Lu et al. 2024 (arXiv:2402.14800): of every set of experts to keep in a layer, the one whose output on sample text is \
                nearest to the whole layer's costs least, far less than chance (Mixtral loses 2.9 points with 6 of 8 experts). Li \
                et al. 2023 (arXiv:2310.01334): merging by usage beats dropping at an equal number of different experts (merged ones are stored once for each row of the router, so no bytes are saved). Here: 4 experts in every layer, \
                upcycled with a fifth of their neurons redrawn and trained on one task for an epoch; the sample is of the task, and \
                so is what is compared: so short a training heals the redrawn neurons for the task but not for general text, \
                whose perplexity is 31 in the dense parent. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column(RIGHT, "held-out questions right", Form::Share),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
        ],
        drawn: RIGHT,
        verdicts,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let of = |arm: &str| results.mean(arm, RIGHT);
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut verdicts: Vec<Verdict> = [3, 2]
        .into_iter()
        .map(|keep| {
            let (near, chance) = (format!("{keep} by nearest"), format!("{keep} by random"));
            let (nearest, random) = (of(&near), of(&chance));
            Verdict {
                statement: format!(
                    "of 4 experts, the nearest {keep} keep more than {keep} by chance ({} right against {})",
                    percent(nearest),
                    percent(random)
                ),
                holds: results.is_clearly_below(&chance, &near, RIGHT),
            }
        })
        .collect();
    let (merged, used) = (of("2 by merge"), of("2 by usage"));
    verdicts.push(Verdict {
        statement: format!(
            "merging to 2 is better than keeping the 2 most used ({} right against {})",
            percent(merged),
            percent(used)
        ),
        holds: results.is_clearly_below("2 by usage", "2 by merge", RIGHT),
    });
    verdicts
}
