//! A kernel: one WGSL file, its CPU twins, and what naga reads out of the file.
//!
//! WGSL alone declares bindings, access, parameters and workgroup sizes. The host reflects them and checks each
//! recorded dispatch against them, so that nothing is typed a second time.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use naga::back::pipeline_constants::process_overrides;
use naga::valid::{Capabilities, GlobalUse, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Expression, Literal, Module, ScalarKind, Span, TypeInner};

use serde::{Deserialize, Serialize};

use crate::cpu::Twin;
use crate::error::{Error, Result};

/// A WGSL file.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Its name in `shaders/`.
    pub name: &'static str,
    pub text: &'static str,
}

/// The [`File`] of this name in `shaders/`, which may come in parts.
macro_rules! wgsl {
    ($($part:literal)+) => {
        $crate::gpu::kernel::File {
            name: concat!($($part),+),
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $($part),+)),
        }
    };
}
pub(crate) use wgsl;

/// The prefix of every shader, by how it stores activations.
fn library(precision: Precision) -> [File; 2] {
    let storage = match precision {
        Precision::F32 => wgsl!("lib.f32.wgsl"),
        Precision::F16 => wgsl!("lib.f16.wgsl"),
    };
    [wgsl!("lib.wgsl"), storage]
}

/// How activations and the copies of weights that matrix products read are stored. Arithmetic, gradients of weights, master
/// weights and the optimizer are f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    #[default]
    F32,
    F16,
}

/// What a variant needs beyond the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    Subgroups,
    /// Matrix units that multiply 8 x 8 matrices, f16 to f32.
    Matrices8,
    /// The same, 16 x 16.
    Matrices16,
}

impl Need {
    /// Whether it multiplies what is stored in half precision.
    pub fn is_matrices(self) -> bool {
        matches!(self, Need::Matrices8 | Need::Matrices16)
    }
}

/// What must stand before a shader that uses matrix units.
const ENABLE_MATRICES: &str = "enable f16;\nenable wgpu_cooperative_matrix;\n";

/// One shader file with its twins: `(entry point, f64 reference)`. Variants of a kernel are shader files of their own
/// behind a common prefix, with the same twins.
pub struct Kernel {
    pub name: &'static str,
    /// `register`, `subgroup`, ...; empty where there is but one.
    pub variant: &'static str,
    pub needs: &'static [Need],
    /// One behind the other: what the variants have in common comes first.
    wgsl: &'static [File],
    /// Texts that stand in for those of the files of the same names.
    changed: &'static [File],
    pub twins: &'static [(&'static str, Twin)],
    reflection: OnceLock<Reflection>,
}

/// How an entry point uses a storage binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    /// Overwrites; what was there before does not matter.
    Write,
    ReadWrite,
}

impl Access {
    pub fn reads(self) -> bool {
        self != Access::Write
    }

    pub fn writes(self) -> bool {
        self != Access::Read
    }
}

/// A storage buffer of an entry point.
#[derive(Clone, Debug)]
pub struct Binding {
    pub index: u32,
    pub name: String,
    /// What the code does with it.
    pub access: Access,
    /// Declared `read_write`.
    pub writable: bool,
    /// An array of u32, not of f32.
    pub integer: bool,
    /// An array of `real4`: stored as the precision says.
    pub real: bool,
}

/// A field of a uniform structure: u32 or f32.
#[derive(Clone, Debug)]
pub struct Field {
    pub name: String,
    pub offset: u32,
    pub float: bool,
}

/// A uniform structure as WGSL lays it out.
#[derive(Clone, Debug)]
pub struct Uniform {
    pub index: u32,
    pub bytes: u32,
    pub fields: Vec<Field>,
}

/// What the host must know of an entry point.
#[derive(Clone, Debug)]
pub struct EntryPoint {
    pub name: String,
    /// As written; where an `override` says it, callers count workgroups.
    pub workgroup_size: [u32; 3],
    /// Storage bindings by index.
    pub storage: Vec<Binding>,
    /// Any other uniform: fixed when the dispatch is recorded.
    pub params: Option<Uniform>,
    /// `var<uniform> step` of lib.wgsl: the one small uniform the host writes every step.
    pub step: Option<Uniform>,
}

/// Values of `override` constants.
type Overrides = &'static [(&'static str, u32)];

