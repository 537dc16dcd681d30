//! A `tch::nn` model learns a second task by LoRA, with tch's own optimiser: two small factors train, the model stays.
//!
//! `cargo run -p finetune-lora --example adapt_a_linear`

use std::error::Error;

use lora::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use lora::tch::{self, Device, Kind, Tensor};
use lora::tensor_core::{Linear, bridge};
use lora::{LoraConfig, Wrapping};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    // A model that is not ours, and a task whose answers differ from the model's by a product of rank 1.
    let store = nn::VarStore::new(Device::Cpu);
    let first = nn::linear(store.root() / "first", 16, 64, nn::LinearConfig::default());
    let second = nn::linear(store.root() / "second", 64, 8, nn::LinearConfig::default());
    let x = Tensor::randn([256, 16], (Kind::Float, Device::Cpu));
    let hidden = first.forward(&x).relu().detach();
    let change =
        Tensor::randn([8, 1], (Kind::Float, Device::Cpu)).matmul(&Tensor::randn([1, 64], (Kind::Float, Device::Cpu)));
    let wanted = tch::no_grad(|| second.forward(&hidden) + hidden.matmul(&change.tr()) * 0.1);
    let was = second.ws.copy();

    // The layer as a slot, and LoRA in the slot. The names are those that `target_modules` chooses by.
    let config = LoraConfig {
        r: 4,
        lora_alpha: 8.0,
        ..LoraConfig::default()
    };
    let wrapping = Wrapping::choose(config, &[("second".into(), false)], &[])?;
    let slot = Linear::from(&second).map(&"second".into(), &mut |at, base| wrapping.projection(at, base))?;

    // What trains, and nothing else, goes to a store of its own: `adapter.save(path)` writes the adapter alone.
    let adapter = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&slot, &adapter.root());
    let mut optimizer = nn::AdamW::default().build(&adapter, 1e-2)?;
    let loss = || slot.forward_t(&hidden, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..200 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    let count: usize = adapter.trainable_variables().iter().map(Tensor::numel).sum();
    println!(
        "loss {before:.4} before, {after:.4} after 200 steps of {count} numbers beside {}",
        was.numel()
    );
    assert!(after < before / 10.0, "LoRA of rank 4 learns a change of rank 1");
    assert!(second.ws.equal(&was), "the layer itself has not changed");

    let adapted = slot.forward_t(&hidden, false);
    let merged = slot.merge().forward_t(&hidden, false);
    let difference = (adapted - merged).abs().max().double_value(&[]);
    println!("merged into one matrix, its answers differ by at most {difference:.1e}");
    assert!(difference < 1e-4);
    Ok(())
}
