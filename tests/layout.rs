//! The house of the design: which files there are, and which layer may import which.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// `(layer, what it may import)`. A layer is a top-level module; every one may import itself.
#[rustfmt::skip]
const LAYERS: &[(&str, &str)] = &[
    ("error", ""),
    ("random", ""),
    ("secret", "error"),
    ("cpu", ""),
    ("diffusion", ""),
    ("privacy", ""),
    ("certify", "diffusion random"),
    ("files", "error"),
    ("data", "error files"),
    ("tensors", "error files"),
    ("picture", "error files"),
    ("chart", "error picture"),
    ("gpu", "cpu error random"),
    ("ops", "cpu gpu random"),
    ("nn", "error gpu ops random"),
    ("checkpoint", "diffusion error files nn tensors"),
    ("tune", "error files gpu ops"),
    ("ranks", ""),
    ("run", "checkpoint data diffusion error gpu nn ops picture ranks secret tune"),
    ("verify", "checkpoint data error gpu nn ops run tensors tune"),
    ("train", "chart checkpoint data error files gpu nn picture privacy ranks run secret tensors tune"),
    ("evaluate", "data diffusion error picture random run"),
    ("page", "checkpoint diffusion error gpu nn run"),
    ("profile", "chart diffusion error gpu nn ops random run"),
];
/// What a user types may reach everything.
const TOP: &[&str] = &["lib", "main", "cli", "glibc"];
/// Layers that reach only a part of what they import: the twin's call type, the recorder.
const NARROW: &[(&str, &str, &[&str])] = &[
    ("gpu", "cpu", &["Array", "Call", "Twin"]),
    ("nn", "gpu", &["EMA", "GRADIENTS", "Recorder", "Recording", "Slice", "Tensor", "WEIGHTS", "Weight", "recorder"]),
];
const TOP_FILES: &[&str] = &["src/lib.rs", "src/main.rs"];
/// Crates that only `gpu` may name.
const GPU_ONLY: &[&str] = &["ash", "wgpu", "naga", "pollster"];
/// Layers that use nothing but std.
const STD_ONLY: &[&str] = &["cpu", "diffusion", "random"];

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Files under `folder` with this extension, by their path from the root of the repository.
fn files(folder: &str, extension: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root(folder)).into_iter().flatten().flatten() {
        let name = format!("{folder}/{}", entry.file_name().to_str().expect("names are UTF-8"));
        if entry.path().is_dir() {
            found.extend(files(&name, extension));
        } else if name.ends_with(extension) {
            found.insert(name, std::fs::read_to_string(entry.path()).expect("a source file can be read"));
        }
    }
    found
}

/// Without comments. A `//` in a string cuts its line too, which hides nothing that these tests look for.
fn code(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

/// The paths of a use tree: `{a::b, c}` gives `a::b` and `c`, `a::{b, c}` gives `a::b` and `a::c`.
fn branches(tree: &str) -> Vec<String> {
    let tree = tree.trim_start();
    let Some(group) = tree.strip_prefix('{') else {
        let head = identifier(tree).to_string();
        return match tree[head.len()..].strip_prefix("::") {
            Some(tail) => branches(tail).into_iter().map(|path| format!("{head}::{path}")).collect(),
            None => vec![head],
        };
    };
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                found.extend(branches(&group[start..index]));
                start = index + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found
}

/// Modules above a file: 0 for `src/lib.rs`, 1 for `src/chart.rs`, 2 for `src/chart/axes.rs`.
fn depth(file: &str) -> usize {
    if TOP_FILES.contains(&file) { 0 } else { file.split('/').count() - 1 }
}

/// What follows each `prefix` that begins a path.
fn after<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let begins = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
    text.match_indices(prefix).filter(move |(at, _)| begins(*at)).map(|(at, prefix)| &text[at + prefix.len()..])
}

/// Paths from the root of the crate that `file` names: `gpu::Recorder`.
fn arrows(file: &str, text: &str) -> BTreeSet<String> {
    let supers = "super::".repeat(depth(file));
    let prefixes = ["crate::", "diffuse::"].into_iter().chain((depth(file) > 0).then_some(supers.as_str()));
    prefixes.flat_map(|prefix| after(text, prefix)).flat_map(branches).collect()
}

