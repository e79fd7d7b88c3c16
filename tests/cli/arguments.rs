//! Help, flags, devices, and `verify`, which has little else.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use super::*;
use diffuse::tensors;

const COMMANDS: [&str; 16] = [
    "demo",
    "train",
    "train-classifier",
    "data",
    "sample",
    "evaluate",
    "verify",
    "certify",
    "privacy",
    "profile",
    "plan",
    "tune",
    "devices",
    "watch",
    "completions",
    "man",
];

#[test]
fn help_is_there() {
    let place = place();
    let whole = accepted(place.path(), "--help").out;
    for command in COMMANDS {
        assert!(whole.contains(&format!("\n  {command} ")), "{command} is not in the list:\n{whole}");
        let help = accepted(place.path(), &format!("{command} --help")).out;
        assert!(help.contains(&format!("Usage: diffuse {command}")) && help.contains("--device"), "{help}");
    }
    // A classifier takes a part of the flags of training, with defaults of its own.
    let help = accepted(place.path(), "train --help").out;
    let part = accepted(place.path(), "train-classifier --help").out;
    let flags = "steps batch lr schedule timesteps sigma-min sigma-max seed checkpoint-every";
    for flag in flags.split(' ').map(|flag| format!("--{flag} <")) {
        assert!(help.contains(&flag) && part.contains(&flag), "{flag}");
    }
    assert!(help.contains("[default: 0.001]") && part.contains("[default: 0.002]"), "{part}");
    assert!(help.contains("--accumulate") && !part.contains("--accumulate"), "{part}");
    assert!(accepted(place.path(), "--version").out.starts_with("diffuse "));
}

/// The flags of a help text by the headings that they stand under.
fn flags_by_heading(help: &str) -> Vec<(&str, &str)> {
    let mut heading = "";
    let mut found = Vec::new();
    for line in help.lines() {
        match line.strip_suffix(':') {
            Some(name) if !line.starts_with(' ') => heading = name,
            _ => found.extend(
                line.trim_start()
                    .split(' ')
                    .find(|word| word.starts_with("--"))
                    .filter(|word| {
                        // Where a flag begins its line, not where a text speaks of one.
                        line.trim_start().trim_start_matches("-h, ").starts_with(word)
                    })
                    .map(|flag| (flag, heading)),
            ),
        }
    }
    found
}

#[test]
fn flags_of_training_stand_under_headings() {
    let place = place();
    let help = accepted(place.path(), "train --help").out;
    let flags = flags_by_heading(&help);
    for (flag, heading) in [
        ("--data", "Data"),
        ("--flip", "Data"),
        ("--preset", "Model"),
        ("--precision", "Model"),
        ("--schedule", "Diffusion"),
        ("--learned-variance", "Diffusion"),
        ("--batch", "Optimizer"),
        ("--micro-batch", "Optimizer"),
        ("--dp-epsilon", "Privacy"),
        ("--canaries", "Privacy"),
        ("--out", "Run"),
        ("--keep", "Run"),
        ("--config", "Run"),
        ("--device", "Device"),
    ] {
        let is_flag = |(own, _): &&(&str, &str)| own.trim_end_matches("[=<DP>]") == flag;
        assert_eq!(flags.iter().find(is_flag).map(|(_, heading)| *heading), Some(heading), "{flag} in\n{help}");
    }
    let headings: Vec<Option<usize>> =
        ["Options", "Data", "Model", "Diffusion", "Optimizer", "Privacy", "Run", "Device"]
            .map(|heading| help.find(&format!("\n{heading}:\n")))
            .into();
    assert!(headings.is_sorted() && headings[0].is_some(), "{headings:?} in\n{help}");
    let rest: Vec<&str> = flags.iter().filter(|(_, heading)| *heading == "Options").map(|(flag, _)| *flag).collect();
    assert!(rest.len() == 2 && rest[0].starts_with("--json") && rest[1] == "--help", "under no heading: {rest:?}");
}

