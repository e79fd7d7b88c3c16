//! Gauss-Legendre quadrature over panels.

/// Nodes of [-1, 1] above 0 and their weights, with 8 points.
const EIGHT: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_48),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];
/// The node of [-1, 1] above 0 with 3 points; weights are 5/9, and 8/9 in the middle.
const THREE: f64 = 0.774_596_669_241_483_4;

/// Calls `f(x, weight)` for 3 points of [low, high]: exact for polynomials of degree 5.
pub fn three(low: f64, high: f64, mut f: impl FnMut(f64, f64)) {
    let (middle, half) = (0.5 * (low + high), 0.5 * (high - low));
    f(middle - half * THREE, half * 5.0 / 9.0);
    f(middle, half * 8.0 / 9.0);
    f(middle + half * THREE, half * 5.0 / 9.0);
}

/// Calls `f(x, weight)` for 8 points of each panel of [low, high]: exact for polynomials of degree 15 on each. Panels are no
/// wider than `width` says at their beginnings.
pub fn eight(low: f64, high: f64, width: impl Fn(f64) -> f64, mut f: impl FnMut(f64, f64)) {
    let mut begin = low;
    while begin < high {
        let wide = width(begin);
        // A remainder narrower than the rounding of `high` is none.
        let end = if begin + 1.000_001 * wide >= high { high } else { begin + wide };
        let (middle, half) = (0.5 * (begin + end), 0.5 * (end - begin));
        for (node, weight) in EIGHT {
            f(middle - half * node, half * weight);
            f(middle + half * node, half * weight);
        }
        begin = end;
    }
}
