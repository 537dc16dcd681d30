//! The command under test, and a tiny model with rows for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What a call left behind.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a refusal says.
#[derive(Clone, Copy)]
pub(crate) struct Refusal<'a> {
    /// The file, line, key, option, step or tensor.
    pub(crate) place: &'a str,
    /// What would be right.
    pub(crate) wanted: &'a str,
    /// What is there.
    pub(crate) found: &'a str,
    /// What to do: stands in a line `hint: …`.
    pub(crate) hint: &'a str,
}

impl Answer {
    /// Asserts that the call failed as `code`, and that the message has every part.
    #[track_caller]
    pub(crate) fn fails_with(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Asserts that the call failed with exit code 1 and an `error:` that says place, wanted, found and hint.
    #[track_caller]
    pub(crate) fn refuses(&self, says: &Refusal) {
        self.fails_with(1, &[]);
        let Some(begin) = self.stderr.find("error: ") else {
            panic!("no `error: ` in: {}", self.stderr)
        };
        let message = &self.stderr[begin..];
        for (what, part) in [("place", says.place), ("wanted", says.wanted), ("found", says.found)] {
            assert!(message.contains(part), "{what}: `{part}` in: {message}");
        }
        let has_hint = |line: &str| line.strip_prefix("hint: ").is_some_and(|hint| hint.contains(says.hint));
        assert!(message.lines().any(has_hint), "hint: `{}` in: {message}", says.hint);
    }

    /// Asserts that the call succeeded, and gives its output.
    #[track_caller]
    pub(crate) fn works(self) -> Self {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Every line of stdout as JSON.
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        self.stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }
}

/// The command with one thread, so that tests side by side do not wait for each other, and a cache of its own.
pub(crate) fn command(home: &Home) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_finetune-tested"));
    command
        .env("FINETUNE_CACHE", home.path().join("cache"))
        .env("OMP_NUM_THREADS", "1");
    command
}

/// Runs the command and waits.
pub(crate) fn finetune(home: &Home, args: &[&str]) -> Answer {
    answer(command(home).args(args).output().expect("the command was built"))
}

/// The perplexity in f32 of [`Home::texts`] under the model that `args` name.
pub(crate) fn perplexity(home: &Home, args: &[&str]) -> f64 {
    let texts = home.texts();
    let all = [&["score", "--data", &texts, "--json", "--dtype", "f32"][..], args].concat();
    let last = finetune(home, &all).works().json_lines().pop().expect("lines");
    last["perplexity"].as_f64().expect("a number")
}

