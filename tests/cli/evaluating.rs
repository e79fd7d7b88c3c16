//! `diffuse train-classifier` and `diffuse evaluate`.

use super::*;
use diffuse::nn::{Classifier, ClassifierConfig};
use diffuse::tensors;

/// A place with the trained run, and a classifier that learnt a little.
fn place_with_classifier() -> TempDir {
    let place = place_with_run();
    let line = "train-classifier --data digits --model tiny.json --out judge --steps 4 --batch 4 --json";
    let report = json(&accepted(place.path(), line));
    assert_eq!((&report["step"], &report["test_images_held_out"]), (&4.into(), &true.into()));
    let levels = report["accuracy"].as_array().expect("accuracies");
    assert!(levels.len() == 10 && levels.iter().all(|level| level["count"] == 996), "{levels:?}");
    place
}

/// Writes an untrained classifier of as many classes to `place/name`.
fn untrained_classifier(place: &Path, classes: u32, name: &str) {
    let unet = serde_json::from_slice(&fs::read(place.join("plain.json")).unwrap()).unwrap();
    let classifier = Classifier::new(ClassifierConfig { unet, classes }).expect("a valid model");
    let weights = classifier.params.initialise(1);
    let (directory, scheduler) = (place.join(name), SchedulerConfig::default());
    checkpoint::classifier::save(&directory, &classifier, &[], &weights, &scheduler).expect("room for files");
}

