//! What a reward program may answer: one score a request, by `id` or, without any, in order and in number.

use serde_json::Value;

/// Characters of a line that an error shows.
const SHOWN: usize = 120;

/// The answers of a program so far, line by line: which reply each score belongs to, or why that is not known.
///
/// ```
/// use align_dpo_ppo::reward::Answers;
///
/// let mut answers = Answers::new(2);
/// answers.take(r#"{"id": 1, "score": 0.5}"#)?;
/// answers.take(r#"{"id": 0, "error": "empty reply"}"#)?;
/// assert_eq!(answers.finish()?, [Err("empty reply".to_owned()), Ok(0.5)]);
/// # Ok::<(), String>(())
/// ```
#[derive(Debug)]
pub struct Answers {
    /// By request: a score, or why there is none.
    known: Vec<Option<Result<f64, String>>>,
    /// Whether answers have an `id`, once there is one.
    with_ids: Option<bool>,
    num_known: usize,
    num_lines: usize,
}

impl Answers {
    /// To so many requests, whose ids are their numbers from 0.
    pub fn new(num_requests: usize) -> Self {
        Self {
            known: vec![None; num_requests],
            with_ids: None,
            num_known: 0,
            num_lines: 0,
        }
    }

    /// Requests that have an answer.
    pub fn num_known(&self) -> usize {
        self.num_known
    }

    /// Takes a line; a blank one says nothing, and is `false`.
    ///
    /// Errors: what is no answer, or an answer to nothing that is still open.
    pub fn take(&mut self, line: &str) -> Result<bool, String> {
        self.num_lines += 1;
        let number = self.num_lines;
        if line.trim().is_empty() {
            return Ok(false);
        }
        let refused = || {
            let wanted = "wanted `{\"id\": …, \"score\": number}`, or `{\"id\": …, \"error\": \"why\"}` for a reply without a score,";
            format!("{wanted} in line {number}, found `{}`", shown(line))
        };
        let answer: Value = serde_json::from_str(line).map_err(|_| refused())?;
        let id = answer.get("id").filter(|id| !id.is_null());
        let score = match (
            answer.get("score"),
            answer.get("error").filter(|error| !error.is_null()),
        ) {
            (Some(score), None) => Ok(score.as_f64().filter(|score| score.is_finite()).ok_or_else(refused)?),
            // Which reply it is that has no score is not left to the order.
            (None | Some(Value::Null), Some(Value::String(why))) if id.is_some() => Err(why.clone()),
            _ => return Err(refused()),
        };
        if *self.with_ids.get_or_insert(id.is_some()) != id.is_some() {
            return Err(format!(
                "wanted an `id` in every answer or in none, found both by line {number}"
            ));
        }
        let count = self.known.len();
        let request = match id {
            None if self.num_known == count => {
                return Err(format!(
                    "wanted one answer for each of {count} replies, found one more in line {number}"
                ));
            }
            None => self.num_known,
            Some(id) => {
                let found = id.as_u64().or_else(|| id.as_str()?.parse().ok());
                let request = found.and_then(|id| usize::try_from(id).ok()).filter(|id| *id < count);
                request.ok_or_else(|| {
                    let last = count.saturating_sub(1);
                    format!(
                        "wanted the `id` of a request (0 to {last}) in line {number}, found `{}`",
                        shown(line)
                    )
                })?
            }
        };
        if self.known[request].is_some() {
            return Err(format!(
                "wanted one answer a request, but line {number} answers request {request} again"
            ));
        }
        self.known[request] = Some(score);
        self.num_known += 1;
        Ok(true)
    }

    /// All of them.
    ///
    /// Errors: requests without an answer.
    pub fn finish(self) -> Result<Vec<Result<f64, String>>, String> {
        let (count, found) = (self.known.len(), self.num_known);
        let first = self.known.iter().position(Option::is_none);
        self.known.into_iter().collect::<Option<_>>().ok_or_else(|| {
            let which = match (self.with_ids, first) {
                (Some(true), Some(first)) => format!("; none for request {first}"),
                _ => String::new(),
            };
            format!("wanted an answer for each of {count} replies, found {found}{which}")
        })
    }
}

fn shown(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(SHOWN) {
        None => line.to_owned(),
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}
