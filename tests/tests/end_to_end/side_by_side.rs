//! Several runs at once in one process: each leaves what it leaves alone, and tells its own listener.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::thread;

use events::{Event, Events};
use methods::recipe::Recipe;
use models::machine::{Dtype, Machine};
use session::{Begin, Watch};

use super::command::{Home, files, finetune, metrics};

/// Two runs that have nothing in common: LoRA with dropout over conversations, DoRA by preferences.
const RUNS: [(&str, &[&str]); 2] = [
    ("sft", &["surgery.0.lora_dropout=0.2", "train.seed=7"]),
    (
        "dpo",
        &[
            "surgery.0.kind=dora",
            "surgery.0.lora_dropout=0.1",
            "objective.kind=dpo",
            "train.learning_rate=1e-3",
        ],
    ),
];

/// The overrides of one of [`RUNS`], written into `output`.
fn overrides(home: &Home, (name, settings): (&str, &[&str]), output: &str) -> Vec<String> {
    let rows = match name {
        "dpo" => home.pairs(),
        _ => home.chats(),
    };
    let mut all: Vec<String> = settings.iter().map(ToString::to_string).collect();
    all.push(format!("data.train.0.path={rows}"));
    all.push(format!("train.output_dir={output}"));
    all
}

/// Every tensor file of a run, by its place in the run's folder.
fn tensors(run: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let is_tensors = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "safetensors");
    let all = files(run).into_iter().filter(|(path, _)| is_tensors(path));
    all.map(|(path, bytes)| (path.strip_prefix(run).unwrap().to_owned(), bytes))
        .collect()
}

#[test]
fn two_runs_in_one_process_give_the_files_that_two_processes_give() {
    let home = Home::new();
    let recipe = home.recipe("");
    for run in RUNS {
        let mut args = vec!["train".to_owned(), recipe.clone(), "--threads".into(), "1".into()];
        for setting in overrides(&home, run, &home.at(&format!("{}-alone", run.0))) {
            args.extend(["--set".to_owned(), setting]);
        }
        finetune(&home, &args.iter().map(String::as_str).collect::<Vec<_>>()).works();
    }
    let stop = AtomicBool::new(false);
    let told: Vec<Vec<Event>> = thread::scope(|scope| {
        let side_by_side = RUNS.map(|run| {
            let (home, recipe, stop) = (&home, &recipe, &stop);
            scope.spawn(move || {
                let settings = overrides(home, run, &home.at(&format!("{}-beside", run.0)));
                let recipe = Recipe::read(Path::new(recipe), &settings).unwrap();
                let machine = Machine::start(Dtype::F32, "cpu", Some(1)).unwrap();
                let (events, heard) = Events::channel();
                session::run(recipe, machine, Begin::New, &Watch::new(stop).with_events(events)).unwrap();
                heard.try_iter().collect()
            })
        });
        side_by_side.map(|run| run.join().unwrap()).into()
    });
    for ((name, _), told) in RUNS.iter().zip(told) {
        let [alone, beside] = ["alone", "beside"].map(|how| home.path().join(format!("{name}-{how}")));
        let (wanted, found) = (tensors(&alone), tensors(&beside));
        assert!(wanted.len() > 3, "{name}: {:?}", wanted.keys());
        assert_eq!(
            found.keys().collect::<Vec<_>>(),
            wanted.keys().collect::<Vec<_>>(),
            "{name}"
        );
        for (path, bytes) in &wanted {
            assert!(found[path] == *bytes, "{name}: `{}` differs", path.display());
        }
        assert_eq!(metrics(&beside), metrics(&alone), "{name}");
        // Each listener heard its own run: the steps' losses as its log has them, and its checkpoints.
        let losses: Vec<f64> = told
            .iter()
            .filter_map(|event| match event {
                Event::Trained { values, .. } => values["loss"].as_f64(),
                _ => None,
            })
            .collect();
        let logged: Vec<f64> = metrics(&alone)
            .iter()
            .filter_map(|entry| entry["loss"].as_f64())
            .collect();
        assert_eq!(losses, logged, "{name}");
        let saved = |event: &Event| matches!(event, Event::Saved { path, .. } if path.starts_with(&beside));
        assert_eq!(told.iter().filter(|event| saved(event)).count(), 3, "{name}");
    }
}
