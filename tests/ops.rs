//! Every kernel on the GPU against its f64 twin: every corner and random cases, in every way that the adapter can run.

use std::collections::BTreeSet;

use std::sync::Arc;

use diffuse::gpu::{Candidate, Choices, Context, Precision, Ways};
use diffuse::ops::{self, Case, Op, Which};
use diffuse::verify::{self, Entry, Report};

const CASES: u64 = 24;

#[test]
fn every_kernel_agrees_with_its_twin() {
    let context = Context::new(None).expect("GPU tests need an adapter");
    let mut report = Report::default();
    for op in ops::ALL {
        for (which, choices) in verify::trials(op, context.kind(), 0, CASES) {
            verify::check(&context, op, which, &choices, &mut report).expect("the device works");
        }
    }
    for (entry, worst) in &report.entries {
        println!("{:64} {:9.3} of the bound, {}", entry.to_string(), worst.error, worst.case);
    }
    let wrong: Vec<_> = report.wrong().map(|(entry, worst)| (entry.to_string(), worst)).collect();
    assert!(report.agrees(), "{wrong:#?} {:#?}", report.torn);
    for op in ops::ALL {
        every_entry_ran(&context, op, &report);
        every_candidate_ran_every_corner(&context, op, &report);
    }
}

fn every_entry_ran(context: &Context, op: &Op, report: &Report) {
    for kernel in op.variants() {
        if !kernel.needs.iter().all(|need| context.kind().needs.contains(need)) {
            println!("skipped: {} needs {:?}, which this adapter lacks", kernel.label(), kernel.needs);
            continue;
        }
        let ways =
            || op.ways.iter().flat_map(|ways| ways.candidates).filter(|way| way.kernel.label() == kernel.label());
        let runs = |way: &Candidate| [Precision::F32, Precision::F16].iter().any(|p| way.runs_on(context.kind(), *p));
        if ways().next().is_some() && !ways().any(runs) {
            println!("skipped: {} has no way for subgroups as wide as this adapter's", kernel.label());
            continue;
        }
        for entry in kernel.entry_points() {
            let ran = report
                .entries
                .keys()
                .any(|ran| (ran.kernel, ran.variant) == (kernel.name, kernel.variant) && ran.entry == entry.name);
            assert!(ran, "no case runs {}.{}", kernel.label(), entry.name);
        }
    }
}

/// Those corners of `op` that ran the entry points which `is_meant` tells.
fn corners(op: &Op, report: &Report, is_meant: impl Fn(&Entry) -> bool) -> BTreeSet<String> {
    let names: BTreeSet<String> = (0..op.corners.len()).map(|index| op.name(Which::Corner(index))).collect();
    let cases = report.entries.iter().filter(|(entry, _)| is_meant(entry)).flat_map(|(_, worst)| &worst.cases);
    cases.filter(|case| names.contains(*case)).cloned().collect()
}

/// Whatever can run an entry point ran it in every corner that has it at all.
fn every_candidate_ran_every_corner(context: &Context, op: &Op, report: &Report) {
    let precisions: BTreeSet<Precision> = op.choices(context.kind()).iter().map(|choices| choices.precision).collect();
    let check = |expected: &Entry, takes: &dyn Fn(&String) -> bool| {
        let mut all = corners(op, report, |entry| (entry.kernel, entry.entry) == (expected.kernel, expected.entry));
        all.retain(takes);
        let ran = corners(op, report, |entry| entry == expected);
        let missing: Vec<_> = all.difference(&ran).collect();
        assert!(!all.is_empty() && missing.is_empty(), "{expected} did not run {missing:?} of {all:?}");
    };
    for precision in precisions {
        for ways in op.ways {
            for candidate in ways.candidates.iter().filter(|c| c.runs_on(context.kind(), precision)) {
                let (kernel, variant) = (candidate.kernel.name, candidate.kernel.variant);
                let entry = Entry { kernel, variant, entry: ways.entry, constants: candidate.constants, precision };
                check(&entry, &|corner| takes(op, corner, ways, candidate));
            }
        }
        for (entry, _) in op.kernel.twins.iter().filter(|_| op.ways.is_empty()) {
            check(&Entry { kernel: op.kernel.name, variant: "", entry, constants: &[], precision }, &|_| true);
        }
    }
}

/// Whether a candidate can run what the corner of this name asks of `ways`.
fn takes(op: &Op, corner: &str, ways: &Ways, candidate: &Candidate) -> bool {
    let index = (0..op.corners.len()).find(|index| op.name(Which::Corner(*index)) == corner).expect("a corner");
    let recording = Case::new(op, Which::Corner(index), &Arc::<Choices>::default()).recording;
    let is_asked = |asked: &Ways| (asked.kernel, asked.entry) == (ways.kernel, ways.entry);
    recording.asked.iter().all(|(key, asked)| !is_asked(asked) || candidate.takes(&key.shape))
}
