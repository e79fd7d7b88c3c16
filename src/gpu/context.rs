//! Adapters and the device: selection, limits, errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::choices::Device;
use super::health::Health;
use super::kernel::Need;
use super::pace;
use super::pipelines::Pipelines;
use crate::error::{Error, Result};

/// How long a device may be silent, beside several times what its work should take.
const PATIENCE: Duration = Duration::from_secs(600);
const TIMES_EXPECTED: u32 = 4;
/// It is waited in pieces of this: a process that was stopped for hours finds one of them used up, not all.
const SLICE: Duration = Duration::from_secs(10);

/// A submission that [`Context::wait_for`] waits for.
#[derive(Clone)]
pub struct Submission(Option<wgpu::SubmissionIndex>);

/// An opened device.
pub struct Context {
    pub info: wgpu::AdapterInfo,
    pub device: wgpu::Device,
    /// There until it is dropped.
    queue: Option<wgpu::Queue>,
    /// Shaders keep bounds checks and loop bounds; slow, for tests.
    pub checked: bool,
    is_polite: bool,
    memory_limit: Option<u64>,
    /// Microseconds of what was handed over since somebody waited.
    expected: AtomicU64,
    kind: Device,
    pub(super) adapter: wgpu::Adapter,
    pub(crate) pipelines: Pipelines,
    pub(super) health: Health,
}

/// What is told of an adapter before it is opened.
pub struct Adapter {
    pub info: wgpu::AdapterInfo,
    pub limits: wgpu::Limits,
    /// Names of what it has of timestamps, f16, subgroups, cooperative matrices.
    pub features: Vec<&'static str>,
    /// Shapes and types that matrix units multiply, and whether kernels use them: squares of halves summed in f32. WGSL as naga has it
    /// can't name others.
    pub matrices: Vec<(String, bool)>,
    adapter: wgpu::Adapter,
}

/// Features that some kernel or the profiler can use.
const FEATURES: [(&str, wgpu::Features); 4] = [
    ("timestamps", wgpu::Features::TIMESTAMP_QUERY),
    ("f16", wgpu::Features::SHADER_F16),
    ("subgroups", wgpu::Features::SUBGROUP),
    ("cooperative matrices", wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX),
];

/// What to do where there is no adapter.
pub const NO_ADAPTER: &str = "no Vulkan, Metal or DX12 adapter found; on Linux without a GPU install a software driver: \
    apt-get install mesa-vulkan-drivers libvulkan1 (or run: sh setup.sh)";

/// Every Vulkan, Metal and DX12 adapter, in the order the system names them.
pub fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    descriptor.flags = wgpu::InstanceFlags::empty();
    // A driver that hands out more than the machine has gets the process killed instead of an error.
    descriptor.memory_budget_thresholds.for_resource_creation = Some(95);
    let instance = wgpu::Instance::new(descriptor);
    let found = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    found.into_iter().map(describe).collect()
}

fn describe(adapter: wgpu::Adapter) -> Adapter {
    let name = |p: &wgpu::CooperativeMatrixProperties| {
        format!("{}x{}x{} {:?} -> {:?}", p.m_size, p.n_size, p.k_size, p.ab_type, p.cr_type)
    };
    let properties = adapter.cooperative_matrix_properties();
    let matrices = properties.iter().map(|own| (name(own), SIDES.iter().any(|side| multiplies(own, *side))));
    Adapter {
        info: adapter.get_info(),
        limits: adapter.limits(),
        features: FEATURES.iter().filter(|(_, f)| adapter.features().contains(*f)).map(|(name, _)| *name).collect(),
        matrices: matrices.collect(),
        adapter,
    }
}

/// Index in `all` of the adapter that `wanted` names (an index or a part of a name, case ignored), or of the one that
/// looks fastest: discrete, integrated, virtual, then CPU.
pub fn choose(all: &[Adapter], wanted: Option<&str>) -> Option<usize> {
    fitting(all, wanted).first().copied()
}

