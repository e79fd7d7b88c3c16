//! `diffuse evaluate`.

mod args;
mod found;
mod quality;
mod text;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::adapter::Adapter;
use super::decoding;
use super::output::say;
use super::outputs::{Input, Output, Source, check_apart, file, input};
use super::progress::Progress;
use super::sampler;
pub use args::Args;
use args::Likelihood;
use diffuse::chart::{Curve, write_curves};
use diffuse::checkpoint::{self, Checkpoint};
use diffuse::data::{self, Dataset, Split, Want};
use diffuse::diffusion::Schedule;
use diffuse::error::counted;
use diffuse::evaluate::levels::{LevelError, level_errors};
use diffuse::evaluate::likelihood::{
    BoundOptions, Dequantization, FlowOptions, Setting, VariationalBound, flow_likelihood, variational_bound,
};
use diffuse::files;
use diffuse::nn::config::Size;
use diffuse::run::{Denoiser, Session};
use found::{Found, HeldOut};
use quality::{NEAREST, Trial};

/// Runs the command.
pub fn run(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.sampler.is_list() {
        return super::output::print(&sampler::list());
    }
    args.json.check()?;
    check(args, adapter)?;
    let model = checkpoint::load(&args.checkpoint)?;
    let (split, schedule) = (load_split(args, &model)?, model.scheduler.schedule()?);
    let held_out = HeldOut::of(&model.directory, &args.data, &split);
    say(split.summary());
    let trial =
        args.judge.as_ref().map(|judge| Trial::load(args, (&model, adapter.ranks()), judge, &split)).transpose()?;
    let context = adapter.open()?;
    let count = args.count.map_or(args.batch, |count| count.try_into().unwrap_or(u32::MAX));
    let session = adapter.session_for(&context, count, args.batch)?;
    let mut found = Found::default();
    // A part is shown when it is there: what comes behind it may take long, or fail.
    let show = |lines: Vec<String>| match args.json.is_alone() {
        true => Ok(()),
        false => super::output::print(&lines.join("\n")),
    };
    show(vec![text::test_images(&split, held_out)])?;
    // What is no drawing is rank 0's.
    let leads = adapter.ranks().is_none_or(|ranks| ranks.rank() == 0);
    if leads && (args.likelihood.is_some() || args.levels) {
        look(args, session.another(), &model, &split.test, &schedule, &mut found)?;
        let clip = model.scheduler.clip_sample.then_some(model.scheduler.clip_sample_range);
        show(text::likelihood(&found, clip))?;
    }
    if let Some(trial) = trial {
        trial.run(args, &session, &split, &mut found)?;
        show(text::judged(&found))?;
    }
    show(found.files.iter().map(|path| format!("written: {}", path.display())).collect())?;
    args.json.print_object(|| object(&found, held_out))
}

/// What was found, without what wasn't asked for.
fn object(found: &Found, held_out: HeldOut) -> Value {
    let Found { bound, flow, levels, drawn, quality, files } = found;
    let mut object = json!({
        "variational_bound": bound, "probability_flow": flow, "levels": levels, "drawn": drawn,
        "quality_on_classifier_features": quality, "test_images_held_out": held_out.value(), "files": files,
    });
    object.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
    object
}

/// Terms of the bound: four one by one, and two pairs of what the others are estimated from.
const LEAST_TERMS: usize = 8;

/// Runge-Kutta steps of the ODE, unless told otherwise.
const ODE_STEPS: usize = 40;

/// Runge-Kutta steps below which the flow's likelihood means nothing.
const LEAST_ODE_STEPS: usize = 8;

fn check(args: &Args, adapter: &Adapter) -> Result<()> {
    if args.likelihood.is_none() && !args.quality && !args.levels {
        bail!("nothing to evaluate: give --likelihood vlb, --likelihood ode, --quality or --levels");
    }
    if args.variance.is_given() && !args.quality && args.likelihood != Some(Likelihood::Vlb) {
        bail!("--variance goes with --quality and --likelihood vlb");
    }
    if args.count == Some(0) || args.batch == 0 {
        bail!("--count and --batch must be at least 1");
    }
    check_flags(args)?;
    if let Some(steps) = args.ode_steps.filter(|steps| *steps < LEAST_ODE_STEPS) {
        bail!("--ode-steps {steps}: fewer than {LEAST_ODE_STEPS} are nowhere near the density");
    }
    if let Some(terms) = args.terms.filter(|terms| *terms < LEAST_TERMS) {
        bail!("--terms {terms}: fewer than {LEAST_TERMS} say nothing of their own error");
    }
    check_outputs(args, adapter)
}

/// Flags that change nothing of what is asked for are a mistake.
fn check_flags(args: &Args) -> Result<()> {
    let of = |likelihood| args.likelihood == Some(likelihood);
    let misplaced = [
        (args.terms.is_some() && !of(Likelihood::Vlb), "--terms goes with --likelihood vlb"),
        (args.ode_steps.is_some() && !of(Likelihood::Ode), "--ode-steps goes with --likelihood ode"),
        (args.dequantize.is_some() && !of(Likelihood::Ode), "--dequantize goes with --likelihood ode"),
    ];
    match misplaced.into_iter().find(|(is_misplaced, _)| *is_misplaced) {
        Some((_, problem)) => bail!(problem),
        None => Ok(()),
    }
}

/// The pictures that it writes.
const TERMS: &str = "variational_bound.png";
const LOSS: &str = "loss_by_timestep.png";
const ERROR: &str = "x0_error_by_timestep.png";

