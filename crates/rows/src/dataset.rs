//! A data file read and recognised: rows in their normal form, each with its place.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::columns::{self, Unread};
use crate::error::{self, Unit};
use crate::normalise::normalise;
use crate::random::Random;
use crate::unused::Unused;
use crate::{Error, Place, Problem, ReadConfig, Row, Shape, read};

/// A row's columns that nothing reads.
type Columns = Vec<(String, Unread)>;

/// The rows of one file.
#[derive(Debug, Clone)]
pub struct Dataset {
    path: Arc<Path>,
    shape: Shape,
    unit: Unit,
    rows: Vec<(u32, Row)>,
    /// By the row's number: the columns that were to be kept, where it has them.
    kept: BTreeMap<u32, Map<String, Value>>,
    remarks: Vec<String>,
    unused: Vec<String>,
    digest: [u8; 32],
}

/// How many rows to hold out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HeldOut {
    /// This many.
    Count(usize),
    /// This part of all, between 0 and 1, rounded to whole rows.
    Fraction(f64),
}

impl Dataset {
    /// Reads a `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` or `.txt` file; its first row's keys say the shape of all.
    pub fn read(path: &Path, config: &ReadConfig) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(error::io(path))?;
        Self::parse(path, &bytes, config)
    }

    /// As [`Self::read`], of bytes that are already there; the path's extension says what they are.
    pub fn parse(path: &Path, bytes: &[u8], config: &ReadConfig) -> Result<Self, Error> {
        let raw = read::parse(path, bytes, config)?;
        let path: Arc<Path> = path.into();
        let unit = raw.unit;
        let place = |number: usize| Place {
            path: path.clone(),
            number: Some((unit, number)),
        };
        let Some((number, first)) = raw.rows.first() else {
            return Err(Error::NoRows {
                path: path.to_path_buf(),
            });
        };
        let shape = match config.shape {
            Some(shape) => shape,
            None => Shape::of(first).map_err(|problem| problem.at(place(*number)))?,
        };
        read::check_columns(&path, config, shape)?;
        let mut kept = BTreeMap::new();
        for (number, row) in raw.rows.iter().filter(|_| !config.keep.is_empty()) {
            let there = |name: &String| Some((name.clone(), row.get(name).filter(|value| !value.is_null())?.clone()));
            kept.insert(*number as u32, config.keep.iter().filter_map(there).collect());
        }
        let read: Vec<(u32, (Row, Columns))> = raw
            .rows
            .into_par_iter()
            .map(|(number, raw)| {
                let row = one(&raw, shape, config.shape.is_some()).map_err(|problem| problem.at(place(number)))?;
                Ok((number as u32, row))
            })
            .collect::<Result<_, Error>>()?;
        let mut unread = Unused::default();
        let mut rows = Vec::with_capacity(read.len());
        for (number, (row, columns)) in read {
            unread.add(columns);
            rows.push((number, row));
        }
        Ok(Self {
            digest: digest(bytes, &path, config),
            remarks: unread.remarks(&path, shape, rows.len()),
            unused: unread.names(),
            path,
            shape,
            unit,
            rows,
            kept,
        })
    }

    /// What whoever uses the rows should know: columns that nothing reads though they may hold a part of the prompt.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// Columns that say something and are not read.
    pub fn unused_columns(&self) -> &[String] {
        &self.unused
    }

    /// The shape that was recognised.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none, which only splitting can lead to.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A row.
    pub fn row(&self, idx: usize) -> &Row {
        &self.rows[idx].1
    }

    /// What a row has in a column of [`ReadConfig::keep`]; none for null.
    pub fn kept(&self, idx: usize, column: &str) -> Option<&Value> {
        self.kept.get(&self.rows[idx].0)?.get(column)
    }

    /// All rows in the file's order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// Where a row stands in its file.
    pub fn place(&self, idx: usize) -> Place {
        Place {
            path: self.path.clone(),
            number: Some((self.unit, self.rows[idx].0 as usize)),
        }
    }

    /// Leaves out rows whose [`Row::input`] stood in an earlier row; returns how many those were.
    ///
    /// Do this before [`Self::split`], or rows to learn turn up among the rows to test.
    pub fn dedupe(&mut self) -> usize {
        let before = self.rows.len();
        let mut seen: HashSet<[u8; 32]> = HashSet::with_capacity(before);
        self.rows
            .retain(|(_, row)| seen.insert(Sha256::digest(row.input().as_bytes()).into()));
        self.derive("dedupe");
        before - self.rows.len()
    }

    /// Keeps the first `count` rows.
    pub fn truncate(&mut self, count: usize) {
        self.rows.truncate(count);
        self.derive(&format!("truncate {count}"));
    }

    /// Holds out rows chosen by the seed; both parts keep the file's order. Returns (to learn, held out).
    pub fn split(self, held_out: HeldOut, seed: u64) -> Result<(Self, Self), Error> {
        let total = self.rows.len();
        let (count, valid) = match held_out {
            HeldOut::Count(count) => (count, count < total),
            HeldOut::Fraction(part) => ((part * total as f64).round() as usize, (0.0..1.0).contains(&part)),
        };
        if !valid {
            return Err(Error::Setting {
                key: "held_out",
                wanted: "fewer rows than there are, or a fraction from 0 to 1",
                found: match held_out {
                    HeldOut::Count(count) => format!("{count} of {total} rows"),
                    HeldOut::Fraction(part) => format!("the fraction {part} of {total} rows"),
                },
            });
        }
        let mut order: Vec<u32> = (0..total as u32).collect();
        Random::new(seed, 0).shuffle(&mut order);
        let chosen: HashSet<u32> = order[..count].iter().copied().collect();
        let empty = |rows| Self {
            rows,
            path: self.path.clone(),
            kept: self.kept.clone(),
            remarks: self.remarks.clone(),
            unused: self.unused.clone(),
            ..self
        };
        let mut learn = empty(Vec::new());
        let mut held = empty(Vec::new());
        for (i, row) in self.rows.into_iter().enumerate() {
            if chosen.contains(&(i as u32)) {
                held.rows.push(row);
            } else {
                learn.rows.push(row);
            }
        }
        learn.derive(&format!("split {count} {seed} learn"));
        held.derive(&format!("split {count} {seed} held out"));
        Ok((learn, held))
    }

    /// Changes with the rows, in their order.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    fn derive(&mut self, how: &str) {
        let mut hasher = Sha256::new();
        hasher.update(self.digest);
        hasher.update(how);
        self.digest = hasher.finalize().into();
    }
}

