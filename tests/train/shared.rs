//! Steps that several ranks share, as threads of this process: the bits of one process, and what a rank that errs gets.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::thread;

use crate::common::{context, dataset, model, options, trainer};
use crate::runs::stand;
use crate::train;
use diffuse::error::Error;
use diffuse::gpu::fault::Fault;
use diffuse::gpu::{Precision, Recording};
use diffuse::nn::{UNet, UNetConfig};
use diffuse::ranks::{Order, Ranks, hear, tell};
use diffuse::run::{Crossing, Metrics, OnDiffer, SentAs, TrainOptions, Trainer};

/// Ranks that are threads.
struct Threads {
    rank: u32,
    shared: Arc<Shared>,
}

struct Shared {
    barrier: Barrier,
    said: Mutex<Vec<Vec<u8>>>,
    /// By sender and receiver.
    mail: Mutex<HashMap<(u32, u32), Letters>>,
    arrived: Condvar,
}

type Letters = VecDeque<Vec<f32>>;

impl Ranks for Threads {
    fn rank(&self) -> u32 {
        self.rank
    }

    fn count(&self) -> u32 {
        self.shared.said.lock().expect("nobody panics with it").len() as u32
    }

    fn local(&self) -> u32 {
        self.rank
    }

    fn on_this_machine(&self) -> u32 {
        self.count()
    }

    fn name(&self, rank: u32) -> String {
        format!("rank {rank}")
    }

    fn broadcast(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.gather(bytes)[0]);
    }

    fn broadcast_on_machine(&self, bytes: &mut [u8]) {
        self.broadcast(bytes);
    }

    fn gather(&self, own: &[u8]) -> Vec<Vec<u8>> {
        self.shared.said.lock().expect("nobody panics with it")[self.rank as usize] = own.to_vec();
        self.shared.barrier.wait();
        let all = self.shared.said.lock().expect("nobody panics with it").clone();
        self.shared.barrier.wait();
        all
    }

    fn gather_numbers(&self, own: &[f32], counts: &[usize], all: &mut [f32]) {
        assert_eq!((own.len(), counts.iter().sum::<usize>()), (counts[self.rank as usize], all.len()));
        bytemuck::cast_slice_mut(all).copy_from_slice(&self.gather(bytemuck::cast_slice(own)).concat());
    }

    fn exchange<'a>(&self, sent: &[(u32, &'a [f32])], received: Vec<(u32, &'a mut [f32])>) {
        for (to, numbers) in sent {
            let mut mail = self.shared.mail.lock().expect("nobody panics with it");
            mail.entry((self.rank, *to)).or_default().push_back(numbers.to_vec());
            self.shared.arrived.notify_all();
        }
        for (from, numbers) in received {
            let mut mail = self.shared.mail.lock().expect("nobody panics with it");
            let came = loop {
                match mail.get_mut(&(from, self.rank)).and_then(VecDeque::pop_front) {
                    Some(came) => break came,
                    None => mail = self.shared.arrived.wait(mail).expect("nobody panics with it"),
                }
            };
            numbers.copy_from_slice(&came);
        }
    }

    fn set_between_orders(&self, _: bool) {}

    fn are_between_orders(&self) -> bool {
        true
    }

    fn abort(&self) -> ! {
        panic!("aborted")
    }
}

/// What became of steps: metrics, or what ended them; and weights, moments and average at each rank.
type Outcome = (Result<Vec<Metrics>, String>, Vec<Vec<Vec<u32>>>);

