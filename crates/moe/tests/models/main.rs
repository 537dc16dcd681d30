//! Experts in whole models, as the decoder loads them.

mod families;
mod surgery;
mod upcycling;

use std::path::Path;

use checkpoint::{ExpertNames, ModelDir};
use decoder::{Decoder, ExpertSlots, Sources};
use moe::{Balance, Expert, Experts, Gating, Names, Router, RouterConfig, Shared};
use tch::{Device, Kind};
use tensor_core::{ModulePath, ProjectionSurgeon, Result, Sublayer};

const MODELS: [&str; 3] = ["mixtral", "qwen2-moe", "qwen3-moe"];

fn experts(slots: ExpertSlots, balance: Balance) -> Result<Box<dyn Sublayer>> {
    let refused = |error: moe::Error| tensor_core::Error::Surgery {
        at: ModulePath::root(),
        source: Box::new(error),
    };
    let config = RouterConfig {
        gating: Gating::TopK(slots.config.num_experts_per_tok as usize),
        normalise: slots.config.norm_topk_prob,
        jitter: 0.0,
        skip_below: 0.0,
    };
    let names = match slots.config.names {
        ExpertNames::Mixtral => Names::Mixtral,
        ExpertNames::Qwen => Names::Qwen,
    };
    let expert = |matrices| Expert::new(matrices, names, slots.activation);
    let router = Router::new(slots.router, config).map_err(refused)?;
    let experts = slots.experts.into_iter().map(expert).collect();
    let layer = Experts::new(slots.at, router, experts)
        .map_err(refused)?
        .with_balance(balance);
    Ok(Box::new(match slots.shared {
        None => layer,
        Some((matrices, gate)) => layer.with_shared(Shared {
            expert: expert(matrices),
            gate,
        }),
    }))
}

fn load_with(folder: &Path, kind: Kind, balance: Balance, surgeon: &mut ProjectionSurgeon) -> Decoder {
    let dir = ModelDir::open(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let sources = Sources {
        projections: &mut |_| Ok(None),
        experts: &mut |slots| experts(slots, balance),
    };
    Decoder::load_mixture(&dir, Device::Cpu, kind, sources, surgeon)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

fn load(folder: &Path, balance: Balance) -> Decoder {
    load_with(folder, Kind::Float, balance, &mut |_, projection| Ok(projection))
}

fn folder(name: &str) -> std::path::PathBuf {
    golden::vectors_dir().join("moe").join(name)
}