/// Indices in `all` of the adapters that `wanted` names, or of all that look fastest.
fn fitting(all: &[Adapter], wanted: Option<&str>) -> Vec<usize> {
    let rank = |adapter: &Adapter| match adapter.info.device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    let best = all.iter().map(rank).min();
    let wanted = wanted.map(|wanted| (wanted.to_lowercase(), wanted.parse::<usize>()));
    let fits = |(index, adapter): (usize, &Adapter)| match &wanted {
        None => Some(rank(adapter)) == best,
        Some((_, Ok(wanted))) => index == *wanted,
        Some((name, Err(_))) => !name.is_empty() && adapter.info.name.to_lowercase().contains(name),
    };
    (0..).zip(all).filter(|own| fits(*own)).map(|(index, _)| index).collect()
}

/// The cards that `wanted` names, or all that look fastest, by their index among [`adapters`]. Cards of one name are told apart by
/// where they are plugged in; a card with two drivers is one.
///
/// # Errors
/// [`Error::Device`] if there is none.
pub fn cards(wanted: Option<&str>) -> Result<Vec<usize>> {
    let all = adapters();
    let mut places = Vec::new();
    let is_new = |index: &usize| {
        let place = &all[*index].info.device_pci_bus_id;
        let is_new = place.is_empty() || !places.contains(place);
        places.push(place.clone());
        is_new
    };
    let cards: Vec<usize> = fitting(&all, wanted).into_iter().filter(is_new).collect();
    match cards.is_empty() {
        true => Err(not_found(&all, wanted)),
        false => Ok(cards),
    }
}

fn not_found(all: &[Adapter], wanted: Option<&str>) -> Error {
    if all.is_empty() {
        return Error::Device(NO_ADAPTER.into());
    }
    let names: Vec<String> = all.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.info.name)).collect();
    let wanted = wanted.map_or("to use".into(), |wanted| format!("{wanted:?}"));
    Error::Device(format!("no device {wanted}; there are {}", names.join(", ")))
}

fn select(wanted: Option<&str>) -> Result<Adapter> {
    let mut all = adapters();
    match choose(&all, wanted) {
        Some(index) => Ok(all.swap_remove(index)),
        None => Err(not_found(&all, wanted)),
    }
}

impl Context {
    /// Opens the adapter `wanted` names, or the fastest looking one. Limits are WebGPU's baseline, so that what runs
    /// here runs everywhere, except for the sizes of buffers and bindings, which are the adapter's.
    ///
    /// # Errors
    /// [`Error::Device`] if there is no adapter, none of that name, or it can't be opened.
    pub fn new(wanted: Option<&str>) -> Result<Context> {
        Context::open(wanted, false)
    }

    /// As [`Context::new`], with bounds checks and loop bounds in every shader.
    pub fn checked(wanted: Option<&str>) -> Result<Context> {
        Context::open(wanted, true)
    }

