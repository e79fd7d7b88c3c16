//! Every shader without a GPU: validation with no more than WebGPU's baseline, translation to what drivers take,
//! WebGPU's limits, and agreement of the files with the twins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use diffuse::gpu::{Kernel, Need, Precision};
use diffuse::ops;
use naga::back::{hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::valid::{Capabilities, ModuleInfo, SubgroupOperationSet, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, TypeInner};
use serde_json::json;

/// What every device has: WebGPU's default limits.
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
const MAX_STORAGE_BUFFERS: usize = 8;
/// The plan gives each dispatch one line of parameters of this size.
const MAX_PARAMS_BYTES: u32 = 256;
const MAX_LINE: usize = 200;

fn kernels() -> impl Iterator<Item = &'static Kernel> {
    ops::ALL.iter().flat_map(|op| op.variants())
}

/// What a variant may use: nothing optional but what it says that it needs.
fn capabilities(kernel: &Kernel) -> Capabilities {
    let of = |need: &Need| match need {
        Need::Subgroups => Capabilities::SUBGROUP,
        Need::Matrices8 | Need::Matrices16 => Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16,
    };
    kernel.needs.iter().map(of).fold(Capabilities::empty(), |all, one| all | one)
}

/// Parses and validates with no optional capability but those that the variant needs: subgroups, f16, 64-bit types and the
/// like are errors elsewhere.
fn parse(kernel: &Kernel, precision: Precision) -> (Module, ModuleInfo) {
    let source = kernel.source(precision);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, kernel.name)));
    // WebGPU's packing of halves, which naga counts as optional: old GLES alone lacks it.
    let packing = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    let info = Validator::new(ValidationFlags::all(), capabilities(kernel) | packing)
        .subgroup_operations(SubgroupOperationSet::all())
        .subgroup_stages(naga::valid::ShaderStages::COMPUTE)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(&source, kernel.name)));
    (module, info)
}

/// The values of `override` constants that some candidate gives a kernel, and those that the file gives itself.
fn constants(kernel: &Kernel) -> BTreeSet<&'static [(&'static str, u32)]> {
    let candidates = ops::ALL.iter().flat_map(|op| op.ways).flat_map(|ways| ways.candidates);
    let own = candidates.filter(|candidate| candidate.kernel.label() == kernel.label());
    own.map(|candidate| candidate.constants).chain([&[][..]]).collect()
}

/// Calls `check` with the name and the compacted module of every entry point, with the constants of every candidate, as
/// wgpu's back ends see them.
fn each_entry_point(check: impl Fn(&str, &str, &Module, &ModuleInfo)) {
    for (kernel, precision) in kernels().flat_map(|kernel| [(kernel, Precision::F32), (kernel, Precision::F16)]) {
        let (module, info) = parse(kernel, precision);
        for (constants, entry) in
            constants(kernel).iter().flat_map(|c| kernel.entry_points().iter().map(move |e| (c, e)))
        {
            let label = format!("{}.{} {precision:?} {constants:?}", kernel.label(), entry.name);
            let stage = Some((ShaderStage::Compute, entry.name.as_str()));
            let values = constants.iter().map(|(name, value)| (name.to_string(), *value as f64)).collect();
            let (module, info) =
                process_overrides(&module, &info, stage, &values).unwrap_or_else(|error| panic!("{label}: {error}"));
            check(&label, &entry.name, &module, &info);
        }
    }
}

#[test]
fn every_entry_point_becomes_spirv() {
    each_entry_point(|label, name, module, info| {
        let pipeline = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: name.into() };
        for lang_version in [(1, 0), (1, 3), (1, 6)] {
            let options = spv::Options { lang_version, ..Default::default() };
            let words = spv::write_vec(module, info, &options, Some(&pipeline));
            let words = words.unwrap_or_else(|error| panic!("{label} as SPIR-V {lang_version:?}: {error}"));
            assert_eq!(words[0], 0x0723_0203, "{label}: the magic number");
        }
    });
}

/// The environment variable that names the folder in which to leave all modules, for a compiler that is not in Rust.
const FOLDER: &str = "DIFFUSE_SHADERS";

