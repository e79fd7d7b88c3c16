//! The host's diffusion maths, without a GPU: identities and errors here, diffusers' schedulers in diffusion/oracle.rs and
//! diffusion/samplers.rs, distributions whose noise eps is known in closed form in diffusion/gaussians.rs.

#[path = "diffusion/certified.rs"]
mod certified;
#[path = "diffusion/family.rs"]
mod family;
#[path = "diffusion/gaussians.rs"]
mod gaussians;
#[path = "diffusion/oracle.rs"]
mod oracle;
#[path = "diffusion/samplers.rs"]
mod samplers;

use diffuse::diffusion::{
    BetaSchedule, Error, Level, LossWeight, NO_CLIP, Prediction, SLOTS, Sampler, SamplerKind, Schedule, Spacing, Step,
    Variance,
};

const COSINE: BetaSchedule = BetaSchedule::Cosine;
const SMALL: SamplerKind = SamplerKind::Ddpm { variance: Variance::FixedSmall };
const LARGE: SamplerKind = SamplerKind::Ddpm { variance: Variance::FixedLarge };

fn ddim(eta: f64) -> SamplerKind {
    SamplerKind::Ddim { eta }
}

fn linear(start: f64, end: f64) -> BetaSchedule {
    BetaSchedule::Linear { start, end }
}

fn schedule(kind: BetaSchedule, timesteps: usize) -> Schedule {
    Schedule::new(kind, timesteps).unwrap()
}

fn unclipped(kind: SamplerKind, steps: usize, spacing: Spacing) -> Sampler {
    Sampler { kind, clip: None, spacing, ..Sampler::ddpm(steps) }
}

#[track_caller]
fn assert_close(what: &str, got: f64, want: f64, tolerance: f64) {
    let near = (got - want).abs() <= tolerance;
    assert!(near, "{what}: {got:e}, not {want:e} (tolerance {tolerance:e})");
}

/// Every number of steps, also those for which numpy's list in diffusers has an entry too many.
#[test]
fn timesteps_descend_strictly() {
    for total in [1, 2, 10, 37, 256, 1000] {
        for spacing in Spacing::WHOLE {
            for steps in 1..=total {
                let timesteps = spacing.timesteps(steps, total).unwrap();
                assert_eq!(timesteps.len(), steps);
                let descends = timesteps[0] < total && timesteps.is_sorted_by(|a, b| a > b);
                assert!(descends, "{spacing:?}, {steps} of {total}");
            }
        }
    }
}

#[test]
fn predictions_go_both_ways_at_every_timestep() {
    for schedule in [schedule(BetaSchedule::HO, 1000), schedule(COSINE, 1000)] {
        for prediction in Prediction::ALL {
            for t in 0..1000 {
                both_ways(prediction, schedule.alpha(t), schedule.sigma(t));
            }
        }
    }
    // The squares of a level needn't add up to 1: rectified flow's halfway, say.
    for prediction in Prediction::ALL {
        both_ways(prediction, 0.5, 0.5);
    }
    assert_eq!(Prediction::Eps.target(0.8, 0.6), (0.0, 1.0));
    assert_eq!(Prediction::X0.target(0.8, 0.6), (1.0, 0.0));
    assert_eq!(Prediction::V.target(0.8, 0.6), (-0.6, 0.8));
}

fn both_ways(prediction: Prediction, alpha: f64, sigma: f64) {
    let (x0, eps) = (0.6, -1.4);
    let (a, b) = prediction.target(alpha, sigma);
    let (x, out) = (alpha * x0 + sigma * eps, a * x0 + b * eps);
    // Where x_t hardly holds x0, or eps, its rounding is divided by alpha, or sigma.
    let (p, q) = prediction.x0(alpha, sigma);
    assert_close("x0", p * x + q * out, x0, 1e-15 / alpha + 1e-15);
    let (p, q) = prediction.eps(alpha, sigma);
    assert_close("eps", p * x + q * out, eps, 1e-15 / sigma + 1e-15);
}

