//! Every two surgeries, in either order, over three bases: what no rule refuses trains, and every rule refuses something.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use checkpoint::ModelDir;
use methods::METHODS;
use methods::recipe::combinations::rules;
use session::training::Begin;
use tch::Kind;

use super::bases::{Base, Precision, Stock};
use super::matrix::{cases, declared, declared_of};
use super::methods::example;
use super::run;

/// What no method and no two surgeries meet: surgeries, the objective, and further sections.
const OTHERS: &[(&[&str], &str, &str)] = &[
    (&["kind = 'lora'"], "memory", ""),
    (&["kind = 'lora'"], "sft", "[router]\nrouter_z_loss_coef = 0.1\n\n"),
    (
        &["kind = 'upcycle'", "kind = 'full'"],
        "sft",
        "[router]\ngating = 'dense'\n\n",
    ),
    (
        &["kind = 'memory'\nnum_experts = 64\ntop_k = 4\nquery_dim = 8"],
        "sft",
        "",
    ),
    (
        &[
            "kind = 'quantize'\nskip_modules = []",
            "kind = 'lora'\ninit_lora_weights = 'loftq'\ntarget_modules = ['lm_head']",
        ],
        "sft",
        "",
    ),
    (
        &[
            "kind = 'quantize'\nskip_modules = ['q_proj']",
            "kind = 'lora'\nr = 4\ninit_lora_weights = 'pissa'\ntarget_modules = ['q_proj']",
        ],
        "sft",
        "",
    ),
    (
        &[
            "kind = 'quantize'",
            "kind = 'lora'\ninit_lora_weights = 'loftq'\ntarget_modules = ['lm_head']",
        ],
        "sft",
        "",
    ),
];

/// The combinations, each as the text before `[objective]` and the objective.
fn combinations() -> Vec<(String, String)> {
    let text = |surgery: &[&str]| run::surgeries(surgery.iter());
    let objective = |text: &str| if text.contains("'memory'") { "memory" } else { "sft" };
    let mut all: Vec<(String, String)> = OTHERS
        .iter()
        .map(|(surgery, objective, more)| (text(surgery) + more, (*objective).to_owned()))
        .collect();
    // One surgery of each method.
    let kinds: Vec<String> = METHODS.iter().map(|method| example(method)).collect();
    for first in &kinds {
        let alone = text(&[first]);
        all.push((alone.clone(), objective(&alone).to_owned()));
        for second in &kinds {
            let both = text(&[first, second]);
            all.push((both.clone(), objective(&both).to_owned()));
        }
    }
    all
}

/// Whether the combination was refused by a rule, and then which.
fn tried(base: Base, surgery: &str, objective: &str, room: &Path) -> Result<Option<&'static str>> {
    let model = base.write()?;
    let output = room.join("run");
    let text = run::recipe(
        surgery,
        objective,
        Kind::Float,
        (&model, &run::room().join("rows.jsonl"), &output),
    );
    let path = room.join("recipe.toml");
    fs::write(&path, &text)?;
    let refusal = declared_of(&path, &text, &ModelDir::open(&model)?)?;
    match (run::train(&path, run::machine(Kind::Float), Begin::New, false), refusal) {
        (Ok(_), None) => Ok(None),
        (Ok(_), Some(refusal)) => bail!("the rule `{}` refuses it, and it trains", refusal.rule.name),
        (Err(error), None) => Err(error.context("no rule refuses it")),
        (Err(error), Some(refusal)) => {
            let text = format!("{error:#}");
            for part in [&refusal.at, refusal.rule.why, &format!("hint: {}", refusal.rule.hint)] {
                ensure!(text.contains(part), "wanted `{part}` in: {text}");
            }
            ensure!(!output.exists(), "refused, it leaves `{}`", output.display());
            Ok(Some(refusal.rule.name))
        }
    }
}

#[test]
fn zeros_that_quantising_makes_are_no_pruned_weights() {
    let base = |stock| Base {
        precision: Precision::F32,
        stock,
        tied: false,
        biases: false,
    };
    let surgery = run::surgeries(["kind = 'quantize'", "kind = 'lora'\nr = 4", "kind = 'keep_zeros'"].iter());
    let trained = |stock| {
        let room = tempfile::tempdir_in(run::room()).expect("a folder");
        let (model, output) = (base(stock).write().expect("a model"), room.path().join("run"));
        let rows = run::room().join("rows.jsonl");
        let path = room.path().join("recipe.toml");
        fs::write(
            &path,
            run::recipe(&surgery, "sft", Kind::Float, (&model, &rows, &output)),
        )
        .expect("a recipe");
        run::train(&path, run::machine(Kind::Float), Begin::New, false).map(|_| ())
    };
    trained(Stock::Pruned).expect("a pruned model");
    let error = format!("{:#}", trained(Stock::Dense).unwrap_err());
    assert!(
        error.contains("`surgery.2`") && error.contains("wanted a pruned model"),
        "{error}"
    );
}

#[test]
fn two_surgeries_train_or_are_refused_by_a_rule_and_every_rule_refuses_something() {
    let base = |precision, biases| Base {
        precision,
        stock: Stock::Pruned,
        tied: biases,
        biases,
    };
    let bases = [
        base(Precision::F32, false),
        base(Precision::F32, true),
        base(Precision::Nf4File, false),
    ];
    let (mut met, mut failures, mut trained, mut refused) = (BTreeSet::new(), Vec::new(), 0, 0);
    for base in bases {
        for (surgery, objective) in combinations() {
            let room = tempfile::tempdir_in(run::room()).expect("a folder");
            let place = || {
                format!(
                    "{} with `{}` over {}",
                    objective,
                    surgery.replace('\n', " "),
                    base.name()
                )
            };
            match tried(base, &surgery, &objective, room.path()).with_context(place) {
                Ok(None) => trained += 1,
                Ok(Some(rule)) => {
                    refused += 1;
                    met.insert(rule);
                }
                Err(error) => failures.push(format!("{error:#}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(
        trained > 20 && refused > 200,
        "{trained} trained, {refused} were refused"
    );
    for case in cases() {
        let room = tempfile::tempdir_in(run::room()).expect("a folder");
        let refusal = declared(&case, room.path()).unwrap_or_else(|error| panic!("{}: {error:#}", case.name()));
        met.extend(refusal.map(|refusal| refusal.rule.name));
    }
    let idle: Vec<&str> = rules()
        .map(|rule| rule.name)
        .filter(|name| !met.contains(name))
        .collect();
    assert!(idle.is_empty(), "rules that refuse nothing here: {idle:?}");
}
