//! Every kernel on the GPU against its f64 twin: every corner and random cases, in every way that the adapter can run.

use diffuse::gpu::Context;
use diffuse::ops::{self, Op};
use diffuse::verify::{self, Report};

const CASES: u64 = 24;

#[test]
fn every_kernel_agrees_with_its_twin() {
    let context = Context::new(None).expect("GPU tests need an adapter");
    let mut report = Report::default();
    for op in ops::ALL {
        let mut found = Report::default();
        for (which, choices) in verify::trials(op, context.kind(), 0, CASES) {
            verify::check(&context, op, which, &choices, &mut found).expect("the device works");
        }
        report.torn.append(&mut found.torn);
        report.entries.append(&mut found.entries);
    }
    for (entry, worst) in &report.entries {
        println!("{:64} {:9.3} of the bound, {}", entry.to_string(), worst.error, worst.case);
    }
    let wrong: Vec<_> = report.wrong().map(|(entry, worst)| (entry.to_string(), worst)).collect();
    assert!(report.agrees(), "{wrong:#?} {:#?}", report.torn);
    for op in ops::ALL {
        every_entry_ran(&context, op, &report);
    }
}

fn every_entry_ran(context: &Context, op: &Op, report: &Report) {
    for kernel in op.variants() {
        if !kernel.needs.iter().all(|need| context.kind().needs.contains(need)) {
            println!("skipped: {} needs {:?}, which this adapter lacks", kernel.label(), kernel.needs);
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