#[test]
fn training_table_holds_levels_and_targets() {
    let schedule = schedule(COSINE, 50);
    for prediction in Prediction::ALL {
        let table = schedule.training_table(prediction, LossWeight::Simple);
        assert_eq!(table.len(), 50);
        for (t, row) in table.into_iter().enumerate() {
            let alpha_bar = schedule.alpha_bar(t);
            let (alpha, sigma) = (alpha_bar.sqrt() as f32, (1.0 - alpha_bar).sqrt() as f32);
            let target = match prediction {
                Prediction::Eps => [0.0, 1.0],
                Prediction::X0 => [1.0, 0.0],
                Prediction::V => [-sigma, alpha],
                Prediction::Flow => [-1.0, 1.0],
                Prediction::Score | Prediction::Edm => {
                    let (x0, eps) = prediction.target(schedule.alpha(t), schedule.sigma(t));
                    [x0 as f32, eps as f32]
                }
            };
            assert_eq!(row[..5], [alpha, sigma, target[0], target[1], 1.0]);
            // What the loss makes of the last three is held against the bound in tests/learned_variance.rs.
            let learned = schedule.learned_variance(t);
            assert_eq!(row[6], (learned.log_large - learned.log_small) as f32);
            assert!(row[5].is_finite() && row[6] > 0.0 && row[7].is_finite() && row[7] > 0.0);
        }
    }
}

/// Song, Meng & Ermon 2020, section 4.1: eta = 1 is DDPM with beta-tilde.
#[test]
fn ddim_with_eta_1_is_ddpm() {
    let schedule = schedule(BetaSchedule::HO, 1000);
    for spacing in Spacing::WHOLE {
        for prediction in Prediction::ALL {
            for steps in [1, 7, 50, 1000] {
                let sampler = |kind| Sampler { prediction, ..unclipped(kind, steps, spacing) };
                let ddpm = sampler(SMALL).plan(&schedule).unwrap();
                let from_out = sampler(ddim(1.0)).plan(&schedule).unwrap();
                for (a, b) in ddpm.iter().zip(from_out) {
                    for (x, out, z) in [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)] {
                        let (a, b) = (a.apply(x, out, &mut [0.0], z).0, b.apply(x, out, &mut [0.0], z).0);
                        assert_close("coefficient", a, b, 1e-9);
                    }
                }
                // With eps out of the clamped estimate even the clamped steps are DDPM's.
                let clamped = |kind| Sampler { clip: Some(1.0), use_clipped_model_output: true, ..sampler(kind) };
                let (ddpm, ddim) =
                    (clamped(SMALL).plan(&schedule).unwrap(), clamped(ddim(1.0)).plan(&schedule).unwrap());
                for (a, b) in ddpm.iter().zip(ddim) {
                    for (x, out, z) in [(0.3, -0.2, 0.0), (2.0, 0.1, 1.0), (-3.0, 0.5, -0.7)] {
                        let (a, b) = (a.apply(x, out, &mut [0.0], z), b.apply(x, out, &mut [0.0], z));
                        assert_close("clamped step", a.0, b.0, 1e-9);
                        assert_eq!(a.1, b.1);
                    }
                }
            }
        }
    }
}

#[test]
fn plans_are_fit_for_the_gpu() {
    for kind in [SMALL, LARGE, ddim(0.0), ddim(1.0)] {
        for prediction in Prediction::ALL {
            for spacing in Spacing::WHOLE {
                for (betas, steps) in [(BetaSchedule::HO, 10), (COSINE, 1000)] {
                    let sampler = Sampler { prediction, ..unclipped(kind, steps, spacing) };
                    let plan = sampler.plan(&schedule(betas, 1000)).unwrap();
                    plan.iter().for_each(is_fit_for_the_gpu);
                    assert_eq!(plan.last().unwrap().noise, 0.0, "{sampler:?}");
                }
            }
        }
    }
}

fn is_fit_for_the_gpu(step: &Step) {
    let state = [step.at.timestep, step.x, step.out, step.noise];
    let x0 = [step.x0, step.x0_from_x, step.x0_from_out, step.clip];
    let finite = |value: &f64| (*value as f32).is_finite();
    assert!(state.iter().chain(&x0).all(finite), "{step:?}");
    assert_eq!((step.clip, step.previous, step.keep_x), (NO_CLIP, [0.0; SLOTS], None));
}