#[test]
fn a_classifier_is_trained_resumed_and_judges() {
    let place = place_with_classifier();
    let place = place.path();
    let expected = [
        "classifier.safetensors",
        "config.json",
        "manifest.json",
        "scheduler_config.json",
        "trainer.json",
        "trainer.safetensors",
    ];
    assert_eq!(files(&place.join("judge/checkpoint")), expected);
    let said = accepted(place, "train-classifier --resume --out judge --steps 6");
    assert!(said.err.contains("from step 4") && said.out.contains("images held out of training"), "{}", said.out);
    let line = "evaluate run --data digits --quality --judge judge --count 8 --steps 3 --out e --json";
    let report = json(&accepted(place, line));
    let quality = &report["quality_on_classifier_features"];
    assert_eq!((&quality["samples"]["images"], &quality["floor"]["images"]), (&8.into(), &8.into()));
    assert!(quality["samples"]["frechet_distance"]["margin"].as_f64().is_some_and(|margin| margin > 0.0));
    let drawn = serde_json::json!({
        "sampler": "ddpm", "settings": { "variance": "fixed_small" }, "steps": 3, "spacing": "leading",
        "evaluations_per_sample": 3.0, "doubled_batch": false, "guidance": 1.0, "classifier_scale": null, "seed": 0
    });
    assert_eq!(report["drawn"], drawn);
    assert!(image::open(place.join("e/nearest_neighbours.png")).unwrap().width() > 30);
    // Samples that are there already.
    accepted(place, "sample run --count 10 --steps 2 --out s.png --tensor s.safetensors");
    let line = "evaluate run --data digits --quality --judge judge --samples s.safetensors --out e";
    let said = accepted(place, line).out;
    assert!(!said.contains("drawn by") && said.contains("all four are mostly noise"), "{said}");
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
    refused(place, "sample plain --classifier judge --class 10", &["no class 10 among 10 classes: 0 to 9"]);
    fs::write(place.join("larger.json"), TINY.replace(r#""sample_size": 8"#, r#""sample_size": 16"#)).unwrap();
    untrained(place, "larger.json", "larger");
    refused(place, "sample larger --classifier judge", &["8x8x1", "16x16x1"]);
    let path = place.join("judge/checkpoint/scheduler_config.json");
    forget_manifest(&place.join("judge/checkpoint"));
    let other = fs::read_to_string(&path).unwrap().replace("linear", "squaredcos_cap_v2");
    fs::write(&path, other).unwrap();
    refused(place, "sample run --classifier judge", &["cosine over 1000", "linear over 1000", "train it on the same"]);
}

#[test]
fn samples_of_any_sampler_and_guidance_are_judged() {
    let place = place_with_classifier();
    let place = place.path();
    untrained(place, "plain.json", "plain");
    let judged = |flags: &str| {
        let line = format!("--data digits --quality --judge judge --count 10 --out e --json {flags}");
        json(&accepted(place, &format!("evaluate {line}")))
    };
    let both = "--guidance 2.5 --classifier judge --classifier-scale 9";
    let report = judged(&format!("run --sampler ddim --eta 0.5 --steps 4 --spacing trailing --batch 4 {both}"));
    let drawn = serde_json::json!({
        "sampler": "ddim", "settings": { "eta": 0.5, "use_clipped_model_output": true }, "steps": 4, "spacing": "trailing", "evaluations_per_sample": 4.0,
        "doubled_batch": true, "guidance": 2.5, "classifier_scale": 9.0, "seed": 0
    });
    assert_eq!(report["drawn"], drawn);
    // These are the samples that `sample` draws: judged from a file, they are as good.
    accepted(
        place,
        &format!(
            "sample run --sampler ddim --eta 0.5 --steps 4 --spacing trailing --count 10 {both} \
                              --out s.png --tensor s.safetensors"
        ),
    );
    let stored =
        json(&accepted(place, "evaluate run --data digits --quality --judge judge --samples s.safetensors --json"));
    let figure = |report: &serde_json::Value| {
        report["quality_on_classifier_features"]["nearest"]["quantiles"][1].as_f64().expect("a median")
    };
    assert!((figure(&report) - figure(&stored)).abs() < 1e-6, "{} and {}", figure(&report), figure(&stored));
    assert_eq!(stored["drawn"], serde_json::Value::Null);
    assert_ne!(
        figure(&judged("run --sampler ddim --eta 0.5 --steps 4 --spacing trailing --guidance 2.5")),
        figure(&report)
    );
    // Two evaluations a step, but for the last.
    let report = judged("run --sampler heun --steps 3");
    assert_eq!(
        (&report["drawn"]["evaluations_per_sample"], &report["drawn"]["settings"]["churn"]),
        (&5.0.into(), &0.0.into())
    );
    // Each batch of an adaptive sampler takes its own number: one, and six for each step.
    let report = judged("plain --sampler rk45 --tolerance 0.5 --classifier judge --batch 10");
    let evaluations = report["drawn"]["evaluations_per_sample"].as_f64().expect("a number");
    assert!(evaluations >= 7.0 && (evaluations - 1.0) % 6.0 == 0.0, "{evaluations}");
    assert_eq!(
        (&report["drawn"]["steps"], &report["drawn"]["classifier_scale"]),
        (&serde_json::Value::Null, &1.0.into())
    );
    assert!(report["quality_on_classifier_features"]["samples"]["accuracy"].is_f64());
    let line =
        "evaluate run --data digits --quality --judge judge --count 10 --steps 2 --variance fixed-large --guidance 0";
    let said = accepted(place, line).out;
    let expected = "drawn by ddpm (variance fixed_large, 2 steps, leading): 2 evaluations of the network a sample, each \
                    with and without class at once; guidance 0, classifier none\n";
    assert!(said.contains(expected), "{said}");
    assert!(accepted(place, "evaluate run --data digits --quality --judge judge --sampler list").out.contains("unipc"));
}

#[test]
fn flags_of_drawing_go_with_quality() {
    let place = place();
    let lines = [
        ("--levels --sampler ddim", "--quality"),
        ("--levels --steps 3", "--quality"),
        ("--levels --guidance 2", "--quality"),
        ("--levels --classifier c", "--quality"),
        ("--levels --judge c", "--quality"),
        ("--levels --samples s", "--quality"),
        ("--quality", "--judge"),
        ("--quality --judge c --classifier-scale 2", "--classifier"),
        ("--quality --judge c --samples s --sampler ddpm", "--samples <F.safetensors>' cannot be used with"),
        ("--quality --judge c --samples s --eta 1", "--samples <F.safetensors>' cannot be used with"),
        ("--quality --judge c --samples s --guidance 2", "--samples <F.safetensors>' cannot be used with"),
        ("--quality --judge c --samples s --classifier c", "--samples <F.safetensors>' cannot be used with"),
        ("--quality --judge c --variance learned-badly", "fixed-large"),
    ];
    for (flags, part) in lines {
        let said = run(typed(place.path(), &format!("evaluate run --data digits {flags}")));
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{flags}: {}", said.err);
        assert!(said.err.contains(part), "{flags}: {}", said.err);
    }
}

#[test]
fn likelihoods_and_levels_are_printed() {
    let place = place_with_run();
    let variance = "evaluate run --data digits --levels --variance fixed-large";
    refused(place.path(), variance, &["--variance goes with --quality and --likelihood vlb"]);
    let place = place.path();
    let line = "evaluate run --data digits --likelihood vlb --levels --count 2 --out e";
    let said = accepted(place, line).out;
    assert!(["L_T", "L_999", "L_0", "total", "waves > 8 px"].iter().all(|part| said.contains(part)), "{said}");
    // The run says that it was trained on all digits.
    assert!(said.starts_with("test images: every tenth of each class; the model was trained on them, too\n"), "{said}");
    let pictures = ["loss_by_timestep.png", "variational_bound.png", "x0_error_by_timestep.png"];
    assert_eq!(files(&place.join("e")), pictures);
    let line = "evaluate run --data digits --likelihood ode --ode-steps 8 --count 2 --json";
    let report = json(&accepted(place, line));
    assert_eq!(report["test_images_held_out"], false);
    copy(&place.join("run/checkpoint"), &place.join("lone"));
    let lone = json(&accepted(place, "evaluate lone --data digits --levels --count 2 --json"));
    assert_eq!(lone["test_images_held_out"], "unknown");
    // One image says nothing of an error.
    let one = accepted(place, "evaluate run --data digits --likelihood vlb --terms 8 --count 1 --out e").out;
    assert!(one.contains("bound of 1 image,") && one.contains("(one image: its error is not known)"), "{one}");
    let flow = &report["probability_flow"];
    assert_eq!((&flow["images"], &flow["steps"], &flow["dequantization"]), (&2.into(), &8.into(), &"uniform".into()));
    assert!(flow["total"]["mean"].as_f64().is_some_and(f64::is_finite));
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    untrained(place.path(), "plain.json", "plain");
    untrained_classifier(place.path(), 10, "judge");
    untrained_classifier(place.path(), 7, "few");
    let plain = fs::read_to_string(place.path().join("plain.json")).unwrap();
    fs::write(place.path().join("plain.json"), plain.replace("size\": 8", "size\": 16")).unwrap();
    untrained_classifier(place.path(), 10, "other");
    fs::write(place.path().join("plain.json"), plain).unwrap();
    let cases = [
        ("evaluate run --data digits", "nothing to evaluate"),
        ("evaluate run --data digits --levels --count 0", "at least 1"),
        ("evaluate run --data nowhere --levels", "nowhere"),
        ("evaluate run --data digits --likelihood ode --ode-steps 7", "--ode-steps 7"),
        ("evaluate run --data digits --levels --out tiny.json", "tiny.json"),
        ("evaluate run --data digits --levels --terms 9", "--terms goes with --likelihood vlb"),
        ("evaluate run --data digits --likelihood vlb --ode-steps 9", "--ode-steps goes with --likelihood ode"),
        ("evaluate run --data digits --likelihood vlb --dequantize gaussian", "--dequantize goes with"),
        ("evaluate run --data digits --likelihood vlb --terms 7", "--terms 7: fewer than 8"),
        ("evaluate run --data digits --levels --out e --json=e/loss_by_timestep.png", "two outputs can't be one file"),
        ("evaluate run --data digits --levels --quality --judge judge --variance learned", "no learned variance"),
        ("profile --png p.png --trace ./p.png", "two outputs can't be one file"),
        ("profile --png p.svg", "no format of pictures"),
        ("profile --only conv --batch 1", "--only goes with --shapes"),
        ("profile --model run --json=run/config.json", "--json would replace run/config.json, which --model reads"),
        ("tune --model run --out run/config.json", "--out would replace run/config.json, which --model reads"),
        ("evaluate run --data digits --levels --json=run/config.json", "which the checkpoint reads"),
        (
            "evaluate run --data digits --quality --judge judge --json=judge/classifier.safetensors",
            "--json would replace judge/classifier.safetensors, which --judge reads",
        ),
        ("train --data digits --init run --json=run/scheduler_config.json --out r", "which --init reads"),
        ("sample judge", "a classifier: --classifier takes it"),
        ("tune --out t.json --json=t.json", "two outputs can't be one file"),
        ("data digits --out d.png --json=d.png", "two outputs can't be one file"),
        // All of it is looked at before any of it is done.
        ("evaluate run --data digits --levels --quality --judge judge --count 3", "at least 4 of each"),
        (
            "evaluate run --data digits --levels --quality --judge other",
            "it judges images of 16x16x1, the model draws 8x8x1",
        ),
        ("evaluate run --data digits --quality --judge run", "no classifier"),
        ("evaluate run --data digits --quality --judge nowhere", "no such directory"),
        (
            "evaluate run --data digits --quality --judge judge --sampler ddim --variance fixed-large",
            "--variance goes with",
        ),
        ("evaluate run --data digits --quality --judge judge --eta 1", "--eta goes with --sampler ddim"),
        ("evaluate run --data digits --quality --judge judge --steps 1001", "1 to 1000"),
        ("evaluate run --data digits --quality --judge judge --guidance NaN", "--guidance must be a number"),
        ("evaluate run --data digits --quality --judge judge --count 2000000", "--count must be 1 to 1048576"),
        ("evaluate run --data digits --quality --judge judge --classifier nowhere", "nowhere: no such directory"),
        (
            "evaluate run --data digits --quality --judge judge --classifier judge --classifier-scale NaN",
            "--classifier-scale",
        ),
        ("evaluate plain --data digits --quality --judge judge --guidance 2", "no classes"),
        ("evaluate run --data digits --quality --judge few", "few: it knows 7 classes"),
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

/// Finite weights whose outputs are not: NaN stands in no table.
#[test]
fn figures_that_are_not_finite_are_errors() {
    let place = place();
    untrained(place.path(), "tiny.json", "run");
    untrained_classifier(place.path(), 10, "judge");
    let large = |path: &str| {
        let path = place.path().join(path);
        let mut tensors = tensors::read(&path).unwrap();
        tensors.values_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value *= 1e20));
        tensors::write(&path, &tensors).unwrap();
    };
    accepted(place.path(), "sample run --count 8 --steps 2 --out s.png --tensor s.st");
    large("judge/classifier.safetensors");
    let ends = |flags: &str| {
        let said = run(typed(place.path(), &format!("evaluate run --data digits --out e {flags}")));
        assert!(said.code == Some(1) && !said.out.contains("NaN"), "{}{}", said.out, said.err);
        assert!(said.err.contains("not finite; is this checkpoint trained?"), "{}", said.err);
    };
    ends("--quality --judge judge --samples s.st");
    large("run/diffusion_pytorch_model.safetensors");
    for part in ["--levels", "--likelihood vlb --terms 8", "--likelihood ode --ode-steps 8"] {
        ends(&format!("{part} --count 2"));
    }
}

#[test]
fn what_is_not_looked_at_is_said() {
    let place = place_with_classifier();
    accepted(place.path(), "sample run --count 6 --steps 2 --out s.png --tensor s.st");
    let line = "evaluate run --data digits --quality --judge judge --samples s.st --count";
    refused(place.path(), &format!("{line} 9"), &["--count 9: the file of --samples holds 6"]);
    let said = accepted(place.path(), "evaluate run --data digits --levels --count 5000 --batch 996").err;
    assert!(said.contains("digits has 996 test images: no more are looked at"), "{said}");
    let path = place.path().join("s.st");
    let mut tensors = tensors::read(&path).unwrap();
    tensors.values_mut().for_each(|tensor| tensor.values.iter_mut().for_each(|value| *value = 0.5 * (*value + 1.0)));
    tensors::write(&path, &tensors).unwrap();
    let said = accepted(place.path(), &format!("{line} 6")).err;
    assert!(said.contains("no sample has a number below 0"), "{said}");
}
