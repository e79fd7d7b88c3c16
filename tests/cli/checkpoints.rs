//! Checkpoints that are not what they should be.

use super::*;
use diffuse::checkpoint::{manifest, of_run};
use diffuse::tensors::{self, FileTensor, FileTensors};
use safetensors::SafeTensors;

const MODEL: &str = "model/diffusion_pytorch_model.safetensors";
const SAMPLE: &str = "sample model --count 1 --steps 2 --out s.png";

fn place_with_model() -> TempDir {
    let place = place();
    untrained(place.path(), "tiny.json", "model");
    place
}

#[track_caller]
fn sample_refused(place: &Path, parts: &[&str]) {
    refused(place, SAMPLE, parts);
    assert!(!place.join("s.png").exists());
}

/// Changes the tensors of a file.
fn change(path: &Path, change: impl Fn(&mut FileTensors)) {
    let mut tensors = tensors::read(path).unwrap();
    change(&mut tensors);
    tensors::write(path, &tensors).unwrap();
}

#[test]
fn bad_tensors_are_named() {
    type Change = fn(&mut FileTensors);
    let cases: [(Change, &str); 6] = [
        (|tensors| drop(tensors.remove("conv_in.bias")), "conv_in.bias is missing"),
        (
            |tensors| {
                let surplus = FileTensor { shape: vec![2], values: vec![0.0; 2] };
                tensors.insert("surplus.weight".into(), surplus);
            },
            "surplus.weight is not in the model",
        ),
        (
            |tensors| {
                let bias = tensors.get_mut("conv_in.bias").unwrap();
                (bias.shape, bias.values) = (vec![7], vec![0.0; 7]);
            },
            "conv_in.bias has shape [7], the configuration makes it [8]",
        ),
        (
            // As many numbers, other axes.
            |tensors| tensors.get_mut("time_embedding.linear_1.weight").unwrap().shape.reverse(),
            "time_embedding.linear_1.weight has shape [8, 32]",
        ),
        (|tensors| tensors.get_mut("conv_out.weight").unwrap().values[5] = f32::NAN, "conv_out.weight is not finite"),
        (|tensors| tensors.get_mut("conv_out.weight").unwrap().values[5] = f32::INFINITY, "element 5 is inf"),
    ];
    for (spoil, part) in cases {
        let place = place_with_model();
        change(&place.path().join(MODEL), spoil);
        sample_refused(place.path(), &[MODEL, part]);
    }
}

