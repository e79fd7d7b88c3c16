//! `diffuse sample` with every sampler, and its editing; `diffuse certify`; what `train` stores of a schedule.

use super::*;
use diffuse::diffusion::SamplerKind;
use diffuse::tensors;

/// The samples that `sample run` with `flags` stores.
fn samples(place: &Path, flags: &str) -> Vec<f32> {
    accepted(place, &format!("sample run --out s.png --tensor s.safetensors {flags}"));
    tensors::read(&place.join("s.safetensors")).unwrap().remove("samples").expect("tensor `samples`").values
}

/// A picture of 8 x 8 with a white left half.
fn write_half(path: &Path) {
    image::GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 { 255 } else { 0 }])).save(path).unwrap();
}

#[test]
fn samplers_have_the_names_of_other_programs() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    let drawn = |name| samples(place.path(), &format!("--count 2 --steps 4 --sampler {name}"));
    for (name, other) in [("dpm++", "dpmpp_2m"), ("dpm++-sde", "dpmpp-2m-sde"), ("euler-ancestral", "euler_a")] {
        assert_eq!(drawn(name), drawn(other), "{other}");
    }
    let warned = |spacing| {
        let line = format!("sample run --count 1 --steps 4 --sampler heun --spacing {spacing} --out t.png");
        accepted(place.path(), &line).err.contains("heun's first steps are too long")
    };
    assert_eq!(["linspace", "trailing", "leading", "karras"].map(warned), [true, true, false, false]);
}

#[test]
fn every_sampler_is_listed_and_draws() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    let list = accepted(place.path(), "sample --sampler list").out;
    let mut seen = Vec::new();
    for kind in SamplerKind::ALL {
        let name = kind.name();
        let line = list.lines().find(|line| line.split_whitespace().next() == Some(name));
        let words: Vec<&str> = line.unwrap_or_else(|| panic!("no {name} in\n{list}")).split_whitespace().collect();
        assert_eq!(words[1..3], [kind.order().to_string(), kind.evaluations().to_string()]);
        assert_eq!(words[3] == "deterministic", kind.is_deterministic(), "{name}");
        let steps = if name == "rk45" { "--tolerance 0.1" } else { "--steps 4 --spacing karras" };
        let drawn = samples(place.path(), &format!("--count 2 --sampler {name} {steps}"));
        assert!(drawn.iter().any(|value| *value != drawn[0]) && drawn.iter().all(|value| value.is_finite()), "{name}");
        assert_eq!(samples(place.path(), &format!("--count 2 --batch 1 --sampler {name} {steps}")).len(), drawn.len());
        seen.push((name, drawn));
    }
    let of = |name: &str| &seen.iter().find(|(other, _)| *other == name).unwrap().1;
    let apart = |a: &str, b: &str| of(a).iter().zip(of(b)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    // Song, Meng & Ermon 2020, section 4.3; the rest are different.
    assert!(apart("ddim", "euler") < 1e-4, "{}", apart("ddim", "euler"));
    for (i, (name, _)) in seen.iter().enumerate() {
        for (other, _) in &seen[..i] {
            let same = [*name, *other] == ["euler", "ddim"] || [*name, *other] == ["euler-ancestral", "ddpm"];
            assert!(same || apart(name, other) > 1e-4, "{name} and {other}");
        }
    }
    refused(place.path(), "sample nowhere --sampler ddim", &["nowhere"]);
    assert_eq!(run(typed(place.path(), "sample --sampler ddim")).code, Some(2));
}

#[test]
fn settings_of_other_samplers_are_refused() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    for (flags, part) in [
        ("--sampler euler --eta 0.5", "--eta goes with --sampler ddim and euler-ancestral"),
        ("--sampler ddim --churn 3", "--churn goes with --sampler heun"),
        ("--sampler euler --tolerance 0.1", "--tolerance goes with --sampler rk45"),
        ("--sampler heun --snr 0.1", "--snr goes with --sampler pc"),
        ("--sampler heun --temperature 0", "--temperature goes with --sampler langevin"),
        ("--sampler rk45 --steps 10", "rk45 finds its own steps"),
        ("--sampler rk45 --tolerance 0", "tolerance 0"),
        ("--sampler heun --churn NaN", "churn NaN"),
        ("--sampler pc --snr 2", "snr 2"),
        ("--sampler langevin --repeats 0", "steps a level 0"),
        ("--sampler langevin --temperature -1", "temperature -1"),
        ("--sampler euler --steps 0 --spacing karras", "0 sampling steps"),
    ] {
        refused(place.path(), &format!("sample run --out s.png {flags}"), &[part]);
    }
    assert!(!place.path().join("s.png").exists());
}

