//! How weights moved: in magnitude and in direction, and whether the two go together.
//!
//! `ΔM = mean |‖w‖ - ‖w₀‖|`, `ΔD = mean (1 - cos(w, w₀))` over rows. Over many matrices and checkpoints, full fine-tuning
//! and DoRA show a falling line of ΔM over ΔD, LoRA a rising one.
//!
//! Source: Liu et al. 2024, arXiv:2402.09353, section 3.2, eq. 2 to 4 and figure 2. Deviation: `1 - cos` is taken as half
//! the squared distance of the unit vectors, in f64, so that small turns keep their digits.

use tch::{Kind, Tensor};

/// Rows that are widened to f64 at a time.
const ROWS: i64 = 1024;

/// How far a matrix moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// ΔM.
    pub magnitude: f64,
    /// ΔD.
    pub direction: f64,
}

/// How far `after` is from `before`, both `[out, in]` on one device; a row of zeros has no direction that could change.
///
/// # Panics
/// If the two differ in shape.
pub fn change(before: &Tensor, after: &Tensor) -> Change {
    assert_eq!(before.size(), after.size(), "one matrix at two times");
    let rows = before.size()[0];
    let (mut magnitude, mut direction) = (0.0, 0.0);
    for first in (0..rows).step_by(ROWS as usize) {
        let part = |matrix: &Tensor| {
            let part = matrix.narrow(0, first, ROWS.min(rows - first)).detach();
            let part = part.to_kind(Kind::Double);
            let norm = part.linalg_norm(2, [1].as_slice(), true, Kind::Double);
            (part / norm.clamp_min(f64::MIN_POSITIVE), norm)
        };
        let ((unit, norm), (moved_unit, moved_norm)) = (part(before), part(after));
        magnitude += (&moved_norm - &norm).abs().sum(Kind::Double).double_value(&[]);
        let both = norm.gt(0.0).logical_and(&moved_norm.gt(0.0)).to_kind(Kind::Double);
        let turned = (moved_unit - unit).square() * both;
        direction += 0.5 * turned.sum(Kind::Double).double_value(&[]);
    }
    let count = rows.max(1) as f64;
    Change {
        magnitude: magnitude / count,
        direction: direction / count,
    }
}

/// The line of least squares through points.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Its slope.
    pub slope: f64,
    /// Its height at 0.
    pub intercept: f64,
    /// Pearson's correlation of the points; 0 where they lie level.
    pub correlation: f64,
}

/// The line of ΔM (y) over ΔD (x); none for fewer than two points, or if all have one x.
pub fn regression(points: &[Change]) -> Option<Line> {
    let count = points.len() as f64;
    let mean = |of: fn(&Change) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.direction), mean(|point| point.magnitude));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for point in points {
        let (dx, dy) = (point.direction - x, point.magnitude - y);
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    if points.len() < 2 || xx <= 0.0 {
        return None;
    }
    let slope = xy / xx;
    Some(Line {
        slope,
        intercept: y - slope * x,
        correlation: if yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(values: &[f32], columns: i64) -> Tensor {
        Tensor::from_slice(values).view([-1, columns])
    }

    #[test]
    fn growing_and_turning_are_told_apart() {
        let before = matrix(&[3.0, 4.0, 1.0, 0.0], 2);
        // Row 0 grows from 5 to 10, row 1 turns by 90 degrees.
        let found = change(&before, &matrix(&[6.0, 8.0, 0.0, 1.0], 2));
        assert!(
            (found.magnitude - 2.5).abs() < 1e-12 && (found.direction - 0.5).abs() < 1e-12,
            "{found:?}"
        );
        assert_eq!(change(&before, &before), Change::default());
    }

    #[test]
    fn a_small_turn_keeps_its_digits() {
        // 1 - cos(φ) = φ²/2 - φ⁴/24 for the turn φ = atan(1e-6).
        let found = change(
            &Tensor::from_slice(&[1.0f64, 0.0]).view([1, 2]),
            &Tensor::from_slice(&[1.0f64, 1e-6]).view([1, 2]),
        );
        assert!((found.direction / 5e-13 - 1.0).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn a_row_of_zeros_moves_in_magnitude_only() {
        let found = change(&matrix(&[0.0, 0.0], 2), &matrix(&[3.0, 4.0], 2));
        assert_eq!(
            found,
            Change {
                magnitude: 5.0,
                direction: 0.0
            }
        );
    }

    #[test]
    fn more_rows_than_are_widened_at_a_time_are_all_met() {
        let before = Tensor::ones([2 * ROWS + 3, 2], (Kind::Float, tch::Device::Cpu));
        let found = change(&before, &(&before * 2.0));
        assert!((found.magnitude - std::f64::consts::SQRT_2).abs() < 1e-6, "{found:?}");
    }

    #[test]
    fn the_line_is_that_of_least_squares() {
        let point = |direction, magnitude| Change { magnitude, direction };
        // By hand: means 2 and 3, Σdx² = 2, Σdxdy = -3, Σdy² = 6.
        let line = regression(&[point(1.0, 5.0), point(2.0, 2.0), point(3.0, 2.0)]).unwrap();
        assert_eq!((line.slope, line.intercept), (-1.5, 6.0));
        assert!((line.correlation + 3.0 / 12f64.sqrt()).abs() < 1e-12, "{line:?}");
        assert_eq!(regression(&[point(1.0, 5.0)]), None);
        assert_eq!(regression(&[point(1.0, 5.0), point(1.0, 6.0)]), None);
    }
}
