//! Schedules, targets, loss weights and learned variances of every kind, against what the papers write.

use super::assert_close;
use diffuse::diffusion::timestep_draw::Column;
use diffuse::diffusion::{
    BetaSchedule, DATA_DEVIATION, Error, LearnedVariance, Level, LossWeight, Path, Prediction, Schedule, ScheduleKind,
    TimestepDraw, Transition,
};

fn all(timesteps: usize) -> Vec<Schedule> {
    ScheduleKind::ALL.iter().map(|kind| Schedule::new(*kind, timesteps).unwrap()).collect()
}

fn near(what: &str, got: f64, want: f64, relative: f64) {
    assert_close(what, got, want, relative * want.abs());
}

#[test]
fn levels_are_those_of_the_papers() {
    for (t, u) in [(0, 0.001), (99, 0.1), (999, 1.0f64)] {
        let integral = 0.1 * u + 0.5 * u * u * 19.9;
        let at = |kind| Schedule::new(kind, 1000).unwrap().level(t);
        let (vp, sub_vp) = (at(ScheduleKind::VP), at(ScheduleKind::SUB_VP));
        near("alpha of VP", vp.alpha, (-0.5 * integral).exp(), 1e-14);
        near("sigma of VP", vp.sigma, (1.0 - (-integral).exp()).sqrt(), 1e-11);
        near("alpha of sub-VP", sub_vp.alpha, (-0.5 * integral).exp(), 1e-14);
        near("sigma of sub-VP", sub_vp.sigma, 1.0 - (-integral).exp(), 1e-11);
        let (ve, flow) = (at(ScheduleKind::VE), at(ScheduleKind::Flow));
        assert_eq!(ve.alpha, 1.0);
        near("sigma of VE", ve.sigma, 0.01 * 5000f64.powf(t as f64 / 999.0), 1e-14);
        assert_close("flow", flow.alpha + flow.sigma, 1.0, 1e-15);
        near("sigma of flow", flow.sigma, (t as f64 + 0.5) / 1000.0, 1e-15);
        let share = t as f64 / 999.0;
        let kappa = (0.002f64.powf(1.0 / 7.0) * (1.0 - share) + 80f64.powf(1.0 / 7.0) * share).powi(7);
        let edm = at(ScheduleKind::EDM);
        near("sigma of EDM", edm.kappa(), kappa, 1e-12);
        near("c_in of EDM", edm.alpha, 1.0 / (kappa * kappa + 0.25).sqrt(), 1e-12);
    }
}

#[test]
fn a_path_goes_through_its_schedule() {
    for schedule in all(300) {
        let path = schedule.path();
        for t in 0..300 {
            let level = schedule.level(t);
            let what = format!("{:?}, timestep {t}", schedule.kind());
            near(&what, path.alpha(level.kappa()), level.alpha, 1e-10);
            near(&what, schedule.level_between(t as f64).sigma, level.sigma, 1e-15);
            near(&what, schedule.level_of(level.kappa()).sigma, level.sigma, 1e-10);
            assert_close(&what, schedule.level_of(level.kappa()).timestep, t as f64, 1e-6);
        }
        let (low, high) = schedule.kappas();
        assert_eq!(schedule.level_of(2.0 * high).timestep, 299.0);
        assert_eq!(schedule.level_of(0.5 * low).timestep, 0.0);
        let between = [schedule.level(7).kappa(), schedule.level_between(7.25).kappa(), schedule.level(8).kappa()];
        near("a quarter of the way", between[1], 0.75 * between[0] + 0.25 * between[2], 1e-12);
        let halfway = (schedule.level(7).kappa() * schedule.level(8).kappa()).sqrt();
        assert_close("halfway in log kappa", schedule.level_of(halfway).timestep, 7.5, 1e-9);
    }
}

