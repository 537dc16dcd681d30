//! How a model was given its prompts in training: in its chat template, or as plain text. Kept beside what was trained.

use anyhow::{Context as _, Result};
use checkpoint::TokenizerFiles;
use serde::{Deserialize, Serialize};

/// How prompts were given in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// As turns of a conversation, rendered by the chat template.
    ChatTemplate,
    /// As they stand, with nothing around them.
    RawText,
    /// Some rows so, some so.
    Both,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
struct Kept {
    prompt_format: PromptFormat,
}

impl PromptFormat {
    /// The file's name, beside an adapter or a model.
    pub const FILE: &'static str = "prompt_format.json";

    /// What rows of both kinds make of a training; none where no row has either form.
    pub fn of_counts(templated: usize, raw: usize) -> Option<Self> {
        match (templated, raw) {
            (0, 0) => None,
            (_, 0) => Some(Self::ChatTemplate),
            (0, _) => Some(Self::RawText),
            _ => Some(Self::Both),
        }
    }

    /// What is kept among these files, if anything.
    pub fn in_files(files: &TokenizerFiles) -> Result<Option<Self>> {
        let Some(bytes) = files.read(Self::FILE)? else {
            return Ok(None);
        };
        let kept: Kept = python_json::from_slice(&bytes).with_context(|| {
            let place = files.place(Self::FILE);
            format!(
                "`{}`: wanted `prompt_format` as chat_template, raw_text or both",
                place.display()
            )
        })?;
        Ok(Some(kept.prompt_format))
    }

    /// As it is kept.
    pub fn to_json(self) -> String {
        python_json::to_string(&Kept { prompt_format: self }) + "\n"
    }

    /// What a continued training leaves, after one of format `before`.
    #[must_use]
    pub fn after(self, before: Option<Self>) -> Self {
        match before {
            Some(before) if before != self => Self::Both,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_back() {
        for format in [PromptFormat::ChatTemplate, PromptFormat::RawText, PromptFormat::Both] {
            let mut files = TokenizerFiles::default();
            assert_eq!(PromptFormat::in_files(&files).unwrap(), None);
            files.insert(PromptFormat::FILE, format.to_json().into_bytes());
            assert_eq!(PromptFormat::in_files(&files).unwrap(), Some(format));
        }
        let mut files = TokenizerFiles::default();
        files.insert(PromptFormat::FILE, b"{\"prompt_format\": \"spoken\"}".to_vec());
        let error = format!("{:#}", PromptFormat::in_files(&files).unwrap_err());
        assert!(
            error.contains("prompt_format.json") && error.contains("raw_text"),
            "{error}"
        );
    }

    #[test]
    fn rows_decide_the_format() {
        assert_eq!(PromptFormat::of_counts(0, 0), None);
        assert_eq!(PromptFormat::of_counts(3, 0), Some(PromptFormat::ChatTemplate));
        assert_eq!(PromptFormat::of_counts(0, 3), Some(PromptFormat::RawText));
        assert_eq!(PromptFormat::of_counts(1, 3), Some(PromptFormat::Both));
    }
}
