//! A run on several ranks: what they tell each other before the first step, and the loop of those that follow.

use serde::{Deserialize, Serialize};

use super::model::Model;
use super::run::{Run, load_data, open};
use super::share::{hand_out, read_once};
use super::stored::digest;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::gpu::Context;
use crate::ranks::{self, Order, Ranks, hear, tell};
use crate::run::trainer::check_shared;
use crate::run::{Crossing, TrainOptions, Trainer};
use crate::tune::{self, Chosen, Mode, Policy};

/// What rank 0 tells the others of a run.
#[derive(Serialize, Deserialize)]
struct Plan {
    options: TrainOptions,
    /// The ways that it runs, made for the shape of a shard: others would give other bits.
    choices: Vec<Chosen>,
    crossing: Crossing,
}

/// What the ranks of a run have alike.
type Own = (String, String);

/// Of a rank on `context`, with data of this digest.
fn own(context: &Context, data: &str) -> Own {
    (format!("{} ({})", context.info.name, context.driver()), data.into())
}

/// Tells all ranks the device and the data of this one, or why it can't take part; why they can't go on together, the same line at all
/// of them. Collective.
fn agree(ranks: &dyn Ranks, own: std::result::Result<Own, &Error>) -> Option<String> {
    let problem = own.as_ref().err().map(ToString::to_string);
    if let Some((rank, problem)) = ranks::ready(ranks, problem.as_deref()) {
        return Some(format!("{}: {problem}", ranks.name(rank)));
    }
    let (device, data) = own.unwrap_or_default();
    if let Some((rank, [theirs, first])) = ranks::difference(ranks, &device) {
        let name = ranks.name(rank);
        return Some(format!("{name} computes on {theirs}, rank 0 on {first}: they would not have the same bits"));
    }
    let (rank, _) = ranks::difference(ranks, &data)?;
    let problem = "has other data than rank 0: the same files must lie there under the same path";
    Some(format!("{} {problem}", ranks.name(rank)))
}

impl<'a> Run<'a> {
    /// From here on the run is that of all ranks, of which this one leads. Collective.
    ///
    /// # Errors
    /// [`Error::Config`] if this run can't be shared, or if a rank differs; [`Error::Device`] if there is no memory.
    pub fn join(&mut self, ranks: &'a dyn Ranks) -> Result<()> {
        let (options, (data, digest)) = (self.options().clone(), self.take_data());
        let data = data.expect("the first step is not done yet");
        begin(ranks, self.trainer(), options, (&data, digest), Crossing::default())
    }
}

/// A step on all ranks that belongs to no run, with initial weights. Collective.
///
/// # Errors
/// As [`Run::join`], and of [`load_data`].
pub fn lead<'c>(
    ranks: &'c dyn Ranks,
    context: &'c Context,
    policy: &Policy,
    mut options: TrainOptions,
    crossing: Crossing,
) -> Result<Trainer<'c>> {
    options.validate()?;
    let data = load_data(&mut options, None)?;
    let (model, session) = (Model::new(&options, &data)?, open(context, policy, &options));
    let mut trainer = Trainer::new(session, model.objective(), &data, &options)?;
    trainer.write_weights(&model.params().initialise(options.seed));
    begin(ranks, &mut trainer, options, (&data, digest(&data)), crossing)?;
    Ok(trainer)
}

/// Tells other ranks what `trainer` does, and joins them.
fn begin<'a>(
    ranks: &'a dyn Ranks,
    trainer: &mut Trainer<'a>,
    options: TrainOptions,
    (data, digest): (&Dataset, String),
    crossing: Crossing,
) -> Result<()> {
    check_shared(&options, ranks)?;
    let plan = Plan { options, choices: tune::chosen(trainer.session.choices()), crossing };
    tell(ranks, Order::Begin);
    ranks::share_text(ranks, &serde_json::to_string(&plan).expect("a plan can be written"));
    hand_out(ranks, Ok(data));
    match agree(ranks, Ok(own(trainer.session.context, &digest))) {
        Some(problem) => Err(Error::Config(problem)),
        None => {
            ranks.set_between_orders(false);
            trainer.join(ranks, crossing)?;
            ranks.set_between_orders(true);
            Ok(())
        }
    }
}

/// Takes part in the run that rank 0 begins, until that ends: on `context`, or not at all, with the reason. `wants_stop` says whether
/// this rank was asked to end, `warn` hears what audits find. Whether the run ended well. Collective.
///
/// # Errors
/// [`Error::Device`] if the device failed in a step: the others wait for this rank then.
pub fn follow<'c>(
    ranks: &'c dyn Ranks,
    opened: Opened<'c>,
    policy: &Policy,
    wants_stop: impl Fn() -> bool,
    warn: impl Fn(&str),
) -> Result<bool> {
    let mut trainer = None;
    loop {
        match (hear(ranks), &mut trainer) {
            (Order::End { is_sound }, _) => return Ok(is_sound),
            (Order::Begin, _) => trainer = take_part(ranks, &opened, policy)?,
            (order, Some(trainer)) => trainer.follow(order, wants_stop())?,
            // It was not to be, and rank 0 says so.
            (_, None) => {}
        }
        let findings = trainer.iter_mut().flat_map(Trainer::findings);
        findings.for_each(|finding| warn(&finding.to_string()));
    }
}

/// Joins what rank 0 began; none if not all ranks can.
fn take_part<'c>(ranks: &'c dyn Ranks, opened: &Opened<'c>, policy: &Policy) -> Result<Option<Trainer<'c>>> {
    let plan = ranks::share_text(ranks, "");
    let plan: Result<Plan> =
        serde_json::from_str(&plan).map_err(|error| Error::Config(format!("rank 0's plan: {error}")));
    let data = read_once(ranks, || {
        let Plan { options, .. } = plan.as_ref().map_err(|error| Error::Config(error.to_string()))?;
        load_data(&mut options.clone(), None)
    });
    let prepared = opened.clone().map_err(Error::Device).and_then(|context| {
        let (plan, data) = (plan?, data?);
        let crossing = plan.crossing;
        Ok((context, prepare(context, policy, plan, &data)?, digest(&data), crossing))
    });
    let told = prepared.as_ref().map(|(context, _, data, _)| own(context, data));
    let (None, Ok((_, mut trainer, _, crossing))) = (agree(ranks, told), prepared) else { return Ok(None) };
    trainer.join(ranks, crossing)?;
    Ok(Some(trainer))
}

/// The device of a rank, or why it has none.
pub type Opened<'c> = std::result::Result<&'c Context, String>;

/// The step of rank 0's run on this device.
fn prepare<'c>(context: &'c Context, policy: &Policy, plan: Plan, data: &Dataset) -> Result<Trainer<'c>> {
    let Plan { options, choices, .. } = plan;
    let policy = Policy { mode: Mode::Off, explicit: choices, tell: None, ..policy.clone() };
    let (model, session) = (Model::new(&options, data)?, open(context, &policy, &options));
    Trainer::new(session, model.objective(), data, &options)
}
