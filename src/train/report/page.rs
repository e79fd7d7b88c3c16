//! The frame of the page, and what makes text safe in it.

use std::fmt::{self, Display, Formatter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::one_line;

const STYLE: &str = include_str!("style.css");

/// Text of users, of files or of drivers: nothing in it is markup, in elements and in attributes between double quotes alike.
pub(super) struct Escaped<T>(pub T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        one_line(&self.0).chars().try_for_each(|letter| match letter {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            letter => f.write_char(letter),
        })
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_say_is_no_markup() {
        let hostile = "<script>alert('1')</script>\n\" onload=\"x&amp;";
        let escaped = Escaped(hostile).to_string();
        assert_eq!(escaped, r"&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;\n&quot; onload=&quot;x&amp;amp;");
    }
}
