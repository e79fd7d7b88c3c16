//! The options of a run as a table.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::error::Escaped;
use crate::run::TrainOptions;

/// Writes the options, those that are not as usual first.
pub(super) fn write(page: &mut String, options: &TrainOptions) {
    let usual = match options.is_private() {
        true => TrainOptions::default().with_private_defaults(options.dp_epsilon),
        false => TrainOptions::default(),
    };
    let (now, usual) = (rows(options), rows(&usual));
    let usual_of = |key: &String| usual.get(key).unwrap_or(&Value::Null);
    let (others, same): (Vec<_>, Vec<_>) = now.iter().partition(|(key, value)| usual_of(key) != *value);
    page.push_str("<section><h2>Configuration</h2><table><thead><tr><th>option</th><th>here</th><th>usual</th></tr></thead><tbody>");
    for (key, value) in others {
        let [value, usual] = [value, usual_of(key)].map(said);
        _ = write!(page, "<tr><th>{}</th><td>{}</td><td>{}</td></tr>", breakable(key), Escaped(value), Escaped(usual));
    }
    let count = same.len();
    _ = write!(page, "</tbody></table><details><summary>{count} more, as usual</summary><table><tbody>");
    for (key, value) in same {
        _ = write!(page, "<tr><th>{}</th><td>{}</td></tr>", breakable(key), Escaped(said(value)));
    }
    page.push_str("</tbody></table></details></section>");
}

/// Each key of `config.json`, those of the model behind its name.
fn rows(options: &TrainOptions) -> Map<String, Value> {
    let Ok(Value::Object(mut rows)) = serde_json::to_value(options) else { return Map::new() };
    if let Some(Value::Object(model)) = rows.remove("model") {
        rows.extend(model.into_iter().map(|(key, value)| (format!("model.{key}"), value)));
    }
    rows
}

/// A key that may go on in another line where a word of it ends.
fn breakable(key: &str) -> String {
    Escaped(key).to_string().replace('_', "_<wbr>")
}

fn said(value: &Value) -> String {
    match value {
        Value::Null => "not set".into(),
        Value::String(text) => text.clone(),
        // A comma between numbers is a place to break the line.
        Value::Array(values) => values.iter().map(said).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
