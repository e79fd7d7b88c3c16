//! The tables of `diffuse profile`.

use std::fmt::{Error, Write};

use diffuse::gpu::Precision;
use diffuse::gpu::context::mebibytes;
use diffuse::profile::ceilings::{Bound, Ceilings};
use diffuse::profile::compare::{Change, Comparison};
use diffuse::profile::compiled::Compiled;
use diffuse::profile::predict::{Count, LAUNCH_MICROSECONDS, Prediction};
use diffuse::profile::samplers::{Costs, SamplerCost};
use diffuse::profile::shapes::Figure;
use diffuse::profile::{LayerMemory, Options, Report, Row};

type Text = Result<String, Error>;

/// Layers whose memory is listed.
const LAYERS: usize = 12;

/// All of a profile.
pub fn report(report: &Report, on_cpu: bool) -> Text {
    let mut out = String::new();
    write_step(&mut out, report, on_cpu)?;
    write_memory(&mut out, report)?;
    let (Some(profiled), Some(ratio)) = (report.profiled_ms, report.unprofiled_to_profiled) else {
        writeln!(out, "\nthis adapter has no timestamp queries: no times of kernels and layers")?;
        return Ok(out);
    };
    writeln!(out, "\nprofiled   {profiled:.3} ms are the sum over all dispatches, each timed alone;")?;
    writeln!(out, "           an unprofiled step takes {ratio:.2} times that, so trust shares more than milliseconds")?;
    writeln!(
        out,
        "           floor: the time at the ceiling that binds, arithmetic (A) or memory (M); lost: the rest"
    )?;
    write_rows(&mut out, "kernel", &report.kernels)?;
    write_rows(&mut out, "layer, forward and backward", &report.layers)?;
    Ok(out)
}

fn write_ceilings(out: &mut String, ceilings: &Ceilings) -> Result<(), Error> {
    for unit in &ceilings.arithmetic {
        let (gflops, entry) = (unit.gflops, &unit.entry);
        writeln!(out, "ceiling    {gflops:.1} GFLOP/s {}, multiply-add in registers ({entry})", unit.unit)?;
    }
    let copies = ceilings.copies.iter();
    let copies: Vec<_> =
        copies.map(|copy| format!("{:.1} on {} ({})", copy.gbytes_per_s, mebibytes(copy.bytes), copy.entry)).collect();
    writeln!(out, "           copy, GB/s read and written: {}", copies.join(", "))
}

fn write_step(out: &mut String, report: &Report, on_cpu: bool) -> Result<(), Error> {
    writeln!(out, "adapter    {}", report.adapter)?;
    writeln!(out, "driver     {}", report.driver)?;
    write_ceilings(out, &report.ceilings)?;
    writeln!(out, "model      {} parameters, batch {}, {}", report.parameters, report.batch, report.mode)?;
    writeln!(
        out,
        "step       {:.3} ms median of {} ({:.3} to {:.3}), {:.1} images/s",
        report.step_ms, report.steps, report.step_ms_min, report.step_ms_max, report.images_per_s
    )?;
    let kernels = report.kernels.len();
    let breakdown = if kernels > 0 { format!(" of {kernels} kernels, see calls below") } else { String::new() };
    writeln!(out, "dispatches {} a {}{breakdown}", report.dispatches, report.mode)?;
    let (encode, replay) = (report.encode_us_per_dispatch, report.replay_us_per_dispatch);
    let rivals = if on_cpu { " (the driver computes on the same cores meanwhile)" } else { "" };
    writeln!(out, "encode     {:.3} ms, {encode:.2} µs a dispatch, to record the commands", report.encode_ms)?;
    writeln!(
        out,
        "replay     {:.3} ms, {replay:.2} µs a dispatch, to record and submit them{rivals}",
        report.replay_ms
    )?;
    writeln!(
        out,
        "work       {:.3} GFLOP, {:.2} GFLOP/s, {:.1} % of the f32 ceiling",
        report.flops as f64 * 1e-9,
        report.flops as f64 * 1e-6 / report.step_ms,
        report.flops as f64 * 1e-4 / report.step_ms / report.ceilings.gflops()
    )
}

