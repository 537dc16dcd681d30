//! The sampler against Transformers' logits processors.

use decoder::Sampler;

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    let list = value.as_array().expect("a list");
    list.iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn probabilities_equal_transformers() {
    let rows = golden::json("sampling");
    let rows = rows.as_array().expect("a list");
    assert!(rows.len() >= 17);
    for row in rows {
        let mut options = row["options"].clone();
        if options.get("temperature").is_none() {
            options["temperature"] = 1.0.into();
        }
        let sampler: Sampler = serde_json::from_value(options).expect("options");
        sampler.check().expect("options in their ranges");
        let logits: Vec<f32> = numbers(&row["logits"]).iter().map(|&x| x as f32).collect();
        let previous: Vec<u32> = numbers(&row["previous"]).iter().map(|&x| x as u32).collect();
        let wanted = numbers(&row["probabilities"]);
        let found = sampler.probabilities(&logits, &previous);
        for (found, wanted) in found.iter().zip(&wanted) {
            // f32 against f64; what is cut is cut in both.
            let same = (found - wanted).abs() <= 1e-6 * wanted + 1e-9 && (*found == 0.0) == (*wanted == 0.0);
            assert!(same, "{sampler:?}: {found} {wanted}");
        }
        // Drawing meets each token about as often as its probability says: within five standard errors.
        let (draws, mut met) = (4000u64, vec![0u32; logits.len()]);
        for place in 0..draws {
            met[sampler.choose(&logits, &previous, 2, place) as usize] += 1;
        }
        for (met, p) in met.iter().zip(&wanted) {
            let error = (p * (1.0 - p) * draws as f64).sqrt();
            assert!(
                (f64::from(*met) - p * draws as f64).abs() <= 5.0 * error + 1.0,
                "{met} of {p}"
            );
        }
    }
}

#[test]
fn temperature_zero_takes_the_likeliest() {
    let greedy = Sampler::default();
    assert_eq!(greedy.choose(&[0.0, 3.0, 3.0, -1.0], &[], 0, 0), 1);
    let penalised = Sampler {
        repetition_penalty: 2.0,
        ..greedy
    };
    // 3 / 2 for token 1, which was seen; -1 · 2 for token 3.
    assert_eq!(penalised.choose(&[0.0, 3.0, 2.0, -1.0], &[1, 3, 1], 0, 0), 2);
}
