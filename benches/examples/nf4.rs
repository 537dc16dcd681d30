//! Times NF4 there and back on as many f32 numbers as the first argument says, a line of JSON for each turn.
//!
//! `benches/peft/quantise.py` runs it in turns with bitsandbytes.

use std::time::Instant;

use quant::codec::{BlockSize, Scheme, dequantise, quantise};

const TURNS: usize = 7;

fn main() -> anyhow::Result<()> {
    let count: usize = std::env::args().nth(1).unwrap_or_else(|| "16777216".into()).parse()?;
    let block = BlockSize::default();
    let values: Vec<f32> = (0..count).map(|idx| (idx as f32 * 0.37).sin() * 0.05).collect();
    let (mut codes, mut absmax) = (vec![0u8; count.div_ceil(2)], vec![0.0f32; block.num_blocks(count)]);
    let (mut back, mut copy) = (values.clone(), values.clone());
    for _ in 0..TURNS {
        let begin = Instant::now();
        quantise(Scheme::Nf4, block, &values, &mut codes, &mut absmax)?;
        let there = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        dequantise(Scheme::Nf4, block, &codes, &absmax, &mut back);
        let again = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        copy.copy_from_slice(std::hint::black_box(&values));
        let copied = begin.elapsed().as_secs_f64();
        println!(
            "{{\"quantise\":{there},\"dequantise\":{again},\"copy\":{copied},\"first\":{}}}",
            codes[0]
        );
    }
    Ok(())
}
