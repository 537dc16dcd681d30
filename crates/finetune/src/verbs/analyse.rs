//! `finetune analyse`: how training moved a model's weights, in magnitude and in direction.

mod scatter;
mod tuned;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use checkpoint::write_file;
use dora::{Change, Line, regression};
use lora::TargetModules;
use models::Source;
use serde::Serialize;
use tensor_core::{ModulePath, Modules};

use self::tuned::{Tuned, of_runs};
use crate::args::MachineArgs;
use crate::output;

/// Arguments of `analyse`.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "For each matrix: ΔM, the mean change of its rows' lengths, and ΔD, the mean of 1 - cos of the angle by which\n\
                  its rows were turned (DoRA, arXiv:2402.09353, section 3.2). A group is a run, or all single results of one\n\
                  method; a line of ΔM over ΔD is fitted to its points. The paper finds rising lines for LoRA, falling ones for DoRA and full\n\
                  fine-tuning.\n\n\
                  Example:\n  finetune analyse --model smollm2-135m-instruct --checkpoints runs/dora --checkpoints runs/full --output analysis"
)]
pub struct Args {
    /// The model that training began with
    #[arg(long, value_name = "M")]
    model: String,
    /// What training made: a LoRA or DoRA adapter, or a whole model; may be given several times
    #[arg(long, value_name = "DIR", num_args = 1.., required_unless_present = "checkpoints")]
    adapter: Vec<PathBuf>,
    /// A run's output folder, for all of its checkpoints; may be given several times
    #[arg(long, value_name = "RUN", num_args = 1..)]
    checkpoints: Vec<PathBuf>,
    /// The modules that are compared: names, a pattern, or `all-linear`
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_values = ["q_proj", "v_proj"])]
    target_modules: Vec<String>,
    /// Where the picture and the numbers are written
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// JSON on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// One matrix at one time.
#[derive(Clone, Debug, Serialize)]
struct Point {
    group: String,
    checkpoint: String,
    module: String,
    layer: Option<usize>,
    delta_magnitude: f64,
    delta_direction: f64,
}

/// The line through a group's points.
#[derive(Clone, Debug, Serialize)]
struct Slope {
    group: String,
    method: &'static str,
    points: usize,
    #[serde(flatten)]
    line: Option<LineNumbers>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct LineNumbers {
    slope: f64,
    intercept: f64,
    correlation: f64,
}

#[derive(Debug, Serialize)]
struct Analysis {
    lines: Vec<Slope>,
    points: Vec<Point>,
}

impl Args {
    /// Measures every matrix of every result.
    pub fn run(self) -> Result<ExitCode> {
        let tuned = of_runs(&self.adapter, &self.checkpoints)?;
        let source = Source::open(&self.model, &output::events())?;
        let device = self.machine.start()?.device;
        let modules = self.modules(&source)?;
        let work = output::events().begin("matrices", tuned.len() * modules.len());
        let mut points = Vec::new();
        for result in &tuned {
            let place = || format!("`{}` on model `{}`", result.path().display(), self.model);
            let before = points.len();
            for at in &modules {
                work.advance(1);
                if let Some(change) = result.change(source.dir(), at, device).with_context(place)? {
                    points.push(point(result, at, change));
                }
            }
            if points.len() == before {
                bail!(
                    "{}: it changes none of {}\nhint: `--target-modules` names others",
                    place(),
                    self.target_modules.join(", ")
                );
            }
        }
        drop(work);
        let lines = lines(&tuned, &points);
        let analysis = Analysis { lines, points };
        if let Some(folder) = &self.output {
            let numbers = serde_json::to_string_pretty(&analysis)?;
            let picture = scatter::draw(&analysis)?;
            std::fs::create_dir_all(folder).with_context(|| format!("`{}` cannot be made", folder.display()))?;
            write_file(&folder.join("analysis.json"), numbers.as_bytes())?;
            write_file(&folder.join("magnitude-direction.svg"), picture.as_bytes())?;
            output::note(format!("picture and numbers written to `{}`", folder.display()));
        }
        if self.json {
            output::json(&analysis)?;
        } else {
            show(&analysis)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// The matrices that are looked at, in the model's order.
    fn modules(&self, source: &Source) -> Result<Vec<ModulePath>> {
        let targets = match &self.target_modules[..] {
            [one] if one == "all-linear" || one.contains(['*', '\\', '(', '|']) => TargetModules::One(one.clone()),
            names => TargetModules::Many(names.to_vec()),
        };
        let paths = decoder::projection_paths(source.dir().config());
        let all = paths.iter().map(|(path, output)| (path, *output));
        let chosen = Modules::new(targets.targets())?.choose(all)?;
        Ok(chosen)
    }
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

/// A line of the table: group, checkpoint, layer, and a point a module.
type Row<'a> = (&'a str, &'a str, Option<usize>, BTreeMap<&'a str, &'a Point>);

/// A row a layer and checkpoint, the modules beside each other; then the lines.
fn show(analysis: &Analysis) -> Result<()> {
    let mut names: Vec<&str> = Vec::new();
    for point in &analysis.points {
        if !names.contains(&point.module.as_str()) {
            names.push(&point.module);
        }
    }
    let group_width = width(analysis.points.iter().map(|point| point.group.as_str()));
    let time_width = width(analysis.points.iter().map(|point| point.checkpoint.as_str())).max("checkpoint".len());
    let heads: Vec<String> = names
        .iter()
        .map(|name| format!("{:>12}{:>12}", format!("{name} ΔM"), "ΔD"))
        .collect();
    output::line(format!(
        "{:group_width$}  {:time_width$}  layer{}",
        "group",
        "checkpoint",
        heads.concat()
    ))?;
    let mut rows: Vec<Row> = Vec::new();
    for point in &analysis.points {
        let key = (point.group.as_str(), point.checkpoint.as_str(), point.layer);
        match rows.iter_mut().find(|row| (row.0, row.1, row.2) == key) {
            Some(row) => drop(row.3.insert(&point.module, point)),
            None => rows.push((key.0, key.1, key.2, BTreeMap::from([(point.module.as_str(), point)]))),
        }
    }
    for (group, checkpoint, layer, found) in &rows {
        let layer = layer.map_or_else(|| "-".to_owned(), |layer| layer.to_string());
        let cells: Vec<String> = names
            .iter()
            .map(|name| match found.get(name) {
                Some(point) => format!("{:>12.3e}{:>12.3e}", point.delta_magnitude, point.delta_direction),
                None => format!("{:>12}{:>12}", "-", "-"),
            })
            .collect();
        output::line(format!(
            "{group:group_width$}  {checkpoint:time_width$}  {layer:>5}{}",
            cells.concat()
        ))?;
    }
    for line in &analysis.lines {
        let text = match line.line {
            Some(numbers) => format!(
                "ΔM over ΔD: slope {:+.3e}, correlation {:+.2} of {} points",
                numbers.slope, numbers.correlation, line.points
            ),
            None => format!("ΔM over ΔD: no line through {} points of one ΔD", line.points),
        };
        output::line(format!("{} ({}): {text}", line.group, line.method))?;
    }
    Ok(())
}

fn width<'n>(names: impl Iterator<Item = &'n str>) -> usize {
    names
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0)
        .max("group".len())
}
