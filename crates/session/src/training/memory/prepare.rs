//! Before the first step: the selection is fitted and frozen, and each fact's experts and lower stream are found once.

use std::collections::HashMap;

use anyhow::Result;
use data::best_fit;
use decoder::Decoder;
use memory_tuning::{Background, Choice, MemoryBank};
use methods::facts::Fact;
use methods::recipe::MemoryObjective;
use tch::{Kind, Tensor, no_grad};
use tensor_core::{Documents, LanguageModel as _, Pass};

/// Tokens of a row that goes through the model here.
const ROW: usize = 2048;
/// Bytes of streams that are kept, at most.
const STREAMS: usize = 1 << 30;

/// What stays the same in every step.
#[derive(Debug)]
pub struct Prepared {
    /// The experts that each fact trains: by fact, then by projection.
    pub experts: Vec<Vec<Vec<u32>>>,
    /// The first block with a memory.
    pub from: usize,
    /// The stream before that block, by a document's tokens; empty if it would be too large to keep.
    pub streams: HashMap<Vec<i64>, Tensor>,
}

/// Runs facts and background through the model once; fits the selection if `fits` says so.
pub fn prepare(
    model: &Decoder,
    bank: &MemoryBank,
    facts: &[Fact],
    background: &[Vec<u32>],
    (options, fits): (&MemoryObjective, bool),
) -> Result<Prepared> {
    let blocks = || bank.paths().map(|at| at.layer_idx().unwrap_or(model.num_blocks()));
    let (from, to) = (blocks().min().unwrap_or(0), blocks().max().unwrap_or(0));
    let texts: Vec<Read> = read(model, bank, background, (from, to))?;
    let documents: Vec<Vec<u32>> = facts.iter().map(|fact| fact.tokens.clone()).collect();
    let asked: Vec<Read> = read(model, bank, &documents, (from, to))?;
    let answers = |site: usize| -> Vec<Tensor> {
        let each = asked.iter().zip(facts);
        each.map(|(read, fact)| {
            let at: Vec<i64> = fact.positions.iter().map(|&at| at as i64).collect();
            read.inputs[site].index_select(0, &Tensor::from_slice(&at))
        })
        .collect()
    };
    let experts = bank.each(|site, _, experts| {
        let answers = answers(site);
        if fits {
            // What tells facts apart is little beside what tells any two texts apart, so the queries are the facts' own.
            experts.selection.fit(&Tensor::cat(&answers, 0));
        }
        let choices = |x: &Tensor| -> Vec<u32> {
            // The best of every token come first, then the second, and so on.
            let chosen = experts.selection.choose(x).experts.tr().flatten(0, -1);
            let ids = Vec::<i64>::try_from(chosen).unwrap_or_default();
            ids.into_iter().map(|id| id as u32).collect()
        };
        let mut used = Background::default();
        if options.choice == Choice::TfIdf {
            for read in &texts {
                used.add(choices(&read.inputs[site]));
            }
        }
        let of_fact = |x: &Tensor| {
            let mut choices = choices(x);
            if let (Choice::TfIdf, Some(slots)) = (options.choice, options.slots) {
                return used.rarest(&choices, slots);
            }
            choices.sort_unstable();
            choices.dedup();
            choices
        };
        answers.iter().map(of_fact).collect::<Vec<_>>()
    });
    let by_fact = (0..facts.len()).map(|fact| experts.iter().map(|of_site| of_site[fact].clone()).collect());
    let tokens: usize = documents.iter().map(Vec::len).sum();
    let width = model.config().hidden_size as usize * model.kind().elt_size_in_bytes();
    let streams = if tokens * width <= STREAMS {
        let each = documents.iter().zip(&asked);
        each.map(|(tokens, read)| {
            (
                tokens.iter().map(|&id| i64::from(id)).collect(),
                read.stream.shallow_clone(),
            )
        })
        .collect()
    } else {
        HashMap::new()
    };
    Ok(Prepared {
        experts: by_fact.collect(),
        from,
        streams,
    })
}

/// What a document leaves on its way through the model.
struct Read {
    /// What each projection with a memory meets, `[t, in]` f32.
    inputs: Vec<Tensor>,
    /// The stream before the first block with a memory, `[t, d]`.
    stream: Tensor,
}

/// Each document through the model, packed, in its own place: up to the last block with a memory.
fn read(model: &Decoder, bank: &MemoryBank, documents: &[Vec<u32>], (from, to): (usize, usize)) -> Result<Vec<Read>> {
    let lengths: Vec<usize> = documents.iter().map(Vec::len).collect();
    let mut found: Vec<Option<Read>> = documents.iter().map(|_| None).collect();
    for row in best_fit(&lengths, ROW) {
        let lengths: Vec<usize> = row.iter().map(|&document| lengths[document]).collect();
        let tokens: Vec<i64> = row
            .iter()
            .flat_map(|&document| &documents[document])
            .map(|&id| i64::from(id))
            .collect();
        let packed = Documents::new(&lengths);
        let mut stream_at = None;
        let noted = bank.inputs_during(|| {
            let pass = Pass::evaluate(&packed);
            no_grad(|| {
                let mut stream = model.embed(&Tensor::from_slice(&tokens).to_device(model.device()), &pass);
                for idx in 0..model.num_blocks().min(to + 1) {
                    if idx == from {
                        stream_at = Some(stream.shallow_clone());
                    }
                    stream = model.block(idx, &stream, &pass);
                }
                if to >= model.num_blocks() {
                    // The head has a memory: it reads the normed stream.
                    stream_at.get_or_insert_with(|| stream.shallow_clone());
                    let _ = model.head().forward(&model.norm(&stream, &pass), &pass);
                }
            });
            anyhow::Ok(())
        })?;
        for (range, &document) in packed.ranges().zip(&row) {
            let part = |x: &Tensor| x.narrow(0, range.start as i64, range.len() as i64).copy();
            let inputs = noted.iter().map(|inputs| part(&inputs[0])).collect();
            let none = || Tensor::zeros([0], (Kind::Float, model.device()));
            let stream = stream_at.as_ref().map_or_else(none, part);
            found[document] = Some(Read { inputs, stream });
        }
    }
    Ok(found.into_iter().flatten().collect())
}
