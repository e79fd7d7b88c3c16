//! `watch`, and what other commands show on a terminal alone.

use super::*;

#[test]
fn without_a_terminal_a_run_is_summed_up() {
    let place = place_with_run();
    let said = accepted(place.path(), "watch run none");
    let lines: Vec<&str> = said.out.lines().collect();
    assert_eq!((lines[0], *lines.last().unwrap()), ("run: step 12 of 12 (100 %), done", "none: no run there yet"));
    let metrics = fs::read_to_string(place.path().join("run/metrics.csv")).unwrap();
    let last: Vec<&str> = metrics.lines().last().unwrap().split(',').collect();
    let loss: f64 = last[1].parse().unwrap();
    assert!(lines[1].starts_with(&format!("  loss {loss:.2}")) && lines[1].contains("gradient norm"), "{}", said.out);
    for part in
        ["  loss by noise level, least first: ", "  checkpoint of step 12, mean loss ", "  drew samples/step_0000"]
    {
        assert!(said.out.contains(part), "no {part:?} in {}", said.out);
    }
    assert_eq!(said.err, "");
    refused(place.path(), "watch run tiny.json", &["tiny.json: this is a file; name the directory of a run"]);
}

#[test]
fn a_line_that_is_half_written_waits_for_its_end() {
    let place = place_with_run();
    let path = place.path().join("run/metrics.csv");
    let metrics = fs::read_to_string(&path).unwrap();
    fs::write(&path, metrics.clone() + "nonsense\n13,0.5,1,1e-3,10\n14,0.").unwrap();
    assert!(accepted(place.path(), "watch run").out.starts_with("run: step 13 of 12 (100 %), done\n"));
    fs::write(&path, &metrics[..metrics.rfind("\n12,").unwrap() + 3]).unwrap();
    assert!(accepted(place.path(), "watch run").out.starts_with("run: step 11 of 12 (92 %), "));
}

/// Programs that have a terminal to themselves.
#[cfg(target_os = "linux")]
mod on_a_terminal {
    use std::io::{Read, Write};
    use std::process::{Child, Stdio};
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    use super::*;

    /// A program on a terminal, and what it has shown.
    struct Shown {
        child: Child,
        bytes: Receiver<Vec<u8>>,
        text: String,
    }

