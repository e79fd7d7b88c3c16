//! What a run shows of itself: `report.html`, and the event files of TensorBoard.

use super::*;

const LINE: &str = "--model tiny.json --batch 4 --checkpoint-every 4 --sample-every 4";

/// A place with images of classes whose names are markup, and commands.
fn place_with_markup() -> TempDir {
    let place = place();
    fs::write(place.path().join("tiny.json"), TINY.replace("els\": 1", "els\": 3").replace(": 11", ": 3")).unwrap();
    for (index, class) in ["<img src=x onerror=alert(1)>", "\"><b>'; touch y; '"].iter().enumerate() {
        let folder = place.path().join("a & b").join(class);
        fs::create_dir_all(&folder).unwrap();
        for image in 0..3 {
            let level = (100 * index + 40 * image) as u8;
            image::RgbImage::from_pixel(8, 8, image::Rgb([level, 20, 90]))
                .save(folder.join(format!("{image}.png")))
                .unwrap();
        }
    }
    place
}

fn train(place: &TempDir, flags: &[&str]) -> Said {
    let mut command = typed(place.path(), &format!("train {LINE}"));
    command.args(flags);
    let said = run(command);
    assert_eq!(said.code, Some(0), "{}", said.err);
    said
}

fn report(place: &TempDir, run: &str) -> String {
    fs::read_to_string(place.path().join(run).join("report.html")).unwrap()
}

/// Where the first drawn point of a line of this class is, and where the last one.
fn ends(report: &str, class: &str) -> (f64, f64) {
    let path = report.split(&format!("class=\"line {class}\" d=\"M")).nth(1).expect("a line");
    let path = path.split('"').next().unwrap();
    let x = |place: &str| place.split(' ').next().unwrap().parse().unwrap();
    (x(path.split('L').next().unwrap()), x(path.split('L').next_back().unwrap()))
}

#[test]
fn the_report_of_a_run_is_whole_in_itself_and_holds_no_markup_of_users() {
    let place = place_with_markup();
    train(&place, &["--data", "a & b", "--out", "<i>run", "--steps", "8"]);
    let page = report(&place, "<i>run");
    // Nothing is asked of anybody, nothing runs.
    for never in
        ["http:", "https:", "//www", "<script", "<link rel=\"stylesheet", "url(", "<img src=x", "<b>", "<i>run"]
    {
        assert!(!page.contains(never), "{never}");
    }
    assert!(page.contains("default-src 'none'"));
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;</bdi> <small>3 images"), "{page}");
    // One strip of images a class, one grid every four steps, the newest first.
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), 2 + 2);
    assert_eq!(page.matches("<img ").count(), 4);
    let [last, first] = ["step 8</figcaption>", "step 4</figcaption>"].map(|step| page.find(step).expect(step));
    assert!(last < first);
    for said in ["Loss by noise level", "Gradient norm", "Learning rate", "Images a second", "--resume --out", "8 of 8"]
    {
        assert!(page.contains(said), "{said}");
    }
    // What differs from what is usual comes first.
    let [differs, same] = ["<th>batch</th>", "<th>learning_<wbr>rate</th>"].map(|key| page.find(key).expect(key));
    assert!(differs < same && page[differs..].starts_with("<th>batch</th><td>4</td><td>64</td>"));
    let whole: Vec<&str> = page.matches("</html>").collect();
    assert!(whole.len() == 1 && page.len() < 200_000, "{}", page.len());
}

#[test]
fn a_report_has_the_curves_of_before_and_nothing_ends_without_it() {
    let place = place();
    train(&place, &["--data", "digits", "--out", "run", "--steps", "6"]);
    train(&place, &["--data", "digits", "--out", "run", "--steps", "12", "--resume"]);
    let (first, last) = ends(&report(&place, "run"), "raw");
    // From step 1 of 12 on, to the last one.
    assert!(first < 100.0 && last == 452.0, "{first} {last}");
    let place = self::place();
    // Where nobody can write it, that is said once.
    let blocked = place.path().join("run/report.html");
    let mut child = typed(place.path(), &format!("train --data digits {LINE} --out run --steps 30"));
    child.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let child = child.spawn().unwrap();
    let begun = std::time::Instant::now();
    while !place.path().join("run/metrics.csv").exists() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(1));
    }
    fs::create_dir(&blocked).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let warnings: Vec<&str> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warnings.len() == 1 && warnings[0].contains("report.html: this is a directory"), "{said}");
    assert!(place.path().join("run/loss.png").exists());
}

fn event_files(place: &Path) -> Vec<String> {
    let mut names = files(place);
    names.retain(|name| name.contains("tfevents"));
    names
}

#[test]
fn tensorboard_gets_a_file_of_each_process_and_none_unasked() {
    let place = place();
    let run = place.path().join("run");
    train(&place, &["--data", "digits", "--out", "run", "--steps", "4"]);
    assert!(event_files(&run).is_empty());
    refused(
        place.path(),
        "train --resume --out run --steps 8 --histograms-every 2",
        &["--histograms-every goes with --tensorboard"],
    );
    let said = train(&place, &["--resume", "--out", "run", "--steps", "8", "--tensorboard", "--histograms-every", "2"]);
    assert!(said.err.contains("tensorboard: true from here on, false before"), "{}", said.err);
    train(&place, &["--resume", "--out", "run", "--steps", "12"]);
    let names = event_files(&run);
    assert_eq!(names.len(), 2, "{names:?}");
    let holds = |name: &String, tag: &str| {
        let bytes = fs::read(run.join(name)).unwrap();
        bytes.windows(tag.len()).any(|window| window == tag.as_bytes())
    };
    for tag in
        ["learning_rate", "loss_by_level/", "samples", "weights/conv_in.weight", "gradient_norm_by_part/mid_block"]
    {
        assert!(names.iter().all(|name| holds(name, tag)), "{tag}");
    }
    // What is shown changes nothing of what is learnt.
    train(&place, &["--data", "digits", "--out", "plain", "--steps", "12"]);
    let weights = |name: &str| fs::read(place.path().join(name).join("checkpoint/trainer.safetensors")).unwrap();
    assert!(weights("run") == weights("plain"));
}
