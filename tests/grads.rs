//! The twins' backward passes against f64 central differences of <y, dy> with random dy.

use std::sync::Arc;

use diffuse::gpu::kernel::Need;
use diffuse::gpu::{Choices, Device, Precision, Tensor};
use diffuse::ops::case::{Case, Gradient};
use diffuse::ops::{self, Op, Which};

const CASES: u64 = 10;
const TOLERANCE: f64 = 1e-6;
/// Of a case: each direction is 5 passes through the twins.
const MOST_FLOPS: u64 = 10_000_000;

/// <y, dy> after `input` was replaced by `values`.
fn inner_product(case: &Case, gradient: &Gradient, values: Vec<f64>) -> f64 {
    let mut state = case.state();
    state.write(&case.recording, gradient.input, values);
    case.recording.run_cpu(&mut state, &case.step);
    let y = state.read(&case.recording, gradient.y);
    let dy = state.read(&case.recording, gradient.dy);
    y.iter().zip(&dy).map(|(y, dy)| y * dy).sum()
}

/// Checks the derivative along `direction`: central differences with Richardson's extrapolation.
fn check(op: &Op, which: Which, case: &Case, gradient: &Gradient, direction: &[f64]) {
    let mut state = case.state();
    let base = state.read(&case.recording, gradient.input);
    case.recording.run_cpu(&mut state, &case.step);
    let claimed = state.read(&case.recording, gradient.gradient);
    let analytic: f64 = claimed.iter().zip(direction).map(|(g, d)| g * d).sum();
    let moved = |h: f64| inner_product(case, gradient, base.iter().zip(direction).map(|(b, d)| b + h * d).collect());
    let central = |h: f64| (moved(h) - moved(-h)) / (2.0 * h);
    let h = 1e-3;
    let numeric = (4.0 * central(h / 2.0) - central(h)) / 3.0;
    let size: f64 = claimed.iter().zip(direction).map(|(g, d)| (g * d).abs()).sum();
    let error = (analytic - numeric).abs() / (size + 1e-3);
    assert!(error < TOLERANCE, "{}: gradient {analytic} against {numeric}, error {error:e}", op.name(which));
}

/// Zero in the padding of the tensor, and of the third axis of a weight, whose values are zero there.
fn mask(tensor: Tensor, base: &[f64], direction: &mut [f64]) {
    let stride = tensor.channels4() as usize * 4;
    for (direction, base) in direction.chunks_exact_mut(stride).zip(base.chunks_exact(stride)) {
        let padding = base.iter().all(|v| *v == 0.0);
        for (c, d) in direction.iter_mut().enumerate() {
            if padding || c >= tensor.channels() as usize {
                *d = 0.0;
            }
        }
    }
}

/// The corners that differences take no time over, and random cases.
fn cases(op: &Op, choices: &Arc<Choices>) -> Vec<Which> {
    let corners = (0..op.corners.len()).map(Which::Corner);
    let small = corners.filter(|which| Case::new(op, *which, choices).recording.flops() < MOST_FLOPS);
    small.chain((0..CASES).map(Which::Random)).collect()
}

/// One way for each list of twins that the variants of a kernel have.
fn ways_with_twins_of_their_own(op: &Op) -> Vec<Arc<Choices>> {
    let needs = vec![Need::Subgroups, Need::Matrices8, Need::Matrices16];
    let device = Device { gpu: true, subgroup: 64, needs, ..Device::default() };
    let (mut seen, mut all) = (vec![op.kernel.twins.as_ptr()], vec![Arc::default()]);
    for (index, candidate) in op.ways.iter().flat_map(|ways| ways.candidates.iter().enumerate()) {
        if !seen.contains(&candidate.kernel.twins.as_ptr()) {
            seen.push(candidate.kernel.twins.as_ptr());
            all.push(Arc::new(Choices::forced(&device, Precision::F32, index)));
        }
    }
    all
}

#[test]
fn twins_have_the_gradients_that_differences_show() {
    let mut checked = 0;
    for (op, choices) in
        ops::ALL.iter().flat_map(|op| ways_with_twins_of_their_own(op).into_iter().map(move |c| (op, c)))
    {
        for (number, which) in cases(op, &choices).into_iter().enumerate() {
            let case = Case::new(op, which, &choices);
            for gradient in &case.gradients {
                let base = case.state().read(&case.recording, gradient.input);
                for probe in 0..3u64 {
                    let mut noise = (number as u64 + 1) * 7919 + probe * 104_729;
                    let mut direction: Vec<f64> = base
                        .iter()
                        .map(|_| {
                            noise =
                                noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                            ((noise >> 33) as f64 / (1u64 << 31) as f64) * 2.0 - 1.0
                        })
                        .collect();
                    if probe == 2 {
                        // One coordinate alone: an error there is not drowned by the others.
                        let at = direction.len() * (noise >> 40) as usize % direction.len();
                        direction.iter_mut().enumerate().for_each(|(i, d)| *d = if i == at { 1.0 } else { 0.0 });
                    }
                    mask(gradient.input, &base, &mut direction);
                    check(op, which, &case, gradient, &direction);
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 0);
    println!("{checked} directional derivatives");
}
