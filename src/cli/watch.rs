//! `diffuse watch`: runs on a terminal, out of their files.

mod panel;
mod screen;
mod summary;
mod view;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event};

use super::half_blocks::Colors;
use diffuse::train::{News, Standing};
use panel::Look;
use screen::Screen;
use view::{Smoothing, View};

/// Watch runs on a terminal: losses, samples, how long is left
///
/// Any run directory, under way, ended or not there yet. q, Esc or Ctrl-C end it, Tab goes to the next of several runs, Enter shows one or
/// all, s and S smooth more and less. Where stdout is no terminal it says in a few lines how the runs stand, and ends.
#[derive(clap::Args)]
pub struct Args {
    /// Directories of runs
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
}

/// How often files are looked at, and how often what tells the time is drawn.
const LOOK_EVERY: Duration = Duration::from_millis(400);
const DRAW_EVERY: Duration = Duration::from_secs(1);

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let views = args.runs.iter().map(|run| View::new(run)).collect::<Result<Vec<View>>>()?;
    let is_dumb = std::env::var("TERM").is_ok_and(|terminal| terminal == "dumb");
    if is_dumb || !std::io::stdout().is_terminal() {
        return say(views);
    }
    // What ends a program otherwise ends the loop, so that the terminal is as it was. Of one that hung up crossterm 0.29 reads the end
    // again and again, and its wait never ends.
    super::interrupt::catch_or_end(|| _ = ratatui::try_restore());
    let look = Look { smoothing: Smoothing::default(), colors: Colors::of_terminal() };
    // It also restores the terminal when something panics.
    let begun = ratatui::try_init().inspect_err(|_| _ = ratatui::try_restore());
    let mut terminal = begun.context("this terminal")?;
    let ended = follow(&mut terminal, &mut Screen::new(views, look));
    let restored = ratatui::try_restore();
    ended.context("this terminal")?;
    restored.context("this terminal")
}

fn say(mut views: Vec<View>) -> Result<()> {
    views.iter_mut().for_each(|view| while view.look() == News::More {});
    let texts: Vec<String> = views.iter().map(|view| summary::text(&view.monitor)).collect();
    super::output::print(&texts.join("\n"))
}

/// Shows what comes until a key or a signal ends it.
fn follow(terminal: &mut DefaultTerminal, screen: &mut Screen) -> std::io::Result<()> {
    let mut drawn: Option<Instant> = None;
    while !super::interrupt::interrupted() {
        let news: Vec<News> = screen.views.iter_mut().map(View::look).collect();
        // Of a run that is under way it says since when nothing was heard.
        let tells_time = screen.views.iter().any(|view| view.monitor.standing() == Standing::UnderWay);
        let is_old = drawn.is_none_or(|drawn| tells_time && drawn.elapsed() >= DRAW_EVERY);
        if is_old || news.iter().any(|news| *news != News::None) {
            terminal.draw(|frame| screen.draw(frame))?;
            drawn = Some(Instant::now());
        }
        let mut wait = if news.contains(&News::More) { Duration::ZERO } else { LOOK_EVERY };
        while event::poll(wait)? {
            match event::read()? {
                Event::Key(key) if !screen.press(key) => return Ok(()),
                _ => drawn = None,
            }
            wait = Duration::ZERO;
        }
    }
    Ok(())
}
