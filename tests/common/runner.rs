//! The runner that cargo was told to use, if any: it brings a driver.

/// Its words.
pub fn words() -> Vec<String> {
    let is_runner = |name: &str| name.starts_with("CARGO_TARGET_") && name.ends_with("_RUNNER");
    let runner = std::env::vars().find(|(name, _)| is_runner(name)).map(|(_, runner)| runner).unwrap_or_default();
    runner.split_whitespace().map(String::from).collect()
}