    fn open(wanted: Option<&str>, checked: bool) -> Result<Context> {
        let adapter = select(wanted)?;
        let optional = FEATURES.iter().fold(wgpu::Features::empty(), |all, (_, feature)| all | *feature);
        let limits = wgpu::Limits {
            max_buffer_size: adapter.limits.max_buffer_size,
            max_storage_buffer_binding_size: adapter.limits.max_storage_buffer_binding_size,
            ..wgpu::Limits::downlevel_defaults()
        };
        // What WebGPU's baseline has and OpenGL, from which the other defaults come, has not.
        let limits = wgpu::Limits {
            max_storage_buffers_per_shader_stage: 8,
            max_compute_workgroup_storage_size: 16 << 10,
            ..limits
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("diffuse"),
            required_features: adapter.adapter.features() & optional,
            required_limits: limits,
            // SAFETY: what is experimental is cooperative matrices, which some kernels have a variant for: none is used
            // before it was compared with the plain one on this adapter (src/gpu/trial.rs).
            experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
            ..Default::default()
        };
        let closed = |why: &dyn std::fmt::Display| {
            Error::Device(format!("{} can't be opened: {}", adapter.info.name, first_line(why)))
        };
        let health = Health::default();
        let opened = health.guard(|| pollster::block_on(adapter.adapter.request_device(&descriptor)));
        let opened = opened.ok_or_else(|| closed(&"its driver failed"))?;
        let (device, queue) = opened.map_err(|error| closed(&error))?;
        let own = health.clone();
        device.on_uncaptured_error(Arc::new(move |error| {
            own.fail(format!("the device failed: {}", first_line(&error)));
        }));
        let own = health.clone();
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                own.lose(message);
            }
        });
        let kind = kind(&adapter.info, device.features(), &adapter.adapter);
        let pipelines = Pipelines::default();
        let Adapter { info, adapter, .. } = adapter;
        let (is_polite, memory_limit, expected) = (false, None, AtomicU64::new(0));
        Ok(Context {
            info,
            device,
            queue: Some(queue),
            checked,
            is_polite,
            memory_limit,
            expected,
            kind,
            adapter,
            pipelines,
            health,
        })
    }

    /// From here on work is handed over in short pieces, each when the one before it is done, so that others can use the device.
    pub fn be_polite(&mut self) {
        self.is_polite = true;
    }

    /// Whether it leaves room for others.
    pub fn is_polite(&self) -> bool {
        self.is_polite
    }

    /// How long a submission may take.
    pub fn most_at_once(&self) -> Duration {
        if self.is_polite { pace::POLITE } else { pace::MOST }
    }

    /// From here on what needs more bytes than that is taken not to fit, where that is asked before it is tried.
    pub fn limit_memory(&mut self, bytes: u64) {
        self.memory_limit = Some(bytes);
    }

    /// Bytes that may be tried, if anybody said so.
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory_limit
    }

    /// What the kernels' variants see of this device.
    pub fn kind(&self) -> &Device {
        &self.kind
    }

    /// Whether this is a driver that computes on the CPU.
    pub fn is_cpu(&self) -> bool {
        self.info.device_type == wgpu::DeviceType::Cpu
    }

    /// Whether shaders can compute with halves.
    pub fn has_halves(&self) -> bool {
        self.device.features().contains(wgpu::Features::SHADER_F16)
    }

    /// Whether dispatches can be timed one by one.
    pub fn has_timestamps(&self) -> bool {
        self.device.features().contains(wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Lets go of all that was compiled. For whoever compiles many kernels once.
    pub fn forget_pipelines(&self) {
        self.pipelines.forget();
    }

    /// The driver's name and version.
    pub fn driver(&self) -> String {
        driver(&self.info)
    }

    /// Waits until all submitted work is done.
    ///
    /// # Errors
    /// [`Error::Lost`] if the device was lost or does not answer, [`Error::Device`] if it failed.
    pub fn wait(&self) -> Result<()> {
        self.wait_for(None)
    }

    /// Waits for one submission, or for all.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn wait_for(&self, submission: Option<Submission>) -> Result<()> {
        // wgpu frees the buffers of a lost device when it is polled, those that another thread reads as well.
        self.check()?;
        let patience = PATIENCE + TIMES_EXPECTED * Duration::from_micros(self.expected.load(Relaxed));
        match self.answer(submission, patience) {
            Some(Err(wgpu::PollError::Timeout)) => {
                // To drop the queue would be to wait for it.
                std::mem::forget(self.queue().clone());
                self.health.lose(format!("no answer for {} s", patience.as_secs()));
            }
            Some(Err(error)) => self.health.lose(error),
            Some(Ok(_)) => self.expected.store(0, Relaxed),
            None => {}
        }
        self.check()
    }

    /// What the device says of a submission, or of all, after `patience` at the latest; none if wgpu panicked.
    fn answer(
        &self,
        submission: Option<Submission>,
        patience: Duration,
    ) -> Option<std::result::Result<(), wgpu::PollError>> {
        let submission_index = submission.and_then(|submission| submission.0);
        let wait = wgpu::PollType::Wait { submission_index, timeout: Some(SLICE) };
        let mut silent = SLICE;
        loop {
            match self.health.guard(|| self.device.poll(wait.clone()))? {
                Err(wgpu::PollError::Timeout) if silent < patience => silent += SLICE,
                answer => return Some(answer.map(|_| ())),
            }
        }
    }

    pub(super) fn queue(&self) -> &wgpu::Queue {
        self.queue.as_ref().expect("it is there until the context is dropped")
    }

    /// Hands commands over. What goes wrong is found when they are waited for.
    pub(crate) fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> Submission {
        Submission(self.health.guard(|| self.queue().submit(commands)))
    }

    /// As [`Context::submit`], of work that should take so many seconds.
    pub(crate) fn submit_work(&self, commands: Option<wgpu::CommandBuffer>, seconds: f32) -> Submission {
        self.expected.fetch_add((1e6 * seconds) as u64, Relaxed);
        self.submit(commands)
    }

    /// Overwrites bytes of a buffer behind all that was submitted. What goes wrong is found when something is waited for.
    pub(crate) fn write(&self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) {
        self.health.guard(|| self.queue().write_buffer(buffer, offset, bytes));
    }

    /// The first failure that the device reported, if any; its loss before all others.
    ///
    /// # Errors
    /// As [`Context::wait`].
    pub fn check(&self) -> Result<()> {
        self.health.check()
    }

    /// Bytes of the largest buffer that can be bound in halves.
    pub fn most_in_halves(&self) -> u64 {
        let limits = self.device.limits();
        limits.max_buffer_size.min(2 * limits.max_storage_buffer_binding_size)
    }

    /// Creates a buffer; a failed allocation is an error, not a panic.
    pub(crate) fn create_buffer(&self, name: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let limit = self.device.limits().max_buffer_size;
        if bytes > limit {
            return Err(Error::Device(format!(
                "{name} needs {}, the largest buffer of this device is {}",
                mebibytes(bytes),
                mebibytes(limit)
            )));
        }
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let other = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let descriptor = wgpu::BufferDescriptor { label: Some(name), size: bytes, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&descriptor);
        let other = pollster::block_on(other.pop());
        let memory = pollster::block_on(memory.pop());
        if let Some(error) = memory.or(other) {
            return Err(Error::Device(format!(
                "{} for {name} can't be allocated: {}",
                mebibytes(bytes),
                first_line(&error)
            )));
        }
        Ok(buffer)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // It waits for what it does, which may fail, too.
        let queue = self.queue.take();
        self.health.guard(|| drop(queue));
    }
}

