//! The linear assignment problem: each row its own column, so that the sum is largest.
//!
//! Source: Jonker and Volgenant 1987, doi:10.1007/BF02278710: shortest augmenting paths with potentials, O(n³).

/// For each row of an `n × n` matrix of gains (row by row) its column, the sum of gains being the largest possible.
pub(crate) fn assign(gains: &[f64], n: usize) -> Vec<usize> {
    // Columns are counted from 1; column 0 and row 0 stand for "none", as the method's texts have it.
    let cost = |row: usize, column: usize| -gains[(row - 1) * n + column - 1];
    let (mut rows, mut columns) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut row_of = vec![0usize; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let mut column = 0;
        let (mut least, mut from, mut done) = (vec![f64::INFINITY; n + 1], vec![0usize; n + 1], vec![false; n + 1]);
        while row_of[column] != 0 {
            done[column] = true;
            let here = row_of[column];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for to in (1..=n).filter(|&to| !done[to]) {
                let reduced = cost(here, to) - rows[here] - columns[to];
                if reduced < least[to] {
                    (least[to], from[to]) = (reduced, column);
                }
                if least[to] < step {
                    (step, next) = (least[to], to);
                }
            }
            for (to, &is_done) in done.iter().enumerate() {
                if is_done {
                    rows[row_of[to]] += step;
                    columns[to] -= step;
                } else {
                    least[to] -= step;
                }
            }
            column = next;
        }
        while column != 0 {
            let before = from[column];
            row_of[column] = row_of[before];
            column = before;
        }
    }
    let mut assigned = vec![0; n];
    for (column, &row) in row_of.iter().enumerate().skip(1) {
        assigned[row - 1] = column - 1;
    }
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The best sum over all permutations.
    fn brute(gains: &[f64], n: usize, row: usize, used: usize) -> f64 {
        if row == n {
            return 0.0;
        }
        (0..n)
            .filter(|column| used & (1 << column) == 0)
            .map(|column| gains[row * n + column] + brute(gains, n, row + 1, used | (1 << column)))
            .fold(f64::NEG_INFINITY, f64::max)
    }

    #[test]
    fn the_sum_is_the_largest_of_all_permutations() {
        for n in 1..=7 {
            for seed in 0..20 {
                let gains: Vec<f64> = (0..n * n).map(|i| ((i * i + 7 * seed) as f64 * 0.37).sin()).collect();
                let assigned = assign(&gains, n);
                let mut columns = assigned.clone();
                columns.sort_unstable();
                assert!(columns.into_iter().eq(0..n), "{assigned:?} is no permutation");
                let sum: f64 = assigned
                    .iter()
                    .enumerate()
                    .map(|(row, column)| gains[row * n + column])
                    .sum();
                assert!((sum - brute(&gains, n, 0, 0)).abs() < 1e-9, "n {n}, seed {seed}");
            }
        }
    }
}
