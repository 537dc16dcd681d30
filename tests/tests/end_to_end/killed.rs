//! Commands that are killed, or find no room, before any of their system calls: nothing is lost, and the end is the same.
//!
//! A library preloaded into the command counts the calls that change files and stops before the one of a number, so every
//! place between two calls can be tried, and tried again. `KILLED_TIMES=1000 cargo test -p end-to-end killed` tries as many
//! places, spread over the commands; without it there are [`TIMES`]; `KILLED_COMMAND=prune` tries the commands of that name
//! alone. A command with fewer such calls than its part is killed at random moments for the rest, wherever it then is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use checkpoint::Safetensors;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::command::{Home, answer, command, finetune, metrics, tiny};

/// Places that are tried in all where nobody asks for more.
const TIMES: usize = 30;

/// The library, compiled.
fn shim(home: &Home) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/killed/shim.c");
    let library = home.path().join("shim.so");
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    compiler
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(source);
    assert!(compiler.status().expect("a C compiler").success());
    library
}

/// What is done, on what, and how it is done again.
struct Case {
    name: &'static str,
    home: Home,
    library: PathBuf,
    /// What lies in the folder `work` before; each try begins with a copy.
    args: Vec<String>,
    /// What goes on where it was killed; the first of them that is not refused as another run.
    again: Vec<Vec<String>>,
    /// The folder that is written, in `work`.
    output: &'static str,
    /// What must come out bit for bit, in the output.
    wanted: Vec<&'static str>,
}

impl Case {
    fn new(name: &'static str, output: &'static str, wanted: &[&'static str]) -> Self {
        let home = Home::new();
        fs::create_dir(home.path().join("before")).unwrap();
        Self {
            library: shim(&home),
            name,
            home,
            args: Vec::new(),
            again: Vec::new(),
            output,
            wanted: wanted.to_vec(),
        }
    }

    /// A path in the folder that is copied for each try.
    fn work(&self, name: &str) -> String {
        self.home.path().join("work").join(name).display().to_string()
    }

    /// Does `args` in `work`, and keeps what they leave as what is there before each try.
    fn prepare(&self, args: &[&str]) {
        restore(&self.home);
        let mut command = command(&self.home);
        command.env("FINETUNE_CACHE", self.work("cache"));
        answer(command.args(args).output().unwrap()).works();
        fs::remove_dir_all(self.home.path().join("before")).unwrap();
        copy(&self.home.path().join("work"), &self.home.path().join("before"));
    }

    fn run(&self, args: &[String], shim: &[(&str, &str)]) -> Output {
        let mut command = command(&self.home);
        command.args(args).env("FINETUNE_CACHE", self.work("cache"));
        if !shim.is_empty() {
            command.env("LD_PRELOAD", &self.library).envs(shim.iter().copied());
        }
        command.output().expect("the command was built")
    }

    /// What an undisturbed command leaves, and how many calls it makes.
    fn undisturbed(&self) -> (BTreeMap<String, Vec<u8>>, usize) {
        restore(&self.home);
        let log = self.home.at("calls");
        answer(self.run(&self.args, &[("SHIM_LOG", log.as_str())])).works();
        let calls = fs::read_to_string(log).unwrap().trim().parse().unwrap();
        assert!(calls > 10, "{}: {calls} calls", self.name);
        (self.left(), calls)
    }

    /// What counts of what the command left.
    #[track_caller]
    fn left(&self) -> BTreeMap<String, Vec<u8>> {
        let output = PathBuf::from(self.work(self.output));
        let mut left: BTreeMap<String, Vec<u8>> = self
            .wanted
            .iter()
            .map(|name| {
                let bytes = fs::read(output.join(name));
                let bytes = bytes.unwrap_or_else(|error| panic!("{}: {name}: {error}", self.name));
                ((*name).to_owned(), bytes)
            })
            .collect();
        if output.join("metrics.jsonl").is_file() {
            let lines = metrics(&output).iter().map(ToString::to_string).collect::<Vec<_>>();
            left.insert("metrics".into(), lines.join("\n").into_bytes());
        }
        if let Ok(bytes) = fs::read(output.join("pruning.json")) {
            let mut said: Value = serde_json::from_slice(&bytes).unwrap();
            without_timings(&mut said);
            assert!(said.get("method").is_some() || said.get("before").is_some(), "{said}");
            left.insert("pruning.json".into(), said.to_string().into_bytes());
        }
        for path in walk(Path::new(&self.work(""))) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            assert!(
                !name.ends_with(".partial") && !name.starts_with(".model."),
                "{}: {} is left over",
                self.name,
                path.display()
            );
            assert!(!path.is_symlink(), "{}: {} is a link", self.name, path.display());
        }
        left
    }