/// The driver's name and version.
pub fn driver(info: &wgpu::AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_string()
}

/// Of the matrices that kernels multiply.
const SIDES: [u32; 2] = [8, 16];

/// Whether it is squares of this side, of halves, whose products are summed in f32.
fn multiplies(properties: &wgpu::CooperativeMatrixProperties, side: u32) -> bool {
    let wgpu::CooperativeMatrixProperties { m_size, n_size, k_size, ab_type, cr_type, .. } = *properties;
    let [half, single] = [wgpu::CooperativeScalarType::F16, wgpu::CooperativeScalarType::F32];
    [m_size, n_size, k_size] == [side; 3] && (ab_type, cr_type) == (half, single)
}

/// What choices of variants depend on.
fn kind(info: &wgpu::AdapterInfo, features: wgpu::Features, adapter: &wgpu::Adapter) -> Device {
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let halves = features.contains(wgpu::Features::SHADER_F16 | wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let properties = adapter.cooperative_matrix_properties();
    let [eight, sixteen] = SIDES.map(|side| subgroups && halves && properties.iter().any(|own| multiplies(own, side)));
    let needs = [(Need::Subgroups, subgroups), (Need::Matrices8, eight), (Need::Matrices16, sixteen)];
    Device {
        gpu: info.device_type != wgpu::DeviceType::Cpu,
        subgroup: if subgroups { info.subgroup_min_size } else { 0 },
        needs: needs.into_iter().filter(|(_, has)| *has).map(|(need, _)| need).collect(),
        few_registers: info.name.starts_with("Apple"),
    }
}

/// `12.3 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

fn first_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(": ")
}
