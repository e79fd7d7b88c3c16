//! Grids, PNG and GIF files, and the loss chart, pixel by pixel where that can be said.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use diffuse::chart::write_loss_chart;
use diffuse::picture::{Images, default_columns, default_scale, grid, read, tiles, write_gif, write_png};
use image::codecs::gif::GifDecoder;
use image::{AnimationDecoder, Rgb, RgbImage};

const WHITE: Rgb<u8> = Rgb([255; 3]);
const MAGENTA: Rgb<u8> = Rgb([255, 0, 255]);

fn grey(value: u8) -> Rgb<u8> {
    Rgb([value; 3])
}

fn images(shape: [usize; 4], values: &[f32]) -> Images {
    let [count, height, width, channels] = shape;
    Images { values: values.to_vec(), count, height, width, channels }
}

/// The pixels of a picture, row by row.
fn rows(picture: &RgbImage) -> Vec<Vec<Rgb<u8>>> {
    picture.rows().map(|row| row.copied().collect()).collect()
}

#[test]
fn grid_places_enlarges_and_separates() {
    // Three images of 1 x 2 pixels, two columns, each pixel twice as large.
    let three = images([3, 1, 2, 1], &[-1.0, 1.0, 0.0, -0.5, 0.5, 1.0]);
    let (black, white, blank) = (grey(0), grey(255), WHITE);
    let (middle, dark, light) = (grey(128), grey(64), grey(191));
    let first = vec![black, black, white, white, blank, blank, middle, middle, dark, dark];
    let second = vec![light, light, white, white, blank, blank, blank, blank, blank, blank];
    let gap = vec![blank; 10];
    let expected = vec![first.clone(), first, gap.clone(), gap, second.clone(), second];
    assert_eq!(rows(&grid(&three, 2, 2)), expected);
}

#[test]
fn the_images_of_a_grid_come_back() {
    let values: Vec<f32> = (0..3 * 4 * 6).map(|i| i as f32 / 36.0 - 1.0).collect();
    let three = images([3, 4, 6, 1], &values);
    let whole = grid(&three, 2, default_scale(4));
    let found = tiles(&whole, 4, 6).expect("a grid");
    assert_eq!(found.len(), 4, "two rows of two places");
    for (index, tile) in found[..3].iter().enumerate() {
        let own = Images { values: values[24 * index..24 * (index + 1)].to_vec(), count: 1, ..three };
        assert_eq!(*tile, grid(&own, 1, 1), "image {index}");
    }
    assert!(found[3].pixels().all(|pixel| *pixel == WHITE));
    for (height, width) in [(4, 5), (5, 6), (0, 6), (4, 0), (usize::MAX, usize::MAX)] {
        assert_eq!(tiles(&whole, height, width), None, "{height} x {width}");
    }
    let place = tempfile::tempdir().expect("a place");
    let file = place.path().join("grid.png");
    write_png(&file, &whole).expect("room");
    assert_eq!(read(&file).expect("a picture"), whole);
    fs::write(&file, "no picture").unwrap();
    assert!(read(&file).is_err() && read(&place.path().join("none.png")).is_err());
}

#[test]
fn grid_maps_rounds_and_clamps_values() {
    let step = 2.0 / 255.0;
    let values = [-1.0, 1.0, -7.0, 7.0, -1.0 + 0.4 * step, -1.0 + 0.6 * step, 1.0 - 0.4 * step];
    let picture = grid(&images([1, 1, 7, 1], &values), 1, 1);
    assert_eq!(rows(&picture), [[0, 255, 0, 255, 0, 1, 255].map(grey).to_vec()]);
    // Bytes that went to [-1, 1] come back.
    let values: Vec<f32> = (0..=255).map(|byte| byte as f32 / 127.5 - 1.0).collect();
    let picture = grid(&images([1, 1, 256, 1], &values), 1, 1);
    assert!(picture.pixels().zip(0..=255).all(|(pixel, byte)| *pixel == grey(byte)));
}

#[test]
fn grid_shows_colors_and_odd_channel_counts() {
    let values = [-1.0, 0.0, 1.0, 1.0, -1.0, 0.5];
    let color = grid(&images([1, 1, 2, 3], &values), 1, 1);
    assert_eq!(rows(&color), [[Rgb([0, 128, 255]), Rgb([255, 0, 191])]]);
    let six = grid(&images([1, 1, 1, 6], &values), 1, 1);
    assert_eq!(rows(&six), [[Rgb([0, 128, 255])]]);
    let two = grid(&images([1, 1, 3, 2], &values), 1, 1);
    assert_eq!(rows(&two), [[0, 255, 0].map(grey)]);
}