    /// The model at the top of the output as any reader finds it: the names of its files and the bytes of its tensors.
    fn model(&self) -> BTreeMap<String, Vec<u8>> {
        let folder = PathBuf::from(self.work(self.output));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let ends = [".safetensors", ".rows", "config.json", "index.json"];
        let is_model = |name: &String| ends.iter().any(|end| name.ends_with(end));
        // A link to nothing is no file.
        names
            .filter(|name| is_model(name) && !name.starts_with('.'))
            .filter_map(|name| Some((name.clone(), fs::read(folder.join(name)).ok()?)))
            .collect()
    }

    /// Asserts that what a killed command left can be read: the model of before, none, or the new one; whole checkpoints.
    #[track_caller]
    fn is_sound(&self, before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>, place: &str) {
        let found = self.model();
        assert!(
            found == *before || found == *after,
            "{} {place}: {:?} is neither {:?} nor {:?}, or has other bytes",
            self.name,
            found.keys(),
            before.keys(),
            after.keys()
        );
        for entry in fs::read_dir(self.work(self.output)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("checkpoint-") {
                let state = fs::read(entry.path().join("state.json")).unwrap();
                serde_json::from_slice::<Value>(&state).unwrap();
                for name in ["optimizer.safetensors", "masters.safetensors"] {
                    Safetensors::open(&entry.path().join(name)).unwrap();
                }
            }
        }
    }

    /// Goes on after a stop, and asserts that the end is that of an undisturbed command.
    #[track_caller]
    fn ends_alike(&self, wanted: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>, place: &str) {
        let mut said = String::new();
        let done = self.again.iter().any(|args| {
            let answer = answer(self.run(args, &[]));
            // A model that stands there already is the whole new one.
            let refuses = ["is there already", "found one there"]
                .iter()
                .any(|words| answer.stderr.contains(words));
            let is_there = refuses && self.model() == *after;
            said += &answer.stderr;
            answer.code == 0 || is_there
        });
        assert!(done, "{} {place}: {said}", self.name);
        let left = self.left();
        for (name, bytes) in wanted {
            assert!(left.get(name) == Some(bytes), "{} {place}: {name} differs", self.name);
        }
    }

    /// Kills the command before `times` of its calls, spread over all; how many were killed.
    fn kill(&self, times: usize) -> usize {
        restore(&self.home);
        let before = self.model();
        let (wanted, calls) = self.undisturbed();
        let after = self.model();
        let mut killed = 0;
        println!("{}: {calls} calls that change files", self.name);
        for place in places(calls, times) {
            restore(&self.home);
            let at = place.to_string();
            let status = self
                .run(&self.args, &[("SHIM_AT", at.as_str()), ("SHIM_DO", "kill")])
                .status;
            let place = format!("killed before call {place} of {calls}");
            assert!(
                status.signal() == Some(9) || status.success(),
                "{} {place}: {status}",
                self.name
            );
            killed += usize::from(status.signal() == Some(9));
            self.is_sound(&before, &after, &place);
            self.ends_alike(&wanted, &after, &place);
        }
        killed
    }

    /// Kills the command `times` times at moments that are drawn from its usual duration; how often it was still running.
    fn kill_any_time(&self, times: usize, rng: &mut StdRng) -> usize {
        if times == 0 {
            return 0;
        }
        restore(&self.home);
        let before = self.model();
        let begin = Instant::now();
        let (wanted, _) = self.undisturbed();
        let usual = begin.elapsed();
        let after = self.model();
        let mut killed = 0;
        for _ in 0..times {
            restore(&self.home);
            let wait = usual.mul_f64(rng.random());
            let mut command = command(&self.home);
            command.args(&self.args).env("FINETUNE_CACHE", self.work("cache"));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let mut running = command.spawn().expect("the command was built");
            std::thread::sleep(wait);
            running.kill().unwrap();
            killed += usize::from(running.wait().unwrap().signal() == Some(9));
            let moment = format!("killed after {} ms", wait.as_millis());
            self.is_sound(&before, &after, &moment);
            self.ends_alike(&wanted, &after, &moment);
        }
        killed
    }

