//! What the model says: how long it is, what rewards make of it, and how far it lies from the base beneath its adapters.

use std::borrow::Cow;
use std::collections::BTreeMap;

use data::{Exchange, Prompt, Row, Tokenizer};
use serde_json::{Map, Value};
use tensor_core::AdapterRouting;

use crate::{Drawing, Error, Result, Said, Scorer, Task, TaskReport, packing, rows};

/// Prompts that are answered at a time.
const BATCH: usize = 32;

/// A row: what is asked, how the row itself answers, and its other columns; its own answer is `completion` there, as in
/// training.
struct Asked {
    text: String,
    tokens: Vec<u32>,
    own: Option<String>,
    extra: Map<String, Value>,
}

pub(crate) fn replies(
    task: &Task,
    scorer: &dyn Scorer,
    tokenizer: &Tokenizer,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<TaskReport> {
    let dataset = rows::read(task)?;
    let count = dataset.len().min(task.max_rows.unwrap_or(usize::MAX));
    let asked: Vec<Asked> = (0..count)
        .map(|idx| asked(task, idx, dataset.row(idx), (scorer, tokenizer)))
        .collect::<Result<_>>()?;
    let mixes = rows::mixes(task, scorer, (0..count).map(|idx| dataset.kept(idx, rows::ADAPTER)))?;
    let drawing = Drawing {
        max_new_tokens: task.max_new_tokens,
        temperature: task.temperature,
        seed: task.seed,
    };
    let mut answers = Vec::with_capacity(count);
    for first in (0..count).step_by(BATCH) {
        let part = &asked[first..count.min(first + BATCH)];
        let prompts: Vec<Vec<u32>> = part.iter().map(|asked| asked.tokens.clone()).collect();
        let mixes = mixes.get(first..first + part.len()).unwrap_or_default();
        answers.extend(scorer.answer(&prompts, mixes, &drawing)?);
        progress(answers.len(), count);
    }
    let said: Vec<String> = answers
        .iter()
        .enumerate()
        .map(|(idx, answer)| {
            tokenizer
                .decode(&answer.tokens)
                .map_err(|source| failed(task, idx, source))
        })
        .collect::<Result<_>>()?;
    let documents: Vec<Vec<u32>> = asked
        .iter()
        .zip(&answers)
        .map(|(asked, answer)| [asked.tokens.as_slice(), &answer.tokens].concat())
        .collect();
    let mean = |sum: f64| Some(sum / count.max(1) as f64);
    let judged = judged(task, scorer, (&asked, &said, &documents), tokenizer)?;
    let nats = nats(scorer, &asked, &documents, &mixes)?;
    // Of replies drawn from the model itself, the mean is the divergence; of others it is not.
    let own = task.temperature == 1.0;
    let lengths = answers.iter().map(|answer| answer.tokens.len());
    Ok(TaskReport {
        rows: count,
        mean_length: mean(lengths.sum::<usize>() as f64),
        ended: mean(answers.iter().filter(|answer| answer.ended).count() as f64),
        kl: nats.filter(|_| own),
        log_ratio: nats.filter(|_| !own),
        rewards: judged.parts,
        reward: judged.reward,
        win_rate: judged.win_rate,
        unscored: (judged.unscored > 0).then_some(judged.unscored),
        ..TaskReport::of(task.kind)
    })
}

fn failed(task: &Task, idx: usize, source: data::Problem) -> Error {
    Error::Text {
        path: task.data.clone(),
        row: idx + 1,
        source,
    }
}

fn asked(task: &Task, idx: usize, row: &Row, (scorer, tokenizer): (&dyn Scorer, &Tokenizer)) -> Result<Asked> {
    let form = rows::form(scorer, tokenizer);
    let row = &*form.map_or(Cow::Borrowed(row), |form| form.of_row(row));
    let (prompt, own, extra) = match row {
        Row::PromptOnly { prompt, extra } => (prompt.clone(), None, extra.clone()),
        Row::Prompted(exchange) | Row::Preference { chosen: exchange, .. } | Row::Unpaired { exchange, .. } => {
            let prompt = match exchange {
                Exchange::Text { prompt, .. } => Prompt::Text(prompt.clone()),
                Exchange::Turns { prompt, .. } => Prompt::Turns(prompt.clone()),
            };
            (prompt, Some(exchange.reply_text()), Map::new())
        }
        row => {
            let question = rows::question_of(task, idx, row, form)?;
            (question.prompt, question.gold.into_iter().next(), Map::new())
        }
    };
    let text = match &prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Turns(chat) => chat.messages.last().map(data::Message::text).unwrap_or_default(),
    };
    let tokens = rows::encoded(&prompt, tokenizer).map_err(|source| failed(task, idx, source))?;
    rows::fits(task, idx, &tokens, scorer)?;
    let mut extra = extra;
    if let Some(own) = &own {
        extra.insert("completion".into(), own.clone().into());
    }
    Ok(Asked {
        text,
        tokens,
        own,
        extra,
    })
}

