//! QLoRA on a `tch::nn` layer: the weight in 4 bits, an update of low rank beside it, tch's own optimiser.
//!
//! `cargo run -p finetune-quant --example train_beside_four_bits`

use std::error::Error;

use lora::{LoraConfig, Wrapping};
use quant::codec::Scheme;
use quant::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use quant::tch::{self, Device, Kind, Tensor};
use quant::tensor_core::{Linear, ModulePath, bridge};
use quant::{QuantizeConfig, QuantizedWeight};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(store.root() / "layer", 128, 64, nn::LinearConfig::default());
    let x = Tensor::randn([256, 128], (Kind::Float, Device::Cpu));
    let wanted = tch::no_grad(|| layer.forward(&x));

    // How small it gets, and what that costs.
    let config = QuantizeConfig {
        scheme: Scheme::Nf4,
        ..QuantizeConfig::default()
    };
    let packed = QuantizedWeight::of(
        &layer.ws.detach(),
        config.scheme,
        config.block_size,
        config.double_quant,
    )?;
    let (small, large) = (packed.num_bytes(), layer.ws.numel() * 4);
    println!("{large} bytes in f32, {small} in 4 bits");
    assert!(small * 7 < large);

    // The layer as a slot: quantised, then wrapped. What the 4 bits lost is learnt back.
    let path = ModulePath::from("layer");
    let lora = Wrapping::choose(
        LoraConfig {
            r: 16,
            ..LoraConfig::default()
        },
        &[(path.clone(), false)],
        &[],
    )?;
    let slot = Linear::from(&layer)
        .map(&path, &mut |at, base| Ok(Box::new(config.quantize(at, base)?)))?
        .map(&path, &mut |at, base| lora.projection(at, base))?;
    let adapter = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&slot, &adapter.root());
    let mut optimizer = nn::AdamW::default().build(&adapter, 5e-3)?;
    let loss = || slot.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..200 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    println!("squared error of the layer in 4 bits: {before:.2e} before, {after:.2e} after 200 steps of rank 16");
    assert!(after < 0.75 * before, "the update makes up for a part of what was lost");
    Ok(())
}
