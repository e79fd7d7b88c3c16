//! Pictures in a terminal: a character shows two pixels, one above the other.

use std::fmt::Write as _;

use image::imageops::thumbnail;
use image::{Rgb, RgbImage};

/// Widest image, in characters.
const WIDEST: u32 = 32;
/// Narrower ones can't be made out.
const NARROWEST: u32 = 8;
/// Pixels between two images: a character, and a line.
const GAP: [u32; 2] = [1, 2];

/// What a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colors {
    True,
    /// 256 of them.
    Indexed,
    /// None, or none are wanted: shades in the colour of its text.
    Shades,
}

impl Colors {
    /// What these variables of the environment say of it.
    pub fn of(variable: impl Fn(&str) -> Option<String>) -> Colors {
        let is_said = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
        if is_said("NO_COLOR") || variable("TERM").is_some_and(|terminal| terminal == "dumb") {
            return Colors::Shades;
        }
        let is_true = variable("COLORTERM").is_some_and(|kind| kind.contains("truecolor") || kind.contains("24bit"));
        if is_true { Colors::True } else { Colors::Indexed }
    }

    /// Of the terminal that this runs in.
    pub fn of_terminal() -> Colors {
        Colors::of(|name| std::env::var(name).ok())
    }
}

/// The index of the nearest of 256 colours: of the greys, or of the cube of 6 levels a channel.
pub fn index(Rgb([red, green, blue]): Rgb<u8>) -> u8 {
    let level = |value: u8| match value {
        0..48 => 0,
        48..115 => 1,
        _ => (value - 35) / 40,
    };
    if red.abs_diff(green).max(green.abs_diff(blue)) < 8 {
        return match green {
            0..4 => 16,
            247.. => 231,
            _ => 232 + ((u16::from(green) + 2) / 10).clamp(1, 24) as u8 - 1,
        };
    }
    16 + 36 * level(red) + 6 * level(green) + level(blue)
}

/// A character of a picture: its upper and its lower pixel, where there are some.
pub type Cell = [Option<Rgb<u8>>; 2];

/// Images side by side, in lines of characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mosaic {
    pub lines: Vec<Vec<Cell>>,
    /// How many of the images are in it.
    pub count: usize,
}

/// How many images of that width and height fit.
fn fitting(width: u32, height: u32, [columns, rows]: [u32; 2]) -> [u32; 2] {
    [(columns + GAP[0]) / (width + GAP[0]), (2 * rows + GAP[1]) / (height + GAP[1])]
}

/// Width and height of an image among `count` of `sides` in so many columns and rows: as it is if it is not too wide, and no wider
/// than it takes to show two.
fn size(count: usize, sides: [u32; 2], place: [u32; 2]) -> Option<[u32; 2]> {
    let [width, height] = sides;
    let sized =
        |wide: u32| [wide, (u64::from(height) * u64::from(wide)).div_ceil(u64::from(width)).min(1 << 16) as u32];
    let shows = |[wide, high]: [u32; 2]| fitting(wide, high, place).iter().product::<u32>();
    let widest = width.min(WIDEST).min(place[0]);
    let sizes = || (widest.min(NARROWEST)..=widest).rev().filter(|wide| *wide > 0).map(sized);
    sizes().find(|size| shows(*size) >= count.min(2) as u32).or_else(|| sizes().find(|size| shows(*size) > 0))
}

impl Mosaic {
    /// As many of the images, which are of one size, as fit into so many columns and rows.
    pub fn new(images: &[RgbImage], [columns, rows]: [u16; 2]) -> Mosaic {
        let place = [columns, rows].map(u32::from);
        let Some(first) = images.first().filter(|image| image.width() > 0 && image.height() > 0) else {
            return Mosaic::default();
        };
        let Some([width, height]) = size(images.len(), [first.width(), first.height()], place) else {
            return Mosaic::default();
        };
        let [across, down] = fitting(width, height, place);
        let count = images.len().min((across * down) as usize);
        let (across, down) = (across.min(count as u32), (count as u32).div_ceil(across));
        let small: Vec<RgbImage> = images[..count].iter().map(|image| thumbnail(image, width, height)).collect();
        let pitch = [width + GAP[0], height + GAP[1]];
        let pixel = |x: u32, y: u32| {
            let image = small.get((y / pitch[1] * across + x / pitch[0]) as usize)?;
            image.get_pixel_checked(x % pitch[0], y % pitch[1]).copied()
        };
        let lines = (down * pitch[1] - GAP[1]).div_ceil(2);
        let line = |y: u32| (0..across * pitch[0] - GAP[0]).map(|x| [pixel(x, 2 * y), pixel(x, 2 * y + 1)]).collect();
        Mosaic { lines: (0..lines).map(line).collect(), count }
    }

