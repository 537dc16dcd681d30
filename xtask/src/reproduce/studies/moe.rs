//! Mixtures of experts: an upcycled model is its parent, its load can be evened out with or without a loss, and it learns more.

use super::super::data::TASKS;
use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column};

/// The first task's rows and the general text.
const SUITE: &str = "chapter.toml";

pub(super) fn study(scale: usize) -> Study {
    let mixture = "[[surgery]]\nkind = \"upcycle\"\nnum_local_experts = 4\nnum_experts_per_tok = 2\nnoise_scale = 0.01\n\
                   seed = {seed}\n\n[[surgery]]\nkind = \"full\"\nunfrozen_parameters = ['block_sparse_moe']\n\n";
    let router = |aux: &str, bias: &str| {
        format!("{mixture}[router]\nrouter_aux_loss_coef = {aux}\nrouter_bias_update_rate = {bias}\n")
    };
    let trained = |name: &str, surgery: &str| {
        let recipe = Run {
            model: MODEL,
            surgery,
            task: TASKS[0],
            learning_rate: 2e-5,
            scale,
        };
        let recipe = recipe.recipe();
        Arm::new(
            name,
            vec![
                Step::Train { name: "train", recipe },
                Step::evaluate("after", "{out}/train", None, SUITE),
            ],
        )
    };
    let upcycle = format!("upcycle --model {MODEL} --num-experts 4 --output {{out}}/mixture");
    Study {
        name: "moe",
        title: "An upcycled mixture of experts starts as its parent and its load can be evened out",
        claim: "Komatsuzaki et al. 2022 (arXiv:2212.05055): a dense model whose feed-forwards are copied into experts is a better \
                start than itself at equal steps. Fedus et al. 2021 (arXiv:2101.03961) even the experts' load by a loss, Wang et \
                al. 2024 (arXiv:2408.15664) by a bias for choosing, without one (their MaxVio falls from 0.72 to 0.04 over \
                100 billion tokens). Here: 4 experts in every layer, 2 a token, one short task, feed-forwards and routers \
                train. MaxVio is the mean over layers of the fullest expert's load over the mean load, minus one, in the \
                last tenth of the steps. So few steps at a fine-tuning rate of 2e-5 hardly move a router: the loss has a \
                coefficient of 1 (the papers' is 0.01, over many thousand steps), the bias moves by 0.001 a step as in the \
                paper. The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms: vec![
            Arm::new("dense, untrained", vec![Step::evaluate("after", MODEL, None, SUITE)]).without_chance(),
            Arm::new(
                "upcycled, untrained",
                vec![
                    Step::run(&upcycle),
                    Step::evaluate("after", "{out}/mixture", None, SUITE),
                ],
            )
            .without_chance(),
            trained(
                "dense",
                "[[surgery]]\nkind = \"full\"\nunfrozen_parameters = ['\\.mlp\\.']\n",
            ),
            trained("upcycled, no balancing", &router("0.0", "0.0")),
            trained("upcycled, balance loss", &router("1.0", "0.0")),
            trained("upcycled, bias", &router("0.0", "0.001")),
        ],
        columns: vec![
            column("train.max_violation", "MaxVio", Form::Digits(3)),
            column("train.eval/held_out_loss", "held-out loss", Form::Digits(4)),
            column("after.chapter.exact_match", "held-out questions right", Form::Share),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
            column("train.tokens_per_second", "tokens/s", Form::Digits(0)),
            column("train.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: "train.max_violation",
        verdicts,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let of = |arm: &str, key: &str| results.mean(arm, key);
    let general = "after.general.perplexity";
    let (parent, child) = (of("dense, untrained", general), of("upcycled, untrained", general));
    let violation = "train.max_violation";
    let (none, loss, bias) = (
        of("upcycled, no balancing", violation),
        of("upcycled, balance loss", violation),
        of("upcycled, bias", violation),
    );
    let held_out = "train.eval/held_out_loss";
    let (dense, sparse) = (of("dense", held_out), of("upcycled, balance loss", held_out));
    vec![
        Verdict {
            statement: format!("untrained, the mixture has its parent's perplexity ({child:.3} against {parent:.3})"),
            holds: (child / parent - 1.0).abs() < 2e-3,
        },
        Verdict {
            statement: format!("the balance loss evens the load ({loss:.3} against {none:.3})"),
            holds: results.is_clearly_below("upcycled, balance loss", "upcycled, no balancing", violation),
        },
        Verdict {
            statement: format!("a bias evens it without a loss ({bias:.3} against {none:.3})"),
            holds: results.is_clearly_below("upcycled, bias", "upcycled, no balancing", violation),
        },
        Verdict {
            statement: format!(
                "the mixture's held-out loss is below the dense model's at equal steps ({sparse:.4} against {dense:.4})"
            ),
            holds: results.is_clearly_below("upcycled, balance loss", "dense", held_out),
        },
    ]
}