fn layer(file: &str) -> &str {
    identifier(file.strip_prefix("src/").expect("a source file"))
}

#[test]
fn shaders_ops_and_twins_have_the_same_names() {
    let stems = |folder: &str, extension: &str, without: &[&str]| -> BTreeSet<String> {
        let names = files(folder, extension).into_keys();
        // The variants of a kernel are `x.register.wgsl` and the like beside `x.wgsl`.
        let stems = names.map(|name| identifier(&name[folder.len() + 1..]).to_string());
        stems.filter(|stem| !without.contains(&stem.as_str())).collect()
    };
    let shaders = stems("shaders", ".wgsl", &[]);
    assert_eq!(shaders, stems("src/cpu", ".rs", &[]), "shaders/ and src/cpu/");
    let kernels = stems("shaders", ".wgsl", &["lib"]);
    assert_eq!(kernels, stems("src/ops", ".rs", &["case", "matrix", "op", "tiles"]), "shaders/ and src/ops/");
    let all: BTreeSet<String> = diffuse::ops::ALL.iter().map(|op| op.kernel.name.to_string()).collect();
    assert_eq!(kernels, all, "shaders/ and ops::ALL");
}

#[test]
fn layers_import_only_what_the_table_lists() {
    let (mut wrong, mut used) = (Vec::new(), BTreeSet::new());
    for (file, text) in files("src", ".rs").iter().filter(|(file, _)| !TOP.contains(&layer(file))) {
        let own = layer(file);
        let found = LAYERS.iter().find(|(name, _)| *name == own);
        let (_, allowed) = found.unwrap_or_else(|| panic!("{file}: the table has no layer {own}"));
        for path in arrows(file, &code(text)) {
            let (to, part) = path.split_once("::").unwrap_or((&path, ""));
            let known = LAYERS.iter().any(|(name, _)| *name == to);
            used.insert((own.to_string(), to.to_string()));
            if known && to != own && !allowed.split(' ').any(|layer| layer == to) {
                wrong.push(format!("{file}: {own} -> {path} is not in the table"));
            }
            for (_, _, parts) in NARROW.iter().filter(|(from, whole, _)| (*from, *whole) == (own, to)) {
                if !parts.contains(&identifier(part)) {
                    wrong.push(format!("{file}: {own} -> {path}; of {to} it may use {}", parts.join(", ")));
                }
            }
        }
    }
    let listed = LAYERS.iter().flat_map(|(own, allowed)| allowed.split_whitespace().map(move |to| (*own, to)));
    let unused = listed.filter(|(own, to)| !used.contains(&(own.to_string(), to.to_string())));
    wrong.extend(unused.map(|(own, to)| format!("nothing in {own} imports {to} any more: take it out of the table")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn other_crates_stay_where_they_belong() {
    for (file, text) in files("src", ".rs") {
        let (own, text) = (layer(&file), code(&text));
        for name in GPU_ONLY {
            let named = after(&text, &format!("{name}::")).next().is_some();
            assert!(own == "gpu" || !named, "{file}: {own} -> {name}");
        }
        for path in after(&text, "use ").filter(|tail| tail.lines().next().is_some_and(|line| line.contains("::"))) {
            let head = identifier(path);
            let inside = ["std", "super", "crate", "self"].contains(&head) || text.contains(&format!("mod {head};"));
            assert!(inside || !STD_ONLY.contains(&own), "{file}: {own} -> {head}");
        }
    }
}

#[test]
fn no_file_is_unfinished_unsafe_or_names_a_kernel_that_it_should_iterate() {
    let mut wrong = Vec::new();
    for (file, text) in ["src", "tests", "benches", "examples"].into_iter().flat_map(|folder| files(folder, ".rs")) {
        let text = code(&text);
        // This file names the words itself.
        for word in ["todo!", "unimplemented!", "#[ignore", "unsafe ", "::KERNEL"] {
            let homes = match word {
                "::KERNEL" => &["src/ops"][..],
                "unsafe " => &["src/gpu/", "src/data/room.rs", "tests/mutations/harness.rs"],
                _ => &[],
            };
            let fine = homes.iter().any(|home| file.starts_with(home)) || file == "tests/layout.rs";
            if text.contains(word) && !fine {
                wrong.push(format!("{file}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The path of a file's module from the root of the crate: `chart::axes`.
fn module(file: &str) -> String {
    file["src/".len()..file.len() - ".rs".len()].replace('/', "::")
}

/// Paths from the root of the crate that a file names, by `crate`, `super`, `self` or a module of its own.
fn named(file: &str, text: &str) -> BTreeSet<String> {
    let (own, mut found) = (module(file), arrows(file, text));
    let mut add = |prefix: &str, from: &str| {
        let paths = after(text, prefix).filter(|tail| !tail.starts_with("super::")).flat_map(branches);
        found.extend(paths.map(|path| format!("{from}::{path}")));
    };
    add("self::", &own);
    let (mut prefix, mut from) = (String::new(), own.as_str());
    while let Some((outer, _)) = from.rsplit_once("::") {
        prefix.push_str("super::");
        add(&prefix, outer);
        from = outer;
    }
    let declared = after(text, "mod ").map(identifier).collect::<BTreeSet<_>>();
    let children = declared.iter().filter(|child| after(text, &format!("{child}::")).next().is_some());
    found.extend(children.map(|child| format!("{own}::{child}")));
    found
}

/// Within a layer no file needs one that needs it: what both need has a file of its own. A layer's root, which lists its files,
/// is none that they may name.
#[test]
fn no_circle_of_files_within_a_layer() {
    let sources = files("src", ".rs");
    let modules: BTreeMap<String, &String> = sources.keys().map(|file| (module(file), file)).collect();
    let target = |path: &str| -> Option<String> {
        let ends = path.match_indices("::").map(|(end, _)| end).chain([path.len()]);
        ends.map(|end| &path[..end]).filter(|part| modules.contains_key(*part)).last().map(str::to_string)
    };
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, text) in sources.iter().filter(|(file, _)| !TOP_FILES.contains(&file.as_str())) {
        let (text, own) = (code(text), module(file));
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        let within = |to: &String| layer(file) == identifier(to) && *to != own;
        needs.insert(own.clone(), named(file, text).iter().filter_map(|path| target(path)).filter(within).collect());
    }
    // Whatever needs nothing that is left can go; what stays is in a circle, or leads to one.
    loop {
        let free: Vec<String> = needs.iter().filter(|(_, to)| to.is_empty()).map(|(own, _)| own.clone()).collect();
        if free.is_empty() {
            break;
        }
        needs.retain(|own, _| !free.contains(own));
        needs.values_mut().for_each(|to| to.retain(|to| !free.contains(to)));
    }
    let circles: Vec<String> = needs.iter().map(|(own, to)| format!("{own} needs {to:?}")).collect();
    assert!(circles.is_empty(), "a circle, and what leads to it:\n{}", circles.join("\n"));
}

#[test]
fn a_module_with_files_of_its_own_is_a_file_beside_their_folder() {
    let roots: Vec<String> = files("src", "/mod.rs").into_keys().collect();
    assert!(roots.is_empty(), "x.rs beside x/, not x/mod.rs: {roots:?}");
}

/// The reader of paths itself.
#[test]
fn arrows_are_found() {
    let text =
        "use crate::{gpu::{Kernel, plan::Plan}, error};\nlet y = super::super::nn::unet::UNet; // use crate::data;";
    let found: Vec<String> = arrows("src/ops/add.rs", &code(text)).into_iter().collect();
    assert_eq!(found, ["error", "gpu::Kernel", "gpu::plan::Plan", "nn::unet::UNet"]);
    let text = "mod axes;\nuse self::ticks::whole;\npub use axes::{Axis, Line};\nlet x = super::gpu::Plan;";
    let found: Vec<String> = named("src/chart.rs", text).into_iter().collect();
    assert_eq!(found, ["chart::axes", "chart::ticks::whole", "gpu::Plan"]);
    assert_eq!(named("src/chart/axes.rs", "use super::{ticks, canvas::Area};").len(), 2);
}
