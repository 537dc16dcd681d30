//! Rewards as recipes and suites name them: found, and opened for a model whose replies they score.

use std::collections::BTreeMap;
use std::path::Path;

use align_dpo_ppo::reward::{ModelReward, RewardFunction, Rewards};
use anyhow::{Context as _, Result, bail};
use data::Tokenizer;
use decoder::Decoder;
use models::Source;
use models::machine::Machine;
use models::quantised::Quantisation;
use tensor_core::{Dense, ModulePath, Param, Role, named_params};

/// The model whose replies are scored.
pub struct Speaker<'a> {
    /// Its weights, adapters and all.
    pub model: &'a Decoder,
    /// Where it came from.
    pub source: &'a Source,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
}

impl Speaker<'_> {
    /// Opens `functions`, whose files were found; `place` is what errors begin with.
    pub fn rewards(&self, functions: &[RewardFunction], place: &str) -> Result<Rewards> {
        let opened = Rewards::open(functions, &mut |name, adapter| Ok(self.reward_model(name, adapter)?));
        opened.with_context(|| place.to_owned())
    }

    /// A reward model, if it reads the speaker's tokens. One over the speaker's own base shares its frozen weights.
    fn reward_model(&self, name: &str, adapter: Option<&Path>) -> Result<ModelReward> {
        let source = Source::open(name, self.source.events())?;
        self.same_tokens(&source)?;
        let is_own = name == self.source.name();
        let packing = Quantisation::under(adapter.as_slice(), &source, None)?;
        let own: BTreeMap<ModulePath, Param> = named_params(self.model)
            .into_iter()
            // The codes of a packed base are no weight.
            .filter(|(_, param)| is_own && param.role() == Role::Base && param.value().kind() == self.model.kind())
            .filter(|(_, param)| packing.is_none() && !param.is_trainable())
            .collect();
        let machine = Machine {
            device: self.model.device(),
            kind: self.model.kind(),
        };
        let model = if packing.is_some() {
            source.decoder_packed(machine, packing.as_ref())?
        } else {
            source.decoder_with(machine, &mut |at, read| {
                Ok(match own.get(&at.join("weight")) {
                    Some(weight) => Box::new(Dense::new(weight.share())),
                    None => read,
                })
            })?
        };
        let model = match adapter {
            Some(folder) => {
                let adapter = methods::open(folder)?;
                adapter.tell(self.source.events());
                adapter.place(model)?
            }
            None => model,
        };
        Ok(ModelReward::new(model)?)
    }

    /// Refuses a second model whose tokens mean something else than this one's.
    pub fn same_tokens(&self, other: &Source) -> Result<()> {
        let (theirs, ours) = (other.tokenizer()?, self.tokenizer);
        let token = |tokenizer: &Tokenizer, id: usize| tokenizer.token(id as u32);
        let size = theirs.vocab_size().max(ours.vocab_size());
        if let Some(id) = (0..size).find(|&id| token(&theirs, id) != token(ours, id)) {
            let shown =
                |tokenizer| token(tokenizer, id).map_or_else(|| "nothing".to_owned(), |token| format!("`{token}`"));
            bail!(
                "wanted a model of the same tokens as `{}`, found token {id} {} where that has {}\n\
                 hint: take a model of the same family",
                self.source.name(),
                shown(&theirs),
                shown(ours),
            );
        }
        Ok(())
    }
}