fn write_memory(out: &mut String, report: &Report) -> Result<(), Error> {
    let (planned, allocated) = (mebibytes(report.peak_bytes), mebibytes(report.allocated_bytes));
    let all = mebibytes(report.persistent_bytes + report.temporary_bytes_without_reuse);
    writeln!(out, "memory     {planned} planned peak, {allocated} allocated; the sum of all tensors is {all}")?;
    writeln!(
        out,
        "           temporaries {} in shared slots, {} without reuse; {} are alive at once; the rest {}",
        mebibytes(report.temporary_bytes),
        mebibytes(report.temporary_bytes_without_reuse),
        mebibytes(report.live_bytes),
        mebibytes(report.persistent_bytes)
    )?;
    writeln!(out, "\n{:32} {:>12} {:>14}", "temporaries by layer", "born there", "live at peak")?;
    for LayerMemory { name, born_bytes, live_at_peak_bytes } in report.layer_memory.iter().take(LAYERS) {
        writeln!(out, "{name:32} {:>12} {:>14}", mebibytes(*born_bytes), mebibytes(*live_at_peak_bytes))?;
    }
    let rest = report.layer_memory.iter().skip(LAYERS);
    let (born, live) = rest.fold((0, 0), |sum, l| (sum.0 + l.born_bytes, sum.1 + l.live_at_peak_bytes));
    if born > 0 {
        let name = format!("{} more layers", report.layer_memory.len() - LAYERS);
        writeln!(out, "{name:32} {:>12} {:>14}", mebibytes(born), mebibytes(live))?;
    }
    Ok(())
}

fn letter(bound: Bound) -> char {
    match bound {
        Bound::Arithmetic => 'A',
        Bound::Memory => 'M',
    }
}

fn write_rows(out: &mut String, title: &str, rows: &[Row]) -> Result<(), Error> {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max(32);
    writeln!(
        out,
        "\n{title:width$} {:>6} {:>11} {:>7} {:>9} {:>8} {:>10} {:>9} {:>11}",
        "calls", "ms", "time", "GFLOP/s", "GB/s", "floor ms", "ceiling", "lost ms"
    )?;
    for row in rows {
        let Row { name, calls, ms, share, gflops, gbytes_per_s, floor_ms, of_ceiling, lost_ms, .. } = row;
        let (share, of_ceiling, bound) = (share * 100.0, of_ceiling * 100.0, letter(row.bound));
        writeln!(
            out,
            "{name:width$} {calls:6} {ms:11.3} {share:6.1}% {gflops:9.2} {gbytes_per_s:8.2} {floor_ms:10.3} {of_ceiling:6.1}% {bound} {lost_ms:11.3}"
        )?;
    }
    Ok(())
}

/// What the driver's compiler made of each pipeline, those that spill first.
pub fn compiled(adapter: &str, driver: &str, compiled: &[Compiled]) -> Text {
    let mut out = String::new();
    let spilling = compiled.iter().filter(|own| own.spills()).count();
    let unsuited = compiled.iter().filter(|own| own.spills() && !own.suits).count();
    let unsuited = if unsuited > 0 {
        format!(" ({unsuited} of ways that this device is not meant to run)")
    } else {
        String::new()
    };
    writeln!(out, "adapter    {adapter}")?;
    writeln!(out, "driver     {driver}")?;
    writeln!(out, "pipelines  {}, of which {spilling} spill{unsuited}; counts are the driver's own\n", compiled.len())?;
    let name = |own: &Compiled| format!("{} {}", own.entry, own.constants).trim_end().to_string();
    let width = compiled.iter().map(|own| name(own).len()).max().unwrap_or(0);
    let columns = ["registers", "spills", "scratch", "shared", "occupancy", "instructions", "cycles"];
    write!(out, "{:width$} stored", "pipeline")?;
    columns.iter().try_for_each(|column| write!(out, " {column:>12}"))?;
    writeln!(out)?;
    let mut sorted: Vec<&Compiled> = compiled.iter().collect();
    sorted.sort_by(|a, b| b.spills.unwrap_or(0.0).total_cmp(&a.spills.unwrap_or(0.0)));
    for own in sorted {
        let Compiled { registers, spills, scratch, shared, occupancy, instructions, cycles, precision, .. } = own;
        let stored = if *precision == Precision::F32 { "f32" } else { "f16" };
        write!(out, "{:width$} {stored:6}", name(own))?;
        for count in [registers, spills, scratch, shared, occupancy, instructions, cycles] {
            write!(out, " {:>12}", count.map_or("-".into(), |count| count.to_string()))?;
        }
        writeln!(out)?;
    }
    Ok(out)
}

