//! Weights as a page has them.

use half::f16;

use crate::error::{Error, Result};
use crate::gpu::Precision;

/// The bytes of a flat buffer of weights, rounded to f16 or whole.
///
/// # Errors
/// [`Error::Config`] if one is beyond what f16 holds.
pub fn bytes(weights: &[f32], precision: Precision) -> Result<Vec<u8>> {
    match precision {
        Precision::F32 => Ok(weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()),
        Precision::F16 => {
            if let Some(weight) = weights.iter().find(|weight| !f16::from_f32(**weight).is_finite()) {
                return Err(Error::Config(format!("a weight is {weight}, which f16 does not hold: --f32 keeps it")));
            }
            Ok(weights.iter().flat_map(|weight| f16::from_f32(*weight).to_le_bytes()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_rounded_or_whole() {
        let weights = [1.0f32, -0.1, 3e-8, 65_504.0];
        let whole: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        assert_eq!(bytes(&weights, Precision::F32).unwrap(), whole);
        let halves = bytes(&weights, Precision::F16).unwrap();
        assert_eq!(halves, [0x00, 0x3c, 0x66, 0xae, 0x01, 0x00, 0xff, 0x7b]);
        let error = bytes(&[1e5], Precision::F16).unwrap_err().to_string();
        assert_eq!(error, "a weight is 100000, which f16 does not hold: --f32 keeps it");
    }
}
