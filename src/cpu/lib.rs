//! Twins of the integer and random functions of `shaders/lib.wgsl`.

use std::f64::consts::TAU;

/// Philox-4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let ([mut c0, mut c1, mut c2, mut c3], [mut k0, mut k1]) = (counter, key);
    for _ in 0..10 {
        let even = 0xd251_1f53_u64 * c0 as u64;
        let odd = 0xcd9e_8d57_u64 * c2 as u64;
        (c0, c2) = ((odd >> 32) as u32 ^ c1 ^ k0, (even >> 32) as u32 ^ c3 ^ k1);
        (c1, c3) = (odd as u32, even as u32);
        (k0, k1) = (k0.wrapping_add(0x9e37_79b9), k1.wrapping_add(0xbb67_ae85));
    }
    [c0, c1, c2, c3]
}

/// The top 23 bits as a number in (0, 1).
pub fn uniform_open(bits: u32) -> f64 {
    ((bits >> 9) as f64 + 0.5) / (1 << 23) as f64
}

/// Four standard normal numbers from one Philox block by Box and Muller (1958).
pub fn normal4(bits: [u32; 4]) -> [f64; 4] {
    let [a, b, c, d] = bits.map(uniform_open);
    let polar = |u: f64, turns: f64| ((-2.0 * u.ln()).sqrt(), TAU * turns);
    let ((r, phi), (s, psi)) = (polar(a, b), polar(c, d));
    [r * phi.cos(), r * phi.sin(), s * psi.cos(), s * psi.sin()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// kat_vectors of Random123, lines philox4x32 10.
    #[test]
    fn philox_gives_the_published_words() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let known = [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (pi, [0xa409_3822, 0x299f_31d0], [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for (counter, key, words) in known {
            assert_eq!(philox(counter, key), words);
        }
    }

    #[test]
    fn uniform_open_leaves_out_both_ends() {
        assert_eq!(uniform_open(0), 0.5f64.powi(24));
        assert_eq!(uniform_open(u32::MAX), 1.0 - 0.5f64.powi(24));
        assert_eq!(uniform_open(1 << 31), 0.5 + 0.5f64.powi(24));
    }

    #[test]
    fn normal4_pairs_radius_and_angle() {
        let half = 1 << 31;
        let [cosine, sine, ..] = normal4([half, 0, half, half]);
        let radius = (2.0 * 2f64.ln()).sqrt();
        assert!((cosine - radius).abs() < 1e-6 && sine.abs() < 1e-6);
        let [.., cosine, sine] = normal4([half, 0, half, half]);
        assert!((cosine + radius).abs() < 1e-6 && sine.abs() < 1e-6);
    }
}
