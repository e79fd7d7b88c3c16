//! What the driver's own compiler makes of a kernel: registers, spills, occupancy, as the driver counts them.
//!
//! Vulkan tells it through VK_KHR_pipeline_executable_properties, of pipelines that were made to be asked. wgpu makes none such,
//! so a second device is opened here as wgpu opens its own, and given the SPIR-V that naga writes with wgpu's options.

use super::context::Context;
use super::kernel::{Kernel, Precision};
use crate::error::{Error, Result};

/// A count that a driver gives, under the driver's name.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistic {
    pub name: String,
    pub value: f64,
}

/// What drivers call what they move from registers to memory, and what they keep there: AMD (RADV), NVIDIA (NVK), Apple
/// (Honeykrisp), Qualcomm (Turnip), Intel (ANV).
pub const SPILLS: [&str; 6] =
    ["Spilled VGPRs", "Spilled SGPRs", "Spills to memory", "Spills", "STP Count", "Spill count"];
pub const SCRATCH: [&str; 3] = ["Scratch size", "SLM size", "Scratch"];

/// Whether what belongs in registers is in memory: spilled, or an array that the compiler keeps there.
pub fn spills(statistics: &[Statistic]) -> bool {
    let counts = |own: &&Statistic| SPILLS.iter().chain(&SCRATCH).any(|name| *name == own.name);
    statistics.iter().filter(counts).any(|own| own.value > 0.0)
}

/// One entry point with its constants.
#[derive(Clone, Copy)]
pub struct Shader {
    pub kernel: &'static Kernel,
    pub entry: &'static str,
    pub constants: &'static [(&'static str, u32)],
    pub precision: Precision,
}

#[cfg(target_vendor = "apple")]
pub use elsewhere::Compiler;
#[cfg(not(target_vendor = "apple"))]
pub use vulkan::Compiler;

const UNTOLD: &str = "this driver does not tell what it compiles: that takes Vulkan 1.3 and VK_KHR_pipeline_executable_properties, \
                      which drivers of GPUs have, but for Apple's own";

#[cfg(target_vendor = "apple")]
mod elsewhere {
    use super::*;

    /// There is none on this system.
    pub struct Compiler;

    impl Compiler {
        /// # Errors
        /// [`Error::Device`] always.
        pub fn new(context: &Context) -> Result<Compiler> {
            let _ = &context.adapter;
            Err(Error::Device(UNTOLD.into()))
        }

        /// # Errors
        /// [`Error::Device`] always.
        pub fn compile(&self, _: &Shader) -> Result<Vec<Statistic>> {
            Err(Error::Device(UNTOLD.into()))
        }
    }
}

#[cfg(not(target_vendor = "apple"))]
mod vulkan {
    use std::ffi::{CStr, CString};

    use ash::{khr, vk};
    use naga::back::spv;
    use wgpu::hal::api::Vulkan;

    use super::*;

    /// A device whose pipelines can be asked.
    pub struct Compiler {
        device: ash::Device,
        read: khr::pipeline_executable_properties::Device,
        subgroups: bool,
        /// Keeps the instance.
        _adapter: wgpu::Adapter,
    }

    impl Drop for Compiler {
        fn drop(&mut self) {
            // SAFETY: all that was made on the device is destroyed where it is made.
            unsafe { self.device.destroy_device(None) };
        }
    }

    fn failed(error: vk::Result) -> Error {
        Error::Device(format!("the driver's compiler: {error}"))
    }

    impl Compiler {
        /// Opens the device of `context` once more.
        ///
        /// # Errors
        /// [`Error::Device`] if it is not one of Vulkan, or the driver keeps to itself what it compiles.
        pub fn new(context: &Context) -> Result<Compiler> {
            let untold = || Error::Device(UNTOLD.into());
            let adapter = context.adapter.clone();
            let features = context.device.features();
            // SAFETY: the guard is dropped before the adapter is; nothing that wgpu owns is destroyed or changed.
            let hal = unsafe { adapter.as_hal::<Vulkan>() }.ok_or_else(untold)?;
            let (instance, physical) = (hal.shared_instance().raw_instance(), hal.raw_physical_device());
            // SAFETY: the handle is the adapter's own, and lives as long as that.
            let known = unsafe { instance.enumerate_device_extension_properties(physical) }.map_err(failed)?;
            let name = khr::pipeline_executable_properties::NAME;
            // SAFETY: as above.
            let version = unsafe { instance.get_physical_device_properties(physical) }.api_version;
            if version < vk::API_VERSION_1_3 || !known.iter().any(|own| own.extension_name_as_c_str() == Ok(name)) {
                return Err(untold());
            }
            let mut extensions = hal.required_device_extensions(features);
            let mut wanted = hal.physical_device_features(&extensions, features);
            extensions.push(name);
            let names: Vec<*const std::ffi::c_char> = extensions.iter().map(|name| name.as_ptr()).collect();
            let mut asked =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
            let info = wanted.add_to_device_create(info).push_next(&mut asked);
            // SAFETY: `info` and what it points at live to the end of the call; its features are those that the adapter has.
            let device = unsafe { instance.create_device(physical, &info, None) }.map_err(failed)?;
            let read = khr::pipeline_executable_properties::Device::new(instance, &device);
            drop(hal);
            Ok(Compiler { device, read, subgroups: features.contains(wgpu::Features::SUBGROUP), _adapter: adapter })
        }

