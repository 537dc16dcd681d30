//! A memory on disk: the selection and the experts' numbers as tensors, their rows as one plain file a projection.
//!
//! `memory.safetensors` holds `PATH.query`, `PATH.offset`, `PATH.keys.0`, `PATH.keys.1` and `PATH.experts` (the numbers
//! of the rows of `PATH.rows`, which are little-endian f32, u before v). For going on, `PATH.moved` and `PATH.updates`
//! say which rows have a state in `PATH.states`, and how often each was moved. Whoever knows the format writes the
//! tensors; the rows are written and mapped here.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Projection};

use crate::bank::Sites;
use crate::wrap::{matrix, place};
use crate::{
    Error, ExpertShape, Experts, MemoryBank, MemoryConfig, ProductKeys, Result, RowOptimizer, RowStates, Selection,
    Table,
};

/// Tensors by their names in `memory.safetensors`.
pub type Tensors = BTreeMap<String, Tensor>;

impl MemoryBank {
    /// What `memory.safetensors` holds.
    pub fn tensors(&self) -> Tensors {
        let each = self.each(|_, at, experts| {
            let [first, second] = experts.selection.keys.halves();
            let own = |tensor: &Tensor| tensor.detach().contiguous();
            [
                (at.join("query"), own(&experts.selection.query)),
                (at.join("offset"), own(&experts.selection.offset)),
                (at.join("keys.0"), own(first)),
                (at.join("keys.1"), own(second)),
                (at.join("experts"), numbers(experts.table.ids())),
            ]
        });
        named(each.into_iter().flatten())
    }

    /// Writes each projection's rows into `folder`.
    pub fn save_rows(&self, folder: &Path) -> Result<()> {
        let saved = self.each(|_, at, experts| experts.table.save(&rows_file(folder, at)));
        saved.into_iter().collect()
    }

    /// What going on needs besides [`Self::tensors`].
    pub fn state_tensors(&self) -> Tensors {
        let each = self.each(|_, at, experts| {
            let (moved, updates) = experts.states.counts();
            [
                (at.join("moved"), numbers(moved)),
                (at.join("updates"), numbers(updates)),
            ]
        });
        named(each.into_iter().flatten())
    }

    /// Writes the states of each projection's rows into `folder`.
    pub fn save_states(&self, folder: &Path) -> Result<()> {
        let saved = self.each(|_, at, experts| experts.states.save(&states_file(folder, at)));
        saved.into_iter().collect()
    }

    /// Replaces selections and rows by those of `folder`, whose tensors these are.
    pub fn load(&self, folder: &Path, tensors: &Tensors) -> Result<()> {
        let loaded = self.each(|_, at, experts| {
            let shape = experts.table.shape();
            let read = read(self.config(), at, (shape.inputs, shape.outputs), folder, tensors)?;
            experts.selection = read.selection;
            experts.table = read.table;
            Ok(())
        });
        loaded.into_iter().collect()
    }

    /// Replaces the rows' states by those of `folder`, whose tensors these are.
    pub fn load_states(&self, optimizer: RowOptimizer, folder: &Path, tensors: &Tensors) -> Result<()> {
        let loaded = self.each(|_, at, experts| {
            let part = |name: &'static str| {
                let tensor = tensors.get(at.join(name).as_str());
                tensor.map(ids).ok_or_else(|| missing(folder, &at.join(name)))
            };
            let (width, path) = (experts.table.shape().width(), states_file(folder, at));
            let counts = (part("moved")?, part("updates")?);
            experts.states = RowStates::open(optimizer, width, &path, counts, &experts.table)?;
            Ok(())
        });
        loaded.into_iter().collect()
    }
}

/// A saved memory on its way into a model: hand [`Self::projection`] to it, then [`Self::finish`].
#[derive(Debug)]
pub struct Placement {
    config: MemoryConfig,
    folder: PathBuf,
    tensors: Tensors,
    sites: RefCell<Sites>,
}

