//! Data on several ranks: the first one on a machine reads them, and hands them to the others there.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::data::{Account, Dataset, ImageBytes};
use crate::error::{Error, Result};
use crate::ranks::{Ranks, share_text_on_machine};

/// Bytes that are handed over at once.
const PIECE: usize = 16 << 20;

/// What is said before labels and images.
#[derive(Serialize, Deserialize)]
struct Header {
    name: String,
    sides: [u32; 2],
    channels: u32,
    classes: Vec<String>,
    images: usize,
}

/// What `read` gives on the first rank of this machine. Collective.
///
/// # Errors
/// That of `read`, in words where another rank had it; [`Error::File`] if there is no room.
pub fn read_once(ranks: &dyn Ranks, read: impl FnOnce() -> Result<Dataset>) -> Result<Dataset> {
    if ranks.local() > 0 {
        return receive(ranks);
    }
    let data = read();
    hand_out(ranks, data.as_ref());
    data
}

/// Gives what the first rank of a machine has to the others there, which [`read_once`]. Collective.
pub fn hand_out(ranks: &dyn Ranks, data: std::result::Result<&Dataset, &Error>) {
    if ranks.on_this_machine() == 1 {
        return;
    }
    let header = |data: &Dataset| Header {
        name: data.name.clone(),
        sides: [data.height, data.width],
        channels: data.channels,
        classes: data.classes.clone(),
        images: data.len(),
    };
    let said: std::result::Result<Header, String> = data.map(header).map_err(ToString::to_string);
    share_text_on_machine(ranks, &serde_json::to_string(&said).expect("names and numbers can be written"));
    let Ok(data) = data else { return };
    for bytes in [bytemuck::cast_slice(&data.labels), &data.images] {
        let mut room = Vec::with_capacity(PIECE.min(bytes.len()));
        for piece in bytes.chunks(PIECE) {
            room.clear();
            room.extend_from_slice(piece);
            ranks.broadcast_on_machine(&mut room);
        }
    }
}

fn receive(ranks: &dyn Ranks) -> Result<Dataset> {
    let said = share_text_on_machine(ranks, "");
    let said: std::result::Result<Header, String> = serde_json::from_str(&said)
        .map_err(|error| Error::Config(format!("what the first rank here read: {error}")))?;
    let Header { name, sides: [height, width], channels, classes, images } = said.map_err(Error::Config)?;
    let mut labels = vec![0u32; images];
    let mut pieces = Pieces::new(ranks, labels.len() * size_of::<u32>());
    let read = pieces.read_exact(bytemuck::cast_slice_mut(&mut labels));
    let size = [images, height as usize, width as usize, channels as usize].iter().product();
    let mut pieces = Pieces::new(ranks, size);
    let images = read.and_then(|()| ImageBytes::read(&mut pieces));
    // Who has no room takes the rest as well: the others wait for it.
    let rest = io::copy(&mut pieces, &mut io::sink());
    let images = images.and_then(|images| rest.map(|_| images)).map_err(|error| Error::file(&name, error))?;
    Ok(Dataset { name, height, width, channels, images, labels, classes, account: Account::default() })
}

/// Bytes as they come, piece by piece.
struct Pieces<'a> {
    ranks: &'a dyn Ranks,
    /// That are still to come.
    left: usize,
    piece: Vec<u8>,
    /// Those of the piece that were read.
    read: usize,
}

impl<'a> Pieces<'a> {
    fn new(ranks: &'a dyn Ranks, left: usize) -> Pieces<'a> {
        Pieces { ranks, left, piece: Vec::new(), read: 0 }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.read == self.piece.len() && self.left > 0 {
            self.piece.resize(PIECE.min(self.left), 0);
            self.ranks.broadcast_on_machine(&mut self.piece);
            (self.left, self.read) = (self.left - self.piece.len(), 0);
        }
        let count = (&self.piece[self.read..]).read(to)?;
        self.read += count;
        Ok(count)
    }
}
