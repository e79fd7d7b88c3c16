//! Pipelines of diffusers, in both directions; `tests/pipelines/compare.py` compares them in Python.

use super::*;
use diffuse::tensors::{self, FileTensor};
use serde_json::{Value, json};

fn stored() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pipelines/stored")
}

fn object(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// What is drawn, and what was said.
fn drawn(place: &Path, line: &str) -> (FileTensor, String) {
    let said = accepted(place, &format!("sample {line} --out s.png --tensor s.safetensors"));
    (tensors::read(&place.join("s.safetensors")).unwrap()["samples"].clone(), said.err)
}

/// The pipeline that diffusers saved, of the fp16 variant, in `pipe`; its noise in `noise.safetensors`.
fn place_with_pipeline() -> TempDir {
    let place = place();
    copy(&stored(), &place.path().join("pipe"));
    fs::rename(place.path().join("pipe/images.safetensors"), place.path().join("noise.safetensors")).unwrap();
    place
}

#[test]
fn what_diffusers_saved_is_drawn_as_it_draws_it() {
    let place = place_with_pipeline();
    let images = tensors::read(&place.path().join("noise.safetensors")).unwrap();
    let compare = |flags: &str, name: &str| {
        let (own, _) = drawn(place.path(), &format!("pipe --count 2 --steps 4 --noise noise.safetensors {flags}"));
        assert_eq!(own.shape, images[name].shape);
        let off = |(own, want): (&f32, &f32)| (own.clamp(-1.0, 1.0) - want).abs();
        let worst = own.values.iter().zip(&images[name].values).map(off).fold(0.0, f32::max);
        println!("{name} {flags}: off by {worst:.1e}");
        worst
    };
    assert!(compare("", "ddpm") <= 1e-4);
    let scheduler = place.path().join("pipe/scheduler/scheduler_config.json");
    let config = fs::read_to_string(&scheduler).unwrap().replace("DDPMScheduler", "DDIMScheduler");
    fs::write(&scheduler, config).unwrap();
    let clipped = "--use-clipped-model-output";
    let cases = [
        ("", "ddim"),
        ("--eta 0.7", "ddim_eta"),
        (&format!("--eta 0.7 {clipped} false"), "ddim_eta"),
        (&format!("--eta 0.7 {clipped} true"), "ddim_eta_clipped"),
    ];
    for (flags, name) in cases {
        assert!(compare(flags, name) <= 1e-4, "{flags}");
    }
    assert!(compare(&format!("--eta 0.7 {clipped} true"), "ddim_eta") > 0.01);
    refused(place.path(), &format!("sample pipe --sampler euler {clipped} true"), &["goes with --sampler ddim"]);
    let said = accepted(place.path(), &format!("sample pipe --steps 2 --count 1 {clipped} true --json"));
    assert_eq!(json(&said)["settings"], json!({"eta": 0.0, "use_clipped_model_output": true}));
}

/// Files and keys as `DDPMPipeline.save_pretrained` writes them.
#[test]
fn an_exported_pipeline_draws_what_its_checkpoint_draws() {
    let place = place();
    untrained(place.path(), "plain.json", "model");
    let said = accepted(place.path(), "export model --pipeline made/pipe");
    assert!(
        said.out.is_empty() && said.err.contains("made/pipe: DDPMPipeline.from_pretrained loads it"),
        "{}",
        said.err
    );
    let at = |name: &str| place.path().join("made/pipe").join(name);
    let unet = "unet/diffusion_pytorch_model.safetensors";
    let scheduler = "scheduler/scheduler_config.json";
    assert_eq!(
        files(&place.path().join("made")),
        ["model_index.json", scheduler, "unet/config.json", unet].map(|name| format!("pipe/{name}"))
    );
    let index = json!({
        "_class_name": "DDPMPipeline", "_diffusers_version": "0.35.0",
        "scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"],
    });
    assert_eq!(object(&at("model_index.json")), index);
    let (config, of_diffusers) = (object(&at("unet/config.json")), object(&stored().join("unet/config.json")));
    let keys = |config: &Value| config.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&config), keys(&of_diffusers));
    assert_eq!((&config["sample_size"], &config["_class_name"]), (&json!(8), &json!("UNet2DModel")));
    let of_diffusers = object(&stored().join(scheduler));
    assert!(keys(&object(&at(scheduler))).iter().all(|key| of_diffusers.get(key).is_some()));
    let flags = "--count 2 --steps 3 --seed 4";
    assert_eq!(drawn(place.path(), &format!("made/pipe {flags}")), drawn(place.path(), &format!("model {flags}")));
    assert_eq!(
        fs::read(at(unet)).unwrap(),
        fs::read(place.path().join("model/diffusion_pytorch_model.safetensors")).unwrap()
    );
}

