//! What two processes side by side lose on the same cores, with `crowd` and without it: a measurement.

use std::process::{Command, Stdio};
use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::crowd;

/// In the environment of a process whose threads always spin.
const SPINS: &str = "CROWD_SPINS";
/// In the environment of a process: how long it is measured.
const SECONDS: &str = "CROWD_SECONDS";

/// Steps of gradient descent in a second: a small net of libtorch's products and loops of this module in turns, as in
/// training, on a thread for each core.
fn steps_a_second(seconds: f64) -> f64 {
    let cores = std::thread::available_parallelism().unwrap().get();
    super::set_num_threads(cores).unwrap();
    tch::manual_seed(1);
    let random = |shape: [i64; 2]| Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.05;
    let (input, wanted) = (random([256, 256]), random([256, 256]));
    let mut weights = [random([256, 512]), random([512, 256])].map(|weight| weight.set_requires_grad(true));
    let mut scratch = vec![1.0_f32; 1 << 16];
    let mut step = || {
        let [first, second] = &weights;
        let loss = (input.matmul(first).relu().matmul(second) - &wanted)
            .square()
            .mean(Kind::Float);
        loss.backward();
        for _ in 0..8 {
            super::for_each_chunk(&mut scratch, 1024, |part| {
                for value in part {
                    *value = value.mul_add(0.5, 0.5).sqrt();
                }
            });
        }
        tch::no_grad(|| {
            for weight in &mut weights {
                let change = weight.grad() * -0.1;
                let _ = weight.g_add_(&change);
                weight.zero_grad();
            }
        });
    };
    // The first looks, and whatever is set up once.
    let warm = Instant::now();
    while warm.elapsed().as_secs_f64() < 0.5 {
        step();
    }
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed().as_secs_f64() < seconds {
        step();
        count += 1;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "one of the processes that `what_two_runs_side_by_side_lose` starts"]
fn one_run() {
    let seconds = std::env::var(SECONDS).unwrap_or_else(|_| "1".into());
    if std::env::var_os(SPINS).is_some() {
        crowd::never_look();
    }
    let rate = steps_a_second(seconds.parse().unwrap());
    assert!(rate > 0.0, "no step in {seconds} s");
    println!("steps a second: {rate}");
}

/// Prints what is left of the speed of one process where two run side by side, with the team and without it. Half of it
/// would be the fair share.
#[test]
#[ignore = "a measurement of a minute and a half, for a machine that does nothing else"]
fn what_two_runs_side_by_side_lose() {
    let runs = |count: usize, spins: bool| -> f64 {
        let start = || {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "parallel::side_by_side::one_run", "--ignored", "--nocapture"]);
            command.env(SECONDS, "3").stdout(Stdio::piped());
            if spins {
                command.env(SPINS, "1");
            }
            command.spawn().unwrap()
        };
        let children: Vec<_> = (0..count).map(|_| start()).collect();
        let rates = children.into_iter().map(|child| {
            let found = child.wait_with_output().unwrap();
            let text = String::from_utf8(found.stdout).unwrap();
            let rate = text
                .split("steps a second: ")
                .nth(1)
                .and_then(|rest| rest.split_whitespace().next());
            rate.unwrap_or_else(|| panic!("no rate in: {text}"))
                .parse::<f64>()
                .unwrap()
        });
        rates.sum::<f64>() / count as f64
    };
    // Turns, so that what else the machine does meets all four alike.
    let mut found = [const { Vec::new() }; 4];
    for _ in 0..5 {
        for (at, (count, spins)) in [(1, false), (1, true), (2, false), (2, true)].into_iter().enumerate() {
            found[at].push(runs(count, spins));
        }
    }
    let names = [
        "alone",
        "alone, always spinning",
        "each of two",
        "each of two, always spinning",
    ];
    for (name, rates) in names.into_iter().zip(&mut found) {
        rates.sort_by(f64::total_cmp);
        println!(
            "{name}: {:.1} steps/s (median of 5, {:.1} to {:.1})",
            rates[2], rates[0], rates[4]
        );
        assert!(rates[0] > 0.0, "{name}");
    }
    let [alone, _, sleeping, spinning] = found.map(|rates| rates[2]);
    println!(
        "two side by side: each {:.2} of one alone; always spinning {:.2}",
        sleeping / alone,
        spinning / alone
    );
}
