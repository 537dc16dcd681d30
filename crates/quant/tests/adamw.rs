//! The optimiser with 8-bit states against bitsandbytes', and against itself in f64.

use golden::Vectors;
use quant::adamw::{EightBits, Parts, Step, adamw};
use quant::codec::{DynamicMap, NESTED_BLOCK};
use tensor_core::blob;

fn step(golden: &Vectors, number: u64) -> Step {
    let value = |name: &str| golden.get(name).double_value(&[]);
    Step {
        number,
        learning_rate: value("lr"),
        weight_decay: value("weight_decay"),
        beta1: value("beta1"),
        beta2: value("beta2"),
        eps: value("eps"),
        gradient_scale: 1.0,
    }
}

fn numbers(golden: &Vectors, name: &str) -> Vec<f32> {
    blob::to_vec::<f32>(&golden.get(name).contiguous())
}

fn state(golden: &Vectors, which: u32, after: u64) -> EightBits {
    if after == 0 {
        return EightBits::zeros(65 * 64);
    }
    EightBits {
        codes: blob::to_vec::<u8>(&golden.get(&format!("state{which}.0.{after}"))),
        absmax: numbers(golden, &format!("absmax{which}.0.{after}")),
    }
}

#[test]
fn each_step_is_the_one_that_bitsandbytes_makes() {
    let golden = Vectors::open("quant/adamw");
    for number in 1..=6 {
        let mut value = numbers(&golden, &format!("parameter.0.{}", number - 1));
        let gradient = numbers(&golden, &format!("gradient.0.{number}"));
        let mut states = [1, 2].map(|which| state(&golden, which, number - 1));
        let [mean, square] = &mut states;
        adamw(
            &mut value,
            &gradient,
            mean.parts(),
            square.parts(),
            &step(&golden, number),
        );
        let wanted = numbers(&golden, &format!("parameter.0.{number}"));
        for (found, wanted) in value.iter().zip(&wanted) {
            // The same operations, some of them fused there or here.
            assert!(
                (found - wanted).abs() <= 2e-6 * wanted.abs().max(0.1),
                "step {number}: {found}, wanted {wanted}"
            );
        }
        for (which, found) in [1, 2].into_iter().zip(&states) {
            let wanted = state(&golden, which, number);
            let apart = found.codes.iter().zip(&wanted.codes).filter(|(a, b)| a != b);
            let far = apart.clone().filter(|(a, b)| a.abs_diff(**b) > 1).count();
            // A mean on the edge between two levels may fall to either side with its last bit.
            assert!(far == 0 && apart.count() <= 4, "step {number}, state {which}");
            let absmax = found.absmax.iter().zip(&wanted.absmax);
            assert!(
                absmax.into_iter().all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs()),
                "step {number}"
            );
        }
    }
}

#[test]
fn a_block_is_moved_as_adamw_moves_it_but_for_the_rounding_of_its_means() {
    // 300 numbers: a whole block and a shorter one.
    let golden = Vectors::open("quant/adamw");
    let start = &numbers(&golden, "parameter.1.0")[..300];
    let normal = numbers(&golden, "parameter.0.0");
    let (mut value, mut exact) = (start.to_vec(), start.iter().map(|&x| f64::from(x)).collect::<Vec<_>>());
    let (mut mean, mut square) = (EightBits::zeros(300), EightBits::zeros(300));
    let mut moments = vec![(0.0f64, 0.0f64); 300];
    for number in 1..=6 {
        let step = Step {
            gradient_scale: 0.25,
            ..step(&golden, number)
        };
        // Normal numbers of one size, as long as a parameter's.
        let gradient = &normal[300 * number as usize..][..300];
        adamw(&mut value, gradient, mean.parts(), square.parts(), &step);
        for ((x, (m, v)), g) in exact.iter_mut().zip(&mut moments).zip(gradient) {
            let g = 0.25 * f64::from(*g);
            *m = step.beta1 * *m + (1.0 - step.beta1) * g;
            *v = step.beta2 * *v + (1.0 - step.beta2) * g * g;
            let power = |beta: f64| 1.0 - beta.powf(number as f64);
            let root = (*v / power(step.beta2)).sqrt() + step.eps;
            *x = *x * (1.0 - step.learning_rate * step.weight_decay)
                - step.learning_rate / power(step.beta1) * *m / root;
        }
    }
    let moved: f64 = start.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let off: f64 = value.iter().zip(&exact).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum();
    let share = (off / moved).sqrt();
    assert!(share > 1e-5 && share < 0.1, "off by {share} of the way");
}

#[test]
fn means_stay_within_a_level_of_the_exact_ones() {
    let golden = Vectors::open("quant/adamw");
    let gradient = numbers(&golden, "gradient.0.1");
    let (mut value, mut mean, mut square) = (
        vec![0.0; gradient.len()],
        EightBits::zeros(gradient.len()),
        EightBits::zeros(gradient.len()),
    );
    adamw(&mut value, &gradient, mean.parts(), square.parts(), &step(&golden, 1));
    let mut found = vec![0.0; gradient.len()];
    DynamicMap::signed().dequantise(&mean.codes, &mean.absmax, &mut found);
    for (idx, (found, gradient)) in found.iter().zip(&gradient).enumerate() {
        let wanted = 0.1 * gradient;
        // The widest gap of the signed map's last decade is 0.9 / 64.
        let allowed = 0.9 / 64.0 / 2.0 * mean.absmax[idx / NESTED_BLOCK] * 1.0001;
        assert!((found - wanted).abs() <= allowed, "{found}, wanted {wanted}");
    }
}

#[test]
#[should_panic(expected = "an absmax a block")]
fn states_of_another_length_are_refused() {
    let (mut codes, mut absmax) = (vec![0; 300], vec![0.0; 1]);
    let mut square = EightBits::zeros(300);
    let mean = Parts {
        codes: &mut codes,
        absmax: &mut absmax,
    };
    let golden = Vectors::open("quant/adamw");
    adamw(
        &mut vec![0.0; 300],
        &vec![0.0; 300],
        mean,
        square.parts(),
        &step(&golden, 1),
    );
}
