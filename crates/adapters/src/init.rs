//! How the two matrices begin.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rand_distr::StandardNormal;
use tch::{Device, Kind, Tensor};

use crate::InitWeights;

/// `W_down` `[m, d]` and `W_up` `[d, m]` in f32 on the CPU.
pub(crate) fn matrices(init: InitWeights, width: i64, bottleneck: i64, seed: u64) -> (Tensor, Tensor) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (down, up) = ([bottleneck, width], [width, bottleneck]);
    let zeros = Tensor::zeros(up, (Kind::Float, Device::Cpu));
    match init {
        InitWeights::Zero => (draw(down, || normal(&mut rng) * 0.02), zeros),
        InitWeights::Bert => {
            let down = draw(down, || normal(&mut rng) * 0.02);
            (down, draw(up, || normal(&mut rng) * 0.02))
        }
        InitWeights::Mam => {
            let bound = 1.0 / (width as f32).sqrt();
            (draw(down, || rng.random_range(-bound..bound)), zeros)
        }
        InitWeights::Houlsby => {
            let down = draw(down, || cut_off(&mut rng) * 0.01);
            (down, draw(up, || cut_off(&mut rng) * 0.01))
        }
    }
}

fn draw(shape: [i64; 2], mut one: impl FnMut() -> f32) -> Tensor {
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| one()).collect();
    Tensor::from_slice(&values).view(shape)
}

fn normal(rng: &mut StdRng) -> f32 {
    rng.sample(StandardNormal)
}

/// A normal number within two deviations.
fn cut_off(rng: &mut StdRng) -> f32 {
    loop {
        let drawn = normal(rng);
        if drawn.abs() <= 2.0 {
            return drawn;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deviation and largest size.
    fn spread(matrix: &Tensor) -> (f64, f64) {
        (
            matrix.std(false).double_value(&[]),
            matrix.abs().max().double_value(&[]),
        )
    }

    #[test]
    fn each_way_draws_what_it_says() {
        let (width, bottleneck) = (100, 90);
        let of = |init| matrices(init, width, bottleneck, 3);
        // Deviations of 9,000 draws lie within 5 % of the truth by seven of their own deviations.
        let near = |found: f64, wanted: f64| assert!((found / wanted - 1.0).abs() < 0.05, "{found}, wanted {wanted}");
        for init in [InitWeights::Zero, InitWeights::Mam] {
            assert_eq!(spread(&of(init).1), (0.0, 0.0), "{init:?}");
        }
        near(spread(&of(InitWeights::Zero).0).0, 0.02);
        near(spread(&of(InitWeights::Bert).0).0, 0.02);
        near(spread(&of(InitWeights::Bert).1).0, 0.02);
        let (deviation, largest) = spread(&of(InitWeights::Mam).0);
        near(deviation, 0.1 / 3f64.sqrt());
        assert!(largest <= 0.1);
        let (deviation, largest) = spread(&of(InitWeights::Houlsby).1);
        // A normal cut off at two deviations has 0.8796 of its deviation.
        near(deviation, 0.008_796);
        assert!(largest <= 0.02);
        assert_eq!(of(InitWeights::Bert), of(InitWeights::Bert));
        assert_ne!(
            of(InitWeights::Bert).0,
            matrices(InitWeights::Bert, width, bottleneck, 4).0
        );
    }
}
