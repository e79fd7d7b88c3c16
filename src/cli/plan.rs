//! `diffuse plan`.

use anyhow::{Result, bail};
use serde_json::json;

use super::adapter::Storage;
use super::flags::ModelFlags;
use super::output::Json;
use super::outputs::{Input, Output, check_apart, file};
use diffuse::error::counted;
use diffuse::gpu::Precision;
use diffuse::nn::{UNet, digits};
use diffuse::profile::passes::Passes;
use diffuse::profile::predict::{self, Card};
use diffuse::profile::scale::{Cluster, EFFICIENT, MOST_RANKS, Network, Row, Work};
use diffuse::run::options::MOST_ACCUMULATE;

/// Predict what training on many ranks would take, one card each: step time and efficiency for 1 to 1,024 ranks
///
/// Needs no GPU and measures nothing: a card computes as `profile --predict` says, a message takes latency + bytes / rate (Hockney
/// 1994), gradients are added as reduce-scatter and all-gather (Rabenseifner 2004), in buckets that leave while the backward pass
/// runs if each rank has one shard.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    model: ModelFlags,
    /// Ranks of the last row, 1 to 1024; those before it are 1, 2, 4, ...
    #[arg(long, value_name = "N")]
    ranks: u32,
    #[arg(long, value_name = "NAME", help = format!("Card of each rank, a part of its name: {}", card_names()))]
    card: String,
    /// Rate of each rank's link, gigabits per second, each way: 10 of 10 Gbit Ethernet
    #[arg(long, value_name = "GBPS")]
    link: f64,
    /// Microseconds of a message, whatever its size; 5 is an assumption, of the order of InfiniBand: TCP takes several times as long
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 5.0)]
    latency: f64,
    /// Gigabytes per second between card and host, each way; 25 is an assumption, of the 32 that PCIe 4.0 x16 has on paper
    #[arg(long, value_name = "GBPS", default_value_t = 25.0)]
    pcie: f64,
    /// Images of a step, over all ranks; the shards divide them [default: 16 for each shard]
    #[arg(long)]
    batch: Option<u32>,
    /// Shards of a step, a power of two, at least as many as ranks [default: the next power of two of each row's ranks]
    #[arg(long)]
    shards: Option<u32>,
    /// How activations and copies of weights are stored; gradients are f32 always
    #[arg(long, value_enum, default_value_t = Storage::F32)]
    precision: Storage,
    #[command(flatten)]
    json: Json,
}

/// Images of a shard.
const IMAGES: u32 = 16;

fn card_names() -> String {
    predict::CARDS.map(|card| card.name).join("; ")
}

/// What is predicted.
struct Plan<'a> {
    card: Card,
    batch: u32,
    cluster: Cluster<'a>,
    rows: Vec<Row>,
    /// The smallest batch that is efficient.
    least: Option<u32>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    args.json.check()?;
    let writes: Vec<Output> = file("--json", args.json.file()).into_iter().collect();
    let reads: Vec<Input> = args.model.file().into_iter().collect();
    check_apart(&writes, &reads)?;
    check(args)?;
    let batch = batch(args)?;
    let card = predict::card(&args.card)?;
    let unet = UNet::new(args.model.config(digits())?)?;
    let precision = if args.precision == Storage::F32 { Precision::F32 } else { Precision::F16 };
    let passes = Passes::new(&unet, &card, precision);
    let pass_ms = |images| passes.ms(images);
    let network = Network { link_gbit_per_s: args.link, latency_us: args.latency, pcie_gbytes_per_s: args.pcie };
    let cluster = Cluster { work: passes.work(&pass_ms)?, network, shards: args.shards };
    let (rows, least) = (cluster.rows(args.ranks, batch)?, cluster.least_batch(args.ranks)?);
    let plan = Plan { card, batch, cluster, rows, least };
    args.json.print(|| Ok(object(&plan)), || Ok(table(&plan)))
}