#[test]
fn a_picture_is_changed_as_much_as_its_strength_says() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    write_half(&place.path().join("half.png"));
    let half: Vec<f32> = (0..64).map(|i| if i % 8 < 4 { 1.0 } else { -1.0 }).collect();
    let apart = |strength: &str| {
        let drawn = samples(place.path(), &format!("--count 2 --sampler ddim --from half.png --strength {strength}"));
        let error = |i: usize| (drawn[i] - half[i % 64]).abs();
        (0..drawn.len()).map(error).sum::<f32>() / drawn.len() as f32
    };
    let (little, much) = (apart("0.02"), apart("1"));
    assert!(little < 0.1 && much > 0.5, "{little}, {much}");
    for sampler in ["rk45", "dpm++", "pc"] {
        samples(place.path(), &format!("--count 1 --sampler {sampler} --from half.png"));
    }
    for (flags, part) in [
        ("--from nowhere.png", "nowhere.png"),
        ("--from tiny.json", "not a PNG"),
        ("--from half.png --strength 0", "strength 0"),
        ("--from half.png --strength 1.5", "strength 1.5"),
    ] {
        refused(place.path(), &format!("sample run --out no.png {flags}"), &[part]);
    }
    for line in ["sample run --strength 0.5", "sample run --mask half.png", "sample run --interpolate 1 2 --seed 3"] {
        assert_eq!(run(typed(place.path(), line)).code, Some(2), "{line}");
    }
}

#[test]
fn a_mask_keeps_what_is_known() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    write_half(&place.path().join("half.png"));
    image::GrayImage::from_fn(8, 8, |_, y| image::Luma([if y < 4 { 255 } else { 0 }]))
        .save(place.path().join("mask.png"))
        .unwrap();
    for sampler in ["ddpm", "unipc", "heun"] {
        let flags = format!("--count 3 --batch 2 --steps 6 --sampler {sampler} --from half.png --mask mask.png");
        let drawn = samples(place.path(), &flags);
        for (i, value) in drawn.iter().enumerate() {
            let (x, y) = (i % 8, i / 8 % 8);
            let known = if x < 4 { 1.0 } else { -1.0 };
            assert!(y < 4 || (value - known).abs() < 1e-5, "{sampler}: {value} at {x}, {y}");
        }
        let painted = (0..64).filter(|i| i / 8 < 4 && (drawn[*i] - if i % 8 < 4 { 1.0 } else { -1.0 }).abs() > 0.05);
        assert!(painted.count() > 8, "{sampler}: nothing was painted");
    }
    image::GrayImage::new(9, 8).save(place.path().join("large.png")).unwrap();
    let line = "sample run --out no.png --from half.png --mask";
    refused(place.path(), &format!("{line} large.png"), &["large.png", "9 x 8", "8 x 8"]);
    // Grey keeps a part of each: four fifths here, so that no pixel can be farther away than a fifth of the range.
    image::GrayImage::from_pixel(8, 8, image::Luma([51])).save(place.path().join("grey.png")).unwrap();
    let soft = samples(place.path(), "--count 2 --steps 6 --from half.png --mask grey.png");
    let away = |(i, value): (usize, &f32)| (value - if i % 8 < 4 { 1.0 } else { -1.0 }).abs();
    let farthest = soft.iter().enumerate().map(away).fold(0.0, f32::max);
    assert!(farthest > 0.01 && farthest < 0.4001, "{farthest}");
    image::GrayAlphaImage::from_pixel(8, 8, image::LumaA([255, 0])).save(place.path().join("clear.png")).unwrap();
    let said = accepted(place.path(), "sample run --steps 2 --count 1 --out s.png --from half.png --mask clear.png");
    assert!(said.err.contains("clear.png: black or transparent all over"), "{}", said.err);
    refused(place.path(), &format!("{line} mask.png --sampler rk45"), &["mask", "rk45"]);
}

#[test]
fn seeds_are_joined_by_a_row_of_images() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    let row = samples(place.path(), "--count 5 --batch 2 --steps 4 --sampler ddim --interpolate 3 8");
    for (seed, end) in [(3, &row[..64]), (8, &row[4 * 64..])] {
        let alone = samples(place.path(), &format!("--count 1 --steps 4 --sampler ddim --seed {seed}"));
        assert!(alone.iter().zip(end).all(|(a, b)| (a - b).abs() < 1e-5), "seed {seed}");
    }
    let step = |i: usize| (0..64).map(|p| (row[64 * i + p] - row[64 * (i + 1) + p]).powi(2)).sum::<f32>();
    let whole = (0..64).map(|p| (row[p] - row[4 * 64 + p]).powi(2)).sum::<f32>();
    assert!((0..4).all(|i| step(i) > 0.0 && step(i) < 0.8 * whole), "{:?} of {whole}", [0, 1, 2, 3].map(step));
    for (flags, part) in [
        ("--interpolate 1 2 --sampler ddpm", "deterministic"),
        ("--interpolate 1 2 --sampler ddim --count 1", "--count 2"),
    ] {
        refused(place.path(), &format!("sample run --out no.png {flags}"), &[part]);
    }
}

