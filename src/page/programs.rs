//! The samplers of a page: what each does step by step, in tables, so that no formula is typed a second time.

use std::collections::BTreeMap;

use super::envelope::{Number, Program, Sampler};
use crate::checkpoint::SchedulerConfig;
use crate::diffusion::{self, SamplerKind};
use crate::error::{Error, Result};
use crate::gpu::{Step, step};
use crate::run::set_coefficients;

/// Numbers of steps that are offered, as far as the model has so many.
const STEPS: [usize; 5] = [5, 10, 20, 50, 100];

/// The samplers that are offered.
const KINDS: [&str; 4] = ["ddim", "dpm++", "euler", "ddpm"];

/// What a page can be asked for.
pub struct Programs {
    pub samplers: Vec<Sampler>,
    /// Slots of the past that the greediest of them needs.
    pub slots: u32,
    /// Whether one of them asks the network for its variance.
    pub learns_variance: bool,
}

/// All samplers that a model trained as `config` says can be drawn with, each as `diffuse sample` has it.
///
/// # Errors
/// [`Error::Config`] says why there is none.
pub fn programs(config: &SchedulerConfig) -> Result<Programs> {
    let schedule = config.schedule()?;
    let mut found = Programs { samplers: Vec::new(), slots: 1, learns_variance: false };
    let mut problem = None;
    for name in KINDS {
        let mut kind = SamplerKind::called(name).expect("a sampler's name");
        if let SamplerKind::Ddpm { variance } = &mut kind {
            *variance = config.variance()?;
        }
        let any = config.sampler(kind, STEPS[0], None)?;
        if any.threshold.is_some() {
            return Err(Error::Config(
                "a page can't threshold estimates of x0: set thresholding to false in scheduler_config.json".into(),
            ));
        }
        let mut programs = Vec::new();
        for steps in STEPS.into_iter().filter(|steps| *steps <= schedule.timesteps()) {
            let sampler = diffusion::Sampler { steps, ..any };
            // Some levels suit some samplers only.
            match sampler.plan(&schedule) {
                Ok(plan) => {
                    let of_plan = diffusion::Program::Steps(plan.clone());
                    found.slots = found.slots.max(of_plan.slots() as u32);
                    found.learns_variance |= of_plan.learns_variance();
                    programs.push(program(steps, sampler.initial_scale(&schedule), &plan));
                }
                Err(error) => problem = Some(error.to_string()),
            }
        }
        if !programs.is_empty() {
            let label = format!("{name} ({})", kind.paper());
            found.samplers.push(Sampler { name: kind.name(), label, programs });
        }
    }
    match problem {
        Some(problem) if found.samplers.is_empty() => Err(Error::Config(format!("no sampler of a page: {problem}"))),
        None if found.samplers.is_empty() => {
            Err(Error::Config(format!("a page draws in {} steps at the least, this model has fewer", STEPS[0])))
        }
        _ => Ok(found),
    }
}

/// What the step's uniform holds of the coefficients, evaluation by evaluation; fields that are 0 throughout are left out.
fn program(steps: usize, initial_scale: f64, plan: &[diffusion::Step]) -> Program {
    let uniforms = plan.iter().map(|step| {
        let mut uniform = Step::default();
        set_coefficients(&mut uniform, step);
        uniform
    });
    let uniforms: Vec<Step> = uniforms.collect();
    let (mut same, mut each) = (BTreeMap::new(), BTreeMap::new());
    for field in &step::layout().fields {
        let number = |uniform: &Step| match uniform.get(&field.name) {
            value if field.float => Number::F32(value as f32),
            value => Number::U32(value as u32),
        };
        let numbers: Vec<Number> = uniforms.iter().map(number).collect();
        match numbers[0] {
            first if numbers.iter().any(|number| *number != first) => _ = each.insert(field.name.clone(), numbers),
            Number::U32(0) | Number::F32(0.0) => {}
            first => _ = same.insert(field.name.clone(), first),
        }
    }
    Program { steps, evaluations: plan.len(), initial_scale: initial_scale as f32, same, each }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What JSON says of a program, as a page reads it.
    fn uniform(json: &serde_json::Value, index: usize) -> Step {
        let mut step = Step::default();
        for (name, value) in json["same"].as_object().expect("an object") {
            step.set(name, value.as_f64().expect("a number"));
        }
        for (name, values) in json["each"].as_object().expect("an object") {
            step.set(name, values[index].as_f64().expect("a number"));
        }
        step
    }

    #[test]
    fn tables_are_what_the_samplers_say_to_the_bit() {
        let config = SchedulerConfig::default();
        let found = programs(&config).expect("samplers for the default schedule");
        assert_eq!(found.samplers.iter().map(|sampler| sampler.name).collect::<Vec<_>>(), KINDS);
        // What dpm++ remembers: the estimate of x0 before.
        assert!(found.slots == 1 && !found.learns_variance);
        for sampler in &found.samplers {
            assert_eq!(sampler.programs.iter().map(|program| program.steps).collect::<Vec<_>>(), STEPS);
            for program in &sampler.programs {
                let text = serde_json::to_string(program).expect("plain numbers");
                let json: serde_json::Value = serde_json::from_str(&text).expect("what was just written");
                let kind = SamplerKind::called(sampler.name).expect("a name");
                let own = config.sampler(kind, program.steps, None).expect("a sampler");
                let plan = own.plan(&config.schedule().expect("a schedule")).expect("a plan");
                assert_eq!(plan.len(), program.evaluations);
                for (index, step) in plan.iter().enumerate() {
                    let mut wanted = Step::default();
                    set_coefficients(&mut wanted, step);
                    assert_eq!(uniform(&json, index).to_bytes(), wanted.to_bytes(), "{} {index}", sampler.label);
                }
            }
        }
    }

    #[test]
    fn a_model_of_few_timesteps_has_few_programs() {
        let config = |timesteps| SchedulerConfig { num_train_timesteps: timesteps, ..SchedulerConfig::default() };
        let steps = |sampler: &Sampler| sampler.programs.last().expect("one at least").steps;
        assert!(programs(&config(10)).expect("some").samplers.iter().all(|sampler| steps(sampler) <= 10));
        let error = programs(&config(4)).err().expect("none").to_string();
        assert_eq!(error, "a page draws in 5 steps at the least, this model has fewer");
    }
}
