//! What a kernel runs in: a variant with its constants, at one precision.

use std::sync::Arc;

use diffuse::gpu::recorder::Dispatch;
use diffuse::gpu::{Candidate, Choices, Device, Kernel, Precision};
use diffuse::ops::{self, Op};

/// See above.
#[derive(Clone)]
pub struct Setting {
    pub op: &'static Op,
    pub kernel: &'static Kernel,
    pub constants: &'static [(&'static str, u32)],
    pub precision: Precision,
    device: Device,
}

/// Every kernel in every way, at both precisions, whether this device runs it or not.
pub fn all(device: &Device) -> Vec<Setting> {
    let mut settings: Vec<Setting> = Vec::new();
    for op in ops::ALL {
        let candidates = op.ways.iter().flat_map(|ways| ways.candidates).map(|c| (c.kernel, c.constants));
        let plain = [(op.kernel, &[][..])];
        for (kernel, constants) in plain.into_iter().chain(candidates) {
            for precision in [Precision::F32, Precision::F16] {
                let setting = Setting { op, kernel, constants, precision, device: device.clone() };
                if !settings.iter().any(|other| other.label() == setting.label()) && setting.exists() {
                    settings.push(setting);
                }
            }
        }
    }
    settings
}

impl Setting {
    /// `conv2d.tiled ROW_LANES=16 CHANNEL_LANES=8 f16`.
    pub fn label(&self) -> String {
        let constants: String = self.constants.iter().map(|(name, value)| format!(" {name}={value}")).collect();
        let half = if self.precision == Precision::F16 { " f16" } else { "" };
        format!("{}{constants}{half}", self.kernel.label())
    }

    /// Matrix units multiply halves alone; what stores nothing as the precision says is the same in both.
    fn exists(&self) -> bool {
        match self.precision {
            Precision::F32 => !self.kernel.needs.iter().any(|need| need.is_matrices()),
            Precision::F16 => self.kernel.knows_halves(),
        }
    }

    /// Whether the device can run it.
    pub fn is_here(&self) -> bool {
        Candidate::new(self.kernel, self.constants).runs_on(&self.device, self.precision)
    }

    /// Whether it is how `dispatch` runs.
    pub fn runs(&self, dispatch: &Dispatch) -> bool {
        dispatch.kernel.label() == self.kernel.label() && dispatch.constants == self.constants
    }

    /// Choices that run `entry` in this way.
    pub fn choices(&self, entry: &str) -> Arc<Choices> {
        let mut ways = self.op.ways.iter().filter(|ways| ways.entry == entry).chain(self.op.ways);
        let own = |c: &Candidate| c.kernel.label() == self.kernel.label() && c.constants == self.constants;
        let index = ways.find_map(|ways| ways.candidates.iter().position(own)).unwrap_or(0);
        Arc::new(Choices::forced(&self.device, self.precision, index))
    }
}
