//! `finetune chat` with commands, and at a terminal, which `script` of util-linux stands for.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::command::{Answer, Home, answer, command, tiny};

fn chat(home: &Home, more: &[&str], said: &str) -> Answer {
    let model = tiny().display().to_string();
    let mut child = command(home)
        .args(["chat", "--model", &model, "--max-new-tokens", "6", "--dtype", "f32"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(said.as_bytes()).unwrap();
    answer(child.wait_with_output().unwrap())
}

fn saved(home: &Home) -> Vec<Value> {
    let text = std::fs::read_to_string(home.path().join("saved.jsonl")).expect("a conversation was saved");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("a row"))
        .collect()
}

fn said(row: &Value) -> Vec<(&str, &str)> {
    let messages = row["messages"].as_array().unwrap();
    messages
        .iter()
        .map(|message| (message["role"].as_str().unwrap(), message["content"].as_str().unwrap()))
        .collect()
}

#[test]
fn commands_change_the_conversation() {
    let home = Home::new();
    let save = format!("/save {}", home.at("saved.jsonl"));
    let lines = [
        "/system Be brief.",
        "What is slow?",
        "What is quick?",
        &save,
        "/undo",
        &save,
        "/retry",
        "/clear",
        " /help me",
        &save,
        "/settings",
        "/temperature 0",
        "/help",
        "/exit",
        "never read",
    ];
    let found = chat(&home, &["--temperature", "0"], &lines.join("\n")).works();
    // Four answers: two turns, one again, and the turn that begins with a slash.
    assert_eq!(found.stdout.lines().count(), 4, "{}", found.stdout);
    let answers: Vec<&str> = found.stdout.lines().collect();
    assert_eq!(answers[0], answers[2], "greedy, the same turn has the same answer");
    let rows = saved(&home);
    assert_eq!(
        said(&rows[0])[..3],
        [
            ("system", "Be brief."),
            ("user", "What is slow?"),
            ("assistant", answers[0])
        ]
    );
    assert_eq!((said(&rows[0]).len(), said(&rows[1]).len()), (5, 3));
    assert_eq!(said(&rows[2])[..2], [("system", "Be brief."), ("user", "/help me")]);
    assert!(
        found.stderr.contains("temperature 0, top-p 0.9") && found.stderr.contains("/top-k K"),
        "{}",
        found.stderr
    );
    // What was saved is read as a row of training data.
    let shown = super::command::finetune(&home, &["inspect", &home.at("saved.jsonl"), "--json"]).works();
    assert_eq!(shown.json_lines()[0]["shape"], json!("messages"));
    // A script is stopped by what is no command, with its exit code.
    chat(&home, &[], "/hlep\n").fails_with(1, &["no command `/hlep`", "`/help` is near"]);
}

#[test]
fn without_flags_answers_are_drawn_and_repeatable() {
    let home = Home::new();
    let turns = "What is slow?\n/retry\n/retry\n/retry\n/retry\n/retry\n";
    let found = chat(&home, &[], turns).works().stdout;
    assert_eq!(chat(&home, &[], turns).works().stdout, found);
    assert_ne!(chat(&home, &["--seed", "77"], turns).works().stdout, found);
    let mut answers: Vec<&str> = found.lines().collect();
    answers.sort_unstable();
    answers.dedup();
    assert!(
        answers.len() > 1,
        "six answers to one question are all the same: {found}"
    );
}

/// A program at a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn chat(home: &Home, more: &str) -> Self {
        Self::chat_with(home, &tiny().display().to_string(), more)
    }

    fn chat_with(home: &Home, model: &str, more: &str) -> Self {
        // Without `exec`, a shell that stays between would be interrupted by Ctrl-C as well, and end with its status.
        let line = format!(
            "exec '{}' chat --model '{model}' --dtype f32 --max-new-tokens 6 --temperature 0 {more}",
            env!("CARGO_BIN_EXE_finetune-tested"),
        );
        let mut child = Command::new("script")
            .args(["-qfec", &line, "/dev/null"])
            .env("FINETUNE_CACHE", home.path().join("cache"))
            .env("OMP_NUM_THREADS", "1")
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("`script` of util-linux runs");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut out, sink) = (child.stdout.take().unwrap(), seen.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = out.read(&mut bytes) {
                sink.lock().unwrap().extend_from_slice(&bytes[..count]);
            }
        });
        let keys = child.stdin.take().unwrap();
        Self { child, keys, seen }
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits until `text` was shown `count` times.
    #[track_caller]
    fn wait(&self, text: &str, count: usize) {
        let begun = Instant::now();
        while self.shown().matches(text).count() < count {
            assert!(
                begun.elapsed() < Duration::from_mins(2),
                "`{text}` not {count} times in: {}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a turn can be typed: the terminal was asked for marks around pastes, last, and the prompt follows.
    #[track_caller]
    fn ready(&self) {
        let begun = Instant::now();
        let waits = || {
            let shown = self.shown();
            let asked = shown.rfind("\x1b[?2004h");
            asked.is_some_and(|at| asked > shown.rfind("\x1b[?2004l") && shown[at..].contains("> "))
        };
        while !waits() {
            assert!(
                begun.elapsed() < Duration::from_mins(2),
                "no prompt in: {}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn end(mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(
                begun.elapsed() < Duration::from_mins(2),
                "it does not end: {}",
                self.shown()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn at_a_terminal_a_paste_is_one_turn_and_arrows_bring_turns_back() {
    let home = Home::new();
    let save = format!("/save {}\r", home.at("saved.jsonl"));
    let mut terminal = Terminal::chat(&home, "");
    terminal.wait("/help lists the commands", 1);
    terminal.ready();
    // Short, since the tiny model sees 128 positions and a chat forgets the oldest turns beyond them.
    terminal.press("\x1b[200~slow?\nquick?\nlate?\x1b[201~\r");
    terminal.wait("late?", 1);
    // The line before, with more words at its end: up, then the text.
    for keys in ["What\r", "\x1b[A is gold?\r"] {
        terminal.ready();
        terminal.press(keys);
        thread::sleep(Duration::from_secs(1));
    }
    terminal.ready();
    terminal.press(&save);
    terminal.wait("as line 1", 1);
    // Ctrl-C on a line drops the line and not the conversation.
    terminal.ready();
    terminal.press("half a turn\x03");
    terminal.wait("Ctrl-C again", 1);
    terminal.ready();
    terminal.press("/hlep\r");
    terminal.wait("`/help` is near", 1);
    terminal.ready();
    terminal.press(&save);
    terminal.wait("as line 2", 1);
    terminal.ready();
    terminal.press("\x04");
    assert_eq!(terminal.end(), 0);
    let rows = saved(&home);
    let asked: Vec<&str> = said(&rows[0])
        .iter()
        .filter(|(role, _)| *role == "user")
        .map(|(_, text)| *text)
        .collect();
    assert_eq!(asked, ["slow?\nquick?\nlate?", "What", "What is gold?"]);
    assert_eq!(rows[0], rows[1]);
    // The next chat remembers the lines.
    let mut terminal = Terminal::chat(&home, "");
    terminal.ready();
    terminal.press("\x1b[A\x1b[A\x1b[A\r");
    terminal.wait("as line 3", 1);
    terminal.ready();
    terminal.press("/exit\r");
    assert_eq!(terminal.end(), 0);
}

#[test]
fn what_is_typed_during_an_answer_waits_for_the_next_line_and_ctrl_c_stops_the_answer() {
    const TYPED: &str = "QZXJ";
    let home = Home::new();
    // Room for answers that take seconds.
    let model = home.model();
    let config = std::fs::read_to_string(format!("{model}/config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["max_position_embeddings"] = json!(100_000);
    std::fs::write(format!("{model}/config.json"), config.to_string()).unwrap();
    let mut terminal = Terminal::chat_with(&home, &model, "");
    let say = |terminal: &mut Terminal, line: &str| {
        terminal.ready();
        terminal.press(&format!("{line}\r"));
    };
    // Says a line, and comes back when some of the answer stands there.
    let ask = |terminal: &mut Terminal, line: &str| {
        terminal.ready();
        let asked = terminal.shown().matches("\x1b[?2004h").count();
        say(terminal, line);
        // Pastes are marked again while the answer comes.
        terminal.wait("\x1b[?2004h", asked + 1);
        let (begun, waited) = (terminal.shown().len(), Instant::now());
        while terminal.shown().len() < begun + 20 {
            assert!(
                waited.elapsed() < Duration::from_mins(2),
                "no answer in: {}",
                terminal.shown()
            );
            thread::sleep(Duration::from_millis(20));
        }
    };
    say(&mut terminal, "/max-new-tokens 2000");
    terminal.wait("max-new-tokens 2000,", 1);
    ask(&mut terminal, "go");
    terminal.press(TYPED);
    terminal.wait("(cut at 2000 tokens", 1);
    let cut = terminal.shown().find("(cut at 2000").unwrap();
    terminal.wait(TYPED, 1);
    assert!(terminal.shown().find(TYPED).unwrap() > cut, "{}", terminal.shown());
    // The line is for the next turn, which is another one here.
    terminal.press("\x15");
    say(&mut terminal, "/max-new-tokens 90000");
    terminal.wait("max-new-tokens 90000,", 1);
    ask(&mut terminal, "/retry");
    terminal.press("\x03");
    terminal.wait("(stopped; /retry answers anew)", 1);
    say(&mut terminal, &format!("/save {}", home.at("saved.jsonl")));
    terminal.wait("as line 1", 1);
    terminal.ready();
    terminal.press("\x04");
    assert_eq!(terminal.end(), 0);
    let rows = saved(&home);
    let turns = said(&rows[0]);
    assert_eq!((turns.len(), turns[0]), (2, ("user", "go")));
    assert!(!turns[1].1.is_empty(), "{turns:?}");
}
