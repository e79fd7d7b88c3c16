//! What `diffuse evaluate` says to people.

use super::found::{Found, HeldOut};
use crate::cli::draw::Method;
use diffuse::data::Split;
use diffuse::error::counted;
use diffuse::evaluate::levels::LevelError;
use diffuse::evaluate::likelihood::{Dequantization, Estimate, FlowLikelihood, VariationalBound};
use diffuse::evaluate::quality::{Nearest, Quality, Report};
use diffuse::evaluate::statistics::Measured;
use diffuse::evaluate::structure::Structure;
use serde_json::Value;

/// Which the test images are, and whether they are any.
pub fn test_images(split: &Split, held_out: HeldOut) -> String {
    let which = if split.held_out { "every tenth of each class" } else { "the data's own" };
    let seen = match held_out {
        HeldOut::Yes => "the model was not trained on them",
        HeldOut::No => "the model was trained on them, too",
        HeldOut::Unknown => "nobody knows whether the model was trained on them",
    };
    format!("test images: {which}; {seen}")
}

/// Likelihood and errors by level, a line each.
pub fn likelihood(found: &Found, clip: Option<f64>) -> Vec<String> {
    let mut lines: Vec<String> = found.bound.iter().flat_map(|found| bound(found, clip)).collect();
    lines.extend(found.flow.iter().map(flow));
    lines.extend(found.levels.iter().flat_map(|found| levels(found)));
    lines
}

/// How samples were drawn and what they are worth, a line each.
pub fn judged(found: &Found) -> Vec<String> {
    found.drawn.iter().map(drawn).chain(found.quality.iter().flat_map(quality)).collect()
}

fn bound(bound: &VariationalBound, clip: Option<f64>) -> Vec<String> {
    let VariationalBound { images, prior, timesteps, reverse, between, sampling_error, decoder, total } = bound;
    let clip = clip.map_or(String::new(), |range| format!(", the estimate of x0 clamped to [-{range}, {range}]"));
    let off = sampling_error.map_or(String::new(), |error| format!(" that stand for all, +- {error:.4}"));
    let mut lines = vec![
        format!("variational bound of {}, bits per dimension{clip}", counted(*images as u64, "image")),
        format!("  L_T            {prior:10.6}"),
        format!("  sum of L_(t-1) {between:10.6}  {} terms{off}, one draw of noise an image", reverse.len()),
    ];
    // Every term is in the picture and in --json; here those at tenths of the way.
    let tenths = (0..10).map(|tenth| tenth * (reverse.len().max(1) - 1) / 9);
    let mut shown: Vec<usize> = tenths.filter(|index| *index < reverse.len()).collect();
    shown.dedup();
    lines.extend(shown.into_iter().map(|index| format!("    L_{:<9}  {:10.6}", timesteps[index], reverse[index])));
    lines.push(format!("  L_0            {decoder:10.6}"));
    let over = if sampling_error.is_some() { "over images and terms" } else { "over images" };
    lines.push(format!("  total          {:10.4}{}", total.mean, error_of(total, over)));
    lines
}

/// ` +- 0.0123 (standard error over images)`.
fn error_of(estimate: &Estimate, over: &str) -> String {
    match estimate.standard_error {
        Some(error) => format!(" +- {error:.4} (standard error {over})"),
        None => " (one image: its error is not known)".into(),
    }
}

fn flow(flow: &FlowLikelihood) -> String {
    let FlowLikelihood { images, steps, dequantization, total } = flow;
    let kind = match dequantization {
        Dequantization::Uniform => "uniform dequantization",
        Dequantization::Gaussian => "down to the lowest noise level, then the decoder of the bound",
    };
    format!(
        "probability flow, {}, {steps} steps, {kind}: {:.4} bits per dimension{}",
        counted(*images as u64, "image"),
        total.mean,
        error_of(total, "over images")
    )
}

fn levels(levels: &[LevelError]) -> Vec<String> {
    let [low, middle, high] = ["x0: waves > 8 px", "8 to 4 px", "< 4 px"];
    let head = format!("{:>8} {:>12} {low:>18} {middle:>12} {high:>12}", "timestep", "loss");
    let line = |LevelError { timestep, loss, low, middle, high }: &LevelError| {
        format!("{timestep:8} {loss:12.5} {low:18.6} {middle:12.6} {high:12.6}")
    };
    std::iter::once(head).chain(levels.iter().map(line)).collect()
}

