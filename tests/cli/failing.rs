//! Drivers that fail. A Vulkan layer (tests/failing/layer.c) between wgpu and the driver makes one call of it fail, as real ones do.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::training::{assert_same_bits, kept};
use super::{Said, accepted, place, read_json, run, typed};

const RUN: &str =
    "train --data digits --model tiny.json --steps 20 --batch 2 --checkpoint-every 5 --sample-every 0 --out";
/// Results of Vulkan.
const NO_HOST_MEMORY: i32 = -1;
const NO_DEVICE_MEMORY: i32 = -2;
const DEVICE_LOST: i32 = -4;
const TIME_IS_UP: i32 = 2;

/// A place with the layer in it.
fn place_with_layer() -> TempDir {
    let place = place();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/failing");
    let flags = ["-shared", "-fPIC", "-Wl,-z,nodelete", "-o", "layer.so"];
    let built = Command::new("cc").args(flags).arg(source.join("layer.c")).current_dir(place.path()).status();
    assert!(built.expect("cc is there: it links this test").success());
    fs::copy(source.join("layer.json"), place.path().join("layer.json")).unwrap();
    place
}

/// What `line` says where the calls number `which` of `call` give `result`.
fn failing(place: &Path, line: &str, (call, result, which): (&str, i32, &str)) -> Said {
    let mut command = typed(place, line);
    command.env("VK_LAYER_PATH", place).env("VK_INSTANCE_LAYERS", "VK_LAYER_diffuse_failing");
    command.env("DIFFUSE_FAIL", format!("{call}:{result}:{which}"));
    let said = run(command);
    assert!(
        call == "vkCreateInstance" || call == "vkCreateDevice" || said.err.contains("layer: "),
        "{call} {which}: {}",
        said.err
    );
    said
}

#[test]
fn a_run_whose_device_is_lost_ends_with_the_bits_of_one_that_nothing_befell() {
    let place = place_with_layer();
    accepted(place.path(), &format!("{RUN} whole"));
    let whole = place.path().join("whole");
    // While it is planned, before its first checkpoint, twice with a new step between, where a driver waits and where it is asked.
    let losses = [
        ("vkQueueSubmit", "1", vec!["step 0 (1 of 3)"]),
        ("vkQueueSubmit", "10,24", vec!["(1 of 3)", "(1 of 3)"]),
        ("vkWaitSemaphores", "3", vec!["(1 of 3)"]),
        ("vkGetSemaphoreCounterValue", "30", vec!["(1 of 3)"]),
    ];
    for (number, (call, which, said)) in losses.into_iter().enumerate() {
        let out = format!("run{number}");
        let found = failing(place.path(), &format!("{RUN} {out}"), (call, DEVICE_LOST, which));
        assert_eq!(found.code, Some(0), "{call} {which}: {}", found.err);
        let lines: Vec<&str> = found.err.lines().filter(|line| line.contains("it is opened again")).collect();
        assert_eq!(lines.len(), said.len(), "{call} {which}: {}", found.err);
        for (line, part) in lines.iter().zip(said) {
            assert!(line.starts_with("the device was lost: ") && line.ends_with(part), "{line}");
        }
        assert_same_bits(&whole, &place.path().join(&out));
        assert_eq!(kept(&whole), kept(&place.path().join(&out)));
    }
}

#[test]
fn a_device_that_is_lost_three_times_at_one_place_ends_the_run_in_one_line() {
    let place = place_with_layer();
    accepted(place.path(), &format!("{RUN} whole"));
    let said = failing(place.path(), &format!("{RUN} run"), ("vkQueueSubmit", DEVICE_LOST, "20,22,24"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    let last = said.err.lines().last().unwrap();
    assert!(last.starts_with("error: the device was lost: "), "{}", said.err);
    assert!(
        last.ends_with("(3 of 3, and no step was new between them); go on with: diffuse train --resume --out run"),
        "{last}"
    );
    accepted(place.path(), "verify run");
    let step = read_json(&place.path().join("run/checkpoint/trainer.json"))["step"].as_u64().unwrap();
    assert!([5, 10, 15].contains(&step), "{step}");
    accepted(place.path(), "train --resume --out run");
    assert_same_bits(&place.path().join("whole"), &place.path().join("run"));
}

#[test]
fn what_a_driver_may_refuse_ends_in_one_line_or_nowhere() {
    let place = place_with_layer();
    accepted(place.path(), &format!("{RUN} whole"));
    let calls = [
        ("vkCreateInstance", NO_HOST_MEMORY, "1"),
        ("vkEnumeratePhysicalDevices", NO_HOST_MEMORY, "1"),
        ("vkCreateDevice", NO_DEVICE_MEMORY, "1"),
        ("vkAllocateMemory", NO_DEVICE_MEMORY, "1"),
        ("vkMapMemory", NO_HOST_MEMORY, "1"),
        ("vkCreateBuffer", NO_DEVICE_MEMORY, "40"),
        ("vkBindBufferMemory", NO_DEVICE_MEMORY, "40"),
        ("vkCreateShaderModule", NO_HOST_MEMORY, "5"),
        ("vkCreateComputePipelines", NO_DEVICE_MEMORY, "5"),
        ("vkCreateDescriptorSetLayout", NO_HOST_MEMORY, "5"),
        ("vkAllocateDescriptorSets", NO_DEVICE_MEMORY, "5"),
        ("vkCreateCommandPool", NO_HOST_MEMORY, "3"),
        ("vkAllocateCommandBuffers", NO_HOST_MEMORY, "1"),
        ("vkBeginCommandBuffer", NO_DEVICE_MEMORY, "80"),
        ("vkEndCommandBuffer", NO_HOST_MEMORY, "80"),
        ("vkQueueSubmit", NO_DEVICE_MEMORY, "10"),
        ("vkWaitSemaphores", TIME_IS_UP, "3"),
        ("vkGetSemaphoreCounterValue", NO_HOST_MEMORY, "30"),
        ("vkQueueWaitIdle", NO_HOST_MEMORY, "1"),
    ];
    let mut ended = 0;
    for call in calls {
        let said = failing(place.path(), &format!("{RUN} run --resume"), call);
        let errors: Vec<&str> = said.err.lines().filter(|line| line.contains("error:")).collect();
        match said.code {
            Some(0) => assert_same_bits(&place.path().join("whole"), &place.path().join("run")),
            Some(1) => {
                assert!(errors.len() == 1 && said.err.ends_with(&format!("{}\n", errors[0])), "{call:?}: {}", said.err)
            }
            other => panic!("{call:?}: {other:?}: {}", said.err),
        }
        ended += said.code.unwrap();
        let _ = fs::remove_dir_all(place.path().join("run"));
    }
    assert!((8..calls.len() as i32).contains(&ended), "{ended} of {} calls ended a run", calls.len());
}