struct Reflection {
    entry_points: Vec<EntryPoint>,
    module: Module,
    info: ModuleInfo,
    /// Constants that were asked for, by name and overrides.
    constants: Mutex<BTreeMap<(&'static str, Overrides), u32>>,
}

impl Kernel {
    pub const fn new(name: &'static str, wgsl: &'static [File], twins: &'static [(&'static str, Twin)]) -> Kernel {
        Kernel::variant(name, "", &[], wgsl, twins)
    }

    /// One of several variants: the files `wgsl`, one behind the other.
    pub const fn variant(
        name: &'static str,
        variant: &'static str,
        needs: &'static [Need],
        wgsl: &'static [File],
        twins: &'static [(&'static str, Twin)],
    ) -> Kernel {
        Kernel { name, variant, needs, wgsl, changed: &[], twins, reflection: OnceLock::new() }
    }

    /// The same with other texts of some of its files, the library's included: for tests that break a kernel.
    pub fn with_changed(&self, changed: &'static [File]) -> Kernel {
        let Kernel { name, variant, needs, wgsl, twins, .. } = *self;
        Kernel { changed, ..Kernel::variant(name, variant, needs, wgsl, twins) }
    }

    /// `conv2d.subgroup`, or `add`.
    pub fn label(&self) -> String {
        if self.variant.is_empty() { self.name.into() } else { format!("{}.{}", self.name, self.variant) }
    }

    /// The kernel's own source, without the library.
    pub fn text(&self) -> String {
        joined(self.wgsl)
    }

    /// All files, one behind the other: the library, then this kernel's own.
    pub fn files(&self, precision: Precision) -> Vec<File> {
        let files = library(precision).into_iter().chain(self.wgsl.iter().copied());
        let stand_in = |file: File| self.changed.iter().copied().find(|changed| changed.name == file.name);
        files.map(|file| stand_in(file).unwrap_or(file)).collect()
    }

    /// The whole source: what must be enabled, then all files.
    pub fn source(&self, precision: Precision) -> String {
        let enable = if self.needs.iter().any(|need| need.is_matrices()) { ENABLE_MATRICES } else { "" };
        format!("{enable}{}", joined(&self.files(precision)))
    }

    /// A place in [`Kernel::source`] as one in its file: `shaders/lib.product.tiled.wgsl:57:12`.
    fn place(&self, precision: Precision, location: Option<naga::SourceLocation>) -> String {
        let Some(location) = location else { return format!("shaders/{}.wgsl", self.label()) };
        let enabled = self.source(precision).len() - joined(&self.files(precision)).len();
        let enabled_lines = self.source(precision)[..enabled].lines().count() as u32;
        let mut line = location.line_number.saturating_sub(enabled_lines);
        for file in self.files(precision) {
            // As `joined` puts them behind each other.
            let lines = file.text.split('\n').count() as u32;
            if line <= lines {
                return format!("shaders/{}:{line}:{}", file.name, location.line_position);
            }
            line -= lines;
        }
        format!("shaders/{}.wgsl", self.label())
    }

    /// Whether half precision makes a difference: it reads or writes what is stored as the precision says, or multiplies halves.
    pub fn knows_halves(&self) -> bool {
        self.needs.iter().any(|need| need.is_matrices())
            || self.entry_points().iter().any(|entry| entry.storage.iter().any(|binding| binding.real))
    }

    /// The entry points in the file's order.
    pub fn entry_points(&self) -> &[EntryPoint] {
        &self.reflection().entry_points
    }

    fn reflection(&self) -> &Reflection {
        self.reflection.get_or_init(|| reflect(self))
    }

    /// The entry point `name`; panics if the file has none, which is a mistake in the code that records.
    pub fn entry_point(&self, name: &str) -> &EntryPoint {
        let found = self.entry_points().iter().find(|entry| entry.name == name);
        found.unwrap_or_else(|| panic!("{} has no entry point {name}", self.label()))
    }

    /// The value of a u32 that WGSL declares, as `const` or `override`, where `overrides` are set. Panics if there is no such
    /// constant, which is a mistake in the code that asks.
    pub fn constant(&self, name: &'static str, overrides: Overrides) -> u32 {
        let reflection = self.reflection();
        let known = || reflection.constants.lock().expect("nothing panics that holds it");
        if let Some(value) = known().get(&(name, overrides)) {
            return *value;
        }
        let value = evaluate(reflection, name, overrides);
        let value = value.unwrap_or_else(|| panic!("{} declares no u32 {name} for {overrides:?}", self.label()));
        known().insert((name, overrides), value);
        value
    }

    /// The module of one entry point where `overrides` are set.
    ///
    /// # Errors
    /// [`Error::Device`] if naga has none such, which is a mistake in the code that asks.
    pub fn specialised(
        &self,
        entry: &str,
        overrides: Overrides,
        precision: Precision,
    ) -> Result<(naga::Module, naga::valid::ModuleInfo)> {
        let wrong = |error: &dyn std::fmt::Display| Error::Device(format!("{}.{entry}: {error}", self.label()));
        let module = naga::front::wgsl::parse_str(&self.source(precision)).map_err(|error| wrong(&error.message()))?;
        let info = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
        let info = info.map_err(|error| wrong(error.as_inner()))?;
        let values = overrides.iter().map(|(name, value)| (name.to_string(), f64::from(*value))).collect();
        let entry_point = Some((naga::ShaderStage::Compute, entry));
        let (module, info) = process_overrides(&module, &info, entry_point, &values).map_err(|error| wrong(&error))?;
        Ok((module.into_owned(), info.into_owned()))
    }

    /// The f64 reference of entry point `name`.
    pub fn twin(&self, name: &str) -> Twin {
        let found = self.twins.iter().find(|(entry, _)| *entry == name);
        found.unwrap_or_else(|| panic!("src/cpu/{}.rs has no twin of {name}", self.name)).1
    }
}