/// DDPMScheduler() and DDIMScheduler() of diffusers.
#[test]
fn defaults_are_those_of_diffusers() {
    let ddpm = Sampler { clip: Some(1.0), ..unclipped(SMALL, 50, Spacing::Leading) };
    assert_eq!(Sampler::ddpm(50), ddpm);
    let kind = ddim(0.5);
    // But for eps, which is that of the clamped x0.
    assert_eq!(Sampler::ddim(50, 0.5), Sampler { kind, use_clipped_model_output: true, ..ddpm });
    assert_eq!(ddpm.prediction, Prediction::Eps);
    assert_eq!(ddpm.initial_scale(&schedule(BetaSchedule::HO, 1000)), 1.0);
}

#[test]
fn a_step_clamps_and_uses_the_previous_estimate() {
    let mut previous = [0.0; SLOTS];
    (previous[0], previous[2]) = (13.0, 19.0);
    let step = Step {
        at: Level::CLEAN,
        to: Level::CLEAN,
        x: 2.0,
        out: 3.0,
        x0: 5.0,
        x0_from_x: 7.0,
        x0_from_out: 11.0,
        clip: 1.5,
        threshold: None,
        previous,
        noise: 17.0,
        learned: None,
        keep: Some(1),
        keep_x: Some(2),
    };
    assert_eq!(step.slots(), 3);
    let (next, x0) = step.apply(0.1, 0.01, &mut [0.0; 3], 0.0);
    assert_close("x0 inside the range", x0, 0.7 + 0.11, 1e-15);
    assert_close("x'", next, 0.2 + 0.03 + 5.0 * 0.81, 1e-14);
    let mut slots = [1.0, 4.0, 0.5];
    let (next, x0) = step.apply(1.0, -10.0, &mut slots, 1.0);
    assert_eq!((next, x0), (2.0 - 30.0 - 5.0 * 1.5 + 13.0 + 0.5 * 19.0 + 17.0, -1.5));
    assert_eq!(slots, [1.0, -1.5, 1.0]);
    assert_eq!(step.apply(1.0, 10.0, &mut slots, 0.0).1, 1.5);
    assert!(step.apply(f64::NAN, 0.0, &mut slots, 0.0).1.is_nan());
    let forgetful = Step { keep: None, keep_x: None, ..step };
    forgetful.apply(5.0, 1.0, &mut slots, 0.0);
    assert!(slots[1].is_nan() && slots[0] == 1.0);
}

#[test]
fn bad_schedules_are_errors() {
    let nan = f64::NAN;
    for (start, end) in [(0.0, 0.02), (1e-4, 1.0), (nan, 0.02), (1e-4, nan), (-0.1, 0.02)] {
        let error = Schedule::new(linear(start, end), 10).unwrap_err();
        assert!(matches!(error, Error::Betas { .. }), "{error}");
    }
    assert_eq!(Schedule::new(COSINE, 0), Err(Error::NoTimesteps));
    // 2^-126 is the smallest normal f32.
    let vanishing = Schedule::new(linear(0.5, 0.5), 1000);
    assert_eq!(vanishing, Err(Error::Vanishing { timestep: 126 }));
}

#[test]
fn bad_samplers_are_errors() {
    let schedule = schedule(BetaSchedule::HO, 100);
    let fails = |sampler: Sampler| sampler.plan(&schedule).unwrap_err();
    for spacing in Spacing::WHOLE {
        for steps in [0, 101] {
            let error = fails(unclipped(SMALL, steps, spacing));
            assert_eq!(error, Error::Steps { steps, timesteps: 100 });
        }
    }
    for eta in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert!(matches!(fails(Sampler::ddim(10, eta)), Error::Eta(_)));
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let sampler = Sampler { clip: Some(bad), ..Sampler::ddpm(10) };
        assert!(matches!(fails(sampler), Error::Clip(_)));
    }
    let text = fails(Sampler::ddpm(101)).to_string();
    assert_eq!(text, "101 sampling steps: this schedule allows 1 to 100");
}
