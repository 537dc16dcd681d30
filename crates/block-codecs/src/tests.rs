//! The codecs against values computed by hand, their bounds, and each path against the plain one.

use half::bf16;

use super::*;

/// Normal numbers with deviation `scale`, the same for the same seed.
fn normal(seed: u64, len: usize, scale: f32) -> Vec<f32> {
    let mut state = seed;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..len)
        .map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * scale)
        .collect()
}

fn packed<T: Number>(scheme: Scheme, block: usize, values: &[T]) -> (Vec<u8>, Vec<f32>) {
    let block = BlockSize::new(block).unwrap();
    let mut codes = vec![0; scheme.num_bytes(values.len())];
    let mut absmax = vec![0.0; block.num_blocks(values.len())];
    quantise(scheme, block, values, &mut codes, &mut absmax).unwrap();
    (codes, absmax)
}

fn unpacked<T: Number>(scheme: Scheme, block: usize, codes: &[u8], absmax: &[f32], len: usize) -> Vec<T> {
    let mut values = vec![T::narrow(f32::NAN); len];
    dequantise(scheme, BlockSize::new(block).unwrap(), codes, absmax, &mut values);
    values
}

const SCHEMES: [Scheme; 4] = [Scheme::Nf4, Scheme::Fp4, Scheme::Int4, Scheme::Int8];

#[test]
fn a_sine_has_the_codes_that_were_computed_by_hand() {
    let values: Vec<f32> = (0..64).map(|j| (0.05 * (0.37 * f64::from(j)).sin()) as f32).collect();
    let (codes, absmax) = packed(Scheme::Nf4, 64, &values);
    assert_eq!(absmax, [0.049_876_315]);
    assert_eq!(codes[..8], [123, 239, 255, 237, 149, 33, 0, 1]);
    let back: Vec<f32> = unpacked(Scheme::Nf4, 64, &codes, &absmax, 64);
    let errors: Vec<f64> = values
        .iter()
        .zip(&back)
        .map(|(x, y)| f64::from((x - y).abs()))
        .collect();
    let largest = errors.iter().copied().fold(0.0, f64::max);
    let rms = (errors.iter().map(|e| e * e).sum::<f64>() / 64.0).sqrt();
    assert!((largest - 0.005_913_812).abs() < 1e-8, "{largest}");
    assert!((rms - 0.002_687_072).abs() < 1e-8, "{rms}");
}

#[test]
fn a_number_on_a_bound_goes_down_and_the_next_one_goes_up() {
    // Midpoints of NF4's levels, to the digits that a table prints.
    let printed = [
        -0.848_096_4,
        -0.610_632_9,
        -0.459_995_3,
        -0.339_679_5,
        -0.234_607_4,
        -0.137_911_7,
        -0.045_525_0,
        0.039_790_1,
        0.120_255_3,
        0.203_521_3,
        0.292_013_8,
        0.389_312_5,
        0.501_663_4,
        0.642_786_9,
        0.861_478_4,
    ];
    for (below, printed) in printed.into_iter().enumerate() {
        let bound = f32::midpoint(NF4[below], NF4[below + 1]);
        assert!((bound - printed).abs() < 1e-7, "{bound} is not {printed}");
        let values = [bound, bound.next_up(), bound.next_down(), 1.0];
        let mut values = values.to_vec();
        values.resize(64, 0.0);
        let (codes, _) = packed(Scheme::Nf4, 64, &values);
        let below = below as u8;
        assert_eq!(codes[..2], [below << 4 | (below + 1), below << 4 | 15], "at {bound}");
    }
}

#[test]
fn errors_stay_within_half_the_widest_gap_and_reach_it() {
    let values = normal(3, 64 * 400, 0.02);
    // Half the widest gap: NF4 between -1 and -0.696, FP4 between 2/3 and 1, int4 and int8 half a step.
    let gap = (NF4[1] - NF4[0]) / 2.0;
    assert!((gap - 0.151_903_6).abs() < 1e-7);
    for (scheme, widest) in SCHEMES.into_iter().zip([gap, 1.0 / 6.0, 0.5 / 7.0, 0.5 / 127.0]) {
        let (codes, absmax) = packed(scheme, 64, &values);
        let back: Vec<f32> = unpacked(scheme, 64, &codes, &absmax, values.len());
        for (idx, (x, y)) in values.iter().zip(&back).enumerate() {
            let bound = widest * absmax[idx / 64] * (1.0 + 1e-6);
            assert!((x - y).abs() <= bound, "{scheme}: {x} became {y}");
        }
    }
    let mut edge = vec![0.0f32; 64];
    (edge[0], edge[1]) = (f32::midpoint(NF4[0], NF4[1]), 1.0);
    let (codes, absmax) = packed(Scheme::Nf4, 64, &edge);
    let back: Vec<f32> = unpacked(Scheme::Nf4, 64, &codes, &absmax, 64);
    assert!((back[0] - edge[0]).abs() >= gap - 1e-7);
}

