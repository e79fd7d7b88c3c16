//! What TensorBoard shows of a run: an event file for each process that trained it, beside `metrics.csv`.

mod histogram;
mod messages;
mod records;

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message as _;

use self::histogram::histogram;
use self::messages::{Event, Image, SessionLog, Summary, Value};
use super::appended::Appended;
use crate::error::Result;
use crate::files::write_atomic;
use crate::nn::Params;
use crate::run::Metrics;

/// How the names of event files begin, by which TensorBoard knows them. It reads them in the order of their names.
pub(super) const EVENTS: &str = "events.out.tfevents.";
const VERSION: &str = "brain.Event:2";

/// What is told of parts of a U-Net, by how the names of their parameters begin.
const GROUPS: [(&str, &str); 8] = [
    ("conv_in", "conv_in"),
    ("down_blocks", "down_blocks"),
    ("mid_block", "mid_block"),
    ("up_blocks", "up_blocks"),
    ("time_embedding", "embeddings"),
    ("class_embedding", "embeddings"),
    ("conv_norm_out", "conv_out"),
    ("conv_out", "conv_out"),
];

/// The event file of this process.
pub(super) struct Events {
    file: Appended,
}

fn seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A name behind those of the event files in `directory`, whatever the clock says.
fn name_behind(directory: &Path) -> String {
    let number = |name: &str| name.strip_prefix(EVENTS)?.split('.').next()?.parse::<u64>().ok();
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let newest = entries.filter_map(|entry| number(entry.file_name().to_str()?)).max();
    let number = (seconds() as u64).max(newest.map_or(0, |newest| newest.saturating_add(1)));
    format!("{EVENTS}{number:010}.diffuse")
}

fn scalar(tag: impl Into<String>, value: f32) -> Value {
    Value { tag: tag.into(), simple_value: Some(value), ..Value::default() }
}

impl Events {
    /// Begins a file in `directory` for the steps from `first` on: TensorBoard passes over what files before it say of those.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] if it can't be written.
    pub fn begin(directory: &Path, first: u64) -> Result<Events> {
        let path = directory.join(name_behind(directory));
        let version = Event { file_version: Some(VERSION.into()), ..Event::default() };
        let start = Event { session_log: Some(SessionLog { status: messages::START }), ..Event::default() };
        let mut bytes = Vec::new();
        for (step, event) in [(0, version), (first, start)] {
            records::write(&mut bytes, &at(step, event).encode_to_vec());
        }
        write_atomic(&path, &bytes)?;
        Ok(Events { file: Appended::open(path)? })
    }

    /// Goes on in a new file in `directory`, where those before are gone.
    ///
    /// # Errors
    /// As [`Events::begin`].
    pub fn begin_anew(&mut self, directory: &Path, first: u64) -> Result<()> {
        self.file.go_on_in(Events::begin(directory, first)?.file);
        Ok(())
    }

    /// Adds what a step came to.
    ///
    /// # Errors
    /// As [`Events::flush`].
    pub fn add(&mut self, metrics: &Metrics, images_per_second: f64) -> Result<()> {
        let Metrics { step, loss, gradient_norm, learning_rate, by_level } = metrics;
        let mut values = vec![
            scalar("loss", *loss),
            scalar("gradient_norm", *gradient_norm),
            scalar("learning_rate", *learning_rate as f32),
            scalar("images_per_second", images_per_second as f32),
        ];
        let levels = by_level.iter().enumerate().filter_map(|(level, loss)| Some((level, (*loss)?)));
        values.extend(levels.map(|(level, loss)| scalar(format!("loss_by_level/{level}"), loss)));
        self.add_values(*step, values)
    }

    /// Adds a grid of samples, a PNG file of `width` x `height` pixels.
    ///
    /// # Errors
    /// As [`Events::flush`].
    pub fn add_grid(&mut self, step: u64, (width, height): (u32, u32), png: Vec<u8>) -> Result<()> {
        let image = Image {
            height: height as i32,
            width: width as i32,
            // As RGB, whatever the file holds.
            colorspace: 3,
            encoded_image_string: png,
        };
        self.add_values(step, vec![Value { tag: "samples".into(), image: Some(image), ..Value::default() }])
    }

