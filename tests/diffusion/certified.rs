//! The certification of every sampler, as `diffuse certify` runs it.

use diffuse::certify::{Certifier, subjects};
use diffuse::diffusion::SamplerKind;

#[test]
fn every_sampler_is_certified() {
    let certifier = Certifier::default();
    let mut wrong = Vec::new();
    for subject in subjects() {
        let checks = certifier.certify(&subject);
        assert!(checks.len() >= 5, "{}: {} checks", subject.name, checks.len());
        wrong.extend(checks.into_iter().filter(|check| !check.passed()));
    }
    let lines: Vec<String> = wrong.iter().map(|check| format!("{check:?}")).collect();
    assert!(lines.is_empty(), "{}", lines.join("\n"));
}

#[test]
fn every_kind_is_a_subject() {
    for kind in SamplerKind::ALL {
        assert!(subjects().iter().any(|subject| subject.kind == kind), "{kind:?}");
        let same = SamplerKind::ALL.iter().filter(|other| other.name() == kind.name()).count();
        assert_eq!(same, 1, "{}", kind.name());
    }
}
