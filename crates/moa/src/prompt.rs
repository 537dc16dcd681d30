//! What an agent reads: the user's words as they are, and others' answers behind its instructions.

use crate::Message;

/// What an agent is told before it reads the answers of a layer.
pub const SYNTHESIS: &str = "Several models have answered the user's latest message. Their answers follow, numbered. Write the one answer that \
the user should get. Weigh each of them critically: some may be wrong or one-sided. Do not merely repeat them: keep what is right, correct \
what is not, and leave out nothing that matters. Be accurate, thorough, clear and well ordered.";

/// What a ranker is told.
pub const RANKING: &str = "Several models have answered the user's latest message. Their answers follow, numbered. Which one is best: the most \
accurate, complete and clear? Reply with its number alone.";

/// The conversation with `instruction` and numbered references at the end of its system message.
///
/// Without references the conversation is as it was: a first layer answers the user alone.
pub fn with_references(conversation: &[Message], instruction: &str, references: &[String]) -> Vec<Message> {
    let mut messages = conversation.to_vec();
    if references.is_empty() {
        return messages;
    }
    let numbered: Vec<String> = references
        .iter()
        .enumerate()
        .map(|(idx, text)| format!("{}. {text}", idx + 1))
        .collect();
    let told = format!("{instruction}\n\nAnswers:\n{}", numbered.join("\n"));
    match messages.first_mut() {
        Some(first) if first.role == "system" => first.content = format!("{}\n\n{told}", first.content),
        _ => messages.insert(0, Message::new("system", told)),
    }
    messages
}

/// What stands where a reference was cut.
pub const CUT: &str = " […]";

/// References cut so that together they have at most `most` tokens, and which of them were cut.
///
/// The longest are cut, all to one length; shorter ones stay whole.
pub fn cut(references: &[String], most: usize, count: impl Fn(&str) -> usize) -> (Vec<String>, Vec<bool>) {
    let lengths: Vec<usize> = references.iter().map(|text| count(text)).collect();
    if lengths.iter().sum::<usize>() <= most {
        return (references.to_vec(), vec![false; references.len()]);
    }
    let level = level(&lengths, most);
    let cut = references
        .iter()
        .zip(&lengths)
        .map(|(text, &length)| match length <= level {
            true => (text.clone(), false),
            false => (shortened(text, level, &count), true),
        });
    cut.unzip()
}

/// The length to which the longest must be cut so that the sum is at most `most`.
fn level(lengths: &[usize], most: usize) -> usize {
    let mut sorted = lengths.to_vec();
    sorted.sort_unstable();
    let mut left = most;
    for (idx, &length) in sorted.iter().enumerate() {
        let share = left / (sorted.len() - idx);
        if length > share {
            return share;
        }
        left -= length;
    }
    most
}

/// The longest beginning of `text` that has at most `most` tokens with the mark of the cut.
fn shortened(text: &str, most: usize, count: impl Fn(&str) -> usize) -> String {
    let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let fits = |end: &usize| count(&format!("{}{CUT}", &text[..*end])) <= most;
    let kept = ends.partition_point(fits).saturating_sub(1);
    format!("{}{CUT}", text[..ends[kept]].trim_end())
}

/// Which of `count` answers a ranker's reply names, counted from 0; none if it names none.
pub(crate) fn ranked(reply: &str, count: usize) -> Option<usize> {
    let digits: String = reply
        .chars()
        .skip_while(|c| !c.is_ascii_digit())
        .take_while(char::is_ascii_digit)
        .collect();
    let number: usize = digits.parse().ok()?;
    (1..=count).contains(&number).then(|| number - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_stand_numbered_behind_the_system_message_and_the_user_s_turn_is_unchanged() {
        let user = Message::new("user", "Why?");
        let told = with_references(std::slice::from_ref(&user), "Judge.", &["A".into(), "B\nb".into()]);
        assert_eq!(
            told,
            [
                Message::new("system", "Judge.\n\nAnswers:\n1. A\n2. B\nb"),
                user.clone()
            ]
        );
        let system = Message::new("system", "Be brief.");
        let told = with_references(&[system, user.clone()], "Judge.", &["A".into()]);
        assert_eq!(
            told,
            [
                Message::new("system", "Be brief.\n\nJudge.\n\nAnswers:\n1. A"),
                user.clone()
            ]
        );
        assert_eq!(with_references(std::slice::from_ref(&user), "Judge.", &[]), [user]);
    }

    #[test]
    fn the_longest_references_are_cut_and_marked() {
        let words = |text: &str| text.split_whitespace().count();
        let references = ["a b c d e f g h".to_owned(), "i j".to_owned(), "k l m n o".to_owned()];
        let (kept, was_cut) = cut(&references, 15, words);
        assert_eq!((kept, was_cut), (references.to_vec(), vec![false; 3]));
        let (kept, was_cut) = cut(&references, 10, words);
        assert_eq!(was_cut, [true, false, true]);
        assert_eq!(kept, ["a b c […]", "i j", "k l m […]"]);
        assert!(kept.iter().map(|text| words(text)).sum::<usize>() <= 10);
    }

    #[test]
    fn a_ranker_names_a_number_or_nothing() {
        for (reply, wanted) in [
            ("2", Some(1)),
            ("The best is 3.", Some(2)),
            ("4", None),
            ("0", None),
            ("none", None),
        ] {
            assert_eq!(ranked(reply, 3), wanted, "{reply}");
        }
    }
}
