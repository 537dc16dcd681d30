//! Models of the hub, served by a stub on this machine: one commit for all files, asked for once, kept with the run.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::command::{Answer, Home, answer, command, tiny};

const FIRST: &str = "1111111111111111111111111111111111111111";
const SECOND: &str = "2222222222222222222222222222222222222222";

/// A hub with one model, whose branch `main` may move.
struct Hub {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    main: &'static str,
    /// Files of each commit.
    commits: BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>,
    asked: Vec<String>,
}

impl Hub {
    fn start() -> Self {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(tiny()).unwrap() {
            let entry = entry.unwrap();
            if entry.path().is_file() {
                files.insert(
                    entry.file_name().into_string().unwrap(),
                    fs::read(entry.path()).unwrap(),
                );
            }
        }
        let mut later = files.clone();
        *later.get_mut("model.safetensors").unwrap().last_mut().unwrap() ^= 1;
        let state = Arc::new(Mutex::new(State {
            main: FIRST,
            commits: BTreeMap::from([(FIRST, files), (SECOND, later)]),
            asked: Vec::new(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let shared = state.clone();
        // Ends with the process of the tests.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || while serve(&stream, &shared).is_some() {});
            }
        });
        Self { address, state }
    }

    /// What was asked for since the last time.
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    fn move_main(&self) {
        self.state.lock().unwrap().main = SECOND;
    }

    fn run(&self, home: &Home, args: &[&str]) -> Answer {
        let mut command = command(home);
        command
            .env("HF_ENDPOINT", &self.address)
            .env("HF_HOME", home.path().join("hub"))
            .env_remove("HF_HUB_OFFLINE");
        for proxy in [
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(proxy);
        }
        answer(command.args(args).output().unwrap())
    }
}

/// Answers one request; none when the other side has gone.
fn serve(stream: &TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut from = None;
    for line in lines {
        let line = line.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            let (begin, end) = range.split_once('-')?;
            from = Some((begin.parse::<usize>().ok()?, end.parse::<usize>().ok()));
        }
    }
    let path = first.split(' ').nth(1)?.to_owned();
    let mut state = state.lock().ok()?;
    state.asked.push(path.clone());
    let (commit_of, main) = (
        |revision: &str| {
            if revision == "main" {
                None
            } else {
                Some(revision.to_owned())
            }
        },
        state.main,
    );
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (status, headers, body) = match parts.as_slice() {
        ["api", "models", "org", "name", "revision", revision] => {
            let commit = commit_of(revision).unwrap_or_else(|| main.to_owned());
            match state.commits.get(commit.as_str()) {
                None => ("404 Not Found", String::new(), Vec::new()),
                Some(files) => {
                    let siblings: Vec<_> = files
                        .keys()
                        .map(|name| serde_json::json!({"rfilename": name}))
                        .collect();
                    let info = serde_json::json!({"sha": commit, "siblings": siblings});
                    ("200 OK", String::new(), info.to_string().into_bytes())
                }
            }
        }
        ["org", "name", "resolve", revision, file] => {
            let commit = commit_of(revision).unwrap_or_else(|| main.to_owned());
            let body = state
                .commits
                .get(commit.as_str())
                .and_then(|files| files.get(*file))
                .cloned();
            match body {
                None => ("404 Not Found", String::new(), Vec::new()),
                Some(body) => {
                    let size = body.len();
                    let (begin, end) = from.unwrap_or((0, None));
                    let part = body[begin..end.map_or(size, |end| (end + 1).min(size))].to_vec();
                    let headers = format!(
                        "x-repo-commit: {commit}\r\netag: \"{commit}-{file}\"\r\ncontent-range: bytes {begin}-{}/{size}\r\n",
                        begin + part.len().max(1) - 1
                    );
                    ("206 Partial Content", headers, part)
                }
            }
        }
        _ => ("404 Not Found", String::new(), Vec::new()),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(&body).ok()
}

fn base(home: &Home) -> serde_json::Value {
    let text = fs::read(home.path().join("run/run.json")).unwrap();
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["base"].clone()
}

#[test]
fn a_run_keeps_the_commit_that_its_branch_was_at() {
    let (hub, home) = (Hub::start(), Home::new());
    let recipe = home.recipe("");
    let args = [
        "train",
        &recipe,
        "--set",
        "model.name_or_path=org/name",
        "--set",
        "report.samples=0",
    ];
    hub.run(&home, &args).works();
    let asked = hub.asked();
    assert_eq!(
        asked.iter().filter(|path| path.contains("/revision/main")).count(),
        1,
        "{asked:?}"
    );
    let files = asked.iter().filter(|path| path.contains("/resolve/"));
    assert!(
        files.clone().count() > 3 && files.clone().all(|path| path.contains(FIRST)),
        "{asked:?}"
    );
    assert_eq!(
        (&base(&home)["name_or_path"], &base(&home)["revision"]),
        (&"org/name".into(), &FIRST.into())
    );
    // The branch moves on; the run does not, and needs no network for it.
    hub.move_main();
    fs::remove_dir_all(home.path().join("run/checkpoint-6")).unwrap();
    hub.run(&home, &[&args[..], &["--resume"]].concat()).works();
    assert_eq!(hub.asked(), Vec::<String>::new());
    assert_eq!(base(&home)["revision"], FIRST);
    // Whoever asks for the branch gets its new commit, with no file of the old one, and is told about the adapter.
    let adapter = home.at("run");
    let ask = [
        "generate",
        "--model",
        "org/name",
        "--adapter",
        &adapter,
        "--prompt",
        "q",
        "--max-new-tokens",
        "1",
    ];
    let found = hub.run(&home, &ask).works();
    let asked = hub.asked();
    let files = asked.iter().filter(|path| path.contains("/resolve/"));
    assert!(
        files.clone().count() > 3 && files.clone().all(|path| path.contains(SECOND)),
        "{asked:?}"
    );
    assert!(
        found.stderr.contains("was trained over another base"),
        "{}",
        found.stderr
    );
    // A commit by its name is never asked for again.
    let found = hub.run(&home, &[&ask[..], &["--revision", FIRST]].concat()).works();
    assert!(!found.stderr.contains("another base"), "{}", found.stderr);
    assert_eq!(hub.asked(), Vec::<String>::new());
}

#[test]
fn a_revision_is_a_hub_models_alone() {
    let (hub, home) = (Hub::start(), Home::new());
    let model = tiny().display().to_string();
    let args = ["generate", "--model", &model, "--revision", "main", "--prompt", "q"];
    hub.run(&home, &args).fails_with(
        1,
        &["`revision`: wanted a hub id", &model, "hint: leave `revision` out"],
    );
    let args = ["generate", "--model", "org/name@nowhere", "--prompt", "q"];
    hub.run(&home, &args).fails_with(1, &["`org/name@nowhere`", "404"]);
    let args = [
        "generate",
        "--model",
        &format!("org/name@{SECOND}"),
        "--prompt",
        "q",
        "--max-new-tokens",
        "1",
    ];
    hub.run(&home, &args).works();
    assert!(hub.asked().iter().all(|path| !path.contains("main")));
}
