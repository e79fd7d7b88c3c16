//! Against diffusers: oracle/schedulers.json, made by oracle/make_schedulers.py.

use super::{COSINE, assert_close, schedule};
use diffuse::diffusion::{BetaSchedule, Prediction, Sampler, SamplerKind, Spacing, Variance};
use serde_json::Value;

fn oracle() -> Value {
    serde_json::from_str(include_str!("../oracle/schedulers.json")).unwrap()
}

pub fn list(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().unwrap().iter()
}

pub fn numbers(value: &Value) -> Vec<f64> {
    list(value).map(|x| x.as_f64().unwrap()).collect()
}

pub fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

pub fn named<T: Copy>(all: &[T], name: fn(T) -> &'static str, value: &Value) -> T {
    *all.iter().find(|item| name(**item) == value).unwrap_or_else(|| panic!("no {value}"))
}

fn beta_schedule(value: &Value) -> BetaSchedule {
    named(&[BetaSchedule::HO, COSINE], BetaSchedule::name, value)
}

/// beta, alpha_bar and beta-tilde, relative. "f64" is diffusers' code run in f64: 1e-12, of the 14 digits stored. "f32"
/// is diffusers as shipped, and the tolerance is its rounding: 1e-6 in alpha_bar, but 1e-4 where it multiplies by
/// 1 - 0.999, which f32 knows to 3e-5; 1e-2 in beta-tilde, a quotient of differences of alpha_bar as small as 4e-5.
#[test]
fn schedules_are_those_of_diffusers() {
    for table in list(&oracle()["tables"]) {
        let ours = schedule(beta_schedule(&table["schedule"]), count(&table["total"]));
        let shipped = table["precision"] == "f32";
        let columns = ["at", "betas", "alpha_bars", "variances"].map(|name| numbers(&table[name]));
        for (row, t) in columns[0].iter().map(|t| *t as usize).enumerate() {
            let beta = ours.beta(t);
            let tolerances = match shipped {
                true => [1e-6, if beta < 0.99 { 1e-6 } else { 1e-4 }, 1e-2],
                false => [1e-12; 3],
            };
            let got = [beta, ours.alpha_bar(t), ours.posterior_variance(t)];
            for (i, name) in ["beta", "alpha_bar", "beta-tilde"].into_iter().enumerate() {
                let (what, want) = (format!("{name} of timestep {t}, {table}"), columns[i + 1][row]);
                // diffusers never lets a variance below 1e-20, which stands for 0.
                assert_close(&what, got[i], want, tolerances[i] * want + 1e-20);
            }
        }
    }
}

#[test]
fn timesteps_are_those_of_diffusers() {
    for case in list(&oracle()["timesteps"]) {
        let spacing = named(&Spacing::ALL, Spacing::name, &case["spacing"]);
        let ours = spacing.timesteps(count(&case["steps"]), count(&case["total"])).unwrap();
        let ours: Vec<f64> = ours.into_iter().map(|t| t as f64).collect();
        assert_eq!(ours, numbers(&case["timesteps"]), "{case}");
    }
}

fn sampler_of(chain: &Value) -> Sampler {
    let kind = match chain["eta"].as_f64() {
        Some(eta) => SamplerKind::Ddim { eta },
        None => SamplerKind::Ddpm { variance: named(&Variance::ALL, Variance::name, &chain["variance"]) },
    };
    Sampler {
        kind,
        steps: count(&chain["steps"]),
        prediction: named(&Prediction::ALL, Prediction::name, &chain["prediction"]),
        clip: chain["clip"].as_f64(),
        spacing: named(&Spacing::ALL, Spacing::name, &chain["spacing"]),
        ..Sampler::ddpm(1)
    }
}

/// Whole chains from the same x_T with the same noise and the network 0.3 x_i + sin(t / 200 + i), compared where the
/// file has a record [step, x', estimate of x0]. Relative to the largest element: 1e-9 against diffusers run in f64,
/// 1e-5 against diffusers as shipped, with its f32 tables.
#[test]
fn samplers_are_those_of_diffusers() {
    let oracle = oracle();
    let noise: Vec<Vec<f64>> = list(&oracle["noise"]).map(numbers).collect();
    for chain in list(&oracle["chains"]) {
        let (sampler, betas) = (sampler_of(chain), beta_schedule(&chain["schedule"]));
        let plan = sampler.plan(&schedule(betas, count(&chain["total"]))).unwrap();
        let shipped = chain["precision"] == "f32";
        let tolerance = if shipped { 1e-5 } else { 1e-9 };
        let mut records = list(&chain["records"]).map(numbers).peekable();
        let mut x = numbers(&oracle["initial"]);
        let mut x0 = vec![0.0; x.len()];
        for (k, step) in plan.iter().enumerate() {
            let z = &noise[k % noise.len()];
            for i in 0..x.len() {
                let network = |x: f64| 0.3 * x + (step.at.timestep / 200.0 + i as f64).sin();
                // A learned variance is said by the same network, asked at -x.
                let (out, z) = (network(x[i]), step.spread(network(-x[i])) * z[i]);
                (x[i], x0[i]) = step.apply(x[i], out, &mut [x0[i]], z);
            }
            let Some(record) = records.next_if(|record| record[0] == k as f64) else {
                continue;
            };
            let largest = record[1..].iter().fold(1.0, |a: f64, b| a.max(b.abs()));
            for (i, (got, want)) in x.iter().chain(&x0).zip(&record[1..]).enumerate() {
                let what = format!("{sampler:?}, {betas:?}, step {k}, number {i}");
                assert_close(&what, *got, *want, tolerance * largest);
            }
        }
        assert_eq!(records.next(), None, "a record after the last step");
    }
}
