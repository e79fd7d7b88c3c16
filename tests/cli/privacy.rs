//! `privacy`: what private training costs.

use super::*;

const LINE: &str = "privacy --images 60000 --batch 4096 --delta 1e-5";

#[test]
fn two_of_noise_steps_and_epsilon_give_the_third() {
    let place = place();
    let said = accepted(place.path(), "privacy --images 10000 --batch 400 --noise 1.5 --steps 2250 --delta 1e-5").out;
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("epsilon 6.7689 by PLD") && lines[1].starts_with("epsilon 7.3294 by RDP"), "{said}");
    for part in ["add/remove", "q 400/10000", "sigma 1.5", "2250 steps", "delta 1e-5"] {
        assert!(lines[..2].iter().all(|line| line.contains(part)), "no {part}: {said}");
    }
    assert!(lines[2].starts_with("padding of ") && lines.len() == 3, "{said}");
    let said = accepted(place.path(), &format!("{LINE} --epsilon 10 --steps 4394")).out;
    assert!(said.starts_with("noise 2.381 by PLD, 2.515 by RDP"), "{said}");
    let object = json(&accepted(place.path(), &format!("{LINE} --epsilon 10 --noise 2.381 --json")));
    assert!(object["steps"].as_u64() >= Some(4394) && object["epsilon"]["pld"].as_f64() <= Some(10.0), "{object}");
    let object = json(&accepted(place.path(), &format!("{LINE} --epsilon 10 --noise 2.381 --places 5000 --json")));
    assert_eq!(object["padding"]["places"], 5000);
    assert!(object["padding"]["delta"].as_f64() < Some(1e-12), "{object}");
}

#[test]
fn accounts_without_sense_are_refused() {
    let place = place();
    for (flags, parts) in [
        ("--noise 1 --steps 10 --epsilon 1", ["two of --noise, --steps and --epsilon"; 2]),
        ("--noise 1", ["two of --noise, --steps and --epsilon"; 2]),
        ("--noise 0 --steps 10", ["noise multiplier of 0", "at least 0.01"]),
        ("--noise NaN --steps 10", ["noise multiplier of NaN"; 2]),
        ("--epsilon -1 --steps 10", ["epsilon of -1", "budget"]),
        ("--epsilon 0.0001 --noise 1", ["one step alone", "--noise"]),
        ("--noise 1 --steps 18446744073709551615", ["steps can't be accounted", "at most"]),
    ] {
        refused(place.path(), &format!("{LINE} {flags}"), &parts);
    }
    for (flags, part) in [
        ("--images 60000 --batch 4096 --delta 1e-4", "above 1/images"),
        ("--images 60000 --batch 4096 --delta 0", "delta of 0"),
        ("--images 60000 --batch 4096 --delta 1e-250", "64-bit"),
        ("--images 10 --batch 40 --delta 1e-5", "at most 1"),
        ("--images 0 --batch 0 --delta 1e-5", "at least 1"),
    ] {
        refused(place.path(), &format!("privacy {flags} --noise 1 --steps 10"), &[part]);
    }
}
