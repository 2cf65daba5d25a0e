//! Robust smoothing of a value over time.

/// Points to either side that a fit looks at, at most: it bounds the work for frames that lie very close in time.
const MAX_NEIGHBOURS: usize = 256;
/// Weights beyond this many bandwidths are left out; there the kernel is under 0.012.
const SUPPORT_BANDWIDTHS: f64 = 3.0;
/// Rounds of down-weighting outliers, as in Cleveland's paper.
const ROBUST_ROUNDS: usize = 3;

/// Robust local linear regression (LOWESS: Cleveland 1979, with a Gaussian kernel of fixed width): at each time the value of
/// a straight line fitted to its neighbours, in which outliers count little. A line stays a line, at the ends too; and
/// nothing lags. The first guess, from which outliers are told, is a local median.
///
/// `times_s` rise; `values` and `weights` (0 = unknown, otherwise relative trust) go with them. Values of weight 0 are not
/// looked at. Where nothing is known nearby, the last known result is held.
///
/// # Panics
/// When the lengths differ.
pub fn lowess(times_s: &[f64], values: &[f64], weights: &[f64], bandwidth_s: f64) -> Vec<f64> {
    assert!(times_s.len() == values.len() && values.len() == weights.len(), "one value and one weight for each time");
    let known: Vec<usize> = (0..values.len()).filter(|&k| weights[k] > 0.0).collect();
    let mut smooth = local_fits(times_s, values, weights, bandwidth_s, local_median);
    for _ in 0..ROBUST_ROUNDS {
        let residual = |k: usize| (values[k] - smooth[k]).abs();
        // 6 x the median residual is where the bisquare weight ends
        let reach = 6.0 * median(&mut known.iter().map(|&k| residual(k)).collect::<Vec<_>>());
        // residuals under rounding tell no outlier from the rest, and must not leave a window without weight
        let bisquare = |k: usize| (1.0 - (residual(k) / reach.max(1e-9)).powi(2)).max(0.0).powi(2);
        let mut robust = vec![0.0; weights.len()];
        known.iter().for_each(|&k| robust[k] = weights[k] * bisquare(k));
        smooth = local_fits(times_s, values, &robust, bandwidth_s, local_line);
    }
    smooth
}