/// A model of diffusers' keeps the keys of its scheduler, and gets no null class.
#[test]
fn all_keys_of_a_scheduler_are_exported() {
    let place = place_with_pipeline();
    let scheduler = "pipe/scheduler/scheduler_config.json";
    let given = json!({
        "_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "cosine", "prediction_type": "v_prediction", "solver_order": 3, "steps_offset": 1,
        "lambda_min_clipped": "-Infinity", "use_karras_sigmas": false,
    });
    fs::write(place.path().join(scheduler), given.to_string()).unwrap();
    let said = accepted(place.path(), "export pipe --pipeline again --json");
    let lines = json(&said)["python"].as_str().unwrap().to_string();
    assert!(lines.contains("from_pretrained(\"again\")") && lines.lines().count() == 10, "{lines}");
    assert!(said.err.contains("doesn't draw with a DPMSolverMultistepScheduler"), "{}", said.err);
    let mut wanted = given;
    wanted["beta_schedule"] = "squaredcos_cap_v2".into();
    // JSON has no such number, and the class has it by default.
    wanted.as_object_mut().unwrap().remove("lambda_min_clipped");
    assert_eq!(object(&place.path().join("again/scheduler/scheduler_config.json")), wanted);
    let images = |name: &str| drawn(place.path(), &format!("{name} --count 2 --steps 4")).0;
    assert_eq!(images("pipe"), images("again"));
    // Numbers that tell, not all of them clamped.
    assert!(images("pipe").values.iter().filter(|value| value.abs() < 0.9).count() > 20);
    let config = place.path().join("pipe/unet/config.json");
    let of_classes =
        fs::read_to_string(&config).unwrap().replace("\"num_class_embeds\": null", "\"num_class_embeds\": 3");
    fs::write(config, of_classes).unwrap();
    let weights = place.path().join("pipe/unet/diffusion_pytorch_model.fp16.safetensors");
    let mut tensors = tensors::read(&weights).unwrap();
    tensors.insert("class_embedding.weight".into(), FileTensor { shape: vec![3, 16], values: vec![0.1; 48] });
    tensors::write(&weights, &tensors).unwrap();
    let lines = accepted(place.path(), "export pipe --pipeline classes").out;
    assert!(lines.contains("torch.arange(3)") && !lines.contains("null") && lines.lines().count() == 11, "{lines}");
    assert!(object(&place.path().join("classes/unet/config.json")).get("_null_class").is_none());
}

#[test]
fn a_conditional_model_is_exported_with_the_lines_that_draw_with_it() {
    let place = place_with_run();
    let said = accepted(place.path(), "export run --pipeline it's");
    assert!(said.err.contains("passes no labels; these lines draw with it"), "{}", said.err);
    for part in [
        "from_pretrained(\"it's\")",
        "labels = torch.arange(10)",
        "torch.randn(10, 1, 8, 8)",
        "torch.full_like(labels, 10)",
        "out = null + 2.0 * (own - null)",
        "set_timesteps(50)",
    ] {
        assert!(said.out.contains(part), "no {part} in {}", said.out);
    }
    assert_eq!(object(&place.path().join("it's/unet/config.json"))["_null_class"], 10);
    assert_eq!(drawn(place.path(), "it's --count 3 --steps 2"), drawn(place.path(), "run --count 3 --steps 2"));
}

