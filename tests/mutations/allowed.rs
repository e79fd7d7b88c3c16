//! Mutants that change no result.

use super::source::Mutant;

/// Why no case can notice `mutant`.
pub fn reason(_file: &str, _mutant: &Mutant) -> Option<&'static str> {
    None
}
