//! An adapter's tensor names: `base_model.model.` + module + what it is to the module. No adapter's name is in them.

use tensor_core::ModulePath;

const PREFIX: &str = "base_model.model.";

/// Which of a module's tensors. Shapes: r rank, in and out the module's widths.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PeftPart {
    /// The factor that reads: `[r, in]`.
    A,
    /// The factor that writes: `[out, r]`.
    B,
    /// The bias of the factor that writes: `[out]`.
    BBias,
    /// The factor of an embedding that is looked up: `[r, vocab]`.
    EmbeddingA,
    /// The factor of an embedding that writes: `[width, r]`.
    EmbeddingB,
    /// `DoRA`'s magnitudes: `[out]`.
    Magnitude,
    /// A tensor of the base model, saved beside an update of it: `weight` or `bias`.
    BaseLayer(String),
    /// A tensor of a module that was trained whole: `weight` or `bias`.
    Saved(String),
}

use PeftPart::{A, B, BBias, BaseLayer, EmbeddingA, EmbeddingB, Magnitude, Saved};

/// Endings and what they mean, the longer first.
const ENDINGS: [(&str, PeftPart); 6] = [
    (".lora_A.weight", A),
    (".lora_B.weight", B),
    (".lora_B.bias", BBias),
    (".lora_embedding_A", EmbeddingA),
    (".lora_embedding_B", EmbeddingB),
    (".lora_magnitude_vector", Magnitude),
];

impl PeftPart {
    /// Module and part of a key of `adapter_model.safetensors`; none if it is no adapter's key.
    ///
    /// The text model of a multimodal one is named as it is alone: `model.language_model.layers…` is `model.layers…`.
    pub fn of(key: &str) -> Option<(ModulePath, Self)> {
        let (module, part) = named(key)?;
        Some((plain(&module), part))
    }

    /// The key of this part of the module at `at`.
    pub fn key(&self, at: &ModulePath) -> String {
        format(at, self)
    }
}

/// The module as a text model alone names it.
pub(super) fn plain(module: &ModulePath) -> ModulePath {
    let path = module.as_str();
    if let Some(rest) = path.strip_prefix("model.language_model.") {
        return ModulePath::from(format!("model.{rest}"));
    }
    match path.strip_prefix("language_model.") {
        Some(rest) if rest == "lm_head" || rest.starts_with("model.") => rest.into(),
        _ => module.clone(),
    }
}

/// The module as a multimodal model of Transformers names it.
pub(super) fn wrapped(module: &ModulePath) -> ModulePath {
    match module.as_str().strip_prefix("model.") {
        Some(rest) => ModulePath::from(format!("model.language_model.{rest}")),
        None => module.clone(),
    }
}

/// Module, as the key names it, and part; none if it is no adapter's key.
pub(super) fn named(key: &str) -> Option<(ModulePath, PeftPart)> {
    let name = key.strip_prefix(PREFIX)?;
    // Some files keep the adapter's name, as the model in memory does.
    let name = name.replace(".modules_to_save.default.", ".").replace(".default.", ".");
    let name = name.strip_suffix(".default").unwrap_or(&name);
    // As a module in memory, the magnitudes have a weight.
    let name = name
        .strip_suffix(".lora_magnitude_vector.weight")
        .map_or_else(|| name.to_owned(), |module| format!("{module}.lora_magnitude_vector"));
    for (ending, part) in ENDINGS {
        if let Some(module) = name.strip_suffix(ending) {
            return Some((module.into(), part));
        }
    }
    if name.contains(".lora_") || name.contains(".token_adapter.") {
        return None;
    }
    let (module, tensor) = name.rsplit_once('.')?;
    Some(match module.strip_suffix(".base_layer") {
        Some(module) => (module.into(), BaseLayer(tensor.to_owned())),
        None => (module.into(), Saved(tensor.to_owned())),
    })
}

/// The key of a module's tensor.
pub(super) fn format(module: &ModulePath, part: &PeftPart) -> String {
    let ending = match part {
        BaseLayer(tensor) => format!(".base_layer.{tensor}"),
        Saved(tensor) => format!(".{tensor}"),
        other => {
            let row = ENDINGS.iter().find(|(_, part)| part == other);
            row.expect("every other part has an ending").0.to_owned()
        }
    };
    format!("{PREFIX}{module}{ending}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(key: &str) -> Option<(ModulePath, PeftPart)> {
        PeftPart::of(key)
    }

    #[test]
    fn a_multimodal_model_s_names_are_its_text_model_s() {
        for (key, module) in [
            (
                "model.language_model.layers.0.mlp.up_proj.lora_A.weight",
                "model.layers.0.mlp.up_proj",
            ),
            (
                "language_model.model.layers.0.mlp.up_proj.lora_A.weight",
                "model.layers.0.mlp.up_proj",
            ),
            ("language_model.lm_head.lora_A.weight", "lm_head"),
            ("lm_head.lora_A.weight", "lm_head"),
        ] {
            let found = parse(&format!("{PREFIX}{key}")).map(|(module, _)| module);
            assert_eq!(found, Some(module.into()), "{key}");
        }
        let there = ModulePath::from("model.layers.0.mlp.up_proj");
        assert_eq!(plain(&wrapped(&there)), there);
        assert_eq!(wrapped(&"lm_head".into()), "lm_head".into());
    }

    #[test]
    fn keys_are_read_in_every_spelling_and_written_in_one() {
        let q = "model.layers.0.self_attn.q_proj";
        for (key, module, part, is_ours) in [
            ("model.layers.0.self_attn.q_proj.lora_A.weight", q, A, true),
            ("model.layers.0.self_attn.q_proj.lora_A.default.weight", q, A, false),
            ("model.layers.0.self_attn.q_proj.lora_B.bias", q, BBias, true),
            (
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                q,
                Magnitude,
                true,
            ),
            (
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
                q,
                Magnitude,
                false,
            ),
            (
                "model.embed_tokens.lora_embedding_A",
                "model.embed_tokens",
                EmbeddingA,
                true,
            ),
            (
                "model.embed_tokens.lora_embedding_B.default",
                "model.embed_tokens",
                EmbeddingB,
                false,
            ),
            (
                "model.embed_tokens.base_layer.weight",
                "model.embed_tokens",
                BaseLayer("weight".into()),
                true,
            ),
            ("lm_head.weight", "lm_head", Saved("weight".into()), true),
            (
                "score.modules_to_save.default.weight",
                "score",
                Saved("weight".into()),
                false,
            ),
        ] {
            let key = format!("{PREFIX}{key}");
            assert_eq!(parse(&key), Some((module.into(), part.clone())), "{key}");
            assert_eq!(super::format(&module.into(), &part) == key, is_ours, "{key}");
        }
        assert_eq!(parse("model.layers.0.self_attn.q_proj.lora_A.weight"), None);
        assert_eq!(
            parse("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"),
            None
        );
    }
}
