//! A `tch::nn` layer learns by IA3: a vector over its outputs trains, with tch's own optimiser, and is merged.
//!
//! `cargo run -p finetune-ia3 --example scale_a_linear`

use std::error::Error;

use ia3::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use ia3::tch::{self, Device, Kind, Tensor};
use ia3::tensor_core::{Linear, bridge};
use ia3::{Ia3Config, TargetModules, Wrapping};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(store.root() / "layer", 32, 8, nn::LinearConfig::default());
    let x = Tensor::randn([256, 32], (Kind::Float, Device::Cpu));
    // Every output shall have a size of its own.
    let sizes = Tensor::linspace(-1.0, 3.0, 8, (Kind::Float, Device::Cpu));
    let wanted = tch::no_grad(|| layer.forward(&x) * &sizes);

    let config = Ia3Config {
        target_modules: TargetModules::One("all-linear".into()),
        ..Ia3Config::default()
    };
    let wrapping = Wrapping::choose(config, &[("layer".into(), false)])?;
    let slot = Linear::from(&layer).map(&"layer".into(), &mut |at, base| wrapping.projection(at, base))?;
    let adapter = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&slot, &adapter.root());
    let mut optimizer = nn::Adam::default().build(&adapter, 2e-2)?;
    let loss = || slot.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..400 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    println!("loss {before:.4} before, {after:.6} after 400 steps");
    let [learnt] = [adapter.variables().remove("ia3_l").expect("the vector")];
    println!("learnt {:.2?}", Vec::<f32>::try_from(learnt.view([-1]))?);
    assert!(after < before / 100.0, "eight numbers carry the change");

    let merged = slot.merge().forward_t(&x, false);
    let apart = (merged - wanted).abs().max().double_value(&[]);
    println!("merged, bias too: at most {apart:.4} from what was wanted");
    assert!(apart < 0.1);
    Ok(())
}
