//! The probability-flow ODE by an adaptive Runge-Kutta pair: dy/dkappa = eps with y = x / alpha (Karras et al. 2022, eq. 1
//! with their t = kappa), which is the ODE of every schedule (Song et al. 2021, eq. 13 and appendix D.1).
//!
//! The pair is Dormand & Prince 1980, RK5(4)7M; steps are chosen as Hairer, Norsett & Wanner 1993, section II.4, say.

use super::denoiser::Denoiser;
use super::path::Level;
use super::schedule::Schedule;
use super::step::Step;
use super::step::{Estimate, Form};

/// Where the stages lie (Dormand & Prince 1980, table 2).
const NODES: [f64; 7] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];

/// Row i: the slopes that lead to stage i + 1. The last row is the solution of fifth order.
const WEIGHTS: [[f64; 6]; 6] = [
    [1.0 / 5.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [3.0 / 40.0, 9.0 / 40.0, 0.0, 0.0, 0.0, 0.0],
    [44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0, 0.0, 0.0, 0.0],
    [19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0, 0.0, 0.0],
    [9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0, 0.0],
    [35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];

/// The solution of fifth order less that of fourth.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339200.0, 22.0 / 525.0, -1.0 / 40.0];

/// Slots of the stages' estimates of x0: 0 and 1 hold x at the step's beginning and at its end, in turn.
const FIRST_ESTIMATE: usize = 2;

/// No step is shorter than this share of kappa, so that a network's rounding can't stop it, and none longer than that.
const SHORTEST: f64 = 1e-3;
const LONGEST: f64 = 0.9;

/// How the steps are chosen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Control {
    /// The estimated error of a step, root mean square over all elements, stays below this many times that of x.
    Tolerance(f64),
    /// These levels are visited, whatever the error: to measure the order.
    Levels(Vec<Level>),
}

/// The ODE's way from one level to another, and from there to x0_hat.
#[derive(Clone, Debug, PartialEq)]
pub struct RungeKutta {
    pub(super) estimate: Estimate,
    pub(super) schedule: Schedule,
    pub(super) from: Level,
    pub(super) to: Level,
    pub(super) control: Control,
}

/// What a run took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Evaluations of the network.
    pub evaluations: usize,
    /// Steps whose error was small enough.
    pub accepted: usize,
    /// Steps that were tried again, shorter.
    pub rejected: usize,
    /// The largest error that the adaptive pair estimated for a step it accepted, relative to x.
    pub worst: f64,
}

/// A step under way: where its tensors lie, and what they add up to.
struct Attempt {
    /// Levels of the seven stages.
    levels: [Level; 7],
    /// y of each stage.
    y: [Form; 7],
    /// The estimated error of the last stage's y.
    error: Form,
    /// Whether the slots of beginning and end are exchanged.
    odd: bool,
}

/// The slot of stage `stage`'s estimate of x0. The last stage of a step is the first of the next.
fn estimate_slot(stage: usize, odd: bool) -> usize {
    match (stage, odd) {
        (0, true) => FIRST_ESTIMATE + 6,
        (6, true) => FIRST_ESTIMATE,
        _ => FIRST_ESTIMATE + stage,
    }
}

/// `form` at a moment at which what `slot` is to hold is still the estimate of x0.
fn fresh(form: Form, slot: usize) -> Form {
    let mut previous = form.previous;
    let x0 = std::mem::take(&mut previous[slot]);
    Form { x0: form.x0 + x0, previous, ..form }
}

impl Attempt {
    /// The step from `level` by `length` in kappa, below 0.
    fn new(schedule: &Schedule, level: Level, length: f64, odd: bool) -> Attempt {
        let levels = NODES.map(|node| match node {
            0.0 => level,
            _ => schedule.level_of(level.kappa() + node * length),
        });
        let mut y = [Form::slot(usize::from(odd)) * (1.0 / level.alpha); 7];
        let mut slopes = [Form::default(); 7];
        for stage in 0..7 {
            for earlier in 0..stage {
                y[stage] = y[stage] + length * WEIGHTS[stage - 1][earlier] * slopes[earlier];
            }
            let x0 = Form::slot(estimate_slot(stage, odd));
            slopes[stage] = (y[stage] - x0) * (1.0 / levels[stage].kappa());
        }
        let error = (0..7).fold(Form::default(), |sum, stage| sum + length * ERROR[stage] * slopes[stage]);
        Attempt { levels, y, error, odd }
    }