/// `steps` steps on so many ranks; `prepare` is told each rank and its trainer first.
fn shared(options: &TrainOptions, ranks: u32, steps: u64, prepare: impl Fn(u32, &mut Trainer) + Sync) -> Outcome {
    let said = Mutex::new(vec![Vec::new(); ranks as usize]);
    let shared = Arc::new(Shared {
        barrier: Barrier::new(ranks as usize),
        said,
        mail: Mutex::default(),
        arrived: Condvar::new(),
    });
    let outcomes: Vec<_> = thread::scope(|scope| {
        let rank = |rank| {
            let (own, prepare) = (Threads { rank, shared: shared.clone() }, &prepare);
            scope.spawn(move || {
                let (context, data) = (context(), dataset(9, 3));
                let unet = UNet::new(options.model.clone()).expect("a valid model");
                let mut trainer = trainer(&context, &unet, &data, options);
                trainer.join(&own, Crossing::default()).expect("it can be shared");
                prepare(rank, &mut trainer);
                let metrics = if rank == 0 { lead(&own, &mut trainer, steps) } else { follow(&own, &mut trainer) };
                (metrics, stand(&trainer))
            })
        };
        let threads: Vec<_> = (0..ranks).map(rank).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    let (mut metrics, states): (Vec<_>, Vec<_>) = outcomes.into_iter().unzip();
    (metrics.swap_remove(0), states)
}

fn lead(ranks: &Threads, trainer: &mut Trainer, steps: u64) -> Result<Vec<Metrics>, String> {
    let mut all = Vec::new();
    let mut take = || -> Result<(), Error> {
        for step in 0..steps {
            all.extend(trainer.step(step)?.0);
        }
        all.extend(trainer.finish()?);
        Ok(())
    };
    let taken = take().map_err(|error| error.to_string());
    let traced = match trainer.broken_step() {
        Some(step) => trainer.trace_broken(step).expect("the device works").unwrap_or_default(),
        None => String::new(),
    };
    tell(ranks, Order::End { is_sound: taken.is_ok() });
    taken.map(|()| all).map_err(|error| format!("{error}; {traced}"))
}

fn follow(ranks: &Threads, trainer: &mut Trainer) -> Result<Vec<Metrics>, String> {
    loop {
        match hear(ranks) {
            Order::End { .. } => return Ok(Vec::new()),
            // What is wrong is rank 0's to say.
            order => _ = trainer.follow(order, false),
        }
    }
}

fn alone(options: &TrainOptions, steps: u64) -> Outcome {
    let (context, data) = (context(), dataset(9, 3));
    let unet = UNet::new(options.model.clone()).expect("a valid model");
    let mut trainer = trainer(&context, &unet, &data, options);
    let metrics = train(&mut trainer, steps);
    (Ok(metrics), vec![stand(&trainer)])
}

fn assert_alike(options: &TrainOptions, ranks: &[u32], steps: u64) {
    let (metrics, states) = alone(options, steps);
    for count in ranks {
        let (own, all) = shared(options, *count, steps, |_, _| {});
        assert_eq!(own, metrics, "{count} ranks");
        assert!(all.iter().all(|state| *state == states[0]), "{count} ranks have other bits");
    }
}

#[test]
fn any_number_of_ranks_has_the_bits_of_one_process() {
    for precision in [Precision::F32, Precision::F16] {
        // Two of the steps are audited, and the images of all are streamed.
        let options = TrainOptions { precision, audit_every: 2, stream: Some(true), ..options(5, 2, 4) };
        assert_alike(&options, &[2, 3, 4], 5);
    }
    // The last of an odd number of shards has no neighbour.
    assert_alike(&options(3, 2, 5), &[2, 4], 3);
}

/// A model whose gradients leave in several buckets.
#[test]
fn gradients_that_leave_early_are_the_same() {
    let model = UNetConfig { block_out_channels: vec![64, 96], ..model(3) };
    let unet = UNet::new(model.clone()).expect("a valid model");
    assert!(unet.params.elements > 3 << 18, "too small for buckets: {}", unet.params.elements);
    assert_alike(&TrainOptions { model, ..options(3, 2, 2) }, &[2], 3);
}

/// The dispatch of the optimizer that writes weights, and the binding.
fn writer_of_weights(recording: &Recording) -> (usize, usize) {
    let index = recording.dispatches.iter().position(|dispatch| dispatch.entry == "update").expect("there is one");
    let written = recording.dispatches[index].bindings().position(|(_, binding)| binding.writable);
    (index, written.expect("it writes"))
}

/// Rank `faulty` of them errs in the update of the step behind `after` others.
fn errs(faulty: u32, after: u32) -> impl Fn(u32, &mut Trainer) + Sync {
    move |rank, trainer| {
        if rank == faulty {
            let (dispatch, binding) = writer_of_weights(trainer.recording("update"));
            let fault = Fault { dispatch, binding, word: 5, words: 1, bits: 0.5f32.to_bits(), after, times: 1 };
            trainer.inject("update", fault).expect("room");
        }
    }
}

#[test]
fn a_rank_whose_weights_differ_is_named() {
    let options = TrainOptions { audit_every: 3, ..options(6, 2, 4) };
    let fault = |faulty| errs(faulty, 1);
    for faulty in [0, 2] {
        let (said, _) = shared(&options, 3, 6, fault(faulty));
        let said = said.expect_err("weights differ");
        assert!(said.starts_with(&format!("step 3: the weights of rank {faulty} differ from")), "{said}");
    }
    let (said, _) = shared(&options, 2, 6, fault(1));
    let said = said.expect_err("weights differ");
    assert!(said.starts_with("step 3: no two ranks have the same weights"), "{said}");
}

#[test]
fn a_run_goes_on_without_a_rank_whose_weights_differ() {
    let options = TrainOptions { audit_every: 3, on_differ: OnDiffer::Leave, ..options(8, 2, 4) };
    let (metrics, undisturbed) = alone(&options, 8);
    // It errs in the step that is audited: until then all have the same bits, and the others keep them.
    let (own, states) = shared(&options, 4, 8, errs(2, 2));
    assert_eq!(own, metrics);
    assert!([0, 1, 3].iter().all(|rank| states[*rank] == undisturbed[0]), "those that go on have other bits");
    assert!(states[2] != undisturbed[0], "it went on, too");
    // Rank 0 writes the run, and of two nobody knows which is right.
    for (ranks, faulty) in [(3, 0), (2, 1)] {
        let (said, _) = shared(&options, ranks, 8, errs(faulty, 2));
        assert!(said.expect_err("it can't go on").starts_with("step 3: "));
    }
}

#[test]
fn what_crosses_as_halves_is_the_same_at_all_ranks_and_near() {
    let options = TrainOptions { exchange: SentAs::F16, ..options(6, 2, 4) };
    let (metrics, whole) = alone(&options, 6);
    for ranks in [2, 3] {
        let (own, states) = shared(&options, ranks, 6, |_, _| {});
        assert!(states.iter().all(|state| *state == states[0]), "{ranks} ranks have not the same bits");
        assert!(states[0] != whole[0], "{ranks} ranks: nothing was rounded");
        let (Ok(own), Ok(metrics)) = (&own, &metrics) else { panic!("{own:?}") };
        for (own, whole) in own.iter().zip(metrics) {
            // A gradient is off by 2^-11 of itself at the most, once on its way and once back; a loss hears of that through weights.
            let off = |own: f32, whole: f32| (own / whole - 1.0).abs();
            assert!(off(own.gradient_norm, whole.gradient_norm) < 2e-3, "{own:?} and {whole:?}");
            assert!(off(own.loss, whole.loss) < 1e-3, "{own:?} and {whole:?}");
        }
    }
}

#[test]
fn a_loss_that_is_not_finite_halts_all_ranks_and_names_whose_it_is() {
    let options = options(6, 2, 2);
    let fault = |rank: u32, trainer: &mut Trainer| {
        if rank == 1 {
            let recording = trainer.recording("gradients");
            let dispatch = recording.dispatches.len() / 2;
            let written = recording.dispatches[dispatch].bindings().position(|(_, own)| own.writable && !own.integer);
            let (binding, bits) = (written.expect("it writes"), f32::NAN.to_bits());
            let fault = Fault { dispatch, binding, word: 0, words: 1, bits, after: 2, times: u32::MAX };
            trainer.inject("gradients", fault).expect("room");
        }
    };
    let (said, states) = shared(&options, 2, 6, fault);
    let said = said.expect_err("it broke");
    assert!(said.starts_with("step 3: loss ") && said.contains("; rank 1, "), "{said}");
    let (_, before) = alone(&TrainOptions { steps: 6, ..options.clone() }, 2);
    assert!(states.iter().all(|state| *state == before[0]), "a broken step changed something");
}