/// ∫ alpha² d(kappa²) by Simpson's rule.
#[test]
fn diffusion_is_the_integral() {
    for path in [Path::VariancePreserving, Path::SubVariancePreserving, Path::VarianceExploding, Path::Edm, Path::Flow]
    {
        for (from, to) in [(1.0, 0.2), (5.0, 4.0), (80.0, 60.0)] {
            let f = |kappa: f64| 2.0 * kappa * path.alpha(kappa).powi(2);
            let width = (from - to) / 2000.0;
            let weight = |i: usize| if i == 0 || i == 2000 { 1.0 } else { 2.0 + 2.0 * (i % 2) as f64 };
            let sum: f64 = (0..=2000).map(|i| weight(i) * f(to + i as f64 * width)).sum();
            near(&format!("{path:?}"), path.diffusion(from, to), sum * width / 3.0, 1e-9);
        }
    }
}

/// Two steps in a row are one: the reverse of what a forward process does (Kingma et al. 2021, appendix A.1).
#[test]
fn transitions_follow_each_other() {
    for schedule in all(100) {
        let level = |t| schedule.level(t);
        let beta = |from, to| Transition { from, to }.beta();
        let (a, b, c) = (level(80), level(50), level(20));
        let scale = Transition { from: a, to: b }.scale();
        near(&format!("{:?}", schedule.kind()), beta(a, c), beta(a, b) + scale * scale * beta(b, c), 1e-10);
        let transition = Transition { from: a, to: c };
        // The posterior's mean of x_s = alpha_s x0 + .. is right on average, and so is its variance.
        let (x0, x) = transition.posterior_mean();
        near("mean", x0 + x * a.alpha, c.alpha, 1e-12);
        near("variance", (x * a.sigma).powi(2) + transition.posterior_variance(), c.sigma.powi(2), 1e-12);
    }
}

#[test]
fn targets_convert_both_ways_on_every_schedule() {
    let (x0, eps) = (0.6, -1.4);
    for schedule in all(200) {
        for t in 0..200 {
            let Level { alpha, sigma, .. } = schedule.level(t);
            let x = alpha * x0 + sigma * eps;
            for from in Prediction::ALL {
                let (a, b) = from.target(alpha, sigma);
                let out = a * x0 + b * eps;
                let what = |to: &str| format!("{:?}, timestep {t}: {from:?} to {to}", schedule.kind());
                // Rounding of x counts as 1 / alpha, or 1 / sigma, of itself where x hardly holds x0, or eps.
                let (size, lost) = (1e-14 * (1.0 + x.abs()), 1.0 / alpha.min(sigma).min(1.0));
                let (p, q) = from.x0(alpha, sigma);
                assert_close(&what("x0"), p * x + q * out, x0, size * lost);
                let (p, q) = from.eps(alpha, sigma);
                assert_close(&what("eps"), p * x + q * out, eps, size * lost);
                let (p, q) = from.score(alpha, sigma);
                assert_close(&what("score"), p * x + q * out, -eps / sigma, size * lost / sigma);
                for to in Prediction::ALL {
                    let (p, q) = from.to(to, alpha, sigma);
                    let (a, b) = to.target(alpha, sigma);
                    let scale = 1.0 + a.abs() + b.abs();
                    assert_close(&what(to.name()), p * x + q * out, a * x0 + b * eps, size * lost * scale);
                }
            }
        }
    }
}

/// Karras et al. 2022, table 1: D = c_skip y + c_out F of y = x0 + sigma eps.
#[test]
fn edm_is_the_preconditioned_denoiser() {
    let variance = DATA_DEVIATION * DATA_DEVIATION;
    for sigma in [0.002, 0.3, 1.0, 80.0f64] {
        let (x0, eps) = (0.7, -0.4);
        let (skip, out) = (variance / (sigma * sigma + variance), sigma * DATA_DEVIATION / sigma.hypot(DATA_DEVIATION));
        let f = (x0 - skip * (x0 + sigma * eps)) / out;
        // The scale of x changes nothing.
        for alpha in [1.0, 0.3] {
            let (a, b) = Prediction::Edm.target(alpha, alpha * sigma);
            assert_close("F", a * x0 + b * eps, f, 1e-12 * f.abs().max(1.0));
            near("c_out", Prediction::Edm.x0(alpha, alpha * sigma).1, out, 1e-12);
        }
    }
}

