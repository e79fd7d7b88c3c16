//! Memory is what the plan says and stays so. Alone in its process: other tests would grow it.

mod common;

use common::{context, dataset, options, trainer};
use diffuse::nn::UNet;
use diffuse::run::trainer::{DataShape, record};

#[test]
fn planned_bytes_are_allocated_and_stay() {
    let context = context();
    let data = dataset(9, 3);
    let options = options(1100, 2, 1);
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, &options);
    let planned = record(&unet, &options, &DataShape::of(&data), trainer.session.choices())
        .expect("a valid schedule")
        .peak_bytes();
    assert_eq!(planned, trainer.allocated_bytes());
    let on_device = || context.device.generate_allocator_report().map(|report| report.total_allocated_bytes);
    let mut before = (None, None);
    for step in 0..1100 {
        trainer.step(step).expect("the device works");
        if step == 99 {
            trainer.finish().expect("the device works");
            before = (on_device(), resident_bytes());
        }
    }
    trainer.finish().expect("the device works");
    assert_eq!(before.0, on_device(), "bytes on the device after 100 and 1,100 steps");
    if let (Some(before), Some(after)) = (before.1, resident_bytes()) {
        println!("resident {before} after 100 steps, {after} after 1,100");
        assert!(after < before + (4 << 20), "{} bytes came with 1,000 steps", after - before);
    }
}

/// Of this process, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}
