//! Other methods' surgery on experts: low-rank updates, packed weights, several adapters of which each document has one.

use golden::assert_close;
use lora::{Lora, LowRank};
use moe::Balance;
use quant::codec::{BlockSize, Scheme};
use quant::{Quantized, QuantizedWeight};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Loss, ModelPass, ModulePath, Parameters,
    Projection, Role,
};

use crate::{MODELS, folder, load, load_with};

fn matrix(at: &ModulePath, shape: [i64; 2]) -> Tensor {
    let numbers = Tensor::arange(shape[0] * shape[1], (Kind::Float, Device::Cpu)) * 0.7 + at.as_str().len() as f64;
    numbers.sin().view(shape)
}

fn with_lora(at: &ModulePath, base: Box<dyn Projection>) -> Box<dyn Projection> {
    let size = base.weight().size();
    let low_rank = LowRank::new(
        &(matrix(at, [2, size[1]]) * 0.3),
        &(matrix(at, [size[0], 2]) * 0.2),
        1.5,
    );
    Box::new(Lora::new(base, low_rank, 0.0, 0))
}

fn packed(base: &dyn Projection) -> Box<dyn Projection> {
    let weight = base.weight().to_kind(Kind::Float);
    let packed = QuantizedWeight::of(&weight, Scheme::Nf4, BlockSize::default(), false).expect("packed");
    Box::new(Quantized::new(packed))
}

fn logits(model: &decoder::Decoder) -> Tensor {
    let tokens = Tensor::from_slice(&[5i64, 40, 33, 21, 50, 7, 44, 12, 3]);
    model.logits(&tokens, &Documents::new(&[5, 4]))
}

#[test]
fn low_rank_updates_of_experts_merge_into_them() {
    for name in MODELS {
        let wrapped = |name| {
            load(&folder(name), Balance::default())
                .map_projections(&mut |at, base| Ok(with_lora(at, base)))
                .expect("wrapped")
        };
        let merged = wrapped(name).merge().expect("merged");
        assert_close(name, &logits(&wrapped(name)), &logits(&merged), 1e-4, 1e-4);
        assert_eq!(
            merged.named_tensors().expect("plain").len(),
            merged.saved_config().tensors().len()
        );
    }
}

#[test]
fn packed_experts_with_updates_train_in_both_dtypes_even_those_without_tokens() {
    for name in MODELS {
        for kind in [Kind::Float, Kind::BFloat16] {
            let model = load_with(&folder(name), kind, Balance { aux: 0.01, z: 0.001 }, &mut |at, base| {
                Ok(with_lora(at, packed(&*base)))
            });
            let plan = CheckpointingPolicy::uniform(Checkpointing::Recompute, model.num_blocks());
            let policy = ModelPass::train(&model, &plan, DropoutKey(0));
            // One token leaves experts without any.
            let documents = Documents::new(&[1]);
            let hidden = policy.hidden(&Tensor::from_slice(&[9i64]), &documents);
            let empty = policy.tallies().iter().any(|(_, counts)| counts.contains(&0.0));
            assert!(empty, "{name}");
            let sum = hidden.to_kind(Kind::Float).square().sum(Kind::Float);
            policy.backward(&Loss::of(sum), 1.0, 1.0).expect("a backward pass");
            model.visit(&ModulePath::root(), &mut |at, param| {
                let is_adapter = matches!(param.role(), Role::Adapter | Role::AdapterOut);
                // The head reads nothing here.
                let reached = is_adapter && !at.as_str().starts_with("lm_head");
                assert_eq!(param.value().grad().defined(), reached, "{name} {kind:?} {at}");
                if reached {
                    assert_eq!(param.value().grad().isfinite().all().int64_value(&[]), 1, "{at}");
                }
            });
        }
    }
}
