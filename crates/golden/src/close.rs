//! Comparing two tensors, element by element.

use tch::{Kind, Tensor};

/// Panics unless `|ours - theirs| <= relative * |theirs| + absolute` everywhere.
///
/// The message names the element that breaks its bound by the largest factor. Shapes must be
/// equal, dtypes need not; a number that is not finite equals only itself, and NaN nothing.
#[track_caller]
#[expect(clippy::float_cmp, reason = "infinities are only ever equal, never near")]
pub fn assert_close(name: &str, ours: &Tensor, theirs: &Tensor, relative: f64, absolute: f64) {
    assert_eq!(
        ours.size(),
        theirs.size(),
        "`{name}`: our shape (left) is not theirs (right)"
    );
    let flat = |tensor: &Tensor| -> Vec<f64> {
        let values = tensor.detach().to_kind(Kind::Double).flatten(0, -1).contiguous();
        Vec::try_from(values).expect("a flat tensor of f64 is a Vec<f64>")
    };
    let (ours_flat, theirs_flat) = (flat(ours), flat(theirs));
    let mut worst: Option<(usize, f64)> = None;
    let mut too_far = 0;
    for (index, (&ours, &theirs)) in ours_flat.iter().zip(&theirs_flat).enumerate() {
        let (distance, allowed) = ((ours - theirs).abs(), relative * theirs.abs() + absolute);
        if ours == theirs || (theirs.is_finite() && distance <= allowed) {
            continue;
        }
        too_far += 1;
        let factor = distance / allowed;
        let factor = if factor.is_nan() { f64::INFINITY } else { factor };
        if worst.is_none_or(|(_, most)| factor > most) {
            worst = Some((index, factor));
        }
    }
    if let Some((index, factor)) = worst {
        let (ours, theirs, shape, total) = (ours_flat[index], theirs_flat[index], ours.size(), ours_flat.len());
        panic!(
            "`{name}`: {too_far} of {total} elements are too far; worst at {:?} of {shape:?}: ours {ours:e}, \
             theirs {theirs:e}, apart {:e}, {factor:.1} times what {relative:e} relative and {absolute:e} absolute allow",
            place(index, &shape),
            (ours - theirs).abs(),
        );
    }
}

/// The coordinates of the element that lies `index` elements behind the first.
fn place(index: usize, shape: &[i64]) -> Vec<usize> {
    let mut rest = index;
    let mut coordinates: Vec<usize> = shape
        .iter()
        .rev()
        .map(|&size| {
            let here = rest % size as usize;
            rest /= size as usize;
            here
        })
        .collect();
    coordinates.reverse();
    coordinates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: [f64; 6]) -> Tensor {
        Tensor::from_slice(&values).reshape([2, 3])
    }

    #[test]
    fn equal_and_nearly_equal_pass_across_dtypes() {
        let theirs = matrix([1.0, -2.0, 3.0, 0.0, f64::INFINITY, f64::NEG_INFINITY]);
        assert_close("equal", &theirs, &theirs, 0.0, 0.0);
        assert_close("rounded", &theirs.to_kind(Kind::Float), &theirs, 1e-6, 0.0);
        assert_close(
            "near",
            &matrix([1.0, 1.0, 1.0, 1.0, 1.0, 1.01]),
            &matrix([1.0; 6]),
            0.005,
            0.006,
        );
        assert_close(
            "empty",
            &Tensor::zeros([0, 3], (Kind::Float, tch::Device::Cpu)),
            &matrix([0.0; 6]).narrow(0, 0, 0),
            0.0,
            0.0,
        );
    }

    #[test]
    #[should_panic(
        expected = "`far`: 2 of 6 elements are too far; worst at [1, 2] of [2, 3]: ours 1e0, theirs 1.5e0, apart 5e-1"
    )]
    fn the_worst_element_is_named() {
        assert_close(
            "far",
            &matrix([1.0, 1.1, 1.0, 1.0, 1.0, 1.0]),
            &matrix([1.0, 1.0, 1.0, 1.0, 1.0, 1.5]),
            1e-3,
            1e-3,
        );
    }

    #[test]
    #[should_panic(expected = "worst at [0, 1]")]
    fn our_nan_is_worst_of_all() {
        assert_close(
            "nan",
            &matrix([9.0, f64::NAN, 0.0, 0.0, 0.0, 0.0]),
            &matrix([0.0; 6]),
            1.0,
            1.0,
        );
    }

    #[test]
    #[should_panic(expected = "worst at [0, 1]")]
    fn a_number_is_not_infinity_whatever_the_tolerance() {
        assert_close(
            "infinite",
            &matrix([0.0; 6]),
            &matrix([0.0, f64::INFINITY, 0.0, 0.0, 0.0, 0.0]),
            1.0,
            1.0,
        );
    }

    #[test]
    #[should_panic(expected = "our shape (left) is not theirs (right)")]
    fn another_shape_with_as_many_elements_is_refused() {
        assert_close("shape", &matrix([0.0; 6]), &matrix([0.0; 6]).transpose(0, 1), 1.0, 1.0);
    }
}
