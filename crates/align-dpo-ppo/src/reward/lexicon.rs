//! Sentiment by a lexicon of words with a valence.
//!
//! `s / √(s² + 15)` with s the sum of the words' valences, as VADER normalises (Hutto and Gilbert 2014). Deviation: its
//! rules for negation, emphasis and punctuation are left out.

use std::collections::HashMap;
use std::path::Path;

use super::{Reward, Said};
use crate::{Error, Result};

/// Words with their valence.
#[derive(Debug)]
pub struct Lexicon(HashMap<String, f64>);

impl Lexicon {
    /// Reads lines `word TAB valence …`.
    ///
    /// Errors: a file that cannot be read, a line of another form.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |found: String| Error::Option {
            option: "path",
            wanted: "a lexicon of lines `word TAB valence`",
            found,
        };
        let text = std::fs::read_to_string(path).map_err(|error| refuse(format!("`{}`: {error}", path.display())))?;
        let mut words = HashMap::new();
        for (idx, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let mut fields = line.split('\t');
            let (word, valence) = (fields.next(), fields.next().and_then(|valence| valence.parse().ok()));
            let (Some(word), Some(valence)) = (word, valence) else {
                return Err(refuse(format!("`{}:{}`: `{line}`", path.display(), idx + 1)));
            };
            words.insert(word.to_owned(), valence);
        }
        Ok(Self(words))
    }

    fn score(&self, text: &str) -> f64 {
        let sum: f64 = text
            .split_whitespace()
            .map(|word| {
                // Emoticons stand in the lexicon as they are written.
                let bare = || word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
                self.0.get(word).or_else(|| self.0.get(&bare())).copied().unwrap_or(0.0)
            })
            .sum();
        sum / (sum * sum + 15.0).sqrt()
    }
}

impl Reward for Lexicon {
    fn name(&self) -> &'static str {
        "lexicon"
    }

    fn scores(&self, replies: &[Said]) -> Result<Vec<Result<f64, String>>> {
        Ok(replies.iter().map(|said| Ok(self.score(said.reply))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_add_up_and_are_normalised() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lexicon.txt");
        std::fs::write(&path, "good\t1.9\t0.9\t[1, 2]\nbad\t-2.5\t0.7\t[]\n:)\t2.0\t1\t[]\n").unwrap();
        let lexicon = Lexicon::open(&path).unwrap();
        let norm = |s: f64| s / (s * s + 15.0).sqrt();
        for (text, sum) in [("Good, good dogs!", 3.8), ("a bad one :)", -0.5), ("", 0.0)] {
            assert!((lexicon.score(text) - norm(sum)).abs() < 1e-12, "{text}");
        }
        std::fs::write(&path, "good\t1.9\nbad\n").unwrap();
        let error = Lexicon::open(&path).unwrap_err().to_string();
        assert!(error.contains("lexicon.txt:2`: `bad`"), "{error}");
    }
}