#[test]
fn bad_files_are_named() {
    let place = place_with_model();
    let path = place.path().join(MODEL);
    let whole = fs::read(&path).unwrap();
    for length in [0, 4, 100, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        sample_refused(place.path(), &[MODEL, "no whole safetensors file"]);
    }
    fs::write(&path, [&[255; 8], &whole[8..]].concat()).unwrap();
    sample_refused(place.path(), &[MODEL, "no whole safetensors file"]);
    fs::write(&path, &whole).unwrap();
    accepted(place.path(), SAMPLE);
    fs::remove_file(place.path().join("s.png")).unwrap();
    let scheduler = place.path().join("model/scheduler_config.json");
    fs::write(&scheduler, r#"{"beta_schedule": "nonsense"}"#).unwrap();
    sample_refused(place.path(), &["beta_schedule \"nonsense\"", "linear"]);
    fs::write(&scheduler, r#"{"variance_type": "learned"}"#).unwrap();
    refused(place.path(), &format!("{SAMPLE} --sampler ddpm"), &["variance_type \"learned\"", "learned_range"]);
    fs::write(&scheduler, r#"{"variance_type": "learned_range"}"#).unwrap();
    refused(place.path(), &format!("{SAMPLE} --sampler ddpm"), &["no learned variance"]);
    fs::write(&scheduler, "no JSON").unwrap();
    sample_refused(place.path(), &["scheduler_config.json", "no JSON object"]);
    fs::write(place.path().join("model/config.json"), "no JSON").unwrap();
    sample_refused(place.path(), &["model/config.json", "no JSON object"]);
    fs::remove_file(place.path().join("model/config.json")).unwrap();
    sample_refused(place.path(), &["model", "no config.json"]);
    refused(place.path(), "sample nowhere", &["nowhere", "no such directory"]);
}

#[test]
fn bad_configurations_are_named() {
    let cases = [
        (r#""norm_num_groups": 4"#, r#""norm_num_groups": 3"#, "norm_num_groups 3 does not divide 8"),
        (r#""sample_size": 8"#, r#""sample_size": 9"#, "9x9 images can't be halved"),
        (r#""sample_size": 8,"#, "", "no sample_size"),
        (r#""in_channels": 1"#, r#""in_channels": 2"#, "tensor conv_in.weight has shape"),
    ];
    for (from, to, part) in cases {
        let place = place_with_model();
        fs::write(place.path().join("model/config.json"), TINY.replace(from, to)).unwrap();
        sample_refused(place.path(), &[part]);
    }
}

#[test]
fn a_model_of_diffusers_is_sampled() {
    let place = place();
    copy(&oracle("unet_default"), &place.path().join("model"));
    accepted(place.path(), "sample model --count 5 --steps 2 --out s.png --tensor s.safetensors");
    let samples = tensors::read(&place.path().join("s.safetensors")).unwrap();
    assert_eq!(samples["samples"].shape, [5, 1, 8, 12]);
    // As a pipeline has it: the model in `unet`.
    fs::create_dir(place.path().join("pipeline")).unwrap();
    fs::rename(place.path().join("model"), place.path().join("pipeline/unet")).unwrap();
    accepted(place.path(), "sample pipeline --count 1 --steps 1 --out p.png");
    copy(&oracle("unet_scale_shift"), &place.path().join("model"));
    // The other half of its 6 output channels says a variance.
    accepted(place.path(), "sample model --count 1 --steps 2 --out t.png");
}

#[test]
fn weights_are_found_in_every_layout() {
    let place = place_with_model();
    let at = |name: &str| place.path().join(name);
    let drawn = |from: &str| {
        accepted(place.path(), &format!("sample {from} --count 1 --steps 2 --out s.png --tensor s.safetensors"));
        fs::read(at("s.safetensors")).unwrap()
    };
    let want = drawn("model");
    // A model saved by torch's compile; the path of the file; a variant; a pipeline of other names; accelerate's average.
    let rename = |file: &Path, name: &dyn Fn(&String) -> String| {
        let tensors = tensors::read(file).unwrap();
        tensors::write(file, &tensors.iter().map(|(key, tensor)| (name(key), tensor.clone())).collect()).unwrap();
    };
    rename(&at(MODEL), &|key| format!("_orig_mod.module.{key}"));
    assert!(drawn("model") == want && drawn(MODEL) == want);
    let moved = |from: &str, to: &str| fs::rename(at(from), at(to)).unwrap();
    moved(MODEL, "model/diffusion_pytorch_model.fp16.safetensors");
    assert!(drawn("model") == want && drawn("model/diffusion_pytorch_model.fp16.safetensors") == want);
    fs::create_dir(at("pipe")).unwrap();
    fs::write(at("pipe/model_index.json"), r#"{"_class_name": "P", "net": ["diffusers", "UNet2DModel"]}"#).unwrap();
    moved("model", "pipe/net");
    assert!(drawn("pipe") == want);
    moved("pipe/net", "pipe/unet_ema");
    assert!(drawn("pipe") == want);
    moved("pipe/unet_ema", "model");
    // Names of blocks in the first checkpoints, and how the average came about.
    let config = fs::read_to_string(at("model/config.json")).unwrap().replace("\"DownBlock2D", "\"UNetResDownBlock2D");
    let config = config.replace("\"dropout\": 0.0", "\"dropout\": 0.5").replacen('{', r#"{"decay": 0.9999, "#, 1);
    fs::write(at("model/config.json"), config).unwrap();
    assert!(drawn("model") == want);
    refused(place.path(), "train --data digits --model model --steps 1 --out r", &["dropout is 0.5", "set it to 0"]);
}

#[test]
fn what_a_checkpoint_does_not_say_is_said() {
    let place = place_with_model();
    let at = |name: &str| place.path().join(name);
    let scheduler = fs::read_to_string(at("model/scheduler_config.json")).unwrap();
    fs::remove_file(at("model/scheduler_config.json")).unwrap();
    let warns = |from: &str| {
        let said = accepted(place.path(), &format!("sample {from} --count 1 --steps 2 --out t.png"));
        said.err.contains("no scheduler_config.json, so this was trained on 1000 linear betas")
    };
    assert!(warns("model"));
    // Beside the checkpoints of accelerate.
    fs::create_dir_all(at("run/checkpoint-5")).unwrap();
    fs::create_dir_all(at("run/scheduler")).unwrap();
    fs::rename(at("model"), at("run/checkpoint-5/unet")).unwrap();
    fs::write(at("run/scheduler/scheduler_config.json"), scheduler).unwrap();
    assert!(!warns("run/checkpoint-5"));
    refused(place.path(), "sample run --out t.png", &["but in checkpoint-5: give one"]);
    // The average goes before the raw weights, which --raw takes.
    copy(&at("run/checkpoint-5/unet"), &at("run/checkpoint-5/unet_ema"));
    change(&at("run/checkpoint-5/unet_ema/diffusion_pytorch_model.safetensors"), |tensors| {
        tensors.values_mut().for_each(|tensor| tensor.values.fill(0.0))
    });
    let drawn = |flags: &str| {
        accepted(
            place.path(),
            &format!("sample run/checkpoint-5 --count 1 --steps 2 --out t.png --tensor t.st {flags}"),
        );
        fs::read(at("t.st")).unwrap()
    };
    assert_ne!(drawn(""), drawn("--raw"));
    fs::remove_dir_all(at("run/checkpoint-5/unet_ema")).unwrap();
    fs::rename(at("run/checkpoint-5/unet"), at("model")).unwrap();
    fs::rename(at("run/scheduler/scheduler_config.json"), at("model/scheduler_config.json")).unwrap();
    let config = fs::read_to_string(at("model/config.json")).unwrap();
    for (change, part) in [
        (
            config.replace("\"_null_class\": 10", "\"_null_class\": 2"),
            "_null_class is 2, and must be the last embedding, 10",
        ),
        (config.replace("\"_null_class\": 10", "\"_null_class\": 99"), "_null_class is 99"),
        (
            config.replace("\"freq_shift\": 0.0", "\"freq_shift\": \"0\""),
            "freq_shift: invalid type: string \"0\", expected a number",
        ),
        (config.replace("\"sample_size\": 8", "\"sample_size\": 8.5"), "sample_size: must be a whole number of pixels"),
    ] {
        assert_ne!(change, config);
        fs::write(at("model/config.json"), change).unwrap();
        sample_refused(place.path(), &[part]);
    }
    fs::write(at("model/config.json"), config.replacen('{', r#"{"_class_names": ["a", "b"], "#, 1)).unwrap();
    let said = accepted(place.path(), "sample model --count 1 --steps 2 --out t.png").err;
    assert!(said.contains("_class_names holds 2 names, and there are 10 classes: they are numbered"), "{said}");
    fs::write(at("model/config.json"), &config).unwrap();
    fs::write(
        at("model/scheduler_config.json"),
        r#"{"_class_name": "HeunDiscreteScheduler", "use_karras_sigmas": true}"#,
    )
    .unwrap();
    let said = accepted(place.path(), "sample model --count 1 --steps 4 --out t.png --json=t.json");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(at("t.json")).unwrap()).unwrap();
    assert!(report["spacing"] == "karras" && !said.err.contains("too long"), "{report} {}", said.err);
    fs::write(at("model/scheduler_config.json"), r#"{"beta_start": null, "beta_end": null}"#).unwrap();
    sample_refused(place.path(), &["scheduler_config.json: beta_", "null"]);
    change(&at(MODEL), |tensors| {
        let bias = tensors["mid_block.attentions.0.to_q.bias"].clone();
        tensors.insert("mid_block.attentions.0.query.bias".into(), bias);
    });
    sample_refused(place.path(), &["to_q.bias", "is there twice, under two names"]);
    let pipeline =
        r#"{"_class_name": "LDMPipeline", "unet": ["diffusers", "UNet2DModel"], "vqvae": ["diffusers", "VQModel"]}"#;
    fs::write(at("model/model_index.json"), pipeline).unwrap();
    sample_refused(place.path(), &["a pipeline of latents: its vqvae"]);
}

#[test]
fn shards_are_read_by_their_index() {
    let place = place_with_model();
    let at = |name: &str| place.path().join(name);
    accepted(place.path(), "sample model --count 1 --steps 2 --out plain.png --tensor plain.safetensors");
    let whole = tensors::read(&at(MODEL)).unwrap();
    fs::remove_file(at(MODEL)).unwrap();
    let shard = |index: usize| format!("diffusion_pytorch_model-{index:05}-of-00002.safetensors");
    let part = |index: usize| whole.clone().into_iter().enumerate().filter(move |(i, _)| i % 2 == index);
    for index in [0, 1] {
        tensors::write(&at("model").join(shard(index)), &part(index).map(|(_, tensor)| tensor).collect()).unwrap();
    }
    sample_refused(place.path(), &["diffusion_pytorch_model-00000-of-00002", "index is missing"]);
    // The index goes before a whole file, as in diffusers.
    let mut zeros = whole.clone();
    zeros.values_mut().for_each(|tensor| tensor.values.fill(0.0));
    tensors::write(&at(MODEL), &zeros).unwrap();
    let map: std::collections::BTreeMap<&String, String> =
        whole.keys().enumerate().map(|(i, name)| (name, shard(i % 2))).collect();
    let index = at(&format!("{MODEL}.index.json"));
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    accepted(place.path(), "sample model --count 1 --steps 2 --out s.png --tensor s.safetensors");
    assert_eq!(fs::read(at("s.safetensors")).unwrap(), fs::read(at("plain.safetensors")).unwrap());
    fs::remove_file(at("s.png")).unwrap();
    fs::write(&index, r#"{"weight_map": {"conv_in.bias": "../../elsewhere.safetensors"}}"#).unwrap();
    sample_refused(place.path(), &["elsewhere.safetensors", "no index of safetensors files"]);
}

#[test]
fn weights_that_are_not_read_are_named() {
    let place = place_with_model();
    let at = |name: &str| place.path().join(name);
    let whole = fs::read(at(MODEL)).unwrap();
    fs::write(at(MODEL), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n").unwrap();
    sample_refused(place.path(), &["a pointer of Git LFS", "git lfs pull"]);
    fs::remove_file(at(MODEL)).unwrap();
    sample_refused(place.path(), &["config.json without diffusion_pytorch_model.safetensors"]);
    fs::write(at("model/diffusion_pytorch_model.bin"), "PK").unwrap();
    sample_refused(place.path(), &["diffusion_pytorch_model.bin", "use_safetensors=False"]);
    for variant in ["fp16", "non_ema"] {
        fs::write(at(&format!("model/diffusion_pytorch_model.{variant}.safetensors")), &whole).unwrap();
    }
    sample_refused(place.path(), &["several variants", "fp16.safetensors, diffusion_pytorch_model.non_ema"]);
    fs::write(at("model/model_index.json"), r#"{"_class_name": "P", "unet": ["diffusers", "UNet2DConditionModel"]}"#)
        .unwrap();
    sample_refused(place.path(), &["model_index.json", "P without a UNet2DModel"]);
}

#[test]
fn bad_runs_are_not_resumed() {
    let place = place_with_run();
    forget_manifest(&place.path().join("run/checkpoint"));
    let trainer = place.path().join("run/checkpoint/trainer.safetensors");
    let whole = fs::read(&trainer).unwrap();
    let line = "train --resume --out run --steps 20";
    change(&trainer, |tensors| drop(tensors.remove("m.conv_in.bias")));
    refused(place.path(), line, &["trainer.safetensors", "conv_in.bias is missing"]);
    change(&trainer, |tensors| {
        tensors.insert("m.conv_in.bias".into(), FileTensor { shape: vec![8], values: vec![f32::NAN; 8] });
    });
    refused(place.path(), line, &["trainer.safetensors", "conv_in.bias is not finite"]);
    fs::write(&trainer, &whole[..whole.len() / 2]).unwrap();
    refused(place.path(), line, &["trainer.safetensors", "no whole safetensors file"]);
    fs::remove_file(&trainer).unwrap();
    refused(place.path(), line, &["trainer.safetensors"]);
    refused(place.path(), "sample run --raw --out s.png", &["trainer.safetensors", "no raw weights"]);
    fs::write(place.path().join("run/checkpoint/trainer.json"), "{}").unwrap();
    refused(place.path(), line, &["trainer.json", "missing field"]);
    assert_eq!(files(&place.path().join("run/checkpoint")).len(), 4);
}

/// As Python writes JSON, and as editors do.
#[test]
fn json_of_python_is_read_and_a_wrong_key_is_named() {
    let place = place_with_model();
    let scheduler = place.path().join("model/scheduler_config.json");
    let solver = r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "x\"NaN": null}"#;
    fs::write(&scheduler, solver).unwrap();
    accepted(place.path(), SAMPLE);
    fs::write(&scheduler, format!("\u{feff}{solver}")).unwrap();
    let config = place.path().join("model/config.json");
    let model = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("\u{feff}{model}")).unwrap();
    accepted(place.path(), SAMPLE);
    fs::remove_file(place.path().join("s.png")).unwrap();
    let cases = [
        (r#"{"beta_start": null}"#, "beta_start: invalid type: null"),
        (r#"{"beta_end": NaN}"#, "beta_end: invalid type: string \"NaN\""),
        (r#"{"num_train_timesteps": "many"}"#, "num_train_timesteps: invalid type"),
        (r#"{"_class_name": "EDMEulerScheduler", "sigma_min": 0.002}"#, "EDMEulerScheduler is not read here"),
    ];
    for (text, part) in cases {
        fs::write(&scheduler, text).unwrap();
        sample_refused(place.path(), &[part]);
    }
    fs::write(&scheduler, "{}").unwrap();
    fs::write(&config, model.replace(r#""norm_num_groups": 4"#, r#""norm_num_groups": null"#)).unwrap();
    sample_refused(place.path(), &["config.json", "norm_num_groups: invalid type: null"]);
}

#[test]
fn the_class_of_the_scheduler_chooses_the_sampler() {
    let place = place_with_model();
    let drawn = |class: &str, flags: &str| {
        let scheduler = place.path().join("model/scheduler_config.json");
        fs::write(scheduler, format!(r#"{{"_class_name": "{class}", "clip_sample": false}}"#)).unwrap();
        let said = accepted(place.path(), &format!("{SAMPLE} --tensor s.safetensors {flags}"));
        (tensors::read(&place.path().join("s.safetensors")).unwrap(), said.err)
    };
    for (class, name) in
        [("DDPMScheduler", "ddpm"), ("HeunDiscreteScheduler", "heun"), ("UniPCMultistepScheduler", "unipc")]
    {
        assert_eq!(drawn(class, "").0, drawn(class, &format!("--sampler {name}")).0, "{class}");
    }
    assert_ne!(drawn("HeunDiscreteScheduler", "").0, drawn("HeunDiscreteScheduler", "--sampler euler").0);
    let (pndm, said) = drawn("PNDMScheduler", "");
    assert!(said.contains("PNDMScheduler has no sampler here: ddpm draws"), "{said}");
    assert_eq!(pndm, drawn("PNDMScheduler", "--sampler ddpm").0);
}

#[test]
fn files_that_are_not_as_they_were_saved_are_named() {
    let place = place_with_run();
    // Nothing to fall back on.
    fs::remove_dir_all(place.path().join("run/checkpoints")).unwrap();
    let at = |name: &str| place.path().join("run/checkpoint").join(name);
    let weights = "diffusion_pytorch_model.safetensors";
    let changed = |name: &str, line: &str, parts: &[&str]| {
        let whole = fs::read(at(name)).unwrap();
        let mut other = whole.clone();
        // A number in the last tensor, or a letter of the last key.
        let last = other.len() - 5;
        other[last] ^= 1;
        fs::write(at(name), other).unwrap();
        refused(place.path(), line, parts);
        fs::write(at(name), whole).unwrap();
    };
    let (draw, resume) = ("sample run --count 1 --steps 2 --out t.png", "train --resume --out run --steps 13");
    let said = ["is not as it was saved (manifest.json has its hash)", "checkpoints/", "remove manifest.json"];
    for name in ["config.json", "scheduler_config.json", weights] {
        changed(name, draw, &[&[name], &said[..]].concat());
        changed(name, "train --data digits --init run --steps 1 --out other", &[name]);
    }
    for name in ["trainer.safetensors", "trainer.json", weights] {
        changed(name, resume, &[&[name], &said[..]].concat());
    }
    changed("trainer.safetensors", &format!("{draw} --raw"), &["trainer.safetensors", said[0]]);
    // Without its schedule it would be drawn on another one.
    let scheduler = fs::read(at("scheduler_config.json")).unwrap();
    fs::remove_file(at("scheduler_config.json")).unwrap();
    refused(place.path(), draw, &["scheduler_config.json: is missing"]);
    fs::write(at("scheduler_config.json"), &scheduler).unwrap();
    // What isn't read may change.
    fs::write(at("trainer.json"), "{}").unwrap();
    accepted(place.path(), draw);
    fs::write(at("manifest.json"), r#"{"format_version": 9, "blake3": {}}"#).unwrap();
    refused(place.path(), draw, &["manifest.json: format_version 9 is not read here, 1 is"]);
    forget_manifest(&place.path().join("run/checkpoint"));
    fs::write(at("scheduler_config.json"), [&scheduler[..], b" "].concat()).unwrap();
    accepted(place.path(), draw);
    assert!(!place.path().join("other").exists());
}

/// A bit of each file in turn; what was whole before is gone on with, to the bits of a run that stood there.
#[test]
fn a_rotten_checkpoint_gives_way_to_the_one_before() {
    let place = place_with_run();
    let run = place.path().join("run");
    let run_typed = |line: &str| super::run(typed(place.path(), line));
    let again = |run: &str| format!("train --resume --out {run} --steps 14 --sample-every 0");
    let undisturbed = place.path().join("undisturbed");
    copy(&run, &undisturbed);
    fs::remove_dir_all(undisturbed.join("checkpoint")).unwrap();
    fs::rename(undisturbed.join("checkpoints/step_000010"), undisturbed.join("checkpoint")).unwrap();
    accepted(place.path(), &again("undisturbed"));
    let drawn = ["config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"];
    for name in ["manifest.json", "trainer.json", "trainer.safetensors"].iter().chain(&drawn) {
        let rotten = place.path().join("rotten");
        copy(&run, &rotten);
        let file = rotten.join("checkpoint").join(name);
        let mut bytes = fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x80;
        fs::write(&file, bytes).unwrap();
        let said = run_typed("verify rotten");
        assert_refused("verify rotten", &said, &["1 file not as it was saved"]);
        assert!(said.out.contains(&format!("WRONG  rotten/checkpoint/{name}: ")), "{}", said.out);
        let said = accepted(place.path(), "sample rotten --count 1 --steps 1 --out s.png").err;
        let falls_back = said.contains("rotten/checkpoints/step_000010 is taken instead");
        assert_eq!(falls_back, drawn.contains(name) || *name == "manifest.json", "{name}: {said}");
        let said = accepted(place.path(), &again("rotten")).err;
        let line = said.lines().find(|line| line.contains(name)).expect("the file is named");
        assert!(line.ends_with("this goes on from rotten/checkpoints/step_000010 (step 10)"), "{line}");
        for made in [drawn[2], "trainer.safetensors"] {
            let made = |run: &str| fs::read(place.path().join(run).join("checkpoint").join(made)).unwrap();
            assert!(made("rotten") == made("undisturbed"), "{name}");
        }
        assert!(rotten.join("checkpoint.rotten").join(name).is_file());
        let said = accepted(place.path(), "verify rotten");
        assert!(said.out.contains("ok     rotten/checkpoint: 5 files as saved"), "{}", said.out);
        fs::remove_dir_all(rotten).unwrap();
    }
    refused(place.path(), "verify nowhere", &["nowhere: no run with a checkpoint"]);
    assert_eq!(run_typed("verify run --kernel silu").code, Some(2));
}

/// A bit of each tensor, and of places all over the other files.
#[test]
fn no_bit_changes_unnoticed() {
    let place = place_with_run();
    let run = place.path().join("run");
    let before = run.join("checkpoints/step_000010");
    let mut changed = 0;
    for name in ["diffusion_pytorch_model.safetensors", "trainer.safetensors", "trainer.json", "config.json"] {
        let file = run.join("checkpoint").join(name);
        let whole = fs::read(&file).unwrap();
        let places: Vec<usize> = match SafeTensors::read_metadata(&whole) {
            Ok((head, tensors)) => {
                let middle = |(from, to): (usize, usize)| 8 + head + (from + to) / 2;
                tensors.tensors().values().map(|tensor| middle(tensor.data_offsets)).collect()
            }
            Err(_) => (0..whole.len()).step_by(whole.len() / 30).collect(),
        };
        for at in places {
            let mut other = whole.clone();
            other[at] ^= 1 << (at % 8);
            fs::write(&file, other).unwrap();
            let (found, wrong) = manifest::first_whole(of_run(&run), |_| true).unwrap();
            assert!(found == before && wrong.len() == 1 && wrong[0].file == file, "{name} {at}: {wrong:?}");
            changed += 1;
        }
        fs::write(&file, whole).unwrap();
    }
    assert!(changed > 200, "{changed}");
    assert_eq!(manifest::first_whole(of_run(&run), |_| true).unwrap().0, run.join("checkpoint"));
}

/// See tests/checkpoints/README.md.
#[test]
fn checkpoints_of_every_format_are_read() {
    let place = place();
    let stored = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints");
    copy(&stored, &place.path().join("all"));
    let entries = fs::read_dir(stored).unwrap().map(|entry| entry.unwrap());
    let runs: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| format!("all/{}", entry.file_name().to_str().unwrap()))
        .collect();
    assert!(runs.contains(&format!("all/format_{}", checkpoint::manifest::FORMAT_VERSION)), "{runs:?}");
    for run in runs {
        accepted(place.path(), &format!("verify {run}"));
        accepted(place.path(), &format!("sample {run} --class 3 --count 1 --steps 2 --out s.png"));
        accepted(place.path(), &format!("train --resume --out {run} --steps 4 --sample-every 0"));
        assert_eq!(read_json(&place.path().join(&run).join("checkpoint/trainer.json"))["step"], 4);
    }
}

#[test]
fn a_run_says_that_it_goes_on_where_bits_are_others() {
    let place = place_with_run();
    let manifest = place.path().join("run/checkpoint/manifest.json");
    let line = "train --resume --out run --sample-every 0 --steps";
    let there = read_json(&manifest)["made_on"].clone();
    assert!(!accepted(place.path(), &format!("{line} 13")).err.contains("made so far"));
    for (key, said) in
        [("driver", "made so far on "), ("shaders", "made so far by another version of the kernels: not")]
    {
        let mut other = read_json(&manifest);
        assert_eq!(other["made_on"], there);
        other["made_on"][key] = "0123456789abcdef".into();
        fs::write(&manifest, other.to_string()).unwrap();
        let step = if key == "driver" { 14 } else { 15 };
        let err = accepted(place.path(), &format!("{line} {step}")).err;
        assert!(err.contains(said) && err.contains("not bit-equal from here"), "{key}: {err}");
    }
}

#[test]
fn a_size_can_be_typed() {
    let place = place_with_model();
    let sample = "sample model --count 1 --steps 2 --out t.png --tensor t.st";
    let drawn = |flags: &str| {
        accepted(place.path(), &format!("{sample} {flags}"));
        tensors::read(&place.path().join("t.st")).unwrap()["samples"].clone()
    };
    let want = drawn("");
    let config = place.path().join("model/config.json");
    let sizeless = fs::read_to_string(&config).unwrap().replace("\"sample_size\": 8", "\"sample_size\": null");
    fs::write(config, sizeless).unwrap();
    sample_refused(place.path(), &["config.json has no sample_size", "--size"]);
    assert!(drawn("--size 8") == want && drawn("--size 8x8") == want);
    assert_eq!(drawn("--size 6x10").shape, [1, 1, 6, 10]);
    refused(place.path(), &format!("{sample} --size 8x9"), &["8x9 images can't be halved", "multiples of 2"]);
    for size in ["0", "8x", "x8", "8x8x8", "-8", "1.5", "16385", "99999999999"] {
        let said = run(typed(place.path(), &format!("{sample} --size {size}")));
        assert_eq!(said.code, Some(2), "{size}: {}", said.err);
        assert!(said.err.contains("up to 16384, or HEIGHTxWIDTH"), "{}", said.err);
    }
    let train = "train --data digits --steps 1 --batch 2 --sample-every 0";
    refused(place.path(), &format!("{train} --preset base --size 60 --out r"), &["60x60", "multiples of 8"]);
    assert!(!place.path().join("r").exists());
    accepted(place.path(), &format!("{train} --model tiny.json --size 6x10 --out r"));
    accepted(place.path(), "train --resume --out r --model tiny.json --size 6x10 --steps 2");
    refused(place.path(), "train --resume --out r --model tiny.json --size 6 --steps 3", &["--model and --size can't"]);
    let of_run = fs::read_to_string(place.path().join("r/checkpoint/config.json")).unwrap();
    let of_run: serde_json::Value = serde_json::from_str(&of_run).unwrap();
    assert_eq!(of_run["sample_size"], serde_json::json!([6, 10]));
    accepted(place.path(), &format!("{train} --init model --size 4 --out i"));
    let sides = json(&accepted(place.path(), "data digits --preset digits --size 12x16 --json --out d.png"));
    assert_eq!((&sides["height"], &sides["width"]), (&12.into(), &16.into()));
}