#[test]
fn who_types_no_command_hears_what_most_people_want() {
    let place = place();
    let mut bare = binary::command();
    bare.current_dir(place.path());
    let said = run(bare);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    for part in ["diffuse demo ", "diffuse train --data DIRECTORY ", "diffuse sample RUN ", "diffuse --help"] {
        assert!(said.err.contains(part), "no {part:?} in {}", said.err);
    }
    assert!(said.err.lines().count() < 10 && said.err.lines().all(|line| line.len() <= 80), "{}", said.err);
}

#[test]
fn completions_and_manuals_are_out_of_the_same_definitions() {
    let place = place();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = accepted(place.path(), &format!("completions {shell}")).out;
        for part in ["train-classifier", "watch", "learned-variance", "dp-epsilon"] {
            assert!(script.contains(part), "{shell}: no {part}");
        }
    }
    assert_eq!(run(typed(place.path(), "completions nonsense")).code, Some(2));
    let said = accepted(place.path(), "man pages/man1");
    let pages = files(&place.path().join("pages/man1"));
    assert!(said.err.contains(&format!("{} pages: pages/man1", pages.len())), "{}", said.err);
    for command in COMMANDS {
        assert!(pages.contains(&format!("diffuse-{command}.1")), "{command}: {pages:?}");
    }
    assert!(pages.contains(&"diffuse.1".into()) && pages.contains(&"diffuse-privacy-audit.1".into()), "{pages:?}");
    let page = fs::read_to_string(place.path().join("pages/man1/diffuse-train.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("Decoupled weight decay") && page.contains("\\-\\-lr"), "{page}");
    refused(place.path(), "man tiny.json", &["tiny.json", "file"]);
}

#[test]
fn wrong_arguments_exit_2() {
    let place = place();
    let lines = [
        "",
        "watch",
        "completions",
        "man",
        "nonsense",
        "train",
        "train --data digits --steps many",
        "data digits --memory-limit 0.1K",
        "train --data digits --steps -1",
        "train --data digits --preset base --model tiny.json",
        "train --data digits --lr-schedule nonsense",
        "sample",
        "sample run --sampler nonsense",
        "sample run --count 0x10",
        "sample run --seed 4294967296",
        "verify --model run",
        "verify --model run --reference r.safetensors --kernel silu",
        "devices --nonsense",
        "train-classifier --data digits --accumulate 2",
        "train-classifier --data digits --recompute",
    ];
    for line in lines {
        let said = run(typed(place.path(), line));
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{line}: {}", said.err);
        assert!(said.err.contains("Usage: diffuse") || said.err.contains("--help"), "{line}: {}", said.err);
    }
}

#[test]
fn numbers_without_sense_are_refused() {
    let place = place();
    let cases = [
        ("--lr NaN", "learning rate"),
        ("--lr inf", "learning rate"),
        ("--lr -0.1", "learning rate"),
        ("--lr 0", "learning rate"),
        ("--steps 0", "at least 1"),
        ("--batch 0", "at least 1"),
        ("--accumulate 0", "at least 1"),
        ("--batch 4000000000", "at most 65536"),
        ("--class-dropout 1.5", "class_dropout"),
        ("--class-dropout NaN", "class_dropout"),
        ("--ema-decay 1", "ema_decay"),
        ("--ema-decay -0.5", "ema_decay"),
        ("--weight-decay -1", "weight_decay"),
        ("--weight-decay inf", "weight_decay"),
        ("--max-norm NaN", "max_norm"),
        ("--seed 4294967296", "seed"),
        ("--on-nan lower-scale", "--precision f16"),
    ];
    for (flags, part) in cases {
        refused(place.path(), &format!("train --data digits --model tiny.json --out run {flags}"), &[part]);
    }
    refused(place.path(), "train --data digits --preset nonsense --out run", &["nonsense", "digits, mnist, base"]);
    assert!(!place.path().join("run").exists());
}

#[test]
fn without_an_adapter_the_package_is_named() {
    let place = place();
    untrained(place.path(), "tiny.json", "model");
    fs::write(place.path().join("empty.json"), "").unwrap();
    let lines = [
        "devices",
        "demo --out run",
        "train --data digits --model tiny.json --out run",
        "sample model --out run/s.png",
        "verify",
    ];
    for line in lines {
        for drivers in ["empty.json", "missing.json"] {
            // Without the runner, whose driver would win.
            let mut command = with_arguments(Command::new(env!("CARGO_BIN_EXE_diffuse")), place.path(), line);
            let drivers = place.path().join(drivers);
            command.env("VK_DRIVER_FILES", &drivers).env("VK_ICD_FILENAMES", &drivers);
            assert_refused(line, &run(command), &["no Vulkan, Metal or DX12 adapter", "mesa-vulkan-drivers"]);
        }
    }
    assert!(!place.path().join("run").exists());
}

#[test]
fn devices_are_listed_and_chosen() {
    let place = place();
    let list = json(&accepted(place.path(), "devices --json"));
    let name = list["adapters"][0]["name"].as_str().expect("an adapter has a name").to_string();
    assert!(accepted(place.path(), "devices").out.starts_with(&format!("0: {name}")));
    let chosen = json(&accepted(place.path(), "devices --device 0 --json"));
    assert_eq!((&chosen["adapter"], &chosen["type"]), (&list["adapters"][0]["name"], &list["adapters"][0]["type"]));
    assert!(accepted(place.path(), "devices --device 0").out.starts_with(&format!("0: {name}")));
    refused(place.path(), "devices --device nonsense --json", &["no device \"nonsense\"", &format!("0: {name}")]);
    for device in ["nonsense", "99"] {
        let line = format!("verify --device {device} --kernel silu");
        refused(place.path(), &line, &[&format!("no device {device:?}"), &format!("0: {name}")]);
        let line = format!("train --device {device} --data digits --model tiny.json --out run");
        refused(place.path(), &line, &[&format!("no device {device:?}")]);
    }
    assert!(!place.path().join("run").exists());
    let part = name.split_whitespace().next().unwrap().to_uppercase();
    for device in ["0", &part] {
        accepted(place.path(), &format!("--device {device} verify --kernel silu --cases 1"));
    }
}

#[test]
fn verify_checks_kernels() {
    let place = place();
    let said = accepted(place.path(), "verify --kernel silu --kernel add --cases 2 --json");
    let report = json(&said);
    assert_eq!((&report["wrong"], &report["behind_the_end"]), (&0.into(), &serde_json::json!([])));
    let entries = report["entries"].as_array().unwrap();
    let kernels: BTreeSet<&str> = entries.iter().map(|entry| entry["kernel"].as_str().unwrap()).collect();
    assert_eq!(kernels, BTreeSet::from(["add", "silu"]));
    let backward =
        entries.iter().find(|entry| (&entry["entry"], &entry["precision"]) == (&"backward".into(), &"f16".into()));
    let backward = backward.expect("an entry point in half precision");
    let fields: BTreeSet<&str> = backward.as_object().unwrap().keys().map(String::as_str).collect();
    let documented =
        ["kernel", "variant", "entry", "constants", "precision", "error", "absolute", "tensors", "case", "shape"];
    assert_eq!(fields, BTreeSet::from(documented));
    assert!(
        backward["shape"].as_str().unwrap().contains("dy ") && backward["case"].as_str().unwrap().contains("silu, ")
    );
    let table = accepted(place.path(), "verify --kernel silu --cases 1 --seed 18446744073709551615").out;
    assert!(table.contains("silu.forward") && table.contains("ok"), "{table}");
    let table = accepted(place.path(), "verify --kernel silu --cases 1 --json=new/figures.json").out;
    let figures: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path().join("new/figures.json")).unwrap()).expect("JSON");
    assert!(table.contains("silu.forward") && figures["wrong"] == 0, "{table} {figures}");
    refused(place.path(), "verify --kernel nonsense", &["no kernel nonsense", "silu"]);
    // The corners alone.
    let table = accepted(place.path(), "verify --kernel conv2d --cases 0 --verbose").out;
    assert!(
        table.contains("conv2d.register.forward: ") && table.contains("stride=") && !table.contains("seed"),
        "{table}"
    );
    assert!(table.lines().all(|line| line.chars().count() <= 120), "{table}");
}

