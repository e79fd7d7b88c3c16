//! `privacy`: what private training costs.

use super::*;
use diffuse::data::{self, Want};

const LINE: &str = "privacy --images 60000 --batch 4096 --delta 1e-5";

#[test]
fn two_of_noise_steps_and_epsilon_give_the_third() {
    let place = place();
    let said = accepted(place.path(), "privacy --images 10000 --batch 400 --noise 1.5 --steps 2250 --delta 1e-5").out;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("epsilon 6.7689 by PLD") && lines[1].starts_with("epsilon 7.3294 by RDP"), "{said}");
    for part in ["add/remove", "q 400/10000", "sigma 1.5", "2250 steps", "delta 1e-5"] {
        assert!(lines[..2].iter().all(|line| line.contains(part)), "no {part}: {said}");
    }
    assert!(lines[2].starts_with("padding of ") && lines.len() == 3, "{said}");
    let said = accepted(place.path(), &format!("{LINE} --epsilon 10 --steps 4394")).out;
    assert!(said.starts_with("noise 2.381 by PLD, 2.515 by RDP"), "{said}");
    let object = json(&accepted(place.path(), &format!("{LINE} --epsilon 10 --noise 2.381 --json")));
    assert!(object["steps"].as_u64() >= Some(4394) && object["epsilon"]["pld"].as_f64() <= Some(10.0), "{object}");
    let object = json(&accepted(place.path(), &format!("{LINE} --epsilon 10 --noise 2.381 --places 5000 --json")));
    assert_eq!(object["padding"]["places"], 5000);
    assert!(object["padding"]["delta"].as_f64() < Some(1e-12), "{object}");
}

#[test]
fn accounts_without_sense_are_refused() {
    let place = place();
    for (flags, parts) in [
        ("--noise 1 --steps 10 --epsilon 1", ["two of --noise, --steps and --epsilon"; 2]),
        ("--noise 1", ["two of --noise, --steps and --epsilon"; 2]),
        ("--noise 0 --steps 10", ["noise multiplier of 0", "at least 0.01"]),
        ("--noise NaN --steps 10", ["noise multiplier of NaN"; 2]),
        ("--epsilon -1 --steps 10", ["epsilon of -1", "budget"]),
        ("--epsilon 0.0001 --noise 1", ["one step alone", "--noise"]),
        ("--noise 1 --steps 18446744073709551615", ["steps can't be accounted", "at most"]),
    ] {
        refused(place.path(), &format!("{LINE} {flags}"), &parts);
    }
    for (flags, part) in [
        ("--images 60000 --batch 4096 --delta 1e-4", "above 1/images"),
        ("--images 60000 --batch 4096 --delta 0", "delta of 0"),
        ("--images 60000 --batch 4096 --delta 1e-250", "64-bit"),
        ("--images 10 --batch 40 --delta 1e-5", "at most 1"),
        ("--images 0 --batch 0 --delta 1e-5", "at least 1"),
    ] {
        refused(place.path(), &format!("privacy {flags} --noise 1 --steps 10"), &[part]);
    }
}

/// `place/few`: the first `count` digits in 8x8, a file each.
fn write_digits(place: &Path, count: usize) {
    let digits = data::load("digits", &Want::of(Some((8, 8)), 1)).expect("the embedded digits");
    fs::create_dir(place.join("few")).unwrap();
    for (index, pixels) in digits.images.chunks_exact(64).take(count).enumerate() {
        image::save_buffer(place.join(format!("few/{index:03}.png")), pixels, 8, 8, image::ColorType::L8).unwrap();
    }
}

const OVERFITTING: &str = "train --data few --model plain.json --canaries 24 --steps 800 --batch 12 --lr 1e-2 --warmup 10 --target x0 \
                           --schedule cosine --ema-decay 0.9 --audit-every 0 --sample-every 0 --checkpoint-every 0";