fn joined(files: &[File]) -> String {
    let texts: Vec<&str> = files.iter().map(|file| file.text).collect();
    texts.join("\n")
}

fn reflect(kernel: &Kernel) -> Reflection {
    let parse = |precision| {
        let source = kernel.source(precision);
        naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| {
            let place = kernel.place(precision, error.location(&source));
            panic!("{place}: {}", error.message())
        })
    };
    let (module, half) = (parse(Precision::F32), parse(Precision::F16));
    let validated = Validator::new(ValidationFlags::all(), Capabilities::all()).validate(&module);
    let info = validated.unwrap_or_else(|error| {
        let place = kernel.place(Precision::F32, error.location(&kernel.source(Precision::F32)));
        let inner: &dyn std::error::Error = error.as_inner();
        let causes = std::iter::successors(Some(inner), |error| error.source()).map(ToString::to_string);
        panic!("{place}: {}", causes.collect::<Vec<_>>().join(": "))
    });
    let entry_points = module.entry_points.iter().enumerate();
    let entry_points = entry_points
        .map(|(index, entry)| reflect_entry_point(&module, &half, info.get_entry_point(index), entry))
        .collect();
    Reflection { entry_points, module, info, constants: Mutex::default() }
}

/// The u32 `name` of a module where `overrides` are set.
fn evaluate(reflection: &Reflection, name: &str, overrides: Overrides) -> Option<u32> {
    let mut module = reflection.module.clone();
    if let Some((_, constant)) = module.constants.iter().find(|(_, constant)| constant.name.as_deref() == Some(name)) {
        return literal(&module, constant.init);
    }
    // naga evaluates overrides where something needs them: here an entry point whose workgroup is as large as this one.
    let (handle, _) = module.overrides.iter().find(|(_, own)| own.name.as_deref() == Some(name))?;
    let size = module.global_expressions.append(Expression::Override(handle), Span::UNDEFINED);
    module.entry_points.truncate(1);
    let entry = module.entry_points.first_mut()?;
    entry.workgroup_size_overrides = Some([Some(size), None, None]);
    let values = overrides.iter().map(|(name, value)| (name.to_string(), *value as f64)).collect();
    let (module, _) = process_overrides(&module, &reflection.info, None, &values).ok()?;
    Some(module.entry_points.first()?.workgroup_size[0])
}

fn literal(module: &Module, expression: naga::Handle<Expression>) -> Option<u32> {
    match module.global_expressions[expression] {
        Expression::Literal(Literal::U32(value)) => Some(value),
        _ => None,
    }
}