/// A row in its normal form, with the columns that it does not read; refused where text of its prompt would be lost.
fn one(raw: &Map<String, Value>, shape: Shape, chosen: bool) -> Result<(Row, Columns), Problem> {
    let mut shape = shape;
    // A text may have a label or not: rows to be labelled stand beside rows that are.
    let of_text = |shape: Shape| matches!(shape, Shape::Text | Shape::Labelled);
    if !chosen && of_text(shape) && Shape::of(raw).is_ok_and(of_text) {
        shape = Shape::of(raw)?;
    }
    if !chosen {
        shape.check(raw)?;
        let own = Shape::of(raw)?;
        if own != shape {
            return Err(Problem::OtherShape {
                wanted: shape.name().to_owned(),
                found: own.name().to_owned(),
            });
        }
    }
    let row = normalise(raw, shape)?;
    let unread = columns::unread(raw, shape, &row);
    if !chosen {
        columns::refuse(shape, &row, &unread)?;
    }
    let owned = unread.into_iter().map(|(name, kind)| (name.to_owned(), kind));
    Ok((row, owned.collect()))
}

/// Changes with the file's bytes, its kind, and the way it is read.
pub fn digest(bytes: &[u8], path: &Path, config: &ReadConfig) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(Sha256::digest(bytes));
    hasher.update(format!("{:?} {config:?}", path.extension()));
    hasher.finalize().into()
}
