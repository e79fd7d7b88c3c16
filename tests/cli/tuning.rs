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
