//! Several named adapters on one base, switched or mixed per document, nothing loaded again.
//!
//! Placing them gives each module all updates that they have for it; which of them take part is the documents' word
//! ([`AdapterRouting`], [`tensor_core::Documents::with_routings`]), and the set's default where they say nothing. Nothing trains.
//!
//! ```
//! use lora::{AdapterSet, LoraConfig, Member, Placement};
//! use tch::Tensor;
//! use tensor_core::{Dense, Documents, Param, Pass, Projection, Role};
//!
//! let member = |name: &str, weight, b: f32| {
//!     let config = LoraConfig { r: 1, lora_alpha: 1.0, ..LoraConfig::default() };
//!     let tensors = [
//!         ("base_model.model.up_proj.lora_A.weight".to_owned(), Tensor::from_slice(&[1.0f32]).view([1, 1])),
//!         ("base_model.model.up_proj.lora_B.weight".to_owned(), Tensor::from_slice(&[b]).view([1, 1])),
//!     ];
//!     Ok::<_, lora::Error>(Member { name: name.into(), placement: Placement::new(config, tensors)?, weight })
//! };
//! let set = AdapterSet::new(vec![member("tens", 1.0, 10.0)?, member("hundreds", 0.0, 100.0)?])?;
//! let base = Dense::new(Param::frozen(Tensor::from_slice(&[1.0f32]).view([1, 1]), Role::Base));
//! let projection = set.projection(&"up_proj".into(), Box::new(base))?;
//! let names = set.finish()?;
//!
//! let mixes = [names.default_mix().clone(), names.mix([("hundreds", 2.0)])?, names.mix([])?];
//! let documents = Documents::new(&[1, 1, 1]).with_routings(&mixes);
//! let y = projection.forward(&Tensor::from_slice(&[1.0f32, 1.0, 1.0]).view([3, 1]), &Pass::evaluate(&documents));
//! assert_eq!(Vec::<f32>::try_from(y.view([-1])).unwrap(), [11.0, 201.0, 1.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod projection;
mod shares;
mod table;

use tensor_core::{AdapterRouting, Embedding, ModulePath, Projection};

use crate::{Error, Placement, Result};
use projection::SwitchedLora;
use shares::Updates;
use table::SwitchedTable;

/// An adapter on its way into a set.
#[derive(Debug)]
pub struct Member {
    /// What it is called.
    pub name: String,
    /// Its tensors.
    pub placement: Placement,
    /// Its weight in the set's default mix.
    pub weight: f64,
}

/// Adapters on their way into a model: hand the two surgeons to the model, then call [`Self::finish`].
#[derive(Debug)]
pub struct AdapterSet {
    members: Vec<Member>,
    names: AdapterNames,
}

/// The adapters that a model holds, by name.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterNames {
    names: Vec<String>,
    default: AdapterRouting,
}

impl AdapterSet {
    /// Errors: two members of one name; a member with modules that it trained whole, which have no update to switch.
    pub fn new(members: Vec<Member>) -> Result<Self> {
        let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        for (idx, member) in members.iter().enumerate() {
            if names[..idx].contains(&member.name) {
                return Err(Error::SameName {
                    name: member.name.clone(),
                });
            }
            if let Some(path) = member.placement.first_whole() {
                return Err(Error::Uncombined {
                    adapter: member.name.clone(),
                    what: path.to_string(),
                    is: "a module that was trained whole (`modules_to_save`), which has no update to be switched",
                    hint: "load this adapter alone, or merge it into the model first",
                });
            }
        }
        let default = AdapterRouting::of(members.iter().map(|member| member.weight).enumerate());
        Ok(Self {
            members,
            names: AdapterNames { names, default },
        })
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        let updates = self.updates(at, &|member| member.placement.low_rank(at, &*base))?;
        Ok(match updates {
            Some(updates) => Box::new(SwitchedLora::new(base, updates)),
            None => base,
        })
    }

    /// What is done to the token table at `at`.
    pub fn table(&self, at: &ModulePath, base: Box<dyn Embedding>) -> tensor_core::Result<Box<dyn Embedding>> {
        let updates = self.updates(at, &|member| member.placement.table_update(at, &base.weight()))?;
        Ok(match updates {
            Some(updates) => Box::new(SwitchedTable::new(base, updates)),
            None => base,
        })
    }

    /// An error if anything of a member found no place; otherwise the names, for choosing.
    pub fn finish(self) -> Result<AdapterNames> {
        for member in &self.members {
            member.placement.finish().map_err(|source| Error::Member {
                name: member.name.clone(),
                source: Box::new(source),
            })?;
        }
        Ok(self.names)
    }

    /// None if no member has an update here.
    fn updates(
        &self,
        at: &ModulePath,
        update: &dyn Fn(&Member) -> tensor_core::Result<Option<crate::LowRank>>,
    ) -> tensor_core::Result<Option<Updates>> {
        let mut found = Vec::with_capacity(self.members.len());
        for member in &self.members {
            let update = update(member).map_err(|source| {
                let named = Error::Member {
                    name: member.name.clone(),
                    source: Box::new(source.into()),
                };
                named.at(at)
            })?;
            found.push(update.map(|update| (member.name.clone(), update.frozen())));
        }
        let any = found.iter().any(Option::is_some);
        Ok(any.then(|| Updates::new(found, self.names.default.clone())))
    }
}

impl AdapterNames {
    /// The names, in the order of their indices.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// What takes part where documents say nothing.
    pub fn default_mix(&self) -> &AdapterRouting {
        &self.default
    }

    /// These adapters with these weights; without any, the base alone.
    pub fn mix<'n>(&self, shares: impl IntoIterator<Item = (&'n str, f64)>) -> Result<AdapterRouting> {
        let shares = shares.into_iter().map(|(name, weight)| {
            if !weight.is_finite() {
                return Err(Error::Option {
                    option: "adapter",
                    found: format!("weight {weight} for `{name}`"),
                    hint: "a weight is a number",
                });
            }
            let found = self.names.iter().position(|known| known == name);
            let idx = found.ok_or_else(|| Error::NoAdapter {
                name: name.to_owned(),
                known: self.names.join(", "),
            })?;
            Ok((idx, weight))
        });
        Ok(AdapterRouting::of(shares.collect::<Result<Vec<_>>>()?))
    }
}
