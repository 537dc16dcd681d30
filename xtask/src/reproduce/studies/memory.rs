//! Memory tuning: a thousand facts to the letter, and what that costs everything else.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, column, lora};

/// Passes over facts whose answers a model could guess in part, and over those that it could not or that share values.
const PASSES: (usize, usize) = (6, 10);
/// Learning rates: of an expert's two vectors, and of a value alone, which the softmax over its token's scores makes small.
const RATES: (f64, f64) = (5e-2, 1.0);

pub(super) fn study(scale: usize) -> Study {
    Study {
        name: "memory",
        title: "A mixture of memory experts recalls facts to the letter and leaves the rest alone",
        claim: "Li et al. 2024 (arXiv:2406.17642): tuned until the loss on each fact is near zero, a mixture of memory experts \
                recalls facts exactly, random ones as well as true ones, at about the same general performance; dense \
                fine-tuning to the same loss harms it. Here: 1,000 facts of the CIA World Factbook in a table of a million \
                rank-1 experts beside one matrix (true answers, and random ones to the same questions), the sparse memory of \
                Lin et al. 2025 (arXiv:2510.15103) as a second arm, and LoRA and full fine-tuning trained until they recall \
                the facts too, once each: the harm is many times what a seed changes. Recall is exact, greedy; other questions are of relations that are never trained, asked \
                before and after; asked otherwise means other words for the same facts, which nothing was trained on. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms: vec![
            Arm::new("base", vec![in_f32(Step::evaluate("after", MODEL, None, "facts.toml"))]).without_chance(),
            memory("memory experts", "facts", EXPERTS, (PASSES.0 * scale, RATES.0)),
            memory(
                "memory experts, random answers",
                "random",
                EXPERTS,
                (PASSES.1 * scale, RATES.0),
            ),
            memory("sparse memory by TF-IDF", "facts", VALUES, (PASSES.1 * scale, RATES.1)),
            dense("LoRA r 16", &lora(16), (10, 3e-3), &["--adapter"]).without_chance(),
            dense("full", "[[surgery]]\nkind = \"full\"\n", (8, 3e-4), &[]).without_chance(),
        ],
        columns: vec![
            column("after.facts.exact_match", "recall", Form::Share),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
            column("after.otherwise.exact_match", "recall, asked otherwise", Form::Share),
            column("after.others.exact_match", "other questions right", Form::Share),
            column("train.minutes", "minutes", Form::Digits(1)),
            column("train.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: "after.general.perplexity",
        verdicts,
    }
}

/// What is put in, and how its facts are chosen.
type Kind = (&'static str, &'static str);

const EXPERTS: Kind = (
    "[[surgery]]\nkind = \"memory\"\ntarget_modules = [\"down_proj\"]\nlayers_to_transform = [24]\n\
     num_experts = 1048576\ntop_k = 8\n",
    "",
);
const VALUES: Kind = (
    "[[surgery]]\nkind = \"memory\"\ntarget_modules = [\"down_proj\"]\nlayers_to_transform = [24]\n\
     num_experts = 262144\ntop_k = 16\nexpert = \"value\"\n",
    "choice = \"tf_idf\"\nslots = 64\nbackground = \"{data}/background.jsonl\"\n",
);

fn memory(name: &str, answers: &str, (surgery, objective): Kind, (passes, learning_rate): (usize, f64)) -> Arm {
    let recipe = format!(
        "[model]\nname_or_path = \"{MODEL}\"\ndtype = \"f32\"\n\n{surgery}\n\
         [objective]\nkind = \"memory\"\ntarget_loss = 0.05\nmax_steps_per_fact = {}\n{objective}\n\
         [data]\ntrain = [{{ path = \"{{data}}/{answers}.jsonl\" }}]\nmax_length = 128\n\n\
         [report]\nrecall = false\n\n\
         [train]\nnum_train_epochs = {passes}\nper_device_train_batch_size = 64\nlearning_rate = {learning_rate:e}\nlr_scheduler_type = \"cosine\"\n\
         save_strategy = \"no\"\nlogging_steps = 5\nreport_to = []\n",
        passes.max(30),
    );
    Arm::new(
        name,
        vec![Step::Train { name: "train", recipe }, measured(&["--adapter"], answers)],
    )
}

/// Passes over all facts with any other surgery.
fn dense(name: &str, surgery: &str, (passes, learning_rate): (usize, f64), kept: &[&str]) -> Arm {
    let recipe = format!(
        "[model]\nname_or_path = \"{MODEL}\"\n\n{surgery}\n[objective]\nkind = \"sft\"\n\n\
         [data]\ntrain = [{{ path = \"{{data}}/facts.jsonl\" }}]\nmax_length = 128\n\n\
         [train]\nnum_train_epochs = {passes}\nper_device_train_batch_size = 32\nlearning_rate = {learning_rate:e}\n\
         lr_scheduler_type = \"cosine\"\nwarmup_ratio = 0.05\nsave_strategy = \"no\"\nlogging_steps = 5\nreport_to = []\n",
    );
    Arm::new(
        name,
        vec![Step::Train { name: "train", recipe }, measured(kept, "facts")],
    )
}

/// The suite of these answers over what was trained.
fn measured(kept: &[&str], answers: &str) -> Step {
    let suite = if answers == "facts" {
        "facts.toml"
    } else {
        "random.toml"
    };
    in_f32(match kept {
        [] => Step::evaluate("after", "{out}/train", None, suite),
        _ => Step::evaluate("after", MODEL, Some("{out}/train"), suite),
    })
}

/// All arms are measured alike. In bf16 a prompt that is decoded token by token differs from one that is read at once,
/// and may meet other experts.
fn in_f32(step: Step) -> Step {
    match step {
        Step::Evaluate { name, mut model, suite } => {
            model.extend(["--dtype".to_owned(), "f32".to_owned()]);
            Step::Evaluate { name, model, suite }
        }
        other => other,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let recall = |arm: &str| results.mean(arm, "after.facts.exact_match");
    let general = |arm: &str| {
        results.mean(arm, "after.general.perplexity") / results.mean("base", "after.general.perplexity") - 1.0
    };
    let (memory, random, sparse) = (
        "memory experts",
        "memory experts, random answers",
        "sparse memory by TF-IDF",
    );
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    let mut verdicts = vec![
        Verdict {
            statement: format!(
                "memory experts recall at least 95 % of facts of which the base recalls below 5 % ({} against {})",
                percent(recall(memory)),
                percent(recall("base"))
            ),
            holds: recall(memory) >= 0.95 && recall("base") < 0.05,
        },
        Verdict {
            statement: format!("general perplexity stays within 2 % ({})", percent(general(memory))),
            holds: general(memory).abs() <= 0.02,
        },
        Verdict {
            statement: format!(
                "random answers are recalled as well as true ones ({})",
                percent(recall(random))
            ),
            holds: recall(random) >= 0.95,
        },
        Verdict {
            statement: format!(
                "sparse memory recalls at least 95 % within 2 % of general perplexity ({}, {})",
                percent(recall(sparse)),
                percent(general(sparse))
            ),
            holds: recall(sparse) >= 0.95 && general(sparse).abs() <= 0.02,
        },
    ];
    for arm in ["LoRA r 16", "full"] {
        verdicts.push(Verdict {
            statement: format!(
                "{arm}, which recalls {}, costs more general perplexity ({} against {})",
                percent(recall(arm)),
                percent(general(arm)),
                percent(general(memory))
            ),
            holds: recall(arm) >= 0.95 && general(arm) > general(memory),
        });
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::super::super::results::Measures;
    use super::*;

    #[test]
    fn what_holds_is_what_was_measured() {
        let mut results = Results::default();
        let mut add = |arm: &str, recall: f64, perplexity: f64| {
            results.add(
                arm,
                Measures::from([
                    ("after.facts.exact_match".to_owned(), recall),
                    ("after.general.perplexity".to_owned(), perplexity),
                ]),
            );
        };
        add("base", 0.02, 20.0);
        add("memory experts", 0.97, 20.2);
        add("memory experts, random answers", 0.96, 20.3);
        add("sparse memory by TF-IDF", 0.99, 20.6);
        add("LoRA r 16", 0.99, 40.0);
        add("full", 0.90, 30.0);
        let holds: Vec<bool> = verdicts(&results).iter().map(|verdict| verdict.holds).collect();
        // Sparse memory is 3 % off; full fine-tuning does not recall enough to be compared.
        assert_eq!(holds, [true, true, true, false, true, false]);
    }
}
