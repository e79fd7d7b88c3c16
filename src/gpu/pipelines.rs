//! Compiled modules and pipelines of one device: compiling is what costs most where little is computed.

use std::collections::HashMap;
use std::sync::Mutex;

use super::kernel::{Kernel, Precision};
use super::recorder::Dispatch;

/// A kernel, by its address: it is as lasting as the program.
type ModuleKey = (usize, Precision);
/// The module, the entry point, the constants.
type PipelineKey = (ModuleKey, &'static str, &'static [(&'static str, u32)]);

/// What was compiled so far.
#[derive(Default)]
pub(crate) struct Pipelines {
    compiled: Mutex<Compiled>,
}

#[derive(Default)]
struct Compiled {
    modules: HashMap<ModuleKey, wgpu::ShaderModule>,
    pipelines: HashMap<PipelineKey, wgpu::ComputePipeline>,
}

impl Pipelines {
    pub fn forget(&self) {
        *self.compiled.lock().expect("no panic while compiling") = Compiled::default();
    }

    /// The pipeline of a dispatch, compiled if it is the first of its kind; what the compiler says, if it can't be. `checked`:
    /// with bounds checks.
    pub fn get(
        &self,
        device: &wgpu::Device,
        dispatch: &Dispatch,
        precision: Precision,
        checked: bool,
    ) -> Result<wgpu::ComputePipeline, wgpu::Error> {
        let Dispatch { kernel, entry, constants, .. } = *dispatch;
        let module_key = (std::ptr::from_ref(kernel) as usize, precision);
        let key = (module_key, entry, constants);
        let mut compiled = self.compiled.lock().expect("no panic while compiling");
        if let Some(pipeline) = compiled.pipelines.get(&key) {
            return Ok(pipeline.clone());
        }
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let create = || create_module(device, kernel, precision, checked);
        let module = compiled.modules.entry(module_key).or_insert_with(create);
        let values: Vec<(&str, f64)> = constants.iter().map(|(name, value)| (*name, *value as f64)).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry),
            layout: None,
            module,
            entry_point: Some(entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &values,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        if let Some(error) = pollster::block_on(scope.pop()) {
            return Err(error);
        }
        compiled.pipelines.insert(key, pipeline.clone());
        Ok(pipeline)
    }
}

fn create_module(
    device: &wgpu::Device,
    kernel: &'static Kernel,
    precision: Precision,
    checked: bool,
) -> wgpu::ShaderModule {
    let source = wgpu::ShaderSource::Wgsl(kernel.source(precision).into());
    let descriptor = wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source };
    if checked {
        return device.create_shader_module(descriptor);
    }
    // SAFETY: the shaders are this crate's own; tests run them with guarded tails against the f64 twins, every loop is
    // bounded by a parameter. Bounds checks and loop counters in inner loops cost up to ten times the work itself.
    unsafe { device.create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked()) }
}