#[test]
fn verify_checks_a_model() {
    let place = place();
    copy(&oracle("unet_default"), &place.path().join("model"));
    let line = "verify --model model --reference model/reference.safetensors";
    assert!(accepted(place.path(), line).out.contains("grad.conv_in.weight"));
    let mut reference = tensors::read(&place.path().join("model/reference.safetensors")).unwrap();
    reference.get_mut("grad.conv_in.weight").unwrap().values[0] += 1.0;
    tensors::write(&place.path().join("wrong.safetensors"), &reference).unwrap();
    let said = run(typed(place.path(), "verify --model model --reference wrong.safetensors --json"));
    assert_refused("verify --model", &said, &["1 of 147 tensors", "0.001"]);
    assert_eq!(json(&said)["tensors"][0]["name"], "grad.conv_in.weight");
    reference.remove("target");
    tensors::write(&place.path().join("wrong.safetensors"), &reference).unwrap();
    let line = "verify --model model --reference wrong.safetensors";
    refused(place.path(), line, &["wrong.safetensors", "tensor target is missing"]);
    refused(place.path(), "verify --model model --reference none", &["none"]);
    refused(place.path(), "verify --model none --reference wrong.safetensors", &["none", "no such directory"]);
}

#[test]
fn a_reader_may_go_away() {
    let place = place();
    let mut command = typed(place.path(), "verify --kernel silu --cases 1");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be run");
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !err.contains("panicked"), "{err}");
}