#[test]
fn samplers_are_certified() {
    let place = place();
    let report = json(&accepted(place.path(), "certify --sampler dpm++ --json"));
    assert_eq!(report["failed"], 0);
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["sampler"] == "dpm++"));
    let table = accepted(place.path(), "certify --sampler heun --json=heun.json").out;
    assert!(fs::read_to_string(place.path().join("heun.json")).unwrap().contains(r#""failed":0"#));
    assert!(table.contains("order of the samples in 16-d") && table.contains("heun, churn 40"), "{table}");
    refused(place.path(), "certify --sampler nonsense", &["no sampler nonsense", "ddpm, ddim"]);
}

/// NCSN (Song & Ermon 2019): a geometric ladder, the score, lambda = sigma², annealed Langevin dynamics; and the others.
#[test]
fn every_schedule_is_trained_and_sampled() {
    let place = place();
    let line = "train --data digits --model tiny.json --steps 2 --batch 2 --sample-every 0";
    let cases = [
        ("ve --timesteps 40 --sigma-max 20 --target score --loss-weight sigma2", "langevin", "ve"),
        ("edm --target edm --loss-weight edm", "heun --spacing karras", "edm"),
        ("flow --target flow", "euler --spacing trailing", "flow"),
        ("vp --target v --loss-weight min-snr", "reverse-sde", "vp"),
        ("sub-vp --target x0 --loss-weight p2", "pc", "sub_vp"),
        ("sigmoid --loss-weight variational", "dpm++-sde", ""),
        ("cosine --learned-variance", "ddpm", ""),
    ];
    for (i, (flags, sampler, schedule)) in cases.into_iter().enumerate() {
        accepted(place.path(), &format!("{line} --out run{i} --schedule {flags}"));
        accepted(place.path(), &format!("sample run{i} --count 1 --steps 4 --out s.png --sampler {sampler}"));
        let path = place.path().join(format!("run{i}/checkpoint/scheduler_config.json"));
        let config: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(config["schedule"].as_str().unwrap_or(""), schedule);
        assert_eq!(config.get("beta_schedule").is_some(), schedule.is_empty(), "{config}");
    }
    let ncsn = fs::read_to_string(place.path().join("run0/checkpoint/scheduler_config.json")).unwrap();
    for part in
        ["ScoreSdeVeScheduler", "\"sigma_max\": 20.0", "\"sigma_min\": 0.01", "\"num_train_timesteps\": 40", "score"]
    {
        assert!(ncsn.contains(part), "{part}: {ncsn}");
    }
    refused(place.path(), "sample run2 --sampler pc --out no.png", &["pc does not converge on rectified flow"]);
    for (flags, part) in [
        ("--schedule cosine --sigma-max 20", "ve and edm"),
        ("--schedule ve --sigma-min 5 --sigma-max 2", "from 5 to 2"),
        ("--schedule ve --timesteps 0", "timesteps"),
    ] {
        refused(place.path(), &format!("{line} --out no {flags}"), &[part]);
    }
    refused(place.path(), "train --resume --out run0 --steps 9 --target v", &["--target can't change"]);
    let learned = fs::read_to_string(place.path().join("run6/checkpoint/scheduler_config.json")).unwrap();
    assert!(learned.contains("learned_range"), "{learned}");
    accepted(place.path(), "sample run6 --count 1 --steps 4 --out s.png --sampler ddim");
    fs::write(place.path().join("odd.json"), super::TINY.replace(r#""out_channels": 1"#, r#""out_channels": 5"#))
        .unwrap();
    refused(place.path(), "train --data digits --model odd.json --out no", &["1 channels in and 5 out is no denoiser"]);
}

#[test]
fn what_is_done_to_a_picture_and_odd_masks_are_said() {
    let place = place();
    untrained(place.path(), "plain.json", "run");
    let at = |name: &str| place.path().join(name);
    image::RgbImage::from_pixel(20, 10, image::Rgb([200, 0, 0])).save(at("photo.png")).unwrap();
    write_half(&at("half.png"));
    let said = |flags: &str| accepted(place.path(), &format!("sample run --count 1 --steps 2 --out s.png {flags}")).err;
    let photo = said("--from photo.png");
    assert!(photo.contains("photo.png: 8x8 from 10x20 (scaled, cropped, made grey)"), "{photo}");
    assert!(!said("--from half.png --mask half.png").contains("half.png:"));
    // Masks that count 0 and 1, or are nothing but white or black.
    for (value, part) in
        [(1, "its brightest part is 1 of 255"), (0, "nothing is painted anew"), (255, "no part of the picture")]
    {
        image::GrayImage::from_fn(8, 8, |x, _| image::Luma([if x < 4 || value == 255 { value } else { 0 }]))
            .save(at("mask.png"))
            .unwrap();
        let mask = said("--from half.png --mask mask.png");
        assert!(mask.contains("mask.png: ") && mask.contains(part), "{mask}");
    }
}
