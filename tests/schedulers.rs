//! Scheduler configurations as people have them: against diffusers (schedulers/chains.json, made by
//! schedulers/make_chains.py), and what is refused.

use std::convert::Infallible;

use diffuse::checkpoint::SchedulerConfig;
use diffuse::diffusion::{Denoiser, SLOTS, Sampler, Step, Threshold};
use serde_json::Value;

fn config(value: &Value) -> SchedulerConfig {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// The sampler of the configuration's class.
fn sampler(config: &SchedulerConfig, steps: usize) -> diffuse::error::Result<Sampler> {
    config.sampler(config.kind()?.expect("a class with a sampler"), steps, None)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

/// One image, and the network 0.3 x_i + sin(t / 200 + i).
struct Image {
    x: Vec<f64>,
    slots: Vec<[f64; SLOTS]>,
    noise: std::vec::IntoIter<Vec<f64>>,
}

impl Image {
    fn step(&mut self, step: &Step, network: impl Fn(usize, f64) -> f64) {
        let none = || vec![0.0; self.x.len()];
        let noise = if step.noise == 0.0 { none() } else { self.noise.next().expect("noise for the step") };
        for (i, (x, slots)) in self.x.iter_mut().zip(&mut self.slots).enumerate() {
            *x = step.apply(*x, network(i, *x), slots, noise[i]).0;
        }
    }
}

impl Denoiser for Image {
    type Error = Infallible;

    fn evaluate(&mut self, step: &Step) -> Result<(), Infallible> {
        self.step(step, |i, x| 0.3 * x + (step.at.timestep / 200.0 + i as f64).sin());
        Ok(())
    }

    fn update(&mut self, step: &Step) -> Result<(), Infallible> {
        self.step(step, |_, _| 0.0);
        Ok(())
    }

    fn threshold(&mut self, threshold: Threshold, from: usize, to: usize) -> Result<(), Infallible> {
        let mut image: Vec<f64> = self.slots.iter().map(|slots| slots[from]).collect();
        threshold.apply(&mut image);
        self.slots.iter_mut().zip(image).for_each(|(slots, value)| slots[to] = value);
        Ok(())
    }

    fn rms(&mut self) -> Result<f64, Infallible> {
        unreachable!("no adaptive sampler here")
    }
}

/// What the chain leaves of x_T; the error says why it is refused.
fn final_image(oracle: &Value, chain: &Value) -> diffuse::error::Result<Vec<f64>> {
    let config = config(&chain["config"]);
    let (schedule, steps) = (config.schedule()?, chain["steps"].as_u64().unwrap() as usize);
    let sampler = sampler(&config, steps)?;
    let program = sampler.program(&schedule).map_err(|error| diffuse::error::Error::Config(error.to_string()))?;
    let scale = sampler.initial_scale(&schedule);
    let x: Vec<f64> = numbers(&oracle["x_T"]).into_iter().map(|x| scale * x).collect();
    let noise: Vec<Vec<f64>> = oracle["noise"].as_array().unwrap().iter().map(numbers).collect();
    let mut image = Image { slots: vec![[0.0; SLOTS]; x.len()], x, noise: noise.into_iter() };
    let Ok(_) = program.run(&mut image);
    Ok(image.x)
}

/// Relative to the largest element, or 1: 5e-5, for the scheduler's own sums are in single precision.
#[test]
fn what_is_drawn_is_what_diffusers_draws() {
    let oracle: Value = serde_json::from_str(include_str!("schedulers/chains.json")).unwrap();
    let (mut equal, mut refused) = (0, Vec::new());
    for chain in oracle["chains"].as_array().unwrap() {
        let want = numbers(&chain["final"]);
        let got = match final_image(&oracle, chain) {
            Ok(got) => got,
            Err(error) => {
                refused.push(error.to_string());
                continue;
            }
        };
        let largest = want.iter().fold(1.0, |most: f64, x| most.max(x.abs()));
        let off = got.iter().zip(&want).fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
        assert!(off <= 5e-5 * largest, "off by {off:.1e} of {largest}: {chain}\n{got:?}");
        equal += 1;
    }
    println!("{equal} equal, {} refused: {refused:#?}", refused.len());
    assert!(equal >= EQUAL, "{equal} equal, refused: {refused:#?}");
}

const EQUAL: usize = 55;
