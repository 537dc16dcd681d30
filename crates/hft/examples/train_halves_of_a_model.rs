//! A `tch::nn` model is trained half by half: each round freezes other layers' matrices, and these keep what they were.
//!
//! `cargo run -p finetune-hft --example train_halves_of_a_model`

use std::error::Error;

use hft::tch::nn::{self, Module, OptimizerConfig};
use hft::tch::{self, Device, Kind, Tensor};
use hft::tensor_core::Role;
use hft::{Granularity, Halves, HftConfig, Resample, freeze, pieces_of_store};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    // Four layers, named as layers are: `layers.0.up_proj` and so on.
    let store = nn::VarStore::new(Device::Cpu);
    let layers: Vec<[nn::Linear; 2]> = (0..4)
        .map(|idx| {
            let at = store.root() / "layers" / idx;
            let up = nn::linear(&at / "up_proj", 16, 32, nn::LinearConfig::default());
            [up, nn::linear(&at / "down_proj", 32, 16, nn::LinearConfig::default())]
        })
        .collect();
    let x = Tensor::randn([256, 16], (Kind::Float, Device::Cpu));
    let wanted = x.flip([1]).relu();
    let loss = || {
        let step = |x: Tensor, [up, down]: &[nn::Linear; 2]| &x + down.forward(&up.forward(&x).relu());
        layers
            .iter()
            .fold(x.shallow_clone(), step)
            .mse_loss(&wanted, tch::Reduction::Mean)
    };

    // What may be chosen among. The layer's own role is for the caller to say: here vectors are biases.
    let pieces = pieces_of_store(&store, |_, value| if value.dim() < 2 { Role::Norm } else { Role::Base });
    let config = HftConfig {
        granularity: Granularity::Model,
        resample: Resample::Epoch,
        complement: true,
        ..HftConfig::default()
    };
    let halves = Halves::new(&config, &pieces)?;
    let before = loss().double_value(&[]);
    for round in 0..6 {
        let selection = halves.draw(round);
        freeze(&selection, &store);
        let was = copies(&store);
        // An optimiser of its own for each round: what it remembers of the frozen half would move it.
        let mut optimizer = nn::Adam::default().build(&store, 3e-3)?;
        for _ in 0..50 {
            optimizer.backward_step(&loss());
        }
        for (name, value) in copies(&store) {
            let moved = !value.equal(&was[&name]);
            assert_eq!(
                moved,
                selection.trains(&name.as_str().into()),
                "{name} in round {round}"
            );
        }
        let share = 100.0 * selection.trained_share();
        println!(
            "round {round}: {share:.0} % of the numbers trained, loss {:.4}",
            loss().double_value(&[])
        );
    }
    assert!(
        loss().double_value(&[]) < before / 2.0,
        "the halves together learn the task"
    );
    Ok(())
}

fn copies(store: &nn::VarStore) -> std::collections::BTreeMap<String, Tensor> {
    store
        .variables()
        .into_iter()
        .map(|(name, value)| (name, value.detach().copy()))
        .collect()
}
