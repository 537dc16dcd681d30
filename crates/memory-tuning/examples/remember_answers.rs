//! A `tch::nn` layer remembers three new answers in rows of a memory; what else it knows stays.
//!
//! Rows are no tensors, so they have an optimiser of their own; the rest of a model may train by tch's beside it.
//!
//! `cargo run -p finetune-memory-tuning --example remember_answers`

use std::collections::BTreeSet;
use std::error::Error;

use memory_tuning::tch::nn::{self, Module, ModuleT};
use memory_tuning::tch::{self, Device, Kind, Tensor};
use memory_tuning::tensor_core::Linear;
use memory_tuning::{MemoryConfig, RowUpdate, TargetModules, Wrapping};

fn main() -> Result<(), Box<dyn Error>> {
    tch::manual_seed(0);
    let store = nn::VarStore::new(Device::Cpu);
    let layer = nn::linear(store.root() / "layer", 32, 8, nn::LinearConfig::default());
    let questions = Tensor::randn([3, 32], (Kind::Float, Device::Cpu));
    let answers = Tensor::randn([3, 8], (Kind::Float, Device::Cpu));
    let other = Tensor::randn([64, 32], (Kind::Float, Device::Cpu));
    let others_answers = tch::no_grad(|| layer.forward(&other));

    // 4096 experts beside the layer, of which none exists before it is trained.
    let config = MemoryConfig {
        target_modules: TargetModules::Many(vec!["layer".into()]),
        num_experts: 4096,
        top_k: 4,
        query_dim: 16,
        ..MemoryConfig::default()
    };
    let wrapping = Wrapping::choose(config, &[("layer".into(), false)])?;
    let slot = Linear::from(&layer).map(&"layer".into(), &mut |at, base| wrapping.projection(at, base))?;
    let bank = wrapping.bank();

    // The experts that answer these questions may be moved, and no others.
    for moved in bank.each(|_, _, experts| {
        let chosen = experts.selection.choose(&questions).experts.flatten(0, -1);
        let ids: Vec<i64> = Vec::try_from(chosen)?;
        let ids: BTreeSet<u32> = ids.into_iter().map(|id| id as u32).collect();
        experts.let_move(ids)?;
        Ok::<(), Box<dyn Error>>(())
    }) {
        moved?;
    }
    let update = RowUpdate {
        learning_rate: 0.03,
        beta1: 0.9,
        beta2: 0.999,
        epsilon: 1e-8,
        weight_decay: 0.0,
        gradient_scale: 1.0,
    };
    let loss = || {
        slot.forward_t(&questions, true)
            .mse_loss(&answers, tch::Reduction::Mean)
    };
    let before = loss().double_value(&[]);
    for _ in 0..300 {
        loss().backward();
        bank.update(&update)?;
    }
    let after = loss().double_value(&[]);
    let changed = (slot.forward_t(&other, false) - others_answers)
        .abs()
        .amax([1].as_slice(), false);
    let unchanged = changed.le(1e-6).sum(Kind::Int64).int64_value(&[]);
    println!(
        "loss {before:.4} before, {after:.6} after; {} rows exist",
        bank.num_touched()
    );
    println!("{unchanged} of 64 other inputs have the answer that they had");
    assert!(after < before / 100.0, "the answers are known");
    assert!(bank.num_touched() <= 12, "three questions have four experts each");
    assert!(unchanged >= 56, "most other inputs meet none of their experts");
    Ok(())
}
