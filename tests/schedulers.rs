//! Scheduler configurations as people have them: against diffusers (schedulers/chains.json, made by
//! schedulers/make_chains.py), and what is refused.

use std::convert::Infallible;

use diffuse::checkpoint::SchedulerConfig;
use diffuse::diffusion::{Denoiser, End, SLOTS, Sampler, SamplerKind, Spacing, Step, Threshold};
use serde_json::{Value, json};

fn config(value: &Value) -> SchedulerConfig {
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

/// The sampler of the configuration's class.
fn sampler(config: &SchedulerConfig, steps: usize) -> diffuse::error::Result<Sampler> {
    config.sampler(config.kind(None)?.expect("a class with a sampler"), steps, None)
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
    // One of 100 timesteps with exponential sigmas.
    assert_eq!((equal, refused.len()), (69, 1), "{refused:#?}");
    assert!(refused[0].contains("the last bit of a logarithm"), "{refused:#?}");
}

fn refusal(value: &Value) -> String {
    let config = config(value);
    match config.schedule().and_then(|schedule| Ok((sampler(&config, 5)?, schedule))) {
        Ok((sampler, schedule)) => sampler.program(&schedule).expect_err(&format!("{value}: drawn")).to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_not_built_is_refused_by_name() {
    let (multistep, unipc, euler) =
        ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "EulerDiscreteScheduler");
    let cases = [
        (json!({"_class_name": multistep, "use_flow_sigmas": true}), "use_flow_sigmas true"),
        (json!({"_class_name": multistep, "algorithm_type": "sde-dpmsolver"}), "algorithm_type \"sde-dpmsolver\""),
        (json!({"_class_name": multistep, "algorithm_type": "dpm"}), "algorithm_type is \"dpm\""),
        (json!({"_class_name": multistep, "algorithm_type": "sde-dpmsolver++", "solver_order": 3}), "solver order 3"),
        (json!({"_class_name": multistep, "solver_order": 4}), "solver order 4"),
        (json!({"_class_name": unipc, "predict_x0": false}), "predict_x0 false"),
        (json!({"_class_name": unipc, "disable_corrector": [64]}), "disable_corrector is [64]"),
        (json!({"_class_name": unipc, "lower_order_final": false}), "solver order 2"),
        (json!({"_class_name": unipc, "prediction_type": "flow_prediction"}), "flow_prediction"),
        (json!({"_class_name": euler, "interpolation_type": "log_linear"}), "log_linear"),
        (json!({"_class_name": euler, "timestep_type": "continuous", "prediction_type": "v_prediction"}), "continuous"),
        (json!({"_class_name": euler, "final_sigmas_type": "half"}), "final_sigmas_type is \"half\""),
        (json!({"_class_name": euler, "use_karras_sigmas": true, "use_exponential_sigmas": true}), "only one"),
        (json!({"_class_name": euler, "use_karras_sigmas": true, "sigma_min": -1.0}), "sigma_min -1"),
        (json!({"variance_type": "fixed_large_log"}), "fixed_large_log"),
        (json!({"predict_epsilon": false}), "predict_epsilon"),
        (json!({"beta_schedule": "quadratic"}), "quadratic"),
        (json!({"trained_betas": [0.1, 0.2]}), "trained_betas holds 2 betas"),
        (json!({"trained_betas": [0.1, 1.2], "num_train_timesteps": 2}), "beta 1.2 of timestep 1"),
        (json!({"trained_betas": "many"}), "trained_betas is \"many\""),
        (json!({"steps_offset": 1.5}), "steps_offset is 1.5"),
        (json!({"steps_offset": 300}), "steps_offset"),
        (json!({"thresholding": "yes"}), "thresholding is \"yes\""),
        (json!({"thresholding": true, "sample_max_value": 0.5}), "sample_max_value 0.5"),
        (json!({"rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}), "rescale_betas_zero_snr"),
        (
            json!({"_class_name": euler, "use_karras_sigmas": true, "rescale_betas_zero_snr": true,
                   "beta_schedule": "squaredcos_cap_v2"}),
            "rescale_betas_zero_snr with beta_schedule squaredcos_cap_v2",
        ),
        (
            json!({"_class_name": multistep, "use_exponential_sigmas": true, "beta_schedule": "scaled_linear",
                   "beta_start": 0.00085, "beta_end": 0.012}),
            "the last bit of a logarithm in diffusers, on this schedule",
        ),
        (
            json!({"_class_name": multistep, "use_karras_sigmas": true, "beta_schedule": "squaredcos_cap_v2",
                   "num_train_timesteps": 120}),
            "the last bit of a logarithm",
        ),
        // What Python takes for true or false.
        (json!({"_class_name": "DDIMScheduler", "set_alpha_to_one": null}), "set_alpha_to_one is null"),
        (json!({"_class_name": unipc, "predict_x0": 0}), "predict_x0 is 0, and must be true or false"),
        (json!({"_class_name": unipc, "use_flow_sigmas": "true"}), "use_flow_sigmas is \"true\""),
        (json!({"_class_name": unipc, "use_dynamic_shifting": 1}), "use_dynamic_shifting is 1"),
        (json!({"_class_name": unipc, "lower_order_final": null}), "lower_order_final is null"),
        (json!({"predict_epsilon": 0}), "predict_epsilon is 0"),
        (json!({"_class_name": null}), "_class_name is null"),
        (
            json!({"_class_name": euler, "use_karras_sigmas": true, "sigma_min": 20.0, "sigma_max": 0.05}),
            "sigma_min 20",
        ),
        (json!({"num_train_timesteps": 1_000_000_000}), "num_train_timesteps 1000000000: at most 1048576"),
        (json!({"_class_name": multistep, "use_lu_lambdas": true, "rescale_betas_zero_snr": true}), "use_lu_lambdas"),
        (json!({"a_new_key": 3}), "a_new_key"),
    ];
    for (config, part) in cases {
        let refusal = refusal(&config);
        assert!(refusal.contains(part) && !refusal.contains('\n'), "{config}: {refusal}");
    }
}

/// Whose time is another, or whose steps.
#[test]
fn classes_that_are_not_read_are_refused_by_name() {
    let classes = [
        "CMStochasticIterativeScheduler",
        "DDPMWuerstchenScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMapEulerDiscreteScheduler",
        "IPNDMScheduler",
        "KarrasVeScheduler",
        "LCMScheduler",
        "ScoreSdeVeScheduler",
        "TCDScheduler",
        "UnCLIPScheduler",
        "OfTomorrowScheduler",
    ];
    for class in classes {
        let refusal = refusal(&json!({"_class_name": class, "shift": 3.0}));
        assert!(refusal.starts_with(&format!("{class} is not read here: ")), "{refusal}");
    }
}

#[test]
fn each_class_has_its_own_defaults() {
    let of = |class: &str| {
        let config = config(&json!({ "_class_name": class }));
        (config.clone(), config.sampler(SamplerKind::Ddim { eta: 0.0 }, 5, None).unwrap())
    };
    for class in ["DDPMScheduler", "DDIMScheduler"] {
        assert_eq!((of(class).1.clip, of(class).1.spacing), (Some(1.0), Spacing::Leading), "{class}");
    }
    let others =
        ["EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "DEISMultistep"];
    for class in others.iter().chain(&["DPMSolverSinglestep", "DPMSolverMultistep", "UniPCMultistep"]) {
        let (_, sampler) = of(&format!("{class}Scheduler"));
        assert_eq!((sampler.clip, sampler.spacing), (None, Spacing::Linspace), "{class}");
    }
    let heun = of("HeunDiscreteScheduler").0;
    assert_eq!((heun.beta_start, heun.beta_end), (0.00085, 0.012));
    assert_eq!(of("PNDMScheduler").1.discretization.end, End::First);
    assert_eq!(of("DDIMScheduler").1.discretization.end, End::Clean);
    assert!(of("PNDMScheduler").0.has_no_sampler() && !of("DDIMScheduler").0.has_no_sampler());
    // Euler never clamps, whatever the file says.
    assert!(!config(&json!({"_class_name": "EulerDiscreteScheduler", "clip_sample": true})).clip_sample);
}

/// Keys that say nothing, or of another class, or that JSON has not.
#[test]
fn harmless_keys_change_nothing() {
    let plain = json!({"_class_name": "DPMSolverMultistepScheduler"});
    let more = json!({
        "_class_name": "DPMSolverMultistepScheduler", "_diffusers_version": "0.42.1", "lambda_min_clipped": "-Infinity",
        "variance_type": null, "trained_betas": null, "skip_prk_steps": true, "set_alpha_to_one": false, "flow_shift": 3.0,
        "time_shift_type": "exponential", "new_and_off": false, "new_and_none": null, "clip_sample": true,
    });
    let [plain, more] = [plain, more].map(|value| config(&value));
    assert_eq!(sampler(&plain, 7).unwrap(), sampler(&more, 7).unwrap());
    assert_eq!(plain.schedule().unwrap(), more.schedule().unwrap());
}
