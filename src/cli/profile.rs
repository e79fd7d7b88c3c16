//! `diffuse profile`.

/// Time one training or denoising step, kernel by kernel and layer by layer
#[derive(clap::Args)]
pub struct Args {}

pub fn run(_args: &Args, _device: Option<&str>) -> anyhow::Result<()> {
    Ok(())
}
