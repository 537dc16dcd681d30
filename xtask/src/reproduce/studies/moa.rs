//! Mixtures of agents: how much several proposers differ, and what their aggregator takes over.

use super::super::data::TASKS;
use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

/// Rows that an agent is tuned on, times the scale: what it says shall differ, not be right.
const TRAINED: usize = 320;
/// Questions that are asked.
const ASKED: usize = 24;

pub(super) fn study(scale: usize) -> Study {
    let training = TASKS.into_iter().map(|task| {
        let recipe = Run {
            model: MODEL,
            surgery: &lora(8),
            task,
            learning_rate: 5e-4,
            scale,
        };
        Step::Train {
            name: task,
            recipe: recipe.recipe_of(TRAINED),
        }
    });
    let trained = "{study}/three-adapters-{seed}";
    let multi: String = TASKS
        .iter()
        .map(|task| agent(task, Some(&format!("{trained}/{task}"))))
        .collect();
    let proposers = |names: &[&str]| {
        names
            .iter()
            .map(|name| format!("{name:?}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let arm = |name: &str, layers: usize, names: &[&str], agents: &str| {
        let layer = format!("[{}]", proposers(names));
        let config = format!(
            "aggregator = \"base\"\nlayers = [{}]\ntemperature = 0.7\nmax_tokens = 48\nmax_reference_tokens = 400\nseed = {{seed}}\n\n{agents}{}",
            vec![layer; layers].join(", "),
            agent("base", None)
        );
        Arm::new(
            name,
            vec![Step::Ask {
                name: "asked",
                config,
                rows: "{data}/open.jsonl".into(),
                count: ASKED,
            }],
        )
    };
    Study {
        name: "moa",
        title: "Several proposers differ more than one asked several times",
        claim: "Wang et al. 2024 (arXiv:2406.04692), table 3: different proposers serve an aggregator better than one asked as often, \
                and more proposers better than fewer; section 3.3: the aggregator takes over most from the best. A model of 135M \
                parameters cannot synthesise, so the mechanical part is measured: how different the proposals are (distinct \
                two-word runs), and how much of the last word was copied from any of them (the largest clipped share of \
                two-word runs). Here: three adapters on one base, each tuned on another task (which chapter, region and article a \
                text is of, in a word or two, and so they answer everything), and the base as aggregator; the questions are open \
                ones, of what people do and feel. An agent that has nothing to say is left out. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms: vec![
            Arm::new("three adapters", training.collect()),
            arm("one proposer, three times", 1, &["base", "base", "base"], ""),
            arm("three proposers", 1, &TASKS, &multi),
            arm("three proposers, two layers", 2, &TASKS, &multi),
        ],
        columns: vec![
            column("asked.distinct_2", "distinct 2-word runs", Form::Share),
            column("asked.copied_2", "copied by the aggregator", Form::Share),
            column("asked.tokens", "tokens a question", Form::Digits(0)),
            column("asked.failures", "agents left out a question", Form::Digits(2)),
        ],
        drawn: "asked.distinct_2",
        verdicts,
    }
}

fn agent(name: &str, adapter: Option<&str>) -> String {
    let adapter = adapter.map_or(String::new(), |folder| format!("adapter = \"{folder}\"\n"));
    format!("[agents.{name}]\nmodel = \"{MODEL}\"\n{adapter}\n")
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let of = |arm: &str, key: &str| results.mean(arm, key);
    let (one, three) = (
        of("one proposer, three times", "asked.distinct_2"),
        of("three proposers", "asked.distinct_2"),
    );
    let (first, second) = (
        of("three proposers", "asked.copied_2"),
        of("three proposers, two layers", "asked.copied_2"),
    );
    vec![
        Verdict {
            statement: format!(
                "three proposers differ more than one asked three times ({:.1} % distinct against {:.1} %)",
                100.0 * three,
                100.0 * one
            ),
            holds: results.is_clearly_below("one proposer, three times", "three proposers", "asked.distinct_2"),
        },
        Verdict {
            statement: format!(
                "after a second layer the aggregator copies more: answers converge ({:.1} % against {:.1} %)",
                100.0 * second,
                100.0 * first
            ),
            holds: results.is_clearly_below("three proposers", "three proposers, two layers", "asked.copied_2"),
        },
    ]
}
