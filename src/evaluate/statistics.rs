//! Distances between sets of feature vectors: pure f64 maths, no device.
//!
//! A set is a list of vectors of one length.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use crate::random::Random;

/// Feature vectors.
pub type Features = [Vec<f64>];

/// Mean, and the standard error of the mean; the latter is 0 of fewer than two values.
pub fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0) / count).sqrt())
}

/// Mean and covariance (with count - 1) of the vectors of `set` that `chosen` lists.
fn moments(set: &Features, chosen: &[usize]) -> (DVector<f64>, DMatrix<f64>) {
    let dimensions = set[0].len();
    let mut mean = DVector::zeros(dimensions);
    chosen.iter().for_each(|index| mean += DVector::from_column_slice(&set[*index]));
    mean /= chosen.len() as f64;
    let centred = DMatrix::from_fn(dimensions, chosen.len(), |row, column| set[chosen[column]][row] - mean[row]);
    let covariance = &centred * centred.transpose() / (chosen.len() as f64 - 1.0).max(1.0);
    (mean, covariance)
}

/// The square root of a symmetric matrix that has no eigenvalue below 0 but for rounding.
fn square_root(matrix: DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(matrix);
    let roots = DMatrix::from_diagonal(&eigenvalues.map(|value| value.max(0.0).sqrt()));
    &eigenvectors * roots * eigenvectors.transpose()
}

/// Coordinates in which a reference set has mean 0 and covariance 1. Classifiers that differ by a linear map of their
/// features measure alike in them, and what tells the classes apart, nearly all of the variance, doesn't drown the rest.
pub struct Whitening {
    mean: DVector<f64>,
    inverse_root: DMatrix<f64>,
}

/// Directions of less than this share of the largest variance count as if they had it.
const LEAST_VARIANCE: f64 = 1e-6;

impl Whitening {
    /// The coordinates of a set of at least one vector.
    pub fn of(reference: &Features) -> Whitening {
        let (mean, covariance) = moments(reference, &all(reference));
        let SymmetricEigen { eigenvectors, eigenvalues } = SymmetricEigen::new(covariance);
        let least = (LEAST_VARIANCE * eigenvalues.max()).max(f64::MIN_POSITIVE);
        let roots = DMatrix::from_diagonal(&eigenvalues.map(|value| 1.0 / value.max(least).sqrt()));
        Whitening { mean, inverse_root: &eigenvectors * roots * eigenvectors.transpose() }
    }

    /// A set in these coordinates.
    pub fn apply(&self, set: &Features) -> Vec<Vec<f64>> {
        let map = |x: &Vec<f64>| &self.inverse_root * (DVector::from_column_slice(x) - &self.mean);
        set.iter().map(|x| map(x).as_slice().to_vec()).collect()
    }
}

/// The squared Fréchet distance of two Gaussians: |m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Dowson & Landau 1982).
/// C1 C2 has the eigenvalues of the symmetric C1^(1/2) C2 C1^(1/2), whose roots are summed.
fn gaussian_distance(a: &(DVector<f64>, DMatrix<f64>), b: &(DVector<f64>, DMatrix<f64>)) -> f64 {
    let root = square_root(a.1.clone());
    let product = &root * &b.1 * &root;
    let symmetric = (&product + product.transpose()) * 0.5;
    let cross: f64 = symmetric.symmetric_eigenvalues().iter().map(|value| value.max(0.0).sqrt()).sum();
    (&a.0 - &b.0).norm_squared() + a.1.trace() + b.1.trace() - 2.0 * cross
}

fn all(set: &Features) -> Vec<usize> {
    (0..set.len()).collect()
}

/// The squared Fréchet distance of the Gaussians that fit two sets (Heusel et al. 2017, eq. 6).
pub fn frechet_distance(a: &Features, b: &Features) -> f64 {
    gaussian_distance(&moments(a, &all(a)), &moments(b, &all(b)))
}

/// A figure with the half-width of its 95 % interval.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Measured {
    pub value: f64,
    /// 1.96 standard deviations of the figure over resampled sets (Efron 1979). Not the quantiles: a set with repeated
    /// vectors is further from any other, so that those are off centre.
    pub margin: f64,
}

/// Resamplings of a bootstrap.
const RESAMPLINGS: usize = 100;