impl Placement {
    /// From the tensors of `memory.safetensors` in `folder`, where the rows lie.
    pub fn new(config: MemoryConfig, folder: &Path, tensors: Tensors) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            folder: folder.to_owned(),
            tensors,
            sites: RefCell::default(),
        })
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if !self.tensors.contains_key(at.join("experts").as_str()) {
            return Ok(base);
        }
        let (outputs, inputs) = matrix(at, &*base)?;
        let experts = read(&self.config, at, (inputs, outputs), &self.folder, &self.tensors);
        Ok(place(&self.sites, at, base, experts.map_err(|error| error.at(at))?))
    }

    /// The memories that were put in; an error if anything of the file found no place.
    pub fn finish(self) -> Result<MemoryBank> {
        let sites = self.sites.into_inner();
        let placed: BTreeSet<&str> = sites.iter().map(|(at, _)| at.as_str()).collect();
        let modules = self.tensors.keys().filter_map(|name| name.strip_suffix(".experts"));
        let left: Vec<&str> = modules.filter(|module| !placed.contains(module)).collect();
        match left.first() {
            None => Ok(MemoryBank::new(self.config, sites)),
            Some(first) => Err(Error::Unplaced {
                first: (*first).to_owned(),
                count: left.len(),
            }),
        }
    }
}

fn read(
    config: &MemoryConfig,
    at: &ModulePath,
    (inputs, outputs): (usize, usize),
    folder: &Path,
    tensors: &Tensors,
) -> Result<Experts> {
    let (n, d) = (config.num_keys() as i64, config.query_dim as i64);
    let part = |name: &'static str, wanted: &[i64]| {
        let tensor = tensors
            .get(at.join(name).as_str())
            .ok_or_else(|| missing(folder, &at.join(name)))?;
        if tensor.size() != wanted {
            return Err(Error::Shape {
                at: at.clone(),
                tensor: name,
                wanted: wanted.to_vec(),
                found: tensor.size(),
            });
        }
        Ok(tensor.to_kind(Kind::Float))
    };
    let keys = ProductKeys::new(part("keys.0", &[n, d / 2])?, part("keys.1", &[n, d / 2])?);
    let selection = Selection::new(part("query", &[d, inputs as i64])?, part("offset", &[d])?, keys, config);
    let experts = tensors.get(at.join("experts").as_str()).map(ids);
    let experts = experts.ok_or_else(|| missing(folder, &at.join("experts")))?;
    let path = rows_file(folder, at);
    if let Some(beyond) = experts.iter().find(|&&id| id as usize >= config.num_experts) {
        return Err(Error::Format {
            path,
            wanted: format!("experts 0 to {}", config.num_experts - 1),
            found: beyond.to_string(),
            hint: "the memory's index is damaged; copy the folder again",
        });
    }
    let shape = ExpertShape::new(config, inputs, outputs);
    let table = Table::open(shape, config.seed ^ at.site(), &path, experts)?;
    Ok(Experts::new(config, selection, table))
}

/// Where the rows of the projection at `at` lie.
pub fn rows_file(folder: &Path, at: &ModulePath) -> PathBuf {
    folder.join(format!("{at}.rows"))
}

fn states_file(folder: &Path, at: &ModulePath) -> PathBuf {
    folder.join(format!("{at}.states"))
}

fn missing(folder: &Path, name: &ModulePath) -> Error {
    Error::Format {
        path: folder.join("memory.safetensors"),
        wanted: format!("a tensor `{name}`"),
        found: "none of that name".into(),
        hint: "the memory is not whole; copy the folder again",
    }
}

fn numbers(ids: &[u32]) -> Tensor {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_slice(&ids)
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    let flat = tensor.to_kind(Kind::Int64).flatten(0, -1).contiguous();
    let ids = tensor_core::blob::to_vec::<i64>(&flat).into_iter();
    // What is no number of an expert becomes one that no table has, and is refused where the range is known.
    ids.map(|id| u32::try_from(id).unwrap_or(u32::MAX)).collect()
}

fn named(tensors: impl Iterator<Item = (ModulePath, Tensor)>) -> Tensors {
    tensors.map(|(name, tensor)| (name.to_string(), tensor)).collect()
}