/// Ratios new to old.
pub fn comparison(comparison: &Comparison) -> Text {
    let mut out = String::new();
    for difference in &comparison.differences {
        writeln!(out, "\nnot the same {difference}")?;
    }
    writeln!(out, "\n{:32} {:>11} {:>11} {:>8}", "compared, slower first", "old ms", "new ms", "new/old")?;
    for Change { name, old_ms, new_ms, ratio } in comparison.kernels.iter().chain([&comparison.step]) {
        let number = |value: &Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.3}"));
        writeln!(out, "{name:32} {:>11} {:>11} {:>8}", number(old_ms), number(new_ms), number(ratio))?;
    }
    Ok(out)
}

/// What samplers and guidance cost beside the U-Net.
pub fn samplers(costs: &Costs) -> Text {
    let Costs { batch, rounds, unet_ms, mask_share, .. } = costs;
    let mut out = String::new();
    match &costs.guidance {
        Some(cost) => writeln!(
            out,
            "\nguidance   a guided evaluation takes {:.3} times an unguided one ({:.3} to {:.3}),\n           the fastest of each compared {:.3}",
            cost.ratio, cost.ratio_min, cost.ratio_max, cost.fastest
        )?,
        None => writeln!(out, "\nguidance   not measured: a batch of {} does not fit", 2 * *batch as u64)?,
    }
    if costs.classes_added {
        writeln!(out, "           (the model knows no classes: it was given ten)")?;
    }
    let own = |cost: &SamplerCost| cost.own_share + cost.wait_share;
    let dearest = costs.samplers.iter().max_by(|a, b| own(a).total_cmp(&own(b)));
    if let Some(cost) = dearest {
        let (share, name) = (100.0 * own(cost), cost.name);
        writeln!(
            out,
            "samplers   do at most {share:.3} % of the U-Net's time beside it, in each evaluation ({name});"
        )?;
    }
    writeln!(out, "           U-Net {unet_ms:.3} ms for {batch} images; medians of {rounds} rounds")?;
    writeln!(
        out,
        "\n{:32} {:>6} {:>6} {:>11} {:>9} {:>11} {:>11}",
        "sampler, per evaluation", "slots", "noise", "updates", "own µs", "of U-Net", "waiting"
    )?;
    for SamplerCost { name, slots, noise, updates, own_us, own_share, wait_share, .. } in &costs.samplers {
        let (noise, own, wait) = (if *noise { "yes" } else { "no" }, own_share * 100.0, wait_share * 100.0);
        writeln!(out, "{name:32} {slots:6} {noise:>6} {updates:11.2} {own_us:9.1} {own:10.3}% {wait:10.3}%")?;
    }
    writeln!(out, "{:67} {:10.3}%", "a mask, with any of them", mask_share * 100.0)?;
    Ok(out)
}

/// The standing shapes.
pub fn shapes(adapter: &str, driver: &str, ceilings: &Ceilings, figures: &[Figure]) -> Text {
    let mut out = format!("adapter    {adapter}\ndriver     {driver}\n");
    write_ceilings(&mut out, ceilings)?;
    writeln!(
        out,
        "\n{:52} {:>10} {:>9} {:>8} {:>12} {:>9}",
        "standing shape", "ms", "GFLOP/s", "GB/s", "working set", "ceiling"
    )?;
    for figure in figures {
        let Figure { name, ms, gflops, gbytes_per_s, bytes, of_ceiling, .. } = figure;
        let (of_ceiling, bound, bytes) = (of_ceiling * 100.0, letter(figure.bound), mebibytes(*bytes));
        writeln!(out, "{name:52} {ms:10.3} {gflops:9.2} {gbytes_per_s:8.2} {bytes:>12} {of_ceiling:6.1}% {bound}")?;
    }
    writeln!(out, "\nA: of the multiply-add ceiling; M: of the copy whose working set is as large as a dispatch's")?;
    Ok(out)
}