#[test]
fn weights_are_those_of_the_papers() {
    let ho = Schedule::new(BetaSchedule::HO, 1000).unwrap();
    for t in [1, 10, 500, 999] {
        let (level, beta) = (ho.level(t), ho.beta(t));
        let weight = |weight: LossWeight, prediction| weight.at(&ho, prediction, t);
        // Ho et al. 2020, eq. 12.
        let eq12 = beta * beta / (2.0 * ho.posterior_variance(t) * (1.0 - beta) * level.sigma.powi(2));
        near("variational", weight(LossWeight::Variational, Prediction::Eps), 1000.0 * eq12, 1e-9);
        // Kingma et al. 2021, eq. 14.
        let eq14 = 0.5 * (ho.level(t - 1).snr() - level.snr());
        near("variational on x0", weight(LossWeight::Variational, Prediction::X0), 1000.0 * eq14, 1e-9);
        let snr = level.snr();
        near("min-SNR of v", weight(LossWeight::MIN_SNR, Prediction::V), snr.min(5.0) / (snr + 1.0), 1e-9);
        near("min-SNR of eps", weight(LossWeight::MIN_SNR, Prediction::Eps), snr.min(5.0) / snr, 1e-9);
        near("P2", weight(LossWeight::P2, Prediction::Eps), 1.0 / (1.0 + snr), 1e-9);
        near("sigma² of the score", weight(LossWeight::SigmaSquared, Prediction::Score), level.sigma.powi(2), 1e-9);
        near("sigma² of eps", weight(LossWeight::SigmaSquared, Prediction::Eps), 1.0, 1e-9);
    }
    let first = LossWeight::Variational.at(&ho, Prediction::Eps, 0);
    let decoder = ho.beta(0).powi(2) / (2.0 * ho.posterior_variance(1) * ho.alpha_bar(0) * ho.sigma(0).powi(2));
    near("the decoder's", first, 1000.0 * decoder, 1e-9);
    for schedule in all(50) {
        for weight in LossWeight::ALL {
            for prediction in Prediction::ALL {
                let weights = (0..50).map(|t| weight.at(&schedule, prediction, t));
                let what = format!("{:?}, {weight:?}, {prediction:?}", schedule.kind());
                assert!(weights.into_iter().all(|weight| weight >= 0.0 && (weight as f32).is_finite()), "{what}");
                if weight == LossWeight::Simple {
                    assert!(schedule.training_table(prediction, weight).iter().all(|row| row[4] == 1.0));
                }
            }
        }
    }
}

/// On its own target EDM's weight is the ratio of densities alone, whose mean over the table is 1, and whose mean of
/// ln sigma is the paper's -1.2 with deviation 1.2.
#[test]
fn edm_weighs_noise_levels_as_if_drawn_log_normally() {
    for kind in [ScheduleKind::EDM, ScheduleKind::VE] {
        let schedule = Schedule::new(kind, 2000).unwrap();
        let mean = |f: &dyn Fn(f64) -> f64| {
            let weight = |t: usize| LossWeight::EDM.at(&schedule, Prediction::Edm, t);
            (0..2000).map(|t| weight(t) * f(schedule.level(t).kappa().ln())).sum::<f64>() / 2000.0
        };
        assert_close("whole", mean(&|_| 1.0), 1.0, 5e-3);
        assert_close("mean", mean(&|log| log), -1.2, 0.02);
        assert_close("variance", mean(&|log| (log + 1.2).powi(2)), 1.44, 0.04);
    }
}

/// How often each timestep is drawn.
fn shares(columns: &[Column]) -> Vec<f64> {
    let mut shares = vec![0.0; columns.len()];
    for (timestep, column) in columns.iter().enumerate() {
        let own = column.share as f64 / 2f64.powi(24);
        shares[timestep] += own / columns.len() as f64;
        shares[column.other] += (1.0 - own) / columns.len() as f64;
    }
    shares
}