    /// The text that draws it, a line each.
    pub fn text(&self, colors: Colors) -> String {
        let mut text = String::new();
        for line in &self.lines {
            for cell in line {
                let (character, inks) = ink(cell, colors);
                for (ink, layer) in inks.iter().zip([38, 48]) {
                    _ = match (ink, colors) {
                        (Some(Rgb([red, green, blue])), Colors::True) => {
                            write!(text, "\x1b[{layer};2;{red};{green};{blue}m")
                        }
                        (Some(color), Colors::Indexed) => write!(text, "\x1b[{layer};5;{}m", index(*color)),
                        _ => Ok(()),
                    };
                }
                text.push(character);
                if inks.iter().any(Option::is_some) {
                    text.push_str("\x1b[0m");
                }
            }
            text.push('\n');
        }
        text
    }
}

/// The character of a cell, and what it and what is behind it are coloured with.
pub fn ink(cell: &Cell, colors: Colors) -> (char, Cell) {
    match *cell {
        [None, None] => (' ', [None, None]),
        _ if colors == Colors::Shades => (shade(cell), [None, None]),
        [Some(upper), lower] => ('▀', [Some(upper), lower]),
        [None, Some(lower)] => ('▄', [Some(lower), None]),
    }
}

fn shade(cell: &Cell) -> char {
    let light =
        |Rgb([red, green, blue]): &Rgb<u8>| (2 * u32::from(*red) + 5 * u32::from(*green) + u32::from(*blue)) / 8;
    let sum: u32 = cell.iter().flatten().map(light).sum();
    // A pixel that is missing is dark, as what is around the picture.
    [' ', '░', '▒', '▓', '█'][(sum / 2 * 5 / 256) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(count: usize, sides: [u32; 2], color: [u8; 3]) -> Vec<RgbImage> {
        vec![RgbImage::from_pixel(sides[0], sides[1], Rgb(color)); count]
    }

    fn extent(mosaic: &Mosaic) -> (usize, usize) {
        (mosaic.lines.first().map_or(0, Vec::len), mosaic.lines.len())
    }

    #[test]
    fn narrow_places_show_fewer_images() {
        let all = images(16, [16, 16], [200; 3]);
        for (place, count, extent_there) in
            [([80, 8], 4, (67, 8)), ([200, 8], 11, (186, 8)), ([80, 17], 8, (67, 17)), ([20, 8], 2, (17, 4))]
        {
            let mosaic = Mosaic::new(&all, place);
            assert!(extent(&mosaic).0 <= place[0] as usize && extent(&mosaic).1 <= place[1] as usize);
            if place[0] > 20 {
                assert_eq!((mosaic.count, extent(&mosaic)), (count, extent_there), "{place:?}");
            } else {
                assert!(mosaic.count >= 1, "{place:?}");
            }
        }
        for place in [[0, 0], [0, 9], [9, 0], [3, 1]] {
            let (width, height) = extent(&Mosaic::new(&all, place));
            assert!(width <= place[0] as usize && height <= place[1] as usize, "{place:?}");
        }
        assert_eq!(Mosaic::new(&[], [80, 8]), Mosaic::default());
        assert!(Mosaic::new(&images(2, [256, 64], [9; 3]), [80, 24]).count == 2);
        assert!(Mosaic::new(&images(2, [1, 16_384], [9; 3]), [80, 24]).lines.len() <= 24);
    }

    #[test]
    fn colors_are_those_of_the_terminal() {
        let said = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        assert_eq!(Colors::of(said(&[("COLORTERM", "truecolor")])), Colors::True);
        assert_eq!(Colors::of(said(&[("COLORTERM", "truecolor"), ("NO_COLOR", "1")])), Colors::Shades);
        assert_eq!(Colors::of(said(&[("COLORTERM", "24bit"), ("NO_COLOR", "")])), Colors::True);
        assert_eq!(Colors::of(said(&[("TERM", "xterm-256color")])), Colors::Indexed);
        assert_eq!(Colors::of(said(&[("TERM", "dumb")])), Colors::Shades);
        let mosaic = Mosaic::new(&images(1, [8, 3], [255, 0, 10]), [80, 8]);
        let text = mosaic.text(Colors::True);
        assert!(text.starts_with("\x1b[38;2;255;0;10m\x1b[48;2;255;0;10m▀\x1b[0m"), "{text:?}");
        // A line that has no lower half shows what is behind the terminal's text.
        assert!(text.ends_with("\x1b[38;2;255;0;10m▀\x1b[0m\n"), "{text:?}");
        assert!(mosaic.text(Colors::Indexed).starts_with("\x1b[38;5;196m\x1b[48;5;196m▀"));
        let grey = Mosaic::new(&images(1, [8, 2], [128; 3]), [80, 8]).text(Colors::Shades);
        assert_eq!(grey, "▒▒▒▒▒▒▒▒\n");
    }

    #[test]
    fn greys_and_colors_of_256_are_near() {
        let found =
            [[0; 3], [255; 3], [128; 3], [8; 3], [238; 3], [255, 0, 0], [0, 135, 255]].map(|color| index(Rgb(color)));
        assert_eq!(found, [16, 231, 244, 232, 255, 196, 33]);
    }
}