    /// Adds histograms of the weights and of the gradient of a step, flat buffers as `params` has them, and the gradient's norms by part
    /// of the network. The device's gradient may be scaled: all of it has the norm `norm`.
    ///
    /// # Errors
    /// As [`Events::flush`].
    pub fn add_tensors(
        &mut self,
        step: u64,
        params: &Params,
        [weights, gradient]: [&[f32]; 2],
        norm: f64,
    ) -> Result<()> {
        let parts: Vec<Vec<f32>> = params.all.iter().map(|parameter| parameter.unpack(gradient)).collect();
        let squares: Vec<f64> = parts.iter().map(|part| part.iter().map(|x| f64::from(*x).powi(2)).sum()).collect();
        let total = squares.iter().sum::<f64>().sqrt();
        let scale = if total > 0.0 { norm / total } else { 1.0 };
        let mut values = Vec::new();
        let mut groups: Vec<(&str, f64)> = Vec::new();
        for ((parameter, part), squares) in params.all.iter().zip(&parts).zip(squares) {
            let name = &parameter.name;
            let scaled = part.iter().map(|x| scale * f64::from(*x));
            let own = parameter.unpack(weights).into_iter().map(f64::from);
            for (what, histo) in [("weights", histogram(own)), ("gradients", histogram(scaled))] {
                values.push(Value { tag: format!("{what}/{name}"), histo, ..Value::default() });
            }
            let group = GROUPS.iter().find(|(begin, _)| name.starts_with(begin)).map_or("others", |(_, group)| group);
            match groups.iter_mut().find(|(known, _)| *known == group) {
                Some((_, sum)) => *sum += squares,
                None => groups.push((group, squares)),
            }
        }
        let norms = groups.iter().map(|(group, squares)| (group, (scale * squares.sqrt()) as f32));
        values.extend(norms.map(|(group, norm)| scalar(format!("gradient_norm_by_part/{group}"), norm)));
        self.add_values(step, values)
    }

    fn add_values(&mut self, step: u64, value: Vec<Value>) -> Result<()> {
        let event = at(step, Event { summary: Some(Summary { value }), ..Event::default() });
        self.file.add(|waiting| records::write(waiting, &event.encode_to_vec()))
    }

    /// Brings all of it to the file.
    ///
    /// # Errors
    /// [`crate::error::Error::File`] if the disk is full; what is not in the file waits for the next time.
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush()
    }
}

