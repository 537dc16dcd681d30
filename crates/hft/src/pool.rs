//! Units that a draw freezes or trains as one, and the pools it draws them from.

use std::collections::{BTreeMap, BTreeSet};

use tensor_core::{ModulePath, Role};

use crate::draw::{Draw, quota};
use crate::{Error, Piece, Result};

/// A weight with its bias, or a whole layer: indices of pieces.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(crate) pieces: Vec<usize>,
    site: u64,
}

impl Unit {
    pub(crate) fn new(pieces: Vec<usize>, of: &[Piece]) -> Self {
        let site = pieces.iter().map(|&idx| of[idx].path.site()).min().unwrap_or_default();
        Self { pieces, site }
    }
}

/// How many of a row are frozen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// A share, over all rows together.
    Share(f64),
    /// All but so many.
    AllBut(usize),
}

/// Rows of units that are alike: one row a layer, or one for the whole model. Rows have one length.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) rows: Vec<Vec<Unit>>,
    pub(crate) rule: Rule,
}

impl Pool {
    /// The units that a round freezes.
    pub(crate) fn draw(&self, draw: Draw) -> impl Iterator<Item = &Unit> {
        let members = self.rows.first().map_or(0, Vec::len);
        // The least site of a row or pool stands for it, whatever the order.
        let least = |row: &Vec<Unit>| row.iter().map(|unit| unit.site).min().unwrap_or_default();
        let coin = draw
            .apart(2)
            .coin(self.rows.iter().map(least).min().unwrap_or_default());
        let (each, more) = match self.rule {
            Rule::Share(ratio) => quota(members, ratio, self.rows.len(), coin),
            Rule::AllBut(trained) => (members.saturating_sub(trained), 0),
        };
        let with_more: BTreeSet<usize> = draw
            .apart(1)
            .choose(more, self.rows.iter().map(least))
            .into_iter()
            .collect();
        self.rows.iter().enumerate().flat_map(move |(idx, row)| {
            let count = each + usize::from(with_more.contains(&idx));
            let chosen = draw.apart(0).choose(count, row.iter().map(|unit| unit.site));
            chosen.into_iter().map(|member| &row[member])
        })
    }
}

/// Where a piece stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The token embedding.
    Embedding,
    /// In a layer, among its like.
    Layer(usize, Category),
    /// The norm before the head.
    LastNorm,
    /// The output layer.
    Head,
}

/// What is alike within a layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Category {
    /// Queries, keys, values, output.
    Attention,
    /// Gate, up, down: of a mixture, of all experts.
    FeedForward,
    /// Norms of one width.
    Norm(i64),
    /// Anything else: by role and shape.
    Other(Role, Vec<i64>),
}

impl Category {
    /// In words.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Attention => "attention".into(),
            Self::FeedForward => "feed-forward".into(),
            Self::Norm(_) => "norms".into(),
            Self::Other(role, shape) => format!("{role:?} {shape:?}").to_lowercase(),
        }
    }
}

const ATTENTION: [&str; 4] = ["q_proj", "k_proj", "v_proj", "o_proj"];
/// In a mixture each expert has its own; Mixtral's are `w1`, `w3` and `w2`.
const FEED_FORWARD: [&str; 6] = ["gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"];

/// Where each piece stands; a bias stands where its weight does.
pub(crate) fn places(pieces: &[Piece]) -> Result<Vec<Place>> {
    let mut weights: BTreeMap<&str, Place> = BTreeMap::new();
    for piece in pieces.iter().filter(|piece| !piece.is_bias()) {
        weights.insert(piece.module(), place(piece)?);
    }
    let heads: Vec<&Piece> = pieces
        .iter()
        .filter(|piece| !piece.is_bias() && weights.get(piece.module()) == Some(&Place::Head))
        .collect();
    if let [_, second, ..] = heads[..] {
        return Err(Error::Ungrouped {
            at: second.path.clone(),
            found: format!("a matrix outside of any layer, as is `{}`", heads[0].path),
            hint: "of a model's matrices only the output layer may stand outside of its layers",
        });
    }
    let of = |piece: &Piece| {
        weights.get(piece.module()).cloned().ok_or_else(|| Error::Ungrouped {
            at: piece.path.clone(),
            found: "a bias without a weight".into(),
            hint: "name what trains with `granularity = \"pattern\"`",
        })
    };
    pieces.iter().map(of).collect()
}

fn place(piece: &Piece) -> Result<Place> {
    let refuse = |found: String, hint| {
        Err(Error::Ungrouped {
            at: piece.path.clone(),
            found,
            hint,
        })
    };
    let dims = piece.shape.len();
    match (piece.role, piece.path.layer_idx()) {
        (Role::Embedding, _) => Ok(Place::Embedding),
        (Role::Norm, Some(layer)) if dims == 1 => Ok(Place::Layer(layer, Category::Norm(piece.shape[0]))),
        (Role::Norm, None) => Ok(Place::LastNorm),
        (Role::Base | Role::Router, Some(layer)) if dims >= 2 => {
            let name = piece.module_name();
            let category = if ATTENTION.contains(&name) {
                Category::Attention
            } else if FEED_FORWARD.contains(&name) {
                Category::FeedForward
            } else {
                Category::Other(piece.role, piece.shape.clone())
            };
            Ok(Place::Layer(layer, category))
        }
        (Role::Base | Role::Head, None) if dims == 2 => Ok(Place::Head),
        (Role::Adapter | Role::AdapterOut | Role::Memory, _) => refuse(
            "a weight that a method added".into(),
            "half fine-tuning chooses among the model's own weights; leave the other surgery out",
        ),
        (role, layer) => refuse(
            format!("role {role:?}, shape {:?}, layer {layer:?}", piece.shape),
            "name what trains with `granularity = \"pattern\"`",
        ),
    }
}

/// The units of the weights that `belongs` takes, in order: each with its bias.
pub(crate) fn units(pieces: &[Piece], belongs: impl Fn(usize) -> bool) -> Vec<Unit> {
    let mut of: Vec<(&str, Vec<usize>)> = Vec::new();
    let mut at: BTreeMap<&str, usize> = BTreeMap::new();
    for (idx, piece) in pieces.iter().enumerate().filter(|(idx, _)| belongs(*idx)) {
        let module = piece.module();
        let unit = *at.entry(module).or_insert_with(|| {
            of.push((module, Vec::new()));
            of.len() - 1
        });
        of[unit].1.push(idx);
    }
    of.into_iter().map(|(_, members)| Unit::new(members, pieces)).collect()
}

/// Which of a stratified pair the attention matrix of this path belongs to, if it is one.
pub(crate) fn stratum(path: &ModulePath) -> Option<&'static str> {
    let module = path
        .as_str()
        .rsplit_once('.')
        .map_or(path.as_str(), |(module, _)| module);
    match module.rsplit('.').next() {
        Some("q_proj" | "o_proj") => Some("q and o"),
        Some("k_proj" | "v_proj") => Some("k and v"),
        _ => None,
    }
}
