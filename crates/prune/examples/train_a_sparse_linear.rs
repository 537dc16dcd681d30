//! A `tch::nn` layer loses half its weights by Wanda's rule; what is left is trained on, and the zeros stay zeros.
//!
//! `cargo run -p finetune-prune --example train_a_sparse_linear`

use std::error::Error;

use prune::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use prune::tch::{self, Device, Kind, Tensor};
use prune::tensor_core::{Dense, Linear, Param, Role, bridge};
use prune::{InputNorms, Mask, Masked, Sparsity, wanda};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(store.root() / "layer", 32, 16, nn::LinearConfig::default());
    // Inputs that go together: what one pruned weight did, the others can do.
    let common = Tensor::randn([512, 8], (Kind::Float, Device::Cpu));
    let x = common.matmul(&Tensor::randn([8, 32], (Kind::Float, Device::Cpu)));
    let wanted = tch::no_grad(|| layer.forward(&x));

    // Which weights go: the small ones, weighed by the size of what they are multiplied with; of every four, two.
    let mut norms = InputNorms::new(32);
    norms.add(&x);
    let mask = wanda(&layer.ws.detach(), &norms.norms(), Sparsity::Pattern("2:4".parse()?))?;
    let sparse = Param::trainable(&mask.apply(&layer.ws.detach()), Role::Base);
    let bias = layer
        .bs
        .as_ref()
        .map(|bias| Param::frozen(bias.shallow_clone(), Role::Norm));
    let slot = Linear::new(Masked::new(Box::new(Dense::new(sparse)), mask)?, bias);

    let trained = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&slot, &trained.root());
    let mut optimizer = nn::Adam::default().build(&trained, 1e-3)?;
    let loss = || slot.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..300 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    let zeros = Mask::of(&slot.projection().weight());
    println!(
        "loss {before:.4} when pruned, {after:.4} after 300 steps; {:.0} % are zero",
        100.0 * zeros.sparsity()
    );
    assert!(
        after < before / 2.0,
        "the other weights learn to make up for the pruned ones"
    );
    assert!(zeros.has_pattern("2:4".parse()?), "and the pruned ones stay zero");
    Ok(())
}
