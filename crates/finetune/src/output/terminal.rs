//! What is told, on standard error: a line for each thing worth reading, and one bar for the work under way.

use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, OnceLock, PoisonError};

use events::{Event, Events};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

/// Events that this process shows on its terminal.
pub fn events() -> Events {
    static EVENTS: OnceLock<Events> = OnceLock::new();
    EVENTS.get_or_init(|| Events::new(hear)).clone()
}

/// The bars of the work under way, the latest last: one is drawn at a time.
static BARS: Mutex<Vec<(String, ProgressBar)>> = Mutex::new(Vec::new());

/// A line, with the bar out of the way.
pub(super) fn show(text: &str) {
    let bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    match bars.last() {
        Some((_, bar)) => bar.suspend(|| eprintln!("{text}")),
        None => eprintln!("{text}"),
    }
}

fn hear(event: Event) {
    match event {
        Event::Note { text } => show(&text),
        Event::Warning { text } => show(&format!("warning: {text}")),
        Event::Began { work, total, done } => begin(work, total, done),
        Event::Advanced {
            work,
            done,
            total,
            message,
        } => advance(&work, (done, total), message),
        Event::Ended { work } => end(&work),
        Event::Trained { step, epoch, values } => show(&trained(step, epoch, &values)),
        Event::Evaluated { step, values, .. } => show(&measured(step, &values)),
        // The steps and the report show what rollouts and checkpoints are.
        _ => {}
    }
}

fn begin(work: String, total: u64, done: u64) {
    if !io::stderr().is_terminal() {
        return;
    }
    let template = match work.as_str() {
        "steps" => "{bar:30} {pos}/{len} steps  {msg}  {eta} left",
        _ => "{prefix} {wide_bar} {pos}/{len} {eta}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(total).with_style(style).with_prefix(work.clone());
    bar.set_position(done);
    bar.reset_eta();
    let mut bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    bars.push((work, bar));
}

fn advance(work: &str, (done, total): (u64, u64), message: String) {
    let bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, bar)) = bars.iter().rev().find(|(name, _)| name == work) {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message);
    }
}

fn end(work: &str) {
    let mut bars = BARS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(at) = bars.iter().rposition(|(name, _)| name == work) {
        bars.remove(at).1.finish_and_clear();
    }
}

/// A line of the steps since the last one.
fn trained(step: usize, epoch: f64, values: &Map<String, Value>) -> String {
    let number = |name: &str| values.get(name).and_then(Value::as_f64);
    let (Some(loss), Some(rate)) = (number("loss"), number("learning_rate")) else {
        return measured(step, values);
    };
    let speed = number("tokens_per_second").unwrap_or(0.0);
    format!("step {step:>5}  epoch {epoch:.2}  loss {loss:.4}  learning rate {rate:.2e}  {speed:.0} tokens/s")
}

/// A line of what was measured.
fn measured(step: usize, values: &Map<String, Value>) -> String {
    let number = |(name, value): (&String, &Value)| Some(format!("{name} {:.4}", value.as_f64()?));
    let numbers: Vec<String> = values.iter().filter_map(number).collect();
    format!("step {step:>5}  {}", numbers.join("  "))
}
