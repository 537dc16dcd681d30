//! All rounds of one model: what can be drawn, and each round's draw.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use tensor_core::Role;

use crate::draw::Draw;
use crate::pool::{Category, Place, Pool, Rule, Unit, places, stratum, units};
use crate::{Error, Granularity, HalfSelection, HftConfig, Piece, Result, Share};

/// The halves of a model, round by round.
#[derive(Clone, Debug)]
pub struct Halves {
    pieces: Vec<Piece>,
    categories: Vec<String>,
    /// Frozen in every round.
    always: BTreeSet<usize>,
    pools: Vec<Pool>,
    complement: bool,
    seed: u64,
}

impl Halves {
    /// Groups a model's parameters for `config`.
    ///
    /// Errors: options that do not fit each other or the model, and a parameter that belongs to no group.
    pub fn new(config: &HftConfig, pieces: &[Piece]) -> Result<Self> {
        config.check()?;
        let named = config.granularity == Granularity::Pattern;
        let places = if named { Vec::new() } else { places(pieces)? };
        let model = Model { pieces, places };
        let mut always = if named {
            by_pattern(config, pieces)?
        } else {
            model.ends(config)?
        };
        let mut pools = model.pools(config);
        match config.granularity {
            Granularity::FixedLayers => always.extend(model.other_layers(config)?),
            Granularity::Lisa => pools = vec![model.lisa(config)?],
            _ => {}
        }
        if !config.skip_embeddings_and_head {
            pools.extend(model.drawn_ends(config.freeze_ratio));
        }
        let halves = Self {
            categories: model.categories(),
            pieces: pieces.to_vec(),
            always,
            pools,
            complement: config.complement,
            seed: config.seed,
        };
        if halves.draw(0).trained_numbers() == 0 {
            return Err(Error::Option {
                option: "granularity",
                found: "nothing of this model would train".into(),
                hint: "lower `freeze_ratio`, or train the embedding or the head",
            });
        }
        Ok(halves)
    }

    /// What round `round` (from 0) freezes.
    pub fn draw(&self, round: usize) -> HalfSelection {
        let (round, other_side) = if self.complement {
            (round / 2, round % 2 == 1)
        } else {
            (round, false)
        };
        let draw = Draw::new(self.seed, round);
        let mut frozen = self.always.clone();
        for pool in &self.pools {
            let drawn: BTreeSet<usize> = pool.draw(draw).flat_map(|unit| unit.pieces.iter().copied()).collect();
            let all = pool.rows.iter().flatten().flat_map(|unit| &unit.pieces);
            frozen.extend(all.filter(|piece| drawn.contains(piece) != other_side));
        }
        self.selection(&frozen)
    }

    /// A choice of this model's parameters, by index.
    pub(crate) fn selection(&self, frozen: &BTreeSet<usize>) -> HalfSelection {
        let mut shares: Vec<Share> = Vec::new();
        for (idx, (piece, category)) in self.pieces.iter().zip(&self.categories).enumerate() {
            let at = shares
                .iter()
                .position(|share| share.category == *category)
                .unwrap_or_else(|| {
                    shares.push(Share {
                        category: category.clone(),
                        trained_tensors: 0,
                        tensors: 0,
                        trained_numbers: 0,
                        numbers: 0,
                    });
                    shares.len() - 1
                });
            let (share, trains) = (&mut shares[at], usize::from(!frozen.contains(&idx)));
            share.tensors += 1;
            share.trained_tensors += trains;
            share.numbers += piece.numel();
            share.trained_numbers += trains * piece.numel();
        }
        HalfSelection {
            frozen: frozen.iter().map(|&idx| self.pieces[idx].path.clone()).collect(),
            shares,
        }
    }
}

/// A model with each piece's place; no places where none are asked for.
struct Model<'a> {
    pieces: &'a [Piece],
    places: Vec<Place>,
}