/// The median; NaN of nothing. Reorders its input.
pub fn median(values: &mut [f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which the share `q` (0..=1) of the values lies, interpolated; NaN of nothing. Reorders its input.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    if values.is_empty() {
        return f64::NAN;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = q.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let (below, above) = (values[at.floor() as usize], values[at.ceil() as usize]);
    below + (at - at.floor()) * (above - below)
}

/// The value at which half of the weight lies to either side, for (value, weight) pairs; NaN when no weight is above 0.
/// Reorders its input.
pub fn weighted_median(pairs: &mut [(f64, f64)]) -> f64 {
    pairs.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let half = pairs.iter().map(|p| p.1).sum::<f64>() / 2.0;
    let mut below = 0.0;
    for (i, &(value, weight)) in pairs.iter().enumerate() {
        below += weight;
        if below > half {
            return value;
        }
        // exactly half: the middle of this and the next value that counts
        if below == half && weight > 0.0 {
            let next = pairs[i + 1..].iter().find(|p| p.1 > 0.0);
            return next.map_or(value, |p| (value + p.0) / 2.0);
        }
    }
    f64::NAN
}

/// One neighbour: its time from the place of the fit in bandwidths, its value, its weight.
type Neighbour = (f64, f64, f64);

/// At each time what `fit` makes of the neighbours, kernel included; where it makes nothing, the result before is held.
fn local_fits(times_s: &[f64], values: &[f64], weights: &[f64], bandwidth_s: f64, fit: fn(&[Neighbour]) -> Option<f64>) -> Vec<f64> {
    let n = times_s.len();
    let mut neighbours = Vec::new();
    let mut fits: Vec<Option<f64>> = Vec::with_capacity(n);
    for i in 0..n {
        let distance = |k: usize| (times_s[k] - times_s[i]) / bandwidth_s;
        let near = |k: &usize| distance(*k).abs() <= SUPPORT_BANDWIDTHS;
        let before = (i.saturating_sub(MAX_NEIGHBOURS)..i).rev().take_while(near);
        let after = (i..n.min(i + MAX_NEIGHBOURS + 1)).take_while(near);
        let kernel = |k: usize| weights[k] * (-0.5 * distance(k).powi(2)).exp();
        neighbours.clear();
        neighbours.extend(before.chain(after).filter(|&k| weights[k] > 0.0).map(|k| (distance(k), values[k], kernel(k))));
        fits.push(fit(&neighbours));
    }
    let mut held = fits.iter().copied().flatten().next().unwrap_or(f64::NAN);
    let hold = |fit: Option<f64>| {
        held = fit.unwrap_or(held);
        held
    };
    fits.into_iter().map(hold).collect()
}

fn local_median(neighbours: &[Neighbour]) -> Option<f64> {
    let median = weighted_median(&mut neighbours.iter().map(|&(_, value, weight)| (value, weight)).collect::<Vec<_>>());
    (!median.is_nan()).then_some(median)
}

/// Value at distance 0 of the weighted least-squares line; of the weighted mean where all neighbours have one time.
fn local_line(neighbours: &[Neighbour]) -> Option<f64> {
    let (mut s0, mut s1, mut s2, mut v0, mut v1) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(distance, value, weight) in neighbours {
        s0 += weight;
        s1 += weight * distance;
        s2 += weight * distance * distance;
        v0 += weight * value;
        v1 += weight * distance * value;
    }
    let determinant = s0 * s2 - s1 * s1;
    if determinant > 1e-6 * s0 * s0 { Some((s2 * v0 - s1 * v1) / determinant) } else { (s0 > 0.0).then(|| v0 / s0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_a_line_and_outliers_do_not_count() {
        let times_s: Vec<f64> = (0..200).map(|i| i as f64 / 50.0).collect();
        let line = |t: f64| 3.0 + 1.5 * t;
        let mut values: Vec<f64> = times_s.iter().enumerate().map(|(i, &t)| line(t) + 0.01 * (i as f64 * 2.1).sin()).collect();
        for i in [20, 21, 22, 90, 150] {
            values[i] = 50.0;
        }
        let smooth = lowess(&times_s, &values, &[1.0; 200], 0.25);
        for (s, &t) in smooth.iter().zip(&times_s) {
            assert!((s - line(t)).abs() < 0.02, "{s} at {t}");
        }
    }

    #[test]
    fn unknown_stretches_are_held() {
        let times_s: Vec<f64> = (0..10).map(f64::from).collect();
        let mut weights = [1.0; 10];
        weights[..2].fill(0.0);
        weights[7..].fill(0.0);
        let smooth = lowess(&times_s, &[4.0; 10], &weights, 0.1);
        assert_eq!(smooth, [4.0; 10]);
        assert!(lowess(&[], &[], &[], 1.0).is_empty());
        assert_eq!(lowess(&[1.0], &[7.0], &[1.0], 1.0), [7.0]);
        assert!(lowess(&[1.0], &[7.0], &[0.0], 1.0)[0].is_nan());
    }

    #[test]
    fn medians() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0]), 2.5);
        assert!(median(&mut []).is_nan());
        assert_eq!(quantile(&mut [0.0, 10.0, 20.0], 0.25), 5.0);
        assert_eq!(weighted_median(&mut [(1.0, 1.0), (2.0, 1.0), (9.0, 10.0)]), 9.0);
        assert_eq!(weighted_median(&mut [(1.0, 1.0), (3.0, 1.0)]), 2.0);
        assert_eq!(weighted_median(&mut [(5.0, 0.0), (3.0, 1.0)]), 3.0);
        assert!(weighted_median(&mut [(5.0, 0.0)]).is_nan());
    }
}
