//! Bottleneck adapters against full fine-tuning.

use super::super::results::Results;
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

const LOSS: &str = "train.eval/held_out_loss";

pub(super) fn study(scale: usize) -> Study {
    let bottleneck =
        |config: &str| format!("[[surgery]]\nkind = \"adapter\"\nconfig = \"{config}\"\nreduction_factor = 16\n");
    let arm = |name: &str, surgery: &str, learning_rate: f64, whole: bool| {
        let recipe = Run {
            model: MODEL,
            surgery,
            task: "chapter",
            learning_rate,
            scale,
        }
        .recipe();
        let (model, adapter) = if whole {
            ("{out}/train", None)
        } else {
            (MODEL, Some("{out}/train"))
        };
        let steps = vec![
            Step::Train { name: "train", recipe },
            Step::evaluate("after", model, adapter, "chapter.toml"),
        ];
        Arm::new(name, steps)
    };
    Study {
        name: "adapters",
        title: "Bottleneck adapters near full fine-tuning, at a few per cent of its parameters",
        claim: "Houlsby et al. 2019 (arXiv:1902.00751): adapters of a few per cent of the parameters come within half a \
                point of full fine-tuning. Here: width 36 (a sixteenth of 576), one task, and what general text costs. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms: vec![
            Arm::new("base", vec![Step::evaluate("after", MODEL, None, "chapter.toml")]).without_chance(),
            arm("full fine-tuning", "[[surgery]]\nkind = \"full\"\n", 1e-4, true),
            arm("Houlsby", &bottleneck("double_seq_bn"), 1e-3, false),
            arm("Pfeiffer", &bottleneck("seq_bn"), 1e-3, false),
            arm("parallel", &bottleneck("par_bn"), 1e-3, false),
            arm("LoRA r 16", &lora(16), 5e-4, false),
        ],
        columns: vec![
            column("after.chapter.exact_match", "accuracy", Form::Share),
            column(LOSS, "held-out loss", Form::Digits(4)),
            column("after.general.perplexity", "general perplexity", Form::Digits(2)),
            column("train.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: "after.chapter.exact_match",
        verdicts,
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let accuracy = |arm: &str| results.mean(arm, "after.chapter.exact_match");
    let general = |arm: &str| results.mean(arm, "after.general.perplexity");
    let (full, houlsby) = (accuracy("full fine-tuning"), accuracy("Houlsby"));
    let (forgot_full, forgot) = (general("full fine-tuning"), general("Houlsby"));
    vec![
        Verdict {
            statement: format!(
                "Houlsby adapters are within three points of full fine-tuning ({:.1} % against {:.1} %)",
                100.0 * houlsby,
                100.0 * full
            ),
            holds: houlsby >= full - 0.03,
        },
        Verdict {
            statement: format!("their general perplexity is the lower one ({forgot:.2} against {forgot_full:.2})"),
            holds: forgot < forgot_full,
        },
    ]
}
