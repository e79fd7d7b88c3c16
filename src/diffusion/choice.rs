//! What a user chooses by name.

/// A list, with a word and a line for each.
pub trait Choice: Copy + PartialEq + 'static {
    /// All that have a name, with the papers' settings.
    const NAMED: &'static [Self];

    /// The word that a user types, and what it means.
    fn words(self) -> (&'static str, &'static str);

    /// Other words that a user may type.
    fn aliases(self) -> &'static [&'static str] {
        &[]
    }

    /// The word in files: underscores for hyphens.
    fn key(self) -> String {
        self.words().0.replace('-', "_")
    }
}