impl Model<'_> {
    /// Which groups are drawn from.
    fn pools(&self, config: &HftConfig) -> Vec<Pool> {
        let rule = Rule::Share(config.freeze_ratio);
        let one_row = |row: Vec<Unit>| Pool { rows: vec![row], rule };
        let is_norm = |idx: usize| matches!(self.places[idx], Place::Layer(_, Category::Norm(_)));
        let in_layer = |idx: usize| matches!(self.places[idx], Place::Layer(..));
        let pools = match config.granularity {
            Granularity::Layer => vec![one_row(self.layers().into_values().collect())],
            Granularity::Model => [false, true]
                .map(|norms| one_row(units(self.pieces, |idx| in_layer(idx) && is_norm(idx) == norms)))
                .into(),
            Granularity::Category | Granularity::Stratified => {
                // Layers whose groups have another size (a first layer without experts) are rows apart.
                let mut rows: BTreeMap<_, Vec<Vec<Unit>>> = BTreeMap::new();
                for ((_, category, stratum), row) in self.groups(config.granularity) {
                    rows.entry((category, stratum, row.len())).or_default().push(row);
                }
                rows.into_values().map(|rows| Pool { rows, rule }).collect()
            }
            Granularity::FixedLayers | Granularity::Pattern | Granularity::Lisa => Vec::new(),
        };
        pools
            .into_iter()
            .filter(|pool| pool.rows.iter().any(|row| !row.is_empty()))
            .collect()
    }

    /// What is alike in each layer.
    fn groups(&self, granularity: Granularity) -> BTreeMap<(usize, Category, Option<&'static str>), Vec<Unit>> {
        let mut groups: BTreeMap<_, Vec<Unit>> = BTreeMap::new();
        for unit in units(self.pieces, |idx| matches!(self.places[idx], Place::Layer(..))) {
            let first = unit.pieces[0];
            if let Place::Layer(layer, category) = &self.places[first] {
                let stratum = match granularity {
                    Granularity::Stratified => stratum(&self.pieces[first].path),
                    _ => None,
                };
                groups
                    .entry((*layer, category.clone(), stratum))
                    .or_default()
                    .push(unit);
            }
        }
        groups
    }

    /// Whole layers, by number.
    fn layers(&self) -> BTreeMap<usize, Unit> {
        let mut layers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (idx, place) in self.places.iter().enumerate() {
            if let Place::Layer(layer, _) = place {
                layers.entry(*layer).or_default().push(idx);
            }
        }
        let unit = |(layer, members)| (layer, Unit::new(members, self.pieces));
        layers.into_iter().map(unit).collect()
    }

    fn lisa(&self, config: &HftConfig) -> Result<Pool> {
        let layers: Vec<Unit> = self.layers().into_values().collect();
        let trained = config.lisa_n_layers.unwrap_or_default();
        if trained > layers.len() {
            return too_many("lisa_n_layers", trained, layers.len());
        }
        Ok(Pool {
            rows: vec![layers],
            rule: Rule::AllBut(trained),
        })
    }

    /// The layers that `freeze_trainable_layers` does not name.
    fn other_layers(&self, config: &HftConfig) -> Result<BTreeSet<usize>> {
        let layers: Vec<Unit> = self.layers().into_values().collect();
        let wanted = config.freeze_trainable_layers.unwrap_or_default();
        let count = wanted.unsigned_abs() as usize;
        if count > layers.len() {
            return too_many("freeze_trainable_layers", count, layers.len());
        }
        let frozen = if wanted > 0 {
            &layers[..layers.len() - count]
        } else {
            &layers[count..]
        };
        Ok(frozen.iter().flat_map(|unit| unit.pieces.iter().copied()).collect())
    }

    /// Embedding, head and last norm where they stay in every round. A new head always trains.
    fn ends(&self, config: &HftConfig) -> Result<BTreeSet<usize>> {
        let (embedding, head) = config.frozen_ends();
        let heads = self.at(&Place::Head);
        let is_new = heads.iter().any(|&idx| self.pieces[idx].role == Role::Head);
        if config.freeze_head == Some(true) && (is_new || (heads.is_empty() && !embedding)) {
            let found = if is_new {
                "the head is new and has nothing to keep"
            } else {
                "the head is tied to the embedding, which trains"
            };
            return Err(Error::Option {
                option: "freeze_head",
                found: found.into(),
                hint: "remove it, or decide with `freeze_embeddings`",
            });
        }
        let mut frozen = BTreeSet::new();
        if embedding {
            frozen.extend(self.at(&Place::Embedding));
        }
        if head {
            frozen.extend(self.at(&Place::LastNorm));
            frozen.extend(heads.into_iter().filter(|_| !is_new));
        }
        Ok(frozen)
    }

    /// Embedding and head as one row of a draw.
    fn drawn_ends(&self, ratio: f64) -> Option<Pool> {
        let is_end = |idx: usize| {
            matches!(self.places[idx], Place::Embedding | Place::Head) && self.pieces[idx].role != Role::Head
        };
        let row = units(self.pieces, is_end);
        (!row.is_empty()).then(|| Pool {
            rows: vec![row],
            rule: Rule::Share(ratio),
        })
    }

    fn at(&self, place: &Place) -> Vec<usize> {
        (0..self.places.len())
            .filter(|&idx| self.places[idx] == *place)
            .collect()
    }

    /// Each piece's category, in words.
    fn categories(&self) -> Vec<String> {
        let places = self.places.iter();
        let named = places.map(|place| match place {
            Place::Embedding => "embedding".to_owned(),
            Place::Layer(_, category) => category.name(),
            Place::LastNorm => "last norm".to_owned(),
            Place::Head => "head".to_owned(),
        });
        if self.places.is_empty() {
            return vec!["parameters".to_owned(); self.pieces.len()];
        }
        named.collect()
    }
}

/// What no pattern is found in.
fn by_pattern(config: &HftConfig, pieces: &[Piece]) -> Result<BTreeSet<usize>> {
    let mut frozen: BTreeSet<usize> = (0..pieces.len())
        .filter(|&idx| pieces[idx].role != Role::Head)
        .collect();
    for pattern in &config.unfrozen_parameters {
        let regex = Regex::new(pattern).map_err(|source| Error::Pattern {
            pattern: pattern.clone(),
            source: Box::new(source),
        })?;
        let met = |idx: &usize| regex.is_match(pieces[*idx].path.as_str());
        if !(0..pieces.len()).any(|idx| met(&idx)) {
            return Err(Error::NoMatch {
                pattern: pattern.clone(),
                example: pieces.first().map_or_else(String::new, |piece| piece.path.to_string()),
            });
        }
        frozen.retain(|idx| !met(idx));
    }
    Ok(frozen)
}

fn too_many<T>(option: &'static str, wanted: usize, layers: usize) -> Result<T> {
    Err(Error::Option {
        option,
        found: format!("{wanted} layers, but this model has {layers}"),
        hint: "choose fewer",
    })
}
