//! How far training moved a model's matrices, in magnitude and in direction (DoRA, arXiv:2402.09353, section 3.2).

mod scatter;
mod tuned;

use anyhow::{Context as _, Result, bail};
use dora::{Change, Line, regression};
use models::Source;
use serde::Serialize;
use tch::Device;
use tensor_core::ModulePath;

pub use tuned::{Tuned, of_runs};

/// One matrix at one time.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// The group.
    pub group: String,
    /// The result's name in it.
    pub checkpoint: String,
    /// The matrix's module.
    pub module: String,
    /// Its layer.
    pub layer: Option<usize>,
    /// ΔM: the mean change of its rows' lengths.
    pub delta_magnitude: f64,
    /// ΔD: the mean of 1 - cos of its rows' turns.
    pub delta_direction: f64,
}

/// The line through a group's points.
#[derive(Clone, Debug, Serialize)]
pub struct Slope {
    /// The group.
    pub group: String,
    /// How the group was trained.
    pub method: &'static str,
    /// Its points.
    pub points: usize,
    #[serde(flatten)]
    /// The line through them; none if they have one ΔD.
    pub line: Option<LineNumbers>,
}

/// A line's numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct LineNumbers {
    /// ΔM over ΔD.
    pub slope: f64,
    /// ΔM where ΔD is 0.
    pub intercept: f64,
    /// Pearson's, of ΔM and ΔD.
    pub correlation: f64,
}

/// How far training moved the matrices of some results.
#[derive(Debug, Serialize)]
pub struct Analysis {
    /// A line a group.
    pub lines: Vec<Slope>,
    /// Its points.
    pub points: Vec<Point>,
}

impl Analysis {
    /// Of `modules` of every result of training `source`.
    pub fn of(source: &Source, tuned: &[Tuned], modules: &[ModulePath], device: Device) -> Result<Self> {
        let work = source.events().begin("matrices", tuned.len() * modules.len());
        let mut points = Vec::new();
        for result in tuned {
            let place = || format!("`{}` on model `{}`", result.path().display(), source.name());
            let before = points.len();
            for at in modules {
                work.advance(1);
                if let Some(change) = result.change(source.dir(), at, device).with_context(place)? {
                    points.push(point(result, at, change));
                }
            }
            if points.len() == before {
                bail!(
                    "{}: it changes none of {}\nhint: `--target-modules` names others",
                    place(),
                    names(modules)
                );
            }
        }
        drop(work);
        let lines = lines(tuned, &points);
        Ok(Self { lines, points })
    }

    /// A picture of ΔM over ΔD, as SVG.
    pub fn draw(&self) -> Result<String> {
        scatter::draw(self)
    }
}

/// The different names of modules, as they are asked for.
fn names(modules: &[ModulePath]) -> String {
    let mut names: Vec<&str> = modules.iter().map(ModulePath::name).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

fn point(result: &Tuned, at: &ModulePath, change: Change) -> Point {
    Point {
        group: result.group().to_owned(),
        checkpoint: result.name().to_owned(),
        module: at.name().to_owned(),
        layer: at.layer_idx(),
        delta_magnitude: change.magnitude,
        delta_direction: change.direction,
    }
}

/// A line a group, in the order in which the groups came.
fn lines(tuned: &[Tuned], points: &[Point]) -> Vec<Slope> {
    let mut found: Vec<Slope> = Vec::new();
    for result in tuned {
        if found.iter().any(|line| line.group == result.group()) {
            continue;
        }
        let of: Vec<Change> = points
            .iter()
            .filter(|point| point.group == result.group())
            .map(|point| Change {
                magnitude: point.delta_magnitude,
                direction: point.delta_direction,
            })
            .collect();
        let numbers = |line: Line| LineNumbers {
            slope: line.slope,
            intercept: line.intercept,
            correlation: line.correlation,
        };
        found.push(Slope {
            group: result.group().to_owned(),
            method: result.method(),
            points: of.len(),
            line: regression(&of).map(numbers),
        });
    }
    found
}
