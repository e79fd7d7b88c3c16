//! `plan`: what training on many ranks would take.

use super::*;

const LINE: &str = "plan --model tiny.json --card 4090 --link 10";

#[test]
fn plans_are_refused_in_one_line() {
    let place = place();
    for (line, parts) in [
        ("plan --link 10 --card 4090 --ranks 0", ["--ranks", "1 to 1024"]),
        ("plan --link 10 --card 4090 --ranks 5000", ["--ranks", "not 5000"]),
        ("plan --link 10 --card nonsense --ranks 4", ["no card \"nonsense\"", "AMD Radeon RX 9070 XT"]),
        ("plan --link 10 --card Apple --ranks 4", ["may be one of", "M1 Max"]),
        ("plan --link 0 --card 4090 --ranks 4", ["--link must be above 0", "gigabits"]),
        ("plan --link -1 --card 4090 --ranks 4", ["--link must be above 0", "not -1"]),
        ("plan --link NaN --card 4090 --ranks 4", ["--link must be above 0", "NaN"]),
        ("plan --link inf --card 4090 --ranks 4", ["--link must be above 0", "inf"]),
        ("plan --link 10 --card 4090 --ranks 4 --pcie 0", ["--pcie must be above 0", "gigabytes"]),
        ("plan --link 10 --card 4090 --ranks 4 --latency -1", ["--latency", "microseconds"]),
        ("plan --link 10 --card 4090 --ranks 4 --latency NaN", ["--latency", "NaN"]),
        ("plan --link 10 --card 4090 --ranks 5 --batch 20", ["8 equal shards", "a multiple of 8"]),
        ("plan --link 10 --card 4090 --ranks 4 --batch 0", ["--batch 0", "a multiple of 4"]),
        ("plan --link 10 --card 4090 --ranks 4 --shards 3", ["--shards must be a power of two", "4 to 4096"]),
        ("plan --link 10 --card 4090 --ranks 3 --shards 6", ["--shards must be a power of two", "not 6"]),
        ("plan --link 10 --card 4090 --ranks 4 --shards 5000", ["--shards", "not 5000"]),
        ("plan --link 10 --card 4090 --ranks 4 --preset nonsense", ["no preset nonsense", "mnist"]),
        ("plan --link 10 --card 4090 --ranks 4 --model none.json", ["none.json"; 2]),
    ] {
        refused(place.path(), line, &parts);
    }
    for line in
        ["plan --card 4090 --link 10", "plan --ranks 4 --link 10", "plan --ranks 4 --card 4090", "plan --ranks many"]
    {
        assert_eq!(run(typed(place.path(), line)).code, Some(2), "{line}");
    }
}

#[test]
fn a_plan_doubles_ranks_up_to_those_asked_for() {
    let place = place();
    let table = accepted(place.path(), &format!("{LINE} --ranks 6 --batch 64")).out;
    assert!(table.starts_with("PREDICTION, nothing was measured") && table.contains("10 Gbit/s and 5 µs"), "{table}");
    let first = |line: &str| line.split_whitespace().next().and_then(|word| word.parse().ok());
    let ranks: Vec<u32> = table.lines().filter_map(first).collect();
    assert_eq!(ranks, [1, 2, 4, 6], "{table}");
    // Eight shards on six ranks.
    assert!(
        table
            .lines()
            .last()
            .unwrap()
            .ends_with("8 shards do not divide among them; a power of two of ranks has as many each"),
        "{table}"
    );
    let whole = json(&accepted(place.path(), &format!("{LINE} --ranks 1024 --json")));
    let rows = whole["ranks"].as_array().expect("a list");
    assert_eq!((rows.len(), &whole["batch"]), (11, &(16 * 1024).into()));
    for row in rows {
        let of = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key} of {row}"));
        assert!(of("step_ms") >= of("compute_ms") && of("hidden_ms") <= of("exchange_ms"), "{row}");
        assert!((of("efficiency") * of("ranks") - of("speedup")).abs() < 1e-9, "{row}");
        assert_eq!(of("images_per_rank") * of("ranks"), 16.0 * 1024.0);
    }
    assert_eq!((&rows[0]["exchange_ms"], &rows[0]["efficiency"]), (&0.0.into(), &1.0.into()));
    // A quicker link shortens no less than a slow one.
    let quick =
        json(&accepted(place.path(), &format!("{LINE} --ranks 1024 --link 400 --json").replace("--link 10 ", "")));
    assert!(quick["ranks"][10]["step_ms"].as_f64() < rows[10]["step_ms"].as_f64(), "{quick}");
}

/// The batch from which a plan is efficient is one with which the same plan says so.
#[test]
fn the_batch_that_is_named_is_efficient() {
    let place = place();
    let line = "plan --preset mnist --card 4090 --link 200 --latency 1 --ranks 8 --json";
    let batch = json(&accepted(place.path(), line))["efficient"]["batch"].as_u64().expect("there is one");
    let at = |batch: u64| {
        let plan = json(&accepted(place.path(), &format!("{line} --batch {batch}")));
        plan["ranks"][3]["efficiency"].as_f64().expect("a number")
    };
    assert!(at(batch) >= 0.9 && at(batch / 2) < 0.9, "{batch}");
    // With half precision a card has less to move.
    let step = |precision: &str| {
        let plan = json(&accepted(place.path(), &format!("{line} --precision {precision}")));
        plan["ranks"][0]["step_ms"].as_f64().expect("a number")
    };
    assert!(step("f16") < step("f32"));
}

/// Several processes that nothing joins would all write one run.
#[cfg(not(feature = "mpi"))]
#[test]
fn launched_several_times_without_mpi_is_refused_once() {
    let place = place();
    for (rank, size) in [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")] {
        let launched = |number: &str, count: &str| {
            let mut command = typed(place.path(), "train --data digits --steps 1");
            command.env(rank, number).env(size, count);
            run(command)
        };
        let first = launched("0", "2");
        assert!(
            first.code == Some(1) && first.err.lines().count() == 1 && first.err.contains("--features mpi"),
            "{}",
            first.err
        );
        let second = launched("1", "2");
        assert!(second.code == Some(1) && second.err.is_empty(), "{}", second.err);
    }
    assert!(!place.path().join("runs").exists());
}
