//! A gated feed-forward of `tch::nn` becomes four experts with a router, which are trained by tch's own optimiser.
//!
//! `cargo run -p finetune-moe --example upcycle_a_feed_forward`

use std::error::Error;

use moe::kernels::Activation;
use moe::tch::nn::{self, Module, ModuleT, OptimizerConfig};
use moe::tch::{self, Device, Kind, Tensor};
use moe::tensor_core::bridge::{self, SublayerModule};
use moe::tensor_core::{Dense, Linear, ModulePath, Param, Role};
use moe::{Expert, Experts, Names, Part, Router, RouterConfig, UpcycleConfig};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let no_bias = nn::LinearConfig {
        bias: false,
        ..nn::LinearConfig::default()
    };
    let gate = nn::linear(store.root() / "gate_proj", 16, 16, no_bias);
    let up = nn::linear(store.root() / "up_proj", 16, 16, no_bias);
    let down = nn::linear(store.root() / "down_proj", 16, 16, no_bias);
    let x = Tensor::randn([512, 16], (Kind::Float, Device::Cpu));
    let dense = tch::no_grad(|| down.forward(&(gate.forward(&x).silu() * up.forward(&x))));

    // Each expert begins as the dense layer, so the mixture does too.
    let config = UpcycleConfig {
        num_local_experts: 4,
        num_experts_per_tok: 2,
        ..UpcycleConfig::default()
    };
    config.check()?;
    let at = ModulePath::from("layers.0.block_sparse_moe");
    let experts = (0..config.num_local_experts).map(|idx| {
        let at = at.join("experts").join(idx);
        let slot = |part, layer: &nn::Linear| {
            let weight = config.matrix(&at, part, &layer.ws.detach());
            Linear::new(Dense::new(Param::trainable(&weight, Role::Base)), None)
        };
        let slots = [slot(Part::Gate, &gate), slot(Part::Up, &up), slot(Part::Down, &down)];
        Expert::new(slots, Names::Mixtral, Activation::Silu)
    });
    let experts = experts.collect();
    let matrix = Param::trainable(&config.router(&at, 16), Role::Router);
    let router = Router::new(matrix, RouterConfig::top(config.num_experts_per_tok))?;
    let mixture = SublayerModule::new(Box::new(Experts::new(at, router, experts)?));
    let difference = (mixture.forward_t(&x, false) - &dense).abs().max().double_value(&[]);
    println!("four equal experts differ from the dense layer by at most {difference:.1e}");
    assert!(difference < 1e-5);

    // A task with two kinds of tokens, told apart by their first number.
    let sign = x.narrow(1, 0, 1).sign();
    let wanted = &dense + x.roll([1], [1]) * sign * 0.5;
    let trained = nn::VarStore::new(Device::Cpu);
    bridge::add_trainable(&mixture, &trained.root());
    let mut optimizer = nn::Adam::default().build(&trained, 1e-2)?;
    let loss = || mixture.forward_t(&x, true).mse_loss(&wanted, tch::Reduction::Mean);
    let before = loss().double_value(&[]);
    for _ in 0..200 {
        optimizer.backward_step(&loss());
    }
    let after = loss().double_value(&[]);
    println!("loss {before:.4} before, {after:.4} after 200 steps");
    assert!(after < before / 2.0, "the experts part and learn the task");
    Ok(())
}
