//! Pruning: weights one by one by three methods, whole blocks, and what a teacher brings back.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, column};

/// Samples of a calibration, times the scale: paragraphs of some 150 tokens.
const SAMPLES: usize = 64;
/// Steps of the recovery, times the scale; eight paragraphs a step.
const STEPS: usize = 60;
/// Blocks of the model, and how many stay along the curve.
const BLOCKS: usize = 30;
const LEFT: [usize; 5] = [28, 26, 24, 22, 20];

const WEB: &str = "after.general.perplexity";
const OTHER: &str = "after.other.perplexity";
const CHOICE: &str = "after.choice.accuracy";
const WRITTEN: &str = "after.written.word_f1";
const SPEED: &str = "pruning.after.read_tokens_per_second";

/// Methods, and whether they look at text.
const METHODS: [(&str, &str, bool); 3] = [
    ("magnitude", "magnitude", false),
    ("Wanda", "wanda", true),
    ("SparseGPT", "sparsegpt", true),
];
const RULES: [(&str, &str); 2] = [("50 %", "--sparsity 0.5"), ("2:4", "--pattern 2:4")];

pub(super) fn study(scale: usize) -> Study {
    let measured = |model: &str, suite| Step::evaluate("after", model, None, suite);
    let mut arms = vec![Arm::new("dense", vec![measured(MODEL, "prune-blocks.toml")]).without_chance()];
    for (rule, flags) in RULES {
        for (name, method, looks) in METHODS {
            let steps = vec![
                pruned(&format!("{method} {flags}"), looks, scale),
                Step::numbers("pruning", "{out}/model/pruning.json"),
                measured("{out}/model", "prune.toml"),
            ];
            let arm = Arm::new(format!("{name} {rule}"), steps);
            arms.push(if looks { arm } else { arm.without_chance() });
        }
    }
    arms.push(Arm::new("Wanda 50 %, recovered", recovered(scale)).without_chance());
    for left in LEFT {
        let steps = vec![
            pruned(&format!("block-influence --num-hidden-layers {left}"), true, scale),
            Step::numbers("pruning", "{out}/model/pruning.json"),
            measured("{out}/model", "prune-blocks.toml"),
        ];
        arms.push(Arm::new(blocks(left), steps).without_chance());
    }
    Study {
        name: "prune",
        title: "Pruning: Wanda and SparseGPT against magnitude, and blocks that can go",
        claim: "Sun et al. 2023 (arXiv:2306.11695), tables 2 and 3, and Frantar and Alistarh 2023 (arXiv:2301.00774): at 50 % \
                and at 2:4 Wanda and SparseGPT keep a model usable that magnitude ruins, 2:4 costs more than 50 % of any \
                place, and SparseGPT is ahead where the pattern is tight. Men et al. 2024 (arXiv:2403.03853): blocks of \
                least influence can go and multiple choice hardly tells, while generation breaks. Here: perplexity on text \
                like the calibration's (web pages) and on other text (encyclopaedia, programs); the next words of a web page, \
                chosen of two (chance is a half) and written (the harmonic mean of precision and recall over words); the seed \
                draws the calibration's samples; blocks are chosen once. The base is SmolLM2-135M-Instruct from a Q4_1 file, \
                dequantised.",
        arms,
        columns: vec![
            column(WEB, "perplexity, web", Form::Digits(2)),
            column(OTHER, "perplexity, other", Form::Digits(2)),
            column(CHOICE, "next words chosen", Form::Share),
            column(WRITTEN, "next words written", Form::Share),
            column("pruning.after.nonzero", "numbers not zero", Form::Digits(0)),
            column("pruning.after.bytes", "bytes", Form::Gigabytes),
            column(SPEED, "tokens/s, reading", Form::Digits(0)),
            column("pruning.seconds", "seconds to prune", Form::Digits(0)),
        ],
        drawn: WEB,
        verdicts,
    }
}

fn pruned(rule: &str, looks: bool, scale: usize) -> Step {
    let text = match looks {
        true => format!(
            " --calibration {{data}}/calibration.jsonl --nsamples {} --seed {{seed}}",
            SAMPLES * scale
        ),
        false => String::new(),
    };
    Step::run(&format!(
        "prune --model {MODEL} --method {rule}{text} --output {{out}}/model"
    ))
}