fn at(step: u64, event: Event) -> Event {
    Event { wall_time: seconds(), step: step as i64, ..event }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::{UNet, digits};
    use crate::run::LEVELS;

    /// CRC-32C bit by bit, masked as TensorFlow does.
    fn masked(bytes: &[u8]) -> u32 {
        let shift = |crc: u32, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        let crc = !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift));
        crc.rotate_right(15).wrapping_add(0xa282_ead8)
    }

    /// The bytes of all records of the event files in `directory`, file by file.
    fn records(directory: &Path) -> Vec<Vec<Vec<u8>>> {
        let mut names: Vec<_> =
            fs::read_dir(directory).expect("it is there").map(|entry| entry.unwrap().path()).collect();
        names.sort();
        let of_file = |path: &std::path::PathBuf| {
            let bytes = fs::read(path).expect("a file");
            let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
            let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
            while !rest.is_empty() {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("eight bytes")) as usize;
                assert_eq!(number(&rest[8..12]), masked(&rest[..8]), "of the length");
                let (record, behind) = rest[12..].split_at(length);
                assert_eq!(number(&behind[..4]), masked(record), "of the record");
                found.push(record.to_vec());
                rest = &behind[4..];
            }
            found
        };
        names.iter().map(of_file).collect()
    }

    fn decoded(records: &[Vec<u8>]) -> Vec<Event> {
        records.iter().map(|record| Event::decode(record.as_slice()).expect("an event")).collect()
    }

    fn metrics(step: u64) -> Metrics {
        let mut by_level = [None; LEVELS];
        by_level[6] = Some(0.0);
        Metrics { step, loss: 0.5, gradient_norm: 2.0, learning_rate: 1e-3, by_level }
    }

    #[test]
    fn records_are_framed_and_say_what_a_step_came_to() {
        let place = tempfile::tempdir().expect("a place");
        let mut events = Events::begin(place.path(), 1).expect("room");
        events.add(&metrics(1), 10.0).expect("it waits");
        events.add_grid(1, (7, 5), vec![1, 2, 3]).expect("it waits");
        drop(events);
        let records = records(place.path());
        // As TensorFlow begins a file: fields 1, a double, and 3, text.
        assert_eq!((records[0][0][0], &records[0][0][9..]), (0x09, &b"\x1a\x0dbrain.Event:2"[..]));
        let events = decoded(&records[0]);
        assert_eq!(
            (events.len(), events[1].session_log.clone().map(|log| log.status), events[1].step),
            (4, Some(1), 1)
        );
        let values = &events[2].summary.as_ref().expect("scalars").value;
        let said: Vec<(&str, Option<f32>)> = values.iter().map(|value| (&*value.tag, value.simple_value)).collect();
        let expected = [
            ("loss", Some(0.5)),
            ("gradient_norm", Some(2.0)),
            ("learning_rate", Some(1e-3)),
            ("images_per_second", Some(10.0)),
            ("loss_by_level/6", Some(0.0)),
        ];
        assert_eq!(said, expected);
        let image = events[3].summary.as_ref().and_then(|summary| summary.value[0].image.clone()).expect("a grid");
        assert_eq!((image.width, image.height, image.encoded_image_string), (7, 5, vec![1, 2, 3]));
    }

    #[test]
    fn a_run_that_goes_on_drops_nothing_and_comes_behind() {
        let place = tempfile::tempdir().expect("a place");
        for first in [1, 6, 4] {
            let mut events = Events::begin(place.path(), first).expect("room");
            (first..first + 5).for_each(|step| events.add(&metrics(step), 10.0).expect("it waits"));
        }
        let files = records(place.path());
        let starts: Vec<i64> = files.iter().map(|file| decoded(file)[1].step).collect();
        assert_eq!(starts, [1, 6, 4], "in the order of their names, within a second");
        assert!(files.iter().all(|file| file.len() == 7));
    }

    #[test]
    fn histograms_count_all_numbers_and_norms_of_parts_make_the_whole() {
        let place = tempfile::tempdir().expect("a place");
        let unet = UNet::new(digits()).expect("a model");
        let weights = unet.params.initialise(1);
        let mut events = Events::begin(place.path(), 1).expect("room");
        events.add_tensors(7, &unet.params, [&weights, &weights], 3.0).expect("it waits");
        drop(events);
        let events = decoded(&records(place.path())[0]);
        let values = &events[2].summary.as_ref().expect("values").value;
        let counted = |what: &str| -> f64 {
            let own = values.iter().filter(|value| value.tag.starts_with(what));
            own.map(|value| value.histo.as_ref().expect("a histogram").bucket.iter().sum::<f64>()).sum()
        };
        assert_eq!(counted("weights/"), unet.params.count() as f64);
        assert_eq!(counted("gradients/"), unet.params.count() as f64);
        let norms: Vec<(&str, f32)> = values
            .iter()
            .filter_map(|value| Some((value.tag.strip_prefix("gradient_norm_by_part/")?, value.simple_value?)))
            .collect();
        let names: Vec<&str> = norms.iter().map(|(name, _)| *name).collect();
        assert!(
            ["conv_in", "down_blocks", "mid_block", "up_blocks", "embeddings", "conv_out"]
                .iter()
                .all(|name| names.contains(name))
        );
        assert!(!names.contains(&"others"), "{names:?}");
        let whole = norms.iter().map(|(_, norm)| norm * norm).sum::<f32>().sqrt();
        assert!((whole - 3.0).abs() < 1e-4, "{whole}");
    }
}
