//! The comparison as a table: medians, ratios and spread, and what share of the machine's own rate a step reaches.

use super::watch::Measured;
use anyhow::{Result, ensure};
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs;

/// One program and its turns.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) turns: Vec<Measured>,
}

/// bf16 matrix products on this machine, in TFLOP/s.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Rates {
    /// 2048 × 2048 × 2048.
    square: f64,
    /// 2048 rows through SmolLM2's largest projection, 576 → 3072.
    model: f64,
}

/// Steps that warm up caches and allocators, and are not counted.
const WARM_UP: usize = 3;

/// Floating-point operations of a token's LoRA step on SmolLM2-135M in documents of 512 tokens.
///
/// Forward and input gradient of every frozen matrix (134.5 M weights, the tied head included): 4 each. Adapters of rank 16
/// (4.9 M): 6 each. Attention: two products of 512 / 2 visible tokens × 576, forward once and backward twice, in 30 layers.
const OPERATIONS_PER_TOKEN: f64 = 4.0 * 134.5e6 + 6.0 * 4.9e6 + 3.0 * 2.0 * 2.0 * 256.0 * 576.0 * 30.0;

#[derive(Clone, Copy, Debug)]
struct Summary {
    /// Of the turns' medians: the middle, the least, the most.
    speed: [f64; 3],
    peak_bytes: f64,
    first_step: f64,
}