    /// Runs the seven stages but the first, whose estimate is there. Leaves the error in x.
    fn run<D: Denoiser>(&self, estimate: Estimate, device: &mut D) -> Result<(), D::Error> {
        let [begin, first] = [self.levels[0], self.levels[1]];
        device.update(&Step { keep: None, ..estimate.step(begin, first, first.alpha * self.y[1], 0.0) })?;
        for stage in 1..7 {
            let (at, slot) = (self.levels[stage], estimate_slot(stage, self.odd));
            let (to, next) = match self.y.get(stage + 1) {
                Some(y) => (self.levels[stage + 1], self.levels[stage + 1].alpha * *y),
                None => (at, at.alpha * self.error),
            };
            let keep_x = (stage == 6).then_some(usize::from(!self.odd));
            device.evaluate(&Step { keep: Some(slot), keep_x, ..estimate.step(at, to, fresh(next, slot), 0.0) })?;
        }
        Ok(())
    }
}

impl RungeKutta {
    /// Where it starts.
    pub fn start(&self) -> Level {
        self.from
    }

    /// Where its last evaluation lies.
    pub fn end(&self) -> Level {
        self.to
    }

    /// How much of the way from the first to the last level is done at `level`, 0 to 1, by the logarithm of kappa.
    pub fn share(&self, level: Level) -> f64 {
        let whole = (self.from.kappa() / self.to.kappa()).ln();
        if whole > 0.0 { ((self.from.kappa() / level.kappa()).ln() / whole).clamp(0.0, 1.0) } else { 1.0 }
    }

    /// Integrates on `device`, whose x is at the first level; leaves x0_hat there.
    ///
    /// # Errors
    /// The device's.
    pub fn run<D: Denoiser>(&self, device: &mut D) -> Result<Report, D::Error> {
        let mut report = Report { evaluations: 1, ..Report::default() };
        let (mut level, mut odd) = (self.from, false);
        let stay = self.estimate.step(level, level, Form::X, 0.0);
        device.evaluate(&Step { keep: Some(estimate_slot(0, odd)), keep_x: Some(0), ..stay })?;
        // As a share of kappa, which the smoothness of the way goes with.
        let (mut length, mut cautious) = (0.1, false);
        while level.kappa() > self.to.kappa() {
            let next = self.next(level, length, report.accepted);
            let attempt = Attempt::new(&self.schedule, level, next - level.kappa(), odd);
            attempt.run(self.estimate, device)?;
            report.evaluations += 6;
            let reached = attempt.levels[6];
            let error = device.rms()? / self.schedule.path().deviation(reached.alpha, reached.sigma);
            let shortest = length <= SHORTEST;
            let (accepted, factor) = match self.control {
                Control::Levels(_) => (true, 1.0),
                // What isn't finite stays so: on to the end, where it shows.
                Control::Tolerance(_) if !error.is_finite() => (true, 5.0),
                Control::Tolerance(tolerance) => {
                    let factor = (0.9 * (tolerance / error.max(f64::MIN_POSITIVE)).powf(0.2)).clamp(0.2, 5.0);
                    (error <= tolerance || shortest, factor)
                }
            };
            // Not longer right behind a step that was too long.
            let most = if cautious { 1.0 } else { f64::INFINITY };
            length = ((1.0 - next / level.kappa()) * factor.min(most)).clamp(SHORTEST, LONGEST);
            cautious = !accepted;
            if accepted {
                (level, odd) = (if next == self.to.kappa() { self.to } else { reached }, !odd);
                report.accepted += 1;
                report.worst = report.worst.max(error);
            } else {
                report.rejected += 1;
            }
        }
        let last = self.estimate.step(level, Level::CLEAN, Form::slot(estimate_slot(0, odd)), 0.0);
        device.update(&Step { keep: None, ..last })?;
        Ok(report)
    }

    /// The kappa to step to.
    fn next(&self, level: Level, length: f64, accepted: usize) -> f64 {
        let next = match &self.control {
            Control::Levels(levels) => levels[accepted + 1].kappa(),
            Control::Tolerance(_) => level.kappa() * (1.0 - length),
        };
        next.max(self.to.kappa())
    }
}