    impl Shown {
        /// `diffuse` with the arguments of `line`, on a terminal of that size, in `place`, with more of the environment.
        fn new(place: &Path, line: &str, [columns, rows]: [u16; 2], environment: &str) -> Shown {
            let words = binary::words().join(" ");
            let own = format!("stty columns {columns} rows {rows}; {environment} exec {words} {line} --tune off");
            let mut command = Command::new("script");
            command.args(["--quiet", "--return", "--flush", "--command", &own, "/dev/null"]).current_dir(place);
            command.env("DIFFUSE_CACHE_DIR", place.join("cache")).env("NODEVICE_SELECT", "1").env_remove("NO_COLOR");
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).env("TERM", "xterm").env("COLORTERM", "truecolor");
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script of util-linux");
            let mut out = child.stdout.take().expect("a pipe");
            let (send, bytes) = channel();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = out.read(&mut buffer) {
                    if send.send(buffer[..count].to_vec()).is_err() {
                        break;
                    }
                }
            });
            Shown { child, bytes, text: String::new() }
        }

        /// Waits until that was shown: one word, for where a line has a space nothing is written.
        #[track_caller]
        fn wait_for(&mut self, part: &str) {
            let begun = Instant::now();
            while !self.text.contains(part) {
                assert!(begun.elapsed() < PATIENCE, "no {part:?} in {:?}", self.text);
                if let Ok(bytes) = self.bytes.recv_timeout(Duration::from_millis(100)) {
                    self.text += &String::from_utf8_lossy(&bytes);
                }
            }
        }

        fn press(&mut self, keys: &str) {
            let input = self.child.stdin.as_mut().expect("a pipe");
            input.write_all(keys.as_bytes()).and_then(|()| input.flush()).expect("it reads");
        }

        /// All that it showed until it ended well.
        #[track_caller]
        fn end(mut self) -> String {
            let begun = Instant::now();
            let status = loop {
                if let Some(status) = self.child.try_wait().expect("a child") {
                    break status;
                }
                assert!(begun.elapsed() < PATIENCE, "it does not end: {:?}", self.text);
                std::thread::sleep(Duration::from_millis(50));
            };
            self.bytes.iter().for_each(|bytes| self.text += &String::from_utf8_lossy(&bytes));
            assert!(status.success() && !self.text.contains("panicked"), "{status}: {:?}", self.text);
            std::mem::take(&mut self.text)
        }
    }

    /// One that failed leaves nobody behind who waits for a key.
    impl Drop for Shown {
        fn drop(&mut self) {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }

    const ENTER: &str = "\x1b[?1049h";
    const LEAVE: &str = "\x1b[?1049l";

    #[test]
    fn a_run_is_shown_until_a_key_ends_it_and_the_terminal_is_as_it_was() {
        let place = place_with_run();
        for key in ["q", "\x1b", "\x03"] {
            let mut shown = Shown::new(place.path(), "watch run", [80, 24], "");
            shown.wait_for("noise");
            shown.wait_for("checkpoint");
            assert!(shown.text.starts_with(ENTER), "{:?}", shown.text);
            shown.press(key);
            let all = shown.end();
            let left = all.rfind(LEAVE).expect("it leaves");
            assert!(all[left..].contains("\x1b[?25h"), "the cursor is there again: {:?}", &all[left..]);
        }
    }

    #[test]
    fn a_run_that_comes_later_is_waited_for_and_followed() {
        let place = place_with_run();
        fs::rename(place.path().join("run"), place.path().join("other")).unwrap();
        let mut shown = Shown::new(place.path(), "watch run", [80, 24], "");
        shown.wait_for("waiting");
        copy(&place.path().join("other"), &place.path().join("run"));
        shown.wait_for("noise");
        let line = "4013,0.5,1,1e-3,10,,,,,,,,\n";
        let file = fs::OpenOptions::new().append(true).open(place.path().join("run/metrics.csv"));
        file.and_then(|mut file| file.write_all(line.as_bytes())).unwrap();
        shown.wait_for("4013");
        shown.press("q");
        shown.end();
    }

    #[test]
    fn a_signal_leaves_the_terminal_as_it_was() {
        let place = place_with_run();
        let mut shown = Shown::new(place.path(), "watch run", [80, 24], "echo $$ > id;");
        shown.wait_for("noise");
        let id = fs::read_to_string(place.path().join("id")).unwrap();
        assert!(Command::new("kill").args(["-TERM", id.trim()]).status().expect("kill").success());
        assert!(shown.end().contains(LEAVE));
    }

    /// Whether a process is there and has not ended.
    fn is_running(id: &str) -> bool {
        let state = fs::read_to_string(format!("/proc/{id}/stat"));
        state.is_ok_and(|state| !state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    }

    #[test]
    fn who_watches_ends_with_the_terminal() {
        let place = place_with_run();
        let mut shown = Shown::new(place.path(), "watch run", [80, 24], "echo $$ > id;");
        shown.wait_for("noise");
        let id = fs::read_to_string(place.path().join("id")).unwrap().trim().to_string();
        assert!(is_running(&id));
        // The terminal is gone with the program that gave it.
        shown.child.kill().expect("it runs");
        let begun = Instant::now();
        while is_running(&id) {
            assert!(begun.elapsed() < PATIENCE, "it waits for a terminal that is gone");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn samples_are_drawn_into_a_terminal_as_wide_as_it_is() {
        let place = place_with_run();
        let line = "sample run --count 3 --steps 1";
        let halves = |columns: u16, environment: &str| {
            let shown = Shown::new(place.path(), line, [columns, 24], environment).end();
            assert!(!shown.contains(ENTER), "{shown:?}");
            let widest = shown.lines().map(|line| line.matches(['▀', '▄', '░', '▒', '▓', '█']).count()).max();
            (widest.unwrap_or_default(), shown.contains("\x1b[38;2;"))
        };
        // Images of 8 x 8 pixels, a column apart: three, two, and none that could be told.
        assert_eq!(halves(80, ""), (24, true));
        assert_eq!(halves(20, ""), (16, true));
        let (_, is_colored) = halves(80, "NO_COLOR=1");
        assert!(!is_colored);
        let shown = Shown::new(place.path(), &format!("{line} --json"), [80, 24], "").end();
        assert!(!shown.contains('▀') && shown.contains("\"count\":3"), "{shown:?}");
        assert_eq!(accepted(place.path(), line).out, "", "no terminal");
    }

    #[test]
    fn a_run_shows_more_of_itself_on_a_terminal_alone() {
        let place = place();
        let line = "train --data digits --model tiny.json --steps 30 --batch 4 --sample-every 0 --live --out";
        let shown = Shown::new(place.path(), &format!("{line} one"), [80, 24], "").end();
        assert!(shown.contains("by noise ") && shown.contains("images/s "), "{shown:?}");
        let said = accepted(place.path(), &format!("{line} other"));
        assert!(!said.err.contains("by noise ") && said.err.contains("trained 30 steps"), "{}", said.err);
    }
}