/// The part of docs/json.md about a command.
fn fields_of(command: &str) -> &'static str {
    let page = include_str!("../../docs/json.md");
    let heading = format!("## `diffuse {command}`");
    let start = page.find(&heading).unwrap_or_else(|| panic!("no {heading}")) + heading.len();
    page[start..].split("\n## ").next().unwrap()
}

#[test]
fn each_key_of_json_is_documented() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    for line in [
        "devices",
        "certify --sampler ddim",
        "privacy --images 10000 --batch 400 --noise 1.5 --steps 10 --delta 1e-5",
        "profile --preset digits --predict",
        "plan --ranks 4 --card 4090 --link 10",
        "train --data digits --model tiny.json --steps 1 --batch 2 --canaries 20 --out new",
        "privacy audit new --draws 2",
        "train-classifier --data digits --model tiny.json --steps 1 --batch 2 --out judge",
        "sample run --count 1 --steps 1",
        "data digits",
        "verify --kernel silu --cases 0",
        "evaluate run --data digits --likelihood vlb --count 4 --terms 8",
        "verify new",
        "verify --soak 0.001 --batch 1",
    ] {
        let object = json(&accepted(place.path(), &format!("{line} --json")));
        let fields = fields_of(match line.split(' ').next().unwrap() {
            _ if line == "verify new" => "verify RUN",
            _ if line.starts_with("privacy audit") => "privacy audit RUN",
            _ if line.contains("--soak") => "verify --soak MINUTES",
            command => command,
        });
        for key in object.as_object().expect("an object").keys() {
            let is_there = ["`", "[", "."].iter().any(|end| fields.contains(&format!("`{key}{end}")));
            assert!(is_there, "docs/json.md doesn't tell {key} of {line}");
        }
    }
}