    /// Refuses calls from a place on: an error that names a place, what was there stays, and the next try ends well.
    fn refuse(&self, how: &str, words: &[&str], times: usize) {
        restore(&self.home);
        let before = self.model();
        let (wanted, calls) = self.undisturbed();
        let after = self.model();
        for place in places(calls, times) {
            restore(&self.home);
            let at = place.to_string();
            let found = answer(self.run(&self.args, &[("SHIM_AT", at.as_str()), ("SHIM_DO", how)]));
            let place = format!("{how} from call {place} of {calls} on");
            // What comes last may be optional: a cache, or tidying up.
            if found.code != 0 {
                found.fails_with(1, &["error: ", "`"]);
                assert!(
                    words.iter().any(|word| found.stderr.contains(word)),
                    "{} {place}: {}",
                    self.name,
                    found.stderr
                );
            }
            self.is_sound(&before, &after, &place);
            self.ends_alike(&wanted, &after, &place);
        }
    }
}

/// Takes out what differs from one run to the next.
fn without_timings(value: &mut Value) {
    if let Value::Object(object) = value {
        object.retain(|key, _| !key.contains("second"));
        object.values_mut().for_each(without_timings);
    }
}

/// So many of the numbers 1 to `calls`, spread evenly.
fn places(calls: usize, times: usize) -> Vec<usize> {
    let times = times.clamp(1, calls);
    (0..times)
        .map(|n| 1 + (2 * n + 1) * calls / (2 * times))
        .map(|place| place.min(calls))
        .collect()
}

fn restore(home: &Home) {
    let work = home.path().join("work");
    let _ = fs::remove_dir_all(&work);
    copy(&home.path().join("before"), &work);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => fs::write(to.join(entry.file_name()), fs::read(entry.path()).unwrap()).unwrap(),
        }
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

fn words(args: &[&str]) -> Vec<String> {
    args.iter().map(ToString::to_string).collect()
}

/// A training run of three steps with a checkpoint after each; `surgery` as TOML.
fn train(case: &Case, surgery: &str) -> Vec<String> {
    let recipe = case.home.recipe("save_total_limit = 2\nreport_to = [\"markdown\"]\n");
    let output = format!("train.output_dir={}", case.work("run"));
    let surgery = format!("surgery=[{surgery}]");
    let mut args = words(&["train", &recipe, "--threads", "1"]);
    for setting in [
        &*output,
        &*surgery,
        "train.max_steps=3",
        "train.save_steps=1",
        "report.samples=0",
    ] {
        args.extend(words(&["--set", setting]));
    }
    args
}

fn with(args: &[String], more: &[&str]) -> Vec<String> {
    [args, &words(more)].concat()
}

const ADAPTER: [&str; 4] = [
    "adapter_model.safetensors",
    "adapter_config.json",
    "checkpoint-3/optimizer.safetensors",
    "checkpoint-3/masters.safetensors",
];
const LORA: &str = "{kind=\"lora\",r=3,lora_alpha=6,lora_dropout=0.1}";

/// A new run of LoRA.
fn training() -> Case {
    let mut case = Case::new("train", "run", &ADAPTER);
    case.args = train(&case, LORA);
    case.again = vec![with(&case.args, &["--resume"])];
    case
}

/// A full model in the place of an adapter: the whole form changes.
fn overwriting() -> Case {
    let wanted = ["model.safetensors", "config.json", "checkpoint-3/optimizer.safetensors"];
    let mut case = Case::new("train over an older run", "run", &wanted);
    let older = train(&case, LORA);
    case.prepare(&older.iter().map(String::as_str).collect::<Vec<_>>());
    let args = train(&case, "{kind=\"full\"}");
    case.args = with(&args, &["--set", "train.overwrite_output_dir=true"]);
    // Before the folder is this run's, there is nothing of it to go on from.
    case.again = vec![with(&args, &["--resume"]), case.args.clone()];
    case
}