/// The moments of ln sigma over the timesteps drawn are the papers'.
#[test]
fn timesteps_are_drawn_as_the_papers_have_them() {
    for timesteps in [1, 7, 1000] {
        let even = Schedule::new(BetaSchedule::Cosine, timesteps).unwrap().drawn_columns(TimestepDraw::Even);
        assert!(even.iter().all(|column| column.share == 1 << 24), "{even:?}");
    }
    // The second without what lies above the ladder's sigma of 80, as scipy.stats.truncnorm has it.
    for (draw, mean, deviation) in [(TimestepDraw::EDM, -1.2, 1.2), (TimestepDraw::HIGH, 0.6543, 1.5459)] {
        let schedule = Schedule::new(ScheduleKind::EDM, 4000).unwrap();
        let drawn = shares(&schedule.drawn_columns(draw));
        let logs = (0..4000).map(|t| schedule.level(t).kappa().ln());
        let mean_of = |f: &dyn Fn(f64) -> f64| logs.clone().zip(&drawn).map(|(log, share)| share * f(log)).sum::<f64>();
        assert_close("mean", mean_of(&|log| log), mean, 2e-3);
        assert_close("deviation", mean_of(&|log| (log - mean).powi(2)).sqrt(), deviation, 2e-3);
        for schedule in all(50) {
            let total: f64 = (0..50).map(|t| draw.ratio(&schedule, t)).sum();
            for (t, share) in shares(&schedule.drawn_columns(draw)).into_iter().enumerate() {
                let expected = draw.ratio(&schedule, t) / total;
                assert!((share - expected).abs() < 1e-7, "{:?}, {t}: {share} for {expected}", schedule.kind());
            }
        }
        let rows = Schedule::new(ScheduleKind::EDM, 11).unwrap().drawn_table(draw);
        assert!(rows.len() == 3 && rows[2][6..] == [0.0; 2] && rows[2][4] > 0.0, "{rows:?}");
    }
}

#[test]
fn a_learned_variance_lies_between_both() {
    let schedule = Schedule::new(BetaSchedule::Cosine, 100).unwrap();
    let (transition, following) = (schedule.transition(40, Some(39)), schedule.transition(1, Some(0)));
    let learned = LearnedVariance::new(transition, following);
    near("beta-tilde", learned.log_variance(-1.0).exp(), transition.posterior_variance(), 1e-12);
    near("beta", learned.log_variance(1.0).exp(), transition.beta(), 1e-12);
    near("their geometric mean", learned.log_variance(0.0), 0.5 * (learned.log_small + learned.log_large), 1e-12);
    assert_close("output", learned.output(learned.log_variance(0.3)), 0.3, 1e-12);
    let last = LearnedVariance::new(schedule.transition(0, None), following);
    near("the last step's", last.log_small.exp(), following.posterior_variance(), 1e-12);
    // The divergence is 0 from the posterior itself, and its derivative is that of differences.
    let variance = transition.posterior_variance();
    let (nothing, _) = learned.kl(variance, 0.0, -1.0);
    assert_close("KL of equals", nothing, 0.0, 1e-12);
    for (error, v) in [(0.0, 0.0), (0.01, -0.5), (0.3, 1.0)] {
        let at = |v| learned.kl(variance, error, v).0;
        near("slope", learned.kl(variance, error, v).1, (at(v + 1e-5) - at(v - 1e-5)) / 2e-5, 1e-5);
        // Against the integral of two normal densities, written out.
        let model = learned.log_variance(v).exp();
        let written = 0.5 * ((model / variance).ln() - 1.0 + (variance + error * error) / model);
        near("KL", at(v), written, 1e-9);
    }
    near("slope of the log", learned.slope(), learned.log_variance(1.0) - learned.log_variance(0.0), 1e-12);
}

#[test]
fn schedules_without_sense_are_errors() {
    for kind in [
        ScheduleKind::Vp { beta_min: 0.0, beta_max: 20.0 },
        ScheduleKind::SubVp { beta_min: 3.0, beta_max: 2.0 },
        ScheduleKind::Ve { sigma_min: f64::NAN, sigma_max: 1.0 },
        ScheduleKind::Edm { sigma_min: 0.1, sigma_max: f64::INFINITY },
    ] {
        assert!(matches!(Schedule::new(kind, 10), Err(Error::Range { .. })), "{kind:?}");
    }
    let sigmoid = BetaSchedule::Sigmoid { start: 0.0, end: 0.02 };
    assert!(matches!(Schedule::new(sigmoid, 10), Err(Error::Betas { .. })));
}
