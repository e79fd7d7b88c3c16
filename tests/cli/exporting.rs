//! Pages: what is in the file, that it draws what `sample` draws, and what is refused. Browsers run them in `.ci/page.sh`.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use diffuse::gpu::{Context, Memory, Plan, PlanOptions, Recordings, Step, stored};
use diffuse::{nn, ops, tensors};
use half::f16;
use serde_json::{Value, json};

/// What a page holds.
struct Page {
    text: String,
    model: Value,
    binary: Vec<u8>,
    weights: Vec<u8>,
}

fn read_page(path: &Path) -> Page {
    let text = fs::read_to_string(path).unwrap();
    let script = |id: &str| {
        let (_, rest) = text.split_once(&format!("<script id=\"{id}\"")).expect("a script of that name");
        let (_, rest) = rest.split_once('>').expect("the end of its tag");
        rest.split_once("</script>").expect("the end of the script").0.to_string()
    };
    let decoded = |id: &str| STANDARD.decode(script(id)).expect("base64");
    let model = serde_json::from_str(&script("model")).expect("JSON");
    let (binary, weights) = (decoded("binary"), decoded("weights"));
    Page { text, model, binary, weights }
}

/// What is asked of a page.
struct Asked {
    sampler: &'static str,
    guidance: f64,
    seed: u32,
    labels: Vec<u32>,
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

impl Page {
    fn sets(&self) -> Vec<(String, Recordings)> {
        let form = self.model["recordings"].to_string();
        stored::read(form.as_bytes(), &self.binary, ops::find).expect("recordings of this version")
    }

    /// The weights as a page widens them.
    fn widened(&self) -> Vec<f32> {
        let halves = self.weights.chunks_exact(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32());
        let whole = self.weights.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four")));
        if self.model["weights"]["precision"] == "f16" { halves.collect() } else { whole.collect() }
    }

    /// Frames that a device can run, those of GPUs and those for its kind, and that suit what is asked.
    fn frames(&self, context: &Context, asked: &Asked) -> Vec<&Value> {
        let kind = context.kind();
        let own = |frame: &&Value| frame["device"] == "gpu" || frame["subgroup"] == kind.subgroup && !kind.gpu;
        let guided = asked.guidance != 1.0;
        let all = self.model["frames"].as_array().expect("frames").iter();
        all.filter(own).filter(|frame| frame["guided"] == guided).collect()
    }