fn reflect_entry_point(
    module: &Module,
    half: &Module,
    info: &naga::valid::FunctionInfo,
    entry: &naga::EntryPoint,
) -> EntryPoint {
    let mut reflected = EntryPoint {
        name: entry.name.clone(),
        workgroup_size: entry.workgroup_size,
        storage: Vec::new(),
        params: None,
        step: None,
    };
    for (handle, variable) in module.global_variables.iter() {
        let usage = info[handle];
        let (Some(binding), false) = (&variable.binding, usage.is_empty()) else { continue };
        let name = variable.name.clone().expect("a binding has a name");
        match variable.space {
            AddressSpace::Uniform => {
                let uniform = reflect_uniform(module, binding.binding, variable.ty);
                let slot = if name == "step" { &mut reflected.step } else { &mut reflected.params };
                assert!(slot.replace(uniform).is_none(), "{}: two uniforms of parameters", entry.name);
            }
            AddressSpace::Storage { access: declared } => {
                let access = match (usage.contains(GlobalUse::READ), usage.contains(GlobalUse::WRITE)) {
                    (true, true) => Access::ReadWrite,
                    (false, true) => Access::Write,
                    _ => Access::Read,
                };
                let integer = element_kind(module, variable.ty) == ScalarKind::Uint;
                let writable = declared.contains(naga::StorageAccess::STORE);
                // What is stored otherwise in half precision is a real4.
                let other = half.global_variables.iter().find(|(_, other)| other.name == variable.name);
                let real =
                    other.is_some_and(|(_, other)| element_kind(half, other.ty) != element_kind(module, variable.ty));
                reflected.storage.push(Binding { index: binding.binding, name, access, writable, integer, real });
            }
            _ => {}
        }
    }
    reflected.storage.sort_by_key(|binding| binding.index);
    reflected
}

fn reflect_uniform(module: &Module, index: u32, ty: naga::Handle<naga::Type>) -> Uniform {
    let TypeInner::Struct { members, span } = &module.types[ty].inner else {
        panic!("a uniform is a structure");
    };
    let fields = members.iter().map(|member| {
        let TypeInner::Scalar(scalar) = module.types[member.ty].inner else {
            panic!("a uniform holds u32 and f32 only");
        };
        let name = member.name.clone().expect("a field has a name");
        Field { name, offset: member.offset, float: scalar.kind == ScalarKind::Float }
    });
    Uniform { index, bytes: *span, fields: fields.collect() }
}

fn element_kind(module: &Module, ty: naga::Handle<naga::Type>) -> ScalarKind {
    match module.types[ty].inner {
        TypeInner::Array { base, .. } => element_kind(module, base),
        TypeInner::Vector { scalar, .. } | TypeInner::Scalar(scalar) => scalar.kind,
        _ => panic!("a storage buffer is an array of numbers or vectors"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: File = File { name: "first.wgsl", text: "const ONE = 1u;\n" };
    const UNKNOWN: File = File { name: "unknown.wgsl", text: "// a call\nfn two() -> u32 { return ONE + three(); }\n" };
    const UNEQUAL: File = File { name: "unequal.wgsl", text: "\n\nfn two(a: f32) -> u32 { return a; }\n" };
    static NO_SUCH_FUNCTION: Kernel = Kernel::new("first", &[FIRST, UNKNOWN], &[]);
    static WRONG_TYPE: Kernel = Kernel::variant("first", "coop8", &[Need::Matrices8], &[FIRST, UNEQUAL], &[]);

    const DERIVED: File = File {
        name: "derived.wgsl",
        text: "const TWO = 2u * 1u;\noverride LANES = 4u;\noverride TILE = TWO * LANES;\n
            @compute @workgroup_size(LANES) fn main() {}",
    };
    static CONSTANTS: Kernel = Kernel::new("derived", &[DERIVED], &[]);

    #[test]
    fn constants_have_the_values_that_wgsl_says() {
        let value = |name, overrides| CONSTANTS.constant(name, overrides);
        assert_eq!([value("TWO", &[]), value("LANES", &[]), value("TILE", &[])], [2, 4, 8]);
        assert_eq!([value("LANES", &[("LANES", 16)]), value("TILE", &[("LANES", 16)])], [16, 32]);
    }

    #[test]
    #[should_panic(expected = "derived declares no u32 THREE")]
    fn a_constant_that_is_not_declared_is_named() {
        CONSTANTS.constant("THREE", &[]);
    }

    #[test]
    #[should_panic(expected = "shaders/unknown.wgsl:2:32: no definition in scope")]
    fn what_does_not_parse_is_named_by_its_file_and_line() {
        NO_SUCH_FUNCTION.entry_points();
    }

    #[test]
    #[should_panic(expected = "shaders/unequal.wgsl:3:")]
    fn what_is_not_valid_is_named_by_its_file_and_line() {
        WRONG_TYPE.entry_points();
    }
}
