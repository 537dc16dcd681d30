//! From a checkpoint to a tree of slots, one weight at a time.
//!
//! A surgeon that is given while loading meets each projection as it is read, so that a dense weight which it packs is
//! freed before the next one comes. Weights of the right dtype on the CPU are the mapped file itself; weights that the file
//! holds in another form come from a source, which the dense ones never meet.

use std::sync::Arc;

use checkpoint::{ExpertsConfig, LayerKind, ModelConfig, ModelDir, Output};
use kernels::rope::RopeScaling;
use kernels::rope::frequencies::frequencies;
use kernels::{Activation, Gain, RopeTable};
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, Linear, ModulePath, Param, Projection, ProjectionSurgeon, Role, Sublayer, Table, device};

use crate::attention::{Attention, AttentionProjections, AttentionShape};
use crate::block::{Block, BlockNorms};
use crate::decoder::{Decoder, block_path, embedding_path, norm_path};
use crate::feed_forward::SwiGlu;
use crate::head::HeadKind;
use crate::norm::RmsNorm;
use crate::{Error, Result};

/// Makes the projection at a path, or leaves it to be read as a plain matrix.
pub type ProjectionSource<'a> = dyn FnMut(&ModulePath) -> Result<Option<Box<dyn Projection>>> + 'a;

/// Makes a mixture of experts of what the checkpoint holds of it.
pub type ExpertsSource<'a> = dyn FnMut(ExpertSlots) -> tensor_core::Result<Box<dyn Sublayer>> + 'a;

/// A mixture of experts as the checkpoint holds it: what experts do with it is not the decoder's to know.
#[derive(Debug)]
pub struct ExpertSlots {
    /// Its path: `model.layers.0.block_sparse_moe`.
    pub at: ModulePath,
    /// The router `[e, d]`.
    pub router: Param,
    /// What is added to its probabilities for choosing, `[e]` f32.
    pub bias: Option<Param>,
    /// Gate, up and down of each expert.
    pub experts: Vec<[Linear; 3]>,
    /// The expert that every token goes to, and its gate `[1, d]`.
    pub shared: Option<([Linear; 3], Param)>,
    /// What gates go through.
    pub activation: Activation,
    /// How tokens are given to them.
    pub config: ExpertsConfig,
}

/// What makes the parts of a model that are more than plain matrices.
pub struct Sources<'s, 'a> {
    /// Projections that are not to be read as dense ones.
    pub projections: &'s mut ProjectionSource<'a>,
    /// Mixtures of experts.
    pub experts: &'s mut ExpertsSource<'a>,
}

impl Decoder {
    /// The model in `dir`, with weights of dtype `kind` (f32 or bf16) on `device`; nothing trains.
    pub fn load(dir: &ModelDir, device: Device, kind: Kind) -> Result<Self> {
        Self::load_with(dir, device, kind, &mut |_, projection| Ok(projection))
    }

    /// As [`Self::load`], with every projection given to `surgeon` as it is read, in the order of
    /// [`projection_paths`].
    pub fn load_with(dir: &ModelDir, device: Device, kind: Kind, surgeon: &mut ProjectionSurgeon) -> Result<Self> {
        Self::load_from(dir, device, kind, &mut |_| Ok(None), surgeon)
    }

