//! The page as a document: its parts, each in its place.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::envelope::{Buffers, Defaults, Envelope, FORMAT, Image, VERSION, Weights};
use super::frames::frames;
use super::programs::{Programs, programs};
use super::weights;
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Escaped, Result};
use crate::gpu::stored::form::Head;
use crate::gpu::{Precision, WEIGHTS};
use crate::run::Frame;
use crate::run::generator::{LABELS, X};

const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/page/page.html"));
const STYLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/page/page.css"));
const SCRIPT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/page/page.js"));

/// Steps of the sampler that a page begins with.
const STEPS: usize = 20;
/// Images that it draws at first, where there are fewer classes.
const COUNT: u32 = 8;
/// Images that it draws at first of a class each, at the most.
const MOST: u32 = 16;
/// Characters of a string that browsers hold.
const MOST_CHARACTERS: usize = 1 << 29;

/// What is said of a page beside its model.
pub struct Options {
    pub title: String,
    /// How its weights are stored.
    pub precision: Precision,
    /// The scale of guidance that it begins with.
    pub guidance: f64,
}

/// A page that draws with `model`.
///
/// # Errors
/// [`Error::Config`] says what of the model a page can't do.
pub fn write(model: &Checkpoint, options: &Options) -> Result<String> {
    let config = &model.unet.config;
    config.validate_denoiser()?;
    let Some((height, width)) = config.sample_size.map(crate::nn::config::Size::sides) else {
        return Err(Error::Config("config.json has no sample_size, which a page must know: --size says it".into()));
    };
    config.validate_size(height, width)?;
    let Programs { samplers, slots, learns_variance } = programs(&model.scheduler)?;
    if learns_variance {
        config.validate_variance()?;
    }
    let weights = STANDARD.encode(weights::bytes(&model.weights, options.precision)?);
    if weights.len() > MOST_CHARACTERS {
        let (own, most) = (weights.len() >> 20, MOST_CHARACTERS >> 20);
        return Err(Error::Config(format!("the weights make {own} MiB of text, browsers take {most} at most")));
    }
    let null_class = model.classes.as_ref().filter(|classes| classes.has_null).map(|classes| classes.count());
    let one = Frame { batch: 1, height, width, slots, guided: false, updates: false, masked: false };
    let made = frames(&model.unet, &one, null_class.is_some())?;
    let sampler = &samplers[0];
    let steps = sampler.programs.iter().map(|program| program.steps).filter(|steps| *steps <= STEPS).max();
    let envelope = Envelope {
        head: Head { format: FORMAT.into(), version: VERSION },
        title: options.title.clone(),
        made_by: concat!("diffuse ", env!("CARGO_PKG_VERSION")).into(),
        image: Image { height, width, channels: config.in_channels },
        classes: model.classes.as_ref().map(|classes| classes.names.clone()),
        null_class,
        buffers: Buffers { images: X, labels: model.classes.as_ref().map(|_| LABELS), weights: WEIGHTS },
        weights: Weights {
            elements: model.unet.params.elements,
            parameters: model.unet.params.count(),
            precision: options.precision,
        },
        limits: made.limits,
        defaults: Defaults {
            sampler: sampler.name.into(),
            steps: steps.unwrap_or(sampler.programs[0].steps),
            guidance: options.guidance,
            seed: 0,
            count: model.classes.as_ref().map_or(COUNT, |classes| classes.count().clamp(COUNT, MOST)),
        },
        frames: made.frames,
        samplers,
        recordings: made.stored.form,
    };
    let json = serde_json::to_string(&envelope).map_err(|error| Error::Config(format!("the page's JSON: {error}")))?;
    let parts = [
        ("title", Escaped(&options.title).to_string()),
        ("style", STYLE.into()),
        ("script", SCRIPT.into()),
        ("model", within_script(&json)),
        ("binary", STANDARD.encode(made.stored.binary)),
        ("weights", weights),
    ];
    Ok(filled(DOCUMENT, &parts))
}

/// `document` with what each `{{name}}` stands for. What is put in is not searched for more.
fn filled(document: &str, parts: &[(&str, String)]) -> String {
    let mut pieces = document.split("{{");
    let mut text = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let place = piece.split_once("}}");
        let found = place.and_then(|(name, rest)| Some((parts.iter().find(|(own, _)| *own == name)?, rest)));
        let ((_, part), rest) = found.expect("assets/page/page.html has no other places");
        text.push_str(part);
        text.push_str(rest);
    }
    text
}

/// JSON that ends no script and begins no comment: both are within its strings.
fn within_script(json: &str) -> String {
    json.replace("</", "<\\/").replace("<!--", "\\u003c!--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_once() {
        let parts = [("a", "{{b}}".to_string()), ("b", "2".to_string())];
        assert_eq!(filled("x{{a}}y{{b}}{{a}}", &parts), "x{{b}}y2{{b}}");
    }

    #[test]
    fn nothing_ends_a_script() {
        let text = "</script><!-- & \"x\" -->";
        let json = within_script(&serde_json::json!([text]).to_string());
        assert!(!json.contains("</") && !json.contains("<!--"));
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
        assert_eq!(Escaped(text).to_string(), "&lt;/script&gt;&lt;!-- &amp; &quot;x&quot; --&gt;");
        // What stands in the document as it is.
        assert!(!SCRIPT.contains("</") && !STYLE.contains("</"));
    }
}
