//! `diffuse train-classifier` and `diffuse evaluate`.

use super::*;
use diffuse::tensors;

/// A place with the trained run, and a classifier that learnt a little.
fn place_with_classifier() -> TempDir {
    let place = place_with_run();
    let line = "train-classifier --data digits --model tiny.json --out judge --steps 4 --batch 4 --json";
    let report = json(&accepted(place.path(), line));
    assert_eq!((&report["step"], &report["test_images_held_out"]), (&4.into(), &true.into()));
    let levels = report["accuracy"].as_array().expect("accuracies");
    assert!(levels.len() == 10 && levels.iter().all(|level| level["count"] == 1000), "{levels:?}");
    place
}

#[test]
fn a_classifier_is_trained_resumed_and_judges() {
    let place = place_with_classifier();
    let place = place.path();
    let expected =
        ["classifier.safetensors", "config.json", "scheduler_config.json", "trainer.json", "trainer.safetensors"];
    assert_eq!(files(&place.join("judge/checkpoint")), expected);
    let said = accepted(place, "train-classifier --resume --out judge --steps 6");
    assert!(said.err.contains("from step 4") && said.out.contains("images held out of training"), "{}", said.out);
    let line = "evaluate run --data digits --quality --classifier judge --count 8 --sampler-steps 3 --out e --json";
    let report = json(&accepted(place, line));
    let quality = &report["quality_on_classifier_features"];
    assert_eq!((&quality["samples"]["images"], &quality["floor"]["images"]), (&8.into(), &8.into()));
    assert!(quality["samples"]["frechet_distance"]["margin"].as_f64().is_some_and(|margin| margin > 0.0));
    assert!(image::open(place.join("e/nearest_neighbours.png")).unwrap().width() > 30);
    // Samples that are there already.
    accepted(place, "sample run --count 10 --steps 2 --out s.png --tensor s.safetensors");
    let line = "evaluate run --data digits --quality --classifier judge --samples s.safetensors --out e";
    let said = accepted(place, line).out;
    assert!(said.contains("none of these figures is Inception's") && said.contains("10 samples"), "{said}");
}

#[test]
fn a_classifier_steers_samples() {
    let place = place_with_classifier();
    let place = place.path();
    untrained(place, "plain.json", "plain");
    let drawn = |flags: &str| -> Vec<f32> {
        accepted(place, &format!("sample {flags} --count 5 --steps 4 --out s.png --tensor s.safetensors"));
        tensors::read(&place.join("s.safetensors")).unwrap().remove("samples").expect("tensor `samples`").values
    };
    for model in ["run", "run --guidance 1", "plain", "run --sampler ddim"] {
        let free = drawn(model);
        assert_eq!(drawn(&format!("{model} --classifier judge --classifier-scale 0")), free, "{model}");
        let steered = drawn(&format!("{model} --classifier judge --classifier-scale 9"));
        assert_ne!(steered, free, "{model}");
        assert_eq!(drawn(&format!("{model} --classifier judge --classifier-scale 9 --batch 2")), steered, "{model}");
    }
    let [two, seven] =
        ["2", "7"].map(|class| drawn(&format!("plain --classifier judge --classifier-scale 9 --class {class}")));
    assert_ne!(two, seven);
    let said = run(typed(place, "sample run --classifier-scale 2"));
    assert_eq!(said.code, Some(2), "{}", said.err);
    refused(place, "sample run --classifier run", &["run: no classifier", "train-classifier"]);
    refused(place, "sample run --classifier judge --classifier-scale NaN", &["--classifier-scale"]);
    refused(place, "sample plain --classifier judge --class 10", &["class 10 is out of range"]);
    fs::write(place.join("larger.json"), TINY.replace(r#""sample_size": 8"#, r#""sample_size": 16"#)).unwrap();
    untrained(place, "larger.json", "larger");
    refused(place, "sample larger --classifier judge", &["8x8x1", "16x16x1"]);
    let path = place.join("judge/checkpoint/scheduler_config.json");
    let other = fs::read_to_string(&path).unwrap().replace("linear", "squaredcos_cap_v2");
    fs::write(&path, other).unwrap();
    refused(place, "sample run --classifier judge", &["cosine over 1000", "linear over 1000", "train it on the same"]);
}

#[test]
fn likelihoods_and_levels_are_printed() {
    let place = place_with_run();
    let place = place.path();
    let line = "evaluate run --data digits --likelihood vlb --levels --count 2 --out e";
    let said = accepted(place, line).out;
    assert!(["L_T", "L_999", "L_0", "total", "long waves"].iter().all(|part| said.contains(part)), "{said}");
    let pictures = ["loss_by_timestep.png", "variational_bound.png", "x0_error_by_timestep.png"];
    assert_eq!(files(&place.join("e")), pictures);
    let line = "evaluate run --data digits --likelihood ode --ode-steps 3 --count 2 --json";
    let report = json(&accepted(place, line));
    let flow = &report["probability_flow"];
    assert_eq!((&flow["images"], &flow["steps"], &flow["dequantization"]), (&2.into(), &3.into(), &"uniform".into()));
    assert!(flow["total"]["mean"].as_f64().is_some_and(f64::is_finite));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    let cases = [
        ("evaluate run --data digits", "nothing to evaluate"),
        ("evaluate run --data digits --levels --count 0", "at least 1"),
        ("evaluate run --data nowhere --levels", "nowhere"),
        ("evaluate run --data digits --quality --classifier run", "no classifier"),
        ("evaluate run --data digits --quality --classifier nowhere", "no such directory"),
        ("evaluate nowhere --data digits --levels", "nowhere: no such directory"),
        ("train-classifier --data digits --model tiny.json --out c --lr NaN", "learning rate"),
        ("train-classifier --resume --out run", "run"),
    ];
    for (line, part) in cases {
        refused(place.path(), line, &[part]);
    }
    let said = run(typed(place.path(), "evaluate run --data digits --quality"));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(!place.path().join("c").exists());
}