pub(crate) fn answer(output: Output) -> Answer {
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Answer {
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// A folder for one test.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in it, as text.
    pub(crate) fn at(&self, name: &str) -> String {
        self.path().join(name).display().to_string()
    }

    /// Writes a file and returns its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// A copy of the tiny model, to be spoilt.
    pub(crate) fn model(&self) -> String {
        self.copy(&tiny(), "model")
    }

    /// A copy of a folder's files as `name`.
    pub(crate) fn copy(&self, from: &Path, name: &str) -> String {
        let folder = self.path().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            // Read and written: a copy would keep the original's permissions.
            fs::write(folder.join(entry.file_name()), fs::read(entry.path()).expect("a file")).expect("a copy");
        }
        folder.display().to_string()
    }

    /// Has this machine's rates in the home's cache say that bf16 is so many times faster than f32.
    pub(crate) fn rates(&self, faster: f64) {
        // They are measured where they are first asked for.
        let (model, texts) = (tiny().display().to_string(), self.texts());
        finetune(self, &["score", "--model", &model, "--data", &texts]).works();
        for entry in fs::read_dir(self.path().join("cache/rates")).unwrap() {
            let path = entry.unwrap().path();
            let mut said: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            for key in ["bf16", "bf16_frozen"] {
                said["gflops"][key] = serde_json::json!(faster * said["gflops"]["f32"].as_f64().unwrap());
            }
            fs::write(path, said.to_string()).unwrap();
        }
    }

    /// Rows of conversations.
    pub(crate) fn chats(&self) -> String {
        let rows = (0..24).map(|i| {
            let (question, answer) = SAYINGS[i % SAYINGS.len()];
            format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question} {i}\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n")
        });
        self.file("chats.jsonl", &rows.collect::<String>())
    }

    /// Rows of plain text.
    pub(crate) fn texts(&self) -> String {
        let rows = (0..24).map(|i| format!("{{\"text\": \"{} {i}\"}}\n", SAYINGS[i % SAYINGS.len()].1));
        self.file("texts.jsonl", &rows.collect::<String>())
    }

    /// Rows with two replies.
    pub(crate) fn pairs(&self) -> String {
        let rows = (0..24).map(|i| {
            let ((question, answer), (_, other)) = (SAYINGS[i % SAYINGS.len()], SAYINGS[(i + 1) % SAYINGS.len()]);
            format!("{{\"prompt\": \"{question} {i} \", \"chosen\": \"{answer}\", \"rejected\": \"{other}\"}}\n")
        });
        self.file("pairs.jsonl", &rows.collect::<String>())
    }

    /// Rows with a reply and whether it is a good one.
    pub(crate) fn judged(&self) -> String {
        let rows = (0..24).map(|i| {
            let ((question, answer), (_, other)) = (SAYINGS[i % SAYINGS.len()], SAYINGS[(i + 1) % SAYINGS.len()]);
            let (reply, good) = if i % 3 == 0 { (answer, true) } else { (other, false) };
            format!("{{\"prompt\": \"{question} {i} \", \"completion\": \"{reply}\", \"label\": {good}}}\n")
        });
        self.file("judged.jsonl", &rows.collect::<String>())
    }

    /// Rows with a text and a class.
    pub(crate) fn classes(&self) -> String {
        let rows = (0..24).map(|i| {
            let label = ["good", "bad"][i % 2];
            format!(
                "{{\"text\": \"{} {label}\", \"label\": \"{label}\"}}\n",
                SAYINGS[i % SAYINGS.len()].0
            )
        });
        self.file("classes.jsonl", &rows.collect::<String>())
    }

    /// A recipe for the tiny model: LoRA, f32, six steps; `more` goes to the end of `[train]`.
    pub(crate) fn recipe(&self, more: &str) -> String {
        let text = format!(
            "[model]\nname_or_path = {:?}\ndtype = \"f32\"\n\n[[surgery]]\nkind = \"lora\"\nr = 3\nlora_alpha = 6\n\n\
             [objective]\nkind = \"sft\"\n\n[data]\ntrain = [{{ path = {:?} }}]\nmax_length = 96\nmax_tokens = 128\n\n[report]\nsamples = 1\nmax_new_tokens = 4\n\n\
             [train]\noutput_dir = {:?}\nmax_steps = 6\nper_device_train_batch_size = 4\nlearning_rate = 1e-2\nlogging_steps = 1\nsave_steps = 2\nseed = 5\n{more}",
            tiny().display().to_string(),
            self.chats(),
            self.at("run"),
        );
        self.file("recipe.toml", &text)
    }
}

/// Every file below a folder, by its path.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

/// Asserts that every file is what it was, and that nothing half-written lies beside it.
#[track_caller]
pub(crate) fn nothing_lost(folder: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let now = files(folder);
    for (path, bytes) in before {
        assert!(now.get(path) == Some(bytes), "`{}` is lost or changed", path.display());
    }
    for path in now.keys() {
        let text = path.to_string_lossy();
        assert!(
            !text.contains(".tmp-") && !text.contains(".partial"),
            "`{text}` is left over"
        );
    }
}

const SAYINGS: [(&str, &str); 4] = [
    ("Who comes first?", "The early bird catches the worm."),
    ("What is quick?", "The quick brown fox jumps over the lazy dog."),
    ("What glitters?", "All that glitters is not gold."),
    ("What is slow?", "Slow and steady wins the race."),
];

/// The tiny model with a tokenizer and a chat template.
pub(crate) fn tiny() -> PathBuf {
    root().join("crates/golden/vectors/gguf/tiny")
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the checkout is there")
}

/// The logged losses of a run, in order.
pub(crate) fn losses(run: &Path) -> Vec<f64> {
    metrics(run).iter().filter_map(|entry| entry["loss"].as_f64()).collect()
}

/// Every line of a run's log but for its timings, which no two runs share.
pub(crate) fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).expect("a run leaves metrics");
    text.lines()
        .map(|line| {
            let mut entry: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
            let object = entry.as_object_mut().expect("an object");
            for timing in [
                "seconds",
                "tokens_per_second",
                "rollout_tokens_per_second",
                "peak_memory_bytes",
            ] {
                object.remove(timing);
            }
            entry
        })
        .collect()
}