/// Writes each module but those of matrix units, which naga alone knows in this language, to `folder`, and to `modules.json` there what
/// pipelines are made of them: `[{file, subgroups, pipelines: [{entry, constants}]}]`.
fn write_modules(folder: &Path) -> Vec<serde_json::Value> {
    let of_all = kernels().flat_map(|kernel| [Precision::F32, Precision::F16].map(|precision| (kernel, precision)));
    let differ = of_all.filter(|(kernel, precision)| *precision == Precision::F32 || kernel.knows_halves());
    let modules = differ.filter(|(kernel, _)| !kernel.needs.iter().any(|need| need.is_matrices()));
    let write = |(kernel, precision): (&Kernel, Precision)| {
        let file = format!("{}.{precision:?}.wgsl", kernel.label()).to_lowercase();
        let subgroups = kernel.needs.contains(&Need::Subgroups);
        // WebGPU asks for this line, naga for its absence.
        let enable = if subgroups { "enable subgroups;\n" } else { "" };
        std::fs::write(folder.join(&file), enable.to_string() + &kernel.source(precision))
            .expect("a file can be written");
        let of_entry = |entry: &str| {
            let values = constants(kernel).into_iter();
            values.map(|own| json!({ "entry": entry, "constants": BTreeMap::from_iter(own.iter().copied()) })).collect()
        };
        let pipelines: Vec<Vec<_>> = kernel.entry_points().iter().map(|entry| of_entry(&entry.name)).collect();
        json!({ "file": file, "subgroups": subgroups, "pipelines": pipelines.concat() })
    };
    let modules: Vec<_> = modules.map(write).collect();
    std::fs::write(folder.join("modules.json"), json!(modules).to_string()).expect("a file can be written");
    modules
}

#[test]
fn modules_are_written_with_all_their_pipelines() {
    let place = tempfile::tempdir().expect("a folder");
    let folder = std::env::var_os(FOLDER).map_or(place.path().into(), PathBuf::from);
    let modules = write_modules(&folder);
    let count = |module: &serde_json::Value| module["pipelines"].as_array().map_or(0, Vec::len);
    assert!(modules.len() > ops::ALL.len() && modules.iter().all(|module| count(module) > 0), "{modules:?}");
    for module in &modules {
        let text =
            std::fs::read_to_string(folder.join(module["file"].as_str().expect("a name"))).expect("it was written");
        let computes = text.lines().filter(|line| line.starts_with("@compute")).count();
        assert!(computes > 0 && count(module) % computes == 0, "{module}");
    }
}

/// The side of the matrices that a module multiplies on matrix units: none, 8 or 16.
fn matrices(module: &Module) -> u32 {
    let side = |inner: &TypeInner| match inner {
        TypeInner::CooperativeMatrix { columns, .. } => *columns as u32,
        _ => 0,
    };
    module.types.iter().map(|(_, ty)| side(&ty.inner)).max().unwrap_or(0)
}

#[test]
fn every_entry_point_becomes_msl() {
    each_entry_point(|label, name, module, info| {
        let pipeline =
            msl::PipelineOptions { entry_point: Some((ShaderStage::Compute, name.into())), ..Default::default() };
        // Metal's matrices are 8 x 8, since 2.3.
        let versions: &[(u8, u8)] = match matrices(module) {
            0 => &[(2, 0), (3, 1)],
            8 => &[(3, 1)],
            _ => &[],
        };
        for lang_version in versions.iter().copied() {
            let options = msl::Options { lang_version, ..Default::default() };
            let (text, translation) = msl::write_string(module, info, &options, &pipeline)
                .unwrap_or_else(|error| panic!("{label} as MSL {lang_version:?}: {error}"));
            assert!(text.contains("kernel void"), "{label}");
            for name in translation.entry_point_names {
                name.unwrap_or_else(|error| panic!("{label} as MSL {lang_version:?}: {error}"));
            }
        }
    });
}

#[test]
fn every_entry_point_becomes_hlsl() {
    each_entry_point(|label, name, module, info| {
        let pipeline = hlsl::PipelineOptions { entry_point: Some((ShaderStage::Compute, name.into())) };
        // DX12 has no matrix units that naga knows.
        let models = if matrices(module) > 0 { &[][..] } else { &[hlsl::ShaderModel::V5_1, hlsl::ShaderModel::V6_0] };
        for shader_model in models.iter().copied() {
            let options = hlsl::Options { shader_model, ..Default::default() };
            let mut text = String::new();
            let translation = hlsl::Writer::new(&mut text, &options, &pipeline)
                .write(module, info, None)
                .unwrap_or_else(|error| panic!("{label} as HLSL {shader_model:?}: {error}"));
            assert!(text.contains("[numthreads("), "{label}");
            for name in translation.entry_point_names {
                name.unwrap_or_else(|error| panic!("{label} as HLSL {shader_model:?}: {error}"));
            }
        }
    });
}

