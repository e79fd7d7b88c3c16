//! Against diffusers' Euler, Heun, DPM-Solver++ and UniPC, step by step: oracle/samplers.json, made by
//! oracle/make_samplers.py.

use super::assert_close;
use super::oracle::{count, list, named, numbers};
use diffuse::diffusion::{BetaSchedule, Prediction, SLOTS, Sampler, SamplerKind, Schedule, Spacing};
use serde_json::Value;

fn oracle() -> Value {
    serde_json::from_str(include_str!("../oracle/samplers.json")).unwrap()
}

fn schedule_of(value: &Value) -> Schedule {
    let [start, end] = ["beta_start", "beta_end"].map(|key| value[key].as_f64().unwrap());
    let all = [
        BetaSchedule::Linear { start, end },
        BetaSchedule::ScaledLinear { start, end },
        BetaSchedule::Cosine,
        BetaSchedule::Sigmoid { start, end },
    ];
    Schedule::new(named(&all, BetaSchedule::name, &value["schedule"]), 1000).unwrap()
}

#[test]
fn tables_of_betas_are_those_of_diffusers() {
    for table in list(&oracle()["tables"]) {
        let ours = schedule_of(table);
        let columns = ["at", "betas", "alpha_bars"].map(|name| numbers(&table[name]));
        for ((t, beta), alpha_bar) in columns[0].iter().zip(&columns[1]).zip(&columns[2]) {
            let (t, what) = (*t as usize, format!("timestep {t}, {}", table["schedule"]));
            assert_close(&what, ours.beta(t), *beta, 1e-12 * beta);
            assert_close(&what, ours.alpha_bar(t), *alpha_bar, 1e-12 * alpha_bar);
        }
    }
}

/// Every step of every chain, relative to the largest element: 1e-5, for diffusers rounds its sigmas to f32. The network
/// 0.3 x_i + sin(t / 200 + i) is asked at diffusers' timestep, which the multistep schedulers make whole.
#[test]
fn steps_are_those_of_diffusers() {
    let oracle = oracle();
    let noise: Vec<Vec<f64>> = list(&oracle["noise"]).map(numbers).collect();
    let mut chains = 0;
    for chain in list(&oracle["chains"]) {
        let name = chain["sampler"].as_str().unwrap();
        let sampler = Sampler {
            prediction: named(&Prediction::ALL, Prediction::name, &chain["prediction"]),
            spacing: named(&Spacing::ALL, Spacing::name, &chain["spacing"]),
            clip: chain["clip"].as_f64(),
            ..Sampler::new(*SamplerKind::ALL.iter().find(|kind| kind.name() == name).unwrap(), count(&chain["steps"]))
        };
        let whole = name.starts_with("dpm++") || name == "unipc";
        let plan = sampler.plan(&schedule_of(chain)).unwrap();
        let records: Vec<Vec<f64>> = list(&chain["records"]).map(numbers).collect();
        assert_eq!(plan.len(), records.len(), "{sampler:?}");
        let mut x = numbers(&oracle["initial"]);
        let mut x0 = vec![0.0; x.len()];
        let mut slots = vec![[0.0; SLOTS]; x.len()];
        for (k, (step, record)) in plan.iter().zip(&records).enumerate() {
            let what = format!("{sampler:?}, {}, step {k}", chain["schedule"]);
            let timestep = record[0];
            let between = if whole && sampler.spacing == Spacing::Karras { 1.0 } else { 1e-3 };
            assert_close(&format!("{what}: timestep"), step.at.timestep, timestep, between);
            for i in 0..x.len() {
                let out = 0.3 * x[i] + (timestep / 200.0 + i as f64).sin();
                (x[i], x0[i]) = step.apply(x[i], out, &mut slots[i], noise[k % noise.len()][i]);
            }
            let largest = record[1..].iter().fold(1.0, |a: f64, b| a.max(b.abs()));
            for (i, (got, want)) in x.iter().chain(&x0).zip(&record[1..]).enumerate() {
                assert_close(&format!("{what}, number {i}"), *got, *want, 1e-5 * largest);
            }
        }
        chains += 1;
    }
    assert!(chains > 70);
}
