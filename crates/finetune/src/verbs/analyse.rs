//! `finetune analyse`: how training moved a model's weights, in magnitude and in direction.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use checkpoint::write_file;
use lora::TargetModules;
use models::Source;
use rewrite::analyse::{Analysis, Point, of_runs};
use tensor_core::{ModulePath, Modules};

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

impl Args {
    /// Measures every matrix of every result.
    pub fn run(self) -> Result<ExitCode> {
        let tuned = of_runs(&self.adapter, &self.checkpoints, &output::events())?;
        let source = Source::open(&self.model, &output::events())?;
        let device = self.machine.start()?.device;
        let modules = self.modules(&source)?;
        let analysis = Analysis::of(&source, &tuned, &modules, device)?;
        if let Some(folder) = &self.output {
            let numbers = serde_json::to_string_pretty(&analysis)?;
            let picture = analysis.draw()?;
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
