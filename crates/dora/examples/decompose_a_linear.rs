//! A `tch::nn` layer learns by DoRA: magnitudes train beside the direction, with tch's own optimiser.
//!
//! `cargo run -p finetune-dora --example decompose_a_linear`

use std::error::Error;

use dora::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use dora::tch::{self, Device, Kind, Tensor};
use dora::tensor_core::{Linear, bridge};
use dora::{DoraConfig, Wrapping};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(store.root() / "layer", 32, 8, nn::LinearConfig::default());
    let x = Tensor::randn([256, 32], (Kind::Float, Device::Cpu));
    // Every output shall be twice as large: a change of magnitude alone, of full rank as a matrix.
    let wanted = tch::no_grad(|| layer.forward(&x) * 2.0);
    let was = layer.ws.copy();

    let wrapping = Wrapping::choose(&DoraConfig::default(), &[("layer".into(), false)], &[])?;
    let slot = Linear::from(&layer).map(&"layer".into(), &mut |at, base| wrapping.projection(at, base))?;
    let adapter = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&slot, &adapter.root());
    let mut optimizer = nn::Adam::default().build(&adapter, 1e-2)?;
    let loss = || slot.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..300 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    println!("loss {before:.4} before, {after:.4} after 300 steps");
    println!(
        "trained: {:?}",
        adapter.variables().keys().collect::<std::collections::BTreeSet<_>>()
    );
    assert!(after < before / 5.0, "the magnitudes carry the change");
    assert!(layer.ws.equal(&was), "the layer itself has not changed");
    Ok(())
}