#[test]
fn grid_marks_what_is_not_finite_or_missing() {
    let values = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
    let picture = grid(&images([1, 1, 5, 1], &values), 1, 1);
    assert_eq!(rows(&picture), [[MAGENTA, MAGENTA, MAGENTA, grey(0), MAGENTA]]);
    let one_channel = grid(&images([1, 1, 1, 3], &[0.0, f32::NAN, 0.0]), 1, 1);
    assert_eq!(rows(&one_channel), [[MAGENTA]]);
}

#[test]
fn grid_takes_any_sizes() {
    assert_eq!(rows(&grid(&images([0, 28, 28, 1], &[]), 8, 2)), [[WHITE]]);
    // No columns and no enlargement are one of each; columns beyond the images are left out.
    assert_eq!(grid(&images([2, 1, 1, 1], &[0.0; 2]), 0, 0).dimensions(), (1, 4));
    assert_eq!(grid(&images([2, 1, 1, 1], &[0.0; 2]), 9, 1).dimensions(), (4, 1));
    let most = usize::MAX;
    assert_eq!(grid(&images([1, 0, most, 0], &[]), most, most).dimensions(), (16_384, 1));
    assert_eq!(grid(&images([most, most, 0, most], &[0.0]), 1, 1).dimensions(), (1, 16_384));
    assert_eq!(grid(&images([most, 1, 1, 1], &[0.0]), most / 2, 1).dimensions(), (16_384, 7));
}

#[test]
fn defaults_suit_the_sizes() {
    let scales = [0, 1, 8, 16, 24, 28, 32, 48, 64, 256, usize::MAX].map(default_scale);
    assert_eq!(scales, [64, 64, 8, 4, 3, 2, 2, 1, 1, 1, 1]);
    let columns = [0, 1, 2, 4, 5, 9, 10, 64, 65, 80].map(default_columns);
    assert_eq!(columns, [1, 1, 2, 2, 3, 3, 4, 8, 9, 9]);
}

#[test]
fn png_keeps_every_pixel() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new/deep/picture.png");
    let greys = RgbImage::from_fn(16, 16, |x, y| grey((16 * y + x) as u8));
    let colors = RgbImage::from_fn(16, 16, |x, y| Rgb([x as u8, y as u8, (x * y) as u8]));
    for picture in [greys, colors] {
        write_png(&path, &picture).unwrap();
        assert_eq!(image::open(&path).unwrap().into_rgb8(), picture);
    }
    assert!(write_png(&path, &RgbImage::new(0, 3)).is_err());
}

/// Each frame's pixels and its delay in milliseconds.
fn decode_gif(path: &Path) -> Vec<(RgbImage, u32)> {
    let decoder = GifDecoder::new(Cursor::new(fs::read(path).unwrap())).unwrap();
    let frames = decoder.into_frames().collect_frames().unwrap();
    let decoded = frames.into_iter().map(|frame| {
        let (milliseconds, parts) = frame.delay().numer_denom_ms();
        let picture = image::DynamicImage::ImageRgba8(frame.into_buffer()).into_rgb8();
        (picture, milliseconds / parts)
    });
    decoded.collect()
}

#[test]
fn gif_keeps_frames_delays_and_greys() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.gif");
    let frame = |shift: u32| RgbImage::from_fn(32, 24, |x, y| grey((x * 24 + y + shift) as u8));
    let frames = [frame(0), frame(100), frame(200), frame(7)];
    for (asked, shown) in [(84, 80), (85, 90), (0, 20), (u32::MAX, 655_350)] {
        write_gif(&path, &frames, asked).unwrap();
        let decoded = decode_gif(&path);
        let delays: Vec<u32> = decoded.iter().map(|(_, delay)| *delay).collect();
        assert_eq!(delays, [shown, shown, shown, 2000]);
        assert!(decoded.iter().zip(&frames).all(|((picture, _), frame)| picture == frame));
    }
    let bytes = fs::read(&path).unwrap();
    let forever = b"NETSCAPE2.0\x03\x01\x00\x00\x00";
    assert!(bytes.windows(forever.len()).any(|window| window == forever), "it does not repeat");
    // One table of greys for all: Pillow shows frames with a grey one of their own black.
    let mut decoder = gif::DecodeOptions::new().read_info(&bytes[..]).unwrap();
    let greys: Vec<u8> = (0..=255).flat_map(|level| [level; 3]).collect();
    assert_eq!(decoder.global_palette(), Some(&greys[..]));
    while let Some(frame) = decoder.read_next_frame().unwrap() {
        assert!(frame.palette.is_none());
    }
}