    /// Draws as docs/recordings.md tells a page to; the images of one channel, one behind the other.
    fn draw(&self, context: &Context, frame: &Value, asked: &Asked) -> Vec<f32> {
        let recordings = &self.sets()[frame["set"].as_u64().expect("a number") as usize].1;
        let mut memory = Memory::default();
        let [start, denoise] = ["start", "denoise"].map(|name| {
            let recording = recordings.get(name).expect("a part");
            Plan::new(context, recording, &mut memory, PlanOptions::default()).expect("it fits")
        });
        memory.write(context, "weights", 0, &self.widened());
        let samplers = self.model["samplers"].as_array().expect("samplers");
        let sampler = samplers.iter().find(|sampler| sampler["name"] == asked.sampler).expect("this sampler");
        let program = &sampler["programs"][0];
        let (batch, image) = (frame["batch"].as_u64().expect("a number") as usize, &self.model["image"]);
        let pixels = (number(&image["height"]) * number(&image["width"])) as usize;
        let mut drawn = Vec::new();
        for first in (0..asked.labels.len()).step_by(batch) {
            let own = (first..first + batch).map(|index| asked.labels[index.min(asked.labels.len() - 1)]);
            let mut labels: Vec<u32> = own.collect();
            if frame["guided"] == true {
                labels.extend(vec![self.model["null_class"].as_u64().expect("a null class") as u32; batch]);
            }
            labels.resize(labels.len().next_multiple_of(4), 0);
            memory.write(context, "sample labels", 0, &labels);
            let step = |counter: usize| {
                let mut step = Step::default();
                step.set("seed", asked.seed.into()).set("sample", first as f64).set("counter", counter as f64);
                step.set("guidance", asked.guidance);
                step
            };
            start.run(context, step(0).set("noise", number(&program["initial_scale"])));
            for index in 0..number(&program["evaluations"]) as usize {
                let mut values = step(index);
                let (same, each) = (program["same"].as_object(), program["each"].as_object());
                for (name, value) in same.expect("fields") {
                    values.set(name, number(value));
                }
                for (name, list) in each.expect("fields") {
                    values.set(name, number(&list[index]));
                }
                denoise.run(context, &values);
            }
            let x = memory.read(context, "x").expect("the device works");
            drawn.extend(x[..batch * pixels * 4].iter().step_by(4));
        }
        drawn.truncate(asked.labels.len() * pixels);
        drawn
    }
}

/// Writes the checkpoint `from` with weights rounded as a page rounds them, to `to`.
fn round(from: &Path, to: &Path) {
    let model = checkpoint::load(from).expect("a checkpoint");
    let weights: Vec<f32> = model.weights.iter().map(|weight| f16::from_f32(*weight).to_f32()).collect();
    let names = model.classes.map(|classes| classes.names).unwrap_or_default();
    checkpoint::save(to, &model.unet, &names, &weights, &model.scheduler).expect("room for files");
}

#[test]
fn a_page_draws_what_sample_draws_with_the_same_rounded_weights() {
    let place = place_with_run();
    accepted(place.path(), "export run --page digits.html");
    round(&place.path().join("run/checkpoint"), &place.path().join("rounded"));
    let page = read_page(&place.path().join("digits.html"));
    let context = Context::new(None).expect("GPU tests need an adapter");
    let mut frames_of_all = 0;
    for (sampler, guidance) in [("ddim", 1.0), ("dpm++", 2.5), ("euler", 1.0), ("ddpm", -0.5)] {
        let flags = format!("--sampler {sampler} --steps 5 --guidance {guidance} --seed 4000000000 --count 10");
        accepted(place.path(), &format!("sample rounded {flags} --tensor s.safetensors"));
        let wanted = tensors::read(&place.path().join("s.safetensors")).unwrap()["samples"].values.clone();
        let asked = Asked { sampler, guidance, seed: 4_000_000_000, labels: (0..10).collect() };
        for frame in page.frames(&context, &asked) {
            let drawn = page.draw(&context, frame, &asked);
            assert_eq!(drawn.len(), wanted.len());
            let off = |(own, wanted): (&f32, &f32)| (own.clamp(-1.0, 1.0) - wanted).abs() * 127.5;
            let worst = drawn.iter().zip(&wanted).map(off).fold(0.0, f32::max);
            println!("{sampler} {frame}: off by {worst:.1e} grey levels");
            assert!(worst < 1.0, "{sampler} {frame}: off by {worst} grey levels");
            frames_of_all += 1;
        }
        // Numbers that tell: not all clamped, not all alike.
        assert!(wanted.iter().filter(|value| value.abs() < 0.9).count() > wanted.len() / 4);
    }
    // One of many images, one of one, for each sampler.
    assert!([8, 16].contains(&frames_of_all), "{frames_of_all}");
}

/// The model of the demo, of which the file counts.
#[test]
fn the_page_of_digits_is_small_and_whole() {
    let place = place();
    let unet = UNet::new(nn::digits()).expect("the demo's model");
    let names: Vec<String> = (0..10).map(|digit| format!("</script>{digit}")).collect();
    let weights = unet.params.initialise(1);
    checkpoint::save(&place.path().join("model"), &unet, &names, &weights, &SchedulerConfig::default()).unwrap();
    let said = accepted(place.path(), "export model --page made/{{binary}}<b>.html --json");
    let path = place.path().join("made/{{binary}}<b>.html");
    assert_eq!(files(&place.path().join("made")), ["{{binary}}<b>.html"]);
    let Page { text, model, binary, weights: own } = read_page(&path);
    assert_eq!(json(&said), json!({ "page": "made/{{binary}}<b>.html", "bytes": text.len(), "precision": "f16" }));
    assert!(text.len() < 1_500_000, "{} bytes", text.len());
    // What it is called, and nowhere else a place that nothing filled.
    let braces = text.match_indices("{{").count();
    assert_eq!(
        braces,
        text.matches("{{binary}}&lt;b&gt;").count() + text.matches("\"title\":\"{{binary}}<b>\"").count()
    );
    assert!(text.contains("<title>{{binary}}&lt;b&gt;</title>"));
    // Nothing comes from elsewhere.
    assert!(!text.contains("http://") && !text.contains("https://"));
    assert_eq!((&model["format"], &model["version"]), (&json!("diffuse page"), &json!(1)));
    assert_eq!((&model["classes"], &model["null_class"]), (&json!(names), &json!(10)));
    assert_eq!(model["image"], json!({ "height": 16, "width": 16, "channels": 1 }));
    assert_eq!(own.len(), 2 * model["weights"]["elements"].as_u64().unwrap() as usize);
    let samplers = model["samplers"].as_array().unwrap().iter().map(|sampler| &sampler["name"]);
    assert_eq!(json!(samplers.collect::<Vec<_>>()), json!(["ddim", "dpm++", "euler", "ddpm"]));
    assert!(!binary.is_empty());
    // What every browser has: 128 MiB in a binding, and frames that need nothing optional.
    let plain = |frame: &&Value| frame["device"] == "gpu" && frame["subgroup"] == 0;
    let frames = model["frames"].as_array().unwrap();
    assert_eq!(frames.iter().filter(plain).count(), 4);
    assert!(model["limits"]["maxStorageBufferBindingSize"].as_u64().unwrap() <= 128 << 20);
    for frame in frames.iter().filter(plain) {
        let set = &model["recordings"]["sets"][frame["set"].as_u64().unwrap() as usize];
        for dispatch in set["recordings"][1]["dispatches"].as_array().unwrap() {
            let pipeline = &model["recordings"]["pipelines"][dispatch["pipeline"].as_u64().unwrap() as usize];
            let kernel = &model["recordings"]["kernels"][pipeline["kernel"].as_u64().unwrap() as usize];
            assert_eq!(kernel["needs"], json!([]), "{kernel}");
        }
    }
}

#[test]
fn a_page_keeps_weights_whole_if_it_is_told_to() {
    let place = place();
    untrained(place.path(), "plain.json", "model");
    let whole = checkpoint::load(&place.path().join("model")).expect("a checkpoint").weights;
    let said = accepted(place.path(), "export model --page p.html");
    assert!(said.err.contains("weights rounded to f16; --f32 keeps them"), "{}", said.err);
    let rounded = read_page(&place.path().join("p.html"));
    assert_eq!((&rounded.model["classes"], &rounded.model["null_class"]), (&Value::Null, &Value::Null));
    assert!(rounded.model["frames"].as_array().unwrap().iter().all(|frame| frame["guided"] == false));
    assert_eq!(rounded.widened(), whole.iter().map(|w| f16::from_f32(*w).to_f32()).collect::<Vec<_>>());
    refused(place.path(), "export model --page p.html --f32", &["p.html", "there is a file already; --replace"]);
    accepted(place.path(), "export model --page p.html --f32 --replace --size 16");
    let page = read_page(&place.path().join("p.html"));
    assert_eq!(page.widened(), whole);
    assert_eq!(page.model["image"]["width"], 16);
}

#[test]
fn what_no_page_can_do_is_refused_and_nothing_is_written() {
    let place = place();
    untrained(place.path(), "plain.json", "model");
    let before = files(place.path());
    let with = |from: &str, to: &str, name: &str| {
        let path = place.path().join("model").join(name);
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, old.replace(from, to)).unwrap();
        move || fs::write(path, old).unwrap()
    };
    let restore = with("{", "{\"thresholding\": true, ", checkpoint::SCHEDULER);
    refused(
        place.path(),
        "export model --page p.html",
        &["can't threshold estimates of x0", "set thresholding to false"],
    );
    restore();
    let restore = with("\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 3", checkpoint::SCHEDULER);
    refused(place.path(), "export model --page p.html", &["a page draws in 5 steps at the least"]);
    restore();
    let restore = with("\"sample_size\": 8", "\"sample_size\": null", checkpoint::CONFIG);
    refused(place.path(), "export model --page p.html", &["no sample_size", "--size says it"]);
    restore();
    refused(place.path(), "export model --page p.html --size 4096", &["browsers bind 128 MiB at most", "--size"]);
    refused(place.path(), "export model --page p.png", &["p.png", "is a .html file: name it so"]);
    refused(place.path(), "export nowhere --page p.html", &["nowhere"]);
    refused(place.path(), "export model --page model/config.json", &["is a .html file"]);
    let file = place.path().join("model").join(checkpoint::MODEL);
    let mut weights = tensors::read(&file).unwrap();
    weights.get_mut("conv_in.bias").expect("a tensor").values[0] = 1e5;
    tensors::write(&file, &weights).unwrap();
    refused(place.path(), "export model --page p.html", &["a weight is 100000, which f16 does not hold: --f32"]);
    assert_eq!(files(place.path()), before);
    for (line, part) in [
        ("export model", "--pipeline <DIR>|--page <FILE.html>"),
        ("export model --pipeline x --page y.html", "cannot be used with"),
        ("export model --pipeline x --f32", "cannot be used with"),
    ] {
        let said = run(typed(place.path(), line));
        assert_eq!(said.code, Some(2), "{line}: {}", said.err);
        assert!(said.err.contains(part), "{line}: {}", said.err);
    }
}
