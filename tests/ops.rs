//! Every kernel on the GPU against its f64 twin over drawn shapes, odd ones too.

use std::collections::BTreeMap;

use diffuse::gpu::Context;
use diffuse::{ops, verify};

const CASES: u64 = 24;

#[test]
fn every_kernel_agrees_with_its_twin() {
    let context = Context::new(None).expect("GPU tests need an adapter");
    let mut worst = BTreeMap::new();
    for op in ops::ALL {
        for seed in 0..CASES {
            verify::check_case(&context, op, seed, &mut worst).expect("the device works");
        }
    }
    for (name, worst) in &worst {
        println!("{name:32} {:9.3} of tolerance, seed {}", worst.error, worst.seed);
    }
    let bad: Vec<_> = worst.iter().filter(|(_, worst)| worst.error > 1.0).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for op in ops::ALL {
        for kernel in op.variants() {
            if !kernel.needs.iter().all(|need| context.kind().needs.contains(need)) {
                println!("skipped: {} needs {:?}, which this adapter lacks", kernel.label(), kernel.needs);
                continue;
            }
            for entry in kernel.entry_points() {
                let name = format!("{}.{}", kernel.label(), entry.name);
                let half = format!("{name} f16");
                assert!(worst.contains_key(&name) || worst.contains_key(&half), "no case runs {name}");
            }
        }
    }
}
