//! `diffuse data`: what training would read.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::decoding;
use super::flags::{MemoryFlag, ModelFlags};
use super::output::{Json, say};
use super::outputs::{Input, Source, check_apart, file};
use diffuse::chart::{Row, write_sheet};
use diffuse::data::{self, Dataset, Want};
use diffuse::error::counted;
use diffuse::nn::config::Size;
use diffuse::picture::{self, Images};
use diffuse::run::TrainOptions;

/// Say what a data set holds and draw some images of each class, as a model would see them
#[derive(clap::Args)]
pub struct Args {
    /// `digits` (embedded), a directory of IDX files, of CIFAR's binary files, or of images with a sub-folder a class; or .npz, .npy,
    /// .parquet or .tar[.gz] files, by their path or in a directory
    #[arg(value_name = "PATH")]
    source: String,
    #[command(flatten)]
    model: ModelFlags,
    #[command(flatten)]
    memory: MemoryFlag,
    /// Images of each class [default: 8; where there is one class, 64]
    #[arg(long)]
    count: Option<usize>,
    /// Picture of these, a row a class
    #[arg(long, default_value = "sheet.png", value_name = "F.png|F.jpg")]
    out: PathBuf,
    #[command(flatten)]
    json: Json,
}

/// The most images of a class.
const MOST: usize = 1000;

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if args.count.is_some_and(|count| !(1..=MOST).contains(&count)) {
        bail!("--count must be 1 to {MOST}");
    }
    args.json.check()?;
    picture::check_writable(&args.out)?;
    let outputs = [file("--out", Some(&*args.out)), file("--json", args.json.file())];
    let source = ("the command", Source::Data(std::path::Path::new(&args.source)));
    let reads: Vec<Input> = args.model.file().into_iter().chain([source]).collect();
    check_apart(&outputs.into_iter().flatten().collect::<Vec<_>>(), &reads)?;
    let (train, test) = data::load_parts(&args.source, &want(args)?)?;
    let test = test.unwrap_or_else(|error| {
        log::warn!("{error}");
        None
    });
    train.check_outside(&args.out)?;
    train.account.warnings().iter().for_each(|warning| log::warn!("{warning}"));
    let only = train.classes.len() == 1;
    let count = args.count.unwrap_or(if only { 64 } else { 8 });
    let rows = rows(&train, count);
    let columns = if only { picture::default_columns(count.min(train.len())) } else { count };
    let shown = write_sheet(&args.out, &rows, columns)?;
    if shown < rows.len() {
        say(format_args!("{}: the first {shown} of {} classes, as many as fit", args.out.display(), rows.len()));
    }
    let object = || {
        let mut object = train.description(None);
        object["test"] = test.as_ref().map(|test| test.description(None)).into();
        object["files"] = serde_json::json!([args.out]);
        Ok(object)
    };
    args.json.print(object, || Ok(lines(&train, test.as_ref()).join("\n")))?;
    say(format_args!("some of each class: {}", args.out.display()));
    Ok(())
}

/// The size and channels of the model that was named.
fn want(args: &Args) -> Result<Want> {
    let model = args.model.config(TrainOptions::default().model)?;
    let want = Want::of(model.sample_size.map(Size::sides), model.in_channels);
    Ok(args.memory.put(want).watched(decoding::watch()))
}

/// Up to `count` images of each class, spread over all of them.
fn rows(data: &Dataset, count: usize) -> Vec<Row> {
    let shape = [data.height, data.width, data.channels].map(|side| side as usize);
    let row = |(index, ((name, members), images)): (usize, ((&String, usize), Vec<usize>))| {
        // The letters of other scripts are boxes on the sheet.
        let name = if name.chars().all(|letter| letter < '\u{250}') { name.clone() } else { format!("{index} {name}") };
        let bytes = images.iter().flat_map(|image| data.image(*image)).copied();
        let images = Images::of_bytes(bytes, images.len(), shape);
        Row { name, note: counted(members as u64, "image"), images }
    };
    data.classes.iter().zip(data.counts()).zip(data.some_of_each(count)).enumerate().map(row).collect()
}

/// The summary, and where there are several classes the images of each.
fn lines(train: &Dataset, test: Option<&Dataset>) -> Vec<String> {
    let mut lines = vec![train.summary()];
    lines.extend(test.map(|test| test.summary()));
    if train.classes.len() > 1 {
        let tests = test.map(Dataset::counts);
        lines.push(format!("{:>6} {:>8}{}  class", "number", "images", if test.is_some() { "     test" } else { "" }));
        for (index, (class, count)) in train.classes.iter().zip(train.counts()).enumerate() {
            let test = tests.as_ref().map_or(String::new(), |tests| format!(" {:>8}", tests[index]));
            lines.push(format!("{index:6} {count:8}{test}  {class}"));
        }
    }
    lines
}