/// A memory that grows by new facts.
fn growing() -> Case {
    let wanted = [
        "memory_config.json",
        "memory.safetensors",
        "model.layers.1.mlp.down_proj.rows",
        "facts.jsonl",
    ];
    let mut case = Case::new("grow a memory", "run", &wanted);
    let facts = |name: &str, answers: [&str; 2]| {
        let rows = answers
            .iter()
            .enumerate()
            .map(|(idx, answer)| format!("{{\"prompt\": \"What is {name} {idx}?\", \"completion\": \" {answer}\"}}\n"));
        case.home.file(&format!("{name}.jsonl"), &rows.collect::<String>())
    };
    let (first, second) = (facts("first", ["quick", "brown"]), facts("second", ["lazy", "slow"]));
    let surgery =
        |more: &str| format!("{{kind=\"memory\",layers_to_transform=[1],num_experts=4096,top_k=4,query_dim=16{more}}}");
    let args = |facts: &str, output: &str, more: &str| {
        let mut args = train(&case, &surgery(more));
        for setting in [
            &*format!("data.train=[{{path={facts:?}}}]"),
            "objective={kind=\"memory\",target_loss=1.0,max_steps_per_fact=3}",
            "train.max_steps=-1",
            "report.recall=false",
            &*format!("train.output_dir={output}"),
        ] {
            args.extend(words(&["--set", setting]));
        }
        args
    };
    let first = args(&first, &case.work("first"), "");
    case.prepare(&first.iter().map(String::as_str).collect::<Vec<_>>());
    let from = format!(",continue_from={:?}", case.work("first"));
    case.args = args(&second, &case.work("run"), &from);
    case.again = vec![with(&case.args, &["--resume"])];
    case
}

/// A verb that writes a model from the tiny one, and perhaps an adapter.
fn writing(name: &'static str, needs_adapter: bool, more: &[&str]) -> Case {
    let mut case = Case::new(name, "out", &["model.safetensors", "config.json", "tokenizer.json"]);
    let model = tiny().display().to_string();
    let mut args = words(&[name, "--model", &model, "--output", &case.work("out")]);
    if needs_adapter {
        let training = train(&case, LORA);
        case.prepare(&training.iter().map(String::as_str).collect::<Vec<_>>());
        args.extend(words(&["--adapter", &case.work("run")]));
    }
    args.extend(words(more));
    case.again = vec![args.clone()];
    case.args = args;
    case
}

fn cases() -> Vec<Case> {
    vec![
        training(),
        overwriting(),
        growing(),
        writing("merge", true, &[]),
        writing("quantize", false, &["--scheme", "nf4"]),
        writing("prune", false, &["--method", "magnitude", "--sparsity", "0.5"]),
    ]
}

#[test]
fn a_command_killed_between_any_two_system_calls_loses_nothing_and_ends_alike() {
    let only = std::env::var("KILLED_COMMAND").unwrap_or_default();
    let times = std::env::var("KILLED_TIMES").ok().and_then(|times| times.parse().ok());
    let times: usize = times.unwrap_or(TIMES);
    let cases: Vec<Case> = cases().into_iter().filter(|case| case.name.contains(&only)).collect();
    let mut rng = StdRng::seed_from_u64(1);
    let mut killed = 0;
    for case in &cases {
        let part = times.div_ceil(cases.len());
        let at_calls = case.kill(part);
        let any_time = case.kill_any_time(part - at_calls.min(part), &mut rng);
        println!(
            "{}: killed {at_calls} times before a call and {any_time} times at any moment",
            case.name
        );
        killed += at_calls + any_time;
    }
    println!("killed {killed} times in all");
    // A command may end before its moment comes.
    assert!(killed >= times * 3 / 4, "{killed} of {times}");
}

#[test]
fn a_disk_that_is_full_from_any_call_on_loses_nothing_and_ends_alike_when_there_is_room() {
    for case in [training(), overwriting(), writing("merge", true, &[])] {
        case.refuse("full", &["No space left", "disk is full"], 3);
    }
}

#[test]
fn a_folder_that_becomes_read_only_loses_nothing_and_ends_alike_when_it_can_be_written() {
    for case in [training(), writing("merge", true, &[])] {
        case.refuse("ro", &["Read-only"], 3);
    }
}

#[test]
fn the_places_are_spread_over_all_calls() {
    assert_eq!(places(10, 3), [2, 6, 9]);
    assert_eq!(places(4, 9), [1, 2, 3, 4]);
    let home = Home::new();
    // The library does nothing by itself.
    let help = Command::new(env!("CARGO_BIN_EXE_finetune-tested"))
        .arg("--version")
        .env("LD_PRELOAD", shim(&home))
        .output()
        .unwrap();
    assert!(help.status.success());
    assert_eq!(finetune(&home, &["--version"]).stdout.as_bytes(), help.stdout);
}