fn check_outputs(args: &Args, adapter: &Adapter) -> Result<()> {
    let bound = args.likelihood == Some(Likelihood::Vlb);
    let pictures = [(TERMS, bound), (LOSS, args.levels), (ERROR, args.levels), (NEAREST, args.quality)];
    let pictures = pictures.into_iter().filter(|(_, is_drawn)| *is_drawn).map(|(name, _)| args.out.join(name));
    let pictures: Vec<PathBuf> = pictures.collect();
    pictures.iter().try_for_each(|path| files::check_writable(path))?;
    let json = file("--json", args.json.file());
    let writes: Vec<Output> = pictures.iter().filter_map(|path| file("--out", Some(path))).chain(json).collect();
    let named = [("--samples", args.samples.as_deref()), ("--judge", args.judge.as_deref())];
    let named = named.into_iter().map(|(flag, path)| input(flag, path));
    let checkpoint = input("the checkpoint", Some(&*args.checkpoint));
    let data = Some(("--data", Source::Data(Path::new(&args.data))));
    let others = [adapter.file(), args.steering.file(), checkpoint, data];
    let reads: Vec<Input> = named.chain(others).flatten().collect();
    check_apart(&writes, &reads)
}

/// The data in the model's size.
fn load_split(args: &Args, model: &Checkpoint) -> Result<Split> {
    let config = &model.unet.config;
    let want =
        args.memory.put(Want::of(config.sample_size.map(Size::sides), config.in_channels)).watched(decoding::watch());
    let mut split = data::load_split(&args.data, &want)?;
    split.train.account.warnings().iter().for_each(|warning| log::warn!("{warning}"));
    let tests = split.test.len();
    if args.count.is_some_and(|count| count > tests) {
        let tests = counted(tests as u64, "test image");
        say(format_args!("{} has {tests}: no more are looked at, or compared with", args.data));
    }
    if let Some(known) = &model.classes {
        split.put_in_order(&known.names, known.are_named).map_err(|problem| anyhow!("{}: {problem}", args.data))?;
    }
    Ok(split)
}

/// Images whose likelihood or errors are asked for.
fn count(args: &Args, test: &Dataset) -> usize {
    args.count.unwrap_or(64).min(test.len())
}

/// Their batches: (N, H, W).
fn size(args: &Args, test: &Dataset) -> [u32; 3] {
    [args.batch.min(count(args, test) as u32), test.height, test.width]
}

/// Likelihood and errors by level.
fn look(
    args: &Args,
    session: Session,
    model: &Checkpoint,
    test: &Dataset,
    schedule: &Schedule,
    found: &mut Found,
) -> Result<()> {
    let (count, size) = (count(args, test), size(args, test));
    let product = args.likelihood == Some(Likelihood::Ode);
    let network = Denoiser::new(session, &model.unet, &model.weights, size, product)?;
    let scheduler = &model.scheduler;
    let setting = Setting {
        schedule,
        prediction: scheduler.prediction()?,
        variance: args.variance.of(scheduler)?,
        clip: scheduler.clip_sample.then_some(scheduler.clip_sample_range),
    };
    let seed = args.seed.into();
    let mut bar = Progress::new("evaluating", 0, 0);
    let mut watch = |done, of| bar.set_of(done, of);
    match args.likelihood {
        Some(Likelihood::Vlb) => {
            let bound = variational_bound(
                &network,
                test,
                count,
                &setting,
                &BoundOptions { terms: args.terms, seed },
                &mut watch,
            )?;
            found.files.push(write_terms(&args.out, &bound)?);
            found.bound = Some(bound);
        }
        Some(Likelihood::Ode) => {
            let steps = args.ode_steps.unwrap_or(ODE_STEPS);
            let options =
                FlowOptions { steps, dequantization: args.dequantize.unwrap_or(Dequantization::Uniform), seed };
            found.flow = Some(flow_likelihood(&network, test, count, &setting, &options, &mut watch)?);
        }
        None => {}
    }
    if args.levels {
        let levels = level_errors(&network, test, count, &setting, (25, seed), &mut watch)?;
        found.files.extend(write_levels(&args.out, &levels)?);
        found.levels = Some(levels);
    }
    bar.finish();
    Ok(())
}

fn write_terms(out: &Path, bound: &VariationalBound) -> Result<PathBuf> {
    let path = out.join(TERMS);
    let terms = bound.timesteps.iter().zip(&bound.reverse).map(|(t, bits)| (*t as u64, *bits));
    let curve = Curve::new("L_t", terms);
    let title = "variational bound, term by term";
    write_curves(&path, title, ["timestep", "bits per dimension"], &[curve])?;
    Ok(path)
}

fn write_levels(out: &Path, levels: &[LevelError]) -> Result<[PathBuf; 2]> {
    let paths = [LOSS, ERROR].map(|name| out.join(name));
    let curve = |name: &str, value: fn(&LevelError) -> f64| {
        Curve::new(name, levels.iter().map(|level| (level.timestep as u64, value(level))))
    };
    write_curves(&paths[0], "loss by timestep", ["timestep", "mean square error"], &[curve("loss", |l| l.loss)])?;
    let curves = [
        curve("waves longer than 8 pixels: coherence", |level| level.low),
        curve("8 to 4 pixels", |level| level.middle),
        curve("shorter waves: detail", |level| level.high),
    ];
    let title = "error of the estimate of x0 by timestep";
    write_curves(&paths[1], title, ["timestep", "mean square error"], &curves)?;
    Ok(paths)
}
