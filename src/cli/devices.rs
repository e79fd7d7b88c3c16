//! `diffuse devices`.

use anyhow::{Result, bail};
use serde_json::json;

use super::output::Json;
use diffuse::gpu::context::{Adapter, NO_ADAPTER, adapters, choose, driver, mebibytes};

/// List adapters, drivers, limits and features
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    json: Json,
}

/// Runs the command.
pub fn run(args: &Args, adapter: &super::adapter::Adapter) -> Result<()> {
    let all = adapters();
    if all.is_empty() {
        bail!(NO_ADAPTER);
    }
    let wanted = adapter.wanted();
    let chosen = choose(&all, wanted);
    if let (Some(wanted), None) = (wanted, chosen) {
        let names: Vec<String> = all.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.info.name)).collect();
        bail!("no device {wanted:?}; there are {}", names.join(", "));
    }
    let table = || {
        let listed = all.iter().enumerate().filter(|(index, _)| wanted.is_none() || chosen == Some(*index));
        let texts: Vec<String> = listed.map(|(index, adapter)| text(index, adapter)).collect();
        Ok(texts.join("\n"))
    };
    args.json.print(|| Ok(object(&all, wanted)), table)
}

/// All adapters; before them the one that the other commands compute on, as these name it.
fn object(all: &[Adapter], wanted: Option<&str>) -> serde_json::Value {
    let list: Vec<_> = all.iter().enumerate().map(|(index, adapter)| describe(index, adapter)).collect();
    let chosen = choose(all, wanted).map(|index| &all[index].info);
    json!({
        "adapter": chosen.map(|info| &info.name),
        "driver": chosen.map(driver),
        "type": chosen.map(|info| format!("{:?}", info.device_type)),
        "adapters": list,
    })
}

fn describe(index: usize, adapter: &Adapter) -> serde_json::Value {
    let Adapter { info, limits, features, matrices, .. } = adapter;
    let all: Vec<&str> = matrices.iter().map(|(name, _)| name.as_str()).collect();
    let (used, _) = used_and_unused(matrices);
    json!({
        "index": index,
        "name": info.name,
        "backend": info.backend.to_string(),
        "type": format!("{:?}", info.device_type),
        "driver": info.driver,
        "driver_info": info.driver_info,
        "subgroup_sizes": [info.subgroup_min_size, info.subgroup_max_size],
        "max_buffer_bytes": limits.max_buffer_size,
        "max_binding_bytes": limits.max_storage_buffer_binding_size,
        "max_workgroup_invocations": limits.max_compute_invocations_per_workgroup,
        "max_workgroup_bytes": limits.max_compute_workgroup_storage_size,
        "max_storage_buffers": limits.max_storage_buffers_per_shader_stage,
        "features": features,
        "cooperative_matrices": all,
        "used_matrices": used,
    })
}

/// The shapes of matrices that kernels multiply, and the others.
fn used_and_unused(matrices: &[(String, bool)]) -> (Vec<&str>, Vec<&str>) {
    let of =
        |wanted: bool| matrices.iter().filter(|(_, used)| *used == wanted).map(|(name, _)| name.as_str()).collect();
    (of(true), of(false))
}

fn text(index: usize, adapter: &Adapter) -> String {
    let Adapter { info, limits, features, matrices, .. } = adapter;
    let limits = format!(
        "buffer {}, binding {}, {} invocations and {} KiB a workgroup, subgroups {} to {}",
        mebibytes(limits.max_buffer_size),
        mebibytes(limits.max_storage_buffer_binding_size),
        limits.max_compute_invocations_per_workgroup,
        limits.max_compute_workgroup_storage_size / 1024,
        info.subgroup_min_size,
        info.subgroup_max_size
    );
    let mut lines = vec![
        format!("{index}: {} ({:?}, {})", info.name, info.device_type, info.backend),
        format!("   driver     {} {}", info.driver, info.driver_info),
        format!("   limits     {limits}"),
        format!("   features   {}", features.join(", ")),
    ];
    let (used, unused) = used_and_unused(matrices);
    for (label, list) in [("matrices", used), ("not used", unused)] {
        if !list.is_empty() {
            lines.push(format!("   {label}   {}", list.join(", ")));
        }
    }
    lines.join("\n")
}
