//! The frame of the page, and what makes text safe in it.

use std::fmt::{Display, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::Escaped;

const STYLE: &str = include_str!("style.css");

/// Opens the page. What it may load is nothing but what stands in it; the empty icon spares browsers the question for one.
pub(super) fn begin(page: &mut String, title: &str) {
    _ = write!(
        page,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <title>{}</title><style>{STYLE}</style></head><body><main>",
        Escaped(title)
    );
}

/// Closes it.
pub(super) fn end(page: &mut String) {
    _ = writeln!(page, "</main><footer>diffuse {}</footer></body></html>", env!("CARGO_PKG_VERSION"));
}

/// A PNG file within the page; `description` is for those who don't see it.
pub(super) fn write_png(page: &mut String, png: &[u8], description: impl Display) {
    _ = write!(page, "<img alt=\"{}\" src=\"data:image/png;base64,", Escaped(description));
    STANDARD.encode_string(png, page);
    page.push_str("\">");
}
