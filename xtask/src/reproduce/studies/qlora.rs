//! QLoRA: which levels lose least, and whether training over them ends near 16 bits.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

const PERPLEXITY: &str = "base.general.perplexity";
const LOSS: &str = "train.eval/held_out_loss";
const PEAK: &str = "train.peak_memory";
/// Arms whose base is quantised and nothing trained: name, flags of `finetune quantize`.
const SCHEMES: [(&str, &str); 5] = [
    ("NF4", "--scheme nf4"),
    ("NF4, scales in 8 bits", "--scheme nf4 --double-quant"),
    ("FP4", "--scheme fp4"),
    ("int4", "--scheme int4"),
    ("int8", "--scheme int8"),
];
/// What NF4 with scales in 8 bits takes off bf16, in bytes: 106 168 320 numbers in projections, 16 - 4.127 bits each.
const SAVED: f64 = 106_168_320.0 * (16.0 - 4.126_953) / 8.0;

pub(super) fn study(scale: usize) -> Study {
    let train = |surgery: &str| Step::Train {
        name: "train",
        recipe: Run {
            model: MODEL,
            surgery,
            task: "chapter",
            learning_rate: 5e-4,
            scale,
        }
        .recipe(),
    };
    let mut arms =
        vec![Arm::new("16 bits", vec![Step::evaluate("base", MODEL, None, "chapter.toml")]).without_chance()];
    for (name, flags) in SCHEMES {
        let steps = vec![
            Step::run(&format!(
                "quantize --model {MODEL} {flags} --dense --dtype bf16 --output {{out}}/model"
            )),
            Step::evaluate("base", "{out}/model", None, "chapter.toml"),
        ];
        arms.push(Arm::new(name, steps).without_chance());
    }
    arms.push(Arm::new(
        "LoRA r 16",
        vec![
            train(&lora(16)),
            Step::evaluate("after", MODEL, Some("{out}/train"), "chapter.toml"),
        ],
    ));
    let schemes = [("QLoRA r 16, NF4", "nf4", true), ("QLoRA r 16, FP4", "fp4", false)];
    for (name, scheme, double_quant) in schemes {
        let surgery = format!(
            "[[surgery]]\nkind = \"quantize\"\nscheme = \"{scheme}\"\ndouble_quant = {double_quant}\n\n{}",
            lora(16)
        );
        let double = if double_quant { " --double-quant" } else { "" };
        arms.push(Arm::new(
            name,
            vec![
                train(&surgery),
                Step::run(&format!(
                    "quantize --model {MODEL} --scheme {scheme}{double} --output {{out}}/model"
                )),
                Step::evaluate("after", "{out}/model", Some("{out}/train"), "chapter.toml"),
            ],
        ));
    }
    Study {
        name: "qlora",
        title: "QLoRA: levels for normal weights, and training over them",
        claim: "Dettmers et al. 2023 (arXiv:2305.14314), tables 2 and 4: NF4 loses less than FP4 and int4, and LoRA over an \
                NF4 base ends where LoRA over 16 bits does. Here: perplexity of the quantised base on general text, then one \
                task trained over it. A model of 135 million parameters loses more by quantising than those of the paper. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms,
        columns: vec![
            column(PERPLEXITY, "perplexity of the base", Form::Digits(2)),
            column(LOSS, "held-out loss after training", Form::Digits(4)),
            column("after.chapter.exact_match", "accuracy after training", Form::Share),
            column("after.general.perplexity", "perplexity after training", Form::Digits(2)),
            column(PEAK, "peak memory", Form::Gigabytes),
        ],
        drawn: PERPLEXITY,
        verdicts,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let base = |arm: &str| results.mean(arm, PERPLEXITY);
    let (dense, nf4, nested, fp4, int4) = (
        base("16 bits"),
        base("NF4"),
        base("NF4, scales in 8 bits"),
        base("FP4"),
        base("int4"),
    );
    let (lora, qlora) = (results.mean("LoRA r 16", LOSS), results.mean("QLoRA r 16, NF4", LOSS));
    let (wide, small) = (results.mean("LoRA r 16", PEAK), results.mean("QLoRA r 16, NF4", PEAK));
    vec![
        Verdict {
            statement: format!(
                "NF4 loses less perplexity than FP4 and int4 ({nf4:.2} against {fp4:.2} and {int4:.2}; 16 bits: {dense:.2})"
            ),
            holds: dense < nf4 && nf4 < fp4 && nf4 < int4,
        },
        Verdict {
            statement: format!("FP4 and int4 lose about the same, within 10 % ({fp4:.2} and {int4:.2})"),
            holds: (fp4 / int4 - 1.0).abs() <= 0.1,
        },
        Verdict {
            statement: format!("scales in 8 bits cost next to nothing, within 1 % ({nested:.2} against {nf4:.2})"),
            holds: nested <= 1.01 * nf4,
        },
        Verdict {
            statement: format!(
                "QLoRA's held-out loss is within 5 % of LoRA's over 16 bits ({qlora:.4} against {lora:.4})"
            ),
            holds: qlora <= 1.05 * lora,
        },
        Verdict {
            statement: format!(
                "QLoRA peaks below LoRA by at least the weights saved ({:.2} against {:.2} GB; {:.2} GB saved)",
                small / 1e9,
                wide / 1e9,
                SAVED / 1e9
            ),
            holds: wide - small >= SAVED,
        },
    ]
}