#[test]
fn what_an_overfitted_run_was_trained_on_is_guessed() {
    let place = place();
    write_digits(place.path(), 26);
    let secret = place.path().join("run/private");
    // Coins are the system's. With 17 of 24 in, so small a network learnt too many to show which; with 14 it showed them.
    let trained = |_| {
        _ = fs::remove_dir_all(place.path().join("run"));
        accepted(place.path(), &format!("{OVERFITTING} --out run"));
        let canaries = read_json(&secret.join("canaries.json"));
        Some(canaries).filter(|canaries| canaries["included"].as_array().expect("a list").len() <= 14)
    };
    let canaries = (0..10).find_map(trained).expect("coins that leave enough out");
    let count = |key: &str| canaries[key].as_array().expect("a list").len();
    assert_eq!(count("included") + count("excluded"), 24);
    assert_eq!(read_json(&place.path().join("run/data.json"))["images"], 26 - count("excluded"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&secret).unwrap().permissions().mode() & 0o777, 0o700);
    }
    let told = json(&accepted(place.path(), "privacy audit run --json"));
    let epsilon =
        |told: &serde_json::Value| told["epsilon_at_least"].as_f64().or(told["epsilon"].as_f64()).expect("a number");
    assert!(epsilon(&told) > 0.4, "{told}");
    assert_eq!(
        (&told["epsilon_accounted"], &told["delta"], &told["refuted"]),
        (&().into(), &0.0.into(), &false.into())
    );
    let numbers: Vec<u64> =
        told["tried"].as_array().unwrap().iter().filter_map(|row| row["guesses"].as_u64()).collect();
    assert_eq!(numbers, [24, 12, 6, 3]);
    // A number that was fixed costs no confidence.
    let fixed = json(&accepted(place.path(), "privacy audit run --guesses 12 --json"));
    assert_eq!((&fixed["tried"][0]["right"], &fixed["tried"][1]), (&told["tried"][1]["right"], &().into()));
    assert!(epsilon(&fixed) > 0.5 && epsilon(&fixed) > epsilon(&told["tried"][1]), "{fixed} {told}");
    // As if it were said to be private.
    let promise = r#"{"epsilon": {"pld": 0.1}, "delta": 1e-5, "delta_of_truncation": 1e-7}"#;
    fs::write(place.path().join("run/checkpoint/privacy.json"), promise).unwrap();
    let said = run(typed(place.path(), "privacy audit run"));
    assert_refused("privacy audit", &said, &["above epsilon 0.1000, which is accounted"]);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(
        lines[0].starts_with("loss threshold: 24 canaries") && lines[1].starts_with("24 guesses: "),
        "{}",
        said.out
    );
    assert!(lines[5].starts_with("epsilon is at least ") && lines[5].contains("at delta 1.01e-5"), "{}", said.out);
    assert!(lines[6].starts_with("accounted: epsilon 0.1000 at most") && lines.len() == 7, "{}", said.out);
}

#[test]
fn a_private_run_is_not_told_apart_better_than_it_promises() {
    let place = place();
    let line = "train --data digits --model tiny.json --canaries 100 --dp-noise 1 --dp-delta 1e-5 --dp-draws 1 --dp-seed 1 --batch 20 \
                --steps 4 --sample-every 0 --out run";
    accepted(place.path(), line);
    let said = accepted(place.path(), "privacy audit run --draws 16 --json=told.json");
    let told = read_json(&place.path().join("told.json"));
    let accounted = told["epsilon_accounted"].as_f64().expect("it is private");
    assert!(accounted > 0.0 && told["epsilon_at_least"].as_f64().unwrap() <= accounted, "{told}");
    assert!(told["delta"].as_f64() > Some(1e-5) && said.out.contains("accounted: epsilon "), "{told} {}", said.out);
    let (images, promise) = (read_json(&place.path().join("run/private/canaries.json")), "run/checkpoint/privacy.json");
    let left = 10_000 - images["excluded"].as_array().unwrap().len();
    assert_eq!(read_json(&place.path().join(promise))["images"], left);
    // The same secret gives the same canaries, another run's are refused.
    accepted(place.path(), &line.replace("--steps 4", "--steps 1").replace("run", "again"));
    assert_eq!(read_json(&place.path().join("again/private/canaries.json")), images);
    accepted(
        place.path(),
        &line.replace("--steps 4", "--steps 1").replace("--dp-seed 1", "--dp-seed 2").replace("run", "other"),
    );
    fs::copy(place.path().join("other/private/canaries.json"), place.path().join("run/private/canaries.json")).unwrap();
    refused(place.path(), "privacy audit run", &["canaries.json", "the canaries of another run"]);
}

