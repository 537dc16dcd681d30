//! Half fine-tuning: three tasks in sequence, and what is left of the earlier ones.

use super::super::data::TASKS;
use super::super::results::{Measures, Results};
use super::super::study::{Arm, Form, Step, Study, Verdict};
use super::{MODEL, Run, column, lora};

/// Rows of each task.
const TRAINED: usize = 320;

pub(super) fn study(scale: usize) -> Study {
    let full = "[[surgery]]\nkind = \"full\"\n";
    let half = "[[surgery]]\nkind = \"hft\"\nseed = {stage}{seed}\n";
    Study {
        name: "hft",
        title: "Half fine-tuning forgets less than full fine-tuning",
        claim: "Hui et al. 2024 (arXiv:2404.18466), the continual table: trained on tasks in sequence, half fine-tuning keeps \
                more of the earlier ones and of general knowledge than full fine-tuning. Here: three tasks of short \
                questions. Overall performance is the mean accuracy at the end, backward transfer the mean change of the \
                first two tasks since each was learnt (over T - 1, as TRACE defines it). The controls: a lower learning rate, \
                and the mean of tuned and base weights after each task. \
                The base is SmolLM2-135M-Instruct from a Q4_1 file, dequantised.",
        arms: vec![
            Arm::new("base", vec![Step::evaluate("s3", MODEL, None, "all.toml")]).without_chance(),
            sequence("full", full, 5e-5, scale, &[]),
            sequence("half", half, 5e-5, scale, &[]),
            sequence("full at half the rate", full, 2.5e-5, scale, &[]),
            sequence("full, averaged with its start", full, 5e-5, scale, &["average"]),
            sequence("LoRA r 16", &lora(16), 3e-4, scale, &["merge"]),
        ],
        columns: vec![
            column("overall", "overall performance", Form::Share),
            column("backward", "backward transfer", Form::Share),
            column(
                "s3.general.perplexity",
                "general perplexity at the end",
                Form::Digits(2),
            ),
            column(
                "t3.eval/held_out_loss",
                "held-out loss of the last task",
                Form::Digits(4),
            ),
            column("t1.peak_memory", "peak memory", Form::Gigabytes),
        ],
        drawn: "s3.general.perplexity",
        verdicts,
    }
}

/// The three tasks in order, each from the model that the one before left and measured then; all measured at the end.
fn sequence(name: &str, surgery: &str, learning_rate: f64, scale: usize, after: &[&str]) -> Arm {
    let mut steps = Vec::new();
    let mut model = MODEL.to_owned();
    for (idx, (task, stage)) in TASKS.into_iter().zip(["t1", "t2", "t3"]).enumerate() {
        let surgery = surgery.replace("{stage}", &(idx + 1).to_string());
        let recipe = Run {
            model: &model,
            surgery: &surgery,
            task,
            learning_rate,
            scale,
        }
        .recipe_of(TRAINED);
        steps.push(Step::Train { name: stage, recipe });
        let mut left = format!("{{out}}/{stage}");
        for verb in after {
            let made = format!("{{out}}/{stage}-{verb}");
            steps.push(match *verb {
                "merge" => Step::run(&format!("merge --model {model} --adapter {left} --output {made}")),
                _ => Step::run(&format!(
                    "reset --model {left} --base {model} --average 0.5 --output {made}"
                )),
            });
            left = made;
        }
        let suite = ["chapter.toml", "region.toml", "all.toml"][idx];
        steps.push(Step::evaluate(&format!("s{}", idx + 1), &left, None, suite));
        model = left;
    }
    Arm::new(name, steps)
}

/// TRACE's two numbers: from each task's accuracy when it was learnt, and all of them at the end.
pub(crate) fn derive(measures: &mut Measures) {
    let accuracy = |after: usize, task: &str| measures.get(&format!("s{after}.{task}.exact_match")).copied();
    let last: Option<Vec<f64>> = TASKS.iter().map(|task| accuracy(3, task)).collect();
    let changes: Option<Vec<f64>> = TASKS[..2]
        .iter()
        .enumerate()
        .map(|(idx, task)| Some(accuracy(3, task)? - accuracy(idx + 1, task)?))
        .collect();
    if let Some(last) = last {
        measures.insert("overall".into(), last.iter().sum::<f64>() / 3.0);
    }
    if let Some(changes) = changes {
        measures.insert("backward".into(), changes.iter().sum::<f64>() / 2.0);
    }
}

fn verdicts(results: &Results) -> Vec<Verdict> {
    let of = |arm: &str, key: &str| results.mean(arm, key);
    let general = "s3.general.perplexity";
    let (full, half, lower) = (
        of("full", general),
        of("half", general),
        of("full at half the rate", general),
    );
    let (back_full, back_half) = (of("full", "backward"), of("half", "backward"));
    let (loss_full, loss_half) = (of("full", "t3.eval/held_out_loss"), of("half", "t3.eval/held_out_loss"));
    vec![
        Verdict {
            statement: format!(
                "half fine-tuning's general perplexity is below full fine-tuning's by more than the seeds' spread ({half:.2} against {full:.2})"
            ),
            holds: results.is_clearly_below("half", "full", general),
        },
        Verdict {
            statement: format!(
                "its backward transfer is the higher one ({:.1} % against {:.1} %)",
                100.0 * back_half,
                100.0 * back_full
            ),
            holds: back_half > back_full,
        },
        Verdict {
            statement: format!(
                "its loss on the last task is within 5 % of full fine-tuning's ({loss_half:.4} against {loss_full:.4})"
            ),
            holds: loss_half <= 1.05 * loss_full,
        },
        Verdict {
            statement: format!(
                "and below that of full fine-tuning at half the rate, the plain control ({half:.2} against {lower:.2})"
            ),
            holds: results.is_clearly_below("half", "full at half the rate", general),
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overall_performance_and_backward_transfer_are_traces() {
        let rows = [(1, 0, 0.8), (2, 1, 0.9), (3, 0, 0.4), (3, 1, 0.7), (3, 2, 0.6)];
        let mut measures: Measures = rows
            .into_iter()
            .map(|(after, task, value)| (format!("s{after}.{}.exact_match", TASKS[task]), value))
            .collect();
        derive(&mut measures);
        // ((.4 - .8) + (.7 - .9)) / 2 = -.3, (.4 + .7 + .6) / 3.
        assert!((measures["backward"] + 0.3).abs() < 1e-12);
        assert!((measures["overall"] - 1.7 / 3.0).abs() < 1e-12);
    }
}