#[test]
fn entry_points_keep_to_the_limits_that_every_device_has() {
    for kernel in kernels() {
        for entry in kernel.entry_points() {
            let label = format!("{}.{}", kernel.label(), entry.name);
            let buffers = entry.storage.len();
            assert!((1..=MAX_STORAGE_BUFFERS).contains(&buffers), "{label}: {buffers} storage buffers");
            let bytes = entry.params.as_ref().map_or(0, |uniform| uniform.bytes);
            assert!(bytes <= MAX_PARAMS_BYTES, "{label}: {bytes} bytes of parameters");
        }
    }
    each_entry_point(|label, name, module, _| {
        let entry = module.entry_points.iter().find(|entry| entry.name == name).expect("the one asked for");
        let invocations: u32 = entry.workgroup_size.iter().product();
        assert!((1..=MAX_INVOCATIONS).contains(&invocations), "{label}: {invocations} invocations a workgroup");
        // What the entry point doesn't use is gone from the compacted module.
        let shared = module.global_variables.iter().filter(|(_, variable)| variable.space == AddressSpace::WorkGroup);
        let bytes: u32 = shared.map(|(_, variable)| module.types[variable.ty].inner.size(module.to_ctx())).sum();
        assert!(bytes <= MAX_WORKGROUP_BYTES, "{label}: {bytes} bytes of workgroup memory");
    });
}

/// Sums by float atomics would come out in another order on every run.
#[test]
fn no_shader_uses_atomics() {
    for kernel in kernels() {
        let (module, _) = parse(kernel, Precision::F32);
        let atomic = module.types.iter().any(|(_, ty)| matches!(ty.inner, TypeInner::Atomic(_)));
        assert!(!atomic, "shaders/{}.wgsl declares an atomic", kernel.label());
    }
}

#[test]
fn every_entry_point_has_one_twin_and_every_twin_an_entry_point() {
    for kernel in kernels() {
        let entries: Vec<&str> = kernel.entry_points().iter().map(|entry| entry.name.as_str()).collect();
        let twins: Vec<&str> = kernel.twins.iter().map(|(name, _)| *name).collect();
        let set = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
        assert!(set(&entries).is_subset(&set(&twins)), "{}", kernel.label());
        if kernel.needs.is_empty() {
            assert_eq!(set(&entries), set(&twins), "{}", kernel.label());
        }
        assert_eq!(set(&twins).len(), twins.len(), "{} names a twin twice", kernel.name);
    }
    let names: BTreeSet<_> = ops::ALL.iter().map(|op| op.kernel.name).collect();
    assert_eq!(names.len(), ops::ALL.len(), "two kernels of one name");
}

/// Whether `text` has `word` with no letter, digit or underscore at its sides.
fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

/// A reader should be able to check the derivation on paper: what is written is named, with its shape, at the top.
#[test]
fn every_file_opens_with_a_comment_that_names_what_it_writes() {
    for kernel in kernels() {
        let text = kernel.text();
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        assert!(head.len() >= 3, "shaders/{}.wgsl opens with {} lines of comment", kernel.name, head.len());
        for entry in kernel.entry_points() {
            for binding in entry.storage.iter().filter(|binding| binding.access.writes()) {
                let place = format!("shaders/{}.wgsl: {} of {}", kernel.name, binding.name, entry.name);
                assert!(has_word(&head.join("\n"), &binding.name), "{place} is not named at the top");
            }
        }
    }
}

/// The lines of all files under `folder` of this extension, each with its file's path.
fn lines_under(folder: &Path, extension: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder of the repository").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(lines_under(&path, extension));
        } else if path.extension().is_some_and(|own| own == extension) {
            let text = std::fs::read_to_string(&path).expect("a source file can be read");
            found.extend(text.lines().map(|line| (path.display().to_string(), line.to_string())));
        }
    }
    found
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Whether it is a name rather than an index of mathematics: `loss_scale`, not `S_ij`.
fn is_name(word: &str) -> bool {
    let is_part = |part: &str| part.len() > 1 && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    word.contains('_') && word.split('_').all(is_part)
}

/// A name in a comment that nothing bears any more misleads whoever looks for it.
#[test]
fn comments_name_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shaders = lines_under(&root.join("shaders"), "wgsl");
    let twins_and_host = lines_under(&root.join("src"), "rs");
    let code = |line: &str| line.split("//").next().unwrap_or("").to_string();
    let all: Vec<String> = shaders.iter().chain(&twins_and_host).map(|(_, line)| code(line)).collect();
    let exists: BTreeSet<&str> = all.iter().flat_map(|line| words(line)).collect();
    for (file, line) in &shaders {
        let Some((_, comment)) = line.split_once("//") else { continue };
        let quoted = comment.split('`').skip(1).step_by(2).filter_map(|quoted| words(quoted).next());
        for name in words(comment).filter(|word| is_name(word)).chain(quoted) {
            assert!(exists.contains(name), "{file}: no {name} in shaders/ or src/, which a comment names: {line}");
        }
    }
}

#[test]
fn no_line_is_longer_than_a_screen() {
    for file in kernels().flat_map(|kernel| [Precision::F32, Precision::F16].map(|p| kernel.files(p))).flatten() {
        for (number, line) in file.text.lines().enumerate() {
            let length = line.chars().count();
            assert!(length <= MAX_LINE, "shaders/{}:{}: {length} characters", file.name, number + 1);
        }
    }
}