/// A step that ranks share, in milliseconds of rank 0.
#[derive(serde::Serialize)]
pub struct Shared {
    /// Whether gradients leave while others are computed.
    pub overlaps: bool,
    pub step_ms: f64,
    /// Waiting for its device.
    pub device_ms: f64,
    /// Exchanging gradients, and of that while its device computed.
    pub exchange_ms: f64,
    pub hidden_ms: f64,
}

/// Steps that so many ranks share.
pub fn shared(adapter: &str, driver: &str, ranks: u32, batch: u32, rows: &[Shared]) -> Text {
    let mut out = format!(
        "adapter    {adapter}\ndriver     {driver}\nstep       {batch} images on {ranks} ranks, as rank 0 sees it\n"
    );
    let head = ["ms", "images/s", "device", "exchange", "hidden", "not hidden"];
    let [step, rate, device, exchange, hidden, shown] = head;
    writeln!(out, "\n{:34} {step:>9} {rate:>9} {device:>9} {exchange:>9} {hidden:>9} {shown:>11}", "gradients leave")?;
    for Shared { overlaps, step_ms, device_ms, exchange_ms, hidden_ms } in rows {
        let when = if *overlaps { "while others are computed" } else { "when all are computed" };
        let (rate, shown) = (1e3 * f64::from(batch) / step_ms, exchange_ms - hidden_ms);
        let share = 100.0 * shown / step_ms;
        writeln!(
            out,
            "{when:34} {step_ms:9.2} {rate:9.1} {device_ms:9.2} {exchange_ms:9.2} {hidden_ms:9.2} {shown:9.2} {share:.1}%"
        )?;
    }
    writeln!(
        out,
        "\ndevice: waiting for it; exchange: for other ranks, what is slower there, and adding; hidden: while the device computes"
    )?;
    Ok(out)
}

/// What cards that are not at hand would do, and the counts that it follows from.
pub fn predictions(options: &Options, predictions: &[Prediction], counts: &[Count]) -> Text {
    let mut out = String::new();
    let mode = if options.infer { "denoising step" } else { "training step" };
    let dispatches: u64 = counts.iter().map(|count| count.calls).sum();
    writeln!(out, "PREDICTION, nothing was measured: one {mode} of {} images in f32, if every", options.batch)?;
    writeln!(
        out,
        "dispatch ran at the published peak that binds it, plus {LAUNCH_MICROSECONDS} µs for each of {dispatches} dispatches"
    )?;
    writeln!(
        out,
        "\n{:26} {:>9} {:>8} {:>10} {:>12} {:>10} {:>10} {:>10}",
        "card", "TFLOP/s", "GB/s", "step ms", "arithmetic", "memory", "launches", "images/s"
    )?;
    for Prediction { card, step_ms, arithmetic_ms, memory_ms, launch_ms, images_per_s } in predictions {
        writeln!(
            out,
            "{:26} {:9.1} {:8.0} {step_ms:10.3} {arithmetic_ms:12.3} {memory_ms:10.3} {launch_ms:10.3} {images_per_s:10.0}",
            card.name, card.tflops, card.gbytes_per_s
        )?;
    }
    for Prediction { card, .. } in predictions {
        writeln!(out, "  {}: {}", card.name, card.source)?;
    }
    writeln!(out, "\n{:32} {:>6} {:>12} {:>12}", "kernel", "calls", "GFLOP", "MB")?;
    for Count { name, calls, flops, bytes } in counts {
        writeln!(out, "{name:32} {calls:6} {:12.4} {:12.2}", *flops as f64 * 1e-9, *bytes as f64 * 1e-6)?;
    }
    Ok(out)
}