        /// What the compiler makes of a shader, as it counts.
        ///
        /// # Errors
        /// [`Error::Device`] if it can't be compiled.
        pub fn compile(&self, shader: &Shader) -> Result<Vec<Statistic>> {
            let words = spirv(shader)?;
            let info = vk::ShaderModuleCreateInfo::default().code(&words);
            // SAFETY: the words are what naga wrote of a module that it validated. Each object is destroyed below.
            unsafe {
                let module = self.device.create_shader_module(&info, None).map_err(failed)?;
                let read = self.layout(shader).and_then(|(set, layout)| {
                    let read = self.pipeline(shader, module, layout).and_then(|pipeline| {
                        let read = self.statistics(pipeline);
                        self.device.destroy_pipeline(pipeline, None);
                        read
                    });
                    self.device.destroy_pipeline_layout(layout, None);
                    self.device.destroy_descriptor_set_layout(set, None);
                    read
                });
                self.device.destroy_shader_module(module, None);
                read
            }
        }

        /// SAFETY: the caller destroys both.
        unsafe fn layout(&self, shader: &Shader) -> Result<(vk::DescriptorSetLayout, vk::PipelineLayout)> {
            let entry = shader.kernel.entry_point(shader.entry);
            let binding = |index, kind| {
                let binding = vk::DescriptorSetLayoutBinding::default().binding(index).descriptor_count(1);
                binding.descriptor_type(kind).stage_flags(vk::ShaderStageFlags::COMPUTE)
            };
            let storage = entry.storage.iter().map(|own| binding(own.index, vk::DescriptorType::STORAGE_BUFFER));
            let uniforms = [&entry.params, &entry.step].into_iter().flatten();
            let uniforms = uniforms.map(|own| binding(own.index, vk::DescriptorType::UNIFORM_BUFFER));
            let bindings: Vec<_> = storage.chain(uniforms).collect();
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            // SAFETY: the bindings live to the end of the calls.
            unsafe {
                let set = self.device.create_descriptor_set_layout(&info, None).map_err(failed)?;
                let sets = [set];
                let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
                match self.device.create_pipeline_layout(&info, None) {
                    Ok(layout) => Ok((set, layout)),
                    Err(error) => {
                        self.device.destroy_descriptor_set_layout(set, None);
                        Err(failed(error))
                    }
                }
            }
        }

        /// SAFETY: module and layout are the shader's, and the caller destroys the pipeline.
        unsafe fn pipeline(
            &self,
            shader: &Shader,
            module: vk::ShaderModule,
            layout: vk::PipelineLayout,
        ) -> Result<vk::Pipeline> {
            let entry = CString::new(shader.entry).map_err(|error| Error::Device(error.to_string()))?;
            let varying = vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE;
            let flags = if self.subgroups { varying } else { vk::PipelineShaderStageCreateFlags::empty() };
            let stage = vk::PipelineShaderStageCreateInfo::default().stage(vk::ShaderStageFlags::COMPUTE);
            let stage = stage.flags(flags).module(module).name(&entry);
            let info = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
            let info = info.flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
            // SAFETY: all that `info` points at lives to the end of the call.
            let made = unsafe { self.device.create_compute_pipelines(vk::PipelineCache::null(), &[info], None) };
            let made = made.map_err(|(_, error)| failed(error))?;
            made.into_iter().next().ok_or_else(|| failed(vk::Result::ERROR_UNKNOWN))
        }

        /// SAFETY: the pipeline is alive.
        unsafe fn statistics(&self, pipeline: vk::Pipeline) -> Result<Vec<Statistic>> {
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(0);
            // SAFETY: the pipeline was made with CAPTURE_STATISTICS, and a compute pipeline has an executable.
            let found = unsafe { self.read.get_pipeline_executable_statistics(&info) }.map_err(failed)?;
            Ok(found.iter().map(statistic).collect())
        }
    }

    fn statistic(found: &vk::PipelineExecutableStatisticKHR) -> Statistic {
        // SAFETY: the driver ends the name within its array, and its format says which member of the value is set.
        let (name, value) = unsafe {
            let value = match found.format {
                vk::PipelineExecutableStatisticFormatKHR::BOOL32 => f64::from(found.value.b32),
                vk::PipelineExecutableStatisticFormatKHR::INT64 => found.value.i64 as f64,
                vk::PipelineExecutableStatisticFormatKHR::UINT64 => found.value.u64 as f64,
                _ => found.value.f64,
            };
            (CStr::from_ptr(found.name.as_ptr()), value)
        };
        Statistic { name: name.to_string_lossy().into_owned(), value }
    }

    /// As wgpu writes it of shaders that are trusted.
    fn spirv(shader: &Shader) -> Result<Vec<u32>> {
        let (module, info) = shader.kernel.specialised(shader.entry, shader.constants, shader.precision)?;
        let unchecked = naga::proc::BoundsCheckPolicy::Unchecked;
        let options = spv::Options {
            lang_version: (1, 6),
            bounds_check_policies: naga::proc::BoundsCheckPolicies {
                index: unchecked,
                buffer: unchecked,
                image_load: unchecked,
                binding_array: unchecked,
            },
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            force_loop_bounding: false,
            emit_int_div_checks: false,
            ..spv::Options::default()
        };
        let pipeline =
            spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: shader.entry.to_string() };
        spv::write_vec(&module, &info, &options, Some(&pipeline)).map_err(|error| Error::Device(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_to_memory_or_kept_there_spills() {
        let told = |list: &[(&str, f64)]| {
            let list: Vec<_> =
                list.iter().map(|(name, value)| Statistic { name: (*name).into(), value: *value }).collect();
            spills(&list)
        };
        assert!(!told(&[]) && !told(&[("VGPRs", 96.0), ("Spilled VGPRs", 0.0), ("Scratch size", 0.0)]));
        assert!(told(&[("VGPRs", 256.0), ("Spilled SGPRs", 0.0), ("Spilled VGPRs", 3.0)]));
        assert!(told(&[("Spills to memory", 0.0), ("SLM size", 64.0)]));
    }
}