fn check(args: &Args) -> Result<()> {
    let Args { ranks, shards, link, latency, pcie, .. } = *args;
    if !(1..=MOST_RANKS).contains(&ranks) {
        bail!("--ranks must be 1 to {MOST_RANKS}, not {ranks}");
    }
    let shards = shards.unwrap_or(ranks);
    if shards < ranks || shards > MOST_ACCUMULATE || args.shards.is_some_and(|shards| !shards.is_power_of_two()) {
        bail!(
            "--shards must be a power of two, {ranks} to {MOST_ACCUMULATE}, one for each rank at least, not {shards}"
        );
    }
    for (flag, rate, unit) in [("--link", link, "gigabits"), ("--pcie", pcie, "gigabytes")] {
        if !(rate.is_finite() && rate > 0.0) {
            bail!("{flag} must be above 0, in {unit} per second, not {rate}");
        }
    }
    if !(latency.is_finite() && latency >= 0.0) {
        bail!("--latency must be 0 or more, in microseconds, not {latency}");
    }
    Ok(())
}

/// Images of a step.
fn batch(args: &Args) -> Result<u32> {
    let shards = args.shards.unwrap_or(args.ranks.next_power_of_two());
    let batch = args.batch.unwrap_or(IMAGES * shards);
    if batch == 0 || !batch.is_multiple_of(shards) {
        bail!(
            "--batch {batch} can't be cut into {shards} equal shards: take a multiple of {shards}, or other --shards"
        );
    }
    Ok(batch)
}

fn object(plan: &Plan) -> serde_json::Value {
    let Plan { card, batch, cluster, rows, least } = plan;
    let Work { most_images, gradients, update_ms, .. } = cluster.work;
    json!({
        "card": card, "network": cluster.network, "batch": batch, "gradients": gradients, "update_ms": update_ms,
        "most_images": most_images, "ranks": rows, "efficient": { "efficiency": EFFICIENT, "batch": least },
    })
}

fn table(plan: &Plan) -> String {
    let Plan { card, batch, cluster, rows, .. } = plan;
    let (Network { link_gbit_per_s, latency_us, pcie_gbytes_per_s }, work) = (cluster.network, &cluster.work);
    let mut lines = vec![
        format!(
            "PREDICTION, nothing was measured: training steps of {batch} images, {} each rank, every dispatch at",
            card.name
        ),
        format!(
            "the published peak that binds it, a pass of {} images at the most; links of {link_gbit_per_s} Gbit/s and {latency_us} µs,",
            work.most_images
        ),
        format!("PCIe of {pcie_gbytes_per_s} GB/s, {} gradients in f32, all cross twice", work.gradients),
        String::new(),
        format!(
            "{:>5} {:>6} {:>11} {:>11} {:>12} {:>10} {:>11} {:>11} {:>8} {:>10}",
            "ranks",
            "shards",
            "images/rank",
            "compute ms",
            "exchange ms",
            "hidden ms",
            "step ms",
            "images/s",
            "speed-up",
            "efficiency"
        ),
    ];
    lines.extend(rows.iter().map(line));
    lines.extend([String::new(), efficient(plan)]);
    lines.join("\n")
}

fn line(row: &Row) -> String {
    let Row {
        ranks, shards, images_per_rank, compute_ms, exchange_ms, hidden_ms, step_ms, images_per_s, speedup, ..
    } = row;
    let efficiency = 100.0 * row.efficiency;
    format!(
        "{ranks:5} {shards:6} {images_per_rank:11} {compute_ms:11.3} {exchange_ms:12.3} {hidden_ms:10.3} {step_ms:11.3} \
         {images_per_s:11.0} {speedup:8.2} {efficiency:8.1} %"
    )
}

/// From which batch on communication hides.
fn efficient(plan: &Plan) -> String {
    let Plan { cluster, rows, least, .. } = plan;
    let ranks = rows.last().map_or(1, |row| row.ranks);
    let named = counted(ranks.into(), "rank");
    let (shards, percent, most) = (cluster.shards(ranks), 100.0 * EFFICIENT, cluster.work.most_images);
    match least {
        Some(batch) => format!(
            "communication hides ({percent} % efficiency, powers of two of images a shard) on {named} from --batch {batch} on"
        ),
        None if !shards.is_multiple_of(ranks) => format!(
            "no batch gives {named} {percent} % efficiency: {shards} shards do not divide among them; a power of two of ranks has as many each"
        ),
        None => format!(
            "no batch gives {named} {percent} % efficiency: up to {most} images a shard communication does not hide"
        ),
    }
}
