//! What an objective wants of each sample: tokens to learn, a class, two replies, or one reply and a verdict on it.

use anyhow::{Result, bail};
use data::TokenSet;
use methods::recipe::{ObjectiveConfig, Source};

/// Refuses rows that the objective cannot learn from.
pub(super) fn checked(source: &Source, set: TokenSet, objective: &ObjectiveConfig) -> Result<TokenSet> {
    let place = source.path.display();
    let kind = objective.kind();
    let count = |has: fn(&TokenSet, usize) -> bool| (0..set.len()).filter(|&sample| has(&set, sample)).count();
    let labelled = count(|set, sample| set.label(sample).is_some());
    let pairs = count(|set, sample| set.num_documents(sample) == 2);
    match objective {
        ObjectiveConfig::Classify(_) if labelled < set.len() => bail!(
            "`{place}`: `objective.kind = \"classify\"` wants rows with `text` and `label`, found {} without a label\n\
             hint: map other names with `columns`, e.g. columns = {{ text = \"sentence\" }}",
            set.len() - labelled
        ),
        ObjectiveConfig::Dpo(_) | ObjectiveConfig::Orpo(_) | ObjectiveConfig::Reward(_) if pairs < set.len() => bail!(
            "`{place}`: `objective.kind = \"{kind}\"` wants rows with two replies, found {} without\n\
             hint: give rows `prompt`, `chosen`, `rejected`; map other names with `columns`; one reply with a verdict belongs to `objective.kind = \"kto\"`",
            set.len() - pairs
        ),
        ObjectiveConfig::Kto(_) if labelled + pairs < set.len() => bail!(
            "`{place}`: `objective.kind = \"kto\"` wants rows with a reply and whether it is a good one, found {} without a `label`\n\
             hint: give rows `prompt`, `completion`, `label` (true or false), or pairs `prompt`, `chosen`, `rejected`",
            set.len() - labelled - pairs
        ),
        ObjectiveConfig::Sft(_) if pairs > 0 => bail!(
            "`{place}`: `objective.kind = \"sft\"` would learn the worse replies too: wanted rows with one reply, found {pairs} with two\n\
             hint: use `objective.kind = \"dpo\"` or \"orpo\"; or name the better one's column: columns = {{ completion = \"chosen\" }} with shape = \"prompt_completion\""
        ),
        ObjectiveConfig::Sft(_) if set.report().trained_tokens > 0 && labelled > 0 => bail!(
            "`{place}`: `objective.kind = \"sft\"` would learn bad replies too: wanted rows without a verdict, found {labelled} with a `label`\n\
             hint: use `objective.kind = \"kto\"`, or shape = \"prompt_completion\" if `label` means something else"
        ),
        other if set.report().trained_tokens == 0 && !matches!(other, ObjectiveConfig::Classify(_)) => bail!(
            "`{place}`: no token of any row is trained\n\
             hint: rows with `text` and `label` belong to `objective.kind = \"classify\"`; prompts alone have nothing to learn"
        ),
        _ => {}
    }
    Ok(set)
}