/// What rewards say: the mean of each, of their sum, how often a reply's sum is above its row's own answer's, and of how
/// many replies there is no sum.
#[derive(Default)]
struct Judged {
    parts: BTreeMap<String, f64>,
    reward: Option<f64>,
    win_rate: Option<f64>,
    unscored: usize,
}

fn judged(
    task: &Task,
    scorer: &dyn Scorer,
    (asked, said, documents): (&[Asked], &[String], &[Vec<u32>]),
    tokenizer: &Tokenizer,
) -> Result<Judged> {
    if task.rewards.is_empty() {
        return Ok(Judged::default());
    }
    let Some(judge) = scorer.judge() else {
        return Err(Error::Task {
            task: task.name.clone(),
            found: "`rewards`, of which this scorer knows none".into(),
            hint: "remove them, or evaluate with the `finetune` command".into(),
        });
    };
    let said_to = |asked: &Asked, reply: &str, tokens: Vec<u32>| Said {
        prompt: asked.text.clone(),
        reply: reply.to_owned(),
        num_tokens: tokens.len() - asked.tokens.len(),
        tokens,
        extra: asked.extra.clone(),
    };
    // The replies, then the rows' own answers: all in one call, so that rewards are opened once.
    let mut judged: Vec<Said> = asked
        .iter()
        .zip(said)
        .zip(documents)
        .map(|((asked, reply), tokens)| said_to(asked, reply, tokens.clone()))
        .collect();
    let mut owned = Vec::new();
    for (idx, asked) in asked.iter().enumerate() {
        if let Some(own) = &asked.own {
            let reply = tokenizer.encode(own).map_err(|source| failed(task, idx, source))?;
            owned.push(idx);
            judged.push(said_to(asked, own, [asked.tokens.as_slice(), &reply].concat()));
        }
    }
    let verdicts = judge.verdicts(task, &judged)?;
    let (replies, answers) = verdicts.split_at(asked.len());
    let mut sums: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for (name, value) in replies.iter().flat_map(|verdict| &verdict.parts) {
        let sum = sums.entry(name.clone()).or_default();
        *sum = (sum.0 + value, sum.1 + 1);
    }
    let won: Vec<f64> = owned
        .iter()
        .zip(answers)
        .filter_map(|(&idx, own)| {
            let (reply, own) = (replies[idx].score?, own.score?);
            Some(if reply > own {
                1.0
            } else if reply < own {
                0.0
            } else {
                0.5
            })
        })
        .collect();
    let known: Vec<f64> = replies.iter().filter_map(|verdict| verdict.score).collect();
    let mean = |numbers: &[f64]| (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64);
    let parts = sums.into_iter().map(|(name, (sum, count))| (name, sum / count as f64));
    Ok(Judged {
        parts: parts.collect(),
        reward: mean(&known),
        win_rate: mean(&won),
        unscored: asked.len() - known.len(),
    })
}

/// `log π - log π₀` of the model and its base, summed over a reply's tokens, the mean of the replies; none without
/// adapters.
fn nats(scorer: &dyn Scorer, asked: &[Asked], documents: &[Vec<u32>], mixes: &[AdapterRouting]) -> Result<Option<f64>> {
    let Some(judge) = scorer.judge() else { return Ok(None) };
    let (mut sum, mut known) = (0.0, true);
    packing::rows(documents, mixes, |first, tokens, row| {
        let Some(base) = judge.base_log_probs(tokens, row)? else {
            known = false;
            return Ok(());
        };
        let policy = scorer.log_probs(tokens, row)?;
        for (at, range) in row.ranges().enumerate() {
            let reply = range.start + asked[first + at].tokens.len()..range.end;
            sum += reply.map(|at| f64::from(policy[at] - base[at])).sum::<f64>();
        }
        Ok::<(), Error>(())
    })?;
    Ok(known.then_some(sum / documents.len().max(1) as f64))
}