#[test]
fn canaries_without_sense_are_refused() {
    let place = place_with_run();
    write_digits(place.path(), 12);
    let train = "train --data few --model plain.json --steps 2 --batch 2 --canaries 8";
    accepted(place.path(), &format!("{train} --out few-run"));
    refused(place.path(), "privacy audit run", &["run", "no canaries", "train --canaries M"]);
    untrained(place.path(), "tiny.json", "model");
    refused(place.path(), "privacy audit model", &["model", "no run"]);
    refused(place.path(), "privacy audit nowhere", &["nowhere"]);
    for (flags, part) in [
        ("--guesses 9", "the run has 8 canaries"),
        ("--guesses 0", "at least 1"),
        ("--draws 0", "at least 1"),
        ("--confidence 1", "no chance"),
        ("--confidence NaN", "no chance"),
        ("--data digits", "this is not the same run"),
    ] {
        refused(place.path(), &format!("privacy audit few-run {flags}"), &[part]);
    }
    for (flags, part) in [
        ("--canaries 13", "few has 12 images"),
        ("--canaries 0", "at least 1"),
        ("--canaries 8 --init few-run", "--init with --canaries"),
    ] {
        refused(place.path(), &format!("{} --out new", train.replace("--canaries 8", flags)), &[part]);
    }
    assert!(!place.path().join("new").exists());
    let resumed = "train --resume --steps 3 --out few-run";
    refused(place.path(), &format!("{resumed} --canaries 7"), &["--canaries can't change"]);
    // What private runs have unless told otherwise is not laid over this one.
    refused(place.path(), &format!("{resumed} --dp-epsilon 1 --dp-delta 1e-5"), &["--dp-delta can't change"]);
    let path = place.path().join("few-run/private/canaries.json");
    let intact = fs::read_to_string(&path).unwrap();
    // Those that are in and those that are out, exchanged.
    let changed =
        intact.replace("included", "INCLUDED").replace("excluded", "included").replace("INCLUDED", "excluded");
    fs::write(&path, changed).unwrap();
    refused(place.path(), resumed, &["canaries.json", "changed since it was written"]);
    refused(place.path(), "privacy audit few-run", &["canaries.json", "changed since it was written"]);
    fs::remove_file(&path).unwrap();
    refused(place.path(), resumed, &["canaries.json", "missing"]);
    fs::write(&path, &intact).unwrap();
    accepted(place.path(), resumed);
    assert_eq!(fs::read_to_string(&path).unwrap(), intact);
    // What these weights have seen of the data set nobody knows.
    let private =
        "train --data few --model plain.json --init few-run --dp-noise 1 --dp-delta 0.01 --batch 2 --steps 1 --out new";
    refused(place.path(), private, &["--init with --dp"]);
}

#[test]
fn private_runs_have_defaults_of_their_own() {
    let place = place();
    let few =
        "train --data digits --model tiny.json --dp-delta 1e-5 --dp-draws 1 --dp-places 40 --steps 1 --sample-every 0";
    for (flags, expected) in [
        ("--dp-noise 5 --batch 2", ["edm", "edm", "edm"]),
        ("--dp-epsilon 0.5 --batch 2", ["cosine", "v", "high"]),
        ("--dp-epsilon 0.5 --batch 2 --target x0 --timestep-draw even", ["cosine", "x0", "even"]),
    ] {
        accepted(place.path(), &format!("{few} {flags} --out run"));
        let config = read_json(&place.path().join("run/config.json"));
        let found = ["noise_schedule", "target", "timestep_draw"].map(|key| config[key].as_str().expect("a word"));
        assert_eq!((found, &config["weight_decay"]), (expected, &0.0.into()), "{flags}");
        fs::remove_dir_all(place.path().join("run")).unwrap();
    }
    let both = "train --data digits --model tiny.json --loss-weight edm --timestep-draw high --out run";
    refused(place.path(), both, &["--timestep-draw", "--loss-weight simple"]);
}