#[test]
fn what_diffusers_cannot_say_is_not_exported() {
    let place = place();
    untrained(place.path(), "plain.json", "model");
    let scheduler = place.path().join("model/scheduler_config.json");
    let cases = [
        (json!({"prediction_type": "score"}), "no prediction_type score: they know epsilon, sample, v_prediction"),
        (json!({"prediction_type": "edm"}), "no prediction_type edm"),
        (json!({"prediction_type": "flow_prediction"}), "no prediction_type flow_prediction"),
        (json!({"schedule": "vp", "beta_min": 0.1, "beta_max": 20.0}), "no schedule vp"),
        (json!({"schedule": "edm", "sigma_min": 0.002, "sigma_max": 80.0}), "no schedule edm"),
        (json!({"schedule": "flow"}), "no schedule flow"),
        (
            json!({"_class_name": "DDIMScheduler", "beta_schedule": "laplace"}),
            "no beta_schedule laplace in DDIMScheduler",
        ),
        (json!({"variance_type": "learned_range"}), "no learned variance"),
        (json!({"clip_sample_range": "Infinity"}), "clip_sample_range"),
        (json!({"_class_name": "LCMScheduler"}), "LCMScheduler is not read here"),
    ];
    for (config, part) in cases {
        fs::write(&scheduler, config.to_string()).unwrap();
        refused(place.path(), "export model --pipeline pipe", &[part]);
        assert!(!place.path().join("pipe").exists(), "{config}");
    }
    fs::write(&scheduler, "{}").unwrap();
    let config = TINY.replace("\"out_channels\": 1", "\"out_channels\": 2").replace(", \"num_class_embeds\": 11", "");
    fs::write(place.path().join("learned.json"), config).unwrap();
    untrained(place.path(), "learned.json", "learned");
    refused(
        place.path(),
        "export learned --pipeline pipe",
        &["learns its variance", "DDPMScheduler of learned_range can"],
    );
    let scheduler = place.path().join("learned/scheduler_config.json");
    fs::write(&scheduler, r#"{"variance_type": "learned_range"}"#).unwrap();
    accepted(place.path(), "export learned --pipeline pipe");
    fs::write(scheduler, r#"{"_class_name": "DDIMScheduler"}"#).unwrap();
    refused(place.path(), "export learned --pipeline other", &["learns its variance", "DDIMScheduler"]);
    let config = place.path().join("model/config.json");
    let sizeless = fs::read_to_string(&config).unwrap().replace("\"sample_size\": 8", "\"sample_size\": null");
    fs::write(config, sizeless).unwrap();
    refused(place.path(), "export model --pipeline other", &["no sample_size", "--size says it"]);
    refused(place.path(), "export model --pipeline other --size 7", &["7x7 images can't be halved"]);
    accepted(place.path(), "export model --pipeline other --size 8x12");
    assert_eq!(object(&place.path().join("other/unet/config.json"))["sample_size"], json!([8, 12]));
}

#[test]
fn a_pipeline_goes_where_nothing_else_is() {
    let place = place();
    let at = |name: &str| place.path().join(name);
    untrained(place.path(), "plain.json", "model");
    fs::create_dir(at("empty")).unwrap();
    accepted(place.path(), "export model --pipeline empty");
    fs::write(at("empty/unet/mine"), "gone if replaced").unwrap();
    let before = files(&at("empty"));
    refused(place.path(), "export model --pipeline empty", &["holds a pipeline already", "--replace"]);
    assert_eq!(files(&at("empty")), before);
    // One that can't be made leaves what is there.
    let scheduler = at("model/scheduler_config.json");
    let good = fs::read(&scheduler).unwrap();
    fs::write(&scheduler, r#"{"prediction_type": "score"}"#).unwrap();
    refused(place.path(), "export model --pipeline empty --replace", &["prediction_type score"]);
    assert_eq!(files(&at("empty")), before);
    fs::write(&scheduler, good).unwrap();
    accepted(place.path(), "export model --pipeline empty --replace");
    assert_eq!(files(&at("empty")).len(), 4);
    for replace in ["", "--replace"] {
        refused(place.path(), &format!("export model --pipeline model {replace}"), &["other files than a pipeline"]);
        refused(place.path(), &format!("export model --pipeline tiny.json {replace}"), &["this is a file"]);
    }
    refused(place.path(), "export empty --pipeline empty --replace", &["which the checkpoint reads"]);
    refused(place.path(), "export empty/unet --pipeline empty --replace", &["which the checkpoint reads"]);
    refused(place.path(), "export nowhere --pipeline p", &["nowhere", "no such directory"]);
    refused(place.path(), "export model --pipeline tiny.json/below", &["is a file, not a directory"]);
    assert!(files(place.path()).iter().all(|name| !name.contains(".diffuse-")), "{:?}", files(place.path()));
}