#[test]
fn normal_numbers_lose_what_the_schemes_are_known_to_lose() {
    let values = normal(5, 64 * 4000, 1.0);
    let power: f64 = values.iter().map(|x| f64::from(x * x)).sum();
    // Relative root mean square errors on N(0, 1) in blocks of 64; the sum of twelve uniform numbers has thinner tails.
    for (scheme, wanted) in SCHEMES.into_iter().zip([0.0919, 0.1219, 0.1077, 0.0059]) {
        let (codes, absmax) = packed(scheme, 64, &values);
        let back: Vec<f32> = unpacked(scheme, 64, &codes, &absmax, values.len());
        let lost: f64 = values.iter().zip(&back).map(|(x, y)| f64::from(x - y).powi(2)).sum();
        let relative = (lost / power).sqrt();
        assert!((relative / wanted - 1.0).abs() < 0.03, "{scheme}: {relative}");
    }
}

#[test]
fn quantising_again_changes_nothing() {
    for scheme in SCHEMES {
        for block in [32, 64, 4096] {
            let values = normal(7, 5003, 0.3);
            let (codes, absmax) = packed(scheme, block, &values);
            let back: Vec<f32> = unpacked(scheme, block, &codes, &absmax, values.len());
            let (again, absmax_again) = packed(scheme, block, &back);
            let twice: Vec<f32> = unpacked(scheme, block, &again, &absmax_again, values.len());
            // Of FP4's two zeros the second becomes the first. The largest int8 is 127 · c / 127, which rounds.
            let same = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 3e-7 * a.abs());
            match scheme {
                Scheme::Nf4 | Scheme::Int4 => assert!(codes == again && back == twice, "in blocks of {block}"),
                Scheme::Fp4 => assert!(back == twice, "in blocks of {block}"),
                Scheme::Int8 => assert!(codes == again && same(&back, &twice), "in blocks of {block}"),
            }
        }
    }
}

#[test]
fn a_block_changes_no_other_block() {
    for scheme in SCHEMES {
        let mut values = normal(9, 64 * 5, 1.0);
        let (codes, absmax) = packed(scheme, 64, &values);
        values[64 * 2..64 * 3].fill(100.0);
        let (changed, changed_absmax) = packed(scheme, 64, &values);
        let bytes = scheme.num_bytes(64);
        for block in [0, 1, 3, 4] {
            let part = block * bytes..(block + 1) * bytes;
            assert_eq!(
                (&codes[part.clone()], absmax[block]),
                (&changed[part], changed_absmax[block])
            );
        }
        assert_ne!(absmax[2].to_bits(), changed_absmax[2].to_bits());
    }
}

#[test]
fn zeros_and_signs_are_kept() {
    for scheme in SCHEMES {
        for len in [64, 65, 31] {
            let (codes, absmax) = packed(scheme, 64, &vec![0.0f32; len]);
            assert_eq!(
                unpacked::<f32>(scheme, 64, &codes, &absmax, len),
                vec![0.0; len],
                "{scheme}"
            );
        }
        let values = normal(11, 640, 1.0);
        let (codes, absmax) = packed(scheme, 64, &values);
        let back: Vec<f32> = unpacked(scheme, 64, &codes, &absmax, 640);
        assert!(values.iter().zip(&back).all(|(x, y)| x * y >= 0.0), "{scheme}");
    }
}

#[test]
fn lengths_that_no_block_divides_come_back_whole() {
    for scheme in SCHEMES {
        for (block, len) in [
            (32, 1),
            (32, 33),
            (64, 63),
            (64, 129),
            (128, 1001),
            (4096, 4097),
            (64, 2 * CHUNK + 77),
        ] {
            let values = normal(len as u64, len, 0.5);
            let (codes, absmax) = packed(scheme, block, &values);
            assert_eq!(codes.len(), (len * scheme.bits()).div_ceil(8));
            let (mut plain, mut plain_absmax) = (vec![0; codes.len()], vec![0.0; absmax.len()]);
            let size = BlockSize::new(block).unwrap();
            reference::quantise(scheme, size, &values, &mut plain, &mut plain_absmax);
            assert_eq!(
                (&codes, &absmax),
                (&plain, &plain_absmax),
                "{scheme}, {len} in blocks of {block}"
            );
            let back: Vec<f32> = unpacked(scheme, block, &codes, &absmax, len);
            let mut wanted = vec![0.0f32; len];
            reference::dequantise(scheme, size, &codes, &absmax, &mut wanted);
            assert_eq!(back, wanted, "{scheme}, {len} in blocks of {block}");
        }
    }
}