fn summary(side: &Side) -> Result<Summary> {
    let mut speeds = Vec::new();
    for turn in &side.turns {
        ensure!(
            turn.ends.len() > WARM_UP + 1,
            "{}: {} steps are too few",
            side.name,
            turn.ends.len()
        );
        let steps = WARM_UP + 1..turn.ends.len();
        let speed =
            |step: usize| (turn.tokens[step] - turn.tokens[step - 1]) as f64 / (turn.ends[step] - turn.ends[step - 1]);
        let speed = median(steps.map(speed).collect());
        ensure!(
            speed > 0.0,
            "{}: no step said how many `tokens` were trained on",
            side.name
        );
        speeds.push(speed);
    }
    let all = |value: fn(&Measured) -> f64| median(side.turns.iter().map(value).collect());
    let [least, most] =
        [f64::min as fn(f64, f64) -> f64, f64::max].map(|pick| speeds.iter().copied().reduce(pick).unwrap_or_default());
    Ok(Summary {
        speed: [median(speeds), least, most],
        peak_bytes: all(|turn| turn.peak_bytes as f64),
        first_step: all(|turn| turn.ends[0]),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A method a row, with the ratio of its step's time and its memory to the first one's; turn by turn, so that a machine
/// that wanders does it to both.
pub(super) fn methods(sides: &[Side], threads: usize) -> Result<String> {
    let mut text = format!(
        "\nSmolLM2-135M, bf16, r 16 on all linear layers, 4 × 512 tokens a step, {threads} threads; {}\n\n\
         | | tokens/s (least to most) | time of a step (least to most) | peak memory | memory |\n|---|---|---|---|---|\n",
        machine(),
    );
    let of_turn = |side: &Side, turn: usize| {
        summary(&Side {
            name: side.name,
            turns: vec![side.turns[turn].clone()],
        })
    };
    let first = summary(&sides[0])?;
    for side in sides {
        let found = summary(side)?;
        let mut ratios = Vec::new();
        for turn in 0..side.turns.len() {
            ratios.push(of_turn(&sides[0], turn)?.speed[0] / of_turn(side, turn)?.speed[0]);
        }
        let [middle, least, most] = found.speed;
        let (low, high) = ratios.iter().fold((f64::INFINITY, 0.0f64), |(low, high), &ratio| {
            (low.min(ratio), high.max(ratio))
        });
        let _ = writeln!(
            text,
            "| {} | {middle:.0} ({least:.0} to {most:.0}) | {:.2} × ({low:.2} to {high:.2}) | {:.2} GB | {:.2} × |",
            side.name,
            median(ratios),
            found.peak_bytes / 1e9,
            found.peak_bytes / first.peak_bytes,
        );
    }
    Ok(text)
}

/// The table; the first side is ours, and the others are compared with it.
pub(super) fn table(sides: &[Side], rates: &Rates, threads: usize) -> Result<String> {
    let summaries = sides.iter().map(summary).collect::<Result<Vec<_>>>()?;
    let mut text = format!(
        "\nSmolLM2-135M, bf16, LoRA r 16 on all linear layers, 4 × 512 tokens a step, {threads} threads; {}\n\n\
         | | tokens/s (least to most) | peak memory | first step after |\n|---|---|---|---|\n",
        machine(),
    );
    for (side, found) in sides.iter().zip(&summaries) {
        let [middle, least, most] = found.speed;
        let memory = found.peak_bytes / 1e9;
        let _ = writeln!(
            text,
            "| {} | {middle:.0} ({least:.0} to {most:.0}) | {memory:.2} GB | {:.1} s |",
            side.name, found.first_step
        );
    }
    if let Some((ours, others)) = summaries.split_first() {
        for (side, other) in sides[1..].iter().zip(others) {
            let _ = writeln!(
                text,
                "| ours against {} | {:.2} × | {:.2} × | {:.2} × |",
                side.name,
                ours.speed[0] / other.speed[0],
                ours.peak_bytes / other.peak_bytes,
                ours.first_step / other.first_step,
            );
        }
        let step = ours.speed[0] * OPERATIONS_PER_TOKEN / 1e12;
        let _ = writeln!(
            text,
            "\nThe machine multiplies bf16 matrices at {:.2} TFLOP/s (2048³), {:.2} at the model's sizes; our step does {step:.2}, {:.0} % of the former.",
            rates.square,
            rates.model,
            100.0 * step / rates.square,
        );
    }
    Ok(text)
}

fn machine() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split(':').nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{}, {cores} cores", name.map_or("unknown processor", str::trim))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(seconds_a_step: f64, peak_bytes: u64) -> Measured {
        // A slow start and one straggler, which the median leaves out.
        let mut ends = vec![5.0, 9.0, 12.0];
        for step in 0..7 {
            let last = ends[ends.len() - 1];
            ends.push(last + if step == 4 { 9.0 } else { seconds_a_step });
        }
        Measured {
            ends,
            tokens: (1..=10).map(|step| 2048 * step).collect(),
            peak_bytes,
        }
    }

    #[test]
    fn ratios_are_of_medians_and_the_spread_is_shown() {
        let ours = Side {
            name: "ours",
            turns: vec![
                turn(1.0, 1_000_000_000),
                turn(0.8, 1_200_000_000),
                turn(1.6, 1_100_000_000),
            ],
        };
        let theirs = Side {
            name: "PEFT",
            turns: vec![turn(8.0, 8_800_000_000)],
        };
        let text = table(
            &[ours, theirs],
            &Rates {
                square: 2.6,
                model: 2.0,
            },
            2,
        )
        .unwrap();
        assert!(
            text.contains("| ours | 2048 (1280 to 2560) | 1.10 GB | 5.0 s |"),
            "{text}"
        );
        assert!(text.contains("| PEFT | 256 (256 to 256) | 8.80 GB | 5.0 s |"), "{text}");
        assert!(
            text.contains("| ours against PEFT | 8.00 × | 0.12 × | 1.00 × |"),
            "{text}"
        );
        // 2048 tokens/s × 620.5 MFLOP = 1.27 TFLOP/s.
        assert!(text.contains("our step does 1.27, 49 % of"), "{text}");
    }

    #[test]
    fn a_methods_ratio_is_taken_turn_by_turn() {
        let side = |name, turns| Side { name, turns };
        // The machine is half as fast in the second turn, for both.
        let text = methods(
            &[
                side("LoRA", vec![turn(1.0, 1_000_000_000), turn(2.0, 1_000_000_000)]),
                side("DoRA", vec![turn(1.1, 1_500_000_000), turn(2.2, 1_500_000_000)]),
            ],
            2,
        )
        .unwrap();
        assert!(text.contains("| 1.10 × (1.10 to 1.10) | 1.50 GB | 1.50 × |"), "{text}");
        assert!(
            text.contains("| LoRA | 1536 (1024 to 2048) | 1.00 × (1.00 to 1.00) |"),
            "{text}"
        );
    }

    #[test]
    fn too_few_steps_are_refused() {
        let short = Side {
            name: "ours",
            turns: vec![Measured {
                ends: vec![1.0, 2.0, 3.0, 4.0],
                tokens: vec![1, 2, 3, 4],
                peak_bytes: 1,
            }],
        };
        assert!(
            table(
                &[short],
                &Rates {
                    square: 1.0,
                    model: 1.0
                },
                2
            )
            .is_err()
        );
    }
}