fn drawn(method: &Method) -> String {
    let setting = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name} {text}"),
        number => format!("{name} {number}"),
    };
    let mut how: Vec<String> = method.settings.iter().map(setting).collect();
    how.extend(method.steps.map(|steps| format!("{steps} steps")));
    how.extend(method.spacing.map(str::to_string));
    // To a tenth; whole numbers as such.
    let evaluations = (10.0 * method.evaluations_per_sample).round() / 10.0;
    let halves = if method.doubled_batch { ", each with and without class at once" } else { "" };
    let classifier = method.classifier_scale.map_or("none".into(), |scale| format!("scale {scale}"));
    format!(
        "drawn by {} ({}): {evaluations} evaluations of the network a sample{halves}; guidance {}, classifier {classifier}",
        method.sampler,
        how.join(", "),
        method.guidance
    )
}

/// Four decimals, of what is far from 1 in powers of ten.
fn figures(value: f64) -> String {
    if value.abs() < 1e5 { format!("{value:.4}") } else { format!("{value:.3e}") }
}

type Figure = fn(&Quality) -> Measured;

fn quality(report: &Report) -> Vec<String> {
    let Report { samples, floor, nearest, yardstick, structure: [ours, theirs], enough_images } = report;
    let mut lines = vec![
        "on classifier features (none of these figures is Inception's), 95 % intervals by bootstrap".to_string(),
        format!(
            "  {:<36} {:>24} {:>24}",
            "against training images",
            format!("{} samples", samples.images),
            format!("{} test images", floor.images)
        ),
    ];
    let rows: [(&str, Figure); 4] = [
        ("Fréchet distance", |quality| quality.frechet_distance),
        ("kernel distance (unbiased)", |quality| quality.kernel_distance),
        ("precision", |quality| quality.precision),
        ("recall", |quality| quality.recall),
    ];
    lines.extend(rows.into_iter().map(|(name, figure)| {
        let [ours, theirs] = [samples, floor].map(|quality| {
            let Measured { value, margin } = figure(quality);
            let margin = if margin.is_finite() { figures(margin) } else { "?".into() };
            format!("{} +- {margin}", figures(value))
        });
        format!("  {name:<36} {ours:>24} {theirs:>24}")
    }));
    if samples.images < *enough_images {
        lines.push(format!(
            "  of fewer than {enough_images} images all four are mostly noise, as those of the test images show: so are these"
        ));
    }
    let accuracy = |quality: &Quality| quality.accuracy.map_or("-".into(), |share| format!("{:.1} %", 100.0 * share));
    lines.push(format!("  {:<36} {:>24} {:>24}", "class accuracy", accuracy(samples), accuracy(floor)));
    lines.push("in large and in fine".into());
    let [halves, energies, patches] = [
        "right halves that left ones tell, R^2",
        "waves over 8, 8 to 4, under 4 pixels",
        "distance to the nearest 4x4 patch",
    ];
    let row = |name: &str, figure: fn(&Structure) -> String| {
        format!("  {name:<36} {:>24} {:>24}", figure(ours), figure(theirs))
    };
    lines.push(row(halves, |of| format!("{:.3}", of.halves)));
    lines.push(row(energies, |of| of.energies.map(|ratio| format!("{ratio:.2}")).join(" / ")));
    lines.push(row(patches, |of| of.patches.map_or("-".into(), |distance| format!("{distance:.4}"))));
    lines.push("distance to the nearest training image, rms of pixels: 5 %, median, 95 %".into());
    let distances = |name: &str, Nearest { quantiles: [low, median, high], share_below_yardstick, .. }: &Nearest| {
        let near = 100.0 * share_below_yardstick;
        format!("  {name:<12} {low:8.4} {median:8.4} {high:8.4}   {near:.1} % nearer than 95 % of the test images are")
    };
    lines.extend([distances("samples", nearest), distances("test images", yardstick)]);
    lines
}