/// `figure` over both sets, and over both resampled with replacement.
fn bootstrap(sizes: [usize; 2], seed: u64, figure: impl Fn([&[usize]; 2]) -> f64) -> Measured {
    let mut random = Random::new(seed);
    let whole = sizes.map(|size| (0..size).collect::<Vec<_>>());
    let value = figure([&whole[0], &whole[1]]);
    let resampled: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            let drawn = sizes.map(|size| (0..size).map(|_| (random.bits() % size as u64) as usize).collect::<Vec<_>>());
            figure([&drawn[0], &drawn[1]])
        })
        .collect();
    let (_, error) = mean_and_error(&resampled);
    Measured { value, margin: 1.96 * error * (RESAMPLINGS as f64).sqrt() }
}

/// [`frechet_distance`] with its interval.
pub fn frechet(a: &Features, b: &Features, seed: u64) -> Measured {
    bootstrap([a.len(), b.len()], seed, |[i, j]| gaussian_distance(&moments(a, i), &moments(b, j)))
}

/// (x·y / d + 1)³, the kernel of Bińkowski et al. 2018, section 4.
fn kernel(x: &[f64], y: &[f64]) -> f64 {
    let product: f64 = x.iter().zip(y).map(|(x, y)| x * y).sum();
    (product / x.len() as f64 + 1.0).powi(3)
}

fn kernels(a: &Features, b: &Features) -> Vec<Vec<f64>> {
    a.iter().map(|x| b.iter().map(|y| kernel(x, y)).collect()).collect()
}

/// The squared maximum mean discrepancy with a polynomial kernel, unbiased: it may be below 0 (Gretton et al. 2012, eq.
/// 3; Bińkowski et al. 2018 call it the kernel distance). Pairs of a vector with itself are left out, in resampled sets
/// as well.
pub fn kernel_distance(a: &Features, b: &Features, seed: u64) -> Measured {
    let (within_a, within_b, between) = (kernels(a, a), kernels(b, b), kernels(a, b));
    let within = |kernels: &[Vec<f64>], chosen: &[usize]| {
        let times = counts(chosen, kernels.len());
        let mut sum = 0.0;
        for (i, row) in kernels.iter().enumerate().filter(|(i, _)| times[*i] > 0.0) {
            let others: f64 = row.iter().zip(&times).map(|(value, times)| value * times).sum();
            sum += times[i] * (others - times[i] * row[i]);
        }
        let total: f64 = times.iter().sum();
        sum / (total * total - times.iter().map(|times| times * times).sum::<f64>())
    };
    bootstrap([a.len(), b.len()], seed, |[i, j]| {
        let (times_a, times_b) = (counts(i, a.len()), counts(j, b.len()));
        let row_sum = |row: &Vec<f64>| row.iter().zip(&times_b).map(|(value, times)| value * times).sum::<f64>();
        let cross: f64 = between.iter().zip(&times_a).filter(|(_, t)| **t > 0.0).map(|(row, t)| t * row_sum(row)).sum();
        within(&within_a, i) + within(&within_b, j) - 2.0 * cross / (i.len() as f64 * j.len() as f64)
    })
}

/// How often each of `size` indices was drawn.
fn counts(chosen: &[usize], size: usize) -> Vec<f64> {
    let mut counts = vec![0.0; size];
    chosen.iter().for_each(|index| counts[*index] += 1.0);
    counts
}

/// The distance, not squared.
pub fn distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum::<f64>().sqrt()
}

/// The distance of each vector to its k-th nearest among the others of its set.
fn radii(set: &Features, k: usize) -> Vec<f64> {
    let radius = |i: usize| {
        let mut others: Vec<f64> = (0..set.len()).filter(|j| *j != i).map(|j| distance(&set[i], &set[j])).collect();
        let place = k.min(others.len()) - 1;
        *others.select_nth_unstable_by(place, f64::total_cmp).1
    };
    (0..set.len()).map(radius).collect()
}

/// Neighbours that make a manifold (Kynkäänniemi et al. 2019, section 3.1).
pub const NEIGHBOURS: usize = 3;

/// The share of `of` that lies within the manifold of `manifold`: within some vector's distance to its third neighbour
/// (Kynkäänniemi et al. 2019, eq. 1 to 3). Samples in the manifold of real images are precision, the other way round
/// recall. The interval is that of a share of independent vectors; both sets need four.
pub fn coverage(of: &Features, manifold: &Features, seed: u64) -> Measured {
    let radii = radii(manifold, NEIGHBOURS);
    let inside = |x: &Vec<f64>| manifold.iter().zip(&radii).any(|(y, radius)| distance(x, y) <= *radius);
    let inside: Vec<f64> = of.iter().map(|x| if inside(x) { 1.0 } else { 0.0 }).collect();
    bootstrap([of.len(), 1], seed, |[i, _]| i.iter().map(|index| inside[*index]).sum::<f64>() / i.len() as f64)
}