/// Wanda at 50 %, then the dense model's next tokens on the calibration's text, the zeros kept.
fn recovered(scale: usize) -> Vec<Step> {
    let (samples, steps) = (SAMPLES * scale, STEPS * scale);
    let recipe = format!(
        "[model]\nname_or_path = \"{MODEL}\"\n\n\
         [[surgery]]\nkind = \"prune\"\nmethod = \"wanda\"\nsparsity = 0.5\ncalibration = \"{{data}}/calibration.jsonl\"\n\
         nsamples = {samples}\n\n\
         [[surgery]]\nkind = \"full\"\nfreeze_embeddings = true\n\n[[surgery]]\nkind = \"keep_zeros\"\n\n\
         [objective]\nkind = \"distill\"\nteacher = \"{MODEL}\"\n\n\
         [data]\ntrain = [{{ path = \"{{data}}/calibration.jsonl\" }}]\nmax_length = 512\n\n\
         [train]\nmax_steps = {steps}\nper_device_train_batch_size = 8\nlearning_rate = 1e-4\n\
         lr_scheduler_type = \"cosine\"\nwarmup_ratio = 0.05\nsave_strategy = \"no\"\nlogging_steps = 5\nreport_to = []\n"
    );
    vec![
        Step::Train { name: "train", recipe },
        Step::evaluate("after", "{out}/train", None, "prune.toml"),
    ]
}

fn blocks(left: usize) -> String {
    format!("{left} of {BLOCKS} blocks")
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let web = |arm: &str| results.mean(arm, WEB);
    let other = |arm: &str| results.mean(arm, OTHER);
    let mut verdicts = Vec::new();
    for (rule, _) in RULES {
        let [size, wanda, swept] = METHODS.map(|(name, ..)| web(&format!("{name} {rule}")));
        verdicts.push(Verdict {
            statement: format!(
                "at {rule} Wanda and SparseGPT are far ahead of magnitude, by half at least ({wanda:.1} and {swept:.1} against {size:.1})"
            ),
            holds: 2.0 * wanda < size && 2.0 * swept < size,
        });
    }
    let worse = METHODS
        .iter()
        .all(|(name, ..)| web(&format!("{name} 2:4")) > web(&format!("{name} 50 %")));
    verdicts.push(Verdict {
        statement: "2:4 costs more than 50 % of any place, whatever the method".into(),
        holds: worse,
    });
    for (place, of) in [
        ("the calibration's kind of text", &web as &dyn Fn(&str) -> f64),
        ("other text", &other),
    ] {
        for (rule, _) in RULES {
            let (wanda, swept) = (of(&format!("Wanda {rule}")), of(&format!("SparseGPT {rule}")));
            verdicts.push(Verdict {
                statement: format!("at {rule} SparseGPT is ahead of Wanda on {place} ({swept:.1} against {wanda:.1})"),
                holds: swept < wanda,
            });
        }
    }
    let (before, after, dense) = (web("Wanda 50 %"), web("Wanda 50 %, recovered"), web("dense"));
    verdicts.push(Verdict {
        statement: format!(
            "learning from the dense model brings back half at least of what Wanda lost, in nats ({before:.1} to {after:.1}; dense {dense:.1})"
        ),
        holds: (before / after).ln() >= 0.5 * (before / dense).ln(),
    });
    let few = blocks(LEFT[LEFT.len() - 1]);
    let of = |key| (results.mean(&few, key), results.mean("dense", key));
    let ((choice, dense_choice), (written, dense_written)) = (of(CHOICE), of(WRITTEN));
    verdicts.push(Verdict {
        statement: format!(
            "with a third of the blocks gone the choice between two keeps nine tenths ({:.1} % of {:.1} %)",
            100.0 * choice,
            100.0 * dense_choice
        ),
        holds: choice >= 0.9 * dense_choice,
    });
    verdicts.push(Verdict {
        statement: format!(
            "while perplexity is more than tripled ({:.1} from {dense:.1}) and fewer than nine tenths of the words that it \
             wrote are left ({:.1} % of {:.1} %)",
            web(&few),
            100.0 * written,
            100.0 * dense_written
        ),
        holds: web(&few) > 3.0 * dense && written < 0.9 * dense_written,
    });
    let (fast, slow) = (
        results.mean(&few, SPEED),
        results.mean(&few, "pruning.before.read_tokens_per_second"),
    );
    verdicts.push(Verdict {
        statement: format!("and it reads faster by a third at least ({fast:.0} against {slow:.0} tokens/s)"),
        holds: 3.0 * fast >= 4.0 * slow,
    });
    verdicts
}
