//! Sums on the host with the bits of the device's.

use crate::error::{Error, Result};
use crate::gpu::{Recorder, Recordings, Step};
use crate::ops::add;
use crate::run::session::Session;

/// How a device adds: to the nearest, and with numbers below 2^-126 or zeros in their place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arithmetic {
    keeps_subnormal: bool,
}

impl Arithmetic {
    /// That of a device, as it adds numbers that tell.
    ///
    /// # Errors
    /// [`Error::Device`] if it adds in a way that hosts don't.
    pub fn of(session: &Session) -> Result<Arithmetic> {
        const LEAST: f32 = f32::MIN_POSITIVE;
        let a = [LEAST / 2.0, 1.5 * LEAST, 1.0, -1.0, -LEAST / 4.0, 3e38, 0.1, -0.0];
        let b = [0.0, -LEAST, 9e-8, -5.9e-8, -LEAST / 4.0, 3e38, 0.2, -0.0];
        let r = &mut Recorder::new();
        let [total, part] = ["total", "part"].map(|name| r.persistent(name, [1, 1, 1, 8]));
        add::accumulate(r, total, part);
        let mut recordings = Recordings::default();
        recordings.push("add", std::mem::take(r).finish());
        let mut own = session.another();
        let plans = own.plan(&recordings)?;
        own.write("total", &a);
        own.write("part", &b);
        own.run(plans.get("add").expect("it is planned"), &Step::default());
        let sums: Vec<u32> = own.read("total")?.iter().take(a.len()).map(|sum| sum.to_bits()).collect();
        let alike = |keeps_subnormal: &bool| {
            let mut here = a;
            Arithmetic { keeps_subnormal: *keeps_subnormal }.add(&mut here, &b);
            here.map(f32::to_bits)[..] == sums[..]
        };
        let keeps_subnormal = [true, false].into_iter().find(alike);
        let keeps_subnormal = keeps_subnormal.ok_or_else(|| {
            let problem = "adds otherwise than IEEE 754 has it: ranks on it have no bits in common";
            Error::Device(format!("{} {problem}", session.context.info.name))
        })?;
        Ok(Arithmetic { keeps_subnormal })
    }

    /// total += part.
    pub fn add(self, total: &mut [f32], part: &[f32]) {
        let flush = |number: f32| if number.is_subnormal() { 0f32.copysign(number) } else { number };
        match self.keeps_subnormal {
            true => total.iter_mut().zip(part).for_each(|(total, part)| *total += part),
            false => total.iter_mut().zip(part).for_each(|(total, part)| *total = flush(flush(*total) + flush(*part))),
        }
    }
}