#[test]
fn gif_is_close_to_its_colors() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.gif");
    let frame = RgbImage::from_fn(64, 64, |x, y| Rgb([4 * x as u8, 4 * y as u8, (2 * (x + y)) as u8]));
    write_gif(&path, std::slice::from_ref(&frame), 50).unwrap();
    let decoded = decode_gif(&path);
    let channels = decoded[0].0.iter().zip(frame.iter());
    let error: u32 = channels.map(|(a, b)| u32::from(a.abs_diff(*b))).sum();
    let mean = f64::from(error) / frame.len() as f64;
    assert!(mean < 8.0, "the channels are off by {mean} in the mean");
}

#[test]
fn gif_refuses_what_is_no_animation() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.gif");
    let refused = |frames: &[RgbImage], problem: &str| {
        let message = write_gif(&path, frames, 50).unwrap_err().to_string();
        assert!(message.contains("a.gif") && message.contains(problem), "{message}");
    };
    refused(&[], "at least one frame");
    refused(&[RgbImage::new(2, 2), RgbImage::new(2, 3)], "one size");
    refused(&[RgbImage::new(0, 2)], "0 x 2");
    refused(&[RgbImage::new(65_536, 1)], "65536 x 1");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// The chart of these points, and how many of its pixels are not white and how many of the strong blue of the curve.
fn chart(title: &str, points: &[(u64, f32)]) -> (usize, usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("loss.png");
    write_loss_chart(&path, title, points).unwrap();
    let picture = image::open(&path).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (800, 500));
    let count = |test: fn(&Rgb<u8>) -> bool| picture.pixels().filter(|pixel| test(pixel)).count();
    (count(|pixel| *pixel != WHITE), count(|pixel| *pixel == Rgb([29, 78, 216])))
}

#[test]
fn chart_of_few_points() {
    let (drawn, blue) = chart("nothing yet", &[]);
    assert!(drawn > 1000 && blue == 0, "{drawn} {blue}");
    let (drawn, blue) = chart("nothing finite", &[(1, f32::NAN), (2, f32::INFINITY)]);
    assert!(drawn > 1000 && blue == 0, "{drawn} {blue}");
    let (drawn, blue) = chart("one", &[(7, 0.5)]);
    assert!(drawn > 2000 && blue > 20, "{drawn} {blue}");
    let (drawn, blue) = chart("two", &[(1, 0.5), (2, 0.4)]);
    assert!(drawn > 3000 && blue > 600, "{drawn} {blue}");
}

#[test]
fn chart_of_many_points() {
    let loss = |step: u64| 0.03 + (-(step as f32) / 9000.0).exp() + 0.01 * (step % 7) as f32;
    let points: Vec<_> = (0..100_000).map(|step| (step, loss(step))).collect();
    let (drawn, blue) = chart("many", &points);
    assert!(drawn > 10_000 && blue > 1000, "{drawn} {blue}");
    // A loss that is not finite leaves no trace, and order does not matter.
    let mut shuffled: Vec<_> = points.into_iter().rev().collect();
    shuffled.push((200_000, f32::NAN));
    assert_eq!(chart("many", &shuffled), (drawn, blue));
}

#[test]
fn chart_of_any_numbers() {
    let (least, most) = (f32::from_bits(1), f32::MAX);
    chart("", &[(0, -most), (u64::MAX, most)]);
    chart("one\nline", &[(u64::MAX, most), (u64::MAX - 1, least), (u64::MAX - 1, 1.0)]);
    chart("no title is too long ".repeat(20).as_str(), &[(5, 0.0), (5, 0.0)]);
    chart("日本語 \u{0}", &[(0, -0.0), (1, least)]);
    chart("flat", &[(1, 0.25), (2, 0.25), (3, 0.25 + f32::EPSILON)]);
}

#[test]
fn chart_names_the_place_that_fails() {
    let directory = tempfile::tempdir().unwrap();
    let message = write_loss_chart(directory.path(), "", &[]).unwrap_err().to_string();
    assert!(message.starts_with(&directory.path().display().to_string()), "{message}");
}
