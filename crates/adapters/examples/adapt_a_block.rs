//! A bottleneck adapter behind a `tch::nn` module that is frozen, trained by tch's own optimiser.
//!
//! `cargo run -p finetune-adapters --example adapt_a_block`

use std::error::Error;

use adapters::tch::nn::{self, ModuleT, OptimizerConfig};
use adapters::tch::{self, Device, Kind, Tensor};
use adapters::tensor_core::bridge::{self, FrozenModule, SublayerModule};
use adapters::{AdapterConfig, Insertion, Preset, ReductionFactor};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let mut store = nn::VarStore::new(Device::Cpu);
    let block = nn::seq()
        .add(nn::linear(store.root() / "up", 32, 64, nn::LinearConfig::default()))
        .add_fn(Tensor::relu)
        .add(nn::linear(store.root() / "down", 64, 32, nn::LinearConfig::default()));
    let x = Tensor::randn([256, 32], (Kind::Float, Device::Cpu));
    let before = tch::no_grad(|| block.forward_t(&x, false));
    let wanted = &before + before.tanh() * 0.5;

    // The module as a sublayer, the adapter behind it, and the two as a module again.
    let config = AdapterConfig {
        reduction_factor: ReductionFactor::All(2.0),
        ..AdapterConfig::of(Preset::SeqBn)
    };
    let insertion = Insertion::new(config, 32, 1, Device::Cpu)?;
    let frozen = Box::new(FrozenModule::new(block, &mut store));
    let adapted = SublayerModule::new(insertion.sublayer(&"layers.0.mlp".into(), frozen)?);
    let same = (adapted.forward_t(&x, false) - &before).abs().max().double_value(&[]);
    assert!(same < 1e-6, "a new adapter adds nothing");

    let adapter = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&adapted, &adapter.root());
    let mut optimizer = nn::Adam::default().build(&adapter, 1e-2)?;
    let loss = || adapted.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..300 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    println!("loss {before:.5} before, {after:.5} after 300 steps");
    assert!(after < before / 5.0, "the adapter learns what shall be added");
    Ok(())
}
