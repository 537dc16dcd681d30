//! What a model answers to facts, greedily: exactly right or not, and the same as before or not.

use anyhow::Result;
use decoder::{Decoder, GenerateOptions};
use methods::facts::Fact;

/// The greedy answer to each fact's question, of as many tokens as its answer has.
pub fn answers(model: &Decoder, facts: &[Fact]) -> Result<Vec<Vec<u32>>> {
    let prompts: Vec<Vec<u32>> = facts.iter().map(|fact| fact.prompt().to_vec()).collect();
    let longest = facts.iter().map(|fact| fact.answer().len()).max().unwrap_or(0);
    let options = GenerateOptions {
        max_new_tokens: longest,
        max_sequences: 64,
        ..GenerateOptions::default()
    };
    let generated = model.generate(&prompts, &options, &mut |_, _| ())?;
    let cut = |(answer, fact): (decoder::Generated, &Fact)| {
        let mut tokens = answer.tokens;
        tokens.truncate(fact.answer().len());
        tokens
    };
    Ok(generated.into_iter().zip(facts).map(cut).collect())
}

/// The share of facts that are answered exactly. What an answer has after the token that ends it (a template's line
/// break) cannot be said, and does not count.
pub fn recall(answers: &[Vec<u32>], facts: &[Fact], end_tokens: &[u32]) -> f64 {
    let is_right = |(said, fact): (&Vec<u32>, &Fact)| {
        let answer = fact.answer();
        let end = answer.iter().position(|token| end_tokens.contains(token));
        said.as_slice() == &answer[..end.map_or(answer.len(), |end| end + 1)]
    };
    share(
        answers.iter().zip(facts).filter(|pair| is_right(*pair)).count(),
        facts.len(),
    )
}

/// The share of answers that stayed.
pub fn kept(before: &[Vec<u32>], after: &[Vec<u32>]) -> f64 {
    let same = before.iter().zip(after).filter(|(before, after)| before == after);
    share(same.count(), before.len())
}

fn share(part: usize, of: usize) -> f64 {
    part as f64 / of.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_up_to_its_end_token() {
        let fact = |answer: &[u32]| Fact {
            tokens: [&[1, 2], answer].concat(),
            positions: (1..=answer.len()).collect(),
        };
        let facts = [fact(&[5, 9, 7]), fact(&[5, 6]), fact(&[5, 6])];
        let said = [vec![5, 9], vec![5, 6], vec![5, 8]];
        assert!((recall(&said, &facts, &[9]) - 2.0 / 3.0).abs() < 1e-12);
        assert!((recall(&said, &facts, &[]) - 1.0 / 3.0).abs() < 1e-12);
        assert!((kept(&said, &[vec![5, 9], vec![5], vec![5, 8]]) - 2.0 / 3.0).abs() < 1e-12);
    }
}
