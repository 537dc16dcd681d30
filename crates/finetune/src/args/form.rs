//! How prompts that are plain texts are given: `--chat`, `--no-chat`.

use models::prompts::FormChoice;

/// How plain texts are given: flags of every verb that asks a model.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct FormArgs {
    /// Give prompts that are plain texts as they stand, without the chat template [default: as the model was trained]
    #[arg(long, conflicts_with = "chat")]
    pub no_chat: bool,
    /// Give prompts that are plain texts in the chat template [default: as the model was trained, if that is known]
    #[arg(long)]
    pub chat: bool,
}

impl FormArgs {
    /// What the flags say.
    pub fn choice(self) -> FormChoice {
        match (self.chat, self.no_chat) {
            (true, _) => FormChoice::Chat,
            (_, true) => FormChoice::Plain,
            _ => FormChoice::AsTrained,
        }
    }
}
