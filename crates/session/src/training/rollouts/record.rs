//! Rollouts on disk: `rollouts/rollout-000012.jsonl`, a line about it, then a line a reply.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use align_dpo_ppo::rollout::Episode;
use anyhow::{Context as _, Result};
use checkpoint::write_file;
use serde::{Deserialize, Serialize};
use train::RunDir;

const FOLDER: &str = "rollouts";

/// TRL's name for the share of groups in which every reply earned the same.
pub(super) const ALIKE: &str = "frac_reward_zero_std";

/// Replies, scored and taught.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rollout {
    pub(super) about: About,
    /// What it is like, under the names of the metrics.
    pub(super) facts: BTreeMap<String, f64>,
    pub(super) replies: Vec<Reply>,
}

/// What a rollout hands on to the next one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct About {
    /// Its number, from 0.
    pub(super) rollout: usize,
    /// What a nat cost.
    pub(super) kl_coef: f64,
    /// What a nat costs in the next one.
    pub(super) next_kl_coef: f64,
}

/// A file's first line.
#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    about: About,
    facts: BTreeMap<String, f64>,
}

/// A reply, for people and for the steps that learn from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reply {
    /// What was asked.
    pub(super) asked: String,
    /// What the model said.
    pub(super) said: String,
    /// What each reward gave.
    pub(super) rewards: BTreeMap<String, f64>,
    /// Why one gave nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failed: Option<String>,
    /// Tokens and numbers.
    pub(super) episode: Episode,
}

/// The rollouts of a run.
pub(super) struct Records {
    folder: PathBuf,
    steps_per_rollout: usize,
    /// Rollouts of earlier processes: those that begin before the checkpoint which this one goes on from.
    known: usize,
}

impl Records {
    /// Of the run in `dir`: rollouts that begin behind its checkpoint are written anew.
    pub(super) fn open(dir: &RunDir, steps_per_rollout: usize) -> Result<Self> {
        Ok(Self {
            folder: dir.path().join(FOLDER),
            steps_per_rollout,
            known: dir.resume_from()?.map_or(0, |at| at.step.div_ceil(steps_per_rollout)),
        })
    }

    /// Whether a rollout is on disk and no other may take its place.
    pub(super) fn has(&self, number: usize) -> bool {
        number < self.known
    }

    /// A rollout that is on disk.
    pub(super) fn read(&self, number: usize) -> Result<Rollout> {
        let path = self.path(number);
        let place = || format!("rollout {number} of the run that is resumed: `{}`", path.display());
        Rollout::parse(&fs::read_to_string(&path).with_context(place)?).with_context(place)
    }

    /// Writes a rollout, and gives it as it will be read.
    pub(super) fn write(&self, rollout: &Rollout) -> Result<Rollout> {
        let text = rollout.text()?;
        fs::create_dir_all(&self.folder).with_context(|| format!("`{}`", self.folder.display()))?;
        write_file(&self.path(rollout.about.rollout), text.as_bytes())?;
        // A number in a text may differ from the one in memory by its last bit; a resumed run reads the text.
        Rollout::parse(&text)
    }

    /// Lines of `report.md`: the facts of the first and the last rollout of so many steps.
    pub(super) fn results(&self, num_steps: usize) -> Result<Vec<(String, String, String)>> {
        let last = num_steps.div_ceil(self.steps_per_rollout).saturating_sub(1);
        let (first, last) = (self.read(0)?.facts, self.read(last)?.facts);
        let shown =
            |facts: &BTreeMap<String, f64>, name: &str| facts.get(name).map_or("-".into(), |x| format!("{x:.4}"));
        let line = |name: &String| {
            (
                format!("{name}, first and last rollout"),
                shown(&first, name),
                shown(&last, name),
            )
        };
        Ok(first.keys().map(line).collect())
    }

    /// Whether in no rollout of so many steps any group had replies of different rewards.
    pub(super) fn never_differed(&self, num_steps: usize) -> Result<bool> {
        for number in 0..num_steps.div_ceil(self.steps_per_rollout) {
            let facts = self.read(number)?.facts;
            if facts.get(ALIKE).is_none_or(|alike| *alike < 1.0) {
                return Ok(false);
            }
        }
        Ok(num_steps > 0)
    }

    fn path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("rollout-{number:06}.jsonl"))
    }
}

impl Rollout {
    fn text(&self) -> Result<String> {
        let head = Head {
            about: self.about,
            facts: self.facts.clone(),
        };
        let mut text = serde_json::to_string(&head)? + "\n";
        for reply in &self.replies {
            text += &serde_json::to_string(reply)?;
            text.push('\n');
        }
        Ok(text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let head: Head = serde_json::from_str(lines.next().context("an empty file")?).context("line 1")?;
        let reply =
            |(idx, line): (usize, &str)| serde_json::from_str(line).with_context(|| format!("line {}", idx + 2));
        Ok(Self {
            about: head.about,
            facts: head.facts,
            replies: lines.enumerate().map(reply).collect::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use train::Start;

    use super::*;

    fn rollout(number: usize) -> Rollout {
        let reply = |log_prob: f32| Reply {
            asked: "a \"question\"".into(),
            said: "an\nanswer".into(),
            rewards: BTreeMap::from([("length".into(), 0.1)]),
            failed: Some("regex: why".into()),
            episode: Episode {
                prompt: vec![1, 2],
                reply: vec![3],
                log_probs: vec![log_prob],
                score: Some(0.1 + 0.2),
                advantages: vec![1.0 / 3.0],
                ..Episode::default()
            },
        };
        Rollout {
            about: About {
                rollout: number,
                kl_coef: 0.05,
                next_kl_coef: 0.06,
            },
            facts: BTreeMap::from([("reward".into(), 1.0 / 7.0)]),
            replies: vec![reply(-0.1), reply(-1.7e-9)],
        }
    }

    #[test]
    fn a_resumed_run_keeps_what_its_checkpoint_has_begun_and_nothing_behind_it() {
        let home = tempfile::tempdir().unwrap();
        let open = |start| RunDir::open(home.path().join("run"), "recipe", start).unwrap();
        let dir = open(Start::New);
        dir.claim().unwrap();
        let records = Records::open(&dir, 4).unwrap();
        let written: Vec<Rollout> = (0..3).map(|number| records.write(&rollout(number)).unwrap()).collect();
        assert!(!records.has(0));
        // Written again, what was read is the same to the bit.
        assert_eq!(records.write(&written[1]).unwrap(), written[1]);
        dir.save(5, |folder| {
            std::fs::write(folder.join("state.json"), "{\"step\": 5}")?;
            let zero = tch::Tensor::from_slice(&[0.0f32]);
            for name in ["optimizer.safetensors", "masters.safetensors"] {
                checkpoint::write_tensors(&folder.join(name), [("zero", &zero)])?;
            }
            Ok(())
        })
        .unwrap();
        drop(dir);
        let dir = open(Start::Resume);
        let records = Records::open(&dir, 4).unwrap();
        assert!(records.has(1) && !records.has(2));
        assert_eq!(records.read(1).unwrap(), written[1]);
        let results = records.results(8).unwrap();
        assert_eq!(
            results,
            [(
                "reward, first and last rollout".into(),
                "0.1429".into(),
                "0.1429".into()
            )]
        );
    }
}
