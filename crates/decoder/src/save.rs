//! The model as a checkpoint that Transformers loads.

use std::collections::HashMap;
use std::path::Path;

use checkpoint::{Existing, ModelConfig, SaveOptions, StagedDir, TensorInfo};
use tch::Tensor;
use tensor_core::{ModulePath, Parameters, Role};

use crate::decoder::Decoder;
use crate::head::HeadKind;
use crate::{Error, Result};

impl Decoder {
    /// Whether the head reads the embedding's own table.
    pub fn is_tied(&self) -> bool {
        self.head_kind == HeadKind::LanguageModel
            && self.head.projection().weight().data_ptr() == self.embedding.weight().data_ptr()
    }

    /// The configuration for [`Self::named_tensors`]: as loaded, with this dtype, head and tying, and dense weights.
    pub fn saved_config(&self) -> ModelConfig {
        let mut config = self.config.clone().with_dtype(self.kind).without_quantisation();
        self.visit(&ModulePath::root(), &mut |_, param| {
            if param.role() == Role::Balance && config.experts.as_ref().is_some_and(|experts| !experts.has_bias) {
                config = config.clone().with_router_bias();
            }
        });
        match self.head_kind {
            HeadKind::LanguageModel => config.with_tied_embeddings(self.is_tied()),
            _ => config,
        }
    }

    /// Every tensor of the checkpoint in its order, in the model's dtype; a tied head is not among them.
    ///
    /// Errors: a slot that holds more than a plain matrix. [`Self::merge`] makes them plain.
    pub fn named_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let held = self.held_tensors()?.into_iter();
        Ok(held.map(|(name, value)| (name, value.to_kind(self.kind))).collect())
    }

    /// Writes the model as a Hugging Face directory; weights have `options.dtype`, else the model's own.
    ///
    /// Errors: as [`Self::named_tensors`], and what the file system refuses; a model that was there is untouched then.
    pub fn save(&self, folder: &Path, options: &SaveOptions) -> Result<()> {
        let staged = self.stage(folder, options)?;
        Ok(match options.existing {
            Existing::Refuse => staged.commit(),
            Existing::Replace => staged.commit_over_older(),
        }?)
    }

    /// As [`Self::save`], up to where the model appears in `folder`.
    pub fn stage(&self, folder: &Path, options: &SaveOptions) -> Result<StagedDir> {
        let held = self.held_tensors()?;
        let infos = held.iter().map(|(name, value)| TensorInfo {
            name: name.clone(),
            shape: value.size(),
            kind: self.kind,
        });
        let infos: Vec<TensorInfo> = infos.collect();
        let held: HashMap<String, Tensor> = held.into_iter().collect();
        let tensor = |info: &TensorInfo| match held.get(&info.name) {
            Some(value) => Ok(value.to_kind(info.kind)),
            None => Err(format!("no `{}` in the model", info.name).into()),
        };
        Ok(checkpoint::stage_model(
            folder,
            &self.saved_config(),
            &infos,
            tensor,
            options,
        )?)
    }

    /// The checkpoint's tensors as they are held.
    fn held_tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut held = HashMap::new();
        self.visit(&ModulePath::root(), &mut |at, param| {
            held.insert(at.as_str().to_owned(), param.value().detach());
        });
        let tensors = self.saved_config().tensors();
        let named = tensors.into_iter().map(|(name, shape)| {
            let value = held
                .remove(&name)
                .filter(|value| value.size() == shape && value.is_floating_point());
            let at = ModulePath::from(name.as_str());
            value.map(|value| (name, value)).ok_or(Error::NotMerged { at })
        });
        let named = named.collect::<Result<Vec<_>>>()?;
        match held.into_keys().min() {
            Some(more) => Err(Error::NotMerged {
                at: ModulePath::from(more),
            }),
            None => Ok(named),
        }
    }
}
