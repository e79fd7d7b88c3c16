//! [`Choice`]s in files and on the command line.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Deserializer, Serializer, de, ser};

use crate::diffusion::Choice;

/// Of a flag: takes the words and says in the help what they mean.
pub fn parser<T: Choice + Send + Sync>() -> impl TypedValueParser<Value = T> {
    let is_called = |choice: &T, typed: &str| choice.words().0 == typed || choice.aliases().contains(&typed);
    let value = |choice: &T| PossibleValue::new(choice.words().0).help(choice.words().1).aliases(choice.aliases());
    PossibleValuesParser::new(T::NAMED.iter().map(value)).map(move |typed: String| {
        *T::NAMED.iter().find(|choice| is_called(choice, &typed)).expect("clap takes no other word")
    })
}

/// # Errors
/// Where it isn't one of those that have a name: read again, it would be another.
pub fn serialize<T: Choice, S: Serializer>(choice: &T, serializer: S) -> Result<S::Ok, S::Error> {
    if !T::NAMED.contains(choice) {
        return Err(ser::Error::custom(format!("{} with other settings than the papers' has no name", choice.key())));
    }
    serializer.serialize_str(&choice.key())
}

/// # Errors
/// Lists the words.
pub fn deserialize<'de, T: Choice, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let key = String::deserialize(deserializer)?;
    T::NAMED.iter().copied().find(|choice| choice.key() == key).ok_or_else(|| {
        let known: Vec<String> = T::NAMED.iter().map(|choice| format!("`{}`", choice.key())).collect();
        de::Error::custom(format!("unknown variant `{key}`, expected one of {}", known.join(", ")))
    })
}
