//! A program outside that scores: requests as lines of JSON on its stdin, answers as lines of JSON on its stdout.
//!
//! A request is `{"id": 0, "prompt": "…", "reply": "…"}` with the row's other columns; an answer is `{"id": 0, "score":
//! 0.5}`, or `{"id": 0, "error": "why"}` for a reply that has no score. Either every answer has an `id`, in any order, or
//! none has and there is exactly one a request, in order. Anything else stops the run: a score never belongs to another
//! reply. The program is started for each batch of replies, and is stopped when it says nothing for too long.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::answers::Answers;
use super::program::{Ended, Program};
use super::{Reward, Said};
use crate::{Error, Result};

/// Seconds without an answer after which a program is stopped, unless a recipe says otherwise.
pub const TIMEOUT_SECONDS: f64 = 90.0;

/// Keys of a request that a column of the row cannot have; such a column stands in `row` instead.
const RESERVED: [&str; 4] = ["id", "prompt", "reply", "row"];

const HINT: &str = "a reward program answers each line `{\"id\": …, \"prompt\": …, \"reply\": …}` by one line \
                    `{\"id\": …, \"score\": number}` and prints nothing else on stdout; messages belong on stderr";

/// A program with its arguments.
#[derive(Debug)]
pub struct Command(Program);

impl Command {
    /// `timeout_seconds`: how long it may be silent.
    ///
    /// Errors: no program, a time that is none.
    pub fn new(command: &[String], timeout_seconds: f64) -> Result<Self> {
        if command.is_empty() {
            return Err(Error::Option {
                option: "command",
                wanted: "a program and its arguments",
                found: "nothing".into(),
            });
        }
        let timeout = Duration::try_from_secs_f64(timeout_seconds)
            .ok()
            .filter(|time| !time.is_zero());
        let timeout = timeout.ok_or_else(|| Error::Option {
            option: "timeout_seconds",
            wanted: "seconds above 0",
            found: timeout_seconds.to_string(),
        })?;
        Ok(Self(Program::new(command.to_vec(), timeout)))
    }

    fn refused(&self, found: String) -> Error {
        Error::Program {
            program: self.0.shown(),
            found,
            hint: HINT.into(),
        }
    }
}

impl Reward for Command {
    fn name(&self) -> &'static str {
        "command"
    }

    fn scores(&self, replies: &[Said]) -> Result<Vec<Result<f64, String>>> {
        let input: String = (replies.iter().enumerate())
            .map(|(id, said)| request(id, said) + "\n")
            .collect();
        let mut answers = Answers::new(replies.len());
        let ended = self
            .0
            .run(input, &mut |line| answers.take(line))
            .map_err(|found| self.refused(found))?;
        let so_far = format!("after {} of {} answers", answers.num_known(), replies.len());
        match ended {
            Ended::Well => answers.finish().map_err(|found| self.refused(found)),
            Ended::Badly(status) => Err(self.refused(format!("it ended with {status} {so_far}"))),
            Ended::Silent(time) => Err(Error::Program {
                program: self.0.shown(),
                found: format!(
                    "it said nothing for {} s, {so_far}, and was stopped",
                    time.as_secs_f64()
                ),
                hint:
                    "a program that needs longer for an answer gets `timeout_seconds` beside its `command`; one that \
                       is read through a pipe may have to flush its output"
                        .into(),
            }),
        }
    }
}