/// The nearest of `candidates` to `x`, by index, and its distance; `except` is left out.
pub fn nearest(x: &[f64], candidates: &Features, except: Option<usize>) -> (usize, f64) {
    let others = candidates.iter().enumerate().filter(|(index, _)| Some(*index) != except);
    let distances = others.map(|(index, candidate)| (index, distance(x, candidate)));
    distances.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY))
}

/// The value below which a share of `values` lies.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share * (sorted.len() as f64 - 1.0);
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] * (1.0 - part) + sorted[high] * part
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` normal vectors with these means and deviations.
    fn normals(count: usize, moments: &[(f64, f64)], seed: u64) -> Vec<Vec<f64>> {
        let mut random = Random::new(seed);
        (0..count).map(|_| moments.iter().map(|(m, s)| m + s * random.normal()).collect()).collect()
    }

    /// Vectors whose mean and covariance are exactly what is asked: m ± sqrt((2 d - 1) / 2) s along each axis.
    fn exact(moments: &[(f64, f64)]) -> Vec<Vec<f64>> {
        let count = 2 * moments.len();
        let reach = ((count as f64 - 1.0) / 2.0).sqrt();
        let mean: Vec<f64> = moments.iter().map(|(m, _)| *m).collect();
        let point = |index: usize| {
            let mut point = mean.clone();
            let sign = if index.is_multiple_of(2) { 1.0 } else { -1.0 };
            point[index / 2] += sign * reach * moments[index / 2].1;
            point
        };
        (0..count).map(point).collect()
    }

    #[test]
    fn whitened_figures_do_not_depend_on_a_linear_map() {
        let reference = normals(400, &[(3.0, 10.0), (-1.0, 0.1), (0.0, 2.0)], 1);
        let set = normals(300, &[(4.0, 9.0), (-1.1, 0.3), (0.5, 2.0)], 2);
        let map = |set: &Features| -> Vec<Vec<f64>> {
            set.iter().map(|x| vec![x[0] + 5.0 * x[1], 2.0 - x[1] + 0.1 * x[2], 3.0 * x[2] - x[0]]).collect()
        };
        let distance = |set: &Features, reference: &Features| {
            let whitening = Whitening::of(reference);
            let (mean, covariance) = moments(&whitening.apply(reference), &all(reference));
            assert!(mean.norm() < 1e-9 && (covariance - DMatrix::identity(3, 3)).norm() < 1e-9);
            frechet_distance(&whitening.apply(set), &whitening.apply(reference))
        };
        let (plain, mapped) = (distance(&set, &reference), distance(&map(&set), &map(&reference)));
        assert!((plain - mapped).abs() < 1e-6 * plain, "{plain} and {mapped}");
        // Of a variance that is three times too large in one direction most is left: (3 - 1)² and what the others add.
        assert!((4.0..6.5).contains(&plain), "{plain}");
        // A direction without variance measures nothing but stays finite.
        let flat = normals(50, &[(0.0, 1.0), (2.0, 0.0)], 3);
        assert!(Whitening::of(&flat).apply(&flat).iter().flatten().all(|value| value.is_finite()));
    }

    #[test]
    fn the_frechet_distance_of_gaussians_is_the_known_one() {
        // Diagonal covariances: |m1 - m2|² + sum (s1 - s2)².
        let a: [(f64, f64); 3] = [(0.0, 1.0), (2.0, 0.5), (1.0, 0.1)];
        let b = [(1.0, 3.0), (2.0, 0.25), (-1.0, 0.0)];
        let known: f64 = a.iter().zip(&b).map(|((m, s), (n, t))| (m - n).powi(2) + (s - t).powi(2)).sum();
        assert!((frechet_distance(&exact(&a), &exact(&b)) - known).abs() < 1e-9);
        assert!((frechet_distance(&exact(&b), &exact(&a)) - known).abs() < 1e-6);
        assert!(frechet_distance(&exact(&a), &exact(&a)).abs() < 1e-9);
        // Covariances that don't commute: [[2, 1], [1, 2]] and diag(1, 9). (C1 C2)^(1/2) of 2x2 has the trace
        // sqrt(tr C1 C2 + 2 sqrt(det C1 det C2)) = sqrt(20 + 2 sqrt(27)).
        let turned = |points: Vec<Vec<f64>>| -> Vec<Vec<f64>> {
            let c = 0.5f64.sqrt();
            points.iter().map(|p| vec![c * (p[0] - p[1]), c * (p[0] + p[1])]).collect()
        };
        let one = turned(exact(&[(0.0, 3f64.sqrt()), (0.0, 1.0)]));
        let other = exact(&[(0.0, 1.0), (0.0, 3.0)]);
        let known = 4.0 + 10.0 - 2.0 * (20.0 + 2.0 * 27f64.sqrt()).sqrt();
        assert!((frechet_distance(&one, &other) - known).abs() < 1e-9);
    }

    #[test]
    fn intervals_hold_what_they_should() {
        let (p, q) = ([(0.0, 1.0), (0.0, 1.0)], [(1.0, 1.0), (0.0, 1.0)]);
        let measured: Vec<Measured> =
            (0..20).map(|seed| frechet(&normals(300, &p, 2 * seed), &normals(300, &q, 2 * seed + 1), seed)).collect();
        let hits = measured.iter().filter(|m| (m.value - 1.0).abs() < m.margin).count();
        assert!(hits >= 15, "{hits} of 20 intervals hold the distance 1");
        assert!(measured.iter().all(|m| m.margin > 0.1 && m.margin < 1.0), "{measured:?}");
    }

    #[test]
    fn the_kernel_distance_is_unbiased() {
        let same = [(0.5, 1.0), (0.0, 2.0)];
        let values: Vec<f64> = (0..30)
            .map(|seed| kernel_distance(&normals(60, &same, 2 * seed), &normals(50, &same, 2 * seed + 1), seed).value)
            .collect();
        let (mean, error) = mean_and_error(&values);
        assert!(mean.abs() < 3.0 * error && values.iter().any(|value| *value < 0.0), "{mean} +- {error}");
        // E k(x, y) of independent normals in one dimension: (xy + 1)³ has the mean 1 + 3 E x² E y² = 1 + 3 s² t² with
        // means 0; so MMD² of N(0, 1) and N(0, 4) is 4 + 49 - 2 · 13 = 27.
        let values: Vec<f64> = (0..100)
            .map(|seed| {
                let (a, b) = (normals(200, &[(0.0, 1.0)], 2 * seed), normals(200, &[(0.0, 2.0)], 2 * seed + 1));
                kernel_distance(&a, &b, seed).value
            })
            .collect();
        let (mean, error) = mean_and_error(&values);
        assert!((mean - 27.0).abs() < 3.5 * error && error < 2.0, "{mean} +- {error}");
    }

    #[test]
    fn resampled_pairs_of_one_vector_with_itself_do_not_count() {
        let set = normals(40, &[(0.0, 1.0)], 3);
        let measured = kernel_distance(&set, &normals(40, &[(0.0, 1.0)], 4), 1);
        assert!(measured.margin > 0.0 && measured.margin < 10.0, "{measured:?}");
    }

    #[test]
    fn coverage_of_toy_sets_is_the_known_one() {
        let line = |from: i32, to: i32| -> Vec<Vec<f64>> { (from..to).map(|x| vec![x as f64]).collect() };
        // Each point of 0..10 reaches 2 or 3 to either side.
        assert_eq!(coverage(&line(0, 10), &line(0, 10), 1).value, 1.0);
        assert_eq!(coverage(&line(100, 110), &line(0, 10), 1).value, 0.0);
        // The last point, 9, reaches to 12.
        assert_eq!(coverage(&line(5, 15), &line(0, 10), 1).value, 0.8);
        assert_eq!(coverage(&line(-4, 0), &line(0, 10), 1).value, 0.75);
        // One mode of two: all that is drawn is real, half of what is real is drawn.
        let real: Vec<_> = line(0, 10).into_iter().chain(line(100, 110)).collect();
        assert_eq!((coverage(&line(0, 10), &real, 1).value, coverage(&real, &line(0, 10), 1).value), (1.0, 0.5));
        let share = coverage(&real, &line(0, 10), 1).margin;
        assert!((share - 1.96 * (0.25f64 / 20.0).sqrt()).abs() < 0.05, "{share}");
    }

    #[test]
    fn neighbours_and_quantiles() {
        let set = vec![vec![0.0, 0.0], vec![3.0, 4.0], vec![6.0, 8.0]];
        assert_eq!(nearest(&[3.0, 3.0], &set, None), (1, 1.0));
        assert_eq!(nearest(&set[1].clone(), &set, Some(1)), (0, 5.0));
        assert_eq!((quantile(&[3.0, 1.0, 2.0], 0.5), quantile(&[0.0, 1.0], 0.25)), (2.0, 0.25));
    }
}