    /// As [`Self::load_with`], where `source` makes the projections of weights that are not to be read as dense ones.
    pub fn load_from(
        dir: &ModelDir,
        device: Device,
        kind: Kind,
        source: &mut ProjectionSource,
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<Self> {
        if let Some(experts) = &dir.config().experts {
            return Err(Error::NoExperts {
                family: dir.config().family.name(),
                count: experts.num_experts,
            });
        }
        let mut unreachable = |slots: ExpertSlots| {
            Err(tensor_core::Error::NotDense {
                at: slots.at,
                found: "a mixture of experts",
                hint: "give `Decoder::load_mixture` what makes it",
            })
        };
        let sources = Sources {
            projections: source,
            experts: &mut unreachable,
        };
        Self::load_mixture(dir, device, kind, sources, surgeon)
    }

    /// As [`Self::load_from`], with what makes mixtures of experts: nothing is asked of it for a dense model.
    pub fn load_mixture(
        dir: &ModelDir,
        device: Device,
        kind: Kind,
        sources: Sources,
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<Self> {
        let Sources { projections, experts } = sources;
        if !matches!(kind, Kind::Float | Kind::BFloat16) {
            return Err(Error::Unsupported {
                option: "dtype",
                wanted: "float32 or bfloat16".into(),
                found: format!("{kind:?}"),
            });
        }
        let config = dir.config().clone();
        let mut weights = Weights {
            dir,
            config: &config,
            device,
            kind,
            source: projections,
            experts,
        };
        let table = weights.param("model.embed_tokens.weight", Role::Embedding)?;
        let tied = table.share();
        let ropes = [LayerKind::Full, LayerKind::Sliding].map(|layers| Arc::new(rope_table(&config, layers)));
        let blocks = config.layer_types.iter().enumerate().map(|(idx, &layers)| {
            let rope = match layers {
                LayerKind::Full => &ropes[0],
                LayerKind::Sliding => &ropes[1],
            };
            weights.block(idx, layers, rope, surgeon)
        });
        let blocks = blocks.collect::<Result<Vec<_>>>()?;
        let norm = weights.norm(&norm_path())?;
        let head_kind = head_kind(&config);
        let head = match config.output {
            Output::LanguageModel if config.tie_word_embeddings => Linear::new(Dense::new(tied), None),
            Output::LanguageModel => weights.linear(&head_kind.path(), Role::Base)?,
            Output::SequenceClassifier => weights.linear(&head_kind.path(), Role::Head)?,
        };
        let head = head.map(&head_kind.path(), surgeon)?;
        device::trim_memory();
        Ok(Self {
            kind,
            device,
            embedding: Box::new(Table::new(table)),
            embedding_scale: config.embedding_scale.map(|scale| rounded(scale, kind)),
            blocks,
            norm,
            head,
            head_kind,
            config,
        })
    }
}

/// The path of every projection of such a model, blocks first, and whether it is the output layer.
pub fn projection_paths(config: &ModelConfig) -> Vec<(ModulePath, bool)> {
    let output = head_kind(config).path();
    let tensors = config.tensors().into_iter();
    let names = tensors.filter(|(name, shape)| shape.len() == 2 && !config.is_router(name));
    let paths = names.filter_map(|(name, _)| name.strip_suffix(".weight").map(ModulePath::from));
    paths
        .filter(|path| *path != embedding_path() && *path != output)
        .map(|path| (path, false))
        .chain([(output.clone(), true)])
        .collect()
}

pub(crate) fn head_kind(config: &ModelConfig) -> HeadKind {
    match (config.output, config.labels.len()) {
        (Output::LanguageModel, _) => HeadKind::LanguageModel,
        (Output::SequenceClassifier, 1) => HeadKind::Scalar,
        (Output::SequenceClassifier, _) => HeadKind::Classification {
            labels: config.labels.clone(),
        },
    }
}

struct Weights<'a, 's> {
    dir: &'a ModelDir,
    config: &'a ModelConfig,
    device: Device,
    kind: Kind,
    source: &'a mut ProjectionSource<'s>,
    experts: &'a mut ExpertsSource<'s>,
}

impl Weights<'_, '_> {
    fn block(
        &mut self,
        idx: usize,
        layers: LayerKind,
        rope: &Arc<RopeTable>,
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<Block> {
        let config = self.config;
        let at = block_path(idx);
        let own = at.join("self_attn");
        let [q_proj, k_proj, v_proj, o_proj] = self.slots(&own, ["q_proj", "k_proj", "v_proj", "o_proj"], surgeon)?;
        let projections = AttentionProjections {
            q_proj,
            k_proj,
            v_proj,
            o_proj,
        };
        let name = config.feed_forward_name(idx);
        let mlp = at.join(name);
        let feed_forward: Box<dyn Sublayer> = if let Some(experts) = config.experts_of(idx) {
            let slots = self.mixture(&mlp, experts, surgeon)?;
            (self.experts)(slots)?
        } else {
            let [gate, up, down] = self.slots(&mlp, ["gate_proj", "up_proj", "down_proj"], surgeon)?;
            Box::new(SwiGlu::new(gate, up, down, activation(config)))
        };
        let query_key_norms = if config.qk_norm {
            Some((self.norm(&own.join("q_norm"))?, self.norm(&own.join("k_norm"))?))
        } else {
            None
        };
        let shape = AttentionShape {
            layer_idx: idx,
            num_heads: config.num_attention_heads as usize,
            num_kv_heads: config.num_key_value_heads as usize,
            head_dim: config.head_dim as usize,
            scale: config.attention_scale,
            window: match layers {
                LayerKind::Full => None,
                LayerKind::Sliding => config.sliding_window.map(|window| window as usize),
            },
        };
        let attention = Attention::new(projections, query_key_norms, rope.clone(), shape);
        let block = Block::new(self.block_norms(&at)?, Box::new(attention), feed_forward);
        Ok(block.with_feed_forward_name(name))
    }

    /// The slots of these names below `at`, each as the surgeon leaves it.
    fn slots<const N: usize>(
        &mut self,
        at: &ModulePath,
        names: [&str; N],
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<[Linear; N]> {
        let slots = names.iter().map(|name| {
            let at = at.join(name);
            let slot = self.linear(&at, Role::Base)?.map(&at, surgeon)?;
            // What the surgeon packed was dense before.
            device::trim_memory();
            Ok(slot)
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        Ok(slots.try_into().expect("one slot a name"))
    }

    /// What the checkpoint holds of the mixture at `at`.
    fn mixture(
        &mut self,
        at: &ModulePath,
        config: &ExpertsConfig,
        surgeon: &mut ProjectionSurgeon,
    ) -> Result<ExpertSlots> {
        let router = self.param(at.join("gate.weight").as_str(), Role::Router)?;
        let names = config.names.projections();
        let experts = (0..config.num_experts)
            .map(|idx| self.slots(&at.join("experts").join(idx), names, surgeon))
            .collect::<Result<Vec<_>>>()?;
        let mut shared = None;
        if config.shared_intermediate_size.is_some() {
            let slots = self.slots(&at.join("shared_expert"), names, surgeon)?;
            let gate = self.param(at.join("shared_expert_gate.weight").as_str(), Role::Router)?;
            shared = Some((slots, gate));
        }
        let mut bias = None;
        if config.has_bias {
            let name = at.join("gate.e_score_correction_bias");
            let value = self.dir.tensor_as(name.as_str(), Kind::Float)?;
            bias = Some(Param::frozen(value.copy().to_device(self.device), Role::Balance));
        }
        Ok(ExpertSlots {
            at: at.clone(),
            router,
            bias,
            experts,
            shared,
            activation: activation(self.config),
            config: config.clone(),
        })
    }

    fn block_norms(&self, at: &ModulePath) -> Result<BlockNorms> {
        let norm = |name: &str| self.norm(&at.join(name));
        let input = norm("input_layernorm")?;
        Ok(if self.config.post_norms {
            BlockNorms {
                input,
                feed_forward: norm("pre_feedforward_layernorm")?,
                post: Some((norm("post_attention_layernorm")?, norm("post_feedforward_layernorm")?)),
            }
        } else {
            BlockNorms {
                input,
                feed_forward: norm("post_attention_layernorm")?,
                post: None,
            }
        })
    }

    /// A slot with the weight at `at`, and the bias there if the configuration has one.
    fn linear(&mut self, at: &ModulePath, role: Role) -> Result<Linear> {
        let projection = match (self.source)(at)? {
            Some(projection) => projection,
            None => Box::new(Dense::new(self.param(at.join("weight").as_str(), role)?)),
        };
        let bias = at.join("bias");
        let bias = if self.dir.names().iter().any(|name| name == bias.as_str()) {
            Some(self.param(bias.as_str(), Role::Norm)?)
        } else {
            None
        };
        Ok(Linear::holding(projection, bias))
    }

    fn norm(&self, at: &ModulePath) -> Result<RmsNorm> {
        let weight = self.param(at.join("weight").as_str(), Role::Norm)?;
        Ok(RmsNorm::new(weight, self.config.rms_norm_eps, gain(self.config)?))
    }

    fn param(&self, name: &str, role: Role) -> Result<Param> {
        let value = self.dir.tensor_as(name, self.kind)?;
        Ok(Param::frozen(value.to_device(self.device), role))
    }
}

/// `scale` as the model's dtype holds it.
fn rounded(scale: f64, kind: Kind) -> f64 {
    Tensor::from(scale).to_kind(Kind::Float).to_kind(kind).double_value(&[])
}

fn rope_table(config: &ModelConfig, layers: LayerKind) -> RopeTable {
    let rope = config.rope_of(layers);
    let scaling = match rope.scaling {
        checkpoint::RopeScaling::Default => RopeScaling::Default,
        checkpoint::RopeScaling::Linear { factor } => RopeScaling::Linear { factor },
        checkpoint::RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original_max_position_embeddings as usize,
        },
        checkpoint::RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
        } => RopeScaling::Yarn {
            factor,
            original_max_position_embeddings: original_max_position_embeddings as usize,
            beta_fast,
            beta_slow,
            mscale: None,
            mscale_all_dim: None,
            attention_factor: Some(attention_factor),
            truncate,
        },
    };
    RopeTable::new(frequencies(rope.theta, config.head_dim as usize, 1.0, &scaling))
}

fn activation(config: &ModelConfig) -> Activation {
    match config.hidden_act {
        checkpoint::Activation::Silu => Activation::Silu,
        checkpoint::Activation::GeluTanh => Activation::GeluTanh,
    }
}

fn gain(config: &ModelConfig) -> Result<Gain> {
    match config.norm_offset {
        0.0 => Ok(Gain::Plain),
        1.0 => Ok(Gain::PlusOne),
        other => Err(Error::Unsupported {
            option: "norm_offset",
            wanted: "0 or 1".into(),
            found: other.to_string(),
        }),
    }
}
