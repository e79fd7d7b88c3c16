//! How often the device of a run may be lost.

/// Losses behind which no step was new, after which nobody tries again.
const MOST: u32 = 3;

/// Losses in a row.
#[derive(Default)]
pub struct Losses {
    in_a_row: u32,
    /// Steps that were known at the most.
    farthest: u64,
}

impl Losses {
    /// Counts one, before which `known` steps were known to be done. Whether the run may go on: a step that none before had
    /// reached begins a new row, so that all of this comes to an end.
    pub fn count(&mut self, known: u64) -> bool {
        if known > self.farthest {
            *self = Losses { in_a_row: 0, farthest: known };
        }
        self.in_a_row += 1;
        self.in_a_row < MOST
    }
}

/// `1 of 3`.
impl std::fmt::Display for Losses {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} of {MOST}", self.in_a_row)
    }
}

#[cfg(test)]
mod tests {
    use super::Losses;

    #[test]
    fn three_in_a_row_are_too_many() {
        let mut losses = Losses::default();
        assert!(losses.count(7) && losses.count(7));
        assert_eq!(losses.to_string(), "2 of 3");
        assert!(!losses.count(5), "steps that were done before are not new");
        assert!(losses.count(8), "a new one is");
    }
}