/// Numbers of every size, with zeros, bounds, subnormal products and a block of zeros among them.
fn awkward(len: usize) -> Vec<f32> {
    let mut values = normal(13, len, 1.0);
    for (idx, value) in values.iter_mut().enumerate() {
        *value *= 10f32.powi((idx / 64 % 76) as i32 - 40);
    }
    values[..64].fill(0.0);
    for (value, pair) in values[64..].iter_mut().zip(NF4.windows(2)) {
        *value = f32::midpoint(pair[0], pair[1]);
    }
    (values[80], values[81]) = (1.0, -1.0);
    values
}

/// The first place where `a` and `b` differ, with both numbers.
fn first_difference<T: Copy + PartialEq>(a: &[T], b: &[T]) -> Option<(usize, T, T)> {
    assert_eq!(a.len(), b.len());
    (0..a.len())
        .find(|&idx| a[idx] != b[idx])
        .map(|idx| (idx, a[idx], b[idx]))
}

fn every_path_is_the_plain_one<T: Number + PartialEq + std::fmt::Debug>() {
    let values: Vec<T> = awkward(64 * 200).into_iter().map(T::narrow).collect();
    for &set in InstructionSet::available() {
        for scheme in SCHEMES {
            for block in [32, 64, 128, 256, 4096].map(|block| BlockSize::new(block).unwrap()) {
                let len = values.len() / block.get() * block.get();
                let values = &values[..len];
                let (mut codes, mut absmax) = (vec![0; scheme.num_bytes(len)], vec![0.0; len / block.get()]);
                let (mut plain, mut plain_absmax) = (codes.clone(), absmax.clone());
                quantise_part(set, scheme, block, values, &mut codes, &mut absmax);
                reference::quantise(scheme, block, values, &mut plain, &mut plain_absmax);
                let what = format!("{scheme} in blocks of {} on {set:?}", block.get());
                assert_eq!(first_difference(&absmax, &plain_absmax), None, "{what}");
                assert_eq!(first_difference(&codes, &plain), None, "{what}");
                let mut back = vec![T::narrow(7.0); len];
                let mut wanted = vec![T::narrow(9.0); len];
                dequantise_part(set, scheme, block, &codes, &absmax, &mut back);
                reference::dequantise(scheme, block, &codes, &absmax, &mut wanted);
                let bits = |values: &[T]| values.iter().map(|x| x.widen().to_bits()).collect::<Vec<_>>();
                assert_eq!(first_difference(&bits(&back), &bits(&wanted)), None, "{what}");
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_plain_bits() {
    every_path_is_the_plain_one::<f32>();
    every_path_is_the_plain_one::<bf16>();
}

#[test]
fn the_edges_of_cells_and_bins_are_where_the_plain_path_has_them() {
    // Every edge of the cells and every midpoint, with the numbers around it, in blocks whose absmax is 1 or not.
    let edges = (-1..34).map(|cell| (cell as f32 - levels::Cells::SHIFT) / levels::Cells::SCALE);
    let midpoints = NF4
        .windows(2)
        .chain(INT4.windows(2))
        .map(|pair| f32::midpoint(pair[0], pair[1]));
    let mut near = Vec::new();
    for x in edges.chain(midpoints) {
        let (mut down, mut up) = (x, x);
        for _ in 0..20 {
            near.extend([down, up]);
            (down, up) = (down.next_down(), up.next_up());
        }
    }
    let block = BlockSize::new(32).unwrap();
    for absmax in [1.0f32, 0.3, 1.7e-5, 3.3e20] {
        let values: Vec<f32> = near
            .chunks(31)
            .flat_map(|near| near.iter().copied().chain([1.0]))
            .collect();
        let values: Vec<f32> = values.iter().map(|x| x.clamp(-1.0, 1.0) * absmax).collect();
        let values = &values[..values.len() / 32 * 32];
        for &set in InstructionSet::available() {
            for scheme in [Scheme::Nf4, Scheme::Int4] {
                let (mut codes, mut scales) = (vec![0; values.len() / 2], vec![0.0; values.len() / 32]);
                let (mut plain, mut plain_scales) = (codes.clone(), scales.clone());
                quantise_part(set, scheme, block, values, &mut codes, &mut scales);
                reference::quantise(scheme, block, values, &mut plain, &mut plain_scales);
                assert_eq!(
                    first_difference(&codes, &plain),
                    None,
                    "{set:?}, {scheme}, absmax {absmax}"
                );
            }
        }
    }
    // Both ways of searching are met: FP4's bounds lie too close for cells, and one of int4's on a cell's edge.
    let has_cells = [Scheme::Nf4, Scheme::Fp4, Scheme::Int4].map(|scheme| levels::Levels::of(scheme).cells.is_some());
    assert_eq!(has_cells, [true, false, false]);
}

#[test]
fn a_number_that_is_not_finite_is_refused_with_its_block() {
    for scheme in SCHEMES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in [70, 129] {
                let mut values = normal(1, 130, 1.0);
                values[at] = bad;
                let block = BlockSize::default();
                let (mut codes, mut absmax) = (vec![0; scheme.num_bytes(130)], [0.0; 3]);
                let error = quantise(scheme, block, &values, &mut codes, &mut absmax).unwrap_err();
                assert!(
                    matches!(error, Error::NotFinite { begin } if begin == at / 64 * 64),
                    "{error}"
                );
            }
        }
    }
}

#[test]
fn the_price_of_a_parameter_is_the_formulas() {
    let bits = |scheme: Scheme, block, nested| scheme.bits_per_parameter(BlockSize::new(block).unwrap(), nested);
    // 4 + 32/64, 4 + 8/64 + 32/(64·256), and the same in blocks of 128.
    assert_eq!(bits(Scheme::Nf4, 64, false), 4.5);
    assert!((bits(Scheme::Nf4, 64, true) - 4.126_953).abs() < 1e-6);
    assert_eq!(bits(Scheme::Fp4, 128, false), 4.25);
    assert!((bits(Scheme::Nf4, 128, true) - 4.063_477).abs() < 1e-6);
    let scales = vec![1.0; 64 * 256];
    let nested = DoubleQuant::of(&scales);
    let bytes = Scheme::Nf4.num_bytes(64 * scales.len()) + nested.codes.len() + 4 * nested.absmax.len();
    assert_eq!(
        8.0 * bytes as f64 / (64 * scales.len()) as f64,
        bits(Scheme::Nf4, 64, true)
    );
}

#[test]
fn scales_lose_less_than_a_hundredth_to_the_second_level() {
    let values = normal(17, 64 * 4096, 1.0);
    let (_, absmax) = packed(Scheme::Nf4, 64, &values);
    let nested = DoubleQuant::of(&absmax);
    let back = nested.scales().to_vec();
    for (scale, back) in absmax.iter().zip(&back) {
        assert!((back / scale - 1.0).abs() <= 0.01, "{scale} became {back}");
    }
    // A range of blocks is the same as all of them.
    let mut scratch = [0.0; 600];
    assert_eq!(nested.scales().of(200..800, &mut scratch), &back[200..800]);
}

#[test]
fn the_dynamic_maps_are_ascending_and_found_again() {
    let signed = DynamicMap::signed().levels();
    assert_eq!(
        (signed[0], signed[254], signed[255]),
        (-0.992_968_75, 0.992_968_75, 1.0)
    );
    assert!((signed[128] - 5.5e-7).abs() < 1e-12 && (signed[126] + 5.5e-7).abs() < 1e-12 && signed[127] == 0.0);
    for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
        let levels = map.levels();
        assert!(levels.windows(2).all(|pair| pair[0] < pair[1]));
        for (code, level) in levels.iter().enumerate() {
            assert_eq!(map.code(*level) as usize, code);
        }
        // The table's shortcut against a plain count of the bounds below.
        for x in normal(19, 20_000, 0.4).into_iter().chain(normal(23, 20_000, 1e-5)) {
            let x = x.clamp(-1.0, 1.0);
            let below = levels
                .windows(2)
                .filter(|pair| f32::midpoint(pair[0], pair[1]) < x)
                .count();
            assert_eq!(map.code(x) as usize, below, "{x}");
        }
    }
}

#[test]
fn sizes_that_the_format_does_not_have_are_refused() {
    for size in [0, 16, 48, 8192] {
        let error = BlockSize::new(size).unwrap_err().to_string();
        assert!(error.contains(&format!("found {size}")), "{error}");
    }
}

#[test]
fn a_block_that_holds_nan_comes_back_as_nan() {
    for map in [DynamicMap::signed(), DynamicMap::unsigned()] {
        for len in [1, 100, 256, 300] {
            for at in [0, len / 2, len - 1] {
                let mut values = vec![0.25f32; len];
                values[at] = f32::NAN;
                let (mut codes, mut absmax) = (vec![0u8; len], vec![0.0f32; len.div_ceil(NESTED_BLOCK)]);
                map.quantise(&values, &mut codes, &mut absmax);
                let mut back = vec![0.0f32; len];
                map.dequantise(&codes, &absmax, &mut back);
                let block = at / NESTED_BLOCK;
                for (i, x) in back.iter().enumerate() {
                    assert_eq!(
                        x.is_nan(),
                        i / NESTED_BLOCK == block,
                        "{len} numbers, NaN at {at}: {x} at {i}"
                    );
                }
            }
        }
    }
}
