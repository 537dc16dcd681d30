//! What the demo prints at its end: one table, before and after.

use super::data::Data;
use super::finetune::{Measured, Run};
use fetch::rows::HELD_OUT;
use fetch::size;
use std::fmt::Write as _;
use std::time::Duration;

/// Everything that was measured.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) before: Measured,
    pub(super) after: Measured,
    pub(super) answers_before: Vec<String>,
    pub(super) answers_after: Vec<String>,
    pub(super) run: Run,
    /// Headlines that were trained on.
    pub(super) rows: usize,
    /// Until everything was fetched and built.
    pub(super) ready: Duration,
    pub(super) trained: Duration,
    pub(super) total: Duration,
}

/// Characters of a headline or an answer that are shown.
const WIDTH: usize = 58;

/// The table.
pub(super) fn table(outcome: &Outcome, data: &Data, model: &str, output: &str) -> String {
    let Outcome { before, after, run, .. } = outcome;
    let mut text = format!("\n{model}: is this headline sarcastic?\n\n");
    let mut row = |what: &str, before: &str, after: &str| {
        let _ = writeln!(text, "  {what:<WIDTH$}  {before:>12}  {after:>12}");
    };
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    row("", "before", "after");
    row(
        &format!("accuracy on {HELD_OUT} held-out headlines"),
        &percent(before.accuracy),
        &percent(after.accuracy),
    );
    row("macro-F1 on them", &percent(before.macro_f1), &percent(after.macro_f1));
    row(
        "perplexity on general text",
        &format!("{:.2}", before.perplexity),
        &format!("{:.2}", after.perplexity),
    );
    row("", "", "");
    row("held-out headline (right answer)", "answer", "answer");
    let answers = outcome.answers_before.iter().zip(&outcome.answers_after);
    for ((headline, label), (before, after)) in data.shown.iter().zip(answers) {
        row(
            &format!("{} ({label})", short(headline, WIDTH - 4)),
            &short(before, 12),
            &short(after, 12),
        );
    }
    let minutes = |time: Duration| format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60);
    let _ = write!(
        text,
        "\n  training   {} headlines, {} steps, {} ({:.0} tokens/s, peak memory {})\n\
         \x20 total      {}, of which fetching and building {}\n\
         \x20 adapter    {output}/adapter_model.safetensors (loads in PEFT); the run's report is {output}/report.md\n\
         \x20 try it     cargo run --release -p finetune -- chat --model {model} --adapter {output}\n",
        outcome.rows,
        run.steps,
        minutes(outcome.trained),
        run.tokens_per_second,
        size(run.peak_memory_bytes as u64),
        minutes(outcome.total),
        minutes(outcome.ready),
    );
    text
}

/// One line of at most `width` characters.
fn short(text: &str, width: usize) -> String {
    let line: Vec<char> = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().collect();
    if line.len() <= width {
        line.into_iter().collect()
    } else {
        line[..width - 1].iter().chain(&['…']).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_every_number_once_and_where_the_adapter_lies() {
        let outcome = Outcome {
            before: Measured {
                accuracy: 0.498,
                macro_f1: 0.332,
                perplexity: 20.25,
            },
            after: Measured {
                accuracy: 0.842,
                macro_f1: 0.8415,
                perplexity: 20.75,
            },
            answers_before: vec!["I would say that this is a joke.".into()],
            answers_after: vec!["1".into()],
            run: Run {
                tokens_per_second: 1500.0,
                peak_memory_bytes: 1.25e9,
                steps: 188,
            },
            rows: 3000,
            ready: Duration::from_secs(61),
            trained: Duration::from_secs(185),
            total: Duration::from_secs(304),
        };
        let data = Data {
            suite: "s".into(),
            questions: "q".into(),
            shown: vec![("area man\nwins".into(), "1".into())],
        };
        let text = table(&outcome, &data, "m", "runs/demo");
        let wanted = [
            "49.8 %",
            "84.2 %",
            "33.2 %",
            "84.2 %",
            "20.25",
            "20.75",
            "area man wins (1)",
            "I would say…",
        ];
        for wanted in wanted.iter().chain(&[
            "1500 tokens/s",
            "1250 MB",
            "3000 headlines",
            "188 steps",
            "3 min 05 s",
            "runs/demo/adapter_model",
        ]) {
            assert!(text.contains(wanted), "`{wanted}` in\n{text}");
        }
    }
}
