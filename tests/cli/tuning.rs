//! `diffuse tune` and `--tune`.

use std::fs;

use super::{TINY, accepted, place, refused, untrained};

#[test]
fn what_is_tuned_once_is_known_the_next_time() {
    let place = place();
    let at = place.path();
    let said = accepted(at, "tune --model tiny.json --batch 2");
    assert!(said.out.contains("conv2d.forward") && said.out.contains("fastest"), "{}", said.out);
    assert!(said.err.contains("tuned "), "{}", said.err);
    let cache: Vec<_> = std::fs::read_dir(at.join("cache")).expect("a cache").flatten().collect();
    assert_eq!(cache.len(), 1);
    let said = accepted(at, "profile --model tiny.json --batch 2 --steps 1 --tune cached");
    assert!(!said.err.contains("tuned "), "{}", said.err);
    // Another batch has other shapes.
    let said = accepted(at, "profile --model tiny.json --batch 3 --steps 1 --tune cached");
    assert!(said.err.contains("tuned "), "{}", said.err);
    std::fs::write(cache[0].path(), "no json").unwrap();
    let said = accepted(at, "profile --model tiny.json --batch 2 --steps 1 --tune cached");
    assert!(said.err.contains("tuned "), "{}", said.err);
}

#[test]
fn bad_input_is_refused() {
    let place = place();
    refused(place.path(), "tune --model tiny.json --batch 0", &["--batch must be at least 1"]);
    refused(place.path(), "tune --model absent.json", &["absent.json"]);
    // What can't be drawn is said before anything is measured.
    fs::write(place.path().join("odd.json"), TINY.replace(r#""out_channels": 1"#, r#""out_channels": 3"#)).unwrap();
    untrained(place.path(), "odd.json", "odd");
    refused(place.path(), "sample odd --out s.png --tune cached", &["1 channels in and 3 out"]);
    assert!(!place.path().join("cache").exists());
}

#[test]
fn what_tune_wrote_is_run_by_name_and_belongs_to_the_run() {
    let place = place();
    let at = place.path();
    let said = accepted(at, "tune --model tiny.json --batch 4 --out tuned.json");
    assert!(said.err.contains("--tune tuned.json") && said.out.contains("* runs without --tune FILE"), "{}", said.err);
    let train = "train --data digits --model tiny.json --steps 2 --batch 4 --sample-every 0 --out run --tune";
    accepted(at, &format!("{train} tuned.json"));
    let chosen = |file: &str| -> Vec<serde_json::Value> {
        let text = fs::read_to_string(at.join(file)).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let list = value.get("winners").or_else(|| value.get("choices")).expect("winners, or choices");
        list.as_array().unwrap().clone()
    };
    let (tuned, stored) = (chosen("tuned.json"), chosen("run/checkpoint/trainer.json"));
    assert!(!tuned.is_empty() && tuned.len() == stored.len() && stored.iter().all(|way| tuned.contains(way)));
    accepted(at, "train --resume --out run --steps 3 --tune tuned.json");
    accepted(at, "train --resume --out run --steps 4 --tune cached");
    assert_eq!(chosen("run/checkpoint/trainer.json"), stored);
    // What the clock chose is no part of a run.
    accepted(at, &format!("{train} cached").replace("--out run", "--out other"));
    assert!(chosen("other/checkpoint/trainer.json").is_empty());
    refused(at, "train --resume --out other --steps 3 --tune tuned.json", &["can't change in a resumed run"]);
    let said = super::run(super::typed(at, "devices --tune absent.json"));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("neither off, cached, full nor a file: absent.json"), "{}", said.err);
    fs::write(at.join("tuned.json"), "{}").unwrap();
    refused(
        at,
        &format!("{train} tuned.json").replace("--out run", "--out third"),
        &["tuned.json", "diffuse tune --out"],
    );
}