fn request(id: usize, said: &Said) -> String {
    let (reserved, mut object): (Map<String, Value>, Map<String, Value>) = said
        .extra
        .clone()
        .into_iter()
        .partition(|(name, _)| RESERVED.contains(&name.as_str()));
    if !reserved.is_empty() {
        object.insert("row".into(), Value::Object(reserved));
    }
    object.insert("id".into(), json!(id));
    object.insert("prompt".into(), json!(said.prompt));
    object.insert("reply".into(), json!(said.reply));
    Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn scores_within(script: &str, timeout: f64) -> Result<Vec<Result<f64, String>>, String> {
        let command = Command::new(&["sh".to_owned(), "-c".to_owned(), script.to_owned()], timeout).unwrap();
        let extra = Map::from_iter([("n".to_owned(), json!(3)), ("id".to_owned(), json!("own"))]);
        let said = |reply: &'static str| Said {
            prompt: "p",
            reply,
            tokens: &[],
            num_tokens: 1,
            extra: &extra,
        };
        command
            .scores(&[said("one"), said("three"), said("seventeen")])
            .map_err(|error| error.to_string())
    }

    fn scores(script: &str) -> Result<Vec<Result<f64, String>>, String> {
        scores_within(script, 30.0)
    }

    /// The length of each request's line.
    const LENGTHS: &str = "while read -r line; do echo \"{\\\"score\\\": ${#line}}\"; done";

    #[test]
    fn a_request_holds_the_rows_columns_and_a_column_of_a_key_of_ours_stands_aside() {
        let length = |id: usize, reply: &str| {
            let line = json!({"n": 3, "row": {"id": "own"}, "id": id, "prompt": "p", "reply": reply});
            Ok(line.to_string().len() as f64)
        };
        let wanted = vec![length(0, "one"), length(1, "three"), length(2, "seventeen")];
        assert_eq!(scores(LENGTHS), Ok(wanted));
    }

    #[test]
    fn answers_with_an_id_may_come_in_any_order_and_a_reply_may_have_none_said_so() {
        let answers = r#"echo '{"id": 2, "score": 3}'; echo; echo '{"id": "0", "score": -1.5, "why": "short"}'; echo '{"id": 1, "error": "too rude"}'"#;
        assert_eq!(scores(answers), Ok(vec![Ok(-1.5), Err("too rude".into()), Ok(3.0)]));
    }

    #[test]
    fn whatever_could_shift_a_score_to_another_reply_is_refused_and_named() {
        let three = "echo '{\"score\": 1}'; echo '{\"score\": 1}'; echo '{\"score\": 1}'";
        for (script, wanted) in [
            (
                format!("echo 'Loading the model'; {LENGTHS}"),
                "line 1, found `Loading the model`",
            ),
            (format!("{three}; echo done"), "line 4, found `done`"),
            (
                "echo '{\"score\": 1}'".into(),
                "wanted an answer for each of 3 replies, found 1",
            ),
            (format!("{three}; echo '{{\"score\": 1}}'"), "found one more in line 4"),
            ("echo 1; echo 2; echo 3".into(), "line 1, found `1`"),
            ("echo '{\"score\": NaN}'".into(), "line 1, found `{\"score\": NaN}`"),
            ("echo '{\"score\": null}'".into(), "line 1, found `{\"score\": null}`"),
            ("echo '{\"score\": \"1\"}'".into(), "line 1, found `{\"score\": \"1\"}`"),
            ("echo '{\"score\": 1e999}'".into(), "line 1, found `{\"score\": 1e999}`"),
            ("echo '{\"reward\": 1}'".into(), "line 1, found `{\"reward\": 1}`"),
            (
                "echo '{\"id\": 7, \"score\": 1}'".into(),
                "the `id` of a request (0 to 2) in line 1",
            ),
            (
                "echo '{\"id\": 1, \"score\": 1}'; echo '{\"id\": 1, \"score\": 2}'".into(),
                "line 2 answers request 1 again",
            ),
            (
                "echo '{\"id\": 0, \"score\": 1}'; echo '{\"score\": 2}'".into(),
                "an `id` in every answer or in none, found both by line 2",
            ),
            (
                "echo '{\"id\": 0, \"score\": 1}'; echo '{\"id\": 2, \"score\": 2}'".into(),
                "found 2; none for request 1",
            ),
            ("echo '{\"score\": 1, \"error\": \"x\"}'".into(), "line 1, found"),
            ("echo '{\"error\": \"x\"}'".into(), "line 1, found"),
            (
                format!("{three}; exit 3"),
                "ended with exit status: 3 after 3 of 3 answers",
            ),
            ("exit 1".into(), "ended with exit status: 1 after 0 of 3 answers"),
        ] {
            let found = scores(&script).expect_err(&script);
            assert!(found.contains(wanted), "`{wanted}` in: {found}");
            assert!(
                found.starts_with("reward program `sh -c ") && found.contains("hint: "),
                "{found}"
            );
        }
        let endless = scores("yes").unwrap_err();
        assert!(endless.contains("line 1, found `y`"), "{endless}");
        let one_line = scores("tr '\\0' 'x' < /dev/zero").unwrap_err();
        assert!(one_line.contains("found `xxx") && one_line.len() < 2000, "{one_line}");
    }

    #[test]
    fn a_silent_program_is_stopped_with_all_that_it_started() {
        for script in [
            "sleep 600",
            "echo '{\"score\": 1}'; sleep 600; true",
            "cat > /dev/null; exec sleep 600",
        ] {
            let begun = Instant::now();
            let found = scores_within(script, 0.3).unwrap_err();
            assert!(
                found.contains("said nothing for 0.3 s") && found.contains("`timeout_seconds`"),
                "{found}"
            );
            assert!(begun.elapsed() < Duration::from_secs(20), "{script}");
        }
    }

    #[test]
    fn what_a_program_leaves_running_does_not_hold_up_the_run() {
        let begun = Instant::now();
        let script = format!("sleep 600 & {LENGTHS}");
        assert_eq!(scores(&script).map(|scores| scores.len()), Ok(3));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_program_that_cannot_be_started_and_a_time_that_is_none_are_refused() {
        let missing = Command::new(&["/no/such/program".to_owned()], 1.0).unwrap();
        let error = missing.scores(&[]).unwrap_err().to_string();
        assert!(error.contains("`/no/such/program`: it cannot be started"), "{error}");
        assert!(Command::new(&[], 1.0).is_err());
        for time in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Command::new(&["true".to_owned()], time).is_err(), "{time}");
        }
    }
}
